//! Numbers of a view's nodes, which are also its inode numbers.
//!
//! ```text
//!  bit 62      the folder was reached through letters/
//!  bits 48-61  volume number, 0 for the view's own folders
//!  bits 32-47  1 + index of a named stream, when streams are shown as files
//!  bits 0-31   record number (bits 0-47 when it is not a stream)
//! ```
//! The same file has the same number at every mount, which is what incremental backups compare. A volume's
//! folders have two numbers because they are reached through two parents, and a folder can have only one;
//! files and links have one number whichever way they are reached.

use vcb_block::{Error, Kind, Result};

use super::file::LAYER;

const LETTERS: u64 = 1 << 62;
const VOLUME_SHIFT: u32 = 48;
const STREAM_SHIFT: u32 = 32;
/// Volumes that fit the number. A machine has a few; partition tables allow 128 per disk.
pub(super) const MAX_VOLUME: u32 = (1 << 14) - 1;

/// Number of a node, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root folder of every view.
    pub const ROOT: NodeId = NodeId(1);

    pub(super) fn file(volume: u32, record: u64) -> NodeId {
        NodeId(u64::from(volume) << VOLUME_SHIFT | record & ((1 << VOLUME_SHIFT) - 1))
    }

    /// The node of stream number `index` (from 0) of this file.
    pub(super) fn stream(self, index: usize) -> Result<NodeId> {
        let number = u16::try_from(index + 1).ok().filter(|_| self.record() <= u64::from(u32::MAX));
        let number = number.ok_or_else(|| Error::new(Kind::Limit, LAYER, "too many streams to number them"))?;
        Ok(NodeId(self.0 & !LETTERS | u64::from(number) << STREAM_SHIFT))
    }

    /// As reached through `letters/`, when it is a folder.
    pub(super) fn through(self, letters: bool, is_dir: bool) -> NodeId {
        if letters && is_dir { NodeId(self.0 | LETTERS) } else { NodeId(self.0 & !LETTERS) }
    }

    pub(super) fn in_letters(self) -> bool {
        self.0 & LETTERS != 0
    }

    /// 0 for the view's own nodes.
    pub(super) fn volume(self) -> u32 {
        // Fourteen bits are left.
        (self.0 >> VOLUME_SHIFT & u64::from(MAX_VOLUME)) as u32
    }

    pub(super) fn record(self) -> u64 {
        self.0 & ((1 << VOLUME_SHIFT) - 1)
    }

    /// When streams are shown as files: record and stream index (from 0), if it is a stream.
    pub(super) fn split_stream(self) -> (u64, Option<usize>) {
        let record = self.record();
        match record >> STREAM_SHIFT {
            0 => (record, None),
            number => (record & u64::from(u32::MAX), Some(number as usize - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        let file = NodeId::file(3, 0x1234_5678);
        assert_eq!(file.0, 3 << 48 | 0x1234_5678);
        let stream = file.stream(6).unwrap();
        assert_eq!((stream.volume(), stream.split_stream()), (3, (0x1234_5678, Some(6))));
        let dir = file.through(true, true);
        assert!(dir.in_letters() && dir != file && dir.through(false, true) == file);
        assert_eq!(file.through(true, false), file);
        assert!(file.stream(0xFFFF).is_err());
        assert!(NodeId::file(1, 1 << 33).stream(0).is_err());
    }
}
