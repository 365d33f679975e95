//! Injects faults below a layer, for fault sweeps: fail the Nth read for N = 1, 2, … until nothing fails.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::{Block, BlockRef, Error, Result, Runs, check_range};

/// What happens at the chosen read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The read fails with EIO.
    Eio,
    /// Every read from the chosen one on fails.
    EioForever,
    /// One bit of the answer is flipped: what layers with checksums or redundancy must notice.
    FlipBit,
}

/// Passes reads on until the chosen one. Its map points at itself, so that planned reads meet it too.
pub struct FaultBlock {
    inner: BlockRef,
    /// Read number at which the fault happens, counted from 1; 0 is never.
    at: u64,
    fault: Fault,
    count: AtomicU64,
}

impl FaultBlock {
    /// No fault: only counts reads, to learn how many a sweep has to try.
    #[must_use]
    pub fn new(inner: BlockRef) -> Self {
        Self::at(inner, 0, Fault::Eio)
    }

    /// `fault` at read number `nth`, counted from 1.
    #[must_use]
    pub fn at(inner: BlockRef, nth: u64, fault: Fault) -> Self {
        FaultBlock { inner, at: nth, fault, count: AtomicU64::new(0) }
    }

    /// Reads seen so far.
    pub fn reads(&self) -> u64 {
        self.count.load(SeqCst)
    }

    /// True when the chosen read has happened.
    pub fn fired(&self) -> bool {
        self.at != 0 && self.reads() >= self.at
    }
}

impl Block for FaultBlock {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let number = self.count.fetch_add(1, SeqCst) + 1;
        let hit = self.at != 0 && (number == self.at || (self.fault == Fault::EioForever && number > self.at));
        if hit && self.fault != Fault::FlipBit {
            return Err(Error::io("fault", std::io::Error::from_raw_os_error(crate::sys::DEVICE_FAILED)).at(offset));
        }
        self.inner.read_at(buf, offset)?;
        if hit && let Some(byte) = buf.first_mut() {
            *byte ^= 1;
        }
        Ok(())
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len(), range.start, range.end.saturating_sub(range.start))?;
        runs.push_own_data(range.end - range.start);
        Ok(())
    }
}
