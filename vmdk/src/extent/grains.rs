//! The engine of all sparse extents: a directory of tables of grains, read through the shared cache.
//!
//! ```text
//!   guest offset ── / coverage ──► directory entry ──► table ──► segment ──► byte offset in the file
//!                                  (cached by pages)   (cached, decoded to merged segments)
//! ```
//!
//! Formats differ in the width and meaning of entries, which is all that [`Format`] describes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use vcb_block::{BlockRef, Error, Kind, Result};

use super::table::{Place, Table, TableBuilder};
use super::{Cursor, Extent, Piece};
use crate::cache::{Cache, Cached, Key, owner};
use crate::check::Report;

/// Directory entries decoded and cached together.
const PAGE: u64 = 512;

/// Largest directory in bytes. 62 TiB, VMware's largest disk, need 32 MiB in SEsparse and 128 MiB in hosted
/// sparse with the smallest grains that are in use.
const MAX_DIRECTORY: u64 = 256 << 20;

/// Marks the keys of directory pages among those of tables.
const DIRECTORY: u64 = 1 << 63;
/// Marks the keys of the redundant copy.
const SECOND: u64 = 1 << 62;

/// Sizes of a two-level map, checked by whoever parses the header.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// Guest bytes.
    pub(crate) len: u64,
    /// Bytes in a grain, a power of two.
    pub(crate) grain: u64,
    /// Entries of a table, a power of two and at most [`Table::MAX_ENTRIES`].
    pub(crate) entries: u32,
    /// Bytes of an entry in directory and table: 4 or 8.
    pub(crate) width: usize,
    /// Byte offset of the directory.
    pub(crate) directory: u64,
    /// Byte offset of its redundant copy, which has tables of its own.
    pub(crate) redundant: Option<u64>,
    /// Bytes of the file that hold metadata and can hold no grain.
    pub(crate) reserved: Vec<Range<u64>>,
    /// True when grains are compressed, so that no two of them make one run.
    pub(crate) compressed: bool,
}

impl Shape {
    /// Guest bytes that one table covers. Grain and entries are bounded, so this does not overflow.
    pub(crate) fn coverage(&self) -> u64 {
        self.grain * u64::from(self.entries)
    }

    /// Number of tables.
    pub(crate) fn tables(&self) -> u64 {
        self.len.div_ceil(self.coverage())
    }

    /// Grains in table `index`; the last table may have fewer than the others.
    pub(crate) fn grains(&self, index: u64) -> u32 {
        let left = self.len - index * self.coverage();
        // At most `entries`, which is 32 bits.
        left.div_ceil(self.grain).min(u64::from(self.entries)) as u32
    }

    /// Bytes of the directory.
    pub(crate) fn directory_bytes(&self) -> u64 {
        self.tables() * self.width as u64
    }

    /// Checks that a directory at `offset` lies within a file of `file` bytes.
    pub(crate) fn check_directory(&self, layer: &'static str, offset: u64, file: u64) -> Result<()> {
        let bytes = self.directory_bytes();
        if bytes > MAX_DIRECTORY {
            return Err(Error::new(Kind::Limit, layer, format!("a grain directory of {bytes} bytes")).at(offset));
        }
        if offset.checked_add(bytes).is_none_or(|end| end > file) {
            let text = format!("the grain directory of {bytes} bytes passes the end of the file at {file:#x}");
            return Err(Error::corrupt(layer, text).at(offset));
        }
        Ok(())
    }

    /// A little-endian entry of `raw`.
    fn entry(&self, raw: &[u8]) -> u64 {
        let mut bytes = [0; 8];
        bytes[..raw.len()].copy_from_slice(raw);
        u64::from_le_bytes(bytes)
    }
}

/// What a directory entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableAt {
    /// No table: all its grains are holes.
    Hole,
    /// No table: all its grains are zeros.
    Zero,
    /// The byte offset of the table.
    Offset(u64),
}

impl TableAt {
    fn pack(self) -> u64 {
        match self {
            TableAt::Hole => 0,
            TableAt::Zero => 1,
            TableAt::Offset(offset) => offset,
        }
    }

    fn unpack(word: u64) -> Self {
        match word {
            0 => TableAt::Hole,
            1 => TableAt::Zero,
            offset => TableAt::Offset(offset),
        }
    }
}

/// The meaning of a format's entries. Offsets need not be checked against the file; the engine does that.
pub(crate) trait Format: Send + Sync {
    /// Layer name for errors.
    const LAYER: &'static str;

    /// Decodes a directory entry, or says what is wrong with it.
    fn directory_entry(&self, entry: u64) -> Result<TableAt, String>;

    /// Decodes a table entry, or says what is wrong with it.
    fn grain_entry(&self, entry: u64) -> Result<Place, String>;

    /// For `check`: compares `count` grains stored from byte `at` on, which are the guest's grains from
    /// `guest` on, with whatever else the format knows about them. Gives the first that differs.
    fn cross_check(&self, _file: &BlockRef, _at: u64, _guest: u64, _count: u64) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// A sparse extent's map.
pub(crate) struct Grains<F> {
    format: F,
    shape: Shape,
    file: BlockRef,
    cache: Arc<Cache>,
    owner: u64,
    /// Read on when two copies of a table disagree.
    allow_dirty: bool,
    warned: AtomicBool,
}

impl<F: Format> Grains<F> {
    /// Takes the shape as checked; reads nothing.
    pub(crate) fn new(format: F, shape: Shape, file: BlockRef, cache: Arc<Cache>, allow_dirty: bool) -> Self {
        Grains { format, shape, file, cache, owner: owner(), allow_dirty, warned: false.into() }
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    pub(crate) fn format(&self) -> &F {
        &self.format
    }

    pub(crate) fn file(&self) -> &BlockRef {
        &self.file
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Looks through the directory (both copies) and says what is wrong with it. Reads 4 or 8 bytes for every
    /// table; keeps nothing. Grains begin at `grains_from`: a file that has some, but no table, has its
    /// directory elsewhere.
    ///
    /// # Errors
    /// When a table is lost, because each copy of its entry is damaged.
    pub(crate) fn survey(&self, grains_from: u64) -> Result<Option<String>> {
        let mut damaged = [0u64; 2];
        let mut tables = 0u64;
        for page in 0..self.shape.tables().div_ceil(PAGE) {
            let first = self.load_page(page, false)?;
            let second = self.shape.redundant.map(|_| self.load_page(page, true)).transpose()?;
            for (number, &entry) in first.iter().enumerate() {
                let bad = [entry == BAD, second.as_ref().is_some_and(|second| second[number] == BAD)];
                tables += u64::from(entry != TableAt::Hole.pack());
                damaged[0] += u64::from(bad[0]);
                damaged[1] += u64::from(bad[1]);
                if bad[0] && (second.is_none() || bad[1]) {
                    let index = page * PAGE + number as u64;
                    return Err(self.bad_entry(index, self.shape.directory + index * self.shape.width as u64));
                }
            }
        }
        if tables == 0 && self.shape.len > 0 && self.file.len() > grains_from.saturating_add(self.shape.grain) {
            let text = format!("an empty grain directory, though there are grains from {grains_from:#x} on");
            return Err(Error::corrupt(F::LAYER, text).at(self.shape.directory));
        }
        Ok(match damaged {
            [0, 0] => None,
            [0, n] => Some(format!("{n} entries of the second grain directory are damaged; the first is used")),
            [n, 0] => Some(format!("{n} entries of the first grain directory are damaged; the second is used")),
            [_, _] => Some("both grain directories are damaged, in different places".to_owned()),
        })
    }

    /// Table `index`, decoded.
    pub(crate) fn table(&self, index: u64) -> Result<Arc<Cached>> {
        let key = Key { owner: self.owner, index };
        if let Some(table) = self.cache.get(key) {
            return Ok(table);
        }
        let table = self.load(index)?;
        Ok(self.cache.put(key, Cached::Table(table)))
    }

    /// Reads table `index`, both copies where there are two: a damaged one is replaced by the other, and
    /// two sound ones that disagree are an error, because nothing says which is right.
    fn load(&self, index: u64) -> Result<Table> {
        let first = self.load_copy(index, false);
        if self.shape.redundant.is_none() {
            return first;
        }
        match (first, self.load_copy(index, true)) {
            (Ok(first), Ok(second)) if first == second => Ok(first),
            (Ok(first), Ok(_)) if self.allow_dirty => {
                self.warn(index, "the two copies of a grain table differ; the first is used");
                Ok(first)
            }
            (Ok(_), Ok(_)) => {
                let text = format!("the two copies of grain table {index} are both sound and differ");
                Err(Error::corrupt(F::LAYER, text))
            }
            // Writers of two directories allocate every table, so "no table" beside a damaged copy is as
            // likely damage itself.
            (Ok(first), Err(_)) if self.has_table(index, false) => {
                self.warn(index, "the second copy of a grain table is damaged; the first is used");
                Ok(first)
            }
            (Err(_), Ok(second)) if self.has_table(index, true) => {
                self.warn(index, "the first copy of a grain table is damaged; the second is used");
                Ok(second)
            }
            (Err(err), _) | (_, Err(err)) => Err(err),
        }
    }

    fn has_table(&self, index: u64, second: bool) -> bool {
        matches!(self.locate(index, second), Ok(TableAt::Offset(_)))
    }

    fn warn(&self, index: u64, text: &'static str) {
        if !self.warned.swap(true, Relaxed) {
            tracing::warn!(layer = F::LAYER, table = index, "{text}");
        }
    }

    /// Reads one copy of table `index`.
    pub(crate) fn load_copy(&self, index: u64, second: bool) -> Result<Table> {
        let grains = self.shape.grains(index);
        let at = match self.locate(index, second)? {
            TableAt::Hole => return Ok(Table::uniform(Place::HOLE, grains)),
            TableAt::Zero => return Ok(Table::uniform(Place::ZERO, grains)),
            TableAt::Offset(at) => at,
        };
        let mut raw = vec![0; grains as usize * self.shape.width];
        self.file.read_at(&mut raw, at)?;
        let own = at..at + raw.len() as u64;
        let table = self.decode(index, &raw, at)?;
        self.check_reserved(&table, &own)?;
        if !self.shape.compressed {
            table.check_overlap(F::LAYER, self.shape.grain).map_err(|err| err.at(at))?;
        }
        Ok(table)
    }

    fn decode(&self, index: u64, raw: &[u8], at: u64) -> Result<Table> {
        let Shape { width, grain, .. } = self.shape;
        let mut builder = TableBuilder::new(if self.shape.compressed { 0 } else { grain });
        let mut guest = index * self.shape.coverage();
        for (number, entry) in raw.chunks_exact(width).enumerate() {
            let place = self.format.grain_entry(self.shape.entry(entry)).and_then(|place| {
                let Some(offset) = place.offset() else { return Ok(place) };
                // The last grain of a disk may be cut off at the disk's end; a compressed one has a header.
                let need = if self.shape.compressed { 4 } else { grain.min(self.shape.len - guest) };
                match offset.checked_add(need) {
                    Some(end) if end <= self.file.len() => Ok(place),
                    _ => Err(format!("a grain at {offset:#x} passes the end of the file at {:#x}", self.file.len())),
                }
            });
            let place = place.map_err(|text| {
                let text = format!("grain {number} of table {index}: {text}");
                Error::corrupt(F::LAYER, text).at(at + (number * width) as u64)
            })?;
            builder.push(place);
            guest += grain;
        }
        Ok(builder.finish())
    }

    /// Refuses grains that lie in the headers, in a directory or in their own table.
    fn check_reserved(&self, table: &Table, own: &Range<u64>) -> Result<()> {
        let unit = if self.shape.compressed { 4 } else { self.shape.grain };
        for segment in table.segments() {
            let Some(start) = segment.place.offset() else { continue };
            let end = start + u64::from(segment.end - segment.start) * unit;
            let hit = self.shape.reserved.iter().chain([own]).find(|r| start < r.end && r.start < end);
            if let Some(range) = hit {
                let text = format!("a grain at {start:#x} lies in the metadata at {:#x}", range.start);
                return Err(Error::corrupt(F::LAYER, text).at(own.start));
            }
        }
        Ok(())
    }

    /// Where table `index` is, by the directory's cached pages.
    pub(crate) fn locate(&self, index: u64, second: bool) -> Result<TableAt> {
        let page = index / PAGE;
        let mark = if second { DIRECTORY | SECOND } else { DIRECTORY };
        let key = Key { owner: self.owner, index: page | mark };
        let cached = match self.cache.get(key) {
            Some(cached) => cached,
            None => self.cache.put(key, Cached::Directory(self.load_page(page, second)?)),
        };
        let Cached::Directory(entries) = &*cached else { return Err(mixed_up(F::LAYER)) };
        let entry = entries.get((index % PAGE) as usize).copied();
        let at = self.directory(second) + index * self.shape.width as u64;
        match entry {
            Some(BAD) | None => Err(self.bad_entry(index, at)),
            Some(word) => Ok(TableAt::unpack(word)),
        }
    }

    fn directory(&self, second: bool) -> u64 {
        if second { self.shape.redundant.unwrap_or(self.shape.directory) } else { self.shape.directory }
    }

    /// Reads and decodes a page of the directory. A bad entry is kept as [`BAD`], so that it harms only the
    /// table it stands for.
    fn load_page(&self, page: u64, second: bool) -> Result<Box<[u64]>> {
        let width = self.shape.width;
        let first = page * PAGE;
        let count = (self.shape.tables() - first).min(PAGE);
        let mut raw = vec![0; count as usize * width];
        self.file.read_at(&mut raw, self.directory(second) + first * width as u64)?;
        let decode = |(number, entry): (usize, &[u8])| {
            self.table_at(first + number as u64, self.shape.entry(entry)).map_or(BAD, TableAt::pack)
        };
        Ok(raw.chunks_exact(width).enumerate().map(decode).collect())
    }

    /// Decodes a directory entry and checks that the table lies within the file, behind the header.
    fn table_at(&self, index: u64, entry: u64) -> Result<TableAt, String> {
        let at = self.format.directory_entry(entry)?;
        if let TableAt::Offset(offset) = at {
            let bytes = u64::from(self.shape.grains(index)) * self.shape.width as u64;
            let end = offset.checked_add(bytes).filter(|&end| end <= self.file.len());
            let end = end.ok_or_else(|| {
                format!("a table at {offset:#x} passes the end of the file at {:#x}", self.file.len())
            })?;
            if self.shape.reserved.iter().any(|r| offset < r.end && r.start < end) {
                return Err(format!("a table at {offset:#x} lies in other metadata"));
            }
        }
        Ok(at)
    }

    /// The error for directory entry `index`, which is read again for its text.
    fn bad_entry(&self, index: u64, at: u64) -> Error {
        let mut raw = vec![0; self.shape.width];
        let text = match self.file.read_at(&mut raw, at) {
            Ok(()) => self.table_at(index, self.shape.entry(&raw)).err(),
            Err(err) => return err,
        };
        let text = text.unwrap_or_else(|| "damaged when first read".to_owned());
        Error::corrupt(F::LAYER, format!("grain directory entry {index}: {text}")).at(at)
    }
}

/// A directory entry that was refused.
const BAD: u64 = u64::MAX;

fn mixed_up(layer: &'static str) -> Error {
    Error::new(Kind::Corrupt, layer, "the cache returned something else than was put into it")
}

impl<F: Format> Grains<F> {
    /// The place of the grains at guest `offset`, how far into them `offset` is, and how many bytes of them
    /// lie before `end`.
    pub(crate) fn segment(&self, cursor: &mut Cursor, offset: u64, end: u64) -> Result<(Place, u64, u64)> {
        let coverage = self.shape.coverage();
        let key = Key { owner: self.owner, index: offset / coverage };
        if cursor.key != Some(key) || cursor.table.is_none() {
            cursor.table = Some(self.table(key.index)?);
            cursor.key = Some(key);
            cursor.segment = 0;
        }
        let Some(Cached::Table(table)) = cursor.table.as_deref() else { return Err(mixed_up(F::LAYER)) };
        let start = key.index * coverage;
        // Below `entries`, which is 32 bits.
        let grain = ((offset - start) / self.shape.grain) as u32;
        cursor.segment = table.find(grain, cursor.segment);
        let segment = table.segment(cursor.segment).ok_or_else(|| mixed_up(F::LAYER))?;
        let first = start + u64::from(segment.start) * self.shape.grain;
        let stop = (start + u64::from(segment.end) * self.shape.grain).min(end);
        Ok((segment.place, offset - first, stop - offset))
    }

    /// Where the segment after the cursor's is stored, if it is in the same table.
    pub(crate) fn next_place(&self, cursor: &Cursor) -> Option<u64> {
        let Some(Cached::Table(table)) = cursor.table.as_deref() else { return None };
        table.segment(cursor.segment + 1)?.place.offset()
    }
}

impl<F: Format> Extent for Grains<F> {
    fn len(&self) -> u64 {
        self.shape.len
    }

    fn piece(&self, cursor: &mut Cursor, offset: u64, end: u64) -> Result<(Piece<'_>, u64)> {
        let (place, into, len) = self.segment(cursor, offset, end)?;
        let piece = match place.offset() {
            Some(at) => Piece::Child(&self.file, at + into),
            None if place == Place::ZERO => Piece::Zero,
            None => Piece::Hole,
        };
        Ok((piece, len))
    }

    fn check(&self, report: &mut Report) -> Result<()> {
        self.check_tables(report)?;
        self.check_overlaps(report)
    }
}
