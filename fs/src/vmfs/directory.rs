//! Directories: a plain array in VMFS-3 and 5, hashed blocks in VMFS-6.
//!
//! ```text
//!  VMFS-3/5   records of 0x8C bytes: type, descriptor address, generation, name[128]; address 0 = unused
//!
//!  VMFS-6     0x00000  header: entries, map blocks, self, parent, hash table
//!             0x10000  blocks of 4 KiB: allocation maps, entries (14 a block), links of hash chains
//! ```
//! The hash table only speeds up the search for one name. Listings are read whole from the entry blocks, and a
//! name is looked up in the listing: fewer structures to trust. The number of entries that the header
//! records must come out exactly, so that no damage can hide a file.
//!
//! Layout: docs/formats/vmfs.md, section "Directories".

use std::collections::HashMap;
use std::time::Instant;

use vcb_block::bytes::{le16, le32, u8_at};
use vcb_block::{Block, Error, Kind, Result};

use super::address::descriptor_item;
use super::error::{LAYER, corrupt, short, unsupported};
use super::file::VmfsFile;
use super::geometry::{Geometry, Version};

/// Longest directory we read. VMFS allows some 130,000 files in one folder: 40 MB of VMFS-6 entries.
const MAX_LEN: u64 = 256 << 20;
/// Bytes read at a time: whole blocks of VMFS-6.
const CHUNK: usize = 1 << 18;
const RECORD: usize = 0x8C;

const BLOCK: usize = 4096;
const BLOCKS_START: u64 = 0x1_0000;
const BLOCK_HEADER: usize = 0x40;
const ENTRY: usize = 0x120;
const ENTRIES_PER_BLOCK: usize = 14;
/// Blocks that one allocation map describes, four bits each.
const BLOCKS_PER_MAP: u64 = ((BLOCK - BLOCK_HEADER) * 2) as u64;
const MAX_MAPS: u32 = 128;
/// Block types: the low two bits of the map, and the type field of a block.
const TYPE_UNUSED: u8 = 0;
const TYPE_ENTRIES: u8 = 1;
const TYPE_LINKS: u8 = 2;
const TYPE_MAP: u8 = 3;
/// Map bit of a block that was never written.
const NEVER_WRITTEN: u8 = 8;

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub name: Vec<u8>,
    pub kind: u32,
    pub address: u32,
    pub generation: u32,
    /// Place within the folder, ascending; stays the same while other entries come and go.
    pub position: u64,
}

/// The entries of a folder as they were at one moment.
#[derive(Debug)]
pub(super) struct Listing {
    /// By position.
    pub entries: Vec<Entry>,
    by_name: HashMap<Vec<u8>, usize>,
    /// Address and generation of the parent's descriptor.
    pub parent: (u32, u32),
    pub read: Instant,
}

impl Listing {
    /// Reads all of `dir`.
    pub(super) fn read(dir: &VmfsFile, geometry: &Geometry) -> Result<Listing> {
        if dir.len() > MAX_LEN {
            let text = format!("a folder of {} bytes; the limit is {MAX_LEN}", dir.len());
            return Err(Error::new(Kind::Limit, LAYER, text));
        }
        let read = Instant::now();
        let mut found = Collector::default();
        if geometry.version == Version::V6 {
            hashed(dir, &mut found)?;
        } else {
            records(dir, &mut found)?;
        }
        let parent = found.parent.ok_or_else(|| corrupt("directory", "entry '..'", 0, "an entry"))?;
        Ok(Listing { entries: found.entries, by_name: found.by_name, parent, read })
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<&Entry> {
        self.by_name.get(name).and_then(|index| self.entries.get(*index))
    }

    /// Entries after `cookie`, the position of an entry plus one.
    pub(super) fn after(&self, cookie: u64) -> &[Entry] {
        &self.entries[self.entries.partition_point(|entry| entry.position < cookie)..]
    }

    /// True when both list the same files at the same places.
    pub(super) fn same(&self, other: &Listing) -> bool {
        self.parent == other.parent && self.entries == other.entries
    }
}

#[derive(Default)]
struct Collector {
    entries: Vec<Entry>,
    by_name: HashMap<Vec<u8>, usize>,
    parent: Option<(u32, u32)>,
}

impl Collector {
    fn push(&mut self, entry: Entry) -> Result<()> {
        if entry.name == b"." {
            return Ok(());
        }
        if entry.name == b".." {
            self.parent = Some((entry.address, entry.generation));
            return Ok(());
        }
        if entry.name.is_empty() || entry.name.contains(&b'/') {
            return Err(corrupt("directory entry", "name", entry.position, "a name without '/'"));
        }
        if descriptor_item(entry.address).is_none() {
            return Err(corrupt("directory entry", "address", entry.address.into(), "that of a file descriptor"));
        }
        if self.by_name.insert(entry.name.clone(), self.entries.len()).is_some() {
            return Err(corrupt("directory entry", "name", entry.position, "a name that occurs once"));
        }
        self.entries.push(entry);
        Ok(())
    }
}

/// Parses the part that all entries have in common; the name starts at `name` and ends with the slice.
fn entry(raw: &[u8], name: usize, position: u64) -> Result<Entry> {
    let end = || short("directory entry");
    let text = raw.get(name..).ok_or_else(end)?;
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Entry {
        name: text.to_vec(),
        kind: le32(raw, 0).ok_or_else(end)?,
        address: le32(raw, 4).ok_or_else(end)?,
        generation: le32(raw, 8).ok_or_else(end)?,
        position,
    })
}

/// VMFS-3 and 5.
fn records(dir: &VmfsFile, found: &mut Collector) -> Result<()> {
    let len = dir.len();
    if !len.is_multiple_of(RECORD as u64) {
        return Err(corrupt("directory", "size", len, "a multiple of 140"));
    }
    let chunk = CHUNK - CHUNK % RECORD;
    let mut buf = vec![0; chunk.min(len as usize)];
    let mut at = 0;
    while at < len {
        let part = (len - at).min(chunk as u64) as usize;
        let part = &mut buf[..part];
        dir.read_at(part, at)?;
        for (index, raw) in part.chunks_exact(RECORD).enumerate() {
            let entry = entry(raw, 12, at / RECORD as u64 + index as u64)?;
            if entry.address != 0 {
                found.push(entry)?;
            }
        }
        at += part.len() as u64;
    }
    Ok(())
}

/// VMFS-6.
fn hashed(dir: &VmfsFile, found: &mut Collector) -> Result<()> {
    const HEADER: &str = "directory header";
    let end = || short(HEADER);
    let mut head = vec![0; 0x600];
    if dir.len() < BLOCKS_START {
        return Err(corrupt(HEADER, "size", dir.len(), "at least 64 KiB"));
    }
    dir.read_at(&mut head, 0)?;
    let word = |offset| le32(&head, offset).ok_or_else(end);
    let version = word(0)?;
    if version != 0xF5_0001 && version != 0xFD_C001 {
        return Err(unsupported(HEADER, "version", version.into(), "0xf50001 or 0xfdc001"));
    }
    let count = word(4)?;
    let maps = word(0x0C)?;
    if maps > MAX_MAPS {
        return Err(corrupt(HEADER, "number of maps", maps.into(), "at most 128"));
    }
    let parent = entry(head.get(0x4D8..0x4D8 + ENTRY).ok_or_else(end)?, 0x18, 0)?;
    found.parent = Some((parent.address, parent.generation));

    let blocks = (dir.len() - BLOCKS_START) / BLOCK as u64;
    let mut map = vec![0; BLOCK];
    let mut chunk = vec![0; CHUNK];
    for index in 0..maps {
        let place = word(0x10 + index as usize * 4)?;
        let place = Some(u64::from(place)).filter(|place| *place < blocks);
        let place = place.ok_or_else(|| corrupt(HEADER, "map block", u64::from(index), "a block of the directory"))?;
        dir.read_at(&mut map, BLOCKS_START + place * BLOCK as u64)?;
        check_type(&map, TYPE_MAP, place)?;
        let first = u64::from(index) * BLOCKS_PER_MAP;
        let mut number = first;
        let last = blocks.min(first + BLOCKS_PER_MAP);
        while number < last {
            // Pieces of the directory with an entry block at their start.
            if kind_of(&map, number - first) != TYPE_ENTRIES {
                number += 1;
                continue;
            }
            let count = (last - number).min((CHUNK / BLOCK) as u64);
            let part = &mut chunk[..count as usize * BLOCK];
            dir.read_at(part, BLOCKS_START + number * BLOCK as u64)?;
            for (raw, number) in part.chunks_exact(BLOCK).zip(number..) {
                match kind_of(&map, number - first) {
                    TYPE_ENTRIES => entries(raw, number, found)?,
                    TYPE_LINKS => check_type(raw, TYPE_LINKS, number)?,
                    _ => {}
                }
            }
            number += count;
        }
    }
    // The header counts "." and ".." too.
    if found.entries.len() as u64 + 2 != u64::from(count) {
        return Err(corrupt(HEADER, "number of entries", count.into(), format!("{}", found.entries.len() + 2)));
    }
    Ok(())
}

/// Type of a block by the allocation map, which holds one in four bits, high half first.
fn kind_of(map: &[u8], index: u64) -> u8 {
    let byte = u8_at(map, BLOCK_HEADER + (index / 2) as usize).unwrap_or(0);
    let nibble = if index.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
    if nibble & NEVER_WRITTEN != 0 { TYPE_UNUSED } else { nibble & 3 }
}

fn check_type(raw: &[u8], expected: u8, number: u64) -> Result<()> {
    let found = le16(raw, 2).ok_or_else(|| short("directory block"))?;
    if found != u16::from(expected) {
        let place = BLOCKS_START + number * BLOCK as u64;
        return Err(corrupt("directory block", "type", found.into(), expected.to_string()).at(place));
    }
    Ok(())
}

fn entries(raw: &[u8], number: u64, found: &mut Collector) -> Result<()> {
    const NAME: &str = "directory block";
    check_type(raw, TYPE_ENTRIES, number)?;
    let place = BLOCKS_START + number * BLOCK as u64;
    let slots = usize::from(le16(raw, 4).ok_or_else(|| short(NAME))?);
    if slots > ENTRIES_PER_BLOCK {
        return Err(corrupt(NAME, "number of slots", slots as u64, "at most 14").at(place));
    }
    for slot in 0..slots {
        // A set bit is a free slot; what it holds is left over from a deleted file.
        let bits = u8_at(raw, 8 + slot / 8).ok_or_else(|| short(NAME))?;
        if bits >> (slot % 8) & 1 == 1 {
            continue;
        }
        let at = BLOCK_HEADER + slot * ENTRY;
        let raw = raw.get(at..at + ENTRY).ok_or_else(|| short(NAME))?;
        let position = number * ENTRIES_PER_BLOCK as u64 + slot as u64;
        found.push(entry(raw, 0x18, position)?).map_err(|err| err.at(place + at as u64))?;
    }
    Ok(())
}
