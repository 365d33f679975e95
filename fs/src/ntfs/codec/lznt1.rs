//! LZNT1 (\[MS-XCA\] 2.5), as NTFS stores a compression unit: chunks of 4096 bytes, each behind a header, ended
//! by a zero header or by the end of the unit.
//!
//! ```text
//!   header u16: bits 0..11 length of the chunk's data - 1, bits 12..14 are 3, bit 15 compressed
//! ```

use vcb_block::bytes::le16;

use super::Damage;

/// Bytes of every chunk but the last, uncompressed.
const CHUNK: usize = 4096;

/// Decodes the unit stored in `input` into `output`. The unit may go on after `output` is full.
pub(super) fn decode(input: &[u8], output: &mut [u8]) -> Result<(), Damage> {
    let mut rest = input;
    let mut decoded = Vec::with_capacity(CHUNK);
    for chunk in output.chunks_mut(CHUNK) {
        let header = le16(rest, 0).filter(|&header| header != 0).ok_or(Damage::Ends)?;
        if header >> 12 & 7 != 3 {
            return Err(Damage::Chunk(header));
        }
        let len = 2 + usize::from(header & 0xFFF) + 1;
        let (stored, tail) = rest.split_at_checked(len).ok_or(Damage::Ends)?;
        decoded.clear();
        // One chunk at a time: a distance cannot reach into the chunk before, nor a short chunk shift the next.
        ::lznt1::decompress(stored, &mut decoded).map_err(|_| Damage::Distance)?;
        if decoded.len() > CHUNK {
            return Err(Damage::TooLong);
        }
        chunk.copy_from_slice(decoded.get(..chunk.len()).ok_or(Damage::Ends)?);
        rest = tail;
    }
    Ok(())
}
