//! Tries again what failed for a reason that may pass: a path of a SAN that is being switched over.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::{Block, BlockRef, Error, Kind, Result, Runs, check_range, sys};

/// For how long an error that passed is still told of.
const CALM: Duration = Duration::from_secs(60);

/// How often and after which pauses a read is tried again.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Tries after the first.
    pub retries: u32,
    /// Pause before the first of them; each further pause is twice as long.
    pub pause: Duration,
}

impl Default for RetryPolicy {
    /// Pauses of 0.25, 0.5, 1, 2, 4 and 8 seconds: together longer than a path needs to fail over, shorter
    /// than the patience of backup software.
    fn default() -> Self {
        RetryPolicy { retries: 6, pause: Duration::from_millis(250) }
    }
}

/// What is wrong with storage that is being read, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TroubleKind {
    /// Reads failed and succeeded when they were repeated.
    Degraded,
    /// Reads fail although they are repeated.
    Failed,
    /// What was opened is no longer what is on the storage. Does not pass.
    Voided,
}

/// Trouble with storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// How bad it is.
    pub kind: TroubleKind,
    /// When it began.
    pub since: SystemTime,
    /// Where, and the last error.
    pub reason: String,
}

/// Errors of one run of bad luck.
struct Errors {
    since: SystemTime,
    last: Instant,
    count: u64,
    failing: bool,
    error: String,
}

/// Repeats reads that fail with a transient error of the operating system (EIO, a lost link, a timeout).
/// Everything else, and what still fails after the last try, is passed on as it is. Its map points at
/// itself, so that planned reads are repeated too.
pub struct RetryBlock {
    inner: BlockRef,
    policy: RetryPolicy,
    retried: AtomicU64,
    /// True when there may be something in `errors`: good reads look no further.
    failing: AtomicBool,
    errors: Mutex<Option<Errors>>,
}

impl RetryBlock {
    /// Repeats reads of `inner`.
    #[must_use]
    pub fn new(inner: BlockRef, policy: RetryPolicy) -> Self {
        RetryBlock {
            inner,
            policy,
            retried: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            errors: Mutex::default(),
        }
    }

    /// Tries so far that were not the first.
    pub fn retried(&self) -> u64 {
        self.retried.load(Relaxed)
    }

    /// What is wrong: reads that fail for good until one succeeds again, errors that passed for a minute.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        let errors = self.errors();
        let found = errors.as_ref().filter(|errors| errors.failing || errors.last.elapsed() < CALM)?;
        let reason = if found.failing {
            format!("reads fail, the last with: {}", found.error)
        } else {
            format!("{} reads were repeated, the last after: {}", found.count, found.error)
        };
        let kind = if found.failing { TroubleKind::Failed } else { TroubleKind::Degraded };
        Some(Trouble { kind, since: found.since, reason })
    }

    fn errors(&self) -> MutexGuard<'_, Option<Errors>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, err: &Error, failing: bool) {
        let mut errors = self.errors();
        let known = errors.take().filter(|known| known.failing || known.last.elapsed() < CALM);
        let (since, count) = known.map_or_else(|| (SystemTime::now(), 0), |known| (known.since, known.count));
        let count = count + u64::from(!failing);
        *errors = Some(Errors { since, last: Instant::now(), count, failing, error: err.report() });
        self.failing.store(failing, Relaxed);
    }

    fn recovered(&self) {
        if self.failing.swap(false, Relaxed)
            && let Some(errors) = self.errors().as_mut()
        {
            errors.failing = false;
        }
    }

    fn repeat(&self, mut read: impl FnMut() -> Result<()>) -> Result<()> {
        let mut pause = self.policy.pause;
        let mut left = self.policy.retries;
        loop {
            match read() {
                Ok(()) => {
                    self.recovered();
                    return Ok(());
                }
                Err(err) if err.kind() == Kind::Io && err.cause().is_some_and(sys::is_transient) => {
                    self.note(&err, left == 0);
                    if left == 0 {
                        return Err(err);
                    }
                }
                Err(err) => return Err(err),
            }
            left -= 1;
            self.retried.fetch_add(1, Relaxed);
            std::thread::sleep(pause);
            pause *= 2;
        }
    }
}

impl Block for RetryBlock {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.repeat(|| self.inner.read_at(buf, offset))
    }

    fn read_vectored_at(&self, bufs: &mut [&mut [u8]], offset: u64) -> Result<()> {
        self.repeat(|| self.inner.read_vectored_at(bufs, offset))
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len(), range.start, range.end.saturating_sub(range.start))?;
        runs.push_own_data(range.end - range.start);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Fault, FaultBlock, MemBlock, conformance};

    const POLICY: RetryPolicy = RetryPolicy { retries: 2, pause: Duration::from_millis(1) };

    fn faulty(nth: u64, fault: Fault) -> RetryBlock {
        let memory: BlockRef = Arc::new(MemBlock::new((0..100_000u32).map(|i| (i % 251) as u8).collect()));
        RetryBlock::new(Arc::new(FaultBlock::at(memory, nth, fault)), POLICY)
    }

    #[test]
    fn a_passing_error_is_not_seen() {
        let block = faulty(1, Fault::Eio);
        let mut buf = [0; 10];
        block.read_at(&mut buf, 5).unwrap();
        assert_eq!((buf[0], block.retried()), (5, 1));
        let trouble = block.trouble().unwrap();
        assert_eq!(trouble.kind, TroubleKind::Degraded);
        assert!(trouble.reason.starts_with("1 reads were repeated"), "{}", trouble.reason);
        let (a, b) = buf.split_at_mut(3);
        block.read_vectored_at(&mut [a, b], 250).unwrap();
        assert_eq!(buf[..3], [250, 0, 1]);
    }

    #[test]
    fn a_lasting_error_comes_out_after_the_last_try() {
        let block = faulty(1, Fault::EioForever);
        assert_eq!(block.read_at(&mut [0; 10], 0).unwrap_err().kind(), Kind::Io);
        assert_eq!(block.retried(), 2);
        let trouble = block.trouble().unwrap();
        assert_eq!(trouble.kind, TroubleKind::Failed);
        assert!(trouble.since <= SystemTime::now() && trouble.reason.contains("reads fail"), "{trouble:?}");
    }

    #[test]
    fn a_read_that_succeeds_ends_the_failure() {
        // Three tries fail, which is all that the policy allows; the next read is good.
        let memory: BlockRef = Arc::new(MemBlock::new(vec![7; 100]));
        let mut block: BlockRef = memory;
        for nth in [1, 1, 1] {
            block = Arc::new(FaultBlock::at(block, nth, Fault::Eio));
        }
        let block = RetryBlock::new(block, POLICY);
        assert!(block.trouble().is_none());
        block.read_at(&mut [0; 10], 0).unwrap_err();
        assert_eq!(block.trouble().unwrap().kind, TroubleKind::Failed);
        block.read_at(&mut [0; 10], 0).unwrap();
        assert_eq!(block.trouble().unwrap().kind, TroubleKind::Degraded);
    }

    #[test]
    fn errors_that_will_not_pass_are_not_repeated() {
        let block = faulty(0, Fault::Eio);
        assert_eq!(block.read_at(&mut [0; 10], 99_999).unwrap_err().kind(), Kind::OutOfRange);
        assert_eq!(block.retried(), 0);
        assert!(block.trouble().is_none());
        conformance::check(&(Arc::new(block) as BlockRef), 3);
    }
}
