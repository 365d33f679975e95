//! Copies a disk out of its chain into one file: raw, or a VMDK of its own.
//!
//! ```text
//!   threads ── read a piece, find its zero grains, compress ──┐
//!   threads ── …                                              ├─ in order ──► one writer ──► NAME.partial
//!   threads ── …                                              ┘                              └─ renamed when whole
//! ```

mod pipeline;
mod raw;
mod sparse;
mod stream;
mod vmdk;

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use vcb_block::{BlockRef, Error, Kind, Result, RunKind, Runs, plan};

use crate::failure::{Code, Failure, Outcome};

/// Bytes of a grain: the unit in which zeros are left out, and that of VMware's own sparse disks.
const GRAIN: usize = 64 << 10;
/// Grains read by one thread at a time.
const GRAINS_PER_PIECE: usize = 16;
const PIECE: u64 = (GRAIN * GRAINS_PER_PIECE) as u64;

/// What the copy is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes; zeros become holes.
    Raw,
    /// A VMDK in one file (`monolithicSparse`), for hosted products and qemu.
    SparseVmdk,
    /// A compressed VMDK (`streamOptimized`), for import into vSphere and for OVAs.
    StreamVmdk,
}

/// How to copy.
pub struct Export<'a> {
    /// What to write.
    pub format: Format,
    /// `ddb.adapterType` of a VMDK.
    pub adapter: &'a str,
    /// Threads that read.
    pub threads: usize,
    /// Replace a file that is there already.
    pub overwrite: bool,
    /// Told how many bytes of the disk are done; may be called often.
    pub progress: &'a mut dyn FnMut(u64),
    /// Makes sure that the storage is still what was opened; called once, after the last read.
    pub verify: &'a dyn Fn() -> Result<()>,
    /// Ends the copy with [`Code::Interrupted`] when it becomes true.
    pub stop: &'a AtomicBool,
}

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Length of the disk in bytes.
    pub len: u64,
    /// Bytes of it that are not zero grains.
    pub data: u64,
    /// Length of the file in bytes.
    pub written: u64,
}

impl Export<'_> {
    /// Copies `disk` to the file `to`. The file appears under its name when it is whole and on stable
    /// storage; whatever happens before, it does not.
    ///
    /// # Errors
    /// Those of reading, with the offset; those of writing; [`Code::Usage`] when the file exists.
    pub fn run(&mut self, disk: &BlockRef, to: &Path) -> Outcome<Copied> {
        if !self.overwrite && to.symlink_metadata().is_ok() {
            return Err(Failure::new(Code::Usage, format!("{} exists already", to.display()))
                .next_step("Name another file, or give --force to replace it."));
        }
        let partial = Partial::create(to)?;
        let name = to.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let copied = self.write(disk, &partial.file, &name).map_err(|err| match err {
            CopyError::Read(err) => Failure::reading("cannot read the disk", err),
            CopyError::Write(err) => Failure::new(Code::Failed, format!("cannot write {}", to.display()))
                .because(err)
                .next_step("Check the free space and the permissions of the target."),
            CopyError::Stopped => Failure::new(Code::Interrupted, "the copy was interrupted"),
        })?;
        (self.verify)().map_err(|err| Failure::reading("the disk changed while it was read", err))?;
        partial.keep(to)?;
        Ok(copied)
    }

    fn write(&mut self, disk: &BlockRef, file: &File, name: &str) -> Result<Copied, CopyError> {
        match self.format {
            Format::Raw => raw::write(self, disk, file),
            Format::SparseVmdk => sparse::write(self, disk, file, name),
            Format::StreamVmdk => stream::write(self, disk, file, name),
        }
    }

    /// Calls `take` with every piece of the disk in order, each put through `prepare` by one of the threads.
    fn pieces<T: Send>(
        &mut self,
        disk: &BlockRef,
        prepare: impl Fn(Piece) -> Result<T> + Sync,
        mut take: impl FnMut(u64, T) -> std::io::Result<()>,
    ) -> Result<(), CopyError> {
        let count = disk.len().div_ceil(PIECE);
        let make = |index: u64| prepare(Piece::read(disk, index * PIECE)?);
        let (progress, stop) = (&mut *self.progress, self.stop);
        pipeline::ordered(count, self.threads, make, |index, made| {
            if stop.load(Ordering::Relaxed) {
                return Err(CopyError::Stopped);
            }
            take(index, made.map_err(CopyError::Read)?).map_err(CopyError::Write)?;
            progress(((index + 1) * PIECE).min(disk.len()));
            Ok(())
        })
    }
}

/// Why a copy ended early.
enum CopyError {
    Read(Error),
    Write(std::io::Error),
    Stopped,
}

/// Some grains of the disk.
struct Piece {
    /// Where on the disk it begins.
    offset: u64,
    /// Its bytes; empty when they are all zero.
    bytes: Vec<u8>,
}

impl Piece {
    fn read(disk: &BlockRef, offset: u64) -> Result<Piece> {
        let len = PIECE.min(disk.len() - offset);
        let runs = Runs::of(disk, offset..offset + len)?;
        if runs.as_slice().iter().all(|run| run.kind == RunKind::Zero) {
            return Ok(Piece { offset, bytes: Vec::new() });
        }
        let mut bytes = vec![0; len as usize];
        plan::read(disk, &mut bytes, offset)?;
        Ok(Piece { offset, bytes })
    }

    /// The grains that are not all zero: their number on the disk and their bytes. The last grain of a disk
    /// may be short.
    fn grains(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let first = self.offset / GRAIN as u64;
        let grains = (first..).zip(self.bytes.chunks(GRAIN));
        grains.filter(|(_, grain)| grain.iter().any(|byte| *byte != 0))
    }
}

/// A file that is being written under a name of its own, removed again unless it is kept.
struct Partial {
    file: File,
    path: Option<PathBuf>,
}

impl Partial {
    fn create(to: &Path) -> Outcome<Partial> {
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let path = to.with_file_name(name);
        let file = OpenOptions::new().write(true).read(true).create_new(true).open(&path).map_err(|err| {
            let failure = Failure::new(Code::Failed, format!("cannot create {}", path.display()));
            let exists = err.kind() == std::io::ErrorKind::AlreadyExists;
            let failure = failure.because(err);
            if exists { failure.next_step("Another copy may be running; if not, remove that file.") } else { failure }
        })?;
        Ok(Partial { file, path: Some(path) })
    }

    fn keep(mut self, to: &Path) -> Outcome<()> {
        let failed =
            |err: std::io::Error| Failure::new(Code::Failed, format!("cannot write {}", to.display())).because(err);
        self.file.flush().and_then(|()| self.file.sync_all()).map_err(failed)?;
        if let Some(path) = &self.path {
            std::fs::rename(path, to).map_err(failed)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn write_at(mut file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes)
}

/// A limit of an output format.
fn too_large(format: &str, limit: &str) -> CopyError {
    CopyError::Read(Error::new(Kind::Limit, "export", format!("a {format} disk holds at most {limit}")))
}

#[cfg(test)]
mod tests;
