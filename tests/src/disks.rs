//! What the VMDK tests and fuzz targets share: folders in memory as resolvers, and reading to the end.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use vcb_block::{Block, BlockRef, Error, Kind, MemBlock, Result, Runs, check_range, plan};
use vcb_fixtures::vmdk::{Folder, Specimen};
use vcb_vmdk::{Disk, OpenOptions, Resolved, Resolver};

/// A folder of blocks. Any path is taken for its last component, as after a VM was moved.
#[derive(Clone, Default)]
pub struct Files(BTreeMap<String, BlockRef>);

impl Files {
    /// The files of `folder`.
    #[must_use]
    pub fn of(folder: &Folder) -> Self {
        let mut files = Files::default();
        for (name, bytes) in &folder.files {
            files.put(name, bytes.clone());
        }
        files
    }

    /// Adds or replaces a file.
    pub fn put(&mut self, name: &str, bytes: Vec<u8>) -> &mut Self {
        self.0.insert(name.to_owned(), Arc::new(MemBlock::new(bytes)));
        self
    }

    /// Changes one file by putting something around it.
    ///
    /// # Panics
    /// When there is no such file.
    #[must_use]
    pub fn with(&self, name: &str, wrap: impl FnOnce(BlockRef) -> BlockRef) -> Self {
        let mut files = self.clone();
        let block = files.0.get_mut(name).expect("the file is there");
        *block = wrap(block.clone());
        files
    }

    /// Puts something around every file.
    #[must_use]
    pub fn wrapped(&self, wrap: impl Fn(BlockRef) -> BlockRef) -> Self {
        Files(self.0.iter().map(|(name, block)| (name.clone(), wrap(block.clone()))).collect())
    }

    /// Opens the disk `leaf` of this folder.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn disk(&self, leaf: &str, options: &OpenOptions) -> Result<Disk> {
        Disk::open(Arc::new(self.clone()), leaf, options)
    }
}

impl Resolver for Files {
    fn open(&self, _from: &str, name: &str) -> Result<Resolved> {
        let plain = name.rsplit(['/', '\\']).next().unwrap_or(name);
        let block = self.0.get(plain).ok_or_else(|| Error::new(Kind::NotFound, "test", format!("no '{name}'")))?;
        Ok(Resolved { name: plain.to_owned(), block: block.clone() })
    }

    fn siblings(&self, _from: &str) -> Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }
}

/// Reads the first `limit` bytes of a block, or all when it is shorter, as a front end would.
///
/// # Errors
/// Those of the block.
pub fn read_up_to(block: &BlockRef, limit: u64) -> Result<Vec<u8>> {
    let len = block.len().min(limit);
    let mut bytes = vec![0xA5; len as usize];
    let mut at = 0;
    for piece in bytes.chunks_mut(1 << 20) {
        plan::read(block, piece, at)?;
        at += piece.len() as u64;
    }
    Ok(bytes)
}

/// What came of reading a disk that was tampered with.
#[derive(Debug)]
pub enum Outcome {
    /// It was refused or its reading failed.
    Refused(Error),
    /// It gave the bytes that were written.
    Right,
    /// It gave other bytes: whether the length is right, and the range within which bytes differ.
    Wrong {
        /// Length of the disk.
        len: u64,
        /// From the first to the last byte that differs.
        differs: Range<usize>,
    },
}

/// Opens `leaf` in `files`, reads it whole, and compares with what `specimen` says.
#[must_use]
pub fn outcome(files: &Files, specimen: &Specimen, options: &OpenOptions) -> Outcome {
    let read = files.disk(&specimen.leaf, options).and_then(|disk| {
        let bytes = read_up_to(disk.block(), specimen.raw.len() as u64)?;
        Ok((disk.len(), bytes))
    });
    let (len, bytes) = match read {
        Err(err) => return Outcome::Refused(err),
        Ok(read) => read,
    };
    let differ = |(a, b): (&u8, &u8)| a != b;
    let first = bytes.iter().zip(&specimen.raw).position(differ);
    let Some(first) = first else {
        return if len == specimen.raw.len() as u64 { Outcome::Right } else { Outcome::Wrong { len, differs: 0..0 } };
    };
    let last = bytes.iter().zip(&specimen.raw).rposition(differ).unwrap_or(first);
    Outcome::Wrong { len, differs: first..last + 1 }
}

/// A block with one bit flipped.
pub struct Flipped {
    inner: BlockRef,
    bit: u64,
}

impl Flipped {
    /// Flips bit `bit` of `inner`, counted from its first byte's lowest.
    #[must_use]
    pub fn new(inner: BlockRef, bit: u64) -> Self {
        Flipped { inner, bit }
    }
}

impl Block for Flipped {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read_at(buf, offset)?;
        let byte = (self.bit / 8).checked_sub(offset).and_then(|at| usize::try_from(at).ok());
        if let Some(byte) = byte.and_then(|at| buf.get_mut(at)) {
            *byte ^= 1 << (self.bit % 8);
        }
        Ok(())
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len(), range.start, range.end.saturating_sub(range.start))?;
        runs.push_own_data(range.end - range.start);
        Ok(())
    }
}
