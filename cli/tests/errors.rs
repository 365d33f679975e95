//! Failures tell what, where, why and what next. Their texts are kept in golden/; `VCB_BLESS=1` rewrites them.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use support::{Ran, World};

/// Compares what was printed on stderr with golden/NAME.txt, in which separators and the system's own words are
/// Linux'.
fn golden(world: &World, name: &str, ran: &Ran) {
    let real = world.dir.path().canonicalize().unwrap();
    let text = ran.stderr().replace(real.to_str().unwrap(), "$DIR").replace(world.dir.path().to_str().unwrap(), "$DIR");
    let missing = std::io::Error::from_raw_os_error(2).to_string();
    let text = text.replace(std::path::MAIN_SEPARATOR, "/").replace(&missing, "No such file or directory (os error 2)");
    let text = format!("$ vcbmount {}\n{text}exit {}\n", ran.args, ran.exit());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.txt"));
    if std::env::var_os("VCB_BLESS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, expected, "{} (VCB_BLESS=1 rewrites it)", file.display());
    assert_eq!(ran.stdout(), "");
}

/// A VM with one flat disk of zeros and no filesystem, written by hand.
fn plain_vm(world: &World) {
    world.write("vm/a.vmx", "displayName = \"A\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"a.vmdk\"\n");
    world.write(
        "vm/a.vmdk",
        "# Disk DescriptorFile\nversion=1\nCID=11111111\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
         RW 2048 FLAT \"a-flat.vmdk\" 0\nddb.adapterType = \"lsilogic\"\n",
    );
    world.write("vm/a-flat.vmdk", vec![0; 2048 * 512]);
}

#[test]
fn configuration_errors() {
    let world = World::new();
    world.write("bad-key.toml", "[mount]\nmode = \"file\"\nuidd = 3\n");
    golden(&world, "config-unknown-key", &world.run(&["--config", "bad-key.toml", "config", "show"]));
    world.write("bad-value.toml", "[mount]\nmode = \"files\"\n");
    golden(&world, "config-bad-value", &world.run(&["--config", "bad-value.toml", "config", "show"]));
    golden(&world, "config-missing", &world.run(&["--config", "none.toml", "config", "show"]));
}

#[test]
fn lookup_errors() {
    let world = World::new();
    golden(&world, "spec-unknown-key", &world.run(&["info", "nmae:web01"]));
    golden(&world, "spec-missing-path", &world.run(&["info", "vms/none"]));
    golden(&world, "lookup-nothing-configured", &world.run(&["info", "name:web01"]));
    plain_vm(&world);
    world.write("ds/vm1/a.vmx", "displayName = \"twin\"\n");
    world.write("ds/vm2/b.vmx", "displayName = \"twin\"\n");
    world.configure("ds", &world.path("ds"));
    golden(&world, "lookup-ambiguous", &world.run(&["info", "name:twin"]));
    golden(&world, "lookup-not-found", &world.run(&["info", "name:none"]));
    golden(&world, "lookup-no-datastore", &world.run(&["info", "[ds2] vm1/a.vmx"]));
    golden(&world, "lookup-needs-server", &world.run(&["list", "moref:vm-1"]));
    golden(&world, "folder-without-vm", &world.run(&["info", "home"]));
}

#[test]
fn state_errors() {
    let world = World::new();
    plain_vm(&world);
    golden(&world, "snapshot-none", &world.run(&["info", "vm", "--read-existing", "x"]));
    world.write("vm/a.vmsd", "snapshot0.uid = \"1\"\nsnapshot0.displayName = \"before\"\n");
    golden(&world, "snapshot-not-found", &world.run(&["info", "vm", "--read-existing", "x"]));
    golden(&world, "disk-not-found", &world.run(&["info", "vm", "--disk", "scsi0:9"]));
    std::fs::create_dir(world.path("vm/a.vmx.lck")).unwrap();
    golden(&world, "vm-running", &world.run(&["info", "vm"]));
    assert_eq!(world.run(&["info", "vm", "--live"]).exit(), 0);
}

#[test]
fn disk_errors() {
    let world = World::new();
    plain_vm(&world);
    world.write(
        "vm/child.vmdk",
        "# Disk DescriptorFile\nversion=1\nCID=22222222\nparentCID=33333333\ncreateType=\"monolithicFlat\"\n\
         parentFileNameHint=\"a.vmdk\"\nRW 2048 FLAT \"a-flat.vmdk\" 0\n",
    );
    golden(&world, "disk-cid-mismatch", &world.run(&["info", "--live", "vm/child.vmdk"]));
    world.write(
        "vm/escape.vmdk",
        "# Disk DescriptorFile\nversion=1\nCID=22222222\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
         RW 2048 FLAT \"../secret\" 0\n",
    );
    world.write("secret", vec![1; 2048 * 512]);
    golden(&world, "disk-escape", &world.run(&["info", "--live", "vm/escape.vmdk"]));
    std::fs::remove_file(world.path("vm/a-flat.vmdk")).unwrap();
    golden(&world, "disk-missing-extent", &world.run(&["info", "vm"]));
    world.write("noise.vmdk", vec![0x5a; 4096]);
    golden(&world, "disk-noise", &world.run(&["info", "noise.vmdk"]));
}

#[test]
fn failures_as_json_are_one_object() {
    let world = World::new();
    let ran = world.run(&["--json", "info", "vms/none"]);
    assert_eq!(ran.exit(), 10);
    let value: serde_json::Value = serde_json::from_str(&ran.stderr()).unwrap();
    assert_eq!((value["error"]["code"].as_str(), value["error"]["exit"].as_u64()), (Some("E110"), Some(10)));
}

#[test]
fn malformed_disks_exit_with_4() {
    let world = World::new();
    for name in [
        "trivy-aws-head-2049.vmdk",
        "ttylinux-truncated.ova",
        "vmdk-invalid.img",
        "vmdk-rs-delta-missing/vmfs_thick-000001.vmdk",
    ] {
        let Some(path) = vcb_fixtures::corpus(&format!("malformed/{name}")) else { return };
        for command in ["info", "check"] {
            let ran = world.run(&[command, path.to_str().unwrap()]);
            assert_eq!(ran.exit(), 4, "{command} {name}: {}{}", ran.stdout(), ran.stderr());
        }
    }
}
