//! Listing windows, reading and storing their small files.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use fuser::{INodeNo, Notifier};
use vcb_block::{Error, Kind, Result, plan};
use vcb_fs::FileType;

use super::policy::{From, Window};
use super::{Ahead, SLOW, SMALL, Task};
use crate::view::{Entry, NodeId, View};

/// Entries looked at to find a reader's place in a folder, and then for one window.
const MAX_SOUGHT: usize = 100_000;
const MAX_LISTED: usize = 4096;

/// Lists windows and stores files until it is told to end.
pub(super) fn run(ahead: &Ahead, notifier: &Notifier) {
    let mut buffer = Vec::new();
    let view = ahead.view.as_ref();
    while let Some(task) = ahead.next() {
        // A defect met here is met again, and reported, by whoever reads the file.
        match task {
            Task::List(window) => {
                let listed = catch_unwind(AssertUnwindSafe(|| list(view, &window)));
                let listing = listed.unwrap_or_else(|_| Err(defect())).unwrap_or_default();
                ahead.listed(window.dir, listing.files, listing.next);
            }
            Task::Store(node, len) => {
                let began = Instant::now();
                let read = catch_unwind(AssertUnwindSafe(|| read(view, node, len, &mut buffer)));
                if began.elapsed() > SLOW {
                    ahead.help();
                }
                if read.unwrap_or_else(|_| Err(defect())).is_err() {
                    continue;
                }
                match notifier.store(INodeNo(node.0), 0, &buffer) {
                    Ok(()) => drop(ahead.stored.fetch_add(1, Relaxed)),
                    // That the kernel has forgotten the file is no error here.
                    Err(err) => tracing::debug!(%err, "cannot store ahead"),
                }
            }
        }
    }
}

fn defect() -> Error {
    Error::new(Kind::Io, "front", "a defect")
}

/// Small files with their lengths.
#[derive(Default)]
struct Listing {
    files: Vec<(NodeId, u64)>,
    /// Position after the last entry looked at; `None` at the end of the folder.
    next: Option<u64>,
}

fn list(view: &dyn View, window: &Window) -> Result<Listing> {
    let mut listing = Listing::default();
    let Some(start) = start(view, window)? else { return Ok(listing) };
    let (mut seen, mut bytes) = (0, 0);
    view.read_dir(window.dir, start, true, &mut |entry| {
        seen += 1;
        if let Some(len) = small(&entry) {
            listing.files.push((entry.node, len));
            bytes += len;
        }
        if listing.files.len() < window.files && bytes < window.bytes && seen < MAX_LISTED {
            return ControlFlow::Continue(());
        }
        listing.next = Some(entry.next);
        ControlFlow::Break(())
    })?;
    Ok(listing)
}

/// The position from which to list; `None` when the reader's place is not found.
fn start(view: &dyn View, window: &Window) -> Result<Option<u64>> {
    let node = match window.from {
        From::Position(position) => return Ok(Some(position)),
        From::File(node) => node,
    };
    let (mut seen, mut found) = (0, None);
    view.read_dir(window.dir, 0, false, &mut |entry| {
        seen += 1;
        if entry.node == node {
            // Near the beginning all is fetched, in whatever order it is read.
            found = Some(if seen <= window.files { 0 } else { entry.next });
        }
        if found.is_none() && seen < MAX_SOUGHT { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(found)
}

/// The length of a file that is to be stored.
fn small(entry: &Entry) -> Option<u64> {
    let Some(Ok(attr)) = &entry.attr else { return None };
    let readable = attr.kind == FileType::File && attr.unreadable.is_none();
    (readable && (1..=SMALL).contains(&attr.size)).then_some(attr.size)
}

/// Fills `buffer` with all bytes of `node`, which the kernel believes to be `len`.
fn read(view: &dyn View, node: NodeId, len: u64, buffer: &mut Vec<u8>) -> Result<()> {
    let block = view.open(node)?;
    if block.len() != len {
        return Err(Error::corrupt("front", format!("{} bytes where {len} were told", block.len())));
    }
    // At most SMALL.
    buffer.resize(len as usize, 0);
    plan::read(&block, buffer, 0)
}
