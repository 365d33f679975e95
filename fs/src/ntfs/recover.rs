//! Opening a volume whose log may hold changes that are not on it yet.

use std::fmt;
use std::sync::Arc;

use vcb_block::{BlockRef, Error, Kind, Result};

use super::error::{Fault, LAYER};
use super::logfile::{self, LogState};
use super::mft::Mft;
use super::record::kind;
use super::volume::{Ntfs, Options, system};
use crate::Filesystem;

/// Record number of $LogFile.
const LOG_FILE: u64 = 2;
/// Where a hibernated Windows keeps its memory.
const HIBERNATION: &[u8] = b"hiberfil.sys";

/// What became of the changes in a volume's log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogOutcome {
    /// There were none to make: the log was closed in order, or is empty.
    Closed,
    /// They are shown: `redone` of them, and `undone` of transactions that never ended taken back. Both are 0
    /// when all had reached the volume.
    Replayed {
        /// Changes made.
        redone: u64,
        /// Changes taken back.
        undone: u64,
    },
    /// A hibernated system owns the volume: it is shown as that system left it on disk, and what the system
    /// has in memory is not seen.
    Hibernated,
    /// Left out because [`Options::replay`] is off.
    NotAsked,
    /// The log cannot be replayed: the volume is shown as it lies on disk, without its last changes.
    Refused(String),
}

impl LogOutcome {
    /// The stable word for it, used in JSON.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            LogOutcome::Closed => "clean",
            LogOutcome::Replayed { .. } => "replayed",
            LogOutcome::Hibernated => "hibernated",
            LogOutcome::NotAsked => "not-replayed",
            LogOutcome::Refused(_) => "refused",
        }
    }
}

/// A folder and a file of it that contradict each other, on a volume whose log holds changes that are not shown: the
/// two may be of different moments. The source tells the contradiction.
#[derive(Debug, thiserror::Error)]
#[error("a folder and a file may be of different moments: {}", why(*.declined))]
pub struct Unreplayed {
    /// [`Options::replay`] is off: with it the changes would be shown, or it would be known why not.
    pub declined: bool,
    #[source]
    cause: Error,
}

fn why(declined: bool) -> &'static str {
    match declined {
        true => "the log was not closed, and was not to be replayed",
        false => "the last changes of the guest are not on the disk",
    }
}

impl LogOutcome {
    /// Adds to a contradiction that it may come from the log's not being replayed.
    pub(super) fn explain(&self, err: Error) -> Error {
        let declined = match self {
            LogOutcome::Closed | LogOutcome::Replayed { .. } => return err,
            LogOutcome::NotAsked => true,
            LogOutcome::Hibernated | LogOutcome::Refused(_) => false,
        };
        match err.kind() {
            Kind::Corrupt => Error::new(Kind::Corrupt, LAYER, Unreplayed { declined, cause: err }),
            _ => err,
        }
    }
}

impl fmt::Display for LogOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogOutcome::Closed => f.write_str("the log is clean"),
            LogOutcome::Replayed { redone: 0, undone: 0 } => {
                f.write_str("the log was not closed; all changes in it are on the volume")
            }
            LogOutcome::Replayed { redone, undone } => {
                write!(f, "the log was not closed: {redone} changes replayed and {undone} taken back, in memory")
            }
            LogOutcome::Hibernated => f.write_str(
                "Windows is hibernated (or shut down with fast startup): what it holds in memory is not seen",
            ),
            LogOutcome::NotAsked => {
                f.write_str("the log was not closed and is not replayed: the last changes may be missing")
            }
            LogOutcome::Refused(why) => {
                write!(f, "the log cannot be replayed, the last changes may be missing: {why}")
            }
        }
    }
}

/// Opens `volume`, with the changes of its log when they are wanted and understood.
pub(super) fn open(volume: BlockRef, options: &Options) -> Result<Arc<Ntfs>> {
    let mft = Ntfs::read_mft(volume.clone(), options)?;
    let log = content(&mft);
    let state = log.as_ref().map_err(Error::report).and_then(|log| logfile::inspect(log).map_err(|err| err.report()));
    let outcome = match (state, &log) {
        (Ok(LogState::Dirty { .. }), _) if !options.replay => LogOutcome::NotAsked,
        (Ok(LogState::Dirty { .. }), Ok(log)) => match replayed(&mft, log, volume, options) {
            Ok(Some(fs)) => return Ok(Arc::new(fs)),
            Ok(None) => LogOutcome::Hibernated,
            Err(err) => LogOutcome::Refused(err.report()),
        },
        (Ok(LogState::Unknown), _) => LogOutcome::Refused("it is of an unknown kind, or damaged".to_owned()),
        (Ok(_), _) => LogOutcome::Closed,
        (Err(why), _) => LogOutcome::Refused(why),
    };
    let fs = Ntfs::over(mft, options)?;
    // Fast startup closes the log, and still leaves a system in the file. This only adds a note: damage on the
    // way to the file is met again by whoever reads there.
    let hibernated = outcome == LogOutcome::Closed && is_hibernated(&fs).unwrap_or(false);
    let outcome = if hibernated { LogOutcome::Hibernated } else { outcome };
    Ok(Arc::new(fs.with_log(outcome)))
}

pub(super) fn content(mft: &Mft) -> Result<BlockRef> {
    let file = system(mft, LOG_FILE)?;
    let missing = || Fault::Missing("$DATA").in_record(LOG_FILE);
    let content = file.content(kind::DATA, super::name::Utf16::default())?.ok_or_else(missing)?;
    file.plain(content, kind::DATA)
}

/// The volume as the log makes it; `None` when a hibernated system has the volume.
fn replayed(mft: &Mft, log: &BlockRef, volume: BlockRef, options: &Options) -> Result<Option<Ntfs>> {
    let geometry = &mft.geometry;
    let target = logfile::Volume { block: volume.clone(), cluster: geometry.cluster, record: geometry.record };
    let overlay = logfile::replay(&target, log)?;
    let outcome = LogOutcome::Replayed { redone: overlay.redone, undone: overlay.undone };
    let records = overlay.records().to_vec();
    let mft = Ntfs::read_mft(overlay.apply(volume)?, options)?;
    // The log may have grown the $MFT, so that only the new one knows where its records are.
    if let Some((number, _)) = records.iter().find(|&&(number, offset)| mft.place(number) != Some(offset)) {
        let text = format!("the log has MFT record {number} elsewhere: it is of another volume");
        return Err(Error::new(Kind::Unsupported, LAYER, text));
    }
    let fs = Ntfs::over(mft, options)?;
    Ok(if is_hibernated(&fs)? { None } else { Some(fs.with_log(outcome)) })
}

fn is_hibernated(fs: &Ntfs) -> Result<bool> {
    match fs.child_ignore_case(fs.root(), HIBERNATION).and_then(|(attr, _)| fs.open(attr.id, None)) {
        Ok(file) => logfile::is_hibernated(&file),
        Err(err) if matches!(err.kind(), Kind::NotFound | Kind::WrongType) => Ok(false),
        Err(err) => Err(err),
    }
}
