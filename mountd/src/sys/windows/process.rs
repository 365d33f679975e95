//! Processes: their identity, signals, and life apart from whoever started them.

use std::io;
use std::os::windows::io::AsRawHandle;
use std::os::windows::process::CommandExt;
use std::process::{Child, Command};

use windows_sys::Win32::Foundation::{
    CloseHandle, FILETIME, HANDLE, HANDLE_FLAG_INHERIT, INVALID_HANDLE_VALUE, SetHandleInformation, WAIT_TIMEOUT,
};
use windows_sys::Win32::System::Console::{
    CTRL_BREAK_EVENT, GenerateConsoleCtrlEvent, GetStdHandle, STD_ERROR_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE,
    SetStdHandle,
};
use windows_sys::Win32::System::Threading::{
    CREATE_NEW_PROCESS_GROUP, DETACHED_PROCESS, GetProcessTimes, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION,
    PROCESS_SYNCHRONIZE, PROCESS_TERMINATE, TerminateProcess, WaitForSingleObject,
};

use super::{Signal, check, stop};

/// A handle that is closed at the end.
pub(super) struct Handle(pub(super) HANDLE);

// SAFETY: handles of processes, events and jobs may be used by any thread.
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and nobody uses it after this.
        unsafe { CloseHandle(self.0) };
    }
}

fn open(pid: u32, rights: u32) -> io::Result<Handle> {
    // SAFETY: it takes numbers only.
    let handle = unsafe { OpenProcess(rights, 0, pid) };
    if handle.is_null() { Err(io::Error::last_os_error()) } else { Ok(Handle(handle)) }
}

/// When a running process started, in steps of 100 ns since 1601; `None` when it has ended.
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    let process = open(pid, PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE).ok()?;
    let mut times = [FILETIME::default(); 4];
    let [created, ended, kernel, user] = &mut times;
    // SAFETY: the handle is open, and the four times are written only.
    let got =
        unsafe { GetProcessTimes(process.0, &raw mut *created, &raw mut *ended, &raw mut *kernel, &raw mut *user) };
    // SAFETY: the handle is open, and waiting for no time only looks.
    let running = unsafe { WaitForSingleObject(process.0, 0) } == WAIT_TIMEOUT;
    (got != 0 && running).then(|| u64::from(created.dwHighDateTime) << 32 | u64::from(created.dwLowDateTime))
}

/// Sends a signal. A process that is gone has got it.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let done = match signal {
        // One of ours waits for its event; others that lead a group of our console understand Ctrl+Break.
        // SAFETY: it takes numbers only.
        Signal::Term => stop::ask(pid).or_else(|_| check(unsafe { GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, pid) })),
        Signal::Kill => open(pid, PROCESS_TERMINATE).and_then(|process| {
            // SAFETY: the handle is open and may end the process.
            check(unsafe { TerminateProcess(process.0, 1) })
        }),
    };
    if let Err(err) = done {
        tracing::debug!(pid, %err, "not signalled");
    }
}

/// Lets a process that is to be started live on by itself: without our console, and without the handles that
/// we have inherited, or whoever waits for the end of our output would wait for its.
pub(crate) fn detach(command: &mut Command) {
    for which in [STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE] {
        // SAFETY: it takes a number; the handle stays open, and only its mark is changed.
        unsafe {
            let handle = GetStdHandle(which);
            if !handle.is_null() && handle != INVALID_HANDLE_VALUE {
                SetHandleInformation(handle, HANDLE_FLAG_INHERIT, 0);
            }
        }
    }
    command.creation_flags(DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP);
}

/// Becomes independent of the current folder; of the console it is already.
pub(crate) fn leave_terminal() {
    let system = std::env::var_os("SystemRoot").unwrap_or_else(|| r"C:\".into());
    if let Err(err) = std::env::set_current_dir(system) {
        tracing::debug!(%err, "stays in its folder");
    }
}

/// Closes stdout for whoever reads it.
pub(crate) fn close_stdout() {
    // SAFETY: std asks for the handle anew at every use and takes none for a closed output.
    unsafe {
        let handle = GetStdHandle(STD_OUTPUT_HANDLE);
        SetStdHandle(STD_OUTPUT_HANDLE, std::ptr::null_mut());
        if !handle.is_null() && handle != INVALID_HANDLE_VALUE {
            CloseHandle(handle);
        }
    }
}

/// Makes a process that is to be started one that [`kill_group`] ends.
pub(crate) fn own_group(command: &mut Command) {
    command.creation_flags(CREATE_NEW_PROCESS_GROUP);
}

/// Ends a process and its children.
pub(crate) fn kill_group(child: &mut Child) -> io::Result<()> {
    // The system's own tool knows the children; without it at least the process itself ends.
    let mut tool = Command::new("taskkill");
    tool.args(["/T", "/F", "/PID"]).arg(child.id().to_string());
    tool.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    if tool.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    // SAFETY: the handle is open as long as `child` is.
    check(unsafe { TerminateProcess(child.as_raw_handle() as HANDLE, 1) })
}
