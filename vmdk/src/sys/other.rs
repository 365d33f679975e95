//! Other systems: what was looked at is opened by its name.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::Refused;

/// A folder, below which files are opened.
pub(crate) struct Confined {
    root: PathBuf,
}

impl Confined {
    #[allow(clippy::unnecessary_wraps, reason = "another system opens the folder")]
    pub(crate) fn to(root: &Path) -> io::Result<Self> {
        Ok(Confined { root: root.to_owned() })
    }

    /// Opens `inside`, which held no symbolic links when it was looked at, for reading.
    pub(crate) fn open(&self, inside: &Path) -> Result<File, Refused> {
        let path = self.root.join(inside);
        File::open(&path).map_err(|err| {
            // Windows refuses folders with a reason that would mislead.
            let is_folder = err.kind() == io::ErrorKind::PermissionDenied && path.is_dir();
            Refused::Failed(if is_folder { io::ErrorKind::IsADirectory.into() } else { err })
        })
    }
}

/// What tests need of the system.
#[cfg(test)]
pub(crate) mod testing {
    use std::path::Path;

    /// Makes a symbolic link; false where that cannot be done: it takes a right on Windows.
    #[cfg(windows)]
    pub(crate) fn symlink(target: &Path, link: &Path) -> bool {
        let folder = link.parent().is_some_and(|parent| parent.join(target).is_dir());
        let make = if folder { std::os::windows::fs::symlink_dir } else { std::os::windows::fs::symlink_file };
        // wine says that it is made, and makes none.
        make(target, link).is_ok() && link.symlink_metadata().is_ok()
    }

    /// Makes a symbolic link.
    #[cfg(unix)]
    pub(crate) fn symlink(target: &Path, link: &Path) -> bool {
        std::os::unix::fs::symlink(target, link).is_ok()
    }

    /// Puts something there that is neither file nor folder; false where there is no such thing.
    pub(crate) fn put_no_file(_at: &Path) -> bool {
        false
    }
}
