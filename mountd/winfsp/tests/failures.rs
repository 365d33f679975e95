//! Every failure of a view through every callback that can meet it, against a table of its own.

#![cfg(windows)]
#![allow(clippy::unwrap_used)]

mod small;
mod world;

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use small::Small;
use vcb_block::{Block, BlockRef, Error, Kind, Result};
use vcb_fs::{Attr, FsStats, Name, NameBuf, Stream};
use vcb_mountd::view::{Entry, Node, NodeId, Note, View};
use vcb_winfsp::adapter::Opened;
use vcb_winfsp::status::Status;
use winfsp::filesystem::{FileSystemContext, VolumeInfo};
use world::{World, marker, status, wide, world_of};

/// What each failure is to Windows, but for absence (Microsoft's ntstatus.h).
const TABLE: [(Kind, u32); 10] = [
    (Kind::Io, 0xC000_0185),          // STATUS_IO_DEVICE_ERROR
    (Kind::Corrupt, 0xC000_0102),     // STATUS_FILE_CORRUPT_ERROR
    (Kind::Unsupported, 0xC000_0185), // STATUS_IO_DEVICE_ERROR
    (Kind::OutOfRange, 0xC000_0185),  // STATUS_IO_DEVICE_ERROR
    (Kind::Forbidden, 0xC000_0022),   // STATUS_ACCESS_DENIED
    (Kind::Denied, 0xC000_0022),      // STATUS_ACCESS_DENIED
    (Kind::Busy, 0xC000_0185),        // STATUS_IO_DEVICE_ERROR
    (Kind::Changed, 0xC000_0098),     // STATUS_FILE_INVALID
    (Kind::Limit, 0xC000_009A),       // STATUS_INSUFFICIENT_RESOURCES
    (Kind::WrongType, 0xC000_00BA),   // STATUS_FILE_IS_A_DIRECTORY
];
/// What absence is where a name was looked for, and where something known is gone.
const ABSENT: u32 = 0xC000_0034; // STATUS_OBJECT_NAME_NOT_FOUND
const GONE: u32 = 0xC000_0185; // STATUS_IO_DEVICE_ERROR

/// Methods of a view that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Lookup,
    LookupIgnoreCase,
    Attr,
    ReadDir,
    Parent,
    Open,
    Read,
    ReadLink,
    Streams,
    OpenStream,
    Security,
    Reparse,
    Stats,
}

/// The small view, of which one method fails when it is told to.
#[derive(Clone, Default)]
struct Failing {
    armed: Arc<Mutex<Option<(Method, Kind)>>>,
}

impl Failing {
    fn fails(&self, method: Method) -> Result<()> {
        match *self.armed.lock().unwrap() {
            Some((armed, kind)) if armed == method => Err(Error::new(kind, "test", "told to fail")),
            _ => Ok(()),
        }
    }

    fn sound(&self) -> Small {
        Small::default()
    }
}

/// Content that fails with its view.
struct Content(Failing);

impl Block for Content {
    fn len(&self) -> u64 {
        5
    }
    fn read_at(&self, buf: &mut [u8], _: u64) -> Result<()> {
        self.0.fails(Method::Read)?;
        buf.fill(b'x');
        Ok(())
    }
}

impl View for Failing {
    fn lookup(&self, dir: NodeId, name: &Name) -> Result<Node> {
        self.fails(Method::Lookup)?;
        self.sound().lookup(dir, name)
    }
    fn lookup_ignore_case(&self, dir: NodeId, name: &Name) -> Result<Node> {
        self.fails(Method::LookupIgnoreCase)?;
        self.sound().lookup_ignore_case(dir, name)
    }
    fn attr(&self, node: NodeId) -> Result<Attr> {
        self.fails(Method::Attr)?;
        self.sound().attr(node)
    }
    fn read_dir(
        &self,
        dir: NodeId,
        cookie: u64,
        with_attr: bool,
        each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<()> {
        self.fails(Method::ReadDir)?;
        self.sound().read_dir(dir, cookie, with_attr, each)
    }
    fn parent(&self, node: NodeId) -> Result<NodeId> {
        self.fails(Method::Parent)?;
        self.sound().parent(node)
    }
    fn open(&self, _: NodeId) -> Result<BlockRef> {
        self.fails(Method::Open)?;
        Ok(Arc::new(Content(self.clone())))
    }
    fn read_link(&self, node: NodeId) -> Result<NameBuf> {
        self.fails(Method::ReadLink)?;
        self.sound().read_link(node)
    }
    fn xattr_names(&self, node: NodeId) -> Result<Vec<NameBuf>> {
        self.sound().xattr_names(node)
    }
    fn xattr(&self, node: NodeId, name: &Name) -> Result<Option<Vec<u8>>> {
        self.sound().xattr(node, name)
    }
    fn streams(&self, node: NodeId) -> Result<Vec<Stream>> {
        self.fails(Method::Streams)?;
        self.sound().streams(node)
    }
    fn open_stream(&self, node: NodeId, stream: &Name) -> Result<BlockRef> {
        self.fails(Method::OpenStream)?;
        self.sound().open_stream(node, stream)
    }
    fn reparse(&self, node: NodeId) -> Result<Option<(u32, Vec<u8>)>> {
        self.fails(Method::Reparse)?;
        self.sound().reparse(node)
    }
    fn security(&self, node: NodeId) -> Result<Option<Vec<u8>>> {
        self.fails(Method::Security)?;
        self.sound().security(node)
    }
    fn stats(&self) -> Result<FsStats> {
        self.fails(Method::Stats)?;
        self.sound().stats()
    }
    fn path(&self, node: NodeId) -> String {
        self.sound().path(node)
    }
    fn notes(&self) -> Vec<Note> {
        Vec::new()
    }
    fn has_host_files(&self) -> bool {
        false
    }
}

const FILE: &str = r"\Dir\Read Me.txt";
const LINK: &str = r"\Dir\link";
const CLOUD: &str = r"\Dir\cloud";

/// What was opened while all was well.
struct Handles {
    dir: Opened,
    file: Opened,
    link: Opened,
    cloud: Opened,
}

type Callback = fn(&World, &Handles) -> Status;

/// A callback, the method below it that fails, and what absence is there.
const CALLS: [(&str, Method, u32, Callback); 26] = [
    ("open, the root", Method::Attr, GONE, |w, _| opening(w, r"\")),
    ("open, another spelling", Method::LookupIgnoreCase, ABSENT, |w, _| opening(w, r"\Dir\CLOUD")),
    ("open, a twin", Method::Lookup, GONE, |w, _| opening(w, FILE)),
    ("open, a folder unseen before", Method::ReadDir, GONE, |w, _| opening(w, r"\Torn\none")),
    ("open, a stream", Method::Streams, GONE, |w, _| opening(w, r"\Dir\Read Me.txt:s1")),
    ("open, a stream's content", Method::OpenStream, GONE, |w, _| opening(w, r"\Dir\Read Me.txt:s1")),
    ("get_security_by_name, the name", Method::LookupIgnoreCase, ABSENT, |w, _| named_security(w, r"\Dir\CLOUD")),
    ("get_security_by_name, attributes", Method::Attr, GONE, |w, _| named_security(w, FILE)),
    ("get_security_by_name, descriptor", Method::Security, GONE, |w, _| named_security(w, FILE)),
    ("get_security", Method::Security, GONE, |w, h| status(w.adapter.get_security(&h.file, None))),
    ("get_security, a folder", Method::Security, GONE, |w, h| status(w.adapter.get_security(&h.dir, None))),
    ("read", Method::Read, GONE, |w, h| reading(w, &h.file)),
    ("read, what failed to open", Method::Open, GONE, |w, _| {
        let (opened, _) = w.try_open(FILE, 0).unwrap();
        reading(w, &opened)
    }),
    ("read_directory", Method::ReadDir, GONE, |w, h| listing(w, &h.dir)),
    ("read_directory, the folder above", Method::Parent, GONE, |w, h| listing(w, &h.dir)),
    ("read_directory, its attributes", Method::Attr, GONE, |w, h| listing(w, &h.dir)),
    ("get_volume_info", Method::Stats, GONE, |w, _| {
        // SAFETY: WinFsp hands it over zeroed too.
        let mut info: VolumeInfo = unsafe { std::mem::zeroed() };
        status(w.adapter.get_volume_info(&mut info))
    }),
    ("get_stream_info", Method::Streams, GONE, |w, h| status(w.adapter.get_stream_info(&h.file, &mut [0; 512]))),
    ("get_reparse_point, kind", Method::Attr, GONE, |w, h| reparse(w, &h.link, LINK)),
    ("get_reparse_point, a link", Method::ReadLink, GONE, |w, h| reparse(w, &h.link, LINK)),
    ("get_reparse_point, another", Method::Reparse, GONE, |w, h| reparse(w, &h.cloud, CLOUD)),
    ("get_reparse_point_by_name, the name", Method::LookupIgnoreCase, ABSENT, |w, _| named_reparse(w, r"\Dir\LINK")),
    ("get_reparse_point_by_name, a twin", Method::Lookup, GONE, |w, _| named_reparse(w, FILE)),
    ("get_reparse_point_by_name, attributes", Method::Attr, GONE, |w, _| named_reparse(w, LINK)),
    ("get_reparse_point_by_name, a link", Method::ReadLink, GONE, |w, _| named_reparse(w, LINK)),
    ("get_reparse_point_by_name, another", Method::Reparse, GONE, |w, _| named_reparse(w, CLOUD)),
];

fn opening(world: &World, path: &str) -> Status {
    status(world.try_open(path, 0))
}

fn named_security(world: &World, path: &str) -> Status {
    status(world.adapter.get_security_by_name(&wide(path), None, |_| None))
}

fn reading(world: &World, opened: &Opened) -> Status {
    status(world.adapter.read(opened, &mut [0; 8], 0))
}

fn listing(world: &World, dir: &Opened) -> Status {
    status(world.adapter.read_directory(dir, None, marker(None), &mut [0; 4096]))
}

fn reparse(world: &World, opened: &Opened, path: &str) -> Status {
    status(world.adapter.get_reparse_point(opened, &wide(path), &mut [0; 512]))
}

fn named_reparse(world: &World, path: &str) -> Status {
    status(world.adapter.get_reparse_point_by_name(&wide(path), false, &mut [0; 512]))
}

#[test]
fn every_failure_through_every_callback_has_its_status() {
    for (name, method, absent, call) in CALLS {
        let kinds = TABLE.into_iter().chain([(Kind::NotFound, absent)]);
        for (kind, expected) in kinds {
            let view = Failing::default();
            let Some(world) = world_of(Arc::new(view.clone())) else { return };
            let handles = Handles {
                dir: world.open(r"\Dir"),
                file: world.open(FILE),
                link: world.open(LINK),
                cloud: world.open(CLOUD),
            };
            *view.armed.lock().unwrap() = Some((method, kind));
            let got = call(&world, &handles);
            assert_eq!(got, Status(expected), "{name}: {kind} in {method:?}: {:#x} for {expected:#x}", got.0);
            // What a name says is absent is nothing to report; all else is.
            let reported = world.unreadable.lock().unwrap().len();
            assert_eq!(reported > 0, expected != ABSENT, "{name}: {kind} in {method:?} reported {reported} times");
        }
    }
}

#[test]
fn a_name_that_is_spelled_rightly_is_looked_up_once_more_only_when_it_is_absent() {
    for (kind, expected) in TABLE {
        let view = Failing::default();
        let Some(world) = world_of(Arc::new(view.clone())) else { return };
        *view.armed.lock().unwrap() = Some((Method::Lookup, kind));
        assert_eq!(opening(&world, CLOUD), Status(expected), "{kind}");
    }
    let view = Failing::default();
    let Some(world) = world_of(Arc::new(view.clone())) else { return };
    *view.armed.lock().unwrap() = Some((Method::Lookup, Kind::NotFound));
    world.open(CLOUD);
}
