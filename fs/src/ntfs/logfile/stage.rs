//! The pieces of the volume that a replay changes, in memory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use vcb_block::bytes::{le16, le64};
use vcb_block::{BlockRef, Result, plan};

use super::refusal::{Refusal, refuse};
use crate::ntfs::fixup;

/// Bytes held at most. A log of 64 MiB cannot touch more than a part of this.
const MAX_BYTES: u64 = 256 << 20;
/// Raw clusters are held in pieces of this, whatever the cluster size; it divides all larger ones.
const PIECE: u64 = 512;

/// A record or index block.
pub(super) struct Structured {
    /// `FILE` or `INDX`.
    signature: &'static str,
    /// With fixups undone, when it is sound.
    pub(super) bytes: Vec<u8>,
    /// False for one that is torn or was never written.
    pub(super) sound: bool,
    changed: bool,
}

impl Structured {
    /// LSN of the last change of it.
    pub(super) fn lsn(&self) -> u64 {
        le64(&self.bytes, 8).unwrap_or(0)
    }

    /// Notes that change `lsn` was made; `stamp` also writes that down in the block.
    pub(super) fn changed(&mut self, lsn: u64, stamp: bool) {
        self.changed = true;
        self.sound = true;
        if stamp && let Some(field) = self.bytes.get_mut(8..16) {
            field.copy_from_slice(&lsn.to_le_bytes());
        }
    }
}

/// Changed pieces by their byte offset on the volume.
pub(super) struct Stage {
    volume: BlockRef,
    structured: BTreeMap<u64, Structured>,
    raw: BTreeMap<u64, Vec<u8>>,
    held: u64,
}

impl Stage {
    pub(super) fn new(volume: &BlockRef) -> Self {
        Stage { volume: volume.clone(), structured: BTreeMap::new(), raw: BTreeMap::new(), held: 0 }
    }

    fn hold(held: &mut u64, len: u64) -> Result<(), Refusal> {
        *held += len;
        if *held > MAX_BYTES {
            return Err(Refusal::Limit { what: "the memory of the replay", limit: MAX_BYTES });
        }
        Ok(())
    }

    /// The block of `len` bytes at `offset`, as the replay has made it so far.
    pub(super) fn structured(
        &mut self,
        offset: u64,
        len: usize,
        signature: &'static str,
        lsn: u64,
    ) -> Result<&mut Structured> {
        let block = match self.structured.entry(offset) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                Self::hold(&mut self.held, len as u64)?;
                let mut bytes = vec![0; len];
                plan::read(&self.volume, &mut bytes, offset)?;
                let mut sound = bytes.clone();
                let is_sound = fixup::apply(&mut sound, signature).is_ok();
                let bytes = if is_sound { sound } else { bytes };
                entry.insert(Structured { signature, bytes, sound: is_sound, changed: false })
            }
        };
        if block.signature != signature || block.bytes.len() != len {
            return Err(refuse(lsn, "changes a block that was another kind of block before").into());
        }
        Ok(block)
    }

    /// Calls `change` for every byte of `range`, with its offset.
    pub(super) fn raw(&mut self, range: std::ops::Range<u64>, mut change: impl FnMut(u64, &mut u8)) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let start = at - at % PIECE;
            let piece = match self.raw.entry(start) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    Self::hold(&mut self.held, PIECE)?;
                    let mut bytes = vec![0; PIECE as usize];
                    plan::read(&self.volume, &mut bytes, start)?;
                    entry.insert(bytes)
                }
            };
            let end = range.end.min(start + PIECE);
            for (offset, byte) in (at..end).zip(&mut piece[(at - start) as usize..]) {
                change(offset, byte);
            }
            at = end;
        }
        Ok(())
    }

    /// Everything that was changed, as it belongs on the volume, by offset and without overlaps.
    pub(super) fn finish(self) -> Result<Vec<(u64, Vec<u8>)>> {
        let mut patches = self.raw;
        for (offset, mut block) in self.structured.into_iter().filter(|(_, block)| block.changed) {
            protect(&mut block.bytes).ok_or(Refusal::Log("a block of the replay has no room for its fixups"))?;
            if patches.insert(offset, block.bytes).is_some() {
                return Err(OVERLAP.into());
            }
        }
        let patches: Vec<_> = patches.into_iter().collect();
        let overlap = |pair: &[(u64, Vec<u8>)]| pair[0].0 + pair[0].1.len() as u64 > pair[1].0;
        if patches.windows(2).any(overlap) {
            return Err(OVERLAP.into());
        }
        Ok(patches)
    }
}

const OVERLAP: Refusal = Refusal::Log("the same bytes are changed as different kinds of block");

/// Puts update sequence numbers at the end of every sector: the opposite of [`fixup::apply`].
pub(super) fn protect(block: &mut [u8]) -> Option<()> {
    let (start, count) = (usize::from(le16(block, 4)?), usize::from(le16(block, 6)?));
    let sectors = block.len() / 512;
    if count != sectors + 1 || start < 8 || start + 2 * count > 510 {
        return None;
    }
    // 0 and FFFF are what an unwritten sector might end in.
    let number = match le16(block, start)?.wrapping_add(1) {
        0 | u16::MAX => 1u16,
        number => number,
    };
    block.get_mut(start..start + 2)?.copy_from_slice(&number.to_le_bytes());
    for sector in 0..sectors {
        let end = (sector + 1) * 512 - 2;
        block.copy_within(end..end + 2, start + 2 + 2 * sector);
        block.get_mut(end..end + 2)?.copy_from_slice(&number.to_le_bytes());
    }
    Some(())
}
