//! A block device (a LUN), or an image standing for one, read past the page cache.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::{Block, Error, Kind, Result, Runs, check_range, sys};

const LAYER: &str = "device";
/// Size of one bounce buffer: also the largest single read of a device.
const BOUNCE: usize = 1 << 20;
/// Bounce buffers kept for reuse; more threads than this allocate and free their own.
const KEPT: usize = 16;

/// A device opened read-only with direct I/O where the file system allows it, so that what other hosts
/// write is seen as it is on the storage and not as this host once cached it. Never written, reserved or
/// locked.
///
/// Direct I/O needs sector-aligned offsets, lengths and memory; reads that are not go through an aligned
/// bounce buffer.
pub struct DeviceSource {
    file: File,
    path: PathBuf,
    len: u64,
    /// Alignment of direct reads in bytes; 1 when the page cache is in the way after all.
    align: usize,
    spare: Mutex<Vec<Bounce>>,
}

/// Memory with an aligned part of [`BOUNCE`] bytes in it.
struct Bounce {
    memory: Vec<u8>,
    start: usize,
}

impl Bounce {
    fn new(align: usize) -> Self {
        let memory = vec![0; BOUNCE + align];
        let start = memory.as_ptr().align_offset(align).min(align);
        Bounce { memory, start }
    }

    fn part(&mut self, len: usize) -> &mut [u8] {
        &mut self.memory[self.start..self.start + len]
    }
}

impl DeviceSource {
    /// Opens `path` read-only.
    ///
    /// # Errors
    /// What the operating system says, with the path.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fail = |err| Error::io(LAYER, err).path(path);
        let (file, align) = sys::open_direct(path).map_err(fail)?;
        let len = sys::length(&file).map_err(fail)?;
        Ok(DeviceSource { file, path: path.to_owned(), len, align, spare: Mutex::new(Vec::new()) })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Alignment of direct reads in bytes, 1 when direct I/O is not to be had here.
    #[must_use]
    pub fn alignment(&self) -> usize {
        self.align
    }

    fn error(&self, err: std::io::Error, offset: u64) -> Error {
        let err = if err.kind() == std::io::ErrorKind::UnexpectedEof {
            Error::new(Kind::Changed, LAYER, format!("the device became shorter than the {} bytes it had", self.len))
        } else {
            Error::io(LAYER, err)
        };
        err.path(&self.path).at(offset)
    }

    fn aligned(&self, buf: &[u8], offset: u64) -> bool {
        let align = self.align as u64;
        offset.is_multiple_of(align)
            && (buf.len() as u64).is_multiple_of(align)
            && (buf.as_ptr() as usize).is_multiple_of(self.align)
    }

    fn read_bounced(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
        let align = self.align as u64;
        let taken = self.spare.lock().ok().and_then(|mut spare| spare.pop());
        let mut bounce = taken.unwrap_or_else(|| Bounce::new(self.align));
        let mut done = 0;
        while done < buf.len() {
            let position = offset + done as u64;
            let start = position - position % align;
            let skip = (position - start) as usize;
            let want = (buf.len() - done).min(BOUNCE - skip);
            // A device is a whole number of sectors; an image file may not be, and its last piece is then
            // shorter than the aligned length asked for.
            let whole = (skip + want).next_multiple_of(self.align);
            let part = bounce.part(whole);
            let got = sys::read_at_most(&self.file, part, start)?;
            if got < skip + want {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            buf[done..done + want].copy_from_slice(&part[skip..skip + want]);
            done += want;
        }
        if let Ok(mut spare) = self.spare.lock()
            && spare.len() < KEPT
        {
            spare.push(bounce);
        }
        Ok(())
    }
}

impl Block for DeviceSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.len, offset, buf.len() as u64).map_err(|err| err.path(&self.path))?;
        let result = if self.aligned(buf, offset) {
            sys::read_exact_at(&self.file, buf, offset)
        } else {
            self.read_bounced(buf, offset)
        };
        result.map_err(|err| self.error(err, offset))
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len, range.start, range.end.saturating_sub(range.start))?;
        runs.push_own_data(range.end - range.start);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use crate::{BlockRef, conformance};

    #[test]
    fn an_image_of_odd_length_keeps_the_contract() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..2_500_123u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        file.write_all(&bytes).unwrap();
        file.flush().unwrap();
        let source = DeviceSource::open(file.path()).unwrap();
        let mut all = vec![0; bytes.len()];
        source.read_at(&mut all, 0).unwrap();
        assert!(all == bytes, "bytes differ (alignment {})", source.alignment());
        conformance::check(&(Arc::new(source) as BlockRef), 9);
    }
}
