//! The content of a non-resident attribute as a block: runs are translated, not read.

use std::ops::Range;
use std::sync::Arc;

use vcb_block::{Block, BlockRef, Result, Runs, check_range, plan};

use super::runlist::RunList;

/// A stream stored in clusters of the volume. Holes and everything past the initialized size are zeros.
pub(super) struct StreamBlock {
    volume: BlockRef,
    runs: Arc<RunList>,
    cluster_shift: u32,
    size: u64,
    initialized: u64,
}

impl StreamBlock {
    /// `size` bytes, of which the first `initialized` have ever been written. The caller has checked that
    /// `runs` describe at least that many and lie within `volume`.
    pub(super) fn new(volume: BlockRef, runs: Arc<RunList>, cluster_shift: u32, size: u64, initialized: u64) -> Self {
        StreamBlock { volume, runs, cluster_shift, size, initialized: initialized.min(size) }
    }

    /// Where byte `offset` lies on the volume; `None` in a hole and past the last run.
    pub(super) fn place(&self, offset: u64) -> Option<u64> {
        let vcn = offset >> self.cluster_shift;
        let run = self.runs.from(vcn).first()?;
        let start = run.lcn()? + (vcn - run.vcn);
        Some((start << self.cluster_shift) + offset % (1 << self.cluster_shift))
    }
}

impl Block for StreamBlock {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        plan::read_mapped(self, buf, offset)
    }

    fn map(&self, range: Range<u64>, out: &mut Runs) -> Result<()> {
        check_range(self.size, range.start, range.end.saturating_sub(range.start))?;
        let stored_end = range.end.min(self.initialized);
        let mut position = range.start;
        for run in self.runs.from(position >> self.cluster_shift) {
            if position >= stored_end {
                break;
            }
            let start = run.vcn << self.cluster_shift;
            let stop = ((run.vcn + run.len) << self.cluster_shift).min(stored_end);
            match run.lcn() {
                None => out.push_zero(stop - position),
                Some(lcn) => {
                    let at = (lcn << self.cluster_shift) + (position - start);
                    out.map_child(&self.volume, at..at + (stop - position))?;
                }
            }
            position = stop;
        }
        // Runs that end early leave a gap, which the length check of whoever asked turns into an error.
        out.push_zero(range.end.saturating_sub(range.start.max(self.initialized)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use vcb_block::{MemBlock, conformance};

    use super::*;

    #[test]
    fn runs_holes_and_the_unwritten_end() {
        let bytes: Vec<u8> = (0..64 * 512u32).map(|i| (i / 512 * 7 + i) as u8).collect();
        let mut runs = RunList::default();
        // Clusters 40..44, a hole of 3, clusters 10..15.
        runs.append(&[0x11, 4, 40, 0x01, 3, 0x11, 5, 0xE2, 0], 12, 64).unwrap();
        let mut expected = bytes[40 * 512..44 * 512].to_vec();
        expected.resize(7 * 512, 0);
        expected.extend_from_slice(&bytes[10 * 512..15 * 512]);
        let volume: BlockRef = Arc::new(MemBlock::new(bytes));
        let runs = Arc::new(runs);
        for (size, initialized) in
            [(6144, 6144), (6000, 6000), (6000, 5000), (6144, 0), (6144, 1), (6000, 3000), (0, 0), (100, 6000)]
        {
            let stream: BlockRef =
                Arc::new(StreamBlock::new(volume.clone(), runs.clone(), 9, size as u64, initialized as u64));
            let mut want = expected[..size].to_vec();
            want.get_mut(initialized..).into_iter().for_each(|rest| rest.fill(0));
            conformance::check(&stream, 7);
            conformance::same_bytes(&stream, &want, 7);
        }
    }
}
