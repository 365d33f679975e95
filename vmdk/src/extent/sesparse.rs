//! ESXi's space-efficient sparse deltas (extent type SESPARSE): all deltas on VMFS-6, those above 2 TiB on
//! VMFS-5.
//!
//! VMware publishes no specification. The layout is the one that QEMU (`block/vmdk.c`) and Xen Orchestra
//! found independently by observation; what it leaves open is refused. All fields are 64 bits,
//! little-endian, in sectors. The file is a row of regions:
//!
//! ```text
//!   header | volatile header | journal header | journal | directory | tables | bitmap | backmap | grains
//! ```

use std::sync::Arc;

use vcb_block::bytes::le64;
use vcb_block::{BlockRef, Error, Result};

use super::grains::{Format, Grains, Shape, TableAt};
use super::table::Place;
use crate::cache::Cache;

const LAYER: &str = "vmdk-sesparse";

/// The first four bytes.
pub(crate) const MAGIC: &[u8; 4] = b"\xBE\xBA\xFE\xCA";
/// Bytes of the header.
pub(crate) const HEADER: usize = 512;
const CONST_MAGIC: u64 = 0xCAFE_BABE;
const VOLATILE_MAGIC: u64 = 0xCAFE_CAFE;
/// Version 2.1, the only one seen.
const VERSION: u64 = 0x2_0000_0001;
/// Sectors of a grain in every file seen.
pub(crate) const GRAIN: u64 = 8;
/// Sectors of a grain table in every file seen.
const TABLE: u64 = 64;
const ENTRIES: u32 = 4096;
/// Largest disk of VMware's: 62 TiB, rounded up.
const MAX_CAPACITY: u64 = 64 << 31;

/// Why a delta is refused though its structures are sound.
#[derive(Debug, thiserror::Error)]
#[error("the journal holds writes that were not applied: the host crashed, or the disk is in use")]
pub struct DirtyJournal;

/// A part of the file.
#[derive(Debug, Clone, Copy)]
struct Region {
    name: &'static str,
    /// Sectors.
    start: u64,
    size: u64,
}

impl Region {
    fn bytes(self) -> std::ops::Range<u64> {
        self.start * 512..(self.start + self.size) * 512
    }
}

/// The fields of a header that matter.
#[derive(Debug, Clone)]
pub(crate) struct SeSparseHeader {
    /// Sectors.
    pub(crate) capacity: u64,
    regions: Vec<Region>,
}

/// Regions in the order of the header's fields 10 to 25.
const REGIONS: [&str; 8] = [
    "volatile header",
    "journal header",
    "journal",
    "grain directory",
    "grain tables",
    "free bitmap",
    "backmap",
    "grains",
];
const VOLATILE: usize = 0;
const DIRECTORY: usize = 3;
const TABLES: usize = 4;
const BACKMAP: usize = 6;
const GRAINS: usize = 7;

impl SeSparseHeader {
    /// # Errors
    /// Corrupt or unsupported, with the offset of the field.
    pub(crate) fn parse(raw: &[u8]) -> Result<Self> {
        let field = |index: usize| le64(raw, index * 8).ok_or_else(|| Error::corrupt(LAYER, "the header is cut short"));
        for (index, name, expected) in
            [(0, "magic", CONST_MAGIC), (1, "version", VERSION), (3, "grain size", GRAIN), (4, "table size", TABLE)]
        {
            let found = field(index)?;
            if found != expected {
                let text = format!("{name} {found:#x} instead of {expected:#x}");
                return Err(Error::unsupported(LAYER, text).at(index as u64 * 8));
            }
        }
        for index in 5..10 {
            let found = field(index)?;
            if found != 0 {
                return Err(Error::unsupported(LAYER, format!("unknown flags {found:#x}")).at(index as u64 * 8));
            }
        }
        let capacity = field(2)?;
        if capacity > MAX_CAPACITY {
            return Err(Error::corrupt(LAYER, format!("a capacity of {capacity} sectors")).at(16));
        }
        let mut regions = Vec::with_capacity(REGIONS.len());
        for (number, name) in REGIONS.into_iter().enumerate() {
            let at = 10 + number * 2;
            let (start, size) = (field(at)?, field(at + 1)?);
            let end = start.checked_add(size).and_then(|end| end.checked_mul(512));
            if end.is_none_or(|end| end > i64::MAX as u64) {
                return Err(Error::corrupt(LAYER, format!("{name} at sector {start}")).at(at as u64 * 8));
            }
            regions.push(Region { name, start, size });
        }
        let header = SeSparseHeader { capacity, regions };
        header.check_regions()?;
        Ok(header)
    }

    /// Refuses regions that share sectors or are too small. A region looked for in a wrong place would read
    /// as a delta without changes, so this is what stands between a damaged header and wrong bytes.
    fn check_regions(&self) -> Result<()> {
        let mut sorted: Vec<Region> = self.regions.iter().copied().filter(|region| region.size > 0).collect();
        sorted.push(Region { name: "header", start: 0, size: 1 });
        sorted.sort_by_key(|region| region.start);
        for pair in sorted.windows(2) {
            if pair[0].start + pair[0].size > pair[1].start {
                let text = format!("{} and {} share sector {}", pair[0].name, pair[1].name, pair[1].start);
                return Err(Error::corrupt(LAYER, text).at(80));
            }
        }
        let tables = self.capacity.div_ceil(GRAIN * u64::from(ENTRIES));
        if self.regions[DIRECTORY].size * 64 < tables {
            let text = format!("a grain directory of {} sectors for {tables} tables", self.regions[DIRECTORY].size);
            return Err(Error::corrupt(LAYER, text).at(136));
        }
        if self.regions[VOLATILE].size == 0 {
            return Err(Error::corrupt(LAYER, "no volatile header").at(88));
        }
        Ok(())
    }

    /// Reads the volatile header: true when the journal has to be replayed.
    pub(crate) fn is_dirty(&self, file: &BlockRef) -> Result<bool> {
        let at = self.volatile();
        let mut raw = [0; 32];
        file.read_at(&mut raw, at)?;
        if le64(&raw, 0) != Some(VOLATILE_MAGIC) {
            return Err(Error::corrupt(LAYER, "no magic in the volatile header").at(at));
        }
        Ok(le64(&raw, 24) != Some(0))
    }

    /// Byte offset of the volatile header.
    pub(crate) fn volatile(&self) -> u64 {
        self.regions[VOLATILE].bytes().start
    }
}

/// Entries of 64 bits with a type in the highest four.
pub(crate) struct SeSparse {
    /// First sector and number of tables.
    tables: (u64, u64),
    /// First sector and number of grains.
    grains: (u64, u64),
    /// First byte and number of entries of the back map: the guest's grain for every stored one, written as
    /// table entries of type 1 (observed in files of ESXi).
    backmap: (u64, u64),
}

/// The number in a table or back map entry, whose lowest 12 bits are stored above the others.
fn number(entry: u64) -> u64 {
    (entry & 0x0FFF_0000_0000_0000) >> 48 | (entry & 0x0000_FFFF_FFFF_FFFF) << 12
}

impl Format for SeSparse {
    const LAYER: &'static str = LAYER;

    fn directory_entry(&self, entry: u64) -> Result<TableAt, String> {
        if entry == 0 {
            return Ok(TableAt::Hole);
        }
        let index = entry & 0xFFFF_FFFF;
        if entry >> 32 != 0x1000_0000 {
            return Err(format!("unknown entry {entry:#x}"));
        }
        if index >= self.tables.1 {
            return Err(format!("table {index} of {}", self.tables.1));
        }
        Ok(TableAt::Offset((self.tables.0 + index * TABLE) * 512))
    }

    fn grain_entry(&self, entry: u64) -> Result<Place, String> {
        match entry >> 60 {
            0 if entry == 0 => Ok(Place::HOLE),
            // 1: unmapped by the guest, which then reads zeros, not the parent; the grain it had before is
            // still named. 2: zeros.
            1 | 2 => Ok(Place::ZERO),
            3 => {
                let index = number(entry);
                if index >= self.grains.1 {
                    return Err(format!("grain {index} of {}", self.grains.1));
                }
                Ok(Place::stored((self.grains.0 + index * GRAIN) * 512))
            }
            _ => Err(format!("unknown entry {entry:#x}")),
        }
    }

    fn cross_check(&self, file: &BlockRef, at: u64, guest: u64, count: u64) -> Result<Option<u64>> {
        let first = (at / 512 - self.grains.0) / GRAIN;
        let place = self.backmap.0 + first * 8;
        if first + count > self.backmap.1 || place + count * 8 > file.len() {
            return Ok(None);
        }
        // At most a table's 4096 entries.
        let mut raw = vec![0; count as usize * 8];
        file.read_at(&mut raw, place)?;
        let entries = (guest..).zip(raw.chunks_exact(8));
        let differs = |(grain, entry): (u64, &[u8])| {
            let entry = le64(entry, 0)?;
            // An entry of another type means something that has not been observed.
            (entry >> 60 == 1 && number(entry) != grain).then_some(grain)
        };
        Ok(entries.filter_map(differs).next())
    }
}

/// Opens the map of a delta.
pub(crate) fn open(header: &SeSparseHeader, file: BlockRef, cache: Arc<Cache>) -> Result<Grains<SeSparse>> {
    let region = |number: usize| header.regions[number];
    let directory = region(DIRECTORY).bytes().start;
    let mut shape = Shape {
        len: header.capacity * 512,
        grain: GRAIN * 512,
        entries: ENTRIES,
        width: 8,
        directory,
        redundant: None,
        reserved: Vec::new(),
        compressed: false,
    };
    shape.check_directory(LAYER, directory, file.len())?;
    // Tables and grains are indices into their own regions, which are known not to share sectors.
    shape.reserved.push(0..HEADER as u64);
    let format = SeSparse {
        tables: (region(TABLES).start, region(TABLES).size / TABLE),
        grains: (region(GRAINS).start, region(GRAINS).size / GRAIN),
        backmap: (region(BACKMAP).bytes().start, region(BACKMAP).size * 64),
    };
    Ok(Grains::new(format, shape, file, cache, false))
}
