//! Windows: positional reads by `ReadFile` with an offset, unbuffered reads of devices.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::os::windows::io::AsRawHandle;
use std::path::Path;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::IO::DeviceIoControl;
use windows_sys::Win32::System::Ioctl::IOCTL_DISK_GET_LENGTH_INFO;

/// `FILE_FLAG_NO_BUFFERING`.
const NO_BUFFERING: u32 = 0x2000_0000;
/// `FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE`.
const SHARE_ALL: u32 = 7;
/// Alignment of unbuffered reads: the largest logical sector in use.
const DIRECT_ALIGN: usize = 4096;

/// The system's code for a failed read of a device: `ERROR_IO_DEVICE`.
pub(crate) const DEVICE_FAILED: i32 = 1117;

pub(crate) fn open_read(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().read(true).share_mode(SHARE_ALL).open(path);
    match opened {
        // Folders are refused, with a reason that would mislead.
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied && path.is_dir() => {
            Err(io::ErrorKind::IsADirectory.into())
        }
        other => other,
    }
}

pub(crate) fn open_direct(path: &Path) -> io::Result<(File, usize)> {
    let file = OpenOptions::new().read(true).share_mode(SHARE_ALL).custom_flags(NO_BUFFERING).open(path)?;
    Ok((file, DIRECT_ALIGN))
}

/// Length of a file, or of a device, which has to be asked for by `IOCTL_DISK_GET_LENGTH_INFO`.
pub(crate) fn length(file: &File) -> io::Result<u64> {
    match file.metadata() {
        Ok(meta) if meta.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        // Metadata of a device is refused, or says that it is a file of no length.
        Ok(meta) if meta.is_file() && meta.len() > 0 => Ok(meta.len()),
        meta => device_length(file).or_else(|_| meta.map(|meta| meta.len())),
    }
}

#[allow(unsafe_code)]
fn device_length(file: &File) -> io::Result<u64> {
    let (mut length, mut got) = (0_i64, 0_u32);
    // SAFETY: the handle is open as long as `file` is, nothing is passed in, and the answer's room is told.
    let done = unsafe {
        DeviceIoControl(
            file.as_raw_handle() as HANDLE,
            IOCTL_DISK_GET_LENGTH_INFO,
            null(),
            0,
            (&raw mut length).cast(),
            size_of::<i64>() as u32,
            &raw mut got,
            null_mut(),
        )
    };
    match u64::try_from(length) {
        Ok(length) if done != 0 && got as usize == size_of::<i64>() => Ok(length),
        _ if done != 0 => Err(io::ErrorKind::InvalidData.into()),
        _ => Err(io::Error::last_os_error()),
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
