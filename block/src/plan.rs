//! The read planner: turns runs into as few reads as possible, straight into the caller's buffer.
//!
//! Data runs are sorted by source and offset and neighbours are joined, so that grains which a snapshot
//! delta scattered in logical order but packed in physical order come back with one vectored read.

use std::cell::RefCell;
use std::cmp::Ordering;

use crate::{Block, BlockRef, Error, Kind, Result, RunKind, Runs, SourceId, check_range};

/// Pieces joined into one vectored read: the kernel's `IOV_MAX` on Linux and the limit of `preadv`.
const MAX_PIECES: usize = 1024;

thread_local! {
    /// Run lists are rebuilt for every read; each thread keeps a few to spare the allocations. It is a
    /// stack, because reading an opaque run may plan a read of its own.
    static SPARE: RefCell<Vec<Runs>> = const { RefCell::new(Vec::new()) };
}

/// Reads `buf.len()` bytes at `offset` of `block` through its map.
///
/// # Errors
/// [`Kind::OutOfRange`] past the end; errors of the map or of the sources.
pub fn read(block: &BlockRef, buf: &mut [u8], offset: u64) -> Result<()> {
    check_range(block.len(), offset, buf.len() as u64)?;
    if buf.is_empty() {
        return Ok(());
    }
    with_runs(|runs| {
        runs.map_child(block, offset..offset + buf.len() as u64)?;
        execute(runs, buf)
    })
}

/// The body of `read_at` for a block that is nothing but a map of others.
///
/// # Errors
/// As [`read`]. A run that points back at `block` itself would never end and is refused.
pub fn read_mapped<B: Block + ?Sized>(block: &B, buf: &mut [u8], offset: u64) -> Result<()> {
    check_range(block.len(), offset, buf.len() as u64)?;
    if buf.is_empty() {
        return Ok(());
    }
    with_runs(|runs| {
        block.map(offset..offset + buf.len() as u64, runs)?;
        execute(runs, buf)
    })
}

fn with_runs<T>(work: impl FnOnce(&mut Runs) -> Result<T>) -> Result<T> {
    let mut runs = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let result = work(&mut runs);
    runs.clear();
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < 4 {
            spare.push(runs);
        }
    });
    result
}

/// One piece of the caller's buffer and where its bytes lie.
struct Piece<'a> {
    source: SourceId,
    offset: u64,
    buf: &'a mut [u8],
}

/// Reads everything that `runs` describes into `buf`, which must be as long as the runs.
///
/// # Errors
/// Errors of the sources; [`Kind::Corrupt`] when the lengths differ or a run has no source.
pub fn execute(runs: &Runs, buf: &mut [u8]) -> Result<()> {
    if runs.len() != buf.len() as u64 {
        return Err(Error::corrupt("block", format!("runs describe {} bytes of {}", runs.len(), buf.len())));
    }
    // The commonest read of all needs no sorting and no list.
    if let [only] = runs.as_slice()
        && let RunKind::Data { source, offset } | RunKind::Opaque { source, offset } = only.kind
    {
        return source_of(runs, source)?.read_at(buf, offset);
    }
    let mut pieces: Vec<Piece<'_>> = Vec::with_capacity(runs.as_slice().len());
    let mut rest = buf;
    for run in runs.as_slice() {
        let len = usize::try_from(run.len).map_err(|_| Error::new(Kind::Limit, "block", "run longer than memory"))?;
        let (piece, tail) = rest.split_at_mut(len);
        rest = tail;
        match run.kind {
            RunKind::Zero => piece.fill(0),
            RunKind::Opaque { source, offset } => source_of(runs, source)?.read_at(piece, offset)?,
            RunKind::Data { source, offset } => pieces.push(Piece { source, offset, buf: piece }),
        }
    }
    read_pieces(runs, pieces)
}

fn read_pieces(runs: &Runs, mut pieces: Vec<Piece<'_>>) -> Result<()> {
    let order = |a: &Piece<'_>, b: &Piece<'_>| match a.source.cmp(&b.source) {
        Ordering::Equal => a.offset.cmp(&b.offset),
        other => other,
    };
    if !pieces.is_sorted_by(|a, b| order(a, b) != Ordering::Greater) {
        pieces.sort_unstable_by(order);
    }
    let mut pieces = pieces.into_iter().peekable();
    let mut joined: Vec<&mut [u8]> = Vec::new();
    while let Some(first) = pieces.next() {
        let source = source_of(runs, first.source)?;
        let mut end = first.offset + first.buf.len() as u64;
        let alone = |next: Option<&Piece<'_>>| next.is_none_or(|n| n.source != first.source || n.offset != end);
        if alone(pieces.peek()) {
            source.read_at(first.buf, first.offset)?;
            continue;
        }
        joined.push(first.buf);
        while joined.len() < MAX_PIECES
            && let Some(next) = pieces.next_if(|n| n.source == first.source && n.offset == end)
        {
            end += next.buf.len() as u64;
            joined.push(next.buf);
        }
        source.read_vectored_at(&mut joined, first.offset)?;
        joined.clear();
    }
    Ok(())
}

fn source_of(runs: &Runs, id: SourceId) -> Result<&BlockRef> {
    runs.source(id).ok_or_else(|| Error::corrupt("block", "a run points back at the block being read"))
}
