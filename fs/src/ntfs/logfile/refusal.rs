//! Why a log is not replayed.

use vcb_block::Error;

use super::LAYER;

/// The cause of an `Unsupported` error of a replay. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The restart pages or the log as a whole.
    #[error("{0}")]
    Log(&'static str),
    /// A log page that is needed and not there.
    #[error("no valid copy of the log page at {offset:#x} holds LSN {lsn:#x}")]
    Page {
        /// Offset of the page in the log.
        offset: u64,
        /// The record looked for.
        lsn: u64,
    },
    /// A record, or a structure in it.
    #[error("the record at LSN {lsn:#x}: {why}")]
    Record {
        /// Its log sequence number.
        lsn: u64,
        /// What is wrong or not known.
        why: &'static str,
    },
    /// An operation that is not replayed.
    #[error("the record at LSN {lsn:#x} holds operation {operation:#x}, which is not replayed")]
    Operation {
        /// Its log sequence number.
        lsn: u64,
        /// The operation's number.
        operation: u16,
    },
    /// A limit that protects from hostile input.
    #[error("{what} passes the {limit} allowed")]
    Limit {
        /// Of what.
        what: &'static str,
        /// Highest allowed.
        limit: u64,
    },
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::unsupported(LAYER, refusal)
    }
}

/// Shorthand for [`Refusal::Record`].
pub(super) fn refuse(lsn: u64, why: &'static str) -> Refusal {
    Refusal::Record { lsn, why }
}
