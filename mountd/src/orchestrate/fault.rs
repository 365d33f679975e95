//! Points at which tests kill the process, to prove that any death can be cleaned up.
//!
//! With the feature `fault-points`, `VCB_FAULT_POINT=N` kills the process at the N-th point passed, counted
//! from 1, and `VCB_FAULT_TRACE=FILE` appends the name of each point to a file. A process that serves a mount
//! obeys `VCB_FAULT_SERVER=N` instead. Every journal entry and every call to the server has a point before and
//! one after it. Without the feature there is nothing.

#[cfg(feature = "fault-points")]
mod armed {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use crate::sys::{self, Signal};

    static SERVING: AtomicBool = AtomicBool::new(false);
    static PASSED: AtomicU64 = AtomicU64::new(0);

    /// Passes the point called `name`.
    pub fn point(name: &str) {
        let number = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
        let serving = SERVING.load(Ordering::SeqCst);
        if let Some(file) = std::env::var_os("VCB_FAULT_TRACE") {
            let file = std::fs::File::options().append(true).create(true).open(file);
            let who = if serving { "server: " } else { "" };
            if let Err(err) = file.and_then(|mut file| file.write_all(format!("{who}{name}\n").as_bytes())) {
                tracing::warn!(%err, "the trace of fault points cannot be written");
            }
        }
        let variable = if serving { "VCB_FAULT_SERVER" } else { "VCB_FAULT_POINT" };
        if std::env::var(variable).is_ok_and(|wanted| wanted.parse() == Ok(number)) {
            die();
        }
    }

    /// Nothing is run and nothing is flushed, as when the system ends a process.
    fn die() {
        sys::signal(std::process::id(), Signal::Kill);
    }

    /// This process serves a mount.
    pub(crate) fn serving() {
        SERVING.store(true, Ordering::SeqCst);
    }

    pub(crate) fn watch_calls() {
        vcb_vsphere::fault::observe(point);
    }
}

#[cfg(feature = "fault-points")]
pub use armed::point;
#[cfg(feature = "fault-points")]
pub(crate) use armed::{serving, watch_calls};

/// Passes the point called `name`.
#[cfg(not(feature = "fault-points"))]
pub fn point(_name: &str) {}
#[cfg(not(feature = "fault-points"))]
pub(crate) fn serving() {}
#[cfg(not(feature = "fault-points"))]
pub(crate) fn watch_calls() {}
