//! The guest's view of a disk: links laid over each other.
//!
//! A range is resolved once: the leaf describes all of it, neighbouring holes are joined, and only they
//! are asked of the link below, down to the base. What no link stores is zero.

use std::ops::Range;

use vcb_block::{Block, BlockRef, Result, Runs, check_range, plan};

use crate::extent::{Cursor, Extent, Piece};

/// One link's extents, one after the other.
pub(crate) struct Layer {
    extents: Vec<Box<dyn Extent>>,
    /// Where each extent ends, ascending.
    ends: Vec<u64>,
}

impl Layer {
    /// Lengths have been bounded by the descriptor, so the sum does not overflow.
    pub(crate) fn new(mut extents: Vec<Box<dyn Extent>>) -> Self {
        extents.retain(|extent| extent.len() > 0);
        let ends = extents
            .iter()
            .scan(0, |end, extent| {
                *end += extent.len();
                Some(*end)
            })
            .collect();
        Layer { extents, ends }
    }

    fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The piece at `offset` and its length, at most up to `end`.
    fn piece(&self, cursor: &mut Cursor, offset: u64, end: u64) -> Result<(Piece<'_>, u64)> {
        let inside = |index: usize| {
            let start = if index == 0 { 0 } else { self.ends[index - 1] };
            (start..self.ends[index]).contains(&offset)
        };
        if cursor.extent >= self.ends.len() || !inside(cursor.extent) {
            cursor.extent = self.ends.partition_point(|&end| end <= offset);
        }
        let extent = &self.extents[cursor.extent];
        let stop = self.ends[cursor.extent];
        let start = stop - extent.len();
        extent.piece(cursor, offset - start, end.min(stop) - start)
    }
}

/// A chain of layers as a block, leaf first.
pub(crate) struct Chain {
    layers: Vec<Layer>,
    len: u64,
}

impl Chain {
    pub(crate) fn new(layers: Vec<Layer>) -> Self {
        let len = layers.first().map_or(0, Layer::len);
        Chain { layers, len }
    }
}

/// Describes `range` of the disk that `layers` make. Recursion is as deep as the chain, which is capped.
fn resolve(layers: &[Layer], cursors: &mut [Cursor], range: Range<u64>, runs: &mut Runs) -> Result<()> {
    let (Some((layer, below)), Some((cursor, cursors))) = (layers.split_first(), cursors.split_first_mut()) else {
        runs.push_zero(range.end - range.start);
        return Ok(());
    };
    // A child may be larger than its parent: what lies past the parent's end is zero.
    let end = range.end.min(layer.len()).max(range.start);
    let mut position = range.start;
    let mut hole = position;
    while position < end {
        let (piece, len) = layer.piece(cursor, position, end)?;
        if !matches!(piece, Piece::Hole) {
            if hole < position {
                resolve(below, cursors, hole..position, runs)?;
            }
            match piece {
                Piece::Child(block, offset) => runs.map_child(block, offset..offset + len)?,
                Piece::Zero | Piece::Hole => runs.push_zero(len),
            }
            hole = position + len;
        }
        position += len;
    }
    if hole < position {
        resolve(below, cursors, hole..position, runs)?;
    }
    runs.push_zero(range.end - end);
    Ok(())
}

impl Block for Chain {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        plan::read_mapped(self, buf, offset)
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len, range.start, range.end.saturating_sub(range.start))?;
        let mut cursors: Vec<Cursor> = self.layers.iter().map(|_| Cursor::default()).collect();
        resolve(&self.layers, &mut cursors, range, runs)
    }

    fn host_file(&self) -> Option<&std::fs::File> {
        let whole: &BlockRef = match self.layers.first()?.extents.as_slice() {
            [only] => only.whole()?,
            _ => return None,
        };
        whole.host_file()
    }
}
