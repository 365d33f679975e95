//! Extents without a map: plain bytes, zeros, and what the guest may not read.

use std::ops::Range;

use vcb_block::{Block, BlockRef, Error, Kind, Result, Runs, check_range};

use super::{Cursor, Extent, Piece};
use crate::check::{Report, Severity};

/// Plain bytes of a file or device.
pub(crate) struct Flat {
    source: BlockRef,
    start: u64,
    len: u64,
}

impl Flat {
    /// `len` bytes of `source` from `start`.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when the source ends before: bytes that are gone are not zeros.
    pub(crate) fn new(source: BlockRef, start: u64, len: u64) -> Result<Self> {
        if check_range(source.len(), start, len).is_err() {
            let text = format!("the extent needs {len} bytes at {start}, but the file has only {}", source.len());
            return Err(Error::corrupt("vmdk-flat", text).at(source.len()));
        }
        Ok(Flat { source, start, len })
    }
}

impl Extent for Flat {
    fn len(&self) -> u64 {
        self.len
    }

    fn piece(&self, _: &mut Cursor, offset: u64, end: u64) -> Result<(Piece<'_>, u64)> {
        Ok((Piece::Child(&self.source, self.start + offset), end - offset))
    }

    fn check(&self, _: &mut Report) -> Result<()> {
        Ok(())
    }

    fn whole(&self) -> Option<&BlockRef> {
        (self.start == 0 && self.len == self.source.len()).then_some(&self.source)
    }
}

/// Zeros, stored nowhere.
pub(crate) struct Zeros {
    pub(crate) len: u64,
}

impl Extent for Zeros {
    fn len(&self) -> u64 {
        self.len
    }

    fn piece(&self, _: &mut Cursor, offset: u64, end: u64) -> Result<(Piece<'_>, u64)> {
        Ok((Piece::Zero, end - offset))
    }

    fn check(&self, _: &mut Report) -> Result<()> {
        Ok(())
    }
}

/// A `NOACCESS` extent. The guest gets an error for reading it, and so does everybody else.
pub(crate) struct NoAccess {
    block: BlockRef,
}

impl NoAccess {
    pub(crate) fn new(len: u64) -> Self {
        NoAccess { block: std::sync::Arc::new(Refusing { len }) }
    }
}

impl Extent for NoAccess {
    fn len(&self) -> u64 {
        self.block.len()
    }

    fn piece(&self, _: &mut Cursor, offset: u64, end: u64) -> Result<(Piece<'_>, u64)> {
        Ok((Piece::Child(&self.block, offset), end - offset))
    }

    fn check(&self, report: &mut Report) -> Result<()> {
        report.add(Severity::Note, None, "an extent is NOACCESS: reading it is refused");
        Ok(())
    }
}

struct Refusing {
    len: u64,
}

impl Block for Refusing {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.len, offset, buf.len() as u64)?;
        if buf.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::Denied, "vmdk-flat", "the descriptor gives NOACCESS to this extent").at(offset))
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len, range.start, range.end.saturating_sub(range.start))?;
        runs.push_opaque(range.end - range.start);
        Ok(())
    }
}
