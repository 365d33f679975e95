//! What could not be read while a view was mounted: one entry per file, however often it was tried.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vcb_block::Error;

use crate::view::{NodeId, View};

/// Files that are named in a report. More are counted but not named, to bound memory.
const MAX_NAMED: usize = 10_000;

/// A file that could not be read, wholly or in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// Path in the mount.
    pub path: String,
    /// The first error met.
    pub error: String,
}

/// Called once for every unreadable file, when it is first met.
type Listener = Box<dyn Fn(&Unreadable) + Send + Sync>;

/// Collects unreadable files.
#[derive(Default)]
pub struct Report {
    seen: Mutex<Seen>,
    listener: Option<Listener>,
}

#[derive(Default)]
struct Seen {
    nodes: HashMap<NodeId, ()>,
    named: Vec<Unreadable>,
    more: u64,
}

impl Report {
    /// Passes each new entry on as well. `listener` is called by the thread that met the error.
    #[must_use]
    pub fn with_listener(listener: impl Fn(&Unreadable) + Send + Sync + 'static) -> Self {
        Report { seen: Mutex::default(), listener: Some(Box::new(listener)) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `node` could not be read, and logs it when it is news.
    pub fn add(&self, view: &dyn View, node: NodeId, error: &Error) {
        {
            let mut seen = self.seen();
            if seen.nodes.contains_key(&node) {
                return;
            }
            if seen.nodes.len() == MAX_NAMED {
                seen.more += 1;
                return;
            }
            seen.nodes.insert(node, ());
        }
        // Finding the path reads the disk, so the lock is not held.
        let entry = Unreadable { path: view.path(node), error: error.report() };
        tracing::warn!(path = %entry.path, error = %entry.error, "cannot be read");
        if let Some(listener) = &self.listener {
            listener(&entry);
        }
        self.seen().named.push(entry);
    }

    /// The entries so far.
    #[must_use]
    pub fn entries(&self) -> Vec<Unreadable> {
        self.seen().named.clone()
    }

    /// Errors beyond those that are named; one file may be counted more than once here.
    #[must_use]
    pub fn unnamed(&self) -> u64 {
        self.seen().more
    }
}
