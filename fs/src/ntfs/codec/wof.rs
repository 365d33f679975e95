//! Files compressed by the Windows overlay filter (WOF): content in chunks, stored in the stream
//! `WofCompressedData` behind a table of their ends. Layout as observed, and as WIM archives have it.
//!
//! ```text
//!   table: end of every chunk but the last, relative to the end of the table; u32, or u64 when the content
//!          passes 4 GiB
//!   chunk: as long as its content: stored as it is; else compressed
//! ```

use std::sync::Arc;

use vcb_block::bytes::{le32, le64};
use vcb_block::{BlockRef, Error, Kind, Result, plan};

use super::decoded::{Codec, Decoded, FileCache, UnitCache};
use super::{Damage, LAYER, decode_wof, lzx};

/// Bytes of the chunk table read at a time.
const PAGE: u64 = 4096;

/// How the chunks are compressed; the numbers are those of the reparse data (`FILE_PROVIDER_EXTERNAL_INFO`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WofAlgorithm {
    /// XPRESS with Huffman codes, chunks of 4 KiB.
    Xpress4K,
    /// LZX, chunks of 32 KiB.
    Lzx32K,
    /// XPRESS with Huffman codes, chunks of 8 KiB.
    Xpress8K,
    /// XPRESS with Huffman codes, chunks of 16 KiB.
    Xpress16K,
}

impl WofAlgorithm {
    /// The algorithm that reparse data numbers `number`.
    ///
    /// # Errors
    /// `Unsupported` for a number without a documented meaning.
    pub fn from_number(number: u32) -> Result<Self> {
        match number {
            0 => Ok(WofAlgorithm::Xpress4K),
            1 => Ok(WofAlgorithm::Lzx32K),
            2 => Ok(WofAlgorithm::Xpress8K),
            3 => Ok(WofAlgorithm::Xpress16K),
            _ => Err(Error::new(Kind::Unsupported, LAYER, format!("WOF compression algorithm {number}"))),
        }
    }

    /// Length of a chunk's content in bytes.
    #[must_use]
    pub fn chunk(self) -> u64 {
        match self {
            WofAlgorithm::Xpress4K => 4096,
            WofAlgorithm::Xpress8K => 8192,
            WofAlgorithm::Xpress16K => 16_384,
            WofAlgorithm::Lzx32K => lzx::WINDOW as u64,
        }
    }
}

/// Opens the content of a WOF file. `stored` is its `WofCompressedData` stream, `size` the length of the
/// content (the length of the unnamed stream).
///
/// # Errors
/// `Corrupt` when the stream is too short for its own chunk table.
pub fn open_wof(stored: BlockRef, size: u64, algorithm: WofAlgorithm, cache: &Arc<UnitCache>) -> Result<BlockRef> {
    let chunk = algorithm.chunk();
    let entry = if size > u64::from(u32::MAX) { 8 } else { 4 };
    let chunks = size.div_ceil(chunk);
    let table = chunks.saturating_sub(1) * entry;
    if stored.len() < table {
        return Err(Damage::Ends.at(stored.len()));
    }
    let overlay = Overlay { stored, algorithm, entry, chunks, table, pages: cache.file() };
    Ok(Arc::new(Decoded::new(overlay, size, chunk, cache.file())))
}

struct Overlay {
    stored: BlockRef,
    algorithm: WofAlgorithm,
    /// Bytes of an entry of the table.
    entry: u64,
    chunks: u64,
    /// Length of the table in bytes.
    table: u64,
    pages: FileCache,
}

impl Overlay {
    /// Where chunk `index` starts in the stored stream; for the number of chunks, where the last one ends.
    fn start(&self, index: u64) -> Result<u64> {
        if index == 0 {
            return Ok(self.table);
        }
        if index == self.chunks {
            return Ok(self.stored.len());
        }
        let at = (index - 1) * self.entry;
        let page = at / PAGE;
        let bytes = self.pages.get(page, || {
            let mut bytes = vec![0; (self.table - page * PAGE).min(PAGE) as usize];
            plan::read(&self.stored, &mut bytes, page * PAGE)?;
            Ok(bytes)
        })?;
        let within = (at % PAGE) as usize;
        let end = if self.entry == 8 { le64(&bytes, within) } else { le32(&bytes, within).map(u64::from) };
        // Whatever the table says is compared with the stream's length by the reader of the chunk.
        Ok(end.and_then(|end| end.checked_add(self.table)).unwrap_or(u64::MAX))
    }
}

impl Codec for Overlay {
    fn decode(&self, first: u64, out: &mut [u8]) -> Result<()> {
        let chunk = self.algorithm.chunk();
        let count = (out.len() as u64).div_ceil(chunk);
        let starts = (first..=first + count).map(|index| self.start(index)).collect::<Result<Vec<_>>>()?;
        // A chunk never takes more room than its content: this also bounds what is read.
        for ((pair, content), index) in starts.windows(2).zip(out.chunks(chunk as usize)).zip(first..) {
            let (start, end) = (pair[0], pair[1]);
            let fits = end.checked_sub(start).is_some_and(|len| len > 0 && len <= content.len() as u64);
            if !fits || end > self.stored.len() {
                return Err(Damage::ChunkTable { start, end }.at(index * chunk));
            }
        }
        let (begin, end) = (starts[0], starts[starts.len() - 1]);
        let mut stored = vec![0; (end - begin) as usize];
        plan::read(&self.stored, &mut stored, begin)?;
        for ((pair, content), index) in starts.windows(2).zip(out.chunks_mut(chunk as usize)).zip(first..) {
            let bytes = &stored[(pair[0] - begin) as usize..(pair[1] - begin) as usize];
            if bytes.len() == content.len() {
                content.copy_from_slice(bytes);
            } else {
                decode_wof(self.algorithm, bytes, content).map_err(|damage| damage.at(index * chunk))?;
            }
        }
        Ok(())
    }
}
