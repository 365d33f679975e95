//! XPRESS with Huffman codes (\[MS-XCA\] 2.2), as WOF stores it: one chunk, one table, no end symbol needed.
//!
//! ```text
//!   256 bytes: code lengths of 512 symbols, 4 bits each, even symbols in the low half
//!   bits:      symbol 0..255 is that byte
//!              symbol 256 + 16 × b + l copies: distance 2^b + (b bits), length 3 + l
//!              l = 15: a byte follows the words taken so far: 15 + byte; 255: a u16; 0: a u32
//! ```

use super::Damage;
use super::bits::Bits;
use super::huffman::Huffman;
use super::window::Output;

const SYMBOLS: usize = 512;
const TABLE: usize = SYMBOLS / 2;
const SHORTEST_MATCH: usize = 3;

/// Decodes one chunk; `output` is exactly as long as it was before compression.
pub(super) fn decode(input: &[u8], output: &mut [u8]) -> Result<(), Damage> {
    let (table, stream) = input.split_at_checked(TABLE).ok_or(Damage::Ends)?;
    let mut lengths = [0; SYMBOLS];
    for (pair, &byte) in lengths.chunks_exact_mut(2).zip(table) {
        pair.copy_from_slice(&[byte & 15, byte >> 4]);
    }
    let mut huffman = Huffman::<SYMBOLS>::new();
    huffman.set(&lengths)?;
    let mut bits = Bits::new(stream);
    let mut output = Output::new(output);
    while output.left() > 0 {
        let symbol = huffman.decode(&mut bits)?;
        if let Ok(byte) = u8::try_from(symbol) {
            output.literal(byte)?;
            continue;
        }
        let symbol = symbol - 256;
        let (distance_bits, mut length) = ((symbol >> 4) as u32, symbol & 15);
        if length == 15 {
            length = long_length(&mut bits)?;
        }
        let distance = (1 << distance_bits) + bits.get(distance_bits) as usize;
        output.copy(distance, length.saturating_add(SHORTEST_MATCH))?;
    }
    bits.check()
}

fn long_length(bits: &mut Bits<'_>) -> Result<usize, Damage> {
    let byte = bits.byte()?;
    if byte < 255 {
        return Ok(15 + usize::from(byte));
    }
    let mut length = u32::from(u16::from_le_bytes([bits.byte()?, bits.byte()?]));
    if length == 0 {
        length = u32::from_le_bytes([bits.byte()?, bits.byte()?, bits.byte()?, bits.byte()?]);
    }
    // A length that would have fitted the shorter form is damage, \[MS-XCA\] 2.2.4.
    if length < 15 { Err(Damage::Length) } else { Ok(length as usize) }
}
