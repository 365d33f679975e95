//! The guest's own files: `letters/C/…` and `digits/1/…`.

use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vcb_block::{BlockRef, Error, Kind, MemBlock, Result};
use vcb_fs::{Attr, FileId, FileType, Filesystem, FsStats, Name, NameBuf, Stream, Time};

use super::exclude::{self, Exclude, Place, SYSTEM_VOLUME_INFORMATION};
use super::link::GuestNames;
use super::node::{MAX_VOLUME, NodeId};
use super::streams::{Item, Listings};
use super::{Entry, Node, Note, View, VolumeName, letters, link, streams, xattr};
use crate::vm::OpenVm;

pub(super) const LAYER: &str = "view";

/// The view's own folders.
const LETTERS: NodeId = NodeId(2);
const DIGITS: NodeId = NodeId(3);
/// Records of an unreadable volume: its folder, and the file in it that says why.
const REASON_DIR: u64 = 0;
const REASON_FILE: u64 = 1;
const REASON_NAME: &[u8] = b"UNREADABLE.txt";
/// Unit of the totals.
const STATS_UNIT: u32 = 4096;

/// How named streams are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamsAs {
    /// As extended attributes `user.NAME`.
    #[default]
    Xattr,
    /// As files `FILE:NAME`, of any size, beside their file.
    Files,
}

/// What a file view shows and how.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FileOptions {
    /// Named streams.
    pub streams: StreamsAs,
    /// List the `system.ntfs_…` attributes too, so that backup software copies them.
    pub list_acl: bool,
    /// What is left out.
    pub exclude: Vec<Exclude>,
}

struct Volume {
    number: u32,
    names: GuestNames,
    /// The filesystem, or the text that says why there is none.
    fs: Result<Arc<dyn Filesystem>, BlockRef>,
    /// True when it should have been read and cannot be.
    missed: bool,
    /// The folder of that name, when excluding looks into it.
    system_volume_information: Option<FileId>,
}

/// What a node number stands for.
enum At<'a> {
    /// Root, `letters` or `digits`.
    Own(NodeId),
    ReasonDir(&'a Volume),
    ReasonFile(&'a BlockRef),
    File(FileAt<'a>),
}

struct FileAt<'a> {
    volume: &'a Volume,
    fs: &'a dyn Filesystem,
    id: FileId,
    stream: Option<usize>,
}

/// See the [module](self).
pub struct FileView {
    volumes: Vec<Volume>,
    options: FileOptions,
    notes: Vec<Note>,
    listings: Listings,
}

impl FileView {
    /// The files of `vm`'s volumes.
    ///
    /// # Errors
    /// [`Kind::Limit`] for more volumes than node numbers can tell apart. Volumes that cannot be read are no
    /// error: they are shown as such.
    pub fn new(vm: &OpenVm, options: &FileOptions) -> Result<Self> {
        let letters = letters::find(vm);
        let mut notes: Vec<Note> = letters
            .errors
            .iter()
            .map(|(number, err)| Note {
                place: format!("digits/{number}"),
                text: format!("drive letters are unknown: {}", err.report()),
                unreadable: false,
            })
            .collect();
        let mut volumes = Vec::new();
        for volume in vm.disks.iter().flat_map(|disk| &disk.volumes) {
            if volume.number == 0 || volume.number > MAX_VOLUME {
                return Err(Error::new(Kind::Limit, LAYER, format!("volume number {}", volume.number)));
            }
            let note = |text, unreadable| Note { place: format!("digits/{}", volume.number), text, unreadable };
            let missed = volume.fs.as_ref().is_err_and(|err| err.kind() != Kind::NotFound);
            let fs = match &volume.fs {
                Ok(fs) => {
                    notes.extend(fs.notes().into_iter().map(|text| note(text, false)));
                    Ok(Arc::clone(fs))
                }
                Err(err) => {
                    notes.push(note(err.report(), missed));
                    let text = match missed {
                        true => format!("This volume cannot be read.\n{}\n", err.report()),
                        false => format!("This volume is not shown as files.\n{}\n", err.report()),
                    };
                    Err(Arc::new(MemBlock::new(text.into_bytes())) as BlockRef)
                }
            };
            let system_volume_information = match &fs {
                Ok(fs) if options.exclude.contains(&Exclude::Vss) => {
                    fs.child_ignore_case(fs.root(), SYSTEM_VOLUME_INFORMATION).ok().map(|(attr, _)| attr.id)
                }
                _ => None,
            };
            let mut names = letters.of(volume.number);
            names.guids.extend(volume.gpt_guid);
            volumes.push(Volume { number: volume.number, names, fs, missed, system_volume_information });
        }
        Ok(FileView { volumes, options: options.clone(), notes, listings: Listings::default() })
    }

    fn streams_are_files(&self) -> bool {
        self.options.streams == StreamsAs::Files
    }

    fn at(&self, node: NodeId) -> Result<At<'_>> {
        let number = node.volume();
        if number == 0 {
            let known = [NodeId::ROOT, LETTERS, DIGITS].contains(&node);
            return if known { Ok(At::Own(node)) } else { Err(unknown(node)) };
        }
        let volume = self.volumes.iter().find(|volume| volume.number == number).ok_or_else(|| unknown(node))?;
        match &volume.fs {
            Ok(fs) => {
                let (record, stream) =
                    if self.streams_are_files() { node.split_stream() } else { (node.record(), None) };
                Ok(At::File(FileAt { volume, fs: fs.as_ref(), id: fs.by_record(record)?, stream }))
            }
            Err(_) if node.record() == REASON_DIR => Ok(At::ReasonDir(volume)),
            Err(text) if node.record() == REASON_FILE => Ok(At::ReasonFile(text)),
            Err(_) => Err(unknown(node)),
        }
    }

    fn file_at(&self, node: NodeId, what: &'static str) -> Result<FileAt<'_>> {
        match self.at(node)? {
            At::File(file) => Ok(file),
            _ => Err(wrong_type(what)),
        }
    }

    /// The only volume whose place here is not a mere reason why it is no matter of files; else the only one with a
    /// drive letter, which leaves out what firmware and boot loaders keep beside the system's own volume.
    fn only_volume(&self) -> Option<&Volume> {
        let only = |wanted: &dyn Fn(&Volume) -> bool| {
            let mut found = self.volumes.iter().filter(|volume| wanted(volume));
            found.next().filter(|_| found.next().is_none())
        };
        only(&|volume| volume.fs.is_ok() || volume.missed).or_else(|| only(&|volume| volume.names.letter.is_some()))
    }

    /// A volume's root folder as seen from `letters/` or `digits/`.
    fn root_of(volume: &Volume, letters: bool) -> NodeId {
        let record = volume.fs.as_ref().map_or(REASON_DIR, |fs| fs.root().0);
        NodeId::file(volume.number, record).through(letters, true)
    }

    /// Names and nodes in one of the view's own folders.
    fn own_entries(&self, dir: NodeId) -> Vec<(NameBuf, NodeId)> {
        match dir {
            LETTERS => {
                let mut lettered: Vec<_> = self
                    .volumes
                    .iter()
                    .filter_map(|v| Some((v.names.letter?.to_string().into_bytes(), Self::root_of(v, true))))
                    .collect();
                lettered.sort();
                lettered
            }
            DIGITS => self
                .volumes
                .iter()
                .map(|volume| (volume.number.to_string().into_bytes(), Self::root_of(volume, false)))
                .collect(),
            _ => vec![(b"letters".to_vec(), LETTERS), (b"digits".to_vec(), DIGITS)],
        }
    }

    fn place(at: &FileAt<'_>) -> Place {
        if at.id == at.fs.root() {
            Place::Root
        } else if at.volume.system_volume_information == Some(at.id) {
            Place::SystemVolumeInformation
        } else {
            Place::Elsewhere
        }
    }

    /// Attributes of a file, or of a stream of it, as they are shown.
    fn shown(at: &FileAt<'_>, mut attr: Attr) -> Result<Attr> {
        if let Some(index) = at.stream {
            return streams::attr(at.fs, attr, index);
        }
        if attr.kind == FileType::Symlink {
            attr.size = link::text(at.fs, at.id, &at.volume.names)?.len() as u64;
        }
        Ok(attr)
    }

    fn lookup_file(&self, dir: NodeId, at: &FileAt<'_>, name: &Name, ignore_case: bool) -> Result<Node> {
        if exclude::hides(&self.options.exclude, Self::place(at), name) {
            return Err(not_found());
        }
        let found = match ignore_case {
            true => at.fs.child_ignore_case(at.id, name).map(|(attr, _)| attr),
            false => at.fs.child(at.id, name),
        };
        let (attr, stream) = match found {
            Ok(attr) => (attr, None),
            Err(err) if err.kind() == Kind::NotFound && self.streams_are_files() => {
                let (attr, index) = streams::lookup(at.fs, at.id, name)?.ok_or(err)?;
                (attr, Some(index))
            }
            Err(err) => return Err(err),
        };
        let id = attr.id;
        let attr = Self::shown(&FileAt { volume: at.volume, fs: at.fs, id, stream }, attr)?;
        let mut node = NodeId::file(at.volume.number, id.0);
        node = match stream {
            Some(index) => node.stream(index)?,
            None => node.through(dir.in_letters(), attr.kind == FileType::Dir),
        };
        Ok(Node { id: node, attr })
    }

    fn read_files(
        &self,
        dir: NodeId,
        at: &FileAt<'_>,
        cookie: u64,
        with_attr: bool,
        each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<()> {
        let place = Self::place(at);
        let mut emit = |item: Item, next| -> Result<ControlFlow<()>> {
            let Item { name, file_len, id, kind, stream } = item;
            let attr = || {
                let attr = at.fs.attr_as(at.id, &name[..file_len], id)?;
                Self::shown(&FileAt { volume: at.volume, fs: at.fs, id, stream }, attr)
            };
            let attr = with_attr.then(attr);
            let kind = if let Some(Ok(attr)) = &attr { attr.kind } else { kind };
            let node = NodeId::file(at.volume.number, id.0);
            let node = match stream {
                Some(index) => node.stream(index)?,
                None => node.through(dir.in_letters(), kind == FileType::Dir),
            };
            Ok(each(Entry { name, node, kind, attr, next }))
        };
        if self.streams_are_files() {
            let listing = self.listings.of(dir, at.fs, at.id)?;
            let start = usize::try_from(cookie).unwrap_or(usize::MAX);
            for (index, item) in listing.iter().enumerate().skip(start) {
                if exclude::hides(&self.options.exclude, place, &item.name) {
                    continue;
                }
                let next = index as u64 + 1;
                if emit(item.clone(), next)?.is_break() {
                    break;
                }
            }
            return Ok(());
        }
        let mut result = Ok(());
        at.fs.read_dir(at.id, cookie, &mut |entry| {
            if exclude::hides(&self.options.exclude, place, &entry.name) {
                return ControlFlow::Continue(());
            }
            let next = entry.next;
            emit(Item::from(entry), next).unwrap_or_else(|err| {
                result = Err(err);
                ControlFlow::Break(())
            })
        })?;
        result
    }
}

impl View for FileView {
    fn lookup(&self, dir: NodeId, name: &Name) -> Result<Node> {
        match self.at(dir)? {
            At::Own(own) => {
                let found = self.own_entries(own).into_iter().find(|(known, _)| known == name);
                let (_, id) = found.ok_or_else(not_found)?;
                Ok(Node { id, attr: self.attr(id)? })
            }
            At::ReasonDir(volume) if name == REASON_NAME => {
                let id = NodeId::file(volume.number, REASON_FILE);
                Ok(Node { id, attr: self.attr(id)? })
            }
            At::ReasonDir(_) => Err(not_found()),
            At::ReasonFile(_) => Err(wrong_type("a file where a folder was needed")),
            At::File(at) => self.lookup_file(dir, &at, name, false),
        }
    }

    fn attr(&self, node: NodeId) -> Result<Attr> {
        match self.at(node)? {
            At::Own(_) | At::ReasonDir(_) => Ok(plain_attr(node, FileType::Dir, 0)),
            At::ReasonFile(text) => Ok(plain_attr(node, FileType::File, text.len())),
            At::File(at) => Self::shown(&at, at.fs.attr(at.id)?),
        }
    }

    fn read_dir(
        &self,
        dir: NodeId,
        cookie: u64,
        with_attr: bool,
        each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<()> {
        let entries = match self.at(dir)? {
            At::Own(own) => self.own_entries(own),
            At::ReasonDir(volume) => vec![(REASON_NAME.to_vec(), NodeId::file(volume.number, REASON_FILE))],
            At::ReasonFile(_) => return Err(wrong_type("a file where a folder was needed")),
            At::File(at) => return self.read_files(dir, &at, cookie, with_attr, each),
        };
        let start = usize::try_from(cookie).unwrap_or(usize::MAX);
        for (index, (name, node)) in entries.into_iter().enumerate().skip(start) {
            let attr = self.attr(node)?;
            let entry =
                Entry { name, node, kind: attr.kind, attr: with_attr.then_some(Ok(attr)), next: index as u64 + 1 };
            if each(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn parent(&self, dir: NodeId) -> Result<NodeId> {
        let above = if dir.in_letters() { LETTERS } else { DIGITS };
        match self.at(dir)? {
            At::Own(_) => Ok(NodeId::ROOT),
            At::ReasonDir(_) => Ok(above),
            At::ReasonFile(_) => Err(wrong_type("a file has no one parent")),
            At::File(at) if at.id == at.fs.root() => Ok(above),
            At::File(at) => {
                let parent = at.fs.parent(at.id)?;
                Ok(NodeId::file(at.volume.number, parent.0).through(dir.in_letters(), true))
            }
        }
    }

    fn open(&self, node: NodeId) -> Result<BlockRef> {
        match self.at(node)? {
            At::Own(_) | At::ReasonDir(_) => Err(wrong_type("a folder has no content")),
            At::ReasonFile(text) => Ok(Arc::clone(text)),
            At::File(FileAt { fs, id, stream: None, .. }) => fs.open(id, None),
            At::File(FileAt { fs, id, stream: Some(index), .. }) => {
                fs.open(id, Some(&streams::nth(fs, id, index)?.name))
            }
        }
    }

    fn read_link(&self, node: NodeId) -> Result<NameBuf> {
        let at = self.file_at(node, "not a link")?;
        link::text(at.fs, at.id, &at.volume.names)
    }

    fn xattr_names(&self, node: NodeId) -> Result<Vec<NameBuf>> {
        match self.at(node)? {
            At::File(FileAt { fs, id, stream: None, .. }) => {
                xattr::names(fs, id, !self.streams_are_files(), self.options.list_acl)
            }
            _ => Ok(Vec::new()),
        }
    }

    fn xattr(&self, node: NodeId, name: &Name) -> Result<Option<Vec<u8>>> {
        match self.at(node)? {
            At::File(FileAt { fs, id, stream: None, .. }) => xattr::value(fs, id, name, !self.streams_are_files()),
            _ => Ok(None),
        }
    }

    fn lookup_ignore_case(&self, dir: NodeId, name: &Name) -> Result<Node> {
        match self.at(dir)? {
            At::Own(_) => {
                self.lookup(dir, &name.to_ascii_uppercase()).or_else(|_| self.lookup(dir, &name.to_ascii_lowercase()))
            }
            At::File(at) => self.lookup_file(dir, &at, name, true),
            At::ReasonDir(_) | At::ReasonFile(_) => self.lookup(dir, name),
        }
    }

    fn streams(&self, node: NodeId) -> Result<Vec<Stream>> {
        match self.at(node)? {
            At::File(FileAt { fs, id, stream: None, .. }) => fs.streams(id),
            _ => Ok(Vec::new()),
        }
    }

    fn open_stream(&self, node: NodeId, stream: &Name) -> Result<BlockRef> {
        match self.at(node)? {
            At::File(FileAt { fs, id, stream: None, .. }) => fs.open(id, Some(stream)),
            _ => Err(not_found()),
        }
    }

    fn security(&self, node: NodeId) -> Result<Option<Vec<u8>>> {
        match self.at(node)? {
            At::File(at) => at.fs.security(at.id),
            _ => Ok(None),
        }
    }

    fn reparse(&self, node: NodeId) -> Result<Option<(u32, Vec<u8>)>> {
        let At::File(at) = self.at(node)? else { return Ok(None) };
        let tag = at.fs.attr(at.id)?.reparse_tag;
        Ok(at.fs.reparse_data(at.id)?.map(|data| (tag, data)))
    }

    fn stats(&self) -> Result<FsStats> {
        let mut sum = FsStats { cluster_size: STATS_UNIT, ..FsStats::default() };
        for fs in self.volumes.iter().filter_map(|volume| volume.fs.as_ref().ok()) {
            let stats = fs.stats()?;
            let units = |clusters: u64| clusters.saturating_mul(u64::from(stats.cluster_size)) / u64::from(STATS_UNIT);
            sum.clusters = sum.clusters.saturating_add(units(stats.clusters));
            sum.free_clusters = sum.free_clusters.saturating_add(units(stats.free_clusters));
            sum.files = sum.files.saturating_add(stats.files);
        }
        Ok(sum)
    }

    fn path(&self, node: NodeId) -> String {
        let Ok(At::File(at)) = self.at(node) else { return format!("node {:#x}", node.0) };
        let top = match at.volume.names.letter {
            Some(letter) => format!("letters/{letter}"),
            None => format!("digits/{}", at.volume.number),
        };
        // A path is for people: what cannot be found out is left as a number.
        let mut parts = Vec::new();
        let mut id = at.id;
        let depth = link::depth(at.fs, id).unwrap_or(0);
        for _ in 0..depth {
            let Ok(name) = at.fs.name(id) else { return format!("{top}/#{}", node.record()) };
            parts.push(String::from_utf8_lossy(&name).into_owned());
            let Ok(parent) = at.fs.parent(id) else { break };
            id = parent;
        }
        parts.push(top);
        parts.reverse();
        let stream = at.stream.and_then(|index| streams::nth(at.fs, at.id, index).ok());
        let stream = stream.map_or(String::new(), |stream| format!(":{}", String::from_utf8_lossy(&stream.name)));
        parts.join("/") + &stream
    }

    fn notes(&self) -> Vec<Note> {
        self.notes.clone()
    }

    fn volume(&self) -> Option<VolumeName> {
        let fs = self.only_volume()?.fs.as_ref().ok()?;
        Some(VolumeName { label: fs.label(), serial: fs.serial() })
    }

    fn has_host_files(&self) -> bool {
        false
    }
}

/// Attributes of a node that is ours. Its times are fixed, so that nothing seems to change between mounts.
pub(super) fn plain_attr(node: NodeId, kind: FileType, size: u64) -> Attr {
    let time = Time::from_unix(0);
    Attr {
        id: FileId(node.0),
        kind,
        size,
        allocated: size,
        links: 1,
        modified: time,
        changed: time,
        accessed: time,
        created: time,
        dos: 0,
        reparse_tag: 0,
        case_sensitive: true,
        unreadable: None,
    }
}

fn unknown(node: NodeId) -> Error {
    Error::new(Kind::NotFound, LAYER, format!("no node {:#x}", node.0))
}

pub(super) fn not_found() -> Error {
    Error::new(Kind::NotFound, LAYER, "no such name")
}

pub(super) fn wrong_type(what: &'static str) -> Error {
    Error::new(Kind::WrongType, LAYER, what)
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
