//! Running as a service of Windows' service manager.

use std::io;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

use windows_sys::Win32::Foundation::{ERROR_CALL_NOT_IMPLEMENTED, NO_ERROR};
use windows_sys::Win32::System::Services::{
    RegisterServiceCtrlHandlerExW, SERVICE_ACCEPT_SHUTDOWN, SERVICE_ACCEPT_STOP, SERVICE_CONTROL_INTERROGATE,
    SERVICE_CONTROL_SHUTDOWN, SERVICE_CONTROL_STOP, SERVICE_RUNNING, SERVICE_STATUS, SERVICE_STOP_PENDING,
    SERVICE_STOPPED, SERVICE_TABLE_ENTRYW, SERVICE_WIN32_OWN_PROCESS, SetServiceStatus, StartServiceCtrlDispatcherW,
};

use super::{check, stop, wide};

/// What the manager is told to wait for the end, in milliseconds: unmounting may wait for open files.
const ENDS_WITHIN: u32 = 120_000;

type Work = Box<dyn FnOnce() + Send>;

/// What the service does. The manager calls a function without a context.
static WORK: Mutex<Option<Work>> = Mutex::new(None);
/// By which the manager knows us.
static STATUS: AtomicPtr<core::ffi::c_void> = AtomicPtr::new(null_mut());

/// Runs `work` as the service that the manager has started this process for, and returns when it has ended.
/// [`super::on_stop_signal`] tells it when the manager wants the end.
///
/// # Errors
/// When this process was not started by the manager.
pub fn run_service(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    *WORK.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(work));
    // A process of one service is asked for none by its name.
    let mut name = wide("");
    let entry = SERVICE_TABLE_ENTRYW { lpServiceName: name.as_mut_ptr(), lpServiceProc: Some(main) };
    let end = SERVICE_TABLE_ENTRYW { lpServiceName: null_mut(), lpServiceProc: None };
    let table = [entry, end];
    // SAFETY: the table ends with an empty entry, and it lives as long as the call.
    check(unsafe { StartServiceCtrlDispatcherW(table.as_ptr()) })
}

/// Called by the manager on a thread of its own.
unsafe extern "system" fn main(_count: u32, _args: *mut *mut u16) {
    let name = wide("");
    // SAFETY: the name ends with a zero, and the handler is a function of this program.
    let status = unsafe { RegisterServiceCtrlHandlerExW(name.as_ptr(), Some(control), null()) };
    STATUS.store(status, Ordering::Release);
    tell(SERVICE_RUNNING);
    let work = WORK.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(work) = work {
        // A panic must not cross into the manager's code, which would wait for our end in vain.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
            tracing::error!("the service ended by a defect of vcbmount");
        }
    }
    tell(SERVICE_STOPPED);
}

/// Called by the manager on the thread of [`run_service`].
unsafe extern "system" fn control(
    control: u32,
    _event: u32,
    _data: *mut core::ffi::c_void,
    _context: *mut core::ffi::c_void,
) -> u32 {
    match control {
        SERVICE_CONTROL_STOP | SERVICE_CONTROL_SHUTDOWN => {
            tell(SERVICE_STOP_PENDING);
            stop::tell();
            NO_ERROR
        }
        SERVICE_CONTROL_INTERROGATE => NO_ERROR,
        _ => ERROR_CALL_NOT_IMPLEMENTED,
    }
}

fn tell(state: u32) {
    let running = state == SERVICE_RUNNING;
    let status = SERVICE_STATUS {
        dwServiceType: SERVICE_WIN32_OWN_PROCESS,
        dwCurrentState: state,
        dwControlsAccepted: if running { SERVICE_ACCEPT_STOP | SERVICE_ACCEPT_SHUTDOWN } else { 0 },
        dwWin32ExitCode: NO_ERROR,
        dwServiceSpecificExitCode: 0,
        dwCheckPoint: 0,
        dwWaitHint: if state == SERVICE_STOP_PENDING { ENDS_WITHIN } else { 0 },
    };
    // SAFETY: the manager has given the handle, which is never closed, and reads the structure only.
    let told = check(unsafe { SetServiceStatus(STATUS.load(Ordering::Acquire), &raw const status) });
    if let Err(err) = told {
        tracing::warn!(%err, state, "the service manager was not told");
    }
}
