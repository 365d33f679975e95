//! What can be wrong with a VMFS volume.

use vcb_block::{Error, Kind};

/// Name of this layer in errors.
pub(super) const LAYER: &str = "vmfs";

/// Typed cause of an error of this layer.
#[derive(Debug, thiserror::Error)]
pub enum VmfsError {
    /// A field of an on-disk structure has a value it cannot have.
    #[error("{structure}: {field} is {found:#x}, expected {expected}")]
    Field {
        /// The structure: `LVM header`, `file descriptor`, …
        structure: &'static str,
        /// The field.
        field: &'static str,
        /// What it holds.
        found: u64,
        /// What it may hold.
        expected: String,
    },
    /// A structure is shorter than its fields.
    #[error("{0} is cut short")]
    Short(&'static str),
    /// The block is no part of a VMFS volume.
    #[error("no VMFS volume: neither an LVM header at 0x100000 nor a file system descriptor at 0x200000")]
    NotVmfs,
    /// The devices given are not the devices of one volume.
    #[error("{0}")]
    Devices(String),
    /// Two reads one after the other never gave the same bytes.
    #[error("{0} changed at every reading: a host is writing it")]
    Unstable(&'static str),
    /// What was read before is no longer what is on the volume.
    #[error("{0} changed since the file was opened; what was read from it cannot be trusted")]
    Moved(&'static str),
    /// A live host holds the file in a mode that lets it write.
    #[error("locked for writing by {0}; take a snapshot of the VM and read the frozen disk below it")]
    Held(String),
}

impl VmfsError {
    /// What of a file changed, for errors that say so.
    pub(super) fn subject(&self) -> &'static str {
        match self {
            VmfsError::Moved(what) | VmfsError::Unstable(what) => what,
            _ => "the file",
        }
    }
}

/// A field out of its range: the volume is damaged.
pub(super) fn corrupt(structure: &'static str, field: &'static str, found: u64, expected: impl Into<String>) -> Error {
    Error::corrupt(LAYER, VmfsError::Field { structure, field, found, expected: expected.into() })
}

/// A value that may be right but that we have no knowledge of.
pub(super) fn unsupported(
    structure: &'static str,
    field: &'static str,
    found: u64,
    expected: impl Into<String>,
) -> Error {
    Error::unsupported(LAYER, VmfsError::Field { structure, field, found, expected: expected.into() })
}

pub(super) fn short(structure: &'static str) -> Error {
    Error::corrupt(LAYER, VmfsError::Short(structure))
}

pub(super) fn moved(what: &'static str) -> Error {
    Error::new(Kind::Changed, LAYER, VmfsError::Moved(what))
}
