//! Disks with every grain allocated, on the host's file system.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::sync::Arc;

use vcb_block::{BlockRef, FileSource, Result};
use vcb_fixtures::vmdk::{
    Content, Cowd, Descriptor, Directory, Extent, Grain, Hosted, Model, Order, SECTOR, SeSparse, Stream,
};
use vcb_vmdk::{Disk, FolderResolver, OpenOptions};

/// The formats that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A flat file.
    Flat,
    /// Hosted sparse, 64 KiB grains.
    Sparse,
    /// A compressed stream of text, grain directory at the end.
    Stream,
    /// COWD, 512-byte grains.
    Cowd,
    /// SEsparse, 4 KiB grains in logical order.
    SeSparse,
    /// SEsparse, runs of 1 to 16 grains, shuffled.
    SeSparseShuffled,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 6] =
        [Format::Flat, Format::Sparse, Format::Stream, Format::Cowd, Format::SeSparse, Format::SeSparseShuffled];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Flat => "flat",
            Format::Sparse => "hosted sparse",
            Format::Stream => "streamOptimized",
            Format::Cowd => "COWD",
            Format::SeSparse => "SEsparse",
            Format::SeSparseShuffled => "SEsparse, shuffled",
        }
    }

    /// Name of the disk's descriptor.
    #[must_use]
    pub fn leaf(self) -> String {
        format!("{self:?}.vmdk").to_lowercase()
    }

    /// Name of the file with the data.
    #[must_use]
    pub fn data_file(self) -> String {
        match self {
            Format::Sparse | Format::Stream => self.leaf(),
            _ => format!("{self:?}-data.vmdk").to_lowercase(),
        }
    }

    /// Writes a disk of `bytes` bytes into `dir`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(self, dir: &Path, bytes: u64) -> io::Result<()> {
        let sectors = bytes / SECTOR;
        let file = self.data_file();
        let mut out = BufWriter::with_capacity(1 << 20, File::create(dir.join(&file))?);
        let all = |grain_sectors, content| Model::all(sectors, grain_sectors, &Grain::Fill(content));
        let describe = |create_type, extent| {
            Descriptor::new(create_type, 1, vec![Extent::new(extent, sectors, &file)]).to_string()
        };
        let text = match self {
            Format::Flat => {
                let mut piece = vec![0; 1 << 20];
                for at in (0..bytes).step_by(piece.len()) {
                    Content::Noise(1).fill(&mut piece, at / SECTOR);
                    io::Write::write_all(&mut out, &piece)?;
                }
                describe("monolithicFlat", "FLAT")
            }
            Format::Sparse => {
                let descriptor = Some(describe("monolithicSparse", "SPARSE"));
                Hosted { descriptor, ..Hosted::default() }.write(&mut out, &all(128, Content::Noise(2)))?;
                return io::Write::flush(&mut out);
            }
            Format::Stream => {
                let stream = Stream::new(Directory::AtEnd, describe("streamOptimized", "SPARSE"));
                stream.write(&mut out, &all(128, Content::Text(3)))?;
                return io::Write::flush(&mut out);
            }
            Format::Cowd => {
                Cowd::default().write(&mut out, &all(1, Content::Noise(4)))?;
                describe("vmfsSparse", "VMFSSPARSE")
            }
            Format::SeSparse | Format::SeSparseShuffled => {
                let shuffled = Order::Shuffled { seed: 5, longest: 16 };
                let order = if self == Format::SeSparse { Order::Logical } else { shuffled };
                SeSparse { order, ..SeSparse::default() }.write(&mut out, &all(8, Content::Noise(5)))?;
                describe("seSparse", "SESPARSE")
            }
        };
        io::Write::flush(&mut out)?;
        std::fs::write(dir.join(self.leaf()), text)
    }
}

/// Writes a flat base and `deltas` SEsparse deltas, every grain of the disk in exactly one of the deltas, in
/// stretches of 1 to 64 grains; returns the leaf's name.
///
/// # Errors
/// Those of the file system.
pub fn write_chain(dir: &Path, bytes: u64, deltas: u64) -> io::Result<String> {
    let sectors = bytes / SECTOR;
    let stem = format!("chain{deltas}");
    let base = format!("{stem}.vmdk");
    let flat = format!("{stem}-flat.vmdk");
    File::create(dir.join(&flat))?.set_len(bytes)?;
    let text = Descriptor::new("vmfs", 1, vec![Extent::new("VMFS", sectors, &flat)]).to_string();
    std::fs::write(dir.join(&base), text)?;
    let mut rng = vcb_fixtures::vmdk::Rng::new(deltas);
    let mut models = vec![Model::empty(sectors, 8); deltas as usize];
    let grains = models[0].grains.len();
    let mut at = 0;
    while at < grains {
        let stop = (at + 1 + rng.below(64) as usize).min(grains);
        models[rng.below(deltas) as usize].set(at..stop, &Grain::Fill(Content::Noise(6)));
        at = stop;
    }
    let mut parent = base;
    for (number, model) in (1..).zip(&models) {
        let (leaf, data) = (format!("{stem}-{number:06}.vmdk"), format!("{stem}-{number:06}-sesparse.vmdk"));
        let mut out = BufWriter::with_capacity(1 << 20, File::create(dir.join(&data))?);
        SeSparse::default().write(&mut out, model)?;
        io::Write::flush(&mut out)?;
        let descriptor = Descriptor::new("seSparse", number + 1, vec![Extent::new("SESPARSE", sectors, &data)]);
        std::fs::write(dir.join(&leaf), descriptor.child_of(number, &parent).to_string())?;
        parent = leaf;
    }
    Ok(parent)
}

/// Opens a disk of `dir` as the product does.
///
/// # Errors
/// Those of the reader.
pub fn open(dir: &Path, leaf: &str) -> Result<BlockRef> {
    open_with(dir, leaf, &OpenOptions::default())
}

/// Opens a disk of `dir` so that the calling thread does all the work.
///
/// # Errors
/// Those of the reader.
pub fn open_alone(dir: &Path, leaf: &str) -> Result<BlockRef> {
    let mut options = OpenOptions::default();
    options.read_ahead = Some(0);
    open_with(dir, leaf, &options)
}

fn open_with(dir: &Path, leaf: &str, options: &OpenOptions) -> Result<BlockRef> {
    let disk = Disk::open(FolderResolver::new(dir)?, leaf, options)?;
    Ok(Arc::clone(disk.block()))
}

/// Opens a file as plain bytes, the measure of what the storage can do.
///
/// # Errors
/// Those of the file system.
pub fn plain(dir: &Path, file: &str) -> Result<BlockRef> {
    Ok(Arc::new(FileSource::open(dir.join(file))?))
}
