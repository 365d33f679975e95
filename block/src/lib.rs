//! Positional reads, runs, the read planner, and the sources under them.
//!
//! Everything that can be read in vcbmount is a [`Block`]: a file on the host, a LUN, an extent, a
//! snapshot chain, a partition, a file inside NTFS. A block answers two questions: *give me these
//! bytes* ([`Block::read_at`]) and *where do these bytes come from* ([`Block::map`]). Layers that only
//! move ranges about (partitions, extents, file runs) answer the second one and let the
//! [planner](plan) do the reading, so a read passes through any number of layers as one translation
//! and ends in as few system calls as the storage allows.
//!
//! ```text
//!   front end ── plan::read(file, buf, offset)
//!        │
//!        ▼ map        Runs: ascending, gapless, merged
//!   NTFS file ──► partition ──► snapshot chain ──► extents ──► FileSource / DeviceSource
//!        │
//!        ▼ execute    sort by source and offset, join neighbours
//!   one vectored read per joined run, straight into the caller's buffer
//! ```

// Asking Windows for the length of a device is the only exception, in `sys`.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod ahead;
pub mod bytes;
mod compose;
pub mod conformance;
mod decor;
mod error;
pub mod plan;
mod runs;
mod source;
mod sys;

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

pub use compose::{Concat, MemBlock, Window, ZeroBlock};
pub use decor::{Fault, FaultBlock, RetryBlock, RetryPolicy, Stats, StatsBlock, Trouble, TroubleKind};
pub use error::{BoxError, Error, Kind, Result};
pub use runs::{Run, RunKind, Runs, SourceId};
pub use source::{DeviceSource, FileSource};

/// A shared, immutable, randomly readable sequence of bytes.
pub type BlockRef = Arc<dyn Block>;

/// Something that can be read at any position by any number of threads.
///
/// # Contract
/// Checked for every implementation by [`conformance::check`]:
/// - `len` never changes while the value lives.
/// - `read_at` fills the whole buffer or fails. It never returns short, never substitutes zeros for
///   bytes it could not get, and a range past `len` is an error of kind [`Kind::OutOfRange`].
/// - `map` describes exactly the range it was asked about, ascending and without gaps.
/// - Reading through the map gives the same bytes as `read_at`.
/// - No lock is held while bytes are being read from below.
pub trait Block: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// True when there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` with the bytes at `offset`, or fails.
    ///
    /// # Errors
    /// [`Kind::OutOfRange`] when the range passes the end; otherwise whatever the layers below met. On
    /// error the contents of `buf` are unspecified.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// Fills several buffers from consecutive positions. Sources that have a vectored system call
    /// override this; the default reads one buffer after the other.
    ///
    /// # Errors
    /// As for [`Block::read_at`].
    fn read_vectored_at(&self, bufs: &mut [&mut [u8]], mut offset: u64) -> Result<()> {
        for buf in bufs {
            self.read_at(buf, offset)?;
            offset += buf.len() as u64;
        }
        Ok(())
    }

    /// Appends to `runs` where the bytes of `range` come from.
    ///
    /// Whoever holds this block as a [`BlockRef`] calls it through [`Runs::map_child`], which attaches
    /// the block to runs that point at itself. The default says "ask me": one opaque run, so that a
    /// format works before it is fast.
    ///
    /// # Errors
    /// [`Kind::OutOfRange`] for a range past the end; metadata errors of the layer.
    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len(), range.start, range.end.saturating_sub(range.start))?;
        runs.push_opaque(range.end - range.start);
        Ok(())
    }

    /// The host file behind this block when the block *is* that file from first byte to last. This is
    /// what lets a front end hand the whole file to the kernel.
    fn host_file(&self) -> Option<&std::fs::File> {
        None
    }

    /// When the file that this block is was last written, as its storage tells; `None` for what is no file.
    fn modified(&self) -> Option<SystemTime> {
        self.host_file()?.metadata().ok()?.modified().ok()
    }
}

/// Checks that `len` bytes at `offset` lie within `total`.
///
/// # Errors
/// [`Kind::OutOfRange`] naming both.
pub fn check_range(total: u64, offset: u64, len: u64) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= total => Ok(()),
        _ => {
            Err(Error::new(Kind::OutOfRange, "block", format!("{len} bytes at {offset:#x} pass the end at {total:#x}"))
                .at(offset))
        }
    }
}
