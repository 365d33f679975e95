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
use super::window::Output;

/// Bytes of every chunk but the last, uncompressed.
const CHUNK: usize = 4096;
const SHORTEST_MATCH: usize = 3;

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
        } else if content.len() == CHUNK {
            if chunk(stored, content)? < CHUNK {
                return Err(Damage::Ends);
            }
        } else {
            // The end of the file is within the chunk, which may be longer.
            let mut whole = [0; CHUNK];
            let filled = chunk(stored, &mut whole)?;
            content.copy_from_slice(whole[..filled].get(..content.len()).ok_or(Damage::Ends)?);
        }
        rest = tail;
    }
    Ok(())
}

/// Decodes the data of one compressed chunk; returns how long it is.
fn chunk(mut data: &[u8], output: &mut [u8]) -> Result<usize, Damage> {
    let mut output = Output::new(output);
    while let Some((&flags, rest)) = data.split_first() {
        data = rest;
        if flags == 0
            && let Some((literals, rest)) = data.split_at_checked(8)
        {
            output.literals(literals)?;
            data = rest;
            continue;
        }
        for item in 0..8 {
            let Some((&byte, rest)) = data.split_first() else { break };
            if flags >> item & 1 == 0 {
                output.literal(byte)?;
                data = rest;
                continue;
            }
            let (copy, rest) = data.split_first_chunk().ok_or(Damage::Ends)?;
            let copy = u16::from_le_bytes(*copy);
            let position = output.filled().checked_sub(1).ok_or(Damage::Distance)?;
            let distance_bits = (usize::BITS - position.leading_zeros()).max(4);
            let length_bits = 16 - distance_bits;
            let distance = usize::from(copy >> length_bits) + 1;
            let length = usize::from(copy & ((1 << length_bits) - 1)) + SHORTEST_MATCH;
            output.copy(distance, length)?;
            data = rest;
        }
    }
    Ok(output.filled())
}
