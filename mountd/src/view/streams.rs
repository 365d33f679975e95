//! Named streams as files `FILE:STREAM` beside their file.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use vcb_block::{Error, Kind, Result};
use vcb_fs::{Attr, DirEntry, FileId, FileType, Filesystem, Name, NameBuf, Stream};

use super::file::LAYER;
use super::node::NodeId;

/// Folders whose listings are kept while they are being read piece by piece.
const KEPT: NonZeroUsize = NonZeroUsize::new(8).unwrap();

/// A file or one of its streams in a folder.
#[derive(Clone)]
pub(super) struct Item {
    pub(super) name: NameBuf,
    /// How much of the name is the file's own.
    pub(super) file_len: usize,
    pub(super) id: FileId,
    pub(super) kind: FileType,
    pub(super) stream: Option<usize>,
}

impl From<DirEntry> for Item {
    fn from(entry: DirEntry) -> Self {
        Item { file_len: entry.name.len(), name: entry.name, id: entry.id, kind: entry.kind, stream: None }
    }
}

/// Listings with the streams in them. Positions in a listing are stable because volumes do not change, but
/// a position among the streams cannot be expressed by the filesystem, so whole folders are listed.
pub(super) struct Listings(Mutex<LruCache<NodeId, Arc<Vec<Item>>>>);

impl Default for Listings {
    fn default() -> Self {
        Listings(Mutex::new(LruCache::new(KEPT)))
    }
}

impl Listings {
    pub(super) fn of(&self, dir: NodeId, fs: &dyn Filesystem, id: FileId) -> Result<Arc<Vec<Item>>> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&dir) {
            return Ok(Arc::clone(known));
        }
        let mut entries: Vec<DirEntry> = Vec::new();
        fs.read_dir(id, 0, &mut |entry| {
            entries.push(entry);
            ControlFlow::Continue(())
        })?;
        let mut items = Vec::with_capacity(entries.len());
        for entry in entries {
            let with = |stream: &Name| [&entry.name, b":".as_slice(), stream].concat();
            // A file that does not agree with its entry is another one: its streams do not belong here.
            let names = match fs.attr_as(id, &entry.name, entry.id).and_then(|_| fs.streams(entry.id)) {
                Ok(streams) => streams.into_iter().map(|stream| with(&stream.name)).collect(),
                // Listed under a name that no stream can have: whoever looks at it meets the error.
                Err(_) => vec![with(b"*")],
            };
            items.extend(names.into_iter().enumerate().map(|(index, name)| Item {
                name,
                file_len: entry.name.len(),
                id: entry.id,
                kind: FileType::File,
                stream: Some(index),
            }));
            items.push(Item::from(entry));
        }
        let items = Arc::new(items);
        lock().put(dir, Arc::clone(&items));
        Ok(items)
    }
}

/// The file, and the index of the stream, of `FILE:STREAM` in `dir`.
pub(super) fn lookup(fs: &dyn Filesystem, dir: FileId, name: &Name) -> Result<Option<(Attr, usize)>> {
    // Stream names cannot contain a colon.
    let Some(colon) = name.iter().rposition(|&b| b == b':') else { return Ok(None) };
    let (file, stream) = (&name[..colon], &name[colon + 1..]);
    let attr = match fs.child(dir, file) {
        Ok(attr) => attr,
        Err(err) if err.kind() == Kind::NotFound => return Ok(None),
        Err(err) => return Err(err),
    };
    Ok(fs.streams(attr.id)?.iter().position(|known| known.name == stream).map(|index| (attr, index)))
}

/// Stream number `index` of a file.
pub(super) fn nth(fs: &dyn Filesystem, id: FileId, index: usize) -> Result<Stream> {
    let stream = fs.streams(id)?.into_iter().nth(index);
    stream.ok_or_else(|| Error::new(Kind::NotFound, LAYER, format!("no stream number {index}")))
}

/// Attributes of a stream: those of its file, with the stream's size.
pub(super) fn attr(fs: &dyn Filesystem, file: Attr, index: usize) -> Result<Attr> {
    let size = nth(fs, file.id, index)?.size;
    Ok(Attr { kind: FileType::File, size, allocated: size, links: 1, unreadable: None, ..file })
}
