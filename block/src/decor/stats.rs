//! Counts what is read through a block.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{Block, BlockRef, Result, Runs, check_range};

/// Counters, in units of calls and bytes. They only ever grow.
#[derive(Debug, Default)]
pub struct Stats {
    reads: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
}

impl Stats {
    /// Read calls that reached the block.
    pub fn reads(&self) -> u64 {
        self.reads.load(Relaxed)
    }

    /// Bytes asked for by those calls.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Calls that failed.
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    fn count(&self, bytes: u64, ok: bool) {
        self.reads.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        if !ok {
            self.errors.fetch_add(1, Relaxed);
        }
    }
}

/// Passes reads on and counts them. Its map points at itself, so that planned reads are counted too.
pub struct StatsBlock {
    inner: BlockRef,
    stats: Arc<Stats>,
}

impl StatsBlock {
    /// Counts reads of `inner` into `stats`.
    #[must_use]
    pub fn new(inner: BlockRef, stats: Arc<Stats>) -> Self {
        StatsBlock { inner, stats }
    }
}

impl Block for StatsBlock {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let result = self.inner.read_at(buf, offset);
        self.stats.count(buf.len() as u64, result.is_ok());
        result
    }

    fn read_vectored_at(&self, bufs: &mut [&mut [u8]], offset: u64) -> Result<()> {
        let bytes = bufs.iter().map(|buf| buf.len() as u64).sum();
        let result = self.inner.read_vectored_at(bufs, offset);
        self.stats.count(bytes, result.is_ok());
        result
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len(), range.start, range.end.saturating_sub(range.start))?;
        runs.push_own_data(range.end - range.start);
        Ok(())
    }
}
