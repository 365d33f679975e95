//! The errno of every kind of failure.

use fuser::Errno;
use vcb_block::Kind;

/// What a failed lookup answers. There is no arm for "the rest": a new kind has to be thought about here.
pub(super) fn of_lookup(kind: Kind) -> Errno {
    match kind {
        Kind::NotFound => Errno::ENOENT,
        // The kernel checks types against what it was told, so this is met only by who was told otherwise.
        Kind::WrongType => Errno::ENOTDIR,
        // What the storage refuses stays distinguishable from what is broken.
        Kind::Denied | Kind::Forbidden => Errno::EACCES,
        // Backup software passes over EBUSY or ENOTSUP quietly in places. Data that is there but cannot be
        // had is an input/output error to it and nothing else.
        Kind::Io | Kind::Corrupt | Kind::Unsupported | Kind::OutOfRange | Kind::Busy | Kind::Changed | Kind::Limit => {
            Errno::EIO
        }
    }
}

/// What any other failed request answers: the file is there, the kernel holds its node, so that something
/// was not found on the way to it is damage and not absence.
pub(super) fn of(kind: Kind) -> Errno {
    match kind {
        Kind::NotFound => Errno::EIO,
        other => of_lookup(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absence_is_only_ever_absence() {
        let all = [
            (Kind::Io, Errno::EIO),
            (Kind::Corrupt, Errno::EIO),
            (Kind::Unsupported, Errno::EIO),
            (Kind::OutOfRange, Errno::EIO),
            (Kind::NotFound, Errno::EIO),
            (Kind::Forbidden, Errno::EACCES),
            (Kind::Denied, Errno::EACCES),
            (Kind::Busy, Errno::EIO),
            (Kind::Changed, Errno::EIO),
            (Kind::Limit, Errno::EIO),
            (Kind::WrongType, Errno::ENOTDIR),
        ];
        for (kind, errno) in all {
            assert_eq!(of(kind).code(), errno.code(), "{kind}");
            let looked = if kind == Kind::NotFound { Errno::ENOENT } else { errno };
            assert_eq!(of_lookup(kind).code(), looked.code(), "{kind}");
        }
    }
}
