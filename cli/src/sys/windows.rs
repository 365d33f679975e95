//! Windows.

use std::ffi::OsString;
use std::os::windows::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vcb_mountd::config::Config;
use vcb_mountd::front::FrontEnd;
use vcb_mountd::{Outcome, host};
use vcb_winfsp::{WinFspFrontEnd, load, names};

use crate::commands::doctor::Check;

/// What WinFsp's licence asks to be shown, and what follows from the licence of the crate winfsp.
macro_rules! notice {
    () => {
        "\nThis program contains the crate winfsp and is therefore under the GNU General Public License, version 3.\n\
         WinFsp - Windows File System Proxy, Copyright (C) Bill Zissimopoulos\n\
         https://github.com/winfsp/winfsp"
    };
}

/// What `--version` shows.
pub const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), notice!());
/// What help shows at its end about licences of others.
pub const NOTICE: &str = notice!();

/// Help of `--config`.
pub const CONFIG_HELP: &str =
    r"Configuration file, laid over C:\ProgramData\vcbmount\config.toml and %APPDATA%\vcbmount\config.toml";
/// Help of `--at`.
pub const AT_HELP: &str = r"Where: a free drive letter (V:), a folder that does not exist yet, or \\SERVER\SHARE. Without it a folder below mount.root is used";
/// Name of a mount point in help.
pub const AT: &str = "PLACE";
/// Name of a mount point or a session in help.
pub const AT_OR_SESSION: &str = "PLACE|SESSION";
/// Help of `run`.
pub const RUN_HELP: &str = "Mounts a VM, runs a command on it, and unmounts whatever happens\n\n\
    The command finds the mount's path in %VCB_MOUNT% and in place of {}. The exit code is the command's, unless \
    mounting or unmounting failed.";
/// What to do about block devices that this user may not read.
pub const READ_DEVICES: &str = "Run as administrator to have VMFS volumes on them found.";
/// What to do about a block device that cannot be read.
pub const LOOK_AT_DEVICE: &str =
    "Look at it in Disk Management and the system's event log; disks are read with an administrator's rights.";
/// Help of `doctor`.
pub const DOCTOR_HELP: &str =
    "Looks for what is wrong: WinFsp, configuration, datastores, and the server's login, privileges and clock";
/// Whether mounts have owners, permission bits and extended attributes to choose. Descriptors are the guest's own
/// here; options for the rest are taken, as other systems take them, and do nothing.
pub const POSIX: bool = false;

/// What views are mounted with here.
pub fn front_end() -> impl FrontEnd {
    WinFspFrontEnd
}

/// A name of the guest as a name of this host: what Windows refuses is shown as on mounts.
#[allow(clippy::unnecessary_wraps, reason = "other systems cannot represent every name")]
pub fn os_name(name: &[u8]) -> Option<OsString> {
    Some(OsString::from_wide(&names::to_windows(name)))
}

/// Makes a symbolic link; `target` has `/` between its components.
pub fn symlink(target: &[u8], link: &Path) -> std::io::Result<()> {
    let part = |part: &[u8]| match part {
        b"." | b".." => OsString::from(String::from_utf8_lossy(part).into_owned()),
        part => OsString::from_wide(&names::to_windows(part)),
    };
    let target: PathBuf = target.split(|byte| *byte == b'/').map(part).collect();
    // Links to folders are of another kind than links to files.
    if link.parent().is_some_and(|folder| folder.join(&target).is_dir()) {
        std::os::windows::fs::symlink_dir(target, link)
    } else {
        std::os::windows::fs::symlink_file(target, link)
    }
}

/// A flag that Ctrl+C and its like set, so that the work can be ended in order.
#[allow(clippy::unnecessary_wraps, reason = "other systems may refuse")]
pub fn stop_on_signals() -> Outcome<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&stop);
    host::on_stop_signal(move || set.store(true, Ordering::Relaxed));
    Ok(stop)
}

/// The exit code of a finished process.
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or(1)
}

/// Where a service's log goes, unless the configuration says it.
pub fn service_log() -> Option<PathBuf> {
    // Beside the configuration that all users share.
    let config = Config::files(None).into_iter().next()?;
    let folder = config.parent()?;
    // Others would let every user add a configuration or hooks, which the service obeys.
    host::create_private_dir(folder).ok()?;
    Some(folder.join("service.log"))
}

/// Whether this host can mount.
pub fn mount_checks() -> Vec<Check> {
    const GET: &str = "Install WinFsp 2.1 or newer from https://winfsp.dev (winget install WinFsp.WinFsp).";
    let check = match (load::dll_path(), load::load()) {
        (Some(path), Ok(_)) => Check::good(format!("WinFsp is installed: {}", path.display())),
        (Some(path), Err(why)) => Check::bad(format!("WinFsp is installed at {} but: {why}", path.display()), GET),
        (None, _) => Check::bad("WinFsp is not installed: nothing can be mounted", GET),
    };
    vec![check]
}
