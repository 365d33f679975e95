//! What is counted over a whole volume.

use vcb_block::{BlockRef, Kind, Result, plan};

use super::error::Fault;
use super::name::Utf16;
use super::record::kind;
use super::volume::{Ntfs, system};
use crate::{Census, FileId, FsStats};

/// Record number of the $MFT itself.
const MFT: u64 = 0;
/// Record number of $Bitmap.
const BITMAP: u64 = 6;
/// Records below this one are NTFS's own.
const FIRST_USER: u64 = 24;
/// Bytes of a bitmap read at once.
const PIECE: u64 = 1 << 20;

impl Ntfs {
    pub(super) fn totals(&self) -> Result<FsStats> {
        let geometry = &self.mft.geometry;
        let used = |record, of, bits| -> Result<u64> {
            let mut ones = 0;
            self.bitmap(record, of, bits)?.each_byte(|_, byte| ones += u64::from(byte.count_ones()))?;
            Ok(ones)
        };
        Ok(FsStats {
            cluster_size: geometry.cluster,
            clusters: geometry.clusters,
            free_clusters: geometry.clusters - used(BITMAP, kind::DATA, geometry.clusters)?,
            files: used(MFT, kind::BITMAP, self.records())?,
        })
    }

    /// Looks at every record in use. What a record says of itself counts; the bitmap only tells whether one
    /// that cannot be read was in use.
    pub(super) fn count(&self) -> Result<Census> {
        let mut census = Census::default();
        let mut bad = Vec::new();
        for number in FIRST_USER..self.records() {
            let counted = self.mft.record(number).and_then(|record| {
                let is_file = record.in_use() && record.base() == 0 && !record.is_own();
                is_file.then(|| self.attributes(FileId(record.reference()), None)).transpose()
            });
            match counted {
                Ok(None) => {}
                Ok(Some(attr)) => {
                    census.files += 1;
                    if let Some(why) = attr.unreadable {
                        census.count(why.word());
                    }
                }
                Err(err) if matches!(err.kind(), Kind::Corrupt | Kind::Limit | Kind::Unsupported) => bad.push(number),
                Err(err) => return Err(err),
            }
        }
        // Ascending, as the bitmap is walked.
        let mut bad = bad.into_iter().peekable();
        if bad.peek().is_some() {
            self.bitmap(MFT, kind::BITMAP, self.records())?.each_byte(|at, byte| {
                while let Some(number) = bad.next_if(|&number| number / 8 == at) {
                    if byte >> (number % 8) & 1 == 1 {
                        census.files += 1;
                        census.count("damaged");
                    }
                }
            })?;
        }
        Ok(census)
    }

    fn records(&self) -> u64 {
        self.mft.len() / u64::from(self.mft.geometry.record)
    }

    /// The first `bits` of a bitmap attribute.
    fn bitmap(&self, record: u64, of: u32, bits: u64) -> Result<Bitmap> {
        let file = system(&self.mft, record)?;
        let content = file.content(of, Utf16::default())?.ok_or_else(|| Fault::Missing("bitmap").in_record(record))?;
        let block = file.plain(content, of)?;
        let size = bits.div_ceil(8);
        if block.len() < size {
            return Err(Fault::Unallocated { kind: of, size, allocated: block.len() }.in_record(record));
        }
        Ok(Bitmap { block, bits })
    }
}

/// A bitmap that may be too long to hold.
struct Bitmap {
    block: BlockRef,
    bits: u64,
}

impl Bitmap {
    /// Calls `each` with every byte and its number; bits past the end are 0.
    fn each_byte(&self, mut each: impl FnMut(u64, u8)) -> Result<()> {
        let len = self.bits.div_ceil(8);
        let mut piece = vec![0; len.min(PIECE) as usize];
        let mut at = 0;
        while at < len {
            let Some(bytes) = piece.get_mut(..(len - at).min(PIECE) as usize) else { break };
            plan::read(&self.block, bytes, at)?;
            for (at, byte) in (at..).zip(&*bytes) {
                let valid = self.bits - at * 8;
                each(at, if valid < 8 { byte & ((1 << valid) - 1) } else { *byte });
            }
            at += bytes.len() as u64;
        }
        Ok(())
    }
}
