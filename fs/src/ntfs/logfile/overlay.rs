//! A volume with some of its bytes replaced in memory.

use std::ops::Range;
use std::sync::Arc;

use vcb_block::{Block, BlockRef, Error, Kind, MemBlock, Result, Runs, check_range, plan};

use super::LAYER;

/// What a replay changes: nothing of it is ever written to the volume.
#[derive(Default)]
pub struct Overlay {
    /// By offset, without overlaps.
    patches: Vec<(u64, BlockRef)>,
    /// MFT records among them: number and offset.
    records: Vec<(u64, u64)>,
    /// Changes redone.
    pub redone: u64,
    /// Changes of unfinished transactions taken back.
    pub undone: u64,
}

impl Overlay {
    pub(super) fn new(patches: Vec<(u64, Vec<u8>)>, records: Vec<(u64, u64)>, redone: u64, undone: u64) -> Self {
        let patches = patches.into_iter().map(|(at, bytes)| (at, Arc::new(MemBlock::new(bytes)) as BlockRef));
        Overlay { patches: patches.collect(), records, redone, undone }
    }

    /// True when the volume is as the log says already.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patches.is_empty()
    }

    /// Bytes of the volume that are replaced.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.patches.iter().map(|(_, patch)| patch.len()).sum()
    }

    /// The MFT records that are replaced: number, and byte offset on the volume. A log of another volume shows
    /// itself by records that lie elsewhere in the $MFT.
    #[must_use]
    pub fn records(&self) -> &[(u64, u64)] {
        &self.records
    }

    /// `volume` with the changes in place.
    ///
    /// # Errors
    /// `OutOfRange` when a change lies outside of `volume`.
    pub fn apply(self, volume: BlockRef) -> Result<BlockRef> {
        if self.is_empty() {
            return Ok(volume);
        }
        for (at, patch) in &self.patches {
            if at.checked_add(patch.len()).is_none_or(|end| end > volume.len()) {
                return Err(Error::new(Kind::OutOfRange, LAYER, "a change lies outside of the volume").at(*at));
            }
        }
        Ok(Arc::new(Patched { volume, patches: self.patches }))
    }
}

struct Patched {
    volume: BlockRef,
    patches: Vec<(u64, BlockRef)>,
}

impl Block for Patched {
    fn len(&self) -> u64 {
        self.volume.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        plan::read_mapped(self, buf, offset)
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len(), range.start, range.end.saturating_sub(range.start))?;
        let mut position = range.start;
        let first = self.patches.partition_point(|(at, patch)| at + patch.len() <= position);
        for (at, patch) in &self.patches[first..] {
            if *at >= range.end {
                break;
            }
            if position < *at {
                runs.map_child(&self.volume, position..*at)?;
                position = *at;
            }
            let end = (at + patch.len()).min(range.end);
            runs.map_child(patch, position - at..end - at)?;
            position = end;
        }
        if position < range.end {
            runs.map_child(&self.volume, position..range.end)?;
        }
        Ok(())
    }
}
