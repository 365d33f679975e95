//! Asking processes to end: Ctrl+C and its like, and an event that other processes of ours can set.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use windows_sys::Win32::Foundation::WAIT_OBJECT_0;
use windows_sys::Win32::System::Console::{
    CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT, SetConsoleCtrlHandler,
};
use windows_sys::Win32::System::Threading::{
    CreateEventW, EVENT_MODIFY_STATE, INFINITE, OpenEventW, SetEvent, WaitForSingleObject,
};

use super::process::Handle;
use super::{check, wide};

/// How long the end of this process is held up after its console was closed. The system waits no longer.
const CLOSING: Duration = Duration::from_secs(20);

/// Whoever waits to be told.
static WAITING: Mutex<Vec<Sender<()>>> = Mutex::new(Vec::new());

/// Calls `stop` at Ctrl+C, Ctrl+Break, the end of the console or the login session, and when another process
/// of ours asks for it; on a thread of its own.
pub fn on_stop_signal(mut stop: impl FnMut() + Send + 'static) {
    static LISTEN: Once = Once::new();
    let (sender, asked) = channel();
    WAITING.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
    std::thread::spawn(move || asked.into_iter().for_each(|()| stop()));
    LISTEN.call_once(listen);
}

fn listen() {
    // SAFETY: the handler is a function of this program, and is never taken away.
    if unsafe { SetConsoleCtrlHandler(Some(on_console), 1) } == 0 {
        tracing::error!(err = %io::Error::last_os_error(), "Ctrl+C ends this process without unmounting");
    }
    let name = wide(name_of(std::process::id()));
    // SAFETY: the name ends with a zero; without attributes the event is its creator's and administrators'.
    let event = unsafe { CreateEventW(std::ptr::null(), 0, 0, name.as_ptr()) };
    if event.is_null() {
        tracing::error!(err = %io::Error::last_os_error(), "other processes cannot ask this one to unmount");
        return;
    }
    let event = Handle(event);
    std::thread::spawn(move || {
        let event = event;
        // SAFETY: the handle is open until this thread ends.
        while unsafe { WaitForSingleObject(event.0, INFINITE) } == WAIT_OBJECT_0 {
            tell();
        }
    });
}

/// Tells all who wait.
pub(super) fn tell() {
    for waiting in WAITING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        // Who has ended needs no telling.
        let _ = waiting.send(());
    }
}

/// Called by the system on a thread of its own.
unsafe extern "system" fn on_console(event: u32) -> i32 {
    tell();
    if matches!(event, CTRL_CLOSE_EVENT | CTRL_LOGOFF_EVENT | CTRL_SHUTDOWN_EVENT) {
        // The process ends when this returns.
        std::thread::sleep(CLOSING);
    }
    1
}

/// Name of the event by which the process `pid` is asked to end.
fn name_of(pid: u32) -> String {
    format!(r"Global\vcbmount-stop-{pid}")
}

/// Asks a process of ours to end.
pub(super) fn ask(pid: u32) -> io::Result<()> {
    let name = wide(name_of(pid));
    // SAFETY: the name ends with a zero.
    let event = unsafe { OpenEventW(EVENT_MODIFY_STATE, 0, name.as_ptr()) };
    if event.is_null() {
        return Err(io::Error::last_os_error());
    }
    let event = Handle(event);
    // SAFETY: the handle is open and may set the event.
    check(unsafe { SetEvent(event.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_to_stop_by_its_number() {
        let (sender, told) = channel();
        on_stop_signal(move || sender.send(()).unwrap());
        ask(std::process::id()).unwrap();
        told.recv_timeout(Duration::from_secs(10)).unwrap();
        ask(std::process::id()).unwrap();
        told.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
