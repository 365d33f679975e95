//! Partition tables, NTFS and VMFS, read-only, over blocks.
//!
//! [`volume::scan`] finds the volumes of a disk, [`Filesystem`] is what a mounted volume looks like from
//! outside. Nothing here knows about virtual disks: a volume is any [`vcb_block::Block`].

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod filesystem;
pub mod ntfs;
pub mod vmfs;
pub mod volume;

pub use filesystem::{
    Attr, Census, DirEntry, FileId, FileType, Filesystem, FsStats, GuestVolume, Journal, LinkTarget, Name, NameBuf,
    Stream, Time, Unreadable,
};
