//! A checkpoint and the tables it dumped into the log.
//!
//! ```text
//!   checkpoint  0  version u32          table  0  entry size u16     entry  0  FFFFFFFF when in use
//!               8  start LSN u64               2  entries u16               …  see below
//!              16  open attributes LSN u64    24  entries
//!              24  their names LSN u64
//!              32  dirty pages LSN u64      Version 1 (64-bit Windows, and all since Windows 8) aligns its
//!              40  transactions LSN u64     fields to 8 bytes, version 0 packs them.
//! ```

use std::collections::BTreeMap;

use vcb_block::Result;
use vcb_block::bytes::{le16, le32, le64, u8_at};

use super::pages::{Log, Raw};
use super::record::{Kind, op, parse};
use super::refusal::refuse;

const TABLE_HEADER: usize = 24;
const IN_USE: u32 = u32::MAX;
/// Low bits of a file reference: the record number.
const RECORD_NUMBER: u64 = (1 << 48) - 1;
/// A transaction neither prepared nor committed.
const ACTIVE: u8 = 1;
const COMMITTED: u8 = 3;

/// An attribute that log records refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpenAttribute {
    /// Attribute type.
    pub(super) kind: u32,
    /// MFT record number of its file.
    pub(super) file: u64,
    /// Bytes per index block, for an index.
    pub(super) index_block: usize,
}

/// A page that may not have reached the volume.
#[derive(Debug, Clone)]
pub(super) struct DirtyPage {
    /// Oldest change of it that may be missing.
    pub(super) oldest: u64,
    /// Where its clusters lie; 0 for one that was not mapped yet.
    pub(super) lcns: Vec<u64>,
}

/// A transaction that was open at the checkpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transaction {
    /// Whether anything of it is to be undone.
    pub(super) undoes: bool,
    /// Its last record.
    pub(super) last: u64,
}

/// The state of NTFS at a checkpoint.
pub(super) struct Checkpoint {
    /// First record whose effect on the tables they do not show yet.
    pub(super) start: u64,
    /// By the number that records call them.
    pub(super) attributes: BTreeMap<u16, OpenAttribute>,
    /// By attribute and VCN of each of their clusters.
    pub(super) pages: BTreeMap<(u16, u64), DirtyPage>,
    /// By the number that their records carry.
    pub(super) transactions: BTreeMap<u32, Transaction>,
    /// Layout of the tables.
    pub(super) version: u32,
}

impl Checkpoint {
    /// Reads the checkpoint at `lsn` and its tables.
    pub(super) fn read(log: &Log, lsn: u64) -> Result<Self> {
        let Raw { data, .. } = match log.record(lsn)? {
            raw if matches!(parse(&raw), Ok(Kind::Checkpoint)) => raw,
            _ => return Err(refuse(lsn, "should be a checkpoint").into()),
        };
        let lsn_at = |offset| le64(&data, offset).ok_or(refuse(lsn, "is too short for a checkpoint"));
        let version = le32(&data, 0).filter(|&version| version <= 1);
        let version = version.ok_or(refuse(lsn, "is a checkpoint of an unknown version"))?;
        let mut found = Checkpoint {
            // The first checkpoint of an emptied log starts with itself.
            start: Some(lsn_at(8)?).filter(|&start| start != 0).unwrap_or(lsn),
            attributes: BTreeMap::new(),
            pages: BTreeMap::new(),
            transactions: BTreeMap::new(),
            version,
        };
        let bad = |lsn| refuse(lsn, "holds a table that cannot be read");
        for (at, entry) in entries(log, lsn_at(16)?, op::OPEN_ATTRIBUTE_TABLE)? {
            let number = u16::try_from(at).map_err(|_| bad(lsn))?;
            found.attributes.insert(number, open_attribute(&entry, version).ok_or(bad(lsn))?);
        }
        for (_, entry) in entries(log, lsn_at(32)?, op::DIRTY_PAGE_TABLE)? {
            found.add_page(&entry).ok_or(bad(lsn))?;
        }
        for (at, entry) in entries(log, lsn_at(40)?, op::TRANSACTION_TABLE)? {
            let number = u32::try_from(at).map_err(|_| bad(lsn))?;
            let fields = || Some((u8_at(&entry, 4)?, le64(&entry, 16)?, le64(&entry, 24)?));
            match fields().ok_or(bad(lsn))? {
                (ACTIVE, last, undo_next) => {
                    found.transactions.insert(number, Transaction { undoes: undo_next != 0, last });
                }
                (COMMITTED, ..) => {}
                _ => return Err(refuse(lsn, "lists a transaction that is neither active nor committed").into()),
            }
        }
        Ok(found)
    }

    fn add_page(&mut self, entry: &[u8]) -> Option<()> {
        // The packed layout has an unused u32 where the aligned one has the VCN.
        let (vcn, oldest, lcns) = if self.version == 0 { (20, 28, 36) } else { (16, 24, 32) };
        let target = u16::try_from(le32(entry, 4)?).ok()?;
        let (first, oldest) = (le64(entry, vcn)?, le64(entry, oldest)?);
        let count = le32(entry, 12)? as usize;
        let lcns = (0..count).map(|index| le64(entry, lcns + 8 * index)).collect::<Option<Vec<_>>>()?;
        // A record names the cluster of the block it changes, which may be any one of the page.
        for index in 0..count {
            let page = DirtyPage { oldest, lcns: lcns[index..].to_vec() };
            self.pages.insert((target, first.checked_add(index as u64)?), page);
        }
        (count > 0).then_some(())
    }
}

/// An entry of the open attribute table, which is also the data of a record that opens one.
pub(super) fn open_attribute(entry: &[u8], version: u32) -> Option<OpenAttribute> {
    let (kind, file, index_block, len) = if version == 0 { (28, 8, 40, 44) } else { (8, 16, 4, 40) };
    if entry.len() < len {
        return None;
    }
    Some(OpenAttribute {
        kind: le32(entry, kind)?,
        file: le64(entry, file)? & RECORD_NUMBER,
        index_block: le32(entry, index_block)? as usize,
    })
}

/// The entries in use of the table that record `lsn` dumps, each with its offset, which is its number.
fn entries(log: &Log, lsn: u64, operation: u16) -> Result<Vec<(usize, Vec<u8>)>> {
    if lsn == 0 {
        return Ok(Vec::new());
    }
    let Kind::Change(change) = parse(&log.record(lsn)?)? else {
        return Err(refuse(lsn, "should be a table").into());
    };
    let table = change.data();
    if change.redo != operation {
        return Err(refuse(lsn, "is another table than the checkpoint says").into());
    }
    let bad = || refuse(lsn, "holds a table that cannot be read");
    let size = le16(table, 0).map(usize::from).filter(|&size| size >= 8).ok_or_else(bad)?;
    let count = usize::from(le16(table, 2).ok_or_else(bad)?);
    let all = table.get(TABLE_HEADER..TABLE_HEADER + count * size).ok_or_else(bad)?;
    let numbered = (0..).map(|index| TABLE_HEADER + index * size).zip(all.chunks_exact(size));
    Ok(numbered.filter(|(_, entry)| le32(entry, 0) == Some(IN_USE)).map(|(at, entry)| (at, entry.to_vec())).collect())
}
