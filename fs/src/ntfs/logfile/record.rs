//! Log records of NTFS, the client of the log.
//!
//! ```text
//!   0  redo operation u16     8  undo offset u16       16  record offset u16     24  target VCN u64
//!   2  undo operation u16    10  undo length u16       18  attribute offset u16  32  LCNs u64[]
//!   4  redo offset u16       12  target attribute u16  20  offset in the first cluster u16, in 512 bytes
//!   6  redo length u16       14  LCNs u16              22  length of the block u16, in 512 bytes
//! ```

use vcb_block::bytes::{le16, le32, le64};

use super::pages::Raw;
use super::refusal::{Refusal, refuse};

/// What a record, redone or undone, does. The numbers are common to both directions.
pub(super) mod op {
    pub(in super::super) const NOOP: u16 = 0x00;
    pub(in super::super) const COMPENSATION: u16 = 0x01;
    pub(in super::super) const INITIALIZE_FILE_RECORD: u16 = 0x02;
    pub(in super::super) const DEALLOCATE_FILE_RECORD: u16 = 0x03;
    pub(in super::super) const WRITE_END_OF_FILE_RECORD: u16 = 0x04;
    pub(in super::super) const CREATE_ATTRIBUTE: u16 = 0x05;
    pub(in super::super) const DELETE_ATTRIBUTE: u16 = 0x06;
    pub(in super::super) const UPDATE_RESIDENT_VALUE: u16 = 0x07;
    pub(in super::super) const UPDATE_NONRESIDENT_VALUE: u16 = 0x08;
    pub(in super::super) const UPDATE_MAPPING_PAIRS: u16 = 0x09;
    pub(in super::super) const DELETE_DIRTY_CLUSTERS: u16 = 0x0A;
    pub(in super::super) const SET_NEW_ATTRIBUTE_SIZES: u16 = 0x0B;
    pub(in super::super) const ADD_INDEX_ENTRY_ROOT: u16 = 0x0C;
    pub(in super::super) const DELETE_INDEX_ENTRY_ROOT: u16 = 0x0D;
    pub(in super::super) const ADD_INDEX_ENTRY_ALLOCATION: u16 = 0x0E;
    pub(in super::super) const DELETE_INDEX_ENTRY_ALLOCATION: u16 = 0x0F;
    pub(in super::super) const WRITE_END_OF_INDEX_BUFFER: u16 = 0x10;
    pub(in super::super) const SET_INDEX_ENTRY_VCN_ROOT: u16 = 0x11;
    pub(in super::super) const SET_INDEX_ENTRY_VCN_ALLOCATION: u16 = 0x12;
    pub(in super::super) const UPDATE_FILE_NAME_ROOT: u16 = 0x13;
    pub(in super::super) const UPDATE_FILE_NAME_ALLOCATION: u16 = 0x14;
    pub(in super::super) const SET_BITS: u16 = 0x15;
    pub(in super::super) const CLEAR_BITS: u16 = 0x16;
    pub(in super::super) const END_TOP_LEVEL_ACTION: u16 = 0x18;
    pub(in super::super) const PREPARE_TRANSACTION: u16 = 0x19;
    pub(in super::super) const COMMIT_TRANSACTION: u16 = 0x1A;
    pub(in super::super) const FORGET_TRANSACTION: u16 = 0x1B;
    pub(in super::super) const OPEN_ATTRIBUTE: u16 = 0x1C;
    pub(in super::super) const OPEN_ATTRIBUTE_TABLE: u16 = 0x1D;
    pub(in super::super) const ATTRIBUTE_NAMES: u16 = 0x1E;
    pub(in super::super) const DIRTY_PAGE_TABLE: u16 = 0x1F;
    pub(in super::super) const TRANSACTION_TABLE: u16 = 0x20;
    pub(in super::super) const UPDATE_RECORD_DATA_ROOT: u16 = 0x21;
    pub(in super::super) const UPDATE_RECORD_DATA_ALLOCATION: u16 = 0x22;
    pub(in super::super) const ZERO_END_OF_FILE_RECORD: u16 = 0x25;
}

const CLIENT_RECORD: u32 = 1;
const CHECKPOINT: u32 = 2;
/// Flag of a record whose redo data may be shorter than it says; the rest is zeros (observed: resident file
/// data, which NTFS does not log).
const SHORT_REDO: u16 = 4;
/// Length of the fixed fields.
const FIXED: usize = 32;

/// What kind a record of the log is.
pub(super) enum Kind {
    /// A change, or a mark of a transaction.
    Change(Change),
    /// A checkpoint, with its data.
    Checkpoint,
}

/// A change to the volume.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) lsn: u64,
    pub(super) transaction: u32,
    /// LSN of the record of the transaction that is undone after this one; 0 is none.
    pub(super) undo_next: u64,
    pub(super) redo: u16,
    pub(super) undo: u16,
    redo_data: Vec<u8>,
    undo_data: Vec<u8>,
    /// Length of the data that an operation replaces: of the undo data when redoing, and the other way round.
    pub(super) replaced: usize,
    /// Which open attribute.
    pub(super) target: u16,
    /// First cluster of the page in that attribute.
    pub(super) vcn: u64,
    /// Where its clusters lie on the volume.
    pub(super) lcns: Vec<u64>,
    /// Byte offset of the block in the first cluster.
    pub(super) block: usize,
    /// Length of the block in bytes; 0 where it is none.
    pub(super) block_len: usize,
    /// Offset in the block.
    pub(super) record: usize,
    /// Offset from there.
    pub(super) attribute: usize,
}

/// Parses a record of the log.
pub(super) fn parse(raw: &Raw) -> Result<Kind, Refusal> {
    match le32(&raw.header, 32) {
        Some(CHECKPOINT) => Ok(Kind::Checkpoint),
        Some(CLIENT_RECORD) => change(raw).map(Kind::Change),
        _ => Err(refuse(raw.lsn, "is of an unknown type")),
    }
}

fn change(raw: &Raw) -> Result<Change, Refusal> {
    let Raw { lsn, header, data, .. } = raw;
    let short = || refuse(*lsn, "is too short");
    if data.len() < FIXED {
        return Err(short());
    }
    let field = |offset| le16(data, offset).unwrap_or(0);
    let (redo, undo) = (field(0), field(2));
    let lcns = (0..usize::from(field(14))).map(|index| le64(data, FIXED + 8 * index)).collect::<Option<_>>();
    let flags = le16(header, 40).unwrap_or(0);
    let may_be_short =
        flags & SHORT_REDO != 0 && matches!(redo, op::UPDATE_RESIDENT_VALUE | op::ZERO_END_OF_FILE_RECORD);
    Ok(Change {
        lsn: *lsn,
        transaction: le32(header, 36).unwrap_or(0),
        undo_next: le64(header, 16).unwrap_or(0),
        redo,
        undo,
        redo_data: part(data, field(4), field(6), may_be_short).ok_or_else(short)?,
        undo_data: part(data, field(8), field(10), false).ok_or_else(short)?,
        replaced: usize::from(field(10)),
        target: field(12),
        vcn: le64(data, 24).unwrap_or(0),
        lcns: lcns.ok_or_else(short)?,
        block: usize::from(field(20)) * 512,
        block_len: usize::from(field(22)) * 512,
        record: usize::from(field(16)),
        attribute: usize::from(field(18)),
    })
}

fn part(data: &[u8], offset: u16, len: u16, may_be_short: bool) -> Option<Vec<u8>> {
    let (offset, len) = (usize::from(offset), usize::from(len));
    if len == 0 {
        return Some(Vec::new());
    }
    let have = data.get(offset..)?;
    if have.len() < len && !may_be_short {
        return None;
    }
    let mut part = have[..have.len().min(len)].to_vec();
    part.resize(len, 0);
    Some(part)
}

impl Change {
    /// The data of the redo operation.
    pub(super) fn data(&self) -> &[u8] {
        &self.redo_data
    }

    /// True when there is something to undo.
    pub(super) fn can_be_undone(&self) -> bool {
        !matches!(self.undo, op::NOOP | op::COMPENSATION)
    }

    /// The change that takes this one back.
    pub(super) fn reversed(self) -> Self {
        Change {
            redo: self.undo,
            undo: self.redo,
            replaced: self.redo_data.len(),
            redo_data: self.undo_data,
            undo_data: self.redo_data,
            ..self
        }
    }
}
