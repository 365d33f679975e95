//! `SEEK_DATA` and `SEEK_HOLE`, answered from a file's map.

use vcb_block::{BlockRef, Result, RunKind, Runs};

/// First piece of a map that is looked at, and the largest. Pieces double, so that an answer nearby is
/// quick and a large hole takes few steps.
const FIRST_PIECE: u64 = 1 << 20;
const LARGEST_PIECE: u64 = 4 << 30;

/// What is sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sought {
    Data,
    Hole,
}

/// Where the next data or hole at or after `offset` begins. The end of the file is a hole; `None` when
/// there is no more data, or `offset` is past the end.
pub(super) fn seek(block: &BlockRef, offset: u64, sought: Sought) -> Result<Option<u64>> {
    let len = block.len();
    if offset >= len {
        return Ok(None);
    }
    let mut runs = Runs::new();
    let mut at = offset;
    let mut piece = FIRST_PIECE;
    while at < len {
        let end = len.min(at.saturating_add(piece));
        runs.clear();
        runs.map_child(block, at..end)?;
        for run in runs.as_slice() {
            let is_hole = run.kind == RunKind::Zero;
            if is_hole == (sought == Sought::Hole) {
                return Ok(Some(at));
            }
            at += run.len;
        }
        piece = LARGEST_PIECE.min(piece * 2);
    }
    Ok((sought == Sought::Hole).then_some(len))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vcb_block::{Concat, MemBlock, ZeroBlock};

    use super::*;

    #[test]
    fn data_and_holes_alternate() {
        let data = || Arc::new(MemBlock::new(vec![1; 1000])) as BlockRef;
        let hole = |len| Arc::new(ZeroBlock::new(len)) as BlockRef;
        let big = 10 << 30;
        let block: BlockRef = Arc::new(Concat::new(vec![hole(big), data(), hole(500), data(), hole(7)]).unwrap());
        let data_at = |offset| seek(&block, offset, Sought::Data).unwrap();
        let hole_at = |offset| seek(&block, offset, Sought::Hole).unwrap();
        assert_eq!((hole_at(0), data_at(0)), (Some(0), Some(big)));
        assert_eq!((hole_at(big), data_at(big + 10)), (Some(big + 1000), Some(big + 10)));
        assert_eq!((data_at(big + 1000), hole_at(big + 1500)), (Some(big + 1500), Some(big + 2500)));
        assert_eq!((data_at(big + 2500), hole_at(big + 2507)), (None, None));
        let full: BlockRef = data();
        assert_eq!(seek(&full, 3, Sought::Hole).unwrap(), Some(1000));
    }
}
