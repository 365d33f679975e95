//! The wrappers of docs/integrations, run with the software they are for.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vcb_fixtures::need_tool;

const HELLO: &str = "hello from the guest\n";

/// A VM folder with a disk of one NTFS volume that holds one file.
fn vm(dir: &Path) -> PathBuf {
    let run = |program: &str, args: &[&str]| {
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let output = Command::new(program).args(args).env("PATH", path).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let folder = dir.join("web 01");
    std::fs::create_dir(&folder).unwrap();
    let flat = folder.join("web-flat.vmdk");
    std::fs::write(&flat, vec![0; 8 << 20]).unwrap();
    let flat = flat.to_str().unwrap();
    run("mkntfs", &["-q", "-F", "-p", "0", "-H", "255", "-S", "63", "-s", "512", flat]);
    std::fs::write(dir.join("hello.txt"), HELLO).unwrap();
    run("ntfscp", &["-f", flat, dir.join("hello.txt").to_str().unwrap(), "hello.txt"]);
    let text = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\
                RW 16384 VMFS \"web-flat.vmdk\"\nddb.adapterType = \"lsilogic\"\n";
    std::fs::write(folder.join("web.vmdk"), text).unwrap();
    let vmx = "config.version = \"8\"\ndisplayName = \"web 01\"\nscsi0.present = \"TRUE\"\n\
               scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"web.vmdk\"\n";
    std::fs::write(folder.join("web.vmx"), vmx).unwrap();
    folder
}

struct World {
    dir: tempfile::TempDir,
    vm: PathBuf,
}

impl World {
    fn new(software: &str) -> Option<World> {
        if !["mkntfs", "ntfscp", "fusermount3", software].into_iter().all(need_tool) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let vm = vm(dir.path());
        Some(World { dir, vm })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("VCBMOUNT", env!("CARGO_BIN_EXE_vcbmount"))
            .env("VCBMOUNT_STATE", self.path("state"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("HOME", self.dir.path());
        command
    }

    fn wrapper(&self, name: &str) -> Command {
        self.command(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/integrations").join(name))
    }

    fn nothing_is_mounted(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "{mounts}");
    }
}

fn ok(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn rsync_keeps_dated_copies() {
    let Some(world) = World::new("rsync") else { return };
    let target = world.path("target");
    std::fs::create_dir(&target).unwrap();
    for _ in 0..2 {
        ok(world.wrapper("rsync").arg(&world.vm).arg(&target));
    }
    let copy = target.join("web 01/current/1/hello.txt");
    assert_eq!(std::fs::read_to_string(&copy).unwrap(), HELLO);
    assert_eq!(std::os::unix::fs::MetadataExt::nlink(&std::fs::metadata(&copy).unwrap()), 2, "a hard link");
    world.nothing_is_mounted();
}

#[test]
fn restic_backs_up_and_restores() {
    let Some(world) = World::new("restic") else { return };
    let repository = world.path("repository");
    std::fs::write(world.path("key"), "test").unwrap();
    let with = |mut command: Command| {
        command.env("RESTIC_REPOSITORY", &repository).env("RESTIC_PASSWORD_FILE", world.path("key"));
        command
    };
    ok(with(world.command("restic")).arg("init"));
    ok(with(world.wrapper("restic")).arg(&world.vm));
    ok(with(world.command("restic"))
        .args(["restore", "latest", "--host", "web 01", "--target"])
        .arg(world.path("out")));
    let restored = ok(world.command("find").arg(world.path("out")).args(["-name", "hello.txt"]));
    let file = String::from_utf8(restored.stdout).unwrap();
    assert_eq!(std::fs::read_to_string(file.trim_end()).unwrap(), HELLO);
    world.nothing_is_mounted();
}

#[test]
fn borg_backs_up_and_restores() {
    let Some(world) = World::new("borg") else { return };
    let with = |mut command: Command| {
        command.env("BORG_REPO", world.path("repository")).env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        command
    };
    ok(with(world.command("borg")).args(["init", "--encryption=none"]));
    ok(with(world.wrapper("borg")).arg(&world.vm));
    let list = ok(with(world.command("borg")).args(["list", "--short"]));
    let name = String::from_utf8(list.stdout).unwrap().trim_end().to_owned();
    assert!(name.starts_with("web 01-"), "{name}");
    let content = ok(with(world.command("borg")).args(["extract", "--stdout", &format!("::{name}"), "1/hello.txt"]));
    assert_eq!(content.stdout, HELLO.as_bytes());
    world.nothing_is_mounted();
}

#[test]
fn bacula_finds_the_files_between_its_scripts() {
    let Some(world) = World::new("sh") else { return };
    let at = world.path("web01");
    ok(world.wrapper("bacula").arg("before").arg(&world.vm).arg(&at));
    assert_eq!(std::fs::read_to_string(at.join("digits/1/hello.txt")).unwrap(), HELLO);
    for _ in 0..2 {
        ok(world.wrapper("bacula").arg("after").arg(&world.vm).arg(&at));
    }
    world.nothing_is_mounted();
}

#[test]
fn the_unit_that_cleans_up_at_boot_is_valid() {
    if !need_tool("systemd-analyze") {
        return;
    }
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/systemd/vcbmount-cleanup.service");
    let text = std::fs::read_to_string(unit).unwrap();
    assert!(text.contains("ExecStart=/usr/bin/vcbmount cleanup"));
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("vcbmount-cleanup.service");
    std::fs::write(&copy, text.replace("/usr/bin/vcbmount", env!("CARGO_BIN_EXE_vcbmount"))).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg(copy).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
