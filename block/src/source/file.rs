//! A regular file on the host, read by position.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::{Block, Error, Kind, Result, Runs, check_range, sys};

const LAYER: &str = "file";

/// A file opened read-only. Positional reads share one descriptor among all threads.
///
/// The length is taken once, at opening. A file that is cut short afterwards gives an error of kind
/// [`Kind::Changed`], never zeros and never an early end. It is read with `pread`, not through a memory
/// map, because a truncated mapped file raises SIGBUS instead of an error.
pub struct FileSource {
    file: File,
    path: PathBuf,
    len: u64,
}

impl FileSource {
    /// Opens `path` read-only.
    ///
    /// # Errors
    /// What the operating system says, with the path; [`Kind::WrongType`] for a folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = sys::open_read(path).map_err(|err| Error::io(LAYER, err).path(path))?;
        Self::from_file(file, path)
    }

    /// Takes over an open file; `path` is only for messages.
    ///
    /// # Errors
    /// As [`FileSource::open`].
    pub fn from_file(file: File, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let len = sys::length(&file).map_err(|err| Error::io(LAYER, err).path(path))?;
        Ok(FileSource { file, path: path.to_owned(), len })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn error(&self, err: std::io::Error, offset: u64) -> Error {
        let err = if err.kind() == std::io::ErrorKind::UnexpectedEof {
            Error::new(Kind::Changed, LAYER, format!("the file became shorter than the {} bytes it had", self.len))
        } else {
            Error::io(LAYER, err)
        };
        err.path(&self.path).at(offset)
    }
}

impl Block for FileSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.len, offset, buf.len() as u64).map_err(|err| err.path(&self.path))?;
        sys::read_exact_at(&self.file, buf, offset).map_err(|err| self.error(err, offset))
    }

    fn read_vectored_at(&self, bufs: &mut [&mut [u8]], offset: u64) -> Result<()> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        check_range(self.len, offset, len).map_err(|err| err.path(&self.path))?;
        sys::read_vectored_exact_at(&self.file, bufs, offset).map_err(|err| self.error(err, offset))
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len, range.start, range.end.saturating_sub(range.start))?;
        runs.push_own_data(range.end - range.start);
        Ok(())
    }

    fn host_file(&self) -> Option<&File> {
        Some(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use crate::{BlockRef, conformance};

    #[test]
    fn a_file_keeps_the_contract() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![0xA5; 300_001]).unwrap();
        let source: BlockRef = Arc::new(FileSource::open(file.path()).unwrap());
        conformance::check(&source, 1);
    }

    #[test]
    fn a_file_cut_short_is_an_error_and_never_zeros() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[1; 8192]).unwrap();
        let source = FileSource::open(file.path()).unwrap();
        file.as_file().set_len(4096).unwrap();
        let mut buf = [0; 8192];
        let err = source.read_at(&mut buf, 0).unwrap_err();
        assert_eq!(err.kind(), Kind::Changed);
        let (a, b) = buf.split_at_mut(2048);
        assert_eq!(source.read_vectored_at(&mut [a, b], 0).unwrap_err().kind(), Kind::Changed);
    }

    #[test]
    fn a_folder_is_not_a_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(FileSource::open(dir.path()).is_err());
    }
}
