//! Windows: positional reads by `ReadFile` with an offset, unbuffered reads of devices.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// `FILE_FLAG_NO_BUFFERING`.
const NO_BUFFERING: u32 = 0x2000_0000;
/// `FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE`.
const SHARE_ALL: u32 = 7;
/// Alignment of unbuffered reads: the largest logical sector in use.
const DIRECT_ALIGN: usize = 4096;

pub(crate) fn open_read(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).share_mode(SHARE_ALL).open(path)
}

pub(crate) fn open_direct(path: &Path) -> io::Result<(File, usize)> {
    let file = OpenOptions::new().read(true).share_mode(SHARE_ALL).custom_flags(NO_BUFFERING).open(path)?;
    Ok((file, DIRECT_ALIGN))
}

/// Length of a file, or of a device as far as seeking knows it.
pub(crate) fn length(mut file: &File) -> io::Result<u64> {
    match file.metadata() {
        Ok(meta) if meta.is_file() => Ok(meta.len()),
        _ => file.seek(SeekFrom::End(0)),
    }
}

pub(crate) fn read_once(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    match file.seek_read(buf, offset) {
        // ERROR_HANDLE_EOF: at or past the end.
        Err(err) if err.raw_os_error() == Some(38) => Ok(0),
        other => other,
    }
}

pub(crate) fn read_vectored_exact_at(file: &File, bufs: &mut [&mut [u8]], mut offset: u64) -> io::Result<()> {
    for buf in bufs {
        super::read_exact_at(file, buf, offset)?;
        offset += buf.len() as u64;
    }
    Ok(())
}

/// True for errors of a device that may be gone at the next try: `ERROR_NOT_READY`, `ERROR_CRC`,
/// `ERROR_SEM_TIMEOUT`, `ERROR_IO_DEVICE`.
pub(crate) fn is_transient(err: &io::Error) -> bool {
    matches!(err.raw_os_error(), Some(21 | 23 | 121 | 1117))
}
