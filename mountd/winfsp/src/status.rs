//! The one table from kinds of failure to NTSTATUS values, sibling of the FUSE front end's errno table.
//!
//! No kind becomes "end of file", and only a name that is really absent becomes "not found".

use vcb_block::Kind;

/// An NTSTATUS value, as its 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    /// STATUS_OBJECT_NAME_NOT_FOUND
    pub const NAME_NOT_FOUND: Status = Status(0xC000_0034);
    /// STATUS_OBJECT_PATH_NOT_FOUND: a folder on the way is absent.
    pub const PATH_NOT_FOUND: Status = Status(0xC000_003A);
    /// STATUS_END_OF_FILE: only ever for a read that starts at or after the end.
    pub const END_OF_FILE: Status = Status(0xC000_0011);
    /// STATUS_MEDIA_WRITE_PROTECTED: any attempt to change something.
    pub const WRITE_PROTECTED: Status = Status(0xC000_00A2);
    /// STATUS_FILE_IS_A_DIRECTORY
    pub const FILE_IS_A_DIRECTORY: Status = Status(0xC000_00BA);
    /// STATUS_INVALID_DEVICE_REQUEST
    pub const INVALID_DEVICE_REQUEST: Status = Status(0xC000_0010);
    /// STATUS_NOT_A_DIRECTORY
    pub const NOT_A_DIRECTORY: Status = Status(0xC000_0103);
    /// STATUS_NOT_A_REPARSE_POINT
    pub const NOT_A_REPARSE_POINT: Status = Status(0xC000_0275);
    /// STATUS_BUFFER_TOO_SMALL
    pub const BUFFER_TOO_SMALL: Status = Status(0xC000_0023);
    /// STATUS_BUFFER_OVERFLOW: the buffer is too small, and the needed length is returned with it.
    pub const BUFFER_OVERFLOW: Status = Status(0x8000_0005);
    /// STATUS_INTERNAL_ERROR: a defect of ours, caught before it could end the process.
    pub const INTERNAL_ERROR: Status = Status(0xC000_00E5);
    /// STATUS_IO_DEVICE_ERROR
    pub const IO_DEVICE_ERROR: Status = Status(0xC000_0185);
}

/// The status of a failed lookup. Exhaustive: a new kind does not compile until it has its row.
#[must_use]
pub fn status_of_lookup(kind: Kind) -> Status {
    match kind {
        Kind::NotFound => Status::NAME_NOT_FOUND,
        Kind::Io => Status::IO_DEVICE_ERROR,
        // STATUS_FILE_CORRUPT_ERROR: what NTFS itself answers for damaged structures.
        Kind::Corrupt => Status(0xC000_0102),
        // Copying programs pass over STATUS_NOT_SUPPORTED and STATUS_SHARING_VIOLATION quietly in places. Data
        // that is there but cannot be had is a failure of the device to them and nothing else.
        Kind::Unsupported | Kind::Busy => Status::IO_DEVICE_ERROR,
        // Never END_OF_FILE: a layer asked for what is not there, which is a failure and no end.
        Kind::OutOfRange => Status::IO_DEVICE_ERROR,
        // STATUS_ACCESS_DENIED
        Kind::Forbidden | Kind::Denied => Status(0xC000_0022),
        // STATUS_FILE_INVALID: "the volume for a file has been externally altered".
        Kind::Changed => Status(0xC000_0098),
        // STATUS_INSUFFICIENT_RESOURCES
        Kind::Limit => Status(0xC000_009A),
        Kind::WrongType => Status::FILE_IS_A_DIRECTORY,
    }
}

/// The status of any other failed request: the file is there, Windows holds it open, so that something was not
/// found on the way to it is damage and not absence.
#[must_use]
pub fn status_of(kind: Kind) -> Status {
    match kind {
        Kind::NotFound => Status::IO_DEVICE_ERROR,
        other => status_of_lookup(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_failure_looks_like_an_end_or_like_success() {
        use Kind::{Busy, Changed, Corrupt, Denied, Forbidden, Io, Limit, OutOfRange, Unsupported, WrongType};
        for kind in [Io, Corrupt, Unsupported, OutOfRange, Forbidden, Denied, Busy, Changed, Limit, WrongType] {
            let status = status_of(kind);
            assert_eq!(status, status_of_lookup(kind));
            assert!(status.0 >= 0xC000_0000, "{kind:?} is not an error");
            assert!(
                ![Status::END_OF_FILE, Status::NAME_NOT_FOUND, Status::PATH_NOT_FOUND].contains(&status),
                "{kind:?}"
            );
        }
        assert_eq!(status_of_lookup(Kind::NotFound), Status::NAME_NOT_FOUND);
        assert_eq!(status_of(Kind::NotFound), Status::IO_DEVICE_ERROR, "absence is only ever absence");
    }
}
