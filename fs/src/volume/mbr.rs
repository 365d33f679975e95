//! Master boot records, and the chain of extended boot records behind them.
//!
//! ```text
//!   440  u32 disk signature      446  four entries of 16 bytes      510  55 AA
//!   entry: status u8, CHS[3], type u8, CHS[3], first sector u32, sectors u32
//! ```
//!
//! An extended boot record has the same shape: a first entry relative to the record itself is a logical
//! partition, an extended one relative to the start of the whole extended partition is the next record.

use std::collections::BTreeSet;

use vcb_block::bytes::{le16, le32, u8_at};
use vcb_block::{BlockRef, Result, plan};

use super::{Content, Entry, Problem};

/// Size of the record, whatever the sector size.
const RECORD: usize = 512;
/// Logical partitions followed. Windows has letters for two dozen and Linux device numbers for 256: a longer
/// chain is damage or malice.
const MAX_LOGICAL: u32 = 256;

const GPT_PROTECTIVE: u8 = 0xEE;
const LDM: u8 = 0x42;

/// A sector that ends in 55 AA.
pub(super) struct Sector {
    bytes: [u8; RECORD],
}

/// One of its four entries.
#[derive(Clone, Copy)]
struct Slot {
    status: u8,
    kind: u8,
    start: u32,
    sectors: u32,
}

impl Slot {
    fn is_used(self) -> bool {
        self.kind != 0 && self.sectors != 0
    }

    fn is_extended(self) -> bool {
        matches!(self.kind, 0x05 | 0x0F | 0x85)
    }
}

impl Sector {
    /// The first sector of `disk`, or `None` when it does not end in 55 AA.
    pub(super) fn read(disk: &BlockRef) -> Result<Option<Self>> {
        Self::read_at(disk, 0)
    }

    fn read_at(disk: &BlockRef, offset: u64) -> Result<Option<Self>> {
        let mut bytes = [0; RECORD];
        if disk.len().saturating_sub(offset) < RECORD as u64 {
            return Ok(None);
        }
        plan::read(disk, &mut bytes, offset)?;
        Ok((le16(&bytes, 510) == Some(0xAA55)).then_some(Sector { bytes }))
    }

    /// The disk signature.
    pub(super) fn signature(&self) -> u32 {
        le32(&self.bytes, 440).unwrap_or(0)
    }

    fn slots(&self) -> [Slot; 4] {
        [446, 462, 478, 494].map(|at| Slot {
            status: u8_at(&self.bytes, at).unwrap_or(0),
            kind: u8_at(&self.bytes, at + 4).unwrap_or(0),
            start: le32(&self.bytes, at + 8).unwrap_or(0),
            sectors: le32(&self.bytes, at + 12).unwrap_or(0),
        })
    }

    /// True when the entries can be a partition table: some are used, and all have a possible status. Boot
    /// code and messages of a filesystem's boot sector do not pass.
    pub(super) fn has_table(&self) -> bool {
        let slots = self.slots();
        slots.iter().all(|slot| matches!(slot.status, 0x00 | 0x80))
            && slots.iter().any(|slot| slot.is_used() || slot.kind == GPT_PROTECTIVE)
    }

    /// True when an entry says that a GUID partition table holds the truth.
    pub(super) fn is_protective(&self) -> bool {
        self.slots().iter().any(|slot| slot.kind == GPT_PROTECTIVE)
    }

    /// True when there are other entries beside the protective one.
    pub(super) fn is_hybrid(&self) -> bool {
        self.slots().iter().any(|slot| slot.is_used() && slot.kind != GPT_PROTECTIVE)
    }
}

/// Primary partitions by slot, then logical ones from 5, with sectors of `unit` bytes.
pub(super) fn read(disk: &BlockRef, sector: &Sector, unit: u64, warnings: &mut Vec<String>) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut extended = Vec::new();
    for (number, slot) in (1..).zip(sector.slots()) {
        if slot.is_used() && slot.is_extended() {
            extended.push(slot);
        } else if slot.is_used() {
            entries.push(entry(number, u64::from(slot.start) * unit, slot, unit));
        }
    }
    let mut number = 5;
    for slot in extended {
        logical(disk, slot, unit, &mut number, &mut entries, warnings)?;
    }
    Ok(entries)
}

fn logical(
    disk: &BlockRef,
    extended: Slot,
    unit: u64,
    number: &mut u32,
    entries: &mut Vec<Entry>,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let base = u64::from(extended.start) * unit;
    let end = base + u64::from(extended.sectors) * unit;
    let mut record = base;
    let mut seen = BTreeSet::new();
    loop {
        if !seen.insert(record) {
            warnings.push(format!("the chain of logical partitions comes back to {record:#x}"));
            return Ok(());
        }
        let Some(sector) = Sector::read_at(disk, record)? else {
            warnings.push(format!("the chain of logical partitions breaks off at {record:#x}"));
            return Ok(());
        };
        let slots = sector.slots();
        for slot in slots.into_iter().filter(|slot| slot.is_used() && !slot.is_extended()) {
            if *number >= 5 + MAX_LOGICAL {
                warnings.push(format!("more than {MAX_LOGICAL} logical partitions: the rest is not shown"));
                return Ok(());
            }
            let mut entry = entry(*number, record + u64::from(slot.start) * unit, slot, unit);
            if entry.start < base || entry.start + entry.len > end {
                entry.problem = Some(Problem::OutsideExtended);
            }
            entries.push(entry);
            *number += 1;
        }
        match slots.iter().find(|slot| slot.is_used() && slot.is_extended()) {
            Some(next) => record = base + u64::from(next.start) * unit,
            None => return Ok(()),
        }
        if seen.len() > MAX_LOGICAL as usize {
            warnings.push(format!("more than {MAX_LOGICAL} extended boot records: the rest is not followed"));
            return Ok(());
        }
    }
}

fn entry(partition: u32, start: u64, slot: Slot, unit: u64) -> Entry {
    Entry {
        partition,
        start,
        len: u64::from(slot.sectors) * unit,
        type_name: type_name(slot.kind),
        name: None,
        guid: None,
        content: (slot.kind == LDM).then_some(Content::Ldm),
        problem: None,
    }
}

fn type_name(kind: u8) -> String {
    let words = match kind {
        0x01 => "FAT12",
        0x04 | 0x06 | 0x0E => "FAT16",
        0x07 => "NTFS/exFAT",
        0x0B | 0x0C => "FAT32",
        0x17 => "hidden NTFS",
        0x1B | 0x1C => "hidden FAT32",
        0x27 => "Windows recovery",
        LDM => "Windows dynamic disk",
        0x82 => "Linux swap",
        0x83 => "Linux",
        0x8E => "Linux LVM",
        0xEF => "EFI system",
        0xFB => "VMware VMFS",
        0xFD => "Linux RAID",
        _ => return format!("type {kind:#04x}"),
    };
    words.to_owned()
}
