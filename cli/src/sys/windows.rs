//! Windows.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vcb_mountd::Outcome;

use crate::commands::doctor::Check;

/// Creates a file that must not exist yet. Who can read it is decided by its folder, as a user's profile
/// folder is readable by that user alone.
pub fn create_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// A name of the guest as a name of this host. Names that Windows would take for something else are none.
pub fn os_name(name: &[u8]) -> Option<OsString> {
    let text = std::str::from_utf8(name).ok()?;
    (!text.contains(['\\', ':', '*', '?', '"', '<', '>', '|'])).then(|| text.into())
}

/// Makes a symbolic link to a file.
pub fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

/// Windows ends console programs by itself.
pub fn stop_on_signals() -> Outcome<Arc<AtomicBool>> {
    Ok(Arc::default())
}

/// The exit code of a finished process.
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or(1)
}
