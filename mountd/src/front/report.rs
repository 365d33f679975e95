//! What could not be read while a view was mounted: one entry per file, however often it was tried.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use vcb_block::Error;

use crate::view::{NodeId, View};

/// Files that are named in a report, to bound memory.
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
    seen: Mutex<HashSet<NodeId>>,
    listener: Option<Listener>,
}

/// Stands for all that is shown; no node has it.
const EVERYTHING: NodeId = NodeId(0);
/// Stands for those beyond [`MAX_NAMED`].
const MORE: NodeId = NodeId(u64::MAX);

impl Report {
    /// Passes each entry on. `listener` is called by the thread that met the error.
    #[must_use]
    pub fn with_listener(listener: impl Fn(&Unreadable) + Send + Sync + 'static) -> Self {
        Report { seen: Mutex::default(), listener: Some(Box::new(listener)) }
    }

    /// True when `node` was not noted before.
    fn is_news(&self, node: NodeId) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(node)
    }

    /// Notes that `node` could not be read, and logs it when it is news.
    pub fn add(&self, view: &dyn View, node: NodeId, error: &Error) {
        let full = self.seen.lock().unwrap_or_else(PoisonError::into_inner).len() >= MAX_NAMED;
        if full {
            if self.is_news(MORE) {
                self.enter("(more)".to_owned(), format!("more than {MAX_NAMED} files cannot be read"));
            }
        } else if self.is_news(node) {
            // Finding the path reads the disk, so no lock is held.
            self.enter(view.path(node), error.report());
        }
    }

    /// Notes something that concerns all that is shown.
    pub fn add_whole(&self, error: &Error) {
        if self.is_news(EVERYTHING) {
            self.enter("(everything)".to_owned(), error.report());
        }
    }

    fn enter(&self, path: String, error: String) {
        tracing::warn!(%path, %error, "cannot be read");
        if let Some(listener) = &self.listener {
            listener(&Unreadable { path, error });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vcb_block::Kind;

    use super::*;
    use crate::view::testing::vm_of;
    use crate::view::{FileOptions, FileView};

    #[test]
    fn every_file_is_entered_once_and_a_flood_is_one_line() {
        let entries = Arc::new(Mutex::new(Vec::new()));
        let report = Report::with_listener({
            let entries = Arc::clone(&entries);
            move |entry| entries.lock().unwrap().push(entry.path.clone())
        });
        let view = FileView::new(&vm_of(vec![]), &FileOptions::default()).unwrap();
        let error = Error::new(Kind::Io, "test", "broken");
        for number in 1..MAX_NAMED as u64 + 100 {
            report.add(&view, NodeId(number), &error);
            report.add(&view, NodeId(number), &error);
        }
        report.add_whole(&error);
        report.add_whole(&error);
        let entries = entries.lock().unwrap();
        assert_eq!(entries.len(), MAX_NAMED + 2);
        assert_eq!(entries[MAX_NAMED..], ["(more)", "(everything)"]);
    }
}
