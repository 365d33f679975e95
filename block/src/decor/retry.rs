//! Tries again what failed for a reason that may pass: a path of a SAN that is being switched over.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::{Block, BlockRef, Kind, Result, Runs, check_range, sys};

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

/// Repeats reads that fail with a transient error of the operating system (EIO, a lost link, a timeout).
/// Everything else, and what still fails after the last try, is passed on as it is. Its map points at
/// itself, so that planned reads are repeated too.
pub struct RetryBlock {
    inner: BlockRef,
    policy: RetryPolicy,
    retried: AtomicU64,
}

impl RetryBlock {
    /// Repeats reads of `inner`.
    #[must_use]
    pub fn new(inner: BlockRef, policy: RetryPolicy) -> Self {
        RetryBlock { inner, policy, retried: AtomicU64::new(0) }
    }

    /// Tries so far that were not the first.
    pub fn retried(&self) -> u64 {
        self.retried.load(Relaxed)
    }

    fn repeat(&self, mut read: impl FnMut() -> Result<()>) -> Result<()> {
        let mut pause = self.policy.pause;
        for _ in 0..self.policy.retries {
            match read() {
                Err(err) if err.kind() == Kind::Io && err.cause().is_some_and(sys::is_transient) => {}
                result => return result,
            }
            self.retried.fetch_add(1, Relaxed);
            std::thread::sleep(pause);
            pause *= 2;
        }
        read()
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
        let (a, b) = buf.split_at_mut(3);
        block.read_vectored_at(&mut [a, b], 250).unwrap();
        assert_eq!(buf[..3], [250, 0, 1]);
    }

    #[test]
    fn a_lasting_error_comes_out_after_the_last_try() {
        let block = faulty(1, Fault::EioForever);
        assert_eq!(block.read_at(&mut [0; 10], 0).unwrap_err().kind(), Kind::Io);
        assert_eq!(block.retried(), 2);
    }

    #[test]
    fn errors_that_will_not_pass_are_not_repeated() {
        let block = faulty(0, Fault::Eio);
        assert_eq!(block.read_at(&mut [0; 10], 99_999).unwrap_err().kind(), Kind::OutOfRange);
        assert_eq!(block.retried(), 0);
        conformance::check(&(Arc::new(block) as BlockRef), 3);
    }
}
