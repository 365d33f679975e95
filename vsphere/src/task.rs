//! Waiting for tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::error::{Error, Result};
use crate::model::Moref;
use crate::soap::localized_fault;
use crate::xml::Node;

/// Raised to end a wait early; shared between the one who waits and a signal handler's thread.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl From<Arc<AtomicBool>> for Cancel {
    /// Raised when `flag` becomes true, as a signal handler sets it.
    fn from(flag: Arc<AtomicBool>) -> Self {
        Cancel(flag)
    }
}

impl Cancel {
    /// Ends every wait that uses this token, now and later.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it has been raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How long to wait for a task.
#[derive(Debug, Clone)]
pub struct Wait {
    /// After this the wait ends with [`Error::TaskTimeout`].
    pub limit: Duration,
    /// When raised the wait ends with [`Error::Cancelled`].
    pub cancel: Cancel,
}

impl Wait {
    /// Waits no longer than `limit`; nothing else ends it.
    #[must_use]
    pub fn at_most(limit: Duration) -> Self {
        Wait { limit, cancel: Cancel::default() }
    }
}

/// Longest pause between two looks at a task.
const SLOWEST: Duration = Duration::from_millis(1000);

impl Client {
    /// Waits until `task` has ended and gives its result, when it has one.
    ///
    /// Tasks are looked at with growing pauses (from 10 ms to 1 s): a look is cheap for the server, and
    /// a wait that is made of looks can end at any time.
    pub(crate) fn wait(&self, task: &Moref, wait: &Wait) -> Result<Option<Moref>> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(10);
        loop {
            let info = self.property(task, "info")?;
            match state(&info) {
                Some("success") => return Ok(info.child("result").and_then(Node::moref)),
                Some("error") => {
                    let fault = info
                        .child("error")
                        .map(localized_fault)
                        .ok_or_else(|| Error::protocol("RetrievePropertiesEx", "a task failed without a reason"))?;
                    return Err(Error::Task { task: task.value.clone(), fault });
                }
                Some("queued" | "running") => {}
                other => {
                    let what = format!("a task is in the state '{}'", other.unwrap_or_default());
                    return Err(Error::protocol("RetrievePropertiesEx", what));
                }
            }
            if started.elapsed() + pause > wait.limit {
                return Err(Error::TaskTimeout { task: task.value.clone(), waited: wait.limit });
            }
            let woken = Instant::now() + pause;
            while Instant::now() < woken {
                if wait.cancel.is_raised() {
                    return Err(Error::Cancelled { task: task.value.clone() });
                }
                std::thread::sleep(Duration::from_millis(50).min(woken.saturating_duration_since(Instant::now())));
            }
            pause = (pause * 2).min(SLOWEST);
        }
    }
}

fn state(info: &Node) -> Option<&str> {
    info.text_of("state")
}
