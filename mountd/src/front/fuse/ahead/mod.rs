//! Small files put into the kernel's cache before they are asked for.
//!
//! A small file costs its reader one round trip to this process, which is many times the cost of its bytes.
//! Who reads a folder file by file is therefore run ahead of: threads of their own read the files that come
//! next and store them in the kernel (`FUSE_NOTIFY_STORE`), whole, so that reading them never gets here.
//!
//! ```text
//!  READ ──► Ahead::read ──► Policy: is somebody going through this folder? ──► Window ──► queue
//!                                                                                           │
//!  kernel's pages ◄── store ◄── read whole ◄── list the folder, small files, one left out ◄─┘ worker
//! ```
//! A file that cannot be read whole is not stored: its reader asks for it and gets the error.
//!
//! A store waits for pages that a READ has locked, so it is never made by a thread that answers READs.

mod policy;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::Notifier;

use self::policy::{Policy, Window};
use crate::view::{NodeId, View};

/// Longest file that is small: what one request of the kernel can carry.
const SMALL: u64 = 1 << 20;
/// Threads that run ahead. Most of them wait for storage that answers slowly, or do nothing.
const WORKERS: usize = 8;
/// Reading a small file takes longer than this where the storage has to be waited for: then another thread helps.
const SLOW: Duration = Duration::from_micros(200);
/// Windows that may wait. More are refused: their readers are no worse off than without.
const QUEUED: usize = 8;
/// Fewer files than this tell nothing about their reader, so none is left out.
const MARKED: usize = 4;

/// See the [module](self).
pub(super) struct Ahead {
    view: Arc<dyn View>,
    state: Mutex<State>,
    work: Condvar,
    stored: AtomicU64,
}

#[derive(Default)]
struct State {
    policy: Policy,
    windows: VecDeque<Window>,
    /// Files of the windows that were listed, with their lengths, in the order in which they will be read.
    files: VecDeque<(NodeId, u64)>,
    stopped: bool,
}

/// What a thread does next.
enum Task {
    List(Window),
    /// Stores a file of that length.
    Store(NodeId, u64),
}

impl Ahead {
    pub(super) fn new(view: Arc<dyn View>) -> Arc<Self> {
        Arc::new(Ahead { view, state: Mutex::default(), work: Condvar::new(), stored: AtomicU64::new(0) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Consistent between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the kernel reads `node`, a file of `len` bytes, from its start.
    pub(super) fn read(&self, node: NodeId, len: u64) {
        if len > SMALL {
            return;
        }
        // Not under the lock: it may read. Without a folder there is nothing to run ahead in.
        let Ok(dir) = self.view.parent(node) else { return };
        let mut state = self.state();
        if let Some(window) = state.policy.read(dir, node)
            && state.windows.len() < QUEUED
        {
            state.windows.push_back(window);
            drop(state);
            self.work.notify_one();
        }
    }

    /// Files stored so far.
    pub(super) fn stored(&self) -> u64 {
        self.stored.load(Relaxed)
    }

    /// Starts the threads. Until then, and after [`Workers::stop`], nothing is stored.
    pub(super) fn start(self: &Arc<Self>, notifier: &Notifier) -> Workers {
        let spawn = |number| {
            let (ahead, notifier) = (Arc::clone(self), notifier.clone());
            let name = format!("ahead-{number}");
            std::thread::Builder::new().name(name).spawn(move || worker::run(&ahead, &notifier))
        };
        // Without a thread reading is slower, and that is all.
        let threads = (0..WORKERS).filter_map(|number| spawn(number).ok()).collect();
        Workers { ahead: Arc::clone(self), threads }
    }

    /// What to do next, when there is something; `None` when it is time to end.
    fn next(&self) -> Option<Task> {
        let mut state = self.state();
        loop {
            if state.stopped {
                return None;
            }
            if let Some((node, len)) = state.files.pop_front() {
                if state.policy.was_read(node) {
                    continue;
                }
                return Some(Task::Store(node, len));
            }
            if let Some(window) = state.windows.pop_front() {
                return Some(Task::List(window));
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes what a window turned out to be: its files, and where it ends unless at the end of the folder.
    fn listed(&self, dir: NodeId, mut files: Vec<(NodeId, u64)>, next: Option<u64>) {
        let marker = (files.len() >= MARKED).then(|| files.remove(files.len() / 2).0);
        let mut state = self.state();
        state.policy.listed(dir, marker, next);
        state.files.extend(files);
    }

    /// Wakes another thread when there is more to do.
    fn help(&self) {
        let state = self.state();
        let more = !state.files.is_empty() || !state.windows.is_empty();
        drop(state);
        if more {
            self.work.notify_one();
        }
    }
}

/// Running threads.
pub(super) struct Workers {
    ahead: Arc<Ahead>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Ends the threads, each after the file it is at.
    pub(super) fn stop(self) {
        self.ahead.state().stopped = true;
        self.ahead.work.notify_all();
        for thread in self.threads {
            // A panic has been printed by its thread.
            drop(thread.join());
        }
        tracing::debug!(files = self.ahead.stored(), "stored ahead of readers");
    }
}
