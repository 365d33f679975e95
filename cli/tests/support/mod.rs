//! Runs the real binary in a folder of its own, with no configuration and no sessions but the test's.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vcb_fixtures::{corpus, need_tool, skip};

/// A scratch folder with its own home and state.
pub struct World {
    pub dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("home")).unwrap();
        World { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The binary, with the test's folder as working folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vcbmount"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("HOME", self.path("home"))
            .env("XDG_CONFIG_HOME", self.path("home/.config"))
            .env("APPDATA", self.path("home/.config"))
            .env("VCBMOUNT_STATE", self.path("state"))
            .env_remove("VCBMOUNT_CONFIG");
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran { output: self.command(args).output().unwrap(), args: args.join(" ") }
    }

    /// Standard output of a command that must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.exit(), 0, "{}: {}", ran.args, ran.stderr());
        ran.stdout()
    }

    /// Configures `ds` as a datastore called `name`.
    pub fn configure(&self, name: &str, ds: &Path) {
        let text = format!("[[datastore]]\nname = \"{name}\"\npath = '{}'\n", ds.display());
        self.write("home/.config/vcbmount/config.toml", text);
    }

    /// A folder `vms/web01` with a VM whose one disk is the corpus's Windows-made NTFS, with a snapshot
    /// "before" over which qemu-img has made a delta. `None` where the corpus or a tool is missing.
    pub fn vm(&self) -> Option<PathBuf> {
        let disk = self.windows_disk("vms/web01/web01")?;
        if !need_tool("qemu-img") {
            return None;
        }
        let folder = disk.parent().unwrap().to_owned();
        run(
            "qemu-img",
            &["create", "-q", "-f", "vmdk", "-b", "web01.vmdk", "-F", "vmdk", "web01-000001.vmdk"],
            &folder,
        );
        self.write(
            "vms/web01/web01.vmx",
            ".encoding = \"UTF-8\"\ndisplayName = \"Web 01\"\n\
             uuid.bios = \"56 4d 0a 1b 2c 3d 4e 5f-60 71 82 93 a4 b5 c6 d7\"\nscsi0.present = \"TRUE\"\n\
             scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"web01-000001.vmdk\"\n",
        );
        self.write(
            "vms/web01/web01.vmsd",
            ".encoding = \"UTF-8\"\nsnapshot.current = \"1\"\nsnapshot.numSnapshots = \"1\"\n\
             snapshot0.uid = \"1\"\nsnapshot0.displayName = \"before\"\nsnapshot0.numDisks = \"1\"\n\
             snapshot0.disk0.fileName = \"web01.vmdk\"\nsnapshot0.disk0.node = \"scsi0:0\"\n",
        );
        Some(folder)
    }

    /// `NAME.vmdk` with `NAME-flat.vmdk`: a 10 MiB disk with an NTFS that Windows has made.
    pub fn windows_disk(&self, name: &str) -> Option<PathBuf> {
        let packed = corpus("vmdk/vmdk-rs/monolithicFlat-flat.vmdk.xz")?;
        if !need_tool("xz") {
            return None;
        }
        let descriptor = std::fs::read_to_string(packed.with_file_name("monolithicFlat.vmdk")).unwrap();
        let stem = Path::new(name).file_name().unwrap().to_str().unwrap();
        let path =
            self.write(&format!("{name}.vmdk"), descriptor.replace("monolithicFlat-flat", &format!("{stem}-flat")));
        let unpacked = Command::new("xz").arg("-dkc").arg(packed).output().unwrap();
        assert!(unpacked.status.success());
        self.write(&format!("{name}-flat.vmdk"), unpacked.stdout);
        Some(path)
    }
}

/// A finished run of the binary.
pub struct Ran {
    pub output: Output,
    pub args: String,
}

impl Ran {
    pub fn exit(&self) -> i32 {
        self.output.status.code().unwrap_or(-1)
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// Fails the test unless it exited with `exit` and named the error `code`.
    pub fn failed_with(&self, exit: i32, code: &str) {
        assert_eq!(self.exit(), exit, "{}: {}", self.args, self.stderr());
        assert!(self.stderr().contains(&format!("vcbmount: {code}: ")), "{}: {}", self.args, self.stderr());
        assert_eq!(self.stdout(), "", "{}", self.args);
    }
}

/// Runs a tool that must succeed, and gives what it prints.
pub fn run(tool: &str, args: &[&str], dir: &Path) -> String {
    let output = Command::new(tool).args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// True where FUSE can be used.
pub fn can_mount() -> bool {
    let usable = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    if !usable {
        skip("/dev/fuse cannot be opened");
    }
    usable
}

/// Unmounts at the end of a test, however it ends.
pub struct Guard<'a>(&'a World, pub PathBuf);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.run(&["umount", self.1.to_str().unwrap()]);
    }
}

/// Mounts below `world` at `at`, with `args`.
pub fn mount<'a>(world: &'a World, args: &[&str], at: &str) -> Guard<'a> {
    let at = world.path(at);
    let mut all = vec!["mount"];
    all.extend(args);
    all.extend(["--at", at.to_str().unwrap()]);
    let ran = world.run(&all);
    assert_eq!(ran.exit(), 0, "{}: {}", ran.args, ran.stderr());
    assert_eq!(ran.stdout(), format!("{}\n", at.display()), "exactly one line, the path");
    Guard(world, at)
}

/// Only its owner may read a file.
#[cfg(unix)]
pub fn assert_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Only its owner, administrators and the system may read a file, says the system's own tool.
#[cfg(not(unix))]
pub fn assert_private(path: &Path) {
    let said = Command::new("icacls").arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(!said.contains("Everyone") && !said.contains(r"BUILTIN\Users"), "{said}");
}
