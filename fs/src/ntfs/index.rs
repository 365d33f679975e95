//! B+ trees of [nodes](super::node): folders ($I30) and the index of security ids ($SII).
//!
//! A node is the rest of the $INDEX_ROOT attribute or of an INDX block. Child VCNs count clusters, or 512-byte units where
//! a cluster is longer than a block (observed, every cluster size from 512 bytes to 2 MiB).

use std::cmp::Ordering;
use std::sync::Arc;

use vcb_block::bytes::{le32, le64};
use vcb_block::{BlockRef, Result, plan};

use super::cache::Cache;
use super::dir::I30;
use super::error::{Fault, Place};
use super::file::File;
use super::fixup;
use super::mft::Mft;
use super::name::Utf16;
use super::node::{Entry, Node, POSITION_BITS, Source};
use super::record::kind;

/// Longest index block: one cluster on volumes of 64 KiB clusters; others have 4 KiB.
const MAX_BLOCK: u64 = 64 << 10;
/// Longest index root: it is resident.
const MAX_ROOT: u64 = 4096;
/// Bytes of an index read at once.
const PIECE: u64 = 64 << 10;
/// Longest index bitmap: enough for 2^25 blocks, which hold more names than a volume has records.
const MAX_BITMAP: u64 = 4 << 20;
/// Deepest tree. A block holds at least six keys of the longest name, so 2^32 blocks are 13 levels.
const MAX_DEPTH: usize = 32;
/// Bytes before the node in $INDEX_ROOT.
const ROOT_HEADER: usize = 0x10;
/// Bytes before the node in an INDX block.
const BLOCK_HEADER: usize = 0x18;

/// Blocks of indexes, by record number of the owner and piece.
pub(super) type Pieces = Cache<(u64, u64), Piece>;

/// Some blocks of an index in a row, update sequences applied.
pub(super) struct Piece {
    bytes: Arc<[u8]>,
    /// Blocks that cannot be used, by index in the piece.
    faults: Vec<(u64, Fault)>,
}

/// An open index. It does not change and may be shared.
pub(super) struct Index {
    /// Record number of the file that owns it.
    record: u64,
    root: Vec<u8>,
    /// Entries are names with nothing behind them, as opposed to keys with data.
    names: bool,
    block_size: u64,
    /// Bytes that child VCNs count.
    vcn_unit: u64,
    allocation: Option<BlockRef>,
    bitmap: Vec<u8>,
    weight: usize,
}

impl Index {
    /// The index called `name` of `file`. Only one index of a file may be opened with one [`Pieces`].
    pub(super) fn open(mft: &Mft, file: &File<'_>, name: Utf16<'_>) -> Result<Self> {
        let record = file.number();
        let place = Place::Index { record, block: None };
        let Some(root) = file.content(kind::INDEX_ROOT, name)? else {
            return Err(Fault::Missing("$INDEX_ROOT").in_record(record));
        };
        let root = file.read_all(root, kind::INDEX_ROOT, MAX_ROOT)?;
        let block_size = u64::from(le32(&root, 8).ok_or(Fault::Short("index root").at(place))?);
        if !(512..=MAX_BLOCK).contains(&block_size) || !block_size.is_power_of_two() {
            return Err(Fault::Field { field: "index block size", value: block_size }.at(place));
        }
        let cluster = u64::from(mft.geometry.cluster);
        let names = name == I30;
        let indexed = le32(&root, 0).ok_or(Fault::Short("index root").at(place))?;
        if indexed != if names { kind::FILE_NAME } else { 0 } {
            return Err(Fault::Field { field: "type of the indexed attribute", value: indexed.into() }.at(place));
        }
        let mut index = Index {
            record,
            root,
            names,
            block_size,
            vcn_unit: if cluster <= block_size { cluster } else { 512 },
            allocation: None,
            bitmap: Vec::new(),
            weight: 0,
        };
        if let Some(content) = file.content(kind::INDEX_ALLOCATION, name)? {
            if let super::file::Content::Clusters(clusters) = &content {
                index.weight = clusters.runs.weight();
            }
            index.allocation = Some(file.plain(content, kind::INDEX_ALLOCATION)?);
            let bitmap =
                file.content(kind::BITMAP, name)?.ok_or_else(|| Fault::Missing("index bitmap").in_record(record))?;
            index.bitmap = file.read_all(bitmap, kind::BITMAP, MAX_BITMAP)?;
        }
        index.weight += index.root.len() + index.bitmap.len() + size_of::<Index>();
        Ok(index)
    }

    /// An index of blocks that are all in use, on a volume of 512-byte clusters, for fuzzing.
    pub(super) fn of(root: Vec<u8>, blocks: BlockRef) -> Result<Self, Fault> {
        let block_size = u64::from(le32(&root, 8).ok_or(Fault::Short("index root"))?);
        if !(512..=MAX_BLOCK).contains(&block_size) || !block_size.is_power_of_two() {
            return Err(Fault::Field { field: "index block size", value: block_size });
        }
        let bitmap = vec![0xFF; (blocks.len() / block_size / 8) as usize + 1];
        Ok(Index {
            record: 0,
            root,
            names: true,
            block_size,
            vcn_unit: 512,
            allocation: Some(blocks),
            bitmap,
            weight: 0,
        })
    }

    /// Bytes of memory.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// A cursor before the first entry.
    pub(super) fn first<'a>(&'a self, pieces: &'a Pieces) -> Result<Cursor<'a>> {
        self.seek(pieces, |_| Ok(Ordering::Greater))
    }

    /// A cursor before the first entry whose key is not less than what is looked for; `compare` tells how
    /// a key compares with that.
    pub(super) fn seek<'a>(
        &'a self,
        pieces: &'a Pieces,
        compare: impl Fn(&[u8]) -> Result<Ordering, Fault>,
    ) -> Result<Cursor<'a>> {
        let mut cursor = Cursor { index: self, pieces, stack: Vec::new(), passed: false };
        let mut node = self.root_node()?;
        loop {
            let mut at = node.first;
            let entry = loop {
                let entry = node.entry(at)?;
                let reached = entry.is_last() || compare(entry.key).map_err(|fault| fault.at(node.place))?.is_ge();
                if reached {
                    break entry;
                }
                at += entry.len;
            };
            let child = entry.child;
            cursor.stack.push((node, at));
            match child {
                Some(vcn) => node = cursor.descend(vcn)?,
                None => return Ok(cursor),
            }
        }
    }

    /// The entry at `position`, as [`Entry::position`] gave it.
    ///
    /// # Errors
    /// As for reading; `None` when no entry begins there.
    pub(super) fn key_at(&self, pieces: &Pieces, position: u64) -> Result<Option<Vec<u8>>> {
        let node = match (position >> POSITION_BITS).checked_sub(1) {
            None => self.root_node()?,
            Some(block) if self.holds(block) => self.block_node(pieces, block)?,
            Some(_) => return Ok(None),
        };
        let wanted = (position & ((1 << POSITION_BITS) - 1)) as usize;
        let mut at = node.first;
        loop {
            let entry = node.entry(at)?;
            if entry.is_last() || at > wanted {
                return Ok(None);
            }
            if at == wanted {
                return Ok(Some(entry.key.to_vec()));
            }
            at += entry.len;
        }
    }

    fn root_node(&self) -> Result<Node<'_>> {
        let place = Place::Index { record: self.record, block: None };
        let node = Node::new(place, self.names, 0, Source::Root(&self.root), ROOT_HEADER, self.root.len())?;
        if !node.inner && self.bitmap.iter().any(|&byte| byte != 0) {
            return Err(Fault::Missing("child, yet its index has blocks in use").at(place));
        }
        Ok(node)
    }

    /// True when block number `block` exists and is in use.
    fn holds(&self, block: u64) -> bool {
        let exists = self.allocation.as_ref().is_some_and(|data| block < data.len() / self.block_size);
        let byte = usize::try_from(block / 8).ok().and_then(|byte| self.bitmap.get(byte));
        exists && byte.is_some_and(|byte| byte >> (block % 8) & 1 == 1)
    }

    /// Checks that the tree reaches every block in use: a damaged pointer may lead past a part of the tree, and nothing
    /// else would contradict it.
    ///
    /// # Errors
    /// Damage, blocks that are not reached, failing reads.
    pub(super) fn check_whole(&self, pieces: &Pieces) -> Result<()> {
        let blocks = self.allocation.as_ref().map_or(0, |data| data.len() / self.block_size);
        let used = (0..blocks).filter(|&block| self.holds(block)).count() as u64;
        // Mostly all children of a node are alike, and one tells of all.
        if self.reached(pieces, used, false)? == used || self.reached(pieces, used, true)? == used {
            return Ok(());
        }
        let place = Place::Index { record: self.record, block: None };
        Err(Fault::Mismatch("the number of its blocks in use").at(place))
    }

    /// How many blocks the tree reaches, no more than one beyond `limit`. Unless `each`, the children of a node whose
    /// first one has no children are taken not to have any.
    fn reached(&self, pieces: &Pieces, limit: u64, each: bool) -> Result<u64> {
        let root = self.root_node()?;
        let first = root.first;
        let mut stack = vec![(root, first, false)];
        let mut found = 0;
        while let Some((node, at, leaves)) = stack.last_mut() {
            let entry = node.entry(*at)?;
            let (child, is_last, len) = (entry.child, entry.is_last(), entry.len);
            let mut below = None;
            if let Some(vcn) = child {
                found += 1;
                if !*leaves || each {
                    let child = self.child(pieces, vcn)?;
                    *leaves = !child.inner;
                    below = Some(child).filter(|child| child.inner);
                }
            }
            // Before the child is looked at, as its own parent is done with then.
            match is_last {
                true => drop(stack.pop()),
                false => *at += len,
            }
            stack.extend(below.map(|child| {
                let first = child.first;
                (child, first, false)
            }));
            if found > limit || stack.len() > MAX_DEPTH {
                break;
            }
        }
        Ok(found)
    }

    /// The node that an entry's child VCN leads to.
    fn child(&self, pieces: &Pieces, vcn: u64) -> Result<Node<'static>> {
        let block = vcn
            .checked_mul(self.vcn_unit)
            .filter(|offset| offset % self.block_size == 0)
            .map(|offset| offset / self.block_size)
            .filter(|&block| self.holds(block))
            .ok_or_else(|| Fault::Child(vcn).in_record(self.record))?;
        self.block_node(pieces, block)
    }

    fn block_node(&self, pieces: &Pieces, block: u64) -> Result<Node<'static>> {
        let per_piece = (PIECE / self.block_size).max(1);
        let (index, mut slot) = (block / per_piece, block % per_piece);
        let piece = match pieces.get(&(self.record, index)) {
            Some(piece) => piece,
            None => match self.load(index * per_piece, per_piece) {
                Ok(piece) => {
                    pieces.insert((self.record, index), piece.clone(), piece.bytes.len());
                    piece
                }
                // One bad sector must not take the blocks around it along.
                Err(_) => {
                    slot = 0;
                    self.load(block, 1)?
                }
            },
        };
        let offset = block * self.block_size;
        let place = Place::Index { record: self.record, block: Some(offset) };
        if let Some((_, fault)) = piece.faults.iter().find(|(bad, _)| *bad == slot) {
            return Err(fault.clone().at(place));
        }
        let start = (slot * self.block_size) as usize;
        let end = start + self.block_size as usize;
        let own = le64(&piece.bytes, start + 0x10).ok_or(Fault::Short("block header").at(place))?;
        if own.checked_mul(self.vcn_unit) != Some(offset) {
            return Err(Fault::Field { field: "own VCN", value: own }.at(place));
        }
        Node::new(place, self.names, block + 1, Source::Block(Arc::clone(&piece.bytes)), start + BLOCK_HEADER, end)
    }

    fn load(&self, first: u64, count: u64) -> Result<Arc<Piece>> {
        let Some(allocation) = &self.allocation else { return Err(Fault::Child(first).in_record(self.record)) };
        let blocks = (allocation.len() / self.block_size).saturating_sub(first).min(count);
        let mut bytes = vec![0; (blocks * self.block_size) as usize];
        plan::read(allocation, &mut bytes, first * self.block_size)?;
        let mut faults = Vec::new();
        for (slot, block) in (0..).zip(bytes.chunks_exact_mut(self.block_size as usize)) {
            if let Err(fault) = fixup::apply(block, "INDX") {
                faults.push((slot, fault));
            }
        }
        Ok(Arc::new(Piece { bytes: bytes.into(), faults }))
    }
}

/// Walks an index in key order.
pub(super) struct Cursor<'a> {
    index: &'a Index,
    pieces: &'a Pieces,
    /// From the root down; the offset is that of the entry whose child the next node is, in the last node
    /// that of the current entry.
    stack: Vec<(Node<'a>, usize)>,
    /// The current entry has been handed out.
    passed: bool,
}

impl<'a> Cursor<'a> {
    /// The entry before the next one, as long as nothing was asked of the cursor since it was made.
    pub(super) fn before(&self) -> Result<Option<Entry<'_>>> {
        // What precedes the first entry of a node precedes the way to it.
        let Some((node, end)) = self.stack.iter().rev().find(|(node, at)| *at > node.first) else { return Ok(None) };
        let mut at = node.first;
        loop {
            let entry = node.entry(at)?;
            at += entry.len;
            if at >= *end {
                return Ok(Some(entry));
            }
        }
    }

    /// The next entry that has a key.
    pub(super) fn next(&mut self) -> Result<Option<Entry<'_>>> {
        if std::mem::take(&mut self.passed) {
            self.advance()?;
        }
        while let Some((node, at)) = self.stack.last() {
            if !node.entry(*at)?.is_last() {
                break;
            }
            self.stack.pop();
        }
        let Some((node, at)) = self.stack.last() else { return Ok(None) };
        self.passed = true;
        node.entry(*at).map(Some)
    }

    /// To the first entry after the current one: below it when that has a child.
    fn advance(&mut self) -> Result<()> {
        let Some((node, at)) = self.stack.last_mut() else { return Ok(()) };
        *at += node.entry(*at)?.len;
        let mut child = node.entry(*at)?.child;
        while let Some(vcn) = child {
            let node = self.descend(vcn)?;
            child = node.entry(node.first)?.child;
            let first = node.first;
            self.stack.push((node, first));
        }
        Ok(())
    }

    fn descend(&self, vcn: u64) -> Result<Node<'a>> {
        if self.stack.len() >= MAX_DEPTH {
            let limit = MAX_DEPTH as u64;
            let fault = Fault::Limit { what: "depth of an index", value: limit + 1, limit };
            return Err(fault.in_record(self.index.record));
        }
        self.index.child(self.pieces, vcn)
    }
}
