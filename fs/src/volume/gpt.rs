//! GUID partition tables (UEFI 2.10, section 5.3).
//!
//! ```text
//!   header, sector 1 (backup: last sector)            entry, `entry size` bytes each
//!     0  "EFI PART"        24  own sector u64            0  type GUID
//!     8  revision u32      32  other header u64         16  unique GUID
//!    12  header size u32   72  first entry sector u64   32  first sector u64
//!    16  header CRC u32    80  entries u32              40  last sector u64 (inclusive)
//!                          84  entry size u32           48  attributes u64
//!                          88  entries CRC u32          56  name, 36 UTF-16 units
//! ```

use vcb_block::bytes::{array, le16, le32, le64};
use vcb_block::{BlockRef, Error, Kind, Result, plan};

use super::{Content, Entry, LAYER, Problem};

/// Smallest header that the specification knows.
const HEADER: usize = 92;
/// Longest table of entries read: 128 entries of 128 bytes are usual and 16 KiB the least a disk reserves.
const MAX_TABLE: u64 = 4 << 20;

/// Sector sizes that disks have.
const SECTORS: [u64; 2] = [512, 4096];

/// Why one header, or its entries, cannot be used.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("no signature at {0:#x}")]
    Signature(u64),
    #[error("header size {size} at {at:#x} is not within {HEADER}..={unit}")]
    HeaderSize { size: u32, at: u64, unit: u64 },
    #[error("header checksum at {at:#x} is {found:#010x}, stored {stored:#010x}")]
    HeaderCrc { at: u64, found: u32, stored: u32 },
    #[error("header at {at:#x} says that it lies in sector {says}")]
    Place { at: u64, says: u64 },
    #[error("entries of {0} bytes")]
    EntrySize(u32),
    #[error("entries pass the end of the disk")]
    Entries,
    #[error("checksum of the entries is {found:#010x}, stored {stored:#010x}")]
    EntriesCrc { found: u32, stored: u32 },
}

/// A table whose checksums hold.
struct Table {
    entry_size: usize,
    bytes: Vec<u8>,
    unit: u64,
}

/// Partitions of a disk whose MBR says that it is GPT: by the primary table, or with a warning by the backup.
pub(super) fn read(disk: &BlockRef, warnings: &mut Vec<String>) -> Result<Vec<Entry>> {
    let mut damage = Vec::new();
    for unit in SECTORS {
        match load(disk, unit, unit)? {
            Ok(table) => return Ok(entries(&table)),
            Err(why) => damage.push(why),
        }
    }
    // The sector size with a header in its place is the disk's: its damage is the one to tell.
    damage.sort_by_key(|why| matches!(why, Damage::Signature(_)));
    let why = damage.swap_remove(0);
    for unit in SECTORS {
        let Some(at) = last_sector(disk, unit) else { continue };
        if let Ok(table) = load(disk, at, unit)? {
            warnings.push(format!("the primary partition table is damaged ({why}): the backup is used"));
            return Ok(entries(&table));
        }
    }
    Err(Error::corrupt(LAYER, why))
}

/// As [`read`], for a disk whose first sector is no MBR at all: `None` when there is no good table either.
pub(super) fn without_protective_mbr(disk: &BlockRef, warnings: &mut Vec<String>) -> Result<Option<Vec<Entry>>> {
    for unit in SECTORS {
        for at in [Some(unit), last_sector(disk, unit)].into_iter().flatten() {
            if let Ok(table) = load(disk, at, unit)? {
                warnings.push(format!("no protective MBR: the GUID partition table at {at:#x} is used"));
                return Ok(Some(entries(&table)));
            }
        }
    }
    Ok(None)
}

/// True when a good primary header is there although the MBR does not mention it.
pub(super) fn leftover(disk: &BlockRef) -> Result<bool> {
    Ok(load(disk, 512, 512)?.is_ok())
}

fn last_sector(disk: &BlockRef, unit: u64) -> Option<u64> {
    (disk.len() / unit).checked_sub(1).map(|sector| sector * unit)
}

/// The header at byte `at` with its entries. The outer error is the storage's, the inner one the table's.
fn load(disk: &BlockRef, at: u64, unit: u64) -> Result<Result<Table, Damage>> {
    let mut sector = vec![0; unit as usize];
    if at.checked_add(unit).is_none_or(|end| end > disk.len()) {
        return Ok(Err(Damage::Signature(at)));
    }
    plan::read(disk, &mut sector, at)?;
    let header = match header(&sector, at, unit) {
        Ok(header) => header,
        Err(why) => return Ok(Err(why)),
    };
    let len = u64::from(header.count) * u64::from(header.entry_size);
    if len > MAX_TABLE {
        return Err(Error::new(Kind::Limit, LAYER, format!("{len} bytes of partition entries")).at(at));
    }
    let first = header.first.checked_mul(unit);
    let Some(first) = first.filter(|first| first.checked_add(len).is_some_and(|end| end <= disk.len())) else {
        return Ok(Err(Damage::Entries));
    };
    let mut bytes = vec![0; len as usize];
    plan::read(disk, &mut bytes, first)?;
    let found = crc32fast::hash(&bytes);
    if found != header.entries_crc {
        return Ok(Err(Damage::EntriesCrc { found, stored: header.entries_crc }));
    }
    Ok(Ok(Table { entry_size: header.entry_size as usize, bytes, unit }))
}

struct Header {
    first: u64,
    count: u32,
    entry_size: u32,
    entries_crc: u32,
}

fn header(sector: &[u8], at: u64, unit: u64) -> Result<Header, Damage> {
    if !sector.starts_with(b"EFI PART") {
        return Err(Damage::Signature(at));
    }
    let u32_at = |offset| le32(sector, offset).unwrap_or(0);
    let u64_at = |offset| le64(sector, offset).unwrap_or(0);
    let size = u32_at(12);
    let covered = sector.get(..size as usize).filter(|covered| covered.len() >= HEADER);
    let Some(covered) = covered else { return Err(Damage::HeaderSize { size, at, unit }) };
    let mut hasher = crc32fast::Hasher::new();
    // The checksum is made with its own field as zero.
    hasher.update(&covered[..16]);
    hasher.update(&[0; 4]);
    hasher.update(&covered[20..]);
    let (found, stored) = (hasher.finalize(), u32_at(16));
    if found != stored {
        return Err(Damage::HeaderCrc { at, found, stored });
    }
    if u64_at(24).checked_mul(unit) != Some(at) {
        return Err(Damage::Place { at, says: u64_at(24) });
    }
    let entry_size = u32_at(84);
    if !(128..=4096).contains(&entry_size) || !entry_size.is_power_of_two() {
        return Err(Damage::EntrySize(entry_size));
    }
    Ok(Header { first: u64_at(72), count: u32_at(80), entry_size, entries_crc: u32_at(88) })
}

fn entries(table: &Table) -> Vec<Entry> {
    let used = |(number, bytes): (u32, &[u8])| {
        let kind: [u8; 16] = array(bytes, 0)?;
        if kind == [0; 16] {
            return None;
        }
        let (first, last) = (le64(bytes, 32)?, le64(bytes, 40)?);
        let sectors = last.checked_sub(first).and_then(|n| n.checked_add(1)).unwrap_or(0);
        Some(Entry {
            partition: number,
            // Absurd numbers saturate: the volume then passes the end of the disk and says so.
            start: first.saturating_mul(table.unit),
            len: sectors.saturating_mul(table.unit),
            type_name: type_name(&kind),
            name: Some(name(bytes)).filter(|name| !name.is_empty()),
            guid: array(bytes, 16),
            content: content(&kind),
            problem: (last < first).then_some(Problem::Inverted),
        })
    };
    (1..).zip(table.bytes.chunks_exact(table.entry_size)).filter_map(used).collect()
}

fn name(entry: &[u8]) -> String {
    let units = (0..36).map_while(|index| le16(entry, 56 + 2 * index)).take_while(|&unit| unit != 0);
    char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// A GUID in its registry form, whose first three fields are stored little-endian.
fn guid_text(guid: &[u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *guid;
    let [i, j, k, l, m, n, o, p] = rest;
    let (first, second, third) =
        (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
    let (fourth, node) = (u16::from_be_bytes([i, j]), u64::from_be_bytes([0, 0, k, l, m, n, o, p]));
    format!("{first:08X}-{second:04X}-{third:04X}-{fourth:04X}-{node:012X}")
}

const LDM_METADATA: &str = "5808C8AA-7E8F-42E0-85D2-E1E90434CFB3";
const LDM_DATA: &str = "AF9B60A0-1431-4F62-BC68-3311714A69AD";
const STORAGE_SPACES: &str = "E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D";

fn content(kind: &[u8; 16]) -> Option<Content> {
    match guid_text(kind).as_str() {
        LDM_METADATA | LDM_DATA => Some(Content::Ldm),
        STORAGE_SPACES => Some(Content::StorageSpaces),
        _ => None,
    }
}

fn type_name(kind: &[u8; 16]) -> String {
    let text = guid_text(kind);
    let words = match text.as_str() {
        "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" => "EFI system",
        "E3C9E316-0B5C-4DB8-817D-F92DF00215AE" => "Microsoft reserved",
        "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7" => "Microsoft basic data",
        "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC" => "Windows recovery",
        LDM_METADATA => "Windows dynamic disk metadata",
        LDM_DATA => "Windows dynamic disk data",
        STORAGE_SPACES => "Windows storage spaces",
        "0FC63DAF-8483-4772-8E79-3D69D8477DE4" => "Linux filesystem",
        "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709" => "Linux root (x86-64)",
        "E6D6D379-F507-44C2-A23C-238F2A3DF928" => "Linux LVM",
        "A19D880F-05FC-4D3B-A006-743F0F84911E" => "Linux RAID",
        "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F" => "Linux swap",
        "21686148-6449-6E6F-744E-656564454649" => "BIOS boot",
        "AA31E02A-400F-11DB-9590-000C2911D1B8" => "VMware VMFS",
        "9D275380-40AD-11DB-BF97-000C2911D1B8" => "VMware diagnostic",
        _ => return text,
    };
    words.to_owned()
}
