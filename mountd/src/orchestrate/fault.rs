//! Points at which tests end the process, to prove that any death can be cleaned up.
//!
//! With the feature `fault-points`, `VCB_FAULT_POINT=N` aborts at the N-th point passed, counted from 1, and
//! `VCB_FAULT_TRACE=FILE` appends the name of each point to a file. Without the feature there is nothing.

/// Passes the point called `name`.
#[cfg(feature = "fault-points")]
pub fn point(name: &str) {
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};

    static PASSED: AtomicU64 = AtomicU64::new(0);
    let number = PASSED.fetch_add(1, Ordering::SeqCst) + 1;
    if let Some(file) = std::env::var_os("VCB_FAULT_TRACE") {
        let file = std::fs::File::options().append(true).create(true).open(file);
        if let Err(err) = file.and_then(|mut file| writeln!(file, "{name}")) {
            tracing::warn!(%err, "the trace of fault points cannot be written");
        }
    }
    if std::env::var("VCB_FAULT_POINT").is_ok_and(|wanted| wanted.parse() == Ok(number)) {
        std::process::abort();
    }
}

/// Passes the point called `name`.
#[cfg(not(feature = "fault-points"))]
pub fn point(_name: &str) {}
