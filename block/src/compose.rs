//! Blocks made of other blocks: a window, a concatenation, zeros, memory.

use std::ops::Range;

use crate::{Block, BlockRef, Error, Kind, Result, Runs, check_range, plan};

/// A part of a block: a partition, an extent, a file inside an archive.
pub struct Window {
    inner: BlockRef,
    start: u64,
    len: u64,
}

impl Window {
    /// `len` bytes of `inner` from `start`.
    ///
    /// # Errors
    /// [`Kind::OutOfRange`] when they do not lie within `inner`.
    pub fn new(inner: BlockRef, start: u64, len: u64) -> Result<Self> {
        check_range(inner.len(), start, len)?;
        Ok(Window { inner, start, len })
    }
}

impl Block for Window {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.len, offset, buf.len() as u64)?;
        self.inner.read_at(buf, self.start + offset)
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len, range.start, range.end.saturating_sub(range.start))?;
        runs.map_child(&self.inner, self.start + range.start..self.start + range.end)
    }

    fn host_file(&self) -> Option<&std::fs::File> {
        (self.start == 0 && self.len == self.inner.len()).then(|| self.inner.host_file())?
    }
}

/// Blocks one after another: the extents of a disk, the parts of a spanned volume.
pub struct Concat {
    parts: Vec<BlockRef>,
    /// Where each part ends, ascending.
    ends: Vec<u64>,
}

impl Concat {
    /// The parts in order; empty parts are allowed and disappear.
    ///
    /// # Errors
    /// [`Kind::Limit`] when the sum passes `u64`.
    pub fn new(parts: Vec<BlockRef>) -> Result<Self> {
        let parts: Vec<BlockRef> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let mut ends = Vec::with_capacity(parts.len());
        let mut end = 0u64;
        for part in &parts {
            end = end
                .checked_add(part.len())
                .ok_or_else(|| Error::new(Kind::Limit, "block", "concatenated parts pass 2^64 bytes"))?;
            ends.push(end);
        }
        Ok(Concat { parts, ends })
    }
}

impl Block for Concat {
    fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        plan::read_mapped(self, buf, offset)
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len(), range.start, range.end.saturating_sub(range.start))?;
        let mut position = range.start;
        let mut index = self.ends.partition_point(|&end| end <= position);
        while position < range.end {
            let end = self.ends[index];
            let start = end - self.parts[index].len();
            let stop = end.min(range.end);
            runs.map_child(&self.parts[index], position - start..stop - start)?;
            position = stop;
            index += 1;
        }
        Ok(())
    }

    fn host_file(&self) -> Option<&std::fs::File> {
        if let [only] = self.parts.as_slice() { only.host_file() } else { None }
    }
}

/// Zeros.
pub struct ZeroBlock {
    len: u64,
}

impl ZeroBlock {
    /// `len` zeros.
    #[must_use]
    pub fn new(len: u64) -> Self {
        ZeroBlock { len }
    }
}

impl Block for ZeroBlock {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.len, offset, buf.len() as u64)?;
        buf.fill(0);
        Ok(())
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len, range.start, range.end.saturating_sub(range.start))?;
        runs.push_zero(range.end - range.start);
        Ok(())
    }
}

/// Bytes in memory.
pub struct MemBlock {
    bytes: Vec<u8>,
}

impl MemBlock {
    /// A block over `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        MemBlock { bytes }
    }
}

impl Block for MemBlock {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.len(), offset, buf.len() as u64)?;
        // The range check bounds both ends by a length that is a usize.
        let start = offset as usize;
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        Ok(())
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
    use crate::{FaultBlock, Stats, StatsBlock, conformance};

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    #[test]
    fn every_composed_block_keeps_the_contract() {
        let mem: BlockRef = Arc::new(MemBlock::new(bytes(70_001)));
        conformance::check(&mem, 1);
        conformance::check(&(Arc::new(ZeroBlock::new(5000)) as BlockRef), 2);
        let window: BlockRef = Arc::new(Window::new(mem.clone(), 777, 60_000).unwrap());
        conformance::check(&window, 3);
        let concat: BlockRef = Arc::new(
            Concat::new(vec![window.clone(), Arc::new(ZeroBlock::new(4096)), Arc::new(ZeroBlock::new(0)), mem.clone()])
                .unwrap(),
        );
        conformance::check(&concat, 4);
        conformance::check(&(Arc::new(FaultBlock::new(concat.clone())) as BlockRef), 5);
        conformance::check(&(Arc::new(StatsBlock::new(concat, Arc::new(Stats::default()))) as BlockRef), 6);
    }

    #[test]
    fn a_window_outside_its_block_is_refused() {
        let mem: BlockRef = Arc::new(MemBlock::new(vec![0; 10]));
        assert!(Window::new(mem.clone(), 5, 6).is_err());
        assert!(Window::new(mem, u64::MAX, 2).is_err());
    }
}
