//! ESXi's copy-on-write deltas ("COWD", extent type VMFSSPARSE), used on VMFS-3 and on VMFS-5 up to 2 TiB.
//!
//! Layout: VMware "Virtual Disk Format 5.0", chapter "ESX Server Sparse Extents". The parent's name in the
//! header is not used; the text descriptor has it. There is no code for a zero grain and no second copy of
//! anything.

use std::sync::Arc;

use vcb_block::bytes::le32;
use vcb_block::{BlockRef, Error, Result};

use super::grains::{Format, Grains, Shape, TableAt};
use super::table::Place;
use crate::cache::Cache;

const LAYER: &str = "vmdk-cowd";

/// The first four bytes.
pub(crate) const MAGIC: &[u8; 4] = b"COWD";
/// Bytes of the header.
pub(crate) const HEADER: u64 = 2048;
/// Entries of every grain table.
const ENTRIES: u32 = 4096;
/// Largest grain in sectors (technote: 1 MiB).
const MAX_GRAIN: u32 = 2048;
/// Where every known writer puts the directory: behind the header. A directory looked for in a wrong place
/// would read as a delta without changes.
const DIRECTORY: u32 = 4;

/// The fields of a header that matter.
#[derive(Debug, Clone)]
pub(crate) struct CowdHeader {
    /// Sectors.
    pub(crate) capacity: u64,
    /// Sectors, a power of two.
    pub(crate) grain: u64,
    pub(crate) unclean: bool,
}

impl CowdHeader {
    /// # Errors
    /// Corrupt or unsupported, with the offset of the field.
    pub(crate) fn parse(raw: &[u8]) -> Result<Self> {
        let field = |at: usize| le32(raw, at).ok_or_else(|| Error::corrupt(LAYER, "the header is cut short"));
        if raw.get(..4) != Some(MAGIC) {
            return Err(Error::corrupt(LAYER, "no COWD header").at(0));
        }
        let (version, sectors, grain, directory, tables) = (field(4)?, field(12)?, field(16)?, field(20)?, field(24)?);
        if version != 1 {
            return Err(Error::unsupported(LAYER, format!("header version {version}")).at(4));
        }
        if !grain.is_power_of_two() || grain > MAX_GRAIN {
            return Err(Error::corrupt(LAYER, format!("a grain of {grain} sectors")).at(16));
        }
        if directory != DIRECTORY {
            let text = format!("a grain directory at sector {directory} instead of {DIRECTORY}");
            return Err(Error::unsupported(LAYER, text).at(20));
        }
        let needed = u64::from(sectors).div_ceil(u64::from(grain) * u64::from(ENTRIES));
        if u64::from(tables) < needed {
            let text = format!("{tables} grain directory entries where {needed} are needed");
            return Err(Error::corrupt(LAYER, text).at(24));
        }
        Ok(CowdHeader { capacity: sectors.into(), grain: grain.into(), unclean: field(1648)? != 0 })
    }
}

/// Entries of 32 bits that count sectors.
pub(crate) struct Cowd;

impl Format for Cowd {
    const LAYER: &'static str = LAYER;

    fn directory_entry(&self, entry: u64) -> Result<TableAt, String> {
        Ok(if entry == 0 { TableAt::Hole } else { TableAt::Offset(entry * 512) })
    }

    fn grain_entry(&self, entry: u64) -> Result<Place, String> {
        Ok(if entry == 0 { Place::HOLE } else { Place::stored(entry * 512) })
    }
}

/// Opens the map of a delta.
pub(crate) fn open(header: &CowdHeader, file: BlockRef, cache: Arc<Cache>) -> Result<Grains<Cowd>> {
    let directory = u64::from(DIRECTORY) * 512;
    let mut shape = Shape {
        len: header.capacity * 512,
        grain: header.grain * 512,
        entries: ENTRIES,
        width: 4,
        directory,
        redundant: None,
        reserved: Vec::new(),
        compressed: false,
    };
    shape.check_directory(LAYER, directory, file.len())?;
    shape.reserved.push(0..directory + shape.directory_bytes());
    Ok(Grains::new(Cowd, shape, file, cache, false))
}
