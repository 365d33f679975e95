//! Content made of units that are decoded as a whole, readable at any position.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use vcb_block::{Block, Result, Runs, check_range};

use crate::ntfs::cache::Cache;

/// Content decoded at a time: bounds the memory of one read, and is as much as a front end asks for.
const BATCH: u64 = 1 << 20;

/// Decoded units of all open files of a volume, bounded in bytes.
pub struct UnitCache {
    units: Cache<(u64, u64), Vec<u8>>,
    files: AtomicU64,
}

impl UnitCache {
    /// A cache of about `bytes`. With room for less than a unit it caches nothing, and reads stay right.
    #[must_use]
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(UnitCache { units: Cache::new(bytes), files: AtomicU64::new(0) })
    }

    /// A share of it for a file just opened.
    pub(super) fn file(self: &Arc<Self>) -> FileCache {
        FileCache { cache: Arc::clone(self), file: self.files.fetch_add(1, Relaxed) }
    }
}

/// One file's part of a [`UnitCache`].
pub(super) struct FileCache {
    cache: Arc<UnitCache>,
    file: u64,
}

impl FileCache {
    /// The value kept under `key`, or what `make` gives. Nothing is locked while it is made.
    pub(super) fn get(&self, key: u64, make: impl FnOnce() -> Result<Vec<u8>>) -> Result<Arc<Vec<u8>>> {
        if let Some(value) = self.cache.units.get(&(self.file, key)) {
            return Ok(value);
        }
        let value = Arc::new(make()?);
        self.cache.units.insert((self.file, key), Arc::clone(&value), value.len());
        Ok(value)
    }
}

/// How the units of one file are stored.
pub(super) trait Codec: Send + Sync {
    /// Fills `out`, which starts at unit `first` and ends at the end of a unit or of the content.
    fn decode(&self, first: u64, out: &mut [u8]) -> Result<()>;

    /// As [`Block::map`]. Codecs that store some units as they are say so here.
    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        runs.push_opaque(range.end - range.start);
        Ok(())
    }
}

/// The content as a block.
pub(super) struct Decoded<C> {
    codec: C,
    /// Length of the content in bytes.
    size: u64,
    /// Length of a unit in bytes, at most [`BATCH`].
    unit: u64,
    cache: FileCache,
}

impl<C: Codec> Decoded<C> {
    pub(super) fn new(codec: C, size: u64, unit: u64, cache: FileCache) -> Self {
        Decoded { codec, size, unit, cache }
    }

    /// Where unit `index` lies in the content.
    fn range(&self, index: u64) -> Range<u64> {
        let start = index * self.unit;
        start..start.saturating_add(self.unit).min(self.size)
    }
}

impl<C: Codec> Block for Decoded<C> {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, mut buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        let mut position = offset;
        while !buf.is_empty() {
            let first = position / self.unit;
            let range = self.range(first);
            let wanted = (range.end - position).min(buf.len() as u64);
            if wanted < range.end - range.start {
                // Neighbouring reads are likely to want the rest of this unit.
                let unit = self.cache.get(first, || {
                    let mut out = vec![0; (range.end - range.start) as usize];
                    self.codec.decode(first, &mut out)?;
                    Ok(out)
                })?;
                let skip = (position - range.start) as usize;
                let (part, rest) = buf.split_at_mut(wanted as usize);
                part.copy_from_slice(&unit[skip..skip + part.len()]);
                (buf, position) = (rest, position + wanted);
                continue;
            }
            let end = position + buf.len() as u64;
            let whole = if end == self.size { end - position } else { (end - position) / self.unit * self.unit };
            let batch = whole.min(BATCH / self.unit * self.unit);
            let (part, rest) = buf.split_at_mut(batch as usize);
            self.codec.decode(first, part)?;
            (buf, position) = (rest, position + batch);
        }
        Ok(())
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.size, range.start, range.end.saturating_sub(range.start))?;
        self.codec.map(range, runs)
    }
}
