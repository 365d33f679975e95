//! Nodes of an index and their entries.
//!
//! ```text
//! node   0x00 first entry  0x04 end of entries  0x08 allocated  0x0C flags (1: has children)
//! entry  0x00 file or data reference  0x08 length  0x0A key length  0x0C flags  0x10 key … child VCN
//! ```
//! In an entry's child lie the keys before its own; the last entry of a node has no key.

use std::sync::Arc;

use vcb_block::bytes::{le16, le32, le64};
use vcb_block::{Error, Result};

use super::error::{Fault, Place};

/// Node flag: its entries have children.
const HAS_CHILDREN: u32 = 1;

/// Entry flag: has a child.
const HAS_CHILD: u16 = 1;
/// Entry flag: the last of its node, without a key.
const LAST: u16 = 2;

/// Low bits of a position: offset of the entry in its node. Above: 0 for the root, else block number + 1.
pub(super) const POSITION_BITS: u32 = 20;

/// Where a node lies.
pub(super) enum Source<'i> {
    Root(&'i [u8]),
    Block(Arc<[u8]>),
}

/// A node: the entries of the root or of a block.
pub(super) struct Node<'i> {
    pub(super) place: Place,
    /// As in the index.
    names: bool,
    /// 0 for the root, else block number + 1.
    number: u64,
    source: Source<'i>,
    /// Where the node begins in the source: entry offsets count from here.
    base: usize,
    /// Offset of the first entry.
    pub(super) first: usize,
    /// Offset after the last entry.
    end: usize,
    /// Its entries have children: all of them, or none.
    pub(super) inner: bool,
}

/// An entry of a node.
pub(super) struct Entry<'n> {
    /// File reference of the file named, in folders.
    pub(super) reference: u64,
    /// The key, in folders a $FILE_NAME; empty in the last entry.
    pub(super) key: &'n [u8],
    /// Data of view indexes.
    pub(super) data: &'n [u8],
    /// Identifies the entry within its index: never 0.
    pub(super) position: u64,
    /// Structure it is in.
    pub(super) place: Place,
    /// VCN of the child.
    pub(super) child: Option<u64>,
    flags: u16,
    /// Bytes to the next one.
    pub(super) len: usize,
}

impl Entry<'_> {
    /// Damage of this entry.
    pub(super) fn fault(&self, what: &'static str) -> Error {
        Fault::Entry { offset: self.position as usize & ((1 << POSITION_BITS) - 1), what }.at(self.place)
    }

    pub(super) fn is_last(&self) -> bool {
        self.flags & LAST != 0
    }
}

impl<'i> Node<'i> {
    pub(super) fn new(
        place: Place,
        names: bool,
        number: u64,
        source: Source<'i>,
        base: usize,
        limit: usize,
    ) -> Result<Self> {
        let mut node = Node { place, names, number, source, base, first: 0, end: 0, inner: false };
        let field = |offset| le32(node.bytes(), base + offset).ok_or(Fault::Short("index node").at(place));
        let (first, end) = (field(0)? as usize, field(4)? as usize);
        if first < 0x10 || first > end || end > limit.saturating_sub(base) {
            return Err(Fault::Field { field: "end of the index entries", value: end as u64 }.at(place));
        }
        let large = field(0x0C)? & HAS_CHILDREN != 0;
        // A root keeps the flag while it has an allocation, used or not: there the entries tell.
        let inner = match number {
            0 => le16(node.bytes(), base + first + 0x0C).is_some_and(|flags| flags & HAS_CHILD != 0),
            _ => large,
        };
        (node.first, node.end, node.inner) = (first, end, inner);
        Ok(node)
    }

    fn bytes(&self) -> &[u8] {
        match &self.source {
            Source::Root(bytes) => bytes,
            Source::Block(bytes) => bytes,
        }
    }

    /// The entry at offset `at`.
    pub(super) fn entry(&self, at: usize) -> Result<Entry<'_>> {
        let fault = |what| Fault::Entry { offset: at, what }.at(self.place);
        let bytes = self.bytes().get(self.base + at..self.base + self.end).ok_or_else(|| fault("is missing"))?;
        let short = || fault("is cut off");
        let len = usize::from(le16(bytes, 8).ok_or_else(short)?);
        let key_len = usize::from(le16(bytes, 0x0A).ok_or_else(short)?);
        let flags = le16(bytes, 0x0C).ok_or_else(short)?;
        let bytes = bytes.get(..len).ok_or_else(|| fault("passes the end of its node"))?;
        if len < 0x10 || !len.is_multiple_of(8) {
            return Err(fault("impossible length"));
        }
        // What follows an early end, or lies below an entry that denies its child, would be lost unnoticed.
        if flags & LAST != 0 && at + len != self.end {
            return Err(fault("is the last one, with others after it"));
        }
        if (flags & HAS_CHILD != 0) != self.inner {
            return Err(fault("contradicts its node about children"));
        }
        let (body, child) = match flags & HAS_CHILD {
            0 => (len, None),
            _ if len < 0x18 => return Err(short()),
            _ => (len - 8, Some(le64(bytes, len - 8).ok_or_else(short)?)),
        };
        let key = match flags & LAST {
            0 => bytes
                .get(0x10..0x10 + key_len)
                .filter(|_| 0x10 + key_len <= body)
                .ok_or_else(|| fault("its key passes its end"))?,
            _ => &[],
        };
        // In view indexes the reference is two 16-bit numbers: offset and length of the data.
        let (data_at, data_len) = (le16(bytes, 0).map_or(0, usize::from), le16(bytes, 2).map_or(0, usize::from));
        let content = match flags & LAST {
            0 if self.names => 0x10 + key_len,
            0 => data_at + data_len,
            _ => 0x10,
        };
        // Entries have no room to spare: what a longer one covers would be lost unnoticed.
        if body != content.next_multiple_of(8) {
            return Err(fault("its length is not that of its content"));
        }
        Ok(Entry {
            reference: le64(bytes, 0).ok_or_else(short)?,
            key,
            data: bytes.get(data_at..data_at + data_len).unwrap_or_default(),
            position: (at as u64) | self.number << POSITION_BITS,
            place: self.place,
            child,
            flags,
            len,
        })
    }
}
