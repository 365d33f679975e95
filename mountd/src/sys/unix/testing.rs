//! What tests need of the system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::sys::{Does, Everybody};

/// What absolute paths begin with.
pub(crate) const ROOT: &str = "";
/// A mount point that others use.
pub(crate) const TAKEN: &str = "/proc";

/// Makes a symbolic link; false where the account may not.
pub(crate) fn symlink(target: &Path, link: &Path) -> bool {
    std::os::unix::fs::symlink(target, link).is_ok()
}

/// Writes a program, and gives its path.
pub(crate) fn write_program(folder: &Path, name: &str, does: Does<'_>) -> PathBuf {
    let path = folder.join(name);
    let (mode, script) = match does {
        Does::Tell(out) => {
            let line = "$(basename \"$0\") $VCB_EVENT $VCB_VM_NAME [$VCB_MOUNT]";
            (0o755, format!("echo \"{line}\" >> '{}'", out.display()))
        }
        Does::Fail => (0o755, "exit 3".to_owned()),
        Does::Hang => (0o755, "sleep 60 & sleep 60".to_owned()),
        Does::NotExecutable => (0o644, "exit 3".to_owned()),
    };
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// Changes what others than its owner may do with a file.
pub(crate) fn let_everybody(path: &Path, what: Everybody) {
    let mode = fs::metadata(path).unwrap().permissions().mode() & !0o077;
    let more = match what {
        Everybody::Nothing => 0,
        Everybody::Reads => 0o040,
        Everybody::Changes => 0o022,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode | more)).unwrap();
}
