//! Requests of the kernel as calls of a view: a thin translation. Every handler answers, whatever happens:
//! an error becomes an errno, a panic becomes EIO by the reply it drops, and the thread goes on.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request,
};
use vcb_block::{Error, Kind, Result, plan};

use super::ahead::Ahead;
use super::attr::{Owner, kind_of};
use super::errno;
use super::open_files::{HostFiles, OpenFiles};
use super::seek::{self, Sought};
use crate::front::Report;
use crate::view::{Entry, NodeId, View, xattr};

/// What is mounted never changes, so the kernel may keep what it was told: the longest time it can count.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
/// Nodes are never given to another file.
const GENERATION: Generation = Generation(0);
/// Longest name: the kernel's `FUSE_NAME_MAX`.
const MAX_NAME: usize = 1024;
/// Positions that `.` and `..` take before the view's own.
const DOTS: u64 = 2;
/// Most bytes a thread keeps for reading. Larger requests, if a kernel ever sends them, are not kept.
const KEPT_BUFFER: usize = 4 << 20;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Answers the kernel from a view.
pub(super) struct Handler {
    view: Arc<dyn View>,
    report: Arc<Report>,
    owner: Owner,
    open_files: OpenFiles,
    /// `Some` while the kernel opens files, which is what reading host files by itself takes.
    host_files: Option<HostFiles>,
    /// `Some` when the view is one of many files.
    ahead: Option<Arc<Ahead>>,
}

impl Handler {
    pub(super) fn new(view: Arc<dyn View>, report: Arc<Report>, owner: Owner, passthrough: bool) -> Self {
        let host_files = (passthrough && view.has_host_files()).then(HostFiles::default);
        let ahead = (!view.has_host_files()).then(|| Ahead::new(Arc::clone(&view)));
        Handler { view, report, owner, open_files: OpenFiles::default(), host_files, ahead }
    }

    /// What runs ahead of readers.
    pub(super) fn ahead(&self) -> Option<Arc<Ahead>> {
        self.ahead.clone()
    }

    /// Runs one request. A panic drops the reply, which answers EIO.
    fn guard(&self, request: &'static str, node: INodeNo, work: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            let err = Error::new(Kind::Io, "front", format!("a defect: {request} panicked"));
            tracing::error!(request, node = node.0, "a request panicked");
            // The path is found by the same code that may just have failed.
            let add = || self.report.add(self.view.as_ref(), id(node), &err);
            drop(catch_unwind(AssertUnwindSafe(add)));
        }
    }

    /// The errno of a failed request on an existing node, reported.
    fn failed(&self, node: INodeNo, err: &Error) -> Errno {
        self.report.add(self.view.as_ref(), id(node), err);
        errno::of(err.kind())
    }

    fn shown(&self, node: NodeId, attr: &vcb_fs::Attr) -> FileAttr {
        self.owner.attr(node, attr)
    }

    fn read_into(&self, node: INodeNo, offset: u64, size: u32, reply: ReplyData) {
        let read = |buffer: &mut Vec<u8>| -> Result<usize> {
            let block = self.open_files.get(self.view.as_ref(), id(node))?;
            if let Some(ahead) = self.ahead.as_ref().filter(|_| offset == 0) {
                ahead.read(id(node), block.len());
            }
            let left = block.len().saturating_sub(offset);
            // Not above a u32.
            let want = left.min(u64::from(size)) as usize;
            if buffer.len() < want {
                buffer.resize(want, 0);
            }
            plan::read(&block, &mut buffer[..want], offset)?;
            Ok(want)
        };
        BUFFER.with_borrow_mut(|buffer| {
            match read(buffer) {
                Ok(want) => reply.data(&buffer[..want]),
                Err(err) => reply.error(self.failed(node, &err)),
            }
            if buffer.len() > KEPT_BUFFER {
                *buffer = Vec::new();
            }
        });
    }

    /// Calls `add` with position, name and entry for the entries after `offset` until it says that it is full.
    fn list(
        &self,
        dir: INodeNo,
        offset: u64,
        with_attr: bool,
        add: &mut dyn FnMut(u64, &OsStr, &Entry) -> bool,
    ) -> Result<()> {
        let view = self.view.as_ref();
        if offset < DOTS {
            let parent = view.parent(id(dir))?;
            for (position, name, node) in [(1, ".", id(dir)), (2, "..", parent)] {
                let attr = with_attr.then(|| view.attr(node));
                let kind = vcb_fs::FileType::Dir;
                let entry = Entry { name: name.into(), node, kind, attr, next: position };
                if position > offset && add(position, OsStr::new(name), &entry) {
                    return Ok(());
                }
            }
        }
        view.read_dir(id(dir), offset.saturating_sub(DOTS), with_attr, &mut |entry| {
            if !can_be_shown(&entry.name) {
                let text = format!("a name that no host file can have: {:?}", String::from_utf8_lossy(&entry.name));
                self.report.add(view, entry.node, &Error::unsupported("front", text));
                return ControlFlow::Continue(());
            }
            let full = add(entry.next.saturating_add(DOTS), OsStr::from_bytes(&entry.name), &entry);
            if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }
}

fn id(node: INodeNo) -> NodeId {
    NodeId(node.0)
}

/// One bad name would make the kernel refuse the whole folder.
fn can_be_shown(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name != b"."
        && name != b".."
        && !name.iter().any(|b| matches!(b, b'/' | 0))
}

fn reply_xattr(value: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for Handler {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        // What a kernel does not have is left out.
        let _ = config.add_capabilities(wanted & config.capabilities());
        if self.host_files.is_some() {
            let taken =
                config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() && config.set_max_stack_depth(1).is_ok();
            if !taken {
                self.host_files = None;
            }
        }
        if self.host_files.is_none() {
            let _ = config.add_capabilities(InitFlags::FUSE_NO_OPEN_SUPPORT & config.capabilities());
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.guard("lookup", parent, || match self.view.lookup(id(parent), name.as_bytes()) {
            Ok(node) => reply.entry(&FOREVER, &self.shown(node.id, &node.attr), GENERATION),
            Err(err) if err.kind() == Kind::NotFound => reply.error(Errno::ENOENT),
            Err(err) => {
                tracing::warn!(name = %name.to_string_lossy(), error = %err.report(), "cannot be looked up");
                self.report.add(self.view.as_ref(), id(parent), &err);
                reply.error(errno::of_lookup(err.kind()));
            }
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.guard("getattr", ino, || match self.view.attr(id(ino)) {
            Ok(attr) => reply.attr(&FOREVER, &self.shown(id(ino), &attr)),
            Err(err) => reply.error(self.failed(ino, &err)),
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        self.guard("readlink", ino, || match self.view.read_link(id(ino)) {
            Ok(text) => reply.data(&text),
            Err(err) => reply.error(self.failed(ino, &err)),
        });
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.guard("open", ino, || {
            let Some(host_files) = &self.host_files else {
                // Tells the kernel to stop asking.
                return reply.error(Errno::ENOSYS);
            };
            let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
            let block = match self.open_files.get(self.view.as_ref(), id(ino)) {
                Ok(block) => block,
                Err(err) => return reply.error(self.failed(ino, &err)),
            };
            match host_files.backing(id(ino), &block, &reply) {
                Some(backing) => reply.opened_passthrough(FileHandle(0), FopenFlags::FOPEN_NOFLUSH, &backing),
                None => reply.opened(FileHandle(0), flags),
            }
        });
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.guard("read", ino, || self.read_into(ino, offset, size, reply));
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // The kernel then opens folders by itself and keeps their listings.
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.guard("readdir", ino, || {
            let listed = self.list(ino, offset, false, &mut |position, name, entry| {
                reply.add(INodeNo(entry.node.0), position, kind_of(entry.kind), name)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(err) => reply.error(self.failed(ino, &err)),
            }
        });
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        self.guard("readdirplus", ino, || {
            let listed = self.list(ino, offset, true, &mut |position, name, entry| {
                let inode = INodeNo(entry.node.0);
                match &entry.attr {
                    Some(Ok(attr)) => {
                        let attr = self.shown(entry.node, attr);
                        reply.add(inode, position, name, &FOREVER, &attr, GENERATION)
                    }
                    // Node 0 says "ask again": whoever looks at the entry meets the error.
                    _ => {
                        let attr = vcb_fs::Attr { kind: entry.kind, ..no_attr() };
                        let attr = FileAttr { ino: INodeNo(0), ..self.shown(entry.node, &attr) };
                        reply.add(inode, position, name, &Duration::ZERO, &attr, GENERATION)
                    }
                }
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(err) => reply.error(self.failed(ino, &err)),
            }
        });
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.guard("statfs", ino, || match self.view.stats() {
            Ok(stats) => {
                let (unit, free) = (stats.cluster_size, stats.free_clusters);
                reply.statfs(stats.clusters, free, free, stats.files, 0, unit, MAX_NAME as u32, unit);
            }
            Err(err) => reply.error(errno::of(err.kind())),
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        // `ls -l` asks every file for ACLs and labels until it hears that there are none of the kind.
        if !xattr::is_known(name.as_bytes()) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        self.guard("getxattr", ino, || match self.view.xattr(id(ino), name.as_bytes()) {
            Ok(Some(value)) => reply_xattr(&value, size, reply),
            Ok(None) => reply.error(Errno::NO_XATTR),
            Err(err) => {
                let code = self.failed(ino, &err);
                reply.error(if err.kind() == Kind::Limit { Errno::E2BIG } else { code });
            }
        });
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.guard("listxattr", ino, || match self.view.xattr_names(id(ino)) {
            Ok(names) => {
                let list: Vec<u8> = names.iter().flat_map(|name| name.iter().copied().chain([0])).collect();
                reply_xattr(&list, size, reply);
            }
            Err(err) => reply.error(self.failed(ino, &err)),
        });
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.guard("lseek", ino, || {
            let sought = match whence {
                nix::libc::SEEK_DATA => Sought::Data,
                nix::libc::SEEK_HOLE => Sought::Hole,
                _ => return reply.error(Errno::EINVAL),
            };
            let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
            let found = self.open_files.get(self.view.as_ref(), id(ino)).and_then(|b| seek::seek(&b, offset, sought));
            match found.map(|found| found.and_then(|at| i64::try_from(at).ok())) {
                Ok(Some(at)) => reply.offset(at),
                Ok(None) => reply.error(Errno::ENXIO),
                Err(err) => reply.error(self.failed(ino, &err)),
            }
        });
    }
}

/// Stands in an entry whose attributes cannot be had; the kernel does not look at it.
fn no_attr() -> vcb_fs::Attr {
    vcb_fs::Attr {
        id: vcb_fs::FileId(0),
        kind: vcb_fs::FileType::File,
        size: 0,
        allocated: 0,
        links: 1,
        modified: vcb_fs::Time::default(),
        changed: vcb_fs::Time::default(),
        accessed: vcb_fs::Time::default(),
        created: vcb_fs::Time::default(),
        dos: 0,
        reparse_tag: 0,
        case_sensitive: false,
        unreadable: None,
    }
}

#[cfg(test)]
mod tests {
    use super::can_be_shown;

    #[test]
    fn names_that_the_kernel_refuses_are_known() {
        assert!(can_be_shown(b"a:b") && can_be_shown(b"...") && can_be_shown("\u{fffd}".as_bytes()));
        for bad in [b"".as_slice(), b".", b"..", b"a/b", b"a\0b", &[b'x'; 1025]] {
            assert!(!can_be_shown(bad));
        }
    }
}
