//! mount, umount, run, sessions and cleanup with the real binary and real mounts.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::{World, can_mount, mount, run};
use vcb_fixtures::{Ntfs3g, corpus, need_tool};

fn is_mounted(path: &Path) -> bool {
    fs::read_to_string("/proc/mounts").unwrap().contains(&format!(" {} ", path.display()))
}

/// Every file and folder below `root` with size and SHA-256, by tools that are not ours.
fn tree(root: &Path) -> String {
    let list = "find . -printf '%y %s %P\\n' | grep -v '^d ' | sort; find . -type d | sort; \
                find . -type f -print0 | sort -z | xargs -0 sha256sum";
    run("sh", &["-c", list], root)
}

#[test]
fn one_disk_in_every_format_gives_one_tree_and_it_is_what_ntfs_3g_shows() {
    let world = World::new();
    let formats =
        ["monolithicFlat", "twoGbMaxExtentFlat", "monolithicSparse", "twoGbMaxExtentSparse", "streamOptimized"];
    let Some(folder) = corpus("vmdk/vmdk-rs") else { return };
    if !can_mount() || !["xz", "ntfs-3g", "qemu-img"].iter().all(|tool| need_tool(tool)) {
        return;
    }
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        match name.strip_suffix(".xz") {
            Some(name) => {
                let unpacked = Command::new("xz").arg("-dkc").arg(&path).output().unwrap();
                world.write(&format!("disks/{name}"), unpacked.stdout);
            }
            None => drop(world.write(&format!("disks/{name}"), fs::read(&path).unwrap())),
        }
    }
    // Its extent is the same bytes as those of the monolithicFlat disk, and so kept only once.
    let flat = world.path("disks/monolithicFlat-flat.vmdk");
    let f001 = world.path("disks/twoGbMaxExtentFlat-f001.vmdk");
    if !f001.exists() {
        fs::copy(&flat, &f001).unwrap();
    }
    let volume = world.path("volume");
    let bytes = fs::read(&flat).unwrap();
    fs::write(&volume, &bytes[0x10000..]).unwrap();
    let Some(judge) = Ntfs3g::mount(&volume, &world.path("judge"), "ro") else { return };
    let expected = tree(judge.at());
    drop(judge);
    assert!(expected.contains("partition_type.rs"));
    for format in formats {
        let disk = format!("disks/{format}.vmdk");
        let guard = mount(&world, &["--vm", &disk], format);
        assert_eq!(tree(&guard.1.join("digits/1")), expected, "{format}");
    }
}

#[test]
fn a_three_link_chain_is_exact_as_files_and_as_an_image() {
    let world = World::new();
    let Some(vm) = world.vm() else { return };
    if !can_mount() || !need_tool("qemu-io") {
        return;
    }
    run("qemu-img", &["create", "-q", "-f", "vmdk", "-b", "web01-000001.vmdk", "-F", "vmdk", "web01-000002.vmdk"], &vm);
    // Behind the volume, so that the files stay what they are and the disk does not.
    run("qemu-io", &["-f", "vmdk", "-c", "write -P 0x5a 10420224 65536", "web01-000002.vmdk"], &vm);
    let vmx = fs::read_to_string(vm.join("web01.vmx")).unwrap();
    fs::write(vm.join("web01.vmx"), vmx.replace("000001", "000002")).unwrap();

    let files = mount(&world, &["--vm", "path:vms/web01", "--mode", "file"], "files");
    let images = mount(&world, &["--vm", "path:vms/web01", "--mode", "fullvm"], "images");
    let before = mount(&world, &["--vm", "path:vms/web01", "--mode", "fullvm", "--read-existing", "before"], "before");
    assert!(files.1.join("digits/1/partition_type.rs").is_file());
    for (image, disk) in [(&images.1, "web01-000002.vmdk"), (&before.1, "web01.vmdk")] {
        let descriptor = fs::read_dir(image).unwrap().map(|entry| entry.unwrap().path()).find(|path| {
            let name = path.to_str().unwrap();
            name.ends_with(".vmdk") && !name.ends_with("-flat.vmdk")
        });
        let descriptor = descriptor.unwrap();
        assert!(run("qemu-img", &["info", descriptor.to_str().unwrap()], &vm).contains("file format: vmdk"));
        run("qemu-img", &["compare", "-f", "vmdk", "-F", "vmdk", descriptor.to_str().unwrap(), disk], &vm);
    }
    let sessions = world.ok(&["sessions"]);
    assert_eq!(sessions.lines().filter(|line| line.contains("mounted")).count(), 3, "{sessions}");
    let json = world.ok(&["--json", "sessions"]);
    assert!(json.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
}

#[test]
fn unmounting_leaves_nothing_and_may_be_repeated() {
    let world = World::new();
    if world.vm().is_none() || !can_mount() {
        return;
    }
    let guard = mount(&world, &["--vm", "vms/web01"], "made/by/us");
    let at = guard.1.to_str().unwrap().to_owned();
    assert!(is_mounted(&guard.1));
    for _ in 0..2 {
        assert_eq!(world.ok(&["umount", &at]), "");
    }
    assert!(!is_mounted(&guard.1) && !world.path("made").exists());
    assert_eq!(world.ok(&["sessions"]), "");
    world.run(&["umount", "0123456789"]).failed_with(10, "E304");
}

#[test]
fn mount_points_that_are_not_ours_to_use_are_refused() {
    let world = World::new();
    if world.vm().is_none() || !can_mount() {
        return;
    }
    world.write("full/precious", "x");
    world.write("file", "x");
    for at in ["full", "file", "/proc"] {
        world.run(&["mount", "--vm", "vms/web01", "--at", at]).failed_with(1, "E300");
    }
    assert_eq!(fs::read(world.path("full/precious")).unwrap(), b"x");
    assert_eq!(world.ok(&["sessions"]), "");
    let guard = mount(&world, &["--vm", "vms/web01"], "taken");
    let at = guard.1.to_str().unwrap();
    world.run(&["mount", "--vm", "vms/web01", "--at", at]).failed_with(11, "E301");
    assert_eq!(world.ok(&["mount", "--vm", "vms/web01", "--at", at, "--preexisting", "reuse"]), format!("{at}\n"));
    assert_eq!(world.ok(&["mount", "--vm", "vms/web01", "--at", at, "--preexisting", "delete"]), format!("{at}\n"));
    assert_eq!(world.ok(&["sessions"]).lines().count(), 1);
}

#[test]
fn a_killed_server_is_noticed_and_put_right() {
    let world = World::new();
    if world.vm().is_none() || !can_mount() {
        return;
    }
    let guard = mount(&world, &["--vm", "vms/web01"], "at");
    let json: serde_json::Value = serde_json::from_str(&world.ok(&["--json", "sessions"])).unwrap();
    let pid = json["server"]["pid"].as_u64().unwrap();
    run("kill", &["-9", &pid.to_string()], world.dir.path());
    let limit = Instant::now() + Duration::from_secs(20);
    while is_mounted(&guard.1) {
        assert!(Instant::now() < limit, "the watcher does not unmount");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(world.ok(&["sessions"]).contains("  dead  "));
    assert!(world.ok(&["cleanup", "--dry-run"]).starts_with("would clean"));
    assert!(world.ok(&["sessions"]).contains("  dead  "));
    assert_eq!(world.run(&["umount", guard.1.to_str().unwrap()]).exit(), 0);
    assert_eq!(world.ok(&["sessions"]), "");
    assert_eq!(world.ok(&["cleanup"]), "");
    assert!(!guard.1.exists());
}

#[test]
fn run_gives_the_command_its_mount_and_takes_its_exit_code() {
    let world = World::new();
    if world.vm().is_none() || !can_mount() {
        return;
    }
    let script = "test \"$1\" = \"$VCB_MOUNT\" && test -f \"$1/digits/1/partition_type.rs\" && echo \"$1\"; exit 7";
    let ran = world.run(&["run", "--vm", "vms/web01", "--", "sh", "-c", script, "sh", "{}"]);
    assert_eq!(ran.exit(), 7, "{}", ran.stderr());
    let at = PathBuf::from(ran.stdout().trim_end());
    assert!(at.starts_with(world.path("state")) && !at.exists(), "{}", at.display());
    assert_eq!(world.run(&["run", "--vm", "vms/web01", "--", "true"]).exit(), 0);
    let ran = world.run(&["run", "--vm", "vms/web01", "--", "no-such-command"]);
    assert_eq!(ran.exit(), 1);
    assert!(ran.stderr().contains("E100: cannot run no-such-command"), "{}", ran.stderr());
    assert_eq!(world.ok(&["sessions"]), "");
}

#[test]
fn an_interrupted_run_unmounts() {
    let world = World::new();
    if world.vm().is_none() || !can_mount() {
        return;
    }
    let mut child = world.command(&["run", "--vm", "vms/web01", "--", "sleep", "60"]).spawn().unwrap();
    let limit = Instant::now() + Duration::from_secs(30);
    while !world.ok(&["sessions"]).contains("mounted") {
        assert!(Instant::now() < limit);
        std::thread::sleep(Duration::from_millis(50));
    }
    run("kill", &["-INT", &child.id().to_string()], world.dir.path());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(world.ok(&["sessions"]), "");
}

#[test]
fn a_damaged_disk_is_not_mounted_and_leaves_nothing() {
    let world = World::new();
    if !can_mount() {
        return;
    }
    world.write("noise.vmdk", vec![0x5a; 4096]);
    world.run(&["mount", "--vm", "noise.vmdk", "--at", "at"]).failed_with(4, "E201");
    assert!(!world.path("at").exists());
    assert_eq!(world.ok(&["sessions"]), "");
    assert_eq!(fs::read_dir(world.path("state/sessions")).unwrap().count(), 0);
}
