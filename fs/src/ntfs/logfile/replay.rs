//! The replay itself: redo in the order of the log, then undo from its end.

use std::collections::BTreeMap;
use std::ops::Range;

use vcb_block::bytes::{le16, le32};
use vcb_block::{BlockRef, Result};

use super::analysis::{self, Work};
use super::pages::Log;
use super::record::{Change, op};
use super::refusal::{Refusal, refuse};
use super::restart::{self, Found};
use super::stage::Stage;
use super::tables::{DirtyPage, OpenAttribute};
use super::{Overlay, redo_index, redo_record};

/// Type of an attribute: data.
const DATA: u32 = 0x80;
/// Type of an attribute: index blocks.
const INDEX_ALLOCATION: u32 = 0xA0;
/// Sizes that index blocks have.
const INDEX_BLOCK: std::ops::RangeInclusive<usize> = 512..=65_536;

/// The volume that a log belongs to.
pub struct Volume {
    /// Its bytes.
    pub block: BlockRef,
    /// Bytes per cluster.
    pub cluster: u32,
    /// Bytes per MFT record.
    pub record: u32,
}

/// Finds out what Windows would change on `volume` because of `log`, the content of its `$LogFile`.
///
/// # Errors
/// `Unsupported` with a [`Refusal`] when the log, or any record of it that matters, is not understood; read
/// errors. Then the volume can only be shown as it is.
pub fn replay(volume: &Volume, log: &BlockRef) -> Result<Overlay> {
    let restart = match restart::read(log)? {
        Found::Restart(restart) => restart,
        Found::Empty => return Ok(Overlay::default()),
        Found::Unknown(why) => return Err(Refusal::Log(why).into()),
    };
    let Some(checkpoint) = restart.checkpoint.filter(|_| !restart.clean) else { return Ok(Overlay::default()) };
    let log = Log::open(log, &restart)?;
    let work = analysis::analyse(&log, checkpoint)?;
    let mut replay = Replay::new(volume, work.attributes.clone());
    let (redone, undone) = replay.run(&work)?;
    let Replay { mut stage, records, record, .. } = replay;
    let mut found = Vec::new();
    for (number, offset) in records {
        // The record knows its number: a log of another volume would not agree.
        let block = stage.structured(offset, record, "FILE", 0)?;
        if block.sound && le16(&block.bytes, 4).is_some_and(|usa| usa >= 0x30) {
            let own = le32(&block.bytes, 0x2C);
            if own.map(u64::from) != Some(number & u64::from(u32::MAX)) {
                return Err(Refusal::Log("an MFT record that the log changes has another number").into());
            }
        }
        found.push((number, offset));
    }
    Ok(Overlay::new(stage.finish()?, found, redone, undone))
}

/// A replay under way.
pub(super) struct Replay {
    cluster: u64,
    record: usize,
    volume_len: u64,
    attributes: BTreeMap<u16, OpenAttribute>,
    pub(super) stage: Stage,
    /// Offsets of the MFT records touched, by number.
    records: BTreeMap<u64, u64>,
}

impl Replay {
    pub(super) fn new(volume: &Volume, attributes: BTreeMap<u16, OpenAttribute>) -> Self {
        Replay {
            cluster: u64::from(volume.cluster),
            record: volume.record as usize,
            volume_len: volume.block.len(),
            attributes,
            stage: Stage::new(&volume.block),
            records: BTreeMap::new(),
        }
    }

    fn run(&mut self, work: &Work) -> Result<(u64, u64)> {
        let (mut redone, mut undone) = (0, 0);
        for change in &work.redo {
            if let Some((number, attribute)) = work.opens(change)? {
                self.attributes.insert(number, attribute);
            } else if !is_mark(change.redo)
                && let Some(page) = work.pages.get(&(change.target, change.vcn))
                && change.lsn >= page.oldest
            {
                agree(change, page)?;
                redone += u64::from(self.change(change, false)?);
            }
        }
        // Taken back whatever the block's LSN: the change may have reached the volume.
        for change in work.undo.iter().filter(|change| !is_mark(change.redo)) {
            undone += u64::from(self.change(change, true)?);
        }
        Ok((redone, undone))
    }

    /// Makes one change; false when the block had it already.
    pub(super) fn change(&mut self, change: &Change, undo: bool) -> Result<bool> {
        let lsn = change.lsn;
        let attribute = self.attributes.get(&change.target).copied();
        let attribute = attribute.ok_or(refuse(lsn, "changes an attribute that is not open"))?;
        let is_mft = (attribute.kind, attribute.file) == (DATA, 0);
        let is_index = attribute.kind == INDEX_ALLOCATION;
        match change.redo {
            operation if redo_record::applies(operation) && is_mft => {
                self.structured(change, "FILE", self.record, undo)
            }
            operation if redo_index::applies(operation) && is_index => self.index(change, attribute, undo),
            op::UPDATE_NONRESIDENT_VALUE if is_index => self.index(change, attribute, undo),
            op::UPDATE_NONRESIDENT_VALUE | op::SET_BITS | op::CLEAR_BITS if !is_mft && !is_index => {
                self.raw(change)?;
                Ok(true)
            }
            operation if redo_record::applies(operation) || redo_index::applies(operation) => {
                Err(refuse(lsn, "changes an attribute that it cannot be meant for").into())
            }
            operation => Err(Refusal::Operation { lsn, operation }.into()),
        }
    }

    fn index(&mut self, change: &Change, attribute: OpenAttribute, undo: bool) -> Result<bool> {
        let len = if change.block_len > 0 { change.block_len } else { attribute.index_block };
        if !len.is_power_of_two() || !INDEX_BLOCK.contains(&len) {
            return Err(refuse(change.lsn, "changes an index block of impossible length").into());
        }
        self.structured(change, "INDX", len, undo)
    }

    fn structured(&mut self, change: &Change, signature: &'static str, len: usize, undo: bool) -> Result<bool> {
        let lsn = change.lsn;
        if change.block_len != 0 && change.block_len != len {
            return Err(refuse(lsn, "changes a block of another length than the volume has").into());
        }
        let offset = self.contiguous(change, len as u64)?;
        let is_record = signature == "FILE";
        if is_record {
            let start = change.vcn.checked_mul(self.cluster).and_then(|start| start.checked_add(change.block as u64));
            let start = start.ok_or(refuse(lsn, "changes an MFT record without a number"))?;
            self.records.insert(start / len as u64, offset);
        }
        let block = self.stage.structured(offset, len, signature, lsn)?;
        let writes_whole = match change.redo {
            op::INITIALIZE_FILE_RECORD => true,
            op::UPDATE_NONRESIDENT_VALUE => change.record + change.attribute == 0,
            _ => false,
        } && change.data().starts_with(signature.as_bytes());
        if block.sound && !undo && block.lsn() >= lsn {
            return Ok(false);
        }
        if !block.sound {
            if !writes_whole {
                return Err(refuse(lsn, "changes a block that is torn or was never written").into());
            }
            block.bytes.fill(0);
        }
        if is_record {
            redo_record::apply(&mut block.bytes, change)?;
        } else {
            redo_index::apply(&mut block.bytes, change)?;
        }
        // Windows leaves the LSN of a record alone when it updates the data of a view index entry in it.
        block.changed(lsn, !undo && change.redo != op::UPDATE_RECORD_DATA_ROOT);
        Ok(true)
    }

    /// Bytes and bits of attributes that have no structure of their own: nothing tells what they have already,
    /// and doing it again does no harm.
    fn raw(&mut self, change: &Change) -> Result<()> {
        let lsn = change.lsn;
        let outside = || refuse(lsn, "changes bytes outside of its page");
        if change.redo == op::UPDATE_NONRESIDENT_VALUE {
            let start = change.block + change.record + change.attribute;
            let data = change.data();
            return self.pieces(change, start as u64, data.len() as u64, |stage, place, done| {
                stage.raw(place.clone(), |offset, byte| {
                    let index = done + (offset - place.start);
                    *byte = data.get(index as usize).copied().unwrap_or(*byte);
                })
            });
        }
        let set = change.redo == op::SET_BITS;
        let (first, count) = (le32(change.data(), 0), le32(change.data(), 4));
        let (first, count) = (u64::from(first.ok_or_else(outside)?), u64::from(count.ok_or_else(outside)?));
        let (start, bits) = (first / 8, first % 8..first % 8 + count);
        self.pieces(change, change.block as u64 + start, bits.end.div_ceil(8), |stage, place, done| {
            stage.raw(place.clone(), |offset, byte| {
                let base = (done + (offset - place.start)) * 8;
                for bit in (0..8).filter(|bit| bits.contains(&(base + bit))) {
                    *byte = if set { *byte | 1 << bit } else { *byte & !(1 << bit) };
                }
            })
        })
    }

    /// Where the block of `change` lies on the volume; its clusters must follow each other.
    fn contiguous(&self, change: &Change, len: u64) -> Result<u64, Refusal> {
        let start = change.block as u64;
        let outside = refuse(change.lsn, "changes bytes outside of its page");
        let (first, last) = (start / self.cluster, (start + len - 1) / self.cluster);
        let lcns = usize::try_from(last).ok().and_then(|last| change.lcns.get(first as usize..=last));
        let lcns = lcns.ok_or(outside.clone())?;
        if lcns.windows(2).any(|pair| pair[0].checked_add(1) != Some(pair[1])) {
            return Err(refuse(change.lsn, "changes a block whose clusters do not follow each other"));
        }
        let offset = lcns[0].checked_mul(self.cluster).and_then(|offset| offset.checked_add(start % self.cluster));
        offset.filter(|offset| offset.checked_add(len).is_some_and(|end| end <= self.volume_len)).ok_or(outside)
    }

    /// Calls `work` for the parts of `len` bytes at `start` of the page of `change` that are together on the
    /// volume, with the bytes done before.
    fn pieces(
        &mut self,
        change: &Change,
        start: u64,
        len: u64,
        mut work: impl FnMut(&mut Stage, Range<u64>, u64) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < len {
            let position = start + done;
            let within = position % self.cluster;
            let take = (self.cluster - within).min(len - done);
            let lcn = usize::try_from(position / self.cluster).ok().and_then(|index| change.lcns.get(index));
            let offset =
                lcn.and_then(|lcn| lcn.checked_mul(self.cluster)).and_then(|offset| offset.checked_add(within));
            let offset = offset.filter(|offset| offset.checked_add(take).is_some_and(|end| end <= self.volume_len));
            let offset = offset.ok_or(refuse(change.lsn, "changes bytes outside of its page"))?;
            work(&mut self.stage, offset..offset + take, done)?;
            done += take;
        }
        Ok(())
    }
}

/// Records that change nothing on the volume.
pub(super) fn is_mark(operation: u16) -> bool {
    matches!(
        operation,
        op::NOOP
            | op::COMPENSATION
            | op::DELETE_DIRTY_CLUSTERS
            | op::END_TOP_LEVEL_ACTION
            | op::PREPARE_TRANSACTION
            | op::COMMIT_TRANSACTION
            | op::FORGET_TRANSACTION
            | op::OPEN_ATTRIBUTE
            | op::OPEN_ATTRIBUTE_TABLE
            | op::ATTRIBUTE_NAMES
            | op::DIRTY_PAGE_TABLE
            | op::TRANSACTION_TABLE
    )
}

/// A record names the clusters of its page only as far as it changes them; where it and the dirty page table
/// both name one it is the same.
fn agree(change: &Change, page: &DirtyPage) -> Result<(), Refusal> {
    if change.lcns.iter().zip(&page.lcns).any(|(&here, &there)| there != 0 && here != there) {
        return Err(refuse(change.lsn, "changes a page that the log has elsewhere"));
    }
    Ok(())
}
