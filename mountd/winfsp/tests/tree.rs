//! The rules that Windows expects, against a small view made for the purpose.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::sync::Arc;

use vcb_block::{BlockRef, Error, Fault, FaultBlock, Kind, MemBlock, Result};
use vcb_fs::{Attr, FileId, FileType, FsStats, Name, NameBuf, Stream, Time, Unreadable};
use vcb_mountd::view::{Entry, Node, NodeId, Note, View};
use vcb_winfsp::status::{Status, status_of};
use vcb_winfsp::tree::Tree;

const DIR: NodeId = NodeId(10);
const FILE: NodeId = NodeId(11);
const LINK: NodeId = NodeId(12);
const CLOUD: NodeId = NodeId(13);
const BROKEN: NodeId = NodeId(14);
const TWIN: NodeId = NodeId(15);

/// `\Dir` holds these; `Read Me.txt` has a stream `s1`.
const NAMES: [(&[u8], NodeId); 5] =
    [(b"Read Me.txt", FILE), (b"READ ME.TXT", TWIN), (b"link", LINK), (b"cloud", CLOUD), (b"broken.", BROKEN)];

struct Small;

fn not_found() -> Error {
    Error::new(Kind::NotFound, "test", "no such name")
}

impl Small {
    fn find(&self, dir: NodeId, name: &Name, same: impl Fn(&[u8], &[u8]) -> bool) -> Result<Node> {
        let inside = NAMES.iter().find(|(known, _)| dir == DIR && same(known, name)).map(|(_, id)| *id);
        let top = (dir == NodeId::ROOT && same(b"Dir", name)).then_some(DIR);
        let id = top.or(inside).ok_or_else(not_found)?;
        Ok(Node { id, attr: self.attr(id)? })
    }
}

impl View for Small {
    fn lookup(&self, dir: NodeId, name: &Name) -> Result<Node> {
        self.find(dir, name, |a, b| a == b)
    }
    fn lookup_ignore_case(&self, dir: NodeId, name: &Name) -> Result<Node> {
        self.find(dir, name, <[u8]>::eq_ignore_ascii_case)
    }
    fn attr(&self, node: NodeId) -> Result<Attr> {
        let kind = match node {
            NodeId::ROOT | DIR => FileType::Dir,
            LINK => FileType::Symlink,
            _ => FileType::File,
        };
        let cloud = node == CLOUD;
        Ok(Attr {
            id: FileId(node.0),
            kind,
            size: if node == FILE { 5 } else { 9 },
            allocated: 4096,
            links: 1,
            modified: Time(2),
            changed: Time(3),
            accessed: Time(4),
            created: Time(1),
            // ARCHIVE, and for the placeholder RECALL_ON_DATA_ACCESS too.
            dos: if cloud { 0x40_0020 } else { 0x20 },
            reparse_tag: if cloud { 0x9000_001A } else { 0 },
            case_sensitive: false,
            unreadable: cloud.then_some(Unreadable::CloudPlaceholder { tag: 0x9000_001A }),
        })
    }
    fn read_dir(
        &self,
        dir: NodeId,
        cookie: u64,
        with_attr: bool,
        each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<()> {
        assert_eq!(dir, DIR);
        for (index, (name, node)) in NAMES.iter().enumerate().skip(cookie as usize) {
            let attr = self.attr(*node)?;
            let (kind, next) = (attr.kind, index as u64 + 1);
            let entry = Entry { name: name.to_vec(), node: *node, kind, attr: with_attr.then_some(Ok(attr)), next };
            if each(entry).is_break() {
                break;
            }
        }
        Ok(())
    }
    fn parent(&self, _: NodeId) -> Result<NodeId> {
        Ok(NodeId::ROOT)
    }
    fn open(&self, node: NodeId) -> Result<BlockRef> {
        let bytes: BlockRef = Arc::new(MemBlock::new(b"hello".to_vec()));
        match node {
            FILE | TWIN => Ok(bytes),
            BROKEN => Ok(Arc::new(FaultBlock::at(bytes, 1, Fault::EioForever))),
            CLOUD => Err(Error::unsupported("test", "not on this volume")),
            _ => Err(Error::new(Kind::WrongType, "test", "no content")),
        }
    }
    fn read_link(&self, _: NodeId) -> Result<NameBuf> {
        Ok(b"../other/file".to_vec())
    }
    fn xattr_names(&self, _: NodeId) -> Result<Vec<NameBuf>> {
        Ok(Vec::new())
    }
    fn xattr(&self, _: NodeId, _: &Name) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn streams(&self, node: NodeId) -> Result<Vec<Stream>> {
        Ok(if node == FILE { vec![Stream { name: b"s1".to_vec(), size: 3 }] } else { Vec::new() })
    }
    fn open_stream(&self, node: NodeId, stream: &Name) -> Result<BlockRef> {
        if node == FILE && stream == b"s1" { Ok(Arc::new(MemBlock::new(b"abc".to_vec()))) } else { Err(not_found()) }
    }
    fn reparse(&self, node: NodeId) -> Result<Option<(u32, Vec<u8>)>> {
        Ok((node == CLOUD).then(|| (0x9000_001A, vec![7, 7])))
    }
    fn stats(&self) -> Result<FsStats> {
        Ok(FsStats { cluster_size: 4096, clusters: 10, free_clusters: 4, files: 5 })
    }
    fn path(&self, node: NodeId) -> String {
        format!("{node:?}")
    }
    fn notes(&self) -> Vec<Note> {
        Vec::new()
    }
    fn has_host_files(&self) -> bool {
        false
    }
}

fn tree() -> Tree {
    Tree::new(Arc::new(Small))
}

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

fn status(path: &str) -> Status {
    tree().open(&wide(path)).err().unwrap()
}

#[test]
fn names_are_found_in_any_case_and_the_exact_one_wins() {
    let node = |path: &str| tree().open(&wide(path)).unwrap().node;
    assert_eq!(node(r"\DIR\read me.TXT"), FILE);
    assert_eq!(node(r"\dir\READ ME.TXT"), TWIN);
    assert_eq!(node(r"\"), NodeId::ROOT);
    // The dot at the end is shown as a private-use character, and found by it.
    assert_eq!(node("\\Dir\\broken\u{F02E}"), BROKEN);
}

#[test]
fn what_is_missing_says_which_part() {
    assert_eq!(status(r"\Dir\nothing"), Status::NAME_NOT_FOUND);
    assert_eq!(status(r"\nothing\file"), Status::PATH_NOT_FOUND);
    assert_eq!(status(r"\Dir\Read Me.txt\below"), Status::PATH_NOT_FOUND);
    assert_eq!(status(r"\Dir\Read Me.txt:none"), Status::NAME_NOT_FOUND);
}

#[test]
fn reads_end_at_the_end_and_fail_where_they_fail() {
    let tree = tree();
    let file = tree.open(&wide(r"\Dir\Read Me.txt")).unwrap();
    let mut buf = [0; 8];
    assert_eq!(tree.read(&file, &mut buf, 0), Ok(5));
    assert_eq!(&buf[..5], b"hello");
    assert_eq!(tree.read(&file, &mut buf, 4), Ok(1));
    assert_eq!(tree.read(&file, &mut buf, 5), Err(Status::END_OF_FILE));
    let broken = tree.open(&wide("\\Dir\\broken\u{F02E}")).unwrap();
    assert_eq!(tree.read(&broken, &mut buf, 0), Err(status_of(Kind::Io)));
    // A placeholder opens, so that its attributes can be had, and its content fails for what it is.
    let cloud = tree.open(&wide(r"\Dir\cloud")).unwrap();
    assert_eq!(tree.read(&cloud, &mut buf, 0), Err(status_of(Kind::Unsupported)));
    let dir = tree.open(&wide(r"\Dir")).unwrap();
    assert_eq!(tree.read(&dir, &mut buf, 0), Err(status_of(Kind::WrongType)));
}

#[test]
fn streams_open_behind_a_colon() {
    let tree = tree();
    for path in [r"\Dir\Read Me.txt:s1", r"\Dir\Read Me.txt:s1:$DATA"] {
        let stream = tree.open(&wide(path)).unwrap();
        let mut buf = [0; 8];
        assert_eq!((stream.info.size, tree.read(&stream, &mut buf, 0)), (3, Ok(3)));
    }
    let unnamed = tree.open(&wide(r"\Dir\Read Me.txt::$DATA")).unwrap();
    assert_eq!(unnamed.info.size, 5);
    let names: Vec<_> = tree.streams(&unnamed).unwrap().into_iter().map(|s| (s.name, s.size)).collect();
    assert_eq!(names, [(Vec::new(), 5), (wide("s1"), 3)]);
}

#[test]
fn folders_list_everything_once_with_dots_first() {
    let tree = tree();
    let dir = tree.open(&wide(r"\Dir")).unwrap();
    let (mut names, mut attributes) = (Vec::new(), Vec::new());
    tree.entries(&dir, &mut |entry| {
        names.push(String::from_utf16(&entry.name).unwrap());
        attributes.push(entry.info.attributes);
        Ok(())
    })
    .unwrap();
    assert_eq!(names, [".", "..", "Read Me.txt", "READ ME.TXT", "link", "cloud", "broken\u{F02E}"]);
    assert_eq!(attributes[0] & 0x10, 0x10);
    assert_eq!(attributes[4] & 0x400, 0x400, "a link is a reparse point");
    assert_eq!(attributes[5], 0x420, "a placeholder is one too, and asks nobody to recall it");
    let file = tree.open(&wide(r"\Dir\link")).unwrap();
    assert_eq!(tree.entries(&file, &mut |_| Ok(())), Err(Status::NOT_A_DIRECTORY));
}

#[test]
fn translated_links_are_relative_symbolic_links_and_others_keep_their_data() {
    let tree = tree();
    let text: Vec<u8> = wide(r"..\other\file").iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let len = text.len() as u16;
    let mut expected = 0xA000_000Cu32.to_le_bytes().to_vec();
    expected.extend((12 + 2 * len).to_le_bytes());
    expected.extend([0, 0]);
    for field in [0, len, len, len] {
        expected.extend(u16::to_le_bytes(field));
    }
    expected.extend(1u32.to_le_bytes());
    expected.extend_from_slice(&text);
    expected.extend_from_slice(&text);
    assert_eq!(tree.reparse(LINK).unwrap(), expected);
    assert_eq!(tree.reparse(CLOUD).unwrap(), [0x1A, 0, 0, 0x90, 2, 0, 0, 0, 7, 7]);
    assert_eq!(tree.reparse(FILE), Err(Status::NOT_A_REPARSE_POINT));
}

#[test]
fn times_and_ids_are_the_guests_own() {
    let info = tree().open(&wide(r"\Dir\Read Me.txt")).unwrap().info;
    assert_eq!((info.created, info.written, info.changed, info.accessed), (1, 2, 3, 4));
    assert_eq!((info.index, info.links, info.allocated, info.attributes), (FILE.0, 1, 4096, 0x20));
    assert_eq!(tree().totals(), Ok((40960, 16384)));
}
