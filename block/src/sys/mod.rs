//! What differs between operating systems below a source. Nothing else in this crate is `cfg`-dependent.

use std::fs::File;
use std::io;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::{DEVICE_FAILED, is_transient, length, open_direct, open_read, read_once, read_vectored_exact_at};
#[cfg(windows)]
pub(crate) use windows::{
    DEVICE_FAILED, is_transient, length, open_direct, open_read, read_once, read_vectored_exact_at,
};

/// Fills `buf` from `offset` or fails; the end of the file is `UnexpectedEof`.
pub(crate) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    if read_at_most(file, buf, offset)? == buf.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Reads until `buf` is full or the file ends; gives the number of bytes read.
fn read_at_most(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match read_once(file, &mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(done)
}
