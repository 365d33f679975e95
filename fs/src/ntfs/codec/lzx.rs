//! LZX as WIM archives and WOF use it: a variant of \[MS-PATCH\] 2 with 32 KiB windows, chunks that know
//! nothing of each other, and block sizes in 1 or 17 bits.
//!
//! ```text
//!   block:   type 3 bits (1 verbatim, 2 aligned, 3 stored), then 1 bit: 32768 bytes, or 0 and 16 bits of size
//!   aligned: eight 3-bit code lengths of the low three distance bits
//!   trees:   code lengths of literals (256), of matches (240) and of lengths (249), each as differences from
//!            the block before, Huffman-coded by a tree of 20 4-bit lengths
//!   stored:  word boundary, three u32 recent distances, the bytes, one byte of padding when their number is odd
//! ```
//!
//! After decoding, operands of x86 CALL instructions are turned back from absolute to relative
//! (\[MS-PATCH\] 2.6, with a file size of 12,000,000 whatever the file).

use super::Damage;
use super::bits::Bits;
use super::huffman::Huffman;
use super::window::Output;

/// The window, and the longest chunk.
pub(super) const WINDOW: usize = 32_768;
const SLOTS: usize = 30;
const LITERALS: usize = 256;
const MAIN: usize = LITERALS + 8 * SLOTS;
const LENGTHS: usize = 249;
const PRETREE: usize = 20;
const SHORTEST_MATCH: usize = 2;
/// What the x86 filter takes for the length of every file.
const FILTER_SIZE: i32 = 12_000_000;

/// Code lengths that later blocks of the chunk describe by difference, and the distances last used.
struct State {
    main: [u8; MAIN],
    length: [u8; LENGTHS],
    recent: [usize; 3],
}

/// Decoders of one block.
struct Trees {
    main: Huffman<MAIN>,
    length: Huffman<LENGTHS>,
    aligned: Option<Huffman<8>>,
}

/// Decodes one chunk; `output` is exactly as long as it was before compression.
pub(super) fn decode(input: &[u8], output: &mut [u8]) -> Result<(), Damage> {
    let mut bits = Bits::new(input);
    let mut state = State { main: [0; MAIN], length: [0; LENGTHS], recent: [1; 3] };
    let mut filling = Output::new(output);
    let mut trees = Trees { main: Huffman::new(), length: Huffman::new(), aligned: None };
    while filling.left() > 0 {
        let kind = bits.get(3);
        let size = if bits.get(1) == 1 { WINDOW } else { bits.get(16) as usize };
        if size == 0 || size > filling.left() {
            return Err(Damage::BlockSize);
        }
        match kind {
            1 | 2 => {
                read_trees(&mut bits, kind == 2, &mut state, &mut trees)?;
                compressed(&mut bits, &trees, &mut state.recent, &mut filling, size)?;
            }
            3 => stored(&mut bits, &mut state.recent, &mut filling, size)?,
            _ => return Err(Damage::BlockType),
        }
        bits.check()?;
    }
    undo_x86_filter(output);
    Ok(())
}

fn read_trees(bits: &mut Bits<'_>, aligned: bool, state: &mut State, trees: &mut Trees) -> Result<(), Damage> {
    trees.aligned = None;
    if aligned {
        let mut lengths = [0; 8];
        lengths.fill_with(|| bits.get(3) as u8);
        let mut tree = Huffman::new();
        tree.set(&lengths)?;
        trees.aligned = Some(tree);
    }
    let (literals, matches) = state.main.split_at_mut(LITERALS);
    read_lengths(bits, literals)?;
    read_lengths(bits, matches)?;
    trees.main.set(&state.main)?;
    read_lengths(bits, &mut state.length)?;
    trees.length.set(&state.length)
}

/// Updates code lengths from their differences to the block before (modulo 17) and runs of equal ones.
fn read_lengths(bits: &mut Bits<'_>, lengths: &mut [u8]) -> Result<(), Damage> {
    let mut pretree = [0; PRETREE];
    pretree.fill_with(|| bits.get(4) as u8);
    let mut tree = Huffman::<PRETREE>::new();
    tree.set(&pretree)?;
    let changed = |old: u8, symbol: usize| ((usize::from(old) + 17 - symbol) % 17) as u8;
    let mut at = 0;
    while at < lengths.len() {
        let symbol = tree.decode(bits)?;
        let (run, value) = match symbol {
            17 => (4 + bits.get(4) as usize, 0),
            18 => (20 + bits.get(5) as usize, 0),
            19 => {
                let run = 4 + bits.get(1) as usize;
                let symbol = tree.decode(bits)?;
                if symbol > 16 {
                    return Err(Damage::Code);
                }
                (run, changed(lengths[at], symbol))
            }
            _ => (1, changed(lengths[at], symbol)),
        };
        lengths.get_mut(at..at + run).ok_or(Damage::Code)?.fill(value);
        at += run;
    }
    Ok(())
}

fn compressed(
    bits: &mut Bits<'_>,
    trees: &Trees,
    recent: &mut [usize; 3],
    output: &mut Output<'_>,
    size: usize,
) -> Result<(), Damage> {
    let end = output.filled() + size;
    while output.filled() < end {
        let symbol = trees.main.decode(bits)?;
        if let Ok(byte) = u8::try_from(symbol) {
            output.literal(byte)?;
            continue;
        }
        let symbol = symbol - LITERALS;
        let (slot, mut len) = (symbol >> 3, (symbol & 7) + SHORTEST_MATCH);
        if symbol & 7 == 7 {
            len += trees.length.decode(bits)?;
        }
        let distance = match slot {
            0..=2 => {
                recent.swap(0, slot);
                recent[0]
            }
            _ => {
                let distance = distance(bits, trees.aligned.as_ref(), slot)?;
                *recent = [distance, recent[0], recent[1]];
                distance
            }
        };
        if len > end - output.filled() {
            return Err(Damage::TooLong);
        }
        output.copy(distance, len)?;
    }
    Ok(())
}

/// The distance of a slot from 3 on: slots come in pairs that double in width, and the value is 2 too high.
fn distance(bits: &mut Bits<'_>, aligned: Option<&Huffman<8>>, slot: usize) -> Result<usize, Damage> {
    let extra = (slot / 2 - 1) as u32;
    let base = (2 + slot % 2) << extra;
    let below = match aligned {
        Some(tree) if extra >= 3 => {
            let high = bits.get(extra - 3) as usize;
            high << 3 | tree.decode(bits)?
        }
        _ => bits.get(extra) as usize,
    };
    Ok(base + below - 2)
}

fn stored(bits: &mut Bits<'_>, recent: &mut [usize; 3], output: &mut Output<'_>, size: usize) -> Result<(), Damage> {
    let header = bits.aligned_bytes(12)?;
    for (distance, bytes) in recent.iter_mut().zip(header.chunks_exact(4)) {
        let value = bytes.iter().rev().fold(0u32, |value, &byte| value << 8 | u32::from(byte));
        *distance = value as usize;
    }
    output.literals(bits.bytes(size)?)?;
    if !size.is_multiple_of(2) && output.left() > 0 {
        bits.bytes(1)?;
    }
    bits.resume();
    Ok(())
}

/// Turns the operands after E8 bytes back. The last ten bytes of a chunk are never touched.
fn undo_x86_filter(chunk: &mut [u8]) {
    let mut at = 0;
    while at + 10 < chunk.len() {
        if chunk[at] != 0xE8 {
            at += 1;
            continue;
        }
        let operand = &mut chunk[at + 1..at + 5];
        let absolute = operand.iter().rev().fold(0u32, |value, &byte| value << 8 | u32::from(byte)).cast_signed();
        // A chunk is at most 32 KiB.
        let position = i32::try_from(at).unwrap_or(0);
        if (-position..FILTER_SIZE).contains(&absolute) {
            let relative = if absolute >= 0 { absolute - position } else { absolute + FILTER_SIZE };
            operand.copy_from_slice(&relative.to_le_bytes());
        }
        at += 5;
    }
}
