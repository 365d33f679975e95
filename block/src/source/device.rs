//! A block device (a LUN), or an image standing for one, read past the page cache.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::{Block, Error, Kind, Result, Runs, check_range, sys};

const LAYER: &str = "device";
/// Size of one bounce buffer: also the largest single read of a device.
const BOUNCE: usize = 1 << 20;
/// The smallest logical sector in use, in bytes.
const SECTOR: u64 = 512;
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

    fn error(&self, err: io::Error, offset: u64) -> Error {
        let err = if err.kind() == io::ErrorKind::UnexpectedEof {
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

    /// Reads until `part` is full or the file ends; gives the number of bytes read.
    fn read_direct(&self, part: &mut [u8], start: u64) -> io::Result<usize> {
        let at_end = part.len() as u64 == self.len - start;
        debug_assert!(self.aligned(part, start) || at_end, "an unaligned direct read");
        let mut done = 0;
        while done < part.len() {
            match sys::read_once(&self.file, &mut part[done..], start + done as u64) {
                Ok(0) => break,
                Ok(got) => done += got,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
            // Only an image file ends within a sector, and no direct read may begin there.
            if self.align > 1 && !(done as u64).is_multiple_of(SECTOR) {
                break;
            }
        }
        Ok(done)
    }

    fn read_bounced(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
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
            let left = self.len - start;
            let part = bounce.part(whole);
            let got = read_piece(part, left, |part| self.read_direct(part, start))?;
            if got < skip + want {
                return Err(io::ErrorKind::UnexpectedEof.into());
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

/// Reads a piece of whole aligned blocks, of which a device's end may cut the last one short. Linux then gives what
/// there is; Windows refuses to read a disk past its end, and takes a number of sectors that ends there.
fn read_piece(part: &mut [u8], left: u64, read: impl Fn(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
    let whole = part.len();
    match read(part) {
        Err(_) if left < whole as u64 && left.is_multiple_of(SECTOR) => read(&mut part[..left as usize]),
        other => other,
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

    #[test]
    fn a_disk_that_ends_between_blocks_is_read_to_its_last_sector() {
        // Refuses what goes past its end, as Windows' disks do.
        let disk = |len: usize, start: usize| {
            move |part: &mut [u8]| {
                if start + part.len() > len {
                    return Err(io::Error::from(io::ErrorKind::InvalidInput));
                }
                part.fill(7);
                Ok(part.len())
            }
        };
        let mut part = [0; 8192];
        assert_eq!(read_piece(&mut part, 1 << 20, disk(1 << 21, 4096)).unwrap(), 8192);
        assert_eq!(read_piece(&mut part, 4608, disk(8704, 4096)).unwrap(), 4608);
        part.fill(0);
        assert!(read_piece(&mut part, 100, disk(4196, 4096)).is_err(), "no disk ends within a sector");
        let failing = |_: &mut [u8]| Err(io::Error::from_raw_os_error(sys::DEVICE_FAILED));
        assert!(read_piece(&mut part, 4608, failing).is_err());
    }

    #[test]
    fn reads_of_any_place_and_length_reach_the_system_aligned() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> =
            (0..3 * BOUNCE as u32 + 512).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        file.write_all(&bytes).unwrap();
        file.flush().unwrap();
        let source = DeviceSource::open(file.path()).unwrap();
        let align = source.alignment();
        // Memory of any alignment too: whatever does not fit goes through a bounce buffer, which asserts it.
        let mut memory = vec![0; bytes.len() + align];
        let ends =
            [0, 1, 511, 512, 513, 4095, 4096, 4097, BOUNCE - 1, BOUNCE, BOUNCE + 1, bytes.len() - 1, bytes.len()];
        for shift in [0, 1, 512] {
            for (index, &start) in ends.iter().enumerate() {
                for &end in &ends[index..] {
                    let buf = &mut memory[shift..shift + end - start];
                    buf.fill(0xEE);
                    source.read_at(buf, start as u64).unwrap();
                    assert!(*buf == bytes[start..end], "{start}..{end} at {shift}");
                }
            }
        }
        assert!(source.read_at(&mut [0; 2], bytes.len() as u64 - 1).is_err());
    }
}
