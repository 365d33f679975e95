//! When to run ahead, and how far: what can be told from the READs that still arrive.
//!
//! Files in the kernel's cache are read without our knowing, so one file in the middle of every window is left
//! out: its READ says that the reader goes on, and fetches the next window while the reader has half a one left.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::view::NodeId;

/// Folders in which readers are followed at once.
const FOLDERS: NonZeroUsize = NonZeroUsize::new(16).unwrap();
/// READs remembered, so that what was just read is not stored.
const RECENT: usize = 64;
/// Files and bytes of the first window. Each time that a reader went on, windows double.
const FIRST_FILES: usize = 32;
const FIRST_BYTES: u64 = 512 << 10;
/// How often they double: to 512 files or 8 MiB, which is all that can be fetched in vain.
const MOST_TRUST: u32 = 4;
/// READs that are neither expected nor explained, after which a reader is looked for where he is.
const STRAYS: u32 = 4;
/// Looking takes a pass over the folder's names: how often it is done for a reader who does not go on.
const SEARCHES: u32 = 3;

/// Part of a folder to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) dir: NodeId,
    pub(super) from: From,
    /// Most files.
    pub(super) files: usize,
    /// Most bytes.
    pub(super) bytes: u64,
}

/// Where a window begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// After this file; where it is, is not known.
    File(NodeId),
    /// After this position of the listing.
    Position(u64),
}

/// A reader in a folder.
#[derive(Debug)]
struct Reader {
    last: NodeId,
    goes: Goes,
    strays: u32,
    searches: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Goes {
    /// One READ: may be all that is wanted of this folder.
    Unknown,
    /// A window is being listed.
    Fetching,
    /// The file whose READ says that he goes on, and the position after the window; `None` at the end.
    On { marker: NodeId, next: Option<u64> },
    /// To the end, for all we know.
    Done,
    /// In an order of his own.
    Lost,
}

/// What is known about readers.
pub(super) struct Policy {
    readers: LruCache<NodeId, Reader>,
    recent: VecDeque<NodeId>,
    /// How often, lately, readers went on.
    trust: u32,
    /// The folder last entered, until its reader has gone on.
    entered: Option<NodeId>,
}

impl Default for Policy {
    fn default() -> Self {
        let recent = VecDeque::with_capacity(RECENT);
        Policy { readers: LruCache::new(FOLDERS), recent, trust: 0, entered: None }
    }
}

impl Policy {
    /// Notes a READ of small file `node` in folder `dir`. Gives what is to be fetched because of it.
    pub(super) fn read(&mut self, dir: NodeId, node: NodeId) -> Option<Window> {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(node);
        let Some(reader) = self.readers.get_mut(&dir) else {
            return self.enter(dir, node);
        };
        let again = std::mem::replace(&mut reader.last, node) == node;
        let from = match reader.goes {
            Goes::On { marker, next } if marker == node => {
                self.trust = MOST_TRUST.min(self.trust + 1);
                self.entered = self.entered.filter(|&entered| entered != dir);
                reader.searches = 0;
                match next {
                    Some(next) => From::Position(next),
                    None => {
                        reader.goes = Goes::Done;
                        return None;
                    }
                }
            }
            Goes::Unknown if !again => From::File(node),
            Goes::Unknown | Goes::Fetching | Goes::Lost => return None,
            Goes::On { .. } | Goes::Done => {
                reader.strays += 1;
                if reader.strays < STRAYS {
                    return None;
                }
                self.trust = 0;
                if reader.searches == SEARCHES {
                    reader.goes = Goes::Lost;
                    return None;
                }
                reader.searches += 1;
                From::File(node)
            }
        };
        (reader.goes, reader.strays) = (Goes::Fetching, 0);
        Some(self.window(dir, from))
    }

    /// The first READ in a folder. Who went through the ones before is trusted to go through this one.
    fn enter(&mut self, dir: NodeId, node: NodeId) -> Option<Window> {
        if self.entered.replace(dir).is_some() {
            self.trust = self.trust.saturating_sub(1);
        }
        let goes = if self.trust > 0 { Goes::Fetching } else { Goes::Unknown };
        self.readers.put(dir, Reader { last: node, goes, strays: 0, searches: 0 });
        (self.trust > 0).then(|| self.window(dir, From::File(node)))
    }

    fn window(&self, dir: NodeId, from: From) -> Window {
        Window { dir, from, files: FIRST_FILES << self.trust, bytes: FIRST_BYTES << self.trust }
    }

    /// Notes what a window turned out to be: the file left out of it, and where it ends unless at the end of the
    /// folder.
    pub(super) fn listed(&mut self, dir: NodeId, marker: Option<NodeId>, next: Option<u64>) {
        if marker.is_none() {
            // Too few files to tell anything from.
            self.entered = self.entered.filter(|&entered| entered != dir);
        }
        if let Some(reader) = self.readers.get_mut(&dir).filter(|reader| reader.goes == Goes::Fetching) {
            reader.goes = marker.map_or(Goes::Done, |marker| Goes::On { marker, next });
        }
    }

    /// True when `node` was just read.
    pub(super) fn was_read(&self, node: NodeId) -> bool {
        self.recent.contains(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn file(number: u64) -> NodeId {
        NodeId(100 + number)
    }

    #[test]
    fn one_file_of_a_folder_is_no_reason() {
        let mut policy = Policy::default();
        for dir in 1..100 {
            assert_eq!(policy.read(NodeId(dir), file(dir)), None);
            assert_eq!(policy.read(NodeId(dir), file(dir)), None, "the same file again");
        }
    }

    #[test]
    fn windows_grow_while_the_reader_goes_on_and_follow_him_into_folders() {
        let mut policy = Policy::default();
        assert_eq!(policy.read(A, file(1)), None);
        let first = policy.read(A, file(2)).unwrap();
        assert_eq!((first.from, first.files, first.bytes), (From::File(file(2)), FIRST_FILES, FIRST_BYTES));
        // What is read while the window is listed changes nothing.
        assert_eq!(policy.read(A, file(3)), None);
        for round in 1..10 {
            policy.listed(A, Some(file(100 * round)), Some(round));
            let window = policy.read(A, file(100 * round)).unwrap();
            let doubled = MOST_TRUST.min(round as u32);
            assert_eq!((window.from, window.files), (From::Position(round), FIRST_FILES << doubled));
        }
        policy.listed(A, Some(file(5)), None);
        assert_eq!(policy.read(A, file(5)), None);
        let next = policy.read(B, file(6)).unwrap();
        assert_eq!((next.dir, next.from, next.files), (B, From::File(file(6)), FIRST_FILES << MOST_TRUST));
    }

    #[test]
    fn trust_is_lost_by_not_going_on() {
        let mut policy = Policy { trust: MOST_TRUST, ..Policy::default() };
        let fetched = (1..100).filter(|&dir| {
            let window = policy.read(NodeId(dir), file(dir));
            policy.listed(NodeId(dir), Some(file(1000)), None);
            window.is_some()
        });
        assert_eq!(fetched.count() as u32, MOST_TRUST);
    }

    #[test]
    fn a_reader_elsewhere_in_the_folder_is_found_again() {
        let mut policy = Policy::default();
        policy.read(A, file(1));
        policy.read(A, file(2)).unwrap();
        policy.listed(A, Some(file(20)), Some(40));
        let windows: Vec<_> = (50..60).filter_map(|number| policy.read(A, file(number))).collect();
        assert_eq!(windows.len(), 1);
        assert_eq!((windows[0].from, windows[0].files), (From::File(file(49 + u64::from(STRAYS))), FIRST_FILES));
    }

    #[test]
    fn a_reader_without_order_is_not_looked_for_for_ever() {
        let mut policy = Policy::default();
        let searched = (0..10_000).filter(|number| {
            let window = policy.read(A, file(number * 7919 % 10_007));
            policy.listed(A, Some(file(20_000)), Some(1));
            window.is_some()
        });
        assert_eq!(searched.count() as u32, SEARCHES + 1);
    }
}
