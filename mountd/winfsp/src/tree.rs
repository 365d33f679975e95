//! A view as Windows sees it: paths with `\`, names without regard to case, streams behind a colon, and
//! plain values where WinFsp wants structures. No WinFsp type appears here, so that all of it is tested
//! without a driver.

use std::num::NonZero;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use vcb_block::{BlockRef, Error, Kind, plan};
use vcb_fs::{Attr, FileType, NameBuf};
use vcb_mountd::front::Report;
use vcb_mountd::view::{NodeId, View};

use crate::names::{from_windows, to_windows};
use crate::security::is_sound;
use crate::status::{Status, status_of, status_of_lookup};
use crate::twins::{Twins, fold};

const BACKSLASH: u16 = b'\\' as u16;
const COLON: u16 = b':' as u16;
const DIRECTORY: u32 = 0x10;
const READONLY: u32 = 0x01;
const NORMAL: u32 = 0x80;
const REPARSE_POINT: u32 = 0x400;
/// Attributes a reader may be told of. RECALL_ON_OPEN and RECALL_ON_DATA_ACCESS are left out, because
/// nothing behind this mount could recall anything, and programs skip such files.
const TOLD: u32 = 0x0000_FFFF;
/// `IO_REPARSE_TAG_SYMLINK` (MS-FSCC 2.1.2.1).
const TAG_SYMLINK: u32 = 0xA000_000C;
/// `SYMLINK_FLAG_RELATIVE` (MS-FSCC 2.1.2.4).
const SYMLINK_RELATIVE: u32 = 1;
/// Unit in which streams are said to occupy the disk, in bytes.
const ALLOCATION: u64 = 4096;
/// Type of the streams that hold data, the only ones that can be named.
const DATA: [u16; 5] = [b'$' as u16, b'D' as u16, b'A' as u16, b'T' as u16, b'A' as u16];
/// Folders whose twins are remembered. Nearly all have none, and then an entry is some bytes.
const FOLDERS: NonZero<usize> = NonZero::<usize>::MIN.saturating_add(4095);

/// What is known of a file, in Windows' units: times are 100 ns steps since 1601.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// `FILE_ATTRIBUTE_*`.
    pub attributes: u32,
    /// Reparse tag, 0 for none.
    pub reparse_tag: u32,
    /// Length in bytes.
    pub size: u64,
    /// Bytes occupied.
    pub allocated: u64,
    /// Birth.
    pub created: u64,
    /// Last read.
    pub accessed: u64,
    /// Last write.
    pub written: u64,
    /// Last change of metadata.
    pub changed: u64,
    /// File id: the node's number, the same at every mount.
    pub index: u64,
    /// Number of names.
    pub links: u32,
}

/// An open file, folder or stream.
pub struct Handle {
    /// The node.
    pub node: NodeId,
    /// What it was when it was opened, which is what it always will be.
    pub info: Info,
    /// Where its bytes come from; nothing for folders and for files whose content cannot be had.
    content: Result<BlockRef, Status>,
}

/// An entry of a folder.
#[derive(Debug)]
pub struct Entry {
    /// Name in UTF-16.
    pub name: Vec<u16>,
    /// What it is.
    pub info: Info,
}

/// A stream of a file; the unnamed one has an empty name.
#[derive(Debug, PartialEq, Eq)]
pub struct StreamEntry {
    /// Name in UTF-16.
    pub name: Vec<u16>,
    /// Length in bytes.
    pub size: u64,
    /// Bytes occupied.
    pub allocated: u64,
}

/// A view under Windows' rules. All methods may be called by many threads at once.
pub struct Tree {
    view: Arc<dyn View>,
    report: Arc<Report>,
    twins: Mutex<LruCache<NodeId, Arc<Twins>>>,
}

impl Tree {
    /// The tree of `view`. What cannot be read is entered in `report`.
    #[must_use]
    pub fn new(view: Arc<dyn View>, report: Arc<Report>) -> Self {
        Tree { view, report, twins: Mutex::new(LruCache::new(FOLDERS)) }
    }

    /// The view behind it.
    #[must_use]
    pub fn view(&self) -> &Arc<dyn View> {
        &self.view
    }

    /// Opens `path` (`\dir\file`, `\dir\file:stream`, `\dir\file:stream:$DATA`).
    ///
    /// # Errors
    /// The status that tells Windows why: a missing folder on the way is `PATH_NOT_FOUND`, a missing last
    /// component `NAME_NOT_FOUND`, and any failure to look keeps its own status.
    pub fn open(&self, path: &[u16]) -> Result<Handle, Status> {
        let (file, stream) = split_stream(path)?;
        let (node, attr) = self.resolve(file)?;
        let Some(stream) = stream else {
            let content = match attr.kind {
                FileType::File => self.view.open(node).map_err(|err| self.failed(node, &err)),
                FileType::Dir | FileType::Symlink | FileType::Other => Err(status_of(Kind::WrongType)),
            };
            return Ok(Handle { node, info: info_of(node, &attr), content });
        };
        let name = self.stream_called(node, stream)?;
        let block = self.view.open_stream(node, &name).map_err(|err| self.failed(node, &err))?;
        let mut info = info_of(node, &attr);
        info.attributes = not_a_folder(info.attributes);
        (info.size, info.allocated) = (block.len(), block.len().next_multiple_of(ALLOCATION));
        Ok(Handle { node, info, content: Ok(block) })
    }

    /// The stream that is shown as `wanted`, in that case or else in any.
    fn stream_called(&self, node: NodeId, wanted: &[u16]) -> Result<NameBuf, Status> {
        let streams = self.view.streams(node).map_err(|err| self.failed(node, &err))?;
        let find = |same: &dyn Fn(&[u16]) -> bool| streams.iter().position(|stream| same(&to_windows(&stream.name)));
        let folded = fold(wanted);
        let found = find(&|shown| shown == wanted).or_else(|| find(&|shown| fold(shown) == folded));
        found.map(|index| streams[index].name.clone()).ok_or(Status::NAME_NOT_FOUND)
    }

    /// What is at `path`, without opening its content.
    ///
    /// # Errors
    /// As [`Tree::open`].
    pub fn stat(&self, path: &[u16]) -> Result<(NodeId, Info), Status> {
        let (file, stream) = split_stream(path)?;
        let (node, attr) = self.resolve(file)?;
        let mut info = info_of(node, &attr);
        if stream.is_some() {
            info.attributes = not_a_folder(info.attributes);
        }
        Ok((node, info))
    }

    /// Reads into `buf`; gives how many bytes there were before the end.
    ///
    /// # Errors
    /// `END_OF_FILE` when `offset` is at or past the end, and only then.
    pub fn read(&self, handle: &Handle, buf: &mut [u8], offset: u64) -> Result<usize, Status> {
        let block = handle.content.as_ref().map_err(|status| *status)?;
        let left = block.len().saturating_sub(offset);
        if left == 0 {
            return Err(Status::END_OF_FILE);
        }
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        plan::read(block, &mut buf[..want], offset).map_err(|err| self.failed(handle.node, &err))?;
        Ok(want)
    }

    /// All entries of a folder with their attributes, `.` and `..` among them below the root. An entry whose
    /// attributes cannot be read is listed with those that the folder tells, and opening it gives the error.
    ///
    /// # Errors
    /// `NOT_A_DIRECTORY`, or why the folder cannot be read.
    pub fn entries(&self, handle: &Handle, each: &mut dyn FnMut(Entry) -> Result<(), Status>) -> Result<(), Status> {
        if handle.info.attributes & DIRECTORY == 0 {
            return Err(Status::NOT_A_DIRECTORY);
        }
        if handle.node != NodeId::ROOT {
            let parent = self.view.parent(handle.node).map_err(|err| self.failed(handle.node, &err))?;
            let parent_attr = self.view.attr(parent).map_err(|err| self.failed(parent, &err))?;
            each(Entry { name: vec![u16::from(b'.')], info: handle.info.clone() })?;
            each(Entry { name: vec![u16::from(b'.'); 2], info: info_of(parent, &parent_attr) })?;
        }
        let twins = self.twins(handle.node)?;
        let mut result = Ok(());
        self.view
            .read_dir(handle.node, 0, true, &mut |entry| {
                let info = match &entry.attr {
                    Some(Ok(attr)) => info_of(entry.node, attr),
                    _ => Info {
                        attributes: if entry.kind == FileType::Dir { DIRECTORY } else { NORMAL },
                        index: entry.node.0,
                        ..Info::default()
                    },
                };
                result = each(Entry { name: twins.show(&entry.name), info });
                if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .map_err(|err| self.failed(handle.node, &err))?;
        result
    }

    /// The streams of a file: the unnamed one first.
    ///
    /// # Errors
    /// Why they cannot be listed.
    pub fn streams(&self, handle: &Handle) -> Result<Vec<StreamEntry>, Status> {
        let mut list = Vec::new();
        if handle.info.attributes & DIRECTORY == 0 {
            list.push(StreamEntry { name: Vec::new(), size: handle.info.size, allocated: handle.info.allocated });
        }
        let streams = self.view.streams(handle.node).map_err(|err| self.failed(handle.node, &err))?;
        list.extend(streams.iter().map(|stream| StreamEntry {
            name: to_windows(&stream.name),
            size: stream.size,
            allocated: stream.size.next_multiple_of(ALLOCATION),
        }));
        Ok(list)
    }

    /// Bytes in all and free bytes.
    ///
    /// # Errors
    /// Why they are not known.
    pub fn totals(&self) -> Result<(u64, u64), Status> {
        let stats = self.view.stats().map_err(|err| self.failed(NodeId::ROOT, &err))?;
        let bytes = |clusters: u64| clusters.saturating_mul(u64::from(stats.cluster_size));
        Ok((bytes(stats.clusters), bytes(stats.free_clusters)))
    }

    /// The security descriptor in self-relative form; `None` where the guest has none.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn security(&self, node: NodeId) -> Result<Option<Vec<u8>>, Status> {
        let descriptor = self.view.security(node).map_err(|err| self.failed(node, &err))?;
        if descriptor.as_deref().is_some_and(|bytes| !is_sound(bytes)) {
            let err = Error::corrupt("winfsp", "the security descriptor is none");
            return Err(self.failed(node, &err));
        }
        Ok(descriptor)
    }

    /// The reparse point at `node` as a `REPARSE_DATA_BUFFER` (MS-FSCC 2.1.2.2). Links that a view has
    /// translated lead inside the mount and are made anew as relative symbolic links: the guest's own text
    /// (`C:\…`) would lead to the proxy's disk.
    ///
    /// # Errors
    /// `NOT_A_REPARSE_POINT` where there is none.
    pub fn reparse(&self, node: NodeId) -> Result<Vec<u8>, Status> {
        let attr = self.view.attr(node).map_err(|err| self.failed(node, &err))?;
        if attr.kind == FileType::Symlink {
            let text = self.view.read_link(node).map_err(|err| self.failed(node, &err))?;
            return Ok(symlink_buffer(&text));
        }
        let raw = self.view.reparse(node).map_err(|err| self.failed(node, &err))?;
        let (tag, data) = raw.ok_or(Status::NOT_A_REPARSE_POINT)?;
        reparse_buffer(tag, &data).ok_or(status_of(Kind::Corrupt))
    }

    /// Looks up each component: exactly if it is there, else by the volume's rules for letter case.
    fn resolve(&self, path: &[u16]) -> Result<(NodeId, Attr), Status> {
        let mut node = NodeId::ROOT;
        let mut attr = self.view.attr(node).map_err(|err| self.failed(node, &err))?;
        let mut parts = path.split(|&unit| unit == BACKSLASH).filter(|part| !part.is_empty()).peekable();
        while let Some(part) = parts.next() {
            if attr.kind != FileType::Dir {
                return Err(Status::PATH_NOT_FOUND);
            }
            let missing = if parts.peek().is_none() { Status::NAME_NOT_FOUND } else { Status::PATH_NOT_FOUND };
            let found = self.child(node, part)?.ok_or(missing)?;
            (node, attr) = (found.0, found.1);
        }
        Ok((node, attr))
    }

    fn child(&self, dir: NodeId, shown: &[u16]) -> Result<Option<(NodeId, Attr)>, Status> {
        if let Some(name) = self.twins(dir)?.find(shown) {
            let found = self.view.lookup(dir, name).map_err(|err| self.failed(dir, &err))?;
            return Ok(Some((found.id, found.attr)));
        }
        for name in from_windows(shown) {
            let exact = self.view.lookup(dir, &name);
            let found = match exact {
                Err(err) if err.kind() == Kind::NotFound => self.view.lookup_ignore_case(dir, &name),
                other => other,
            };
            match found {
                Ok(found) => return Ok(Some((found.id, found.attr))),
                Err(err) if err.kind() == Kind::NotFound => {}
                Err(err) => {
                    self.report.add(self.view.as_ref(), dir, &err);
                    return Err(status_of_lookup(err.kind()));
                }
            }
        }
        Ok(None)
    }

    /// The names of `dir` that are shown by no plain rule, found once by listing it.
    fn twins(&self, dir: NodeId) -> Result<Arc<Twins>, Status> {
        let known = |known: &Mutex<LruCache<_, Arc<Twins>>>| {
            known.lock().unwrap_or_else(PoisonError::into_inner).get(&dir).map(Arc::clone)
        };
        if let Some(twins) = known(&self.twins) {
            return Ok(twins);
        }
        // No lock is held meanwhile: two threads may find the same.
        let mut names = Vec::new();
        let read = self.view.read_dir(dir, 0, false, &mut |entry| {
            names.push(entry.name);
            ControlFlow::Continue(())
        });
        read.map_err(|err| self.failed(dir, &err))?;
        let twins = Arc::new(Twins::among(&names));
        self.twins.lock().unwrap_or_else(PoisonError::into_inner).put(dir, Arc::clone(&twins));
        Ok(twins)
    }

    /// Reports what failed on an existing node, and chooses its status.
    fn failed(&self, node: NodeId, err: &Error) -> Status {
        self.report.add(self.view.as_ref(), node, err);
        status_of(err.kind())
    }
}

/// `\dir\file:stream:$DATA` → `\dir\file` and `stream`. The unnamed stream (`file::$DATA`) is the file; streams
/// of other types cannot be opened.
fn split_stream(path: &[u16]) -> Result<(&[u16], Option<&[u16]>), Status> {
    let start = path.iter().rposition(|&unit| unit == BACKSLASH).map_or(0, |at| at + 1);
    let Some(colon) = path[start..].iter().position(|&unit| unit == COLON).map(|at| start + at) else {
        return Ok((path, None));
    };
    let mut parts = path[colon + 1..].split(|&unit| unit == COLON);
    let (stream, kind) = (parts.next().unwrap_or_default(), parts.next());
    let is_data = |kind: &[u16]| {
        kind.len() == DATA.len() && kind.iter().zip(DATA).all(|(&a, b)| a == b || (b > 0x40 && a == b | 0x20))
    };
    if !kind.is_none_or(is_data) || parts.next().is_some() {
        return Err(Status::NAME_NOT_FOUND);
    }
    Ok((&path[..colon], (!stream.is_empty()).then_some(stream)))
}

/// Attributes of a stream of what has `attributes`.
fn not_a_folder(attributes: u32) -> u32 {
    match attributes & !DIRECTORY {
        0 => NORMAL,
        rest => rest,
    }
}

fn info_of(node: NodeId, attr: &Attr) -> Info {
    let mut attributes = attr.dos & TOLD & !(DIRECTORY | NORMAL | REPARSE_POINT);
    let mut reparse_tag = 0;
    match attr.kind {
        FileType::Dir => attributes |= DIRECTORY,
        FileType::Symlink => {
            attributes |= REPARSE_POINT | (attr.dos & DIRECTORY);
            reparse_tag = TAG_SYMLINK;
        }
        FileType::File | FileType::Other => {}
    }
    if attr.kind != FileType::Symlink && attr.unreadable.is_some() && attr.reparse_tag != 0 {
        attributes |= REPARSE_POINT;
        reparse_tag = attr.reparse_tag;
    }
    if attributes == 0 {
        attributes = NORMAL;
    }
    // READONLY on a folder means something else to Explorer; on files it is the guest's own.
    debug_assert!(attributes & READONLY == 0 || attr.dos & READONLY != 0);
    Info {
        attributes,
        reparse_tag,
        size: if attr.kind == FileType::File { attr.size } else { 0 },
        allocated: attr.allocated,
        created: attr.created.0,
        accessed: attr.accessed.0,
        written: attr.modified.0,
        changed: attr.changed.0,
        index: node.0,
        links: attr.links,
    }
}

/// `REPARSE_DATA_BUFFER` with data as the volume stores it: tag, length, reserved, data.
fn reparse_buffer(tag: u32, data: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(data.len()).ok()?;
    let mut buffer = Vec::with_capacity(8 + data.len());
    buffer.extend_from_slice(&tag.to_le_bytes());
    buffer.extend_from_slice(&len.to_le_bytes());
    buffer.extend_from_slice(&[0, 0]);
    buffer.extend_from_slice(data);
    Some(buffer)
}

/// A symbolic link buffer (MS-FSCC 2.1.2.4) for a view's link text: relative when it does not start with `/`.
fn symlink_buffer(text: &[u8]) -> Vec<u8> {
    let units: Vec<u16> = text.split(|&byte| byte == b'/').map(to_link_component).collect::<Vec<_>>().join(&BACKSLASH);
    let name: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    // Paths are at most 32767 units, and both copies fit 16 bits only below half of that.
    let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
    let relative = if text.starts_with(b"/") { 0 } else { SYMLINK_RELATIVE };
    let mut data = Vec::with_capacity(12 + 2 * name.len());
    // Substitute name at 0, print name behind it: the same text.
    for field in [0, len, len, len] {
        data.extend_from_slice(&field.to_le_bytes());
    }
    data.extend_from_slice(&relative.to_le_bytes());
    data.extend_from_slice(&name);
    data.extend_from_slice(&name);
    reparse_buffer(TAG_SYMLINK, &data).unwrap_or_default()
}

fn to_link_component(part: &[u8]) -> Vec<u16> {
    if part == b"." || part == b".." { part.iter().map(|&b| u16::from(b)).collect() } else { to_windows(part) }
}
