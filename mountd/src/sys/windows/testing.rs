//! What tests need of the system.

use std::fs;
use std::path::{Path, PathBuf};

use windows_sys::Win32::Security::{DACL_SECURITY_INFORMATION, SetFileSecurityW};

use super::access::{PRIVATE, with_descriptor};
use super::{check, wide};
use crate::sys::{Does, Everybody};

/// What absolute paths begin with.
pub(crate) const ROOT: &str = "C:";
/// A mount point that others use.
pub(crate) const TAKEN: &str = "C:";

/// Makes a symbolic link; false where the account may not, or where it is not made although the system says so
/// (wine).
pub(crate) fn symlink(target: &Path, link: &Path) -> bool {
    std::os::windows::fs::symlink_file(target, link).is_ok() && link.symlink_metadata().is_ok()
}

/// Writes a program, and gives its path.
pub(crate) fn write_program(folder: &Path, name: &str, does: Does<'_>) -> PathBuf {
    const MINUTE: &str = "ping -n 60 127.0.0.1 >nul";
    let extension = if matches!(does, Does::NotExecutable) { "txt" } else { "cmd" };
    let path = folder.join(format!("{name}.{extension}"));
    let script = match does {
        Does::Tell(out) => format!("echo %~n0 %VCB_EVENT% %VCB_VM_NAME% [%VCB_MOUNT%]>>\"{}\"", out.display()),
        Does::Fail | Does::NotExecutable => "exit /b 3".to_owned(),
        Does::Hang => format!("start /b {MINUTE}\r\n{MINUTE}"),
    };
    fs::write(&path, format!("@echo off\r\n{script}\r\n")).unwrap();
    path
}

/// Changes what others than its owner may do with a file.
pub(crate) fn let_everybody(path: &Path, what: Everybody) {
    let text = match what {
        Everybody::Nothing => PRIVATE.to_owned(),
        Everybody::Reads => format!("{PRIVATE}(A;;FR;;;WD)"),
        Everybody::Changes => format!("{PRIVATE}(A;;FRFWFX;;;WD)"),
    };
    let name = wide(path);
    with_descriptor(&text, |descriptor| {
        // SAFETY: the name ends with a zero, and the descriptor lives as long as the call.
        check(unsafe { SetFileSecurityW(name.as_ptr(), DACL_SECURITY_INFORMATION, descriptor) })
    })
    .unwrap();
}
