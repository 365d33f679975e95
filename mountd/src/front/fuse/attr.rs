//! Attributes as Linux has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};
use vcb_fs::{Attr, Time};

use crate::view::NodeId;

/// `FILE_ATTRIBUTE_READONLY`.
const READONLY: u32 = 1;
/// What `stat` suggests for the size of reads: one request of the kernel's usual readahead.
const BLOCK_SIZE: u32 = 128 << 10;

/// Owner and permissions of everything in a mount.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) file_mode: u32,
    pub(super) dir_mode: u32,
}

impl Owner {
    /// `attr` of `node` in the kernel's terms.
    pub(super) fn attr(&self, node: NodeId, attr: &Attr) -> FileAttr {
        let kind = kind_of(attr.kind);
        let mode = match kind {
            FileType::Directory => self.dir_mode,
            FileType::Symlink => 0o777,
            // On folders READONLY does not mean that nothing can be written into them.
            _ if attr.dos & READONLY != 0 => self.file_mode & !0o222,
            _ => self.file_mode,
        };
        FileAttr {
            ino: INodeNo(node.0),
            size: attr.size,
            blocks: attr.allocated.div_ceil(512),
            atime: system_time(attr.accessed),
            mtime: system_time(attr.modified),
            ctime: system_time(attr.changed),
            crtime: system_time(attr.created),
            kind,
            // Permission bits, of which there are twelve.
            perm: (mode & 0o7777) as u16,
            nlink: attr.links.max(1),
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: BLOCK_SIZE,
            flags: 0,
        }
    }
}

/// What has no content here is shown as a file whose reading fails.
pub(super) fn kind_of(kind: vcb_fs::FileType) -> FileType {
    match kind {
        vcb_fs::FileType::Dir => FileType::Directory,
        vcb_fs::FileType::Symlink => FileType::Symlink,
        vcb_fs::FileType::File | vcb_fs::FileType::Other => FileType::RegularFile,
    }
}

fn system_time(time: Time) -> SystemTime {
    let (seconds, nanos) = time.unix();
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|base| base.checked_add(Duration::from_nanos(u64::from(nanos)))).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::FakeFs;
    use vcb_fs::Filesystem as _;

    #[test]
    fn times_before_1970_keep_their_fraction() {
        let time = system_time(Time(116_444_736_000_000_000 - 1));
        assert_eq!(UNIX_EPOCH.duration_since(time).unwrap(), Duration::from_nanos(100));
    }

    #[test]
    fn read_only_files_lose_their_write_bits() {
        let mut fs = FakeFs::new();
        let file = fs.file("a", vec![0; 10]);
        fs.read_only(file);
        let owner = Owner { uid: 3, gid: 4, file_mode: 0o640, dir_mode: 0o750 };
        let attr = fs.attr(fs.by_record(file).unwrap()).unwrap();
        let shown = owner.attr(NodeId(9), &attr);
        assert_eq!((shown.perm, shown.uid, shown.gid, shown.blocks, shown.ino.0), (0o440, 3, 4, 8, 9));
        let root = owner.attr(NodeId(1), &fs.attr(fs.root()).unwrap());
        assert_eq!((root.perm, root.kind), (0o750, FileType::Directory));
    }
}
