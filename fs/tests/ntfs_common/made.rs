//! Volumes made by mkfs.ntfs and filled through ntfs-3g.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use vcb_block::{BlockRef, FileSource};
use vcb_fixtures::Ntfs3g;

/// Where scripts are that make volumes.
pub const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/ntfs");

/// How to make a volume.
pub struct Recipe {
    pub megabytes: u64,
    pub sector: u32,
    pub cluster: u32,
}

/// A volume made for one test.
pub struct Made {
    folder: tempfile::TempDir,
}

impl Made {
    /// Formats a volume and lets `fill` write to it; `None` (with the reason printed) where that is not
    /// possible. Streams are written as `file:stream`.
    pub fn new(recipe: &Recipe, fill: impl FnOnce(&Path)) -> Option<Self> {
        if !["mkfs.ntfs", "setfattr", "getfattr"].into_iter().all(vcb_fixtures::need_tool) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::File::create(&image).unwrap().set_len(recipe.megabytes << 20).unwrap();
        let formatted = Command::new("mkfs.ntfs")
            .args(["-F", "-Q", "-L", "made", "-s", &recipe.sector.to_string(), "-c", &recipe.cluster.to_string()])
            .arg(&image)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(formatted.unwrap().success());
        let made = Made { folder };
        made.again(fill)?;
        Some(made)
    }

    /// Lets a script of `fixtures/ntfs`, called with image and mount point, make the volume.
    pub fn by_script(script: &str, cluster: u32, small: bool) -> Option<Self> {
        if !["mkfs.ntfs", "ntfs-3g", "umount", "python3"].into_iter().all(vcb_fixtures::need_tool) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().join("mount");
        fs::create_dir(&mount).unwrap();
        let mut command = Command::new("bash");
        command.arg(format!("{SCRIPTS}/{script}")).arg(folder.path().join("image")).arg(mount).stdout(Stdio::null());
        command.env("CLUSTER", cluster.to_string()).env("SMALL", if small { "1" } else { "" });
        assert!(command.status().unwrap().success(), "{script}");
        fs::remove_dir(folder.path().join("mount")).unwrap();
        Some(Made { folder })
    }

    /// Mounts it and lets `fill` change it.
    pub fn again(&self, fill: impl FnOnce(&Path)) -> Option<()> {
        let at = self.folder.path().join("mount");
        let mount = Ntfs3g::mount(&self.image(), &at, "compression,big_writes,streams_interface=windows")?;
        fill(mount.at());
        Some(())
    }

    /// Path of the volume.
    pub fn image(&self) -> std::path::PathBuf {
        self.folder.path().join("image")
    }

    pub fn block(&self) -> BlockRef {
        Arc::new(FileSource::open(self.folder.path().join("image")).unwrap())
    }

    /// The whole volume.
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("image")).unwrap()
    }
}

/// Sets `name` of `path` to bytes given in hexadecimal.
pub fn setfattr(path: &Path, name: &str, hex: &str) {
    let status = Command::new("setfattr").args(["-n", name, "-v", hex]).arg(path).status();
    assert!(status.unwrap().success(), "setfattr {name} {}", path.display());
}

/// The bytes of extended attribute `name`, as ntfs-3g answers.
pub fn getfattr(path: &Path, name: &str) -> Vec<u8> {
    let output = Command::new("getfattr").args(["--only-values", "-n", name]).arg(path).output().unwrap();
    assert!(output.status.success(), "getfattr {name} {}", path.display());
    output.stdout
}
