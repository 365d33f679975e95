//! Makes ready what a sequential reader will want next, on threads of their own.
//!
//! For sources that take long to answer and that nobody reads ahead of otherwise: inflating keeps one core
//! busy, and a server's answer is a round trip away. Once reads follow each other, what comes behind them is
//! put on a list; a few threads make it, lowest first, and the reader takes it over. What the reader reaches
//! before a thread does, it makes itself. Nothing is kept that failed: the reader meets the error itself,
//! where it can be told.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Reads in sequence before anything is made ahead of them.
const STREAK: u32 = 2;
/// A thread that had nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(1);

/// What can be made ready, by the offset that it is for.
pub trait Source: Send + Sync + 'static {
    /// What is needed to make it.
    type Job: Copy + Send;

    /// Makes it, or gives up. Called by several threads at once.
    fn make(&self, job: Self::Job) -> Option<Box<[u8]>>;
}

/// How far to go.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Bytes of offsets to be ahead by; 0 turns it off.
    pub window: u64,
    /// How far from the expected offset a read may be and still belong to a sequential reader: several requests
    /// of one reader are under way at once, and arrive in any order.
    pub near: u64,
    /// Most threads.
    pub threads: usize,
}

enum Slot<J> {
    Wanted(J),
    Running,
    Ready(Box<[u8]>),
}

struct State<J> {
    slots: BTreeMap<u64, Slot<J>>,
    /// Where the reader is expected to go on.
    next: u64,
    /// Reads so far that were where they were expected.
    streak: u32,
    /// The end of what was put on the list.
    listed: u64,
    threads: usize,
    closed: bool,
}

struct Shared<S: Source> {
    source: Arc<S>,
    state: Mutex<State<S::Job>>,
    /// Told when there is work.
    work: Condvar,
    /// Told when a slot is no longer running.
    done: Condvar,
}

/// The list for one source. Any number of threads may use it. Dropped, it waits for what is being made, so that
/// the source is nobody's any more.
pub struct Ahead<S: Source> {
    shared: Arc<Shared<S>>,
    reach: Reach,
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl<S: Source> Ahead<S> {
    /// Nothing is made, and no thread is started, before there is a sequential reader.
    pub fn new(source: Arc<S>, reach: Reach) -> Self {
        let state = State { slots: BTreeMap::new(), next: 0, streak: 0, listed: 0, threads: 0, closed: false };
        let shared = Shared { source, state: Mutex::new(state), work: Condvar::new(), done: Condvar::new() };
        Ahead { shared: Arc::new(shared), reach, running: Mutex::default() }
    }

    /// What is ready for offset `at`, which is then no longer kept; waits when it is being made.
    pub fn take(&self, at: u64) -> Option<Box<[u8]>> {
        if self.reach.window == 0 {
            return None;
        }
        let mut state = self.shared.lock();
        while matches!(state.slots.get(&at), Some(Slot::Running)) {
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match state.slots.remove(&at) {
            Some(Slot::Ready(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Notes that `start..end` is being read. When that is in sequence and too little lies ready, `list` is
    /// asked for the jobs of a range of offsets, each with the offset it is for.
    pub fn note(&self, start: u64, end: u64, list: impl FnOnce(u64, u64) -> Vec<(u64, S::Job)>) {
        if self.reach.window == 0 {
            return;
        }
        let range = {
            let mut state = self.shared.lock();
            if start.abs_diff(state.next) > self.reach.near {
                state.streak = 0;
                state.next = end;
                state.listed = end;
                state.slots.retain(|_, slot| matches!(slot, Slot::Running));
                return;
            }
            state.next = state.next.max(end);
            state.streak = state.streak.saturating_add(1);
            let (next, listed) = (state.next, state.listed.max(state.next));
            if state.streak <= STREAK || listed - next > self.reach.window / 2 {
                return;
            }
            state.listed = next.saturating_add(self.reach.window);
            // What the reader left behind it will not be asked for.
            state.slots.retain(|&at, slot| matches!(slot, Slot::Running) || at.saturating_add(self.reach.near) >= next);
            (listed, state.listed)
        };
        let jobs = list(range.0, range.1);
        if jobs.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        for (at, job) in jobs {
            state.slots.entry(at).or_insert(Slot::Wanted(job));
        }
        let missing = self.reach.threads.saturating_sub(state.threads);
        state.threads += missing;
        drop(state);
        if missing > 0 {
            self.start(missing);
        }
        self.shared.work.notify_all();
    }

    fn start(&self, count: usize) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|thread| !thread.is_finished());
        for _ in 0..count {
            let shared = Arc::clone(&self.shared);
            match thread::Builder::new().name("read-ahead".into()).spawn(move || shared.run()) {
                Ok(thread) => running.push(thread),
                // Without it reading is slower, and that is all.
                Err(_) => self.shared.lock().threads -= 1,
            }
        }
    }
}

impl<S: Source> Drop for Ahead<S> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.slots.clear();
        drop(state);
        self.shared.work.notify_all();
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner);
        for thread in running.drain(..) {
            // It does not panic: what is made is guarded.
            drop(thread.join());
        }
    }
}

impl<S: Source> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, State<S::Job>> {
        // Every change of the state is whole when the lock is given up.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            if state.closed {
                break;
            }
            let wanted = state.slots.iter_mut().find_map(|(&at, slot)| {
                let &mut Slot::Wanted(job) = slot else { return None };
                *slot = Slot::Running;
                Some((at, job))
            });
            let Some((at, job)) = wanted else {
                let (guard, waited) = self.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
                state = guard;
                if waited.timed_out() && !state.slots.values().any(|slot| matches!(slot, Slot::Wanted(_))) {
                    break;
                }
                continue;
            };
            drop(state);
            // A slot left running would keep its reader waiting for ever.
            let made = catch_unwind(AssertUnwindSafe(|| self.source.make(job))).ok().flatten();
            state = self.lock();
            match made {
                // Running slots are removed by nobody else, unless all is closed.
                Some(bytes) if !state.closed => state.slots.insert(at, Slot::Ready(bytes)),
                _ => state.slots.remove(&at),
            };
            self.done.notify_all();
        }
        state.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    const STEP: u64 = 1 << 16;
    const REACH: Reach = Reach { window: 4 << 20, near: 1 << 20, threads: 4 };

    /// Makes the offset itself; every seventh fails, every eleventh panics.
    #[derive(Default)]
    struct Counting(AtomicU64);

    impl Source for Counting {
        type Job = u64;

        fn make(&self, at: u64) -> Option<Box<[u8]>> {
            self.0.fetch_add(1, Relaxed);
            assert!(!(at / STEP).is_multiple_of(11), "a panic that belongs to the test");
            (!(at / STEP).is_multiple_of(7)).then(|| at.to_le_bytes().into())
        }
    }

    fn list(from: u64, to: u64) -> Vec<(u64, u64)> {
        (from.div_ceil(STEP)..to.div_ceil(STEP)).map(|n| (n * STEP, n * STEP)).collect()
    }

    /// Waits until slot `at` is ready; false when it never will be.
    fn wait(ahead: &Ahead<Counting>, at: u64) -> bool {
        loop {
            match ahead.shared.lock().slots.get(&at) {
                Some(Slot::Ready(_)) => return true,
                None => return false,
                _ => {}
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    #[test]
    fn a_sequential_reader_gets_what_was_made_for_it() {
        let ahead = Ahead::new(Arc::new(Counting::default()), REACH);
        for n in 0..500 {
            ahead.note(n * STEP, (n + 1) * STEP, list);
            let expected = n > u64::from(STREAK) && n % 7 != 0 && n % 11 != 0;
            assert_eq!(wait(&ahead, n * STEP), expected, "{n}");
            assert_eq!(ahead.take(n * STEP), expected.then(|| (n * STEP).to_le_bytes().into()));
            assert!(ahead.shared.lock().slots.len() <= (4 << 20) / STEP as usize + 16 + REACH.threads);
        }
    }

    #[test]
    fn scattered_reads_start_nothing() {
        let source = Arc::new(Counting::default());
        let ahead = Ahead::new(Arc::clone(&source), REACH);
        for n in 0..100 {
            let at = (n * 7919 % 1000) * (32 << 20);
            ahead.note(at, at + 4096, list);
            assert!(ahead.take(at).is_none());
        }
        assert_eq!((source.0.load(Relaxed), ahead.shared.lock().threads), (0, 0));
    }

    #[test]
    fn readers_that_share_a_disk_get_the_right_bytes() {
        let ahead = Ahead::new(Arc::new(Counting::default()), Reach { window: 1 << 20, ..REACH });
        std::thread::scope(|scope| {
            for reader in 0..3 {
                let ahead = &ahead;
                scope.spawn(move || {
                    for n in reader * 10..reader * 10 + 500 {
                        ahead.note(n * STEP, (n + 1) * STEP, list);
                        if let Some(bytes) = ahead.take(n * STEP) {
                            assert_eq!(*bytes, (n * STEP).to_le_bytes());
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn threads_end_with_their_owner() {
        let ahead = Ahead::new(Arc::new(Counting::default()), Reach { window: 1 << 20, ..REACH });
        for n in 0..10 {
            ahead.note(n * STEP, (n + 1) * STEP, list);
        }
        let shared = Arc::downgrade(&ahead.shared);
        drop(ahead);
        assert!(shared.upgrade().is_none(), "a thread is still there");
    }
}
