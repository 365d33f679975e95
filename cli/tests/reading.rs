//! info, list, ls, cat, cp, export and check on a VM with a disk that Windows has made.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;

use support::{World, assert_private, run};
use vcb_fixtures::need_tool;

/// Content of a file on an NTFS image at `offset`, by the Sleuth Kit.
fn icat(image: &Path, offset: u64, name: &str) -> Vec<u8> {
    let sectors = (offset / 512).to_string();
    let list = Command::new("fls").args(["-o", &sectors, "-r", "-p"]).arg(image).output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let line = list.lines().find(|line| line.ends_with(&format!(":\t{name}"))).unwrap_or_else(|| panic!("{list}"));
    let inode = line.split_whitespace().nth(1).unwrap().trim_end_matches(':');
    Command::new("icat").args(["-o", &sectors]).arg(image).arg(inode).output().unwrap().stdout
}

#[test]
fn info_tells_chain_and_volumes() {
    let world = World::new();
    if world.vm().is_none() {
        return;
    }
    let text = world.ok(&["info", "vms/web01"]);
    for part in ["Web 01", "web01-000001.vmdk", "web01.vmdk", "monolithicFlat", "volume 1:", "ntfs 'test_disk'"] {
        assert!(text.contains(part), "no {part} in:\n{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&world.ok(&["info", "--json", "vms/web01"])).unwrap();
    assert_eq!(json["uuid"], "564d0a1b-2c3d-4e5f-6071-8293a4b5c6d7");
    let disk = &json["disks"][0];
    assert_eq!((disk["node"].as_str(), disk["size"].as_u64()), (Some("scsi0:0"), Some(10 << 20)));
    assert_eq!(disk["chain"].as_array().unwrap().len(), 2);
    assert_eq!(disk["volumes"][0]["filesystem"], "ntfs");
    assert_eq!(disk["volumes"][0]["start"], 0x10000);
    let before: serde_json::Value =
        serde_json::from_str(&world.ok(&["info", "--json", "vms/web01", "--read-existing", "before"])).unwrap();
    assert_eq!(before["disks"][0]["chain"].as_array().unwrap().len(), 1);
    assert_eq!(before["disks"][0]["file"], "web01.vmdk");
}

#[test]
fn every_listed_line_is_a_specification() {
    let world = World::new();
    if world.vm().is_none() {
        return;
    }
    world.write("vms/other/other.vmx", "displayName = \"Other\"\n");
    world.configure("ds 1", &world.path("vms"));
    let listing = world.ok(&["list"]);
    assert_eq!(
        listing,
        "name:Other\npath:[ds 1] other/other.vmx\n\
         name:Web 01\nuuid:564d0a1b-2c3d-4e5f-6071-8293a4b5c6d7\npath:[ds 1] web01/web01.vmx\n"
    );
    for line in listing.lines() {
        let again = world.ok(&["list", line]);
        assert!(again.contains(line), "{line}: {again}");
        assert_eq!(again.matches("name:").count(), 1, "{line}");
    }
    assert!(world.ok(&["info", "UUID:{564D0A1B-2C3D-4E5F-6071-8293A4B5C6D7}"]).starts_with("Web 01\n"));
    // A host path inside a datastore is that datastore's.
    assert!(world.ok(&["info", "vms/web01"]).contains("[ds 1] web01/web01-000001.vmdk"));
    let json = world.ok(&["--json", "list", "name:Other"]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&json).unwrap(),
        serde_json::json!({"name": "Other", "uuid": null, "moref": null, "ipaddr": null, "path": "[ds 1] other/other.vmx",
            "refusals": []})
    );
}

#[test]
fn a_datastore_that_is_away_is_named_and_the_others_are_listed() {
    let world = World::new();
    world.write("ds/a/a.vmx", "displayName = \"A\"\n");
    let text = format!(
        "[[datastore]]\nname = \"gone\"\npath = '{0}/gone'\n[[datastore]]\nname = \"ds\"\npath = '{0}/ds'\n",
        world.dir.path().display()
    );
    world.write("home/.config/vcbmount/config.toml", text);
    let ran = world.run(&["list"]);
    assert_eq!((ran.exit(), ran.stdout().as_str()), (3, "name:A\npath:[ds] a/a.vmx\n"));
    assert!(ran.stderr().contains("datastore 'gone'"), "{}", ran.stderr());
    assert_eq!(world.run(&["doctor"]).stdout().matches("datastore gone").count(), 1);
}

#[test]
fn files_are_reached_without_a_mount() {
    let world = World::new();
    let Some(vm) = world.vm() else { return };
    if !need_tool("icat") {
        return;
    }
    assert!(world.ok(&["ls", "vms/web01"]).starts_with("1:  ntfs"));
    let root = world.ok(&["ls", "vms/web01", "1:/"]);
    assert!(root.contains("partition_type.rs") && !root.contains("$MFT"), "{root}");
    assert!(world.ok(&["ls", "--metafiles", "vms/web01", "1:/"]).contains("$MFT"));
    assert!(world.ok(&["ls", "-R", "vms/web01", "1:/"]).contains("vmdk/"));

    let expected = icat(&vm.join("web01-flat.vmdk"), 0x10000, "partition_type.rs");
    assert_eq!(expected.len(), 10916);
    for path in ["1:/partition_type.rs", "1:/PARTITION_TYPE.RS"] {
        assert!(world.run(&["cat", "vms/web01", path]).output.stdout == expected, "{path}");
    }
    world.ok(&["cp", "vms/web01", "1:/partition_type.rs", "copy.rs"]);
    assert!(std::fs::read(world.path("copy.rs")).unwrap() == expected);
    world.run(&["cp", "vms/web01", "1:/partition_type.rs", "copy.rs"]).failed_with(1, "E100");
    world.ok(&["cp", "-f", "vms/web01", "1:/partition_type.rs", "copy.rs"]);
    world.run(&["cp", "vms/web01", "1:/vmdk", "copy"]).failed_with(2, "E103");
    world.ok(&["cp", "-r", "vms/web01", "1:/", "tree"]);
    assert!(std::fs::read(world.path("tree/partition_type.rs")).unwrap() == expected);
    assert_eq!(std::fs::metadata(world.path("tree/partition_type.rs")).unwrap().modified().unwrap(), {
        std::fs::metadata(world.path("copy.rs")).unwrap().modified().unwrap()
    });

    world.run(&["cat", "vms/web01", "1:/none"]).failed_with(1, "E114");
    world.run(&["cat", "vms/web01", "2:/none"]).failed_with(1, "E114");
    world.run(&["ls", "vms/web01", "C:/"]).failed_with(2, "E103");
}

#[test]
fn files_of_a_datastore_are_reached_by_their_names() {
    let world = World::new();
    world.write("ds/a b/a.vmx", "displayName = \"A\"\n");
    world.configure("ds", &world.path("ds"));
    assert!(world.ok(&["ls", "[ds] a b"]).ends_with("a.vmx\n"));
    assert_eq!(world.ok(&["cat", "[ds] a b/a.vmx"]), "displayName = \"A\"\n");
    world.ok(&["cp", "[ds] a b/a.vmx", "."]);
    assert_eq!(std::fs::read(world.path("a.vmx")).unwrap(), b"displayName = \"A\"\n");
    assert_eq!(world.run(&["cat", "[ds] ../home"]).exit(), 4);
}

#[test]
fn exports_equal_what_qemu_reads() {
    let world = World::new();
    let Some(vm) = world.vm() else { return };
    let leaf = vm.join("web01-000001.vmdk");
    let leaf = leaf.to_str().unwrap();
    for (format, kind) in [("raw", "raw"), ("vmdk", "vmdk"), ("stream-vmdk", "vmdk")] {
        let text = world.ok(&["export", "vms/web01", "--to", "out", "--format", format]);
        assert!(text.starts_with("out: 10.0 MiB of which "), "{text}");
        run("qemu-img", &["compare", "-f", "vmdk", "-F", kind, leaf, "out"], world.dir.path());
        world.run(&["export", "vms/web01", "--to", "out"]).failed_with(2, "E103");
        std::fs::remove_file(world.path("out")).unwrap();
    }
    let left: Vec<_> = std::fs::read_dir(world.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("partial")), "{left:?}");
}

#[test]
fn check_finds_nothing_in_a_good_chain_and_the_offset_in_a_damaged_one() {
    let world = World::new();
    let Some(vm) = world.vm() else { return };
    assert_eq!(world.ok(&["check", "vms/web01"]), "disk 1 checked, 0 findings\n");
    // The first grain directory entry of the delta leads past the end of the file.
    let delta = vm.join("web01-000001.vmdk");
    let mut bytes = std::fs::read(&delta).unwrap();
    let directory = u64::from_le_bytes(bytes[56..64].try_into().unwrap()) as usize * 512;
    bytes[directory..directory + 4].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    let redundant = u64::from_le_bytes(bytes[48..56].try_into().unwrap()) as usize * 512;
    bytes[redundant..redundant + 4].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    std::fs::write(&delta, bytes).unwrap();
    let ran = world.run(&["check", "vms/web01"]);
    assert_eq!(ran.exit(), 4, "{}", ran.stdout());
    assert!(ran.stdout().contains("error: web01-000001.vmdk at 0x"), "{}", ran.stdout());
}

#[test]
fn vcb_configuration_is_imported_and_its_password_kept_apart() {
    let world = World::new();
    world.write("config.js", "HOST=\"vc\";\nUSERNAME=\"u\";\nPASSWORD=\"geheim\";\nVM_LOOKUP_METHOD=\"ipaddr\";\n");
    let ran = world.run(&["config", "import", "config.js"]);
    assert_eq!(ran.exit(), 0);
    assert!(ran.stdout().contains("host = \"vc\"") && ran.stdout().contains("lookup = \"ipaddr\""), "{}", ran.stdout());
    assert!(!ran.stdout().contains("geheim") && !ran.stderr().contains("geheim"));
    let secret = world.path("secret");
    let text = world.ok(&["config", "import", "config.js", "--password-file", secret.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "geheim\n");
    assert_private(&secret);
    let file = world.write("imported.toml", text);
    assert!(world.ok(&["--config", file.to_str().unwrap(), "config", "show"]).contains("secret"));
}
