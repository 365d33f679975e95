//! Typed causes of NTFS failures: what is wrong ([`Fault`]) and in which structure ([`Place`]).

use std::fmt;

use vcb_block::{Error, Kind};

/// Layer name in errors.
pub(super) const LAYER: &str = "ntfs";

/// The cause of an error of this layer, reachable through [`vcb_block::Error::cause`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {fault}")]
pub struct NtfsError {
    /// The structure concerned.
    pub place: Place,
    /// What is wrong with it.
    pub fault: Fault,
}

/// A structure of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The boot sector.
    Boot,
    /// A record of the $MFT, by number.
    Record(u64),
    /// A block of an index.
    Index {
        /// Record number of the file that owns the index.
        record: u64,
        /// Byte offset of the block in the index allocation; `None` is the index root.
        block: Option<u64>,
    },
    /// The entry of a security id in $Secure.
    Security(u32),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Boot => f.write_str("boot sector"),
            Place::Record(record) => write!(f, "MFT record {record}"),
            Place::Index { record, block: None } => write!(f, "index root of MFT record {record}"),
            Place::Index { record, block: Some(block) } => write!(f, "index block {block:#x} of MFT record {record}"),
            Place::Security(id) => write!(f, "security id {id}"),
        }
    }
}

/// What is wrong with a structure, or why it is not read. Offsets are bytes from the structure's start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The signature is not the expected one.
    #[error("signature is {found:02x?}, not {expected:?}")]
    Signature {
        /// First bytes found.
        found: [u8; 4],
        /// What should be there.
        expected: &'static str,
    },
    /// A field has a value that it cannot have.
    #[error("{field} is {value:#x}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The structure ends before a field it must have.
    #[error("ends before its {0}")]
    Short(&'static str),
    /// The sectors of one structure are of different writes.
    #[error("torn write: sector {sector} ends in {found:#06x}, not {expected:#06x}")]
    Torn {
        /// Index of the 512-byte sector in the structure.
        sector: usize,
        /// The two bytes found at its end.
        found: u16,
        /// The update sequence number.
        expected: u16,
    },
    /// An attribute contradicts its record.
    #[error("attribute at {offset:#x}: {what}")]
    Attribute {
        /// Offset in the record.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// The run list of an attribute cannot be decoded.
    #[error("run list: {0}")]
    Runs(&'static str),
    /// A run lies outside the volume.
    #[error("run of {len} clusters at cluster {lcn} passes the end of the volume at {clusters}")]
    RunOutside {
        /// First cluster.
        lcn: u64,
        /// Clusters in the run.
        len: u64,
        /// Clusters of the volume.
        clusters: u64,
    },
    /// A part of an attribute is missing between two others.
    #[error("attribute {kind:#x} has no part at VCN {vcn}")]
    Gap {
        /// Attribute type.
        kind: u32,
        /// First cluster that no part describes.
        vcn: u64,
    },
    /// The content is longer than what is allocated to it.
    #[error("attribute {kind:#x} of {size} bytes has only {allocated} allocated")]
    Unallocated {
        /// Attribute type.
        kind: u32,
        /// Length in bytes.
        size: u64,
        /// Bytes allocated.
        allocated: u64,
    },
    /// The attribute list names an attribute that is not there.
    #[error("attribute {kind:#x} at VCN {vcn} is listed in record {record} but is not there")]
    Unlisted {
        /// Attribute type.
        kind: u32,
        /// Its lowest VCN.
        vcn: u64,
        /// Where it should be.
        record: u64,
    },
    /// An attribute that must exist does not.
    #[error("has no {0}")]
    Missing(&'static str),
    /// An attribute that may exist once exists twice.
    #[error("has more than one {0}")]
    Twice(&'static str),
    /// The record is past the end of the $MFT.
    #[error("past the end of the $MFT, which has {0} records")]
    OutsideMft(u64),
    /// A reference points to a record that is not in use.
    #[error("not in use, yet referred to")]
    NotInUse,
    /// A reference is to an earlier or later user of the record.
    #[error("sequence number is {found}, the reference says {expected}")]
    Sequence {
        /// Of the record.
        found: u16,
        /// Of the reference.
        expected: u16,
    },
    /// An extension record does not belong to the file that refers to it, or a file is one.
    #[error("base record is {found:#x}, not {expected:#x}")]
    Base {
        /// Reference found.
        found: u64,
        /// Reference expected.
        expected: u64,
    },
    /// An index entry contradicts its block.
    #[error("index entry at {offset:#x}: {what}")]
    Entry {
        /// Offset in the index node.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// A child node that is free or outside the index.
    #[error("child node {0} is not part of the index")]
    Child(u64),
    /// A checksum or a stored copy of a value differs.
    #[error("{0} does not match")]
    Mismatch(&'static str),
    /// A limit that protects from hostile input.
    #[error("{what} is {value}, more than the {limit} allowed")]
    Limit {
        /// Of what.
        what: &'static str,
        /// Value found.
        value: u64,
        /// Highest allowed.
        limit: u64,
    },
    /// Understood, and known not to be readable here.
    #[error("{0}")]
    Unsupported(String),
}

impl Fault {
    fn kind(&self) -> Kind {
        match self {
            Fault::Limit { .. } => Kind::Limit,
            Fault::Unsupported(_) => Kind::Unsupported,
            _ => Kind::Corrupt,
        }
    }

    /// The public error for this fault in `place`.
    pub(super) fn at(self, place: Place) -> Error {
        Error::new(self.kind(), LAYER, NtfsError { place, fault: self })
    }

    /// Shorthand for a fault in a record.
    pub(super) fn in_record(self, record: u64) -> Error {
        self.at(Place::Record(record))
    }
}
