//! Compressed content: LZNT1 compression units, and the four algorithms of the Windows overlay filter (WOF,
//! "Compact OS"), each readable from any position.
//!
//! ```text
//!   open_compressed ─► Units    ─┐                    ┌─ lznt1
//!                                ├─► Decoded: a Block ┤─ xpress ┐
//!   open_wof        ─► Overlay  ─┘   of whole units   └─ lzx    ┴─ huffman, bits, window
//! ```
//!
//! Content is divided into units that are compressed each on its own (64 KiB by default for LZNT1, 4 to
//! 32 KiB for WOF). A read decodes the units it touches, whole ones straight into the caller's buffer and
//! parts of one through a [`UnitCache`] that all files of a volume share. Stored bytes that do not decode to
//! exactly what is expected are an error of kind `Corrupt`, never a guess.

mod bits;
mod decoded;
mod huffman;
mod lznt1;
mod lzx;
mod units;
mod window;
mod wof;
mod xpress;

use vcb_block::Error;

pub use decoded::UnitCache;
pub use units::{Allocation, Compressed, open_compressed};
pub use wof::{WofAlgorithm, open_wof};

/// Layer name in errors.
const LAYER: &str = "ntfs-codec";

/// Why a compressed unit cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The stored bytes end before the content does.
    #[error("ends too early")]
    Ends,
    /// The stored bytes decode to more than the content.
    #[error("decodes to more than its length")]
    TooLong,
    /// A copy from before the start.
    #[error("copies from before its start")]
    Distance,
    /// Huffman code lengths that make no code, or a code without a symbol.
    #[error("the Huffman code is impossible")]
    Code,
    /// A match length in a longer form than it needs.
    #[error("a match length is impossible")]
    Length,
    /// An LZNT1 chunk header without its signature.
    #[error("chunk header {0:#06x} is impossible")]
    Chunk(u16),
    /// An LZX block type that does not exist.
    #[error("the block type is impossible")]
    BlockType,
    /// An LZX block of no bytes, or of more than are left.
    #[error("the block size is impossible")]
    BlockSize,
    /// A WOF chunk table that is not ascending, or has a chunk larger than its content.
    #[error("the chunk table says {start:#x}..{end:#x}")]
    ChunkTable {
        /// Start of the chunk.
        start: u64,
        /// End of the chunk.
        end: u64,
    },
    /// Clusters of a compression unit that are not where the attribute says.
    #[error("the stored {stored} bytes are not part of the attribute of {allocated} bytes")]
    Stored {
        /// Bytes stored of the unit.
        stored: u64,
        /// Length of the attribute on disk.
        allocated: u64,
    },
}

impl Damage {
    /// The public error, for content at `offset`.
    fn at(self, offset: u64) -> Error {
        Error::corrupt(LAYER, self).at(offset)
    }
}

/// Decodes one LZNT1 compression unit into `output`, which is as long as the content wanted.
///
/// # Errors
/// What is wrong with `input`; `output` is then unspecified.
pub fn decode_lznt1(input: &[u8], output: &mut [u8]) -> Result<(), Damage> {
    lznt1::decode(input, output)
}

/// Decodes one compressed WOF chunk into `output`, which is as long as the chunk's content.
///
/// # Errors
/// What is wrong with `input`; `output` is then unspecified.
pub fn decode_wof(algorithm: WofAlgorithm, input: &[u8], output: &mut [u8]) -> Result<(), Damage> {
    match algorithm {
        WofAlgorithm::Lzx32K => lzx::decode(input, output),
        WofAlgorithm::Xpress4K | WofAlgorithm::Xpress8K | WofAlgorithm::Xpress16K => xpress::decode(input, output),
    }
}

#[cfg(test)]
mod tests;
