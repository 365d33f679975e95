//! `$LogFile`: whether a volume was left with work in its log, and that work done in memory.
//!
//! NTFS logs changes of metadata before it makes them. A disk that was snapshotted without quiescing, or lost
//! its power, may show folders and records as they were before changes that the log already holds. Windows
//! does those changes when it mounts the volume; [`replay`] does them in an [`Overlay`] over the volume, which
//! itself is never written.
//!
//! ```text
//!   restart   two pages at the front: version, clean or not, the last checkpoint
//!   pages     record pages, their tail copies, and the records in them by LSN
//!   record    one log record: redo and undo operation, target, data
//!   tables    what a checkpoint dumped: open attributes, dirty pages, transactions
//!   analysis  checkpoint ─► records to redo, transactions to undo
//!   redo_*    one operation on an MFT record, an index block, raw clusters
//!   stage     the changed pieces of the volume ─► Overlay
//! ```
//!
//! The layouts are those of the Linux-NTFS project's documentation ("$LogFile") and of restart areas and
//! records observed on Windows volumes; what each operation does to a record was settled by others who
//! compared with Windows' own recovery (`rust-fs-ntfs`, MIT or Apache-2.0, `logfile_replay`). A replay is all
//! or nothing: whatever is not understood is `Unsupported`, and the volume is then shown as it lies on disk.

mod analysis;
mod overlay;
mod pages;
mod record;
mod redo_index;
mod redo_record;
mod refusal;
mod replay;
mod restart;
mod stage;
mod tables;

use vcb_block::{BlockRef, Result, plan};

pub use overlay::Overlay;
pub use refusal::Refusal;
pub use replay::{Volume, replay};

use restart::Found;

/// Layer name in errors.
const LAYER: &str = "ntfs-log";

/// What a log says about its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogState {
    /// Never used, or emptied (all FF): nothing to replay.
    Empty,
    /// Closed in order.
    Clean {
        /// Version of the log format, major and minor: 1.1 up to Windows 7, 2.0 since Windows 8.
        version: (u16, u16),
    },
    /// In use when the disk was frozen: it may hold changes that are not on the volume yet.
    Dirty {
        /// As above.
        version: (u16, u16),
    },
    /// Not a log that we know. Nothing can be said about the volume's last changes.
    Unknown,
}

/// Reads the restart pages of `log`, the content of `$LogFile`.
///
/// # Errors
/// Read errors only: a damaged log is [`LogState::Unknown`].
pub fn inspect(log: &BlockRef) -> Result<LogState> {
    Ok(match restart::read(log)? {
        Found::Empty => LogState::Empty,
        Found::Unknown(_) => LogState::Unknown,
        Found::Restart(restart) if restart.clean => LogState::Clean { version: restart.version },
        Found::Restart(restart) => LogState::Dirty { version: restart.version },
    })
}

/// True when `file`, the content of `hiberfil.sys`, holds a hibernated system (or the kernel of one: fast
/// startup). That system has its own picture of the volume in memory, so that its log is never to be replayed.
///
/// # Errors
/// Read errors.
pub fn is_hibernated(file: &BlockRef) -> Result<bool> {
    let mut magic = [0; 4];
    if file.len() < magic.len() as u64 {
        return Ok(false);
    }
    plan::read(file, &mut magic, 0)?;
    // "wake" is written over it once the system has come back; zeros are a file that was never used.
    magic.make_ascii_lowercase();
    Ok(matches!(&magic, b"hibr" | b"rstr"))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod windows_tests;
