//! Work done by several threads, its results taken in order by one.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};

/// Results that may wait for an earlier one, per thread: enough to keep all threads busy while one of
/// them is slow, and a bound of the memory that waiting results take.
const AHEAD: u64 = 4;

struct State<T> {
    /// The next job to hand out.
    next: u64,
    /// The next result to be taken.
    due: u64,
    done: BTreeMap<u64, T>,
    /// Set when nothing more is to be done.
    stop: bool,
}

/// Calls `make` for 0 to `count` on `threads` threads and `take` with the results in order on this thread.
///
/// # Errors
/// The first failure of `take`, after which no more jobs are begun.
pub(super) fn ordered<T: Send, E>(
    count: u64,
    threads: usize,
    make: impl Fn(u64) -> T + Sync,
    mut take: impl FnMut(u64, T) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads.max(1);
    let window = threads as u64 * AHEAD;
    let state = Mutex::new(State { next: 0, due: 0, done: BTreeMap::new(), stop: false });
    let changed = Condvar::new();
    let work = || {
        loop {
            let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
            while !now.stop && now.next < count && now.next >= now.due + window {
                now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
            }
            if now.stop || now.next >= count {
                return;
            }
            let index = now.next;
            now.next += 1;
            drop(now);
            // Stops the others when `make` panics, so that the panic is seen instead of a wait without end.
            let mut guard = StopOnPanic { state: &state, changed: &changed, armed: true };
            let result = make(index);
            guard.armed = false;
            state.lock().unwrap_or_else(PoisonError::into_inner).done.insert(index, result);
            changed.notify_all();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
        let mut outcome = Ok(());
        for index in 0..count {
            let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
            let result = loop {
                if let Some(result) = now.done.remove(&index) {
                    break Some(result);
                }
                if now.stop {
                    break None;
                }
                now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
            };
            now.due = index + 1;
            drop(now);
            changed.notify_all();
            let Some(result) = result else { break };
            outcome = take(index, result);
            if outcome.is_err() {
                break;
            }
        }
        state.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        changed.notify_all();
        outcome
    })
}

struct StopOnPanic<'a, T> {
    state: &'a Mutex<State<T>>,
    changed: &'a Condvar,
    armed: bool,
}

impl<T> Drop for StopOnPanic<'_, T> {
    fn drop(&mut self) {
        if self.armed {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn results_come_in_order_whatever_the_threads_do() {
        let mut taken = Vec::new();
        let make = |index: u64| {
            std::thread::sleep(Duration::from_micros((index * 7919) % 97));
            index * 2
        };
        let outcome: Result<(), ()> = ordered(500, 7, make, |index, result| {
            taken.push((index, result));
            Ok(())
        });
        outcome.unwrap();
        assert!(taken.iter().enumerate().all(|(i, &(index, result))| index == i as u64 && result == index * 2));
        assert_eq!(taken.len(), 500);
    }

    #[test]
    fn a_failure_ends_the_work() {
        let made = std::sync::atomic::AtomicU64::new(0);
        let make = |index: u64| made.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + index;
        let outcome = ordered(1_000_000, 4, make, |index, _| if index == 10 { Err("stop") } else { Ok(()) });
        assert_eq!(outcome, Err("stop"));
        assert!(made.into_inner() < 100);
    }

    #[test]
    fn nothing_to_do_is_done_at_once() {
        ordered(0, 4, |_| (), |_, ()| Err(())).unwrap();
    }
}
