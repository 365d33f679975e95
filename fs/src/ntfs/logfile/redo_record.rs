//! Operations on an MFT record, given with its fixups undone.
//!
//! ```text
//!   record     16  sequence u16    18  links u16    22  flags u16: 1 = in use    24  bytes in use u32    40  next instance u16
//!   attribute   4  length u32      14  instance u16
//!     resident      16  value length u32   20  value offset u16
//!     non-resident  16  lowest VCN u64     32  offset of the runs u16    48  size u64
//!                   24  highest VCN u64    40  allocated u64             56  valid u64    64  stored u64
//! ```

use vcb_block::bytes::{le16, le32, le64};

use super::record::{Change, op};
use super::redo_index::{entry_len, index_of_root, insert, put, remove};
use super::refusal::{Refusal, refuse};

const USED: usize = 24;
const LINKS: usize = 18;
/// Type of an attribute: a name.
const FILE_NAME: u32 = 0x30;

/// `None` when an operation does not fit what it changes.
pub(super) type Outcome = Option<()>;

/// True for operations on MFT records.
pub(super) fn applies(operation: u16) -> bool {
    matches!(
        operation,
        op::INITIALIZE_FILE_RECORD
            | op::DEALLOCATE_FILE_RECORD
            | op::WRITE_END_OF_FILE_RECORD
            | op::CREATE_ATTRIBUTE
            | op::DELETE_ATTRIBUTE
            | op::UPDATE_RESIDENT_VALUE
            | op::UPDATE_MAPPING_PAIRS
            | op::SET_NEW_ATTRIBUTE_SIZES
            | op::ADD_INDEX_ENTRY_ROOT
            | op::DELETE_INDEX_ENTRY_ROOT
            | op::SET_INDEX_ENTRY_VCN_ROOT
            | op::UPDATE_FILE_NAME_ROOT
            | op::UPDATE_RECORD_DATA_ROOT
            | op::ZERO_END_OF_FILE_RECORD
    )
}

/// Does what `change` says to `record`.
pub(super) fn apply(record: &mut [u8], change: &Change) -> Result<(), Refusal> {
    let used = le32(record, USED).map_or(usize::MAX, |used| used as usize);
    if used > record.len() && change.redo != op::INITIALIZE_FILE_RECORD {
        return Err(refuse(change.lsn, "changes an MFT record that is longer than it can be"));
    }
    operate(record, change, used).ok_or(refuse(change.lsn, "does not fit the MFT record that it changes"))
}

fn operate(record: &mut [u8], change: &Change, used: usize) -> Outcome {
    let (at, within, data) = (change.record, change.attribute, change.data());
    let place = at.checked_add(within)?;
    match change.redo {
        // Only the first bytes may be given: undoing a deallocation restores the header and no more.
        op::INITIALIZE_FILE_RECORD => put(record, 0, data),
        op::DEALLOCATE_FILE_RECORD => deallocate(record),
        op::WRITE_END_OF_FILE_RECORD => {
            put(record, place, data)?;
            set_used(record, place + data.len())
        }
        op::CREATE_ATTRIBUTE => {
            insert(record, at, used, data)?;
            set_used(record, used + data.len())?;
            let instance = le16(record, at + 14)?;
            if instance >= le16(record, 40)? {
                put(record, 40, &instance.wrapping_add(1).to_le_bytes())?;
            }
            count_name(record, at, 1)
        }
        op::DELETE_ATTRIBUTE => {
            let len = le32(record, at + 4)? as usize;
            count_name(record, at, -1)?;
            remove(record, at, len, used)?;
            set_used(record, used - len)
        }
        op::UPDATE_RESIDENT_VALUE => update_value(record, change, used),
        op::UPDATE_MAPPING_PAIRS => update_runs(record, change, used),
        op::SET_NEW_ATTRIBUTE_SIZES => set_sizes(record, at, data),
        op::ADD_INDEX_ENTRY_ROOT => {
            insert(record, place, used, data)?;
            resize_root(record, at, used, i64::try_from(data.len()).ok()?)
        }
        op::DELETE_INDEX_ENTRY_ROOT => {
            let len = entry_len(record, place)?;
            remove(record, place, len, used)?;
            resize_root(record, at, used, -i64::try_from(len).ok()?)
        }
        op::SET_INDEX_ENTRY_VCN_ROOT => set_child(record, place, data),
        // The names' times and sizes follow the 16 bytes of the entry and the reference to the folder.
        op::UPDATE_FILE_NAME_ROOT => put(record, place + 24, data),
        op::UPDATE_RECORD_DATA_ROOT => set_entry_data(record, place, data),
        op::ZERO_END_OF_FILE_RECORD => put(record, place, data),
        _ => None,
    }
}

/// Replaces the child of an index entry, which is in its last eight bytes.
pub(super) fn set_child(block: &mut [u8], entry: usize, data: &[u8]) -> Outcome {
    let len = entry_len(block, entry)?;
    if len < 24 || data.len() != 8 {
        return None;
    }
    put(block, entry + len - 8, data)
}

/// Replaces data of an entry of a view index ($Quota, $ObjId, …), whose place its first fields give.
pub(super) fn set_entry_data(block: &mut [u8], entry: usize, data: &[u8]) -> Outcome {
    let (offset, len) = (usize::from(le16(block, entry)?), usize::from(le16(block, entry + 2)?));
    if data.len() > len {
        return None;
    }
    put(block, entry + offset, data)
}

fn set_used(record: &mut [u8], used: usize) -> Outcome {
    if used > record.len() {
        return None;
    }
    put(record, USED, &u32::try_from(used).ok()?.to_le_bytes())
}

/// When the attribute at `at` is a name, it counts as a link. No operation logs the count itself (observed).
fn count_name(record: &mut [u8], at: usize, change: i16) -> Outcome {
    if le32(record, at)? != FILE_NAME {
        return Some(());
    }
    let links = le16(record, LINKS)?.checked_add_signed(change)?;
    put(record, LINKS, &links.to_le_bytes())
}

/// Out of use, under a new sequence number, so that old references do not match; 0 is left out.
fn deallocate(record: &mut [u8]) -> Outcome {
    let flags = le16(record, 22)? & !1;
    let sequence = le16(record, 16)?.wrapping_add(1).max(1);
    put(record, 22, &flags.to_le_bytes())?;
    put(record, 16, &sequence.to_le_bytes())
}

/// Makes the content of the attribute at `at` end at `end`, clears the padding behind, moves what follows.
fn resize_to(record: &mut [u8], at: usize, used: usize, end: usize) -> Outcome {
    let (old, new) = (le32(record, at + 4)? as usize, end.next_multiple_of(8));
    if new > old {
        insert(record, at.checked_add(old)?, used, &vec![0; new - old])?;
    } else {
        remove(record, at.checked_add(new)?, old - new, used)?;
    }
    put(record, at + 4, &u32::try_from(new).ok()?.to_le_bytes())?;
    record.get_mut(at + end..at + new)?.fill(0);
    set_used(record, used + new - old)
}

/// Writes into a resident value, which grows when the data passes its end, and ends with the data when that
/// replaces a longer end.
fn update_value(record: &mut [u8], change: &Change, used: usize) -> Outcome {
    let (at, within, data) = (change.record, change.attribute, change.data());
    let (value, len) = (usize::from(le16(record, at + 20)?), le32(record, at + 16)? as usize);
    let end = within.checked_add(data.len())?;
    if within < value || record.get(at + 8) != Some(&0) {
        return None;
    }
    let grows = end > value + len;
    let shrinks = data.len() < change.replaced;
    if shrinks && !grows && within + change.replaced != value + len {
        return None;
    }
    if grows || shrinks {
        // Longer than a record is refused before anything of that length is made.
        if end > record.len() {
            return None;
        }
        resize_to(record, at, used, end)?;
        put(record, at + 16, &u32::try_from(end - value).ok()?.to_le_bytes())?;
    }
    put(record, at + within, data)
}

/// Replaces the end of the run list; the highest VCN follows from the runs.
fn update_runs(record: &mut [u8], change: &Change, used: usize) -> Outcome {
    let (at, within, data) = (change.record, change.attribute, change.data());
    let end = within.checked_add(data.len()).filter(|&end| end <= record.len())?;
    if record.get(at + 8) != Some(&1) {
        return None;
    }
    resize_to(record, at, used, end)?;
    put(record, at + within, data)?;
    let len = le32(record, at + 4)? as usize;
    let mut runs = record.get(at + usize::from(le16(record, at + 32)?)..at + len)?;
    let mut clusters = 0u64;
    while let Some((&header, rest)) = runs.split_first()
        && header != 0
    {
        let (count, delta) = (usize::from(header & 15), usize::from(header >> 4));
        let (count, rest) = rest.split_at_checked(count)?;
        let count = count.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        clusters = clusters.checked_add(count)?;
        runs = rest.get(delta..)?;
    }
    let highest = le64(record, at + 16)?.checked_add(clusters)?.wrapping_sub(1);
    put(record, at + 24, &highest.to_le_bytes())
}

/// The data is: allocated, valid, size, and for compressed and sparse attributes what is stored.
fn set_sizes(record: &mut [u8], at: usize, data: &[u8]) -> Outcome {
    if record.get(at + 8) != Some(&1) {
        return None;
    }
    let runs = usize::from(le16(record, at + 32)?);
    for (field, value) in [40, 56, 48, 64].into_iter().zip(data.chunks(8)) {
        if value.len() != 8 || field + 8 > runs {
            return None;
        }
        put(record, at + field, value)?;
    }
    (data.len() >= 24 && data.len() <= 32).then_some(())
}

/// After entries of an index root came or went: the lengths of attribute, value and index.
fn resize_root(record: &mut [u8], at: usize, used: usize, delta: i64) -> Outcome {
    let index = index_of_root(record, at)?;
    for field in [at + 4, at + 16, index + 4, index + 8] {
        let value = u32::try_from(i64::from(le32(record, field)?) + delta).ok()?;
        put(record, field, &value.to_le_bytes())?;
    }
    set_used(record, usize::try_from(i64::try_from(used).ok()? + delta).ok()?)
}
