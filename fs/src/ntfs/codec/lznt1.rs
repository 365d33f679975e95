//! LZNT1 (\[MS-XCA\] 2.5), as NTFS stores a compression unit: chunks of 4096 bytes, each behind a header, ended
//! by a zero header or by the end of the unit.
//!
//! ```text
//!   header u16: bits 0..11 length of the chunk's data - 1, bits 12..14 are 3, bit 15 compressed
//!   data:       a byte of flags for the next eight items, lowest first: 0 a byte, 1 a copy
//!   copy u16:   distance - 1 in the upper bits, length - 3 in the lower; the distance gets as many bits as the
//!               position in the chunk needs, at least 4
//! ```

use vcb_block::bytes::le16;

use super::Damage;

/// Bytes of every chunk but the last, uncompressed.
const CHUNK: usize = 4096;
const SHORTEST_MATCH: usize = 3;
/// Bytes copied at once, though fewer may be wanted: what lies behind is written again or never looked at.
const WIDE: usize = 8;
/// A chunk with room for wide copies from and to its end.
type Roomy = [u8; CHUNK + 2 * WIDE];

/// Decodes the unit stored in `input` into `output`. The unit may go on after `output` is full.
pub(super) fn decode(input: &[u8], output: &mut [u8]) -> Result<(), Damage> {
    let mut rest = input;
    for content in output.chunks_mut(CHUNK) {
        let header = le16(rest, 0).filter(|&header| header != 0).ok_or(Damage::Ends)?;
        if header >> 12 & 7 != 3 {
            return Err(Damage::Chunk(header));
        }
        let len = 2 + usize::from(header & 0xFFF) + 1;
        let (stored, tail) = rest.split_at_checked(len).ok_or(Damage::Ends)?;
        let stored = &stored[2..];
        if header >> 15 == 0 {
            content.copy_from_slice(stored.get(..content.len()).ok_or(Damage::Ends)?);
        } else {
            // The end of the file may be within the chunk.
            let mut whole = [0; CHUNK + 2 * WIDE];
            let filled = chunk(stored, &mut whole)?;
            content.copy_from_slice(whole[..filled].get(..content.len()).ok_or(Damage::Ends)?);
        }
        rest = tail;
    }
    Ok(())
}

/// Decodes the data of one compressed chunk, at most [`CHUNK`] bytes; returns how long the content is.
fn chunk(stored: &[u8], out: &mut Roomy) -> Result<usize, Damage> {
    let len = stored.len();
    let mut data: Roomy = [0; CHUNK + 2 * WIDE];
    data[..CHUNK].get_mut(..len).ok_or(Damage::TooLong)?.copy_from_slice(stored);
    let (mut from, mut to) = (0, 0);
    while from < len {
        // The ninth bit ends the eight.
        let mut flags = u32::from(data[from]) | 0x100;
        from += 1;
        loop {
            let literals = (flags.trailing_zeros() as usize).min(len - from);
            out[to..to + WIDE].copy_from_slice(&data[from..from + WIDE]);
            (from, to) = (from + literals, to + literals);
            if to > CHUNK {
                return Err(Damage::TooLong);
            }
            flags >>= literals;
            if flags == 1 || from == len {
                break;
            }
            if from + 2 > len {
                return Err(Damage::Ends);
            }
            let copy = u16::from_le_bytes([data[from], data[from + 1]]);
            from += 2;
            to = repeat(out, to, copy)?;
            flags >>= 1;
        }
    }
    Ok(to)
}

/// Does the copy that `item` stands for, to the end of the content so far; returns the new end.
#[inline]
fn repeat(out: &mut Roomy, filled: usize, item: u16) -> Result<usize, Damage> {
    let position = filled.checked_sub(1).ok_or(Damage::Distance)?;
    let distance_bits = (usize::BITS - position.leading_zeros()).max(4);
    let length_bits = 16 - distance_bits;
    let distance = usize::from(item >> length_bits) + 1;
    let length = usize::from(item & ((1 << length_bits) - 1)) + SHORTEST_MATCH;
    let (mut start, end) = (filled.checked_sub(distance).ok_or(Damage::Distance)?, filled + length);
    if end > CHUNK {
        return Err(Damage::TooLong);
    }
    if distance < WIDE {
        for at in filled..end {
            out[at] = out[at - distance];
        }
        return Ok(end);
    }
    let mut to = filled;
    while to < end {
        out.copy_within(start..start + WIDE, to);
        (start, to) = (start + WIDE, to + WIDE);
    }
    Ok(end)
}
