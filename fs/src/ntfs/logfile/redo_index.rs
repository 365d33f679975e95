//! Operations on an index block, given with its fixups undone, and the moves that all operations are made of.
//!
//! ```text
//!   block   24  index: 0 offset of the first entry u32, 4 length u32, 8 allocated u32
//!   entry    0  (view index: offset and length of its data)   8  length u16   10  length of the key u16
//!           16  key; the VCN of the child in the last 8 bytes, where there is one
//! ```

use vcb_block::bytes::{le16, le32};

use super::record::{Change, op};
use super::redo_record::{Outcome, set_child, set_entry_data};
use super::refusal::{Refusal, refuse};

/// Where the index starts in an index block.
const INDEX: usize = 24;

/// True for operations on index blocks alone.
pub(super) fn applies(operation: u16) -> bool {
    matches!(
        operation,
        op::ADD_INDEX_ENTRY_ALLOCATION
            | op::DELETE_INDEX_ENTRY_ALLOCATION
            | op::WRITE_END_OF_INDEX_BUFFER
            | op::SET_INDEX_ENTRY_VCN_ALLOCATION
            | op::UPDATE_FILE_NAME_ALLOCATION
            | op::UPDATE_RECORD_DATA_ALLOCATION
    )
}

/// Does what `change` says to `block`.
pub(super) fn apply(block: &mut [u8], change: &Change) -> Result<(), Refusal> {
    operate(block, change).ok_or(refuse(change.lsn, "does not fit the index block that it changes"))
}

fn operate(block: &mut [u8], change: &Change) -> Outcome {
    let (place, data) = (change.record.checked_add(change.attribute)?, change.data());
    if change.redo == op::UPDATE_NONRESIDENT_VALUE {
        return put(block, place, data);
    }
    let len = le32(block, INDEX + 4)? as usize;
    let used = INDEX.checked_add(len).filter(|&used| used <= block.len())?;
    if place < INDEX {
        return None;
    }
    match change.redo {
        op::ADD_INDEX_ENTRY_ALLOCATION => {
            insert(block, place, used, data)?;
            set_len(block, len + data.len())
        }
        op::DELETE_INDEX_ENTRY_ALLOCATION => {
            let gone = entry_len(block, place)?;
            // Bytes behind the new end stay as they are, as Windows leaves them.
            let from = place.checked_add(gone).filter(|&from| from <= used)?;
            block.copy_within(from..used, place);
            set_len(block, len - gone)
        }
        op::WRITE_END_OF_INDEX_BUFFER => {
            put(block, place, data)?;
            set_len(block, place + data.len() - INDEX)
        }
        op::SET_INDEX_ENTRY_VCN_ALLOCATION => set_child(block, place, data),
        op::UPDATE_FILE_NAME_ALLOCATION => put(block, place + 24, data),
        op::UPDATE_RECORD_DATA_ALLOCATION => set_entry_data(block, place, data),
        _ => None,
    }
}

fn set_len(block: &mut [u8], len: usize) -> Outcome {
    put(block, INDEX + 4, &u32::try_from(len).ok()?.to_le_bytes())
}

/// Where the index of the index root attribute at `at` starts.
pub(super) fn index_of_root(record: &[u8], at: usize) -> Option<usize> {
    let value = at.checked_add(usize::from(le16(record, at + 20)?))?;
    // The root's own four fields come first.
    value.checked_add(16)
}

/// Length of the index entry at `at`; none is shorter than its header.
pub(super) fn entry_len(block: &[u8], at: usize) -> Option<usize> {
    le16(block, at.checked_add(8)?).map(usize::from).filter(|&len| len >= 16)
}

/// Overwrites bytes.
pub(super) fn put(block: &mut [u8], at: usize, data: &[u8]) -> Outcome {
    block.get_mut(at..at.checked_add(data.len())?)?.copy_from_slice(data);
    Some(())
}

/// Puts `data` at `at` and moves what follows, up to `used`.
pub(super) fn insert(block: &mut [u8], at: usize, used: usize, data: &[u8]) -> Outcome {
    let fits = used.checked_add(data.len()).is_some_and(|end| end <= block.len());
    if at > used || !fits {
        return None;
    }
    block.copy_within(at..used, at + data.len());
    put(block, at, data)
}

/// Takes `len` bytes away at `at`, moves what follows, up to `used`, and clears what becomes free.
pub(super) fn remove(block: &mut [u8], at: usize, len: usize, used: usize) -> Outcome {
    let from = at.checked_add(len).filter(|&from| from <= used && used <= block.len())?;
    block.copy_within(from..used, at);
    block.get_mut(used - len..used)?.fill(0);
    Some(())
}
