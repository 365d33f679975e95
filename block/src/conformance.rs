//! The contract of [`Block`](crate::Block) as a test that every implementation runs.
//!
//! It panics with the seed, range and difference at the first breach. It is a library function so that
//! every crate's tests can call it on what they build.

use std::ops::Range;

use crate::{BlockRef, Kind, RunKind, Runs, plan};

/// Longest single range tried, in bytes.
const LONGEST: u64 = 1 << 20;
/// Ranges tried per block.
const ROUNDS: u64 = 64;

/// Checks the whole contract on `block` with ranges drawn from `seed`.
///
/// # Panics
/// On any breach, naming it.
pub fn check(block: &BlockRef, seed: u64) {
    ends(block);
    let ranges = ranges(block.len(), seed);
    let serial: Vec<Vec<u8>> = ranges.iter().map(|range| bytes(block, range)).collect();
    for (range, expected) in ranges.iter().zip(&serial) {
        mapped(block, range, expected, seed);
        split(block, range, expected, seed);
    }
    concurrent(block, &ranges, &serial, seed);
}

/// Compares `block` with `expected`, whole and in seeded pieces.
///
/// # Panics
/// At the first difference, naming its offset.
pub fn same_bytes(block: &BlockRef, expected: &[u8], seed: u64) {
    assert_eq!(block.len(), expected.len() as u64, "length differs");
    for range in ranges(block.len(), seed) {
        let want = &expected[range.start as usize..range.end as usize];
        let got = bytes(block, &range);
        if let Some(at) = got.iter().zip(want).position(|(a, b)| a != b) {
            panic!("seed {seed}: byte {:#x} is {:#04x}, not {:#04x}", range.start + at as u64, got[at], want[at]);
        }
    }
}

fn ends(block: &BlockRef) {
    let len = block.len();
    assert_eq!(block.len(), len, "length changed between two calls");
    assert_eq!(block.is_empty(), len == 0);
    block.read_at(&mut [], len).expect("an empty read at the end is allowed");
    for (offset, size) in [(len, 1), (len.saturating_sub(1), 2), (u64::MAX, 1), (len.saturating_add(1), 0)] {
        if offset == u64::MAX && len == u64::MAX {
            continue;
        }
        let err = block.read_at(&mut vec![0; size], offset).expect_err("a read past the end must fail");
        assert_eq!(err.kind(), Kind::OutOfRange, "a read past the end is {err:?}");
        if size > 0 && offset < u64::MAX {
            let err = Runs::of(block, offset..offset + size as u64).expect_err("a map past the end must fail");
            assert_eq!(err.kind(), Kind::OutOfRange, "a map past the end is {err:?}");
        }
    }
}

/// The whole block when it is short, its ends, and pseudo-random ranges biased to short and odd ones.
fn ranges(len: u64, seed: u64) -> Vec<Range<u64>> {
    let mut state = seed ^ 0x9E37_79B9_7F4A_7C15;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut ranges = vec![0..len.min(LONGEST), len.saturating_sub(LONGEST)..len];
    let mut at = 0;
    while at < len && len <= 64 * LONGEST {
        ranges.push(at..(at + LONGEST).min(len));
        at += LONGEST;
    }
    for _ in 0..ROUNDS {
        if len == 0 {
            break;
        }
        let start = next() % len;
        let longest = match next() % 4 {
            0 => 16,
            1 => 5000,
            2 => 200_000,
            _ => LONGEST,
        };
        ranges.push(start..start + (next() % longest).min(len - start));
    }
    ranges
}

fn bytes(block: &BlockRef, range: &Range<u64>) -> Vec<u8> {
    // Two different fillings: a byte that was never written shows itself.
    let mut first = vec![0xAA; (range.end - range.start) as usize];
    block.read_at(&mut first, range.start).unwrap_or_else(|err| panic!("read of {range:?}: {err:?}"));
    let mut second = vec![0x55; first.len()];
    block.read_at(&mut second, range.start).unwrap_or_else(|err| panic!("second read of {range:?}: {err:?}"));
    assert!(first == second, "two reads of {range:?} differ: a byte was left unwritten");
    first
}

fn mapped(block: &BlockRef, range: &Range<u64>, expected: &[u8], seed: u64) {
    let runs = Runs::of(block, range.clone()).unwrap_or_else(|err| panic!("map of {range:?}: {err:?}"));
    let total: u64 = runs.as_slice().iter().map(|run| run.len).sum();
    assert_eq!(total, range.end - range.start, "seed {seed}: the map of {range:?} does not cover it");
    assert!(runs.as_slice().iter().all(|run| run.len > 0), "seed {seed}: empty run in the map of {range:?}");
    let mut at = 0;
    for run in runs.as_slice() {
        let mut piece = vec![0; run.len as usize];
        if let RunKind::Data { source, offset } | RunKind::Opaque { source, offset } = run.kind {
            let source =
                runs.source(source).unwrap_or_else(|| panic!("seed {seed}: run without a source in {range:?}"));
            source.read_at(&mut piece, offset).unwrap_or_else(|err| panic!("run {run:?} of {range:?}: {err:?}"));
        }
        assert!(piece == expected[at..at + piece.len()], "seed {seed}: run {run:?} at +{at:#x} of {range:?} differs");
        at += piece.len();
    }
    let mut planned = vec![0xAA; expected.len()];
    plan::read(block, &mut planned, range.start).unwrap_or_else(|err| panic!("planned read of {range:?}: {err:?}"));
    assert!(planned == expected, "seed {seed}: the planned read of {range:?} differs from read_at");
}

fn split(block: &BlockRef, range: &Range<u64>, expected: &[u8], seed: u64) {
    let mut got = vec![0xAA; expected.len()];
    let cut = expected.len() / 3;
    let (head, tail) = got.split_at_mut(cut);
    block.read_vectored_at(&mut [head, tail], range.start).expect("vectored read");
    assert!(got == expected, "seed {seed}: a vectored read of {range:?} differs");
}

fn concurrent(block: &BlockRef, ranges: &[Range<u64>], serial: &[Vec<u8>], seed: u64) {
    std::thread::scope(|scope| {
        for lane in 0..4usize {
            scope.spawn(move || {
                for (range, expected) in ranges.iter().zip(serial).cycle().skip(lane * 7).take(ranges.len()) {
                    let mut got = vec![0x33; expected.len()];
                    plan::read(block, &mut got, range.start).expect("concurrent read");
                    assert!(&got == expected, "seed {seed}: a concurrent read of {range:?} differs");
                }
            });
        }
    });
}
