//! LZNT1-compressed attributes: the content in compression units, each stored in one of three ways.
//!
//! ```text
//!   clusters of a unit (16 by default):   all stored       as they are
//!                                         none stored      zeros
//!                                         some, then none  LZNT1 in those stored
//! ```

use std::ops::Range;
use std::sync::Arc;

use vcb_block::{BlockRef, Error, Kind, Result, Runs, plan};

use super::decoded::{Codec, Decoded, UnitCache};
use super::{Damage, LAYER, lznt1};

/// Longest compression unit: 16 clusters of 64 KiB. NTFS itself compresses up to clusters of 4 KiB.
const LONGEST_UNIT: u32 = 1 << 20;

/// What the run list of an attribute says about where it is stored. The map of its block cannot answer that:
/// clusters that are stored may still be a hole of the disk below.
pub trait Allocation: Send + Sync {
    /// How many bytes of `range` are stored on the volume. `range` is one compression unit.
    ///
    /// # Errors
    /// `Corrupt` when clusters are stored behind a hole within the range.
    fn stored(&self, range: Range<u64>) -> Result<u64>;
}

/// A compressed attribute as it lies on the volume.
pub struct Compressed {
    /// Its clusters in order, holes included, up to the allocated length; nothing cut or zeroed.
    pub raw: BlockRef,
    /// Which of them are stored.
    pub allocation: Arc<dyn Allocation>,
    /// Length of the content in bytes.
    pub size: u64,
    /// Bytes of content that have ever been written; those behind them are zeros.
    pub valid: u64,
    /// Length of a compression unit in bytes.
    pub unit: u32,
}

/// Opens the content of an LZNT1-compressed attribute.
///
/// # Errors
/// `Unsupported` for a compression unit that NTFS does not make.
pub fn open_compressed(attribute: Compressed, cache: &Arc<UnitCache>) -> Result<BlockRef> {
    let Compressed { size, unit, .. } = attribute;
    if !unit.is_power_of_two() || !(512..=LONGEST_UNIT).contains(&unit) {
        return Err(Error::new(Kind::Unsupported, LAYER, format!("compression units of {unit} bytes")));
    }
    Ok(Arc::new(Decoded::new(Units(attribute), size, u64::from(unit), cache.file())))
}

struct Units(Compressed);

impl Units {
    fn range(&self, unit: u64) -> Range<u64> {
        let len = u64::from(self.0.unit);
        let start = unit.saturating_mul(len);
        start..start.saturating_add(len)
    }

    /// Bytes of unit `index` that are stored, checked to be there.
    fn stored(&self, index: u64) -> Result<u64> {
        let range = self.range(index);
        let stored = self.0.allocation.stored(range.clone())?;
        let allocated = self.0.raw.len();
        if stored > 0 && (range.start > allocated || stored > allocated - range.start) {
            return Err(Damage::Stored { stored, allocated }.at(range.start));
        }
        Ok(stored)
    }

    /// How many bytes at the front of `len` bytes at `start` have ever been written.
    fn valid(&self, start: u64, len: usize) -> usize {
        usize::try_from(self.0.valid.saturating_sub(start)).unwrap_or(len).min(len)
    }
}

impl Codec for Units {
    fn decode(&self, first: u64, out: &mut [u8]) -> Result<()> {
        let unit = self.0.unit as usize;
        let start = self.range(first).start;
        let written = self.valid(start, out.len());
        let (content, unwritten) = out.split_at_mut(written);
        unwritten.fill(0);
        let count = content.len().div_ceil(unit);
        let stored = (0..count as u64).map(|index| self.stored(first + index)).collect::<Result<Vec<_>>>()?;
        // One planned read for all units, in which what is not stored costs nothing.
        let end = stored.iter().rposition(|&stored| stored > 0).map_or(0, |last| last * unit + stored[last] as usize);
        let mut raw = vec![0; end];
        plan::read(&self.0.raw, &mut raw, start)?;
        for ((index, part), stored) in content.chunks_mut(unit).enumerate().zip(stored) {
            let bytes = raw.get(index * unit..index * unit + stored as usize).unwrap_or_default();
            if bytes.is_empty() {
                part.fill(0);
            } else if bytes.len() == unit {
                part.copy_from_slice(&bytes[..part.len()]);
            } else {
                lznt1::decode(bytes, part).map_err(|damage| damage.at(start + (index * unit) as u64))?;
            }
        }
        Ok(())
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        let written = range.end.min(self.0.valid).max(range.start);
        let mut position = range.start;
        while position < written {
            let unit = self.range(position / u64::from(self.0.unit));
            let stop = unit.end.min(written);
            match self.stored(position / u64::from(self.0.unit))? {
                0 => runs.push_zero(stop - position),
                stored if stored == u64::from(self.0.unit) => runs.map_child(&self.0.raw, position..stop)?,
                _ => runs.push_opaque(stop - position),
            }
            position = stop;
        }
        runs.push_zero(range.end - written);
        Ok(())
    }
}
