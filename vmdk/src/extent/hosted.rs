//! Hosted sparse extents ("KDMV"), as Workstation, Fusion and Player write them.
//!
//! Layout: VMware "Virtual Disk Format 5.0", chapter "Hosted Sparse Extents".

use std::sync::Arc;

use vcb_block::bytes::{le16, le32, le64, u8_at};
use vcb_block::{BlockRef, Error, Result};

use super::Table;
use super::grains::{Format, Grains, Shape, TableAt};
use super::table::Place;
use crate::cache::Cache;

const LAYER: &str = "vmdk-sparse";

/// The first four bytes.
pub(crate) const MAGIC: &[u8; 4] = b"KDMV";
/// The first four bytes while a stream is being written (open-vmdk).
pub(crate) const UNFINISHED: &[u8; 4] = b"kdmv";

/// Bytes of the header.
pub(crate) const HEADER: usize = 512;

const NEWLINES: u32 = 1 << 0;
const REDUNDANT: u32 = 1 << 1;
const ZERO_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
/// Flags from bit 16 on change how data is stored; a reader must refuse the ones it does not know.
const INCOMPATIBLE: u32 = 0xFFFF_0000;

/// `gd` of a stream whose directory is found through its footer.
pub(crate) const GD_AT_END: u64 = u64::MAX;

/// Largest grain in sectors: 16 MiB. VMware writes 8 to 128; the technote allows any power of two, and a
/// compressed grain is inflated into memory.
const MAX_GRAIN: u64 = 0x8000;

/// The header of a hosted sparse extent, checked field by field.
#[derive(Debug, Clone)]
pub(crate) struct HostedHeader {
    pub(crate) version: u32,
    flags: u32,
    /// Sectors.
    pub(crate) capacity: u64,
    /// Sectors, a power of two.
    pub(crate) grain: u64,
    /// Sectors.
    pub(crate) descriptor_offset: u64,
    /// Sectors.
    pub(crate) descriptor_size: u64,
    entries: u32,
    rgd: u64,
    /// Sectors, or [`GD_AT_END`].
    pub(crate) gd: u64,
    /// Sectors before the first grain, as far as the writer cared.
    pub(crate) overhead: u64,
    pub(crate) unclean: bool,
}

impl HostedHeader {
    /// # Errors
    /// Corrupt or unsupported, with the offset of the field.
    pub(crate) fn parse(raw: &[u8]) -> Result<Self> {
        let short = || Error::corrupt(LAYER, "the header is cut short");
        let u32_at = |at| le32(raw, at).ok_or_else(short);
        let u64_at = |at| le64(raw, at).ok_or_else(short);
        if raw.get(..4) == Some(UNFINISHED) {
            return Err(Error::corrupt(LAYER, "the stream was never finished by the program that wrote it").at(0));
        }
        if raw.len() < HEADER || raw.get(..4) != Some(MAGIC) {
            return Err(short());
        }
        let header = HostedHeader {
            version: u32_at(4)?,
            flags: u32_at(8)?,
            capacity: u64_at(12)?,
            grain: u64_at(20)?,
            descriptor_offset: u64_at(28)?,
            descriptor_size: u64_at(36)?,
            entries: u32_at(44)?,
            rgd: u64_at(48)?,
            gd: u64_at(56)?,
            overhead: u64_at(64)?,
            unclean: u8_at(raw, 72).ok_or_else(short)? != 0,
        };
        header.check(raw)?;
        Ok(header)
    }

    fn check(&self, raw: &[u8]) -> Result<()> {
        if !(1..=3).contains(&self.version) {
            return Err(Error::unsupported(LAYER, format!("header version {}", self.version)).at(4));
        }
        if self.flags & INCOMPATIBLE & !(COMPRESSED | MARKERS) != 0 {
            return Err(Error::unsupported(LAYER, format!("header flags {:#x}", self.flags)).at(8));
        }
        if self.flags & NEWLINES != 0 && raw.get(73..77) != Some(b"\n \r\n") {
            let text = "the newline test fails: the file went through a text conversion";
            return Err(Error::corrupt(LAYER, text).at(73));
        }
        let algorithm = le16(raw, 77).unwrap_or(0);
        if self.is_compressed() && algorithm != 1 {
            return Err(Error::unsupported(LAYER, format!("compression algorithm {algorithm}")).at(77));
        }
        if !self.is_compressed() && algorithm != 0 {
            let text = format!("compression algorithm {algorithm} without the flag for compressed grains");
            return Err(Error::corrupt(LAYER, text).at(77));
        }
        if self.capacity > i64::MAX as u64 / 512 {
            return Err(Error::corrupt(LAYER, format!("a capacity of {} sectors", self.capacity)).at(12));
        }
        // Files that only carry a descriptor leave the map's fields alone.
        if self.capacity == 0 {
            return Ok(());
        }
        if !self.grain.is_power_of_two() || self.grain > MAX_GRAIN {
            return Err(Error::corrupt(LAYER, format!("a grain of {} sectors", self.grain)).at(20));
        }
        if !self.entries.is_power_of_two() || self.entries > Table::MAX_ENTRIES {
            return Err(Error::corrupt(LAYER, format!("{} entries in a grain table", self.entries)).at(44));
        }
        Ok(())
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.flags & COMPRESSED != 0
    }

    /// The byte range of the embedded descriptor, if there is one.
    ///
    /// # Errors
    /// Corrupt when it is not within a file of `file` bytes.
    pub(crate) fn descriptor(&self, file: u64) -> Result<Option<(u64, u64)>> {
        if self.descriptor_offset == 0 || self.descriptor_size == 0 {
            return Ok(None);
        }
        let offset = self.descriptor_offset.checked_mul(512).filter(|&offset| offset < file);
        let size = self.descriptor_size.checked_mul(512);
        match offset.zip(size) {
            // The last sector of a descriptor need not be whole.
            Some((offset, size)) => Ok(Some((offset, size.min(file - offset)))),
            None => Err(Error::corrupt(LAYER, "the embedded descriptor lies past the end of the file").at(28)),
        }
    }

    /// True when grains begin with the guest sector that they hold.
    pub(crate) fn has_markers(&self) -> bool {
        self.flags & MARKERS != 0
    }

    /// Sizes of the map, and what is wrong with one of its directories when the other makes up for it.
    pub(crate) fn shape(&self, file: u64) -> Result<(Shape, Option<String>)> {
        if self.capacity == 0 {
            return Err(Error::corrupt(LAYER, "a header that only carries a descriptor, used as an extent").at(12));
        }
        let header = 0..HEADER as u64;
        let mut shape = Shape {
            len: self.capacity * 512,
            grain: self.grain * 512,
            entries: self.entries,
            width: 4,
            directory: 0,
            redundant: None,
            reserved: vec![header],
            compressed: self.is_compressed(),
        };
        if let Some((offset, size)) = self.descriptor(file)? {
            shape.reserved.push(offset..offset + size);
        }
        let size = shape.directory_bytes();
        let directory = |sectors: u64, field: u64| {
            let offset = sectors
                .checked_mul(512)
                .filter(|&offset| offset != 0)
                .ok_or_else(|| Error::corrupt(LAYER, format!("a grain directory at sector {sectors}")).at(field))?;
            shape.check_directory(LAYER, offset, file)?;
            if shape.reserved.iter().any(|r| offset < r.end && r.start < offset + size) {
                return Err(Error::corrupt(LAYER, "the grain directory lies in other metadata").at(offset));
            }
            Ok(offset)
        };
        let first = directory(self.gd, 56);
        let second = (self.flags & REDUNDANT != 0 && self.rgd != 0 && self.rgd != self.gd && !self.is_compressed())
            .then(|| directory(self.rgd, 48));
        let (first, second, warning) = match (first, second) {
            (Ok(first), None) => (first, None, None),
            (Ok(first), Some(Ok(second))) => (first, Some(second), None),
            (Ok(first), Some(Err(err))) => (first, None, Some(format!("no second grain directory: {}", err.report()))),
            (Err(err), Some(Ok(second))) => {
                (second, None, Some(format!("the second grain directory is used: {}", err.report())))
            }
            (Err(err), _) => return Err(err),
        };
        shape.directory = first;
        shape.redundant = second;
        shape.reserved.extend([Some(first), second].into_iter().flatten().map(|at| at..at + size));
        Ok((shape, warning))
    }
}

/// Entries of 32 bits that count sectors.
pub(crate) struct Hosted {
    zero_grains: bool,
}

impl Format for Hosted {
    const LAYER: &'static str = LAYER;

    fn directory_entry(&self, entry: u64) -> Result<TableAt, String> {
        match entry {
            0 => Ok(TableAt::Hole),
            1 if self.zero_grains => Ok(TableAt::Zero),
            sector => Ok(TableAt::Offset(sector * 512)),
        }
    }

    fn grain_entry(&self, entry: u64) -> Result<Place, String> {
        Ok(match entry {
            0 => Place::HOLE,
            // Sector 1 is the descriptor's or a table's, never a grain's, whatever the flag says.
            1 => Place::ZERO,
            sector => Place::stored(sector * 512),
        })
    }
}

impl Hosted {
    pub(crate) fn new(header: &HostedHeader) -> Self {
        Hosted { zero_grains: header.flags & ZERO_GRAINS != 0 }
    }
}

/// Opens the map of an uncompressed extent.
pub(crate) fn open(
    header: &HostedHeader,
    file: BlockRef,
    cache: Arc<Cache>,
    allow_dirty: bool,
) -> Result<(Grains<Hosted>, Vec<String>)> {
    let (shape, warning) = header.shape(file.len())?;
    let grains = Grains::new(Hosted::new(header), shape, file, cache, allow_dirty);
    let damage = grains.survey(header.overhead.saturating_mul(512))?;
    Ok((grains, warning.into_iter().chain(damage).collect()))
}
