//! What differs between platforms, behind functions that do not.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use serde::{Deserialize, Serialize};

#[cfg(all(test, unix))]
pub(crate) use unix::testing::*;
#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(unix)]
pub use unix::{create_private_dir, create_private_file, on_stop_signal, run_service};
#[cfg(all(test, windows))]
pub(crate) use windows::testing::*;
#[cfg(windows)]
pub(crate) use windows::*;
#[cfg(windows)]
pub use windows::{create_private_dir, create_private_file, on_stop_signal, run_service};

/// A process, told apart from a later one with the same number by its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in the system's own units.
    pub started: u64,
}

impl Process {
    /// This one.
    #[must_use]
    pub fn current() -> Self {
        let pid = std::process::id();
        Process { pid, started: start_of(pid).unwrap_or(0) }
    }

    /// True while it runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        start_of(self.pid) == Some(self.started)
    }
}

/// What a process can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Term,
    Kill,
}

/// A line of the table of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// The mounted device, as the system names it.
    pub(crate) device: String,
    pub(crate) at: std::path::PathBuf,
    pub(crate) fs_type: String,
    pub(crate) source: String,
}

/// What a program does that a test writes.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(crate) enum Does<'a> {
    /// Appends a line to a file: its own name, `VCB_EVENT`, `VCB_VM_NAME` and in brackets `VCB_MOUNT`.
    Tell(&'a std::path::Path),
    /// Exits with 3.
    Fail,
    /// Runs for a minute, and so does its child.
    Hang,
    /// Nothing: the file cannot be run, and would fail.
    NotExecutable,
}

/// What everybody may do with a file of a test.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Everybody {
    Nothing,
    Reads,
    Changes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_alive_until_it_ends() {
        assert!(Process::current().is_alive());
        let mut child = unix_or_windows_sleeper().spawn().unwrap();
        let process = Process { pid: child.id(), started: start_of(child.id()).unwrap() };
        assert!(process.is_alive());
        assert!(!Process { started: process.started + 1, ..process }.is_alive());
        signal(process.pid, Signal::Kill);
        while process.is_alive() {
            std::thread::yield_now();
        }
        // Nobody has asked for its exit code yet.
        child.wait().unwrap();
    }

    fn unix_or_windows_sleeper() -> std::process::Command {
        let mut command = std::process::Command::new(if cfg!(windows) { "ping" } else { "sleep" });
        command.args(if cfg!(windows) { ["-n", "100"].as_slice() } else { &["100"] });
        command.args(cfg!(windows).then_some("127.0.0.1")).stdout(std::process::Stdio::null());
        command
    }
}
