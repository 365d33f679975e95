//! Unix: `pread`, `preadv`, `O_DIRECT`.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;

/// Alignment of direct reads: the largest logical sector in use, so that it is right for every device.
const DIRECT_ALIGN: usize = 4096;

/// The system's code for a failed read of a device.
pub(crate) const DEVICE_FAILED: i32 = libc::EIO;

pub(crate) fn open_read(path: &Path) -> io::Result<File> {
    // O_NONBLOCK keeps a FIFO put in a file's place from blocking the open; regular files ignore it.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a regular file nor a block device"));
    }
    Ok(file)
}

/// Opens with `O_DIRECT`, or without where the file system has none (tmpfs, some FUSE).
pub(crate) fn open_direct(path: &Path) -> io::Result<(File, usize)> {
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT | libc::O_CLOEXEC).open(path);
    match direct {
        Ok(file) => Ok((file, DIRECT_ALIGN)),
        Err(err) if err.raw_os_error() == Some(libc::EINVAL) => Ok((open_read(path)?, 1)),
        Err(err) => Err(err),
    }
}

/// Length of a file or block device (whose metadata says 0).
pub(crate) fn length(mut file: &File) -> io::Result<u64> {
    if file.metadata()?.is_file() { Ok(file.metadata()?.len()) } else { file.seek(SeekFrom::End(0)) }
}

pub(crate) fn read_once(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(buf, offset)
}

/// Fills all buffers from consecutive positions with as few `preadv` calls as possible.
pub(crate) fn read_vectored_exact_at(file: &File, bufs: &mut [&mut [u8]], mut offset: u64) -> io::Result<()> {
    let mut slices: Vec<IoSliceMut<'_>> = bufs.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
    let mut rest = slices.as_mut_slice();
    IoSliceMut::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let position = i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        match nix::sys::uio::preadv(file, rest, position) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => {
                IoSliceMut::advance_slices(&mut rest, got);
                offset += got as u64;
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}

/// True for errors of a device that may be gone at the next try.
pub(crate) fn is_transient(err: &io::Error) -> bool {
    let code = err.raw_os_error();
    [libc::EIO, libc::EAGAIN, libc::ETIMEDOUT, libc::ENOLINK].iter().any(|known| code == Some(*known))
}
