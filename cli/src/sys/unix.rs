//! Unix.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vcb_mountd::front::FrontEnd;
use vcb_mountd::front::fuse::FuseFrontEnd;
use vcb_mountd::{Code, Failure, Outcome};

use crate::commands::doctor::Check;

/// What `--version` shows.
pub const LONG_VERSION: &str = env!("CARGO_PKG_VERSION");
/// What help shows at its end about licences of others: nothing has to be said here.
pub const NOTICE: &str = "";

/// Help of `--config`.
pub const CONFIG_HELP: &str =
    "Configuration file, laid over /etc/vcbmount/config.toml and ~/.config/vcbmount/config.toml";
/// Help of `--at`.
pub const AT_HELP: &str =
    "Where; made when it is missing, and removed again. Without it a folder below mount.root is used";
/// Name of a mount point in help.
pub const AT: &str = "DIR";
/// Name of a mount point or a session in help.
pub const AT_OR_SESSION: &str = "DIR|SESSION";
/// Help of `run`.
pub const RUN_HELP: &str = "Mounts a VM, runs a command on it, and unmounts whatever happens\n\n\
    The command finds the mount's path in $VCB_MOUNT and in place of {}. The exit code is the command's, unless \
    mounting or unmounting failed.";
/// What to do about block devices that this user may not read.
pub const READ_DEVICES: &str =
    "Run as root, or give this user the right to read them, to have VMFS volumes on them found.";
/// What to do about a block device that cannot be read.
pub const LOOK_AT_DEVICE: &str = "Look at its paths (multipath -ll, dmesg).";
/// Help of `doctor`.
pub const DOCTOR_HELP: &str =
    "Looks for what is wrong: FUSE, configuration, datastores, and the server's login, privileges and clock";
/// Whether mounts have owners, permission bits and extended attributes to choose.
pub const POSIX: bool = true;

/// Where a service's log goes, unless the configuration says it: the service manager takes stderr.
pub fn service_log() -> Option<PathBuf> {
    None
}

/// What views are mounted with here.
pub fn front_end() -> impl FrontEnd {
    FuseFrontEnd
}

/// A name of the guest as a name of this host: its bytes.
#[allow(clippy::unnecessary_wraps, reason = "other systems cannot represent every name")]
pub fn os_name(name: &[u8]) -> Option<OsString> {
    Some(OsStr::from_bytes(name).to_owned())
}

/// Makes a symbolic link; `target` has `/` between its components.
pub fn symlink(target: &[u8], link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(OsStr::from_bytes(target), link)
}

/// A flag that SIGINT and SIGTERM set, so that the work can be ended in order.
pub fn stop_on_signals() -> Outcome<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|err| Failure::new(Code::Failed, "signals cannot be caught").because(err))?;
    }
    Ok(stop)
}

/// The exit code of a finished process, as shells tell it: 128 and the number of the signal that ended it.
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}

/// Whether this host can mount.
pub fn mount_checks() -> Vec<Check> {
    let device = match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Check::good("/dev/fuse can be opened"),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            Check::bad("there is no /dev/fuse", "Run 'modprobe fuse'; in a container, give it --device /dev/fuse.")
        }
        Err(err) => {
            Check::bad(format!("/dev/fuse cannot be opened: {err}"), "Give this user read and write access to it.")
        }
    };
    let root = nix::unistd::geteuid().is_root();
    let helper = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("fusermount3").is_file()));
    let helper = match (helper, root) {
        (true, _) => Check::good("fusermount3 is installed"),
        (false, true) => Check::limited(
            "fusermount3 is not installed",
            "Only root can mount; install the package fuse3 to let others.",
        ),
        (false, false) => Check::bad("fusermount3 is not installed", "Install the package fuse3, or run as root."),
    };
    let mut checks = vec![device, helper];
    if !root {
        let allowed = std::fs::read_to_string("/etc/fuse.conf")
            .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
        checks.push(if allowed {
            Check::good("mounts may be opened to other users (user_allow_other)")
        } else {
            Check::limited(
                "mounts can be read by this user only",
                "Run backup software as the same user, or add 'user_allow_other' to /etc/fuse.conf.",
            )
        });
    }
    checks
}
