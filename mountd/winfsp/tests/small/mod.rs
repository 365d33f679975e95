//! A small view, made for tests.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::ops::ControlFlow;
use std::sync::Arc;

use vcb_block::{BlockRef, Error, Fault, FaultBlock, Kind, MemBlock, Result};
use vcb_fs::{Attr, FileId, FileType, FsStats, Name, NameBuf, Stream, Time, Unreadable};
use vcb_mountd::view::{Entry, Node, NodeId, Note, View, VolumeName};

pub const DIR: NodeId = NodeId(10);
pub const FILE: NodeId = NodeId(11);
pub const LINK: NodeId = NodeId(12);
pub const CLOUD: NodeId = NodeId(13);
pub const BROKEN: NodeId = NodeId(14);
pub const TWIN: NodeId = NodeId(15);
pub const PANICS: NodeId = NodeId(16);
/// A folder that cannot be read to its end.
pub const TORN: NodeId = NodeId(17);

/// `\Dir` holds these; `Read Me.txt` has a stream `s1`.
const NAMES: [(&[u8], NodeId); 6] = [
    (b"Read Me.txt", FILE),
    (b"READ ME.TXT", TWIN),
    (b"link", LINK),
    (b"cloud", CLOUD),
    (b"broken.", BROKEN),
    (b"panics", PANICS),
];

#[derive(Default)]
pub struct Small {
    /// What the view says that it stands for.
    pub volume: Option<VolumeName>,
}

/// Content whose reading is a defect.
struct Panics;

impl vcb_block::Block for Panics {
    fn len(&self) -> u64 {
        9
    }
    fn read_at(&self, _: &mut [u8], _: u64) -> Result<()> {
        panic!("a defect, for the test")
    }
}

fn not_found() -> Error {
    Error::new(Kind::NotFound, "test", "no such name")
}

impl Small {
    fn find(&self, dir: NodeId, name: &Name, same: impl Fn(&[u8], &[u8]) -> bool) -> Result<Node> {
        let names: &[(&[u8], NodeId)] = match dir {
            NodeId::ROOT => &[(b"Dir", DIR), (b"Torn", TORN)],
            DIR => &NAMES,
            _ => &[],
        };
        let id = names.iter().find(|(known, _)| same(known, name)).map(|(_, id)| *id).ok_or_else(not_found)?;
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
            NodeId::ROOT | DIR | TORN => FileType::Dir,
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
        if dir == TORN {
            // Its names can be read, and then an entry's attributes are damaged beyond the folder's end.
            return if with_attr { Err(Error::corrupt("test", "torn")) } else { Ok(()) };
        }
        if dir == NodeId::ROOT {
            let attr = self.attr(DIR)?;
            let entry = Entry { name: b"Dir".to_vec(), node: DIR, kind: attr.kind, attr: Some(Ok(attr)), next: 1 };
            let _ = each(entry);
            return Ok(());
        }
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
            PANICS => Ok(Arc::new(Panics)),
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
    fn security(&self, node: NodeId) -> Result<Option<Vec<u8>>> {
        // The file's owner is another than usual; `broken` has none.
        let mut own = vcb_winfsp::security::READABLE_BY_ALL;
        own[40] = 1;
        Ok(match node {
            CLOUD => Some(own.to_vec()),
            BROKEN => Some(vec![1, 2, 3]),
            _ => None,
        })
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
    fn volume(&self) -> Option<VolumeName> {
        self.volume.clone()
    }
    fn has_host_files(&self) -> bool {
        false
    }
}
