//! VMFS as a [`Filesystem`].

use std::ops::ControlFlow;

use vcb_block::{BlockRef, Error, Kind, Result};

use super::descriptor::{Descriptor, FileKind};
use super::directory::Entry;
use super::error::LAYER;
use super::geometry::Version;
use super::volume::{MAX_LINK, Vmfs, id_of, is_folder, raw_device};
use crate::{
    Attr, DirEntry, FileId, FileType, Filesystem, FsStats, LinkTarget, Name, NameBuf, Stream, Time, Unreadable,
};

/// Where hosts mount their volumes.
const VOLUMES: &[u8] = b"/vmfs/volumes/";

fn kind_of(kind: Option<FileKind>) -> FileType {
    match kind {
        Some(FileKind::Dir) => FileType::Dir,
        Some(FileKind::File | FileKind::Rdm) => FileType::File,
        Some(FileKind::Symlink) => FileType::Symlink,
        Some(FileKind::System) | None => FileType::Other,
    }
}

fn is_system(entry: &Entry) -> bool {
    FileKind::of(entry.kind) == Some(FileKind::System)
}

fn components(path: &[u8]) -> Vec<NameBuf> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec).collect()
}

impl Vmfs {
    fn attributes(&self, id: FileId, file: &Descriptor) -> Attr {
        let time = |seconds: u32| Time::from_unix(seconds.into());
        let unreadable = match file.kind {
            FileKind::Rdm => Some(Unreadable::Other(match raw_device(file) {
                Ok(device) => device.to_string(),
                Err(err) => err.report(),
            })),
            _ => None,
        };
        Attr {
            id,
            kind: if is_folder(file) { FileType::Dir } else { kind_of(Some(file.kind)) },
            size: file.size,
            allocated: if file.kind == FileKind::Rdm { 0 } else { file.blocks.saturating_mul(file.block_size) },
            links: file.links,
            modified: time(file.modified),
            changed: time(file.modified.max(file.created)),
            accessed: time(file.accessed),
            created: time(file.created),
            dos: 0,
            reparse_tag: 0,
            case_sensitive: true,
            unreadable,
        }
    }
}

impl Filesystem for Vmfs {
    fn kind(&self) -> &'static str {
        match self.version() {
            Version::V3 => "vmfs3",
            Version::V5 => "vmfs5",
            Version::V6 => "vmfs6",
        }
    }

    fn label(&self) -> NameBuf {
        self.core.geometry.label.clone()
    }

    fn serial(&self) -> String {
        self.uuid().to_string()
    }

    fn root(&self) -> FileId {
        self.root
    }

    fn lookup(&self, dir: FileId, name: &Name) -> Result<FileId> {
        let listing = self.listing(dir)?;
        let entry = listing.get(name).filter(|entry| self.options.system_files || !is_system(entry));
        let missing = || Error::new(Kind::NotFound, LAYER, format!("no file '{}'", String::from_utf8_lossy(name)));
        let entry = entry.ok_or_else(missing)?;
        let id = id_of(entry.address, entry.generation);
        self.remember(id, dir);
        Ok(id)
    }

    fn lookup_ignore_case(&self, dir: FileId, name: &Name) -> Result<(FileId, NameBuf)> {
        Ok((self.lookup(dir, name)?, name.to_vec()))
    }

    fn read_dir(&self, dir: FileId, cookie: u64, each: &mut dyn FnMut(DirEntry) -> ControlFlow<()>) -> Result<()> {
        for entry in self.listing(dir)?.after(cookie) {
            if is_system(entry) && !self.options.system_files {
                continue;
            }
            let id = id_of(entry.address, entry.generation);
            self.remember(id, dir);
            let found = DirEntry {
                name: entry.name.clone(),
                id,
                kind: kind_of(FileKind::of(entry.kind)),
                next: entry.position + 1,
            };
            if each(found).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn attr(&self, id: FileId) -> Result<Attr> {
        let (file, _) = self.load(id)?;
        Ok(self.attributes(id, &file))
    }

    fn parent(&self, id: FileId) -> Result<FileId> {
        let (file, _) = self.load(id)?;
        if is_folder(&file) {
            let (address, generation) = self.listing(id)?.parent;
            return Ok(id_of(address, generation));
        }
        if file.parent != 0 {
            return self.current(file.parent);
        }
        let unknown = || Error::unsupported(LAYER, "this version does not record the folder of a file");
        self.remembered(id).ok_or_else(unknown)
    }

    fn by_record(&self, record: u64) -> Result<FileId> {
        let address = u32::try_from(record).ok();
        self.current(address.ok_or_else(|| Error::new(Kind::NotFound, LAYER, format!("no record {record:#x}")))?)
    }

    fn open(&self, id: FileId, stream: Option<&Name>) -> Result<BlockRef> {
        if stream.is_some() {
            return Err(Error::new(Kind::NotFound, LAYER, "VMFS has no named streams"));
        }
        Ok(self.open_file(id)?)
    }

    fn streams(&self, id: FileId) -> Result<Vec<Stream>> {
        self.load(id).map(|_| Vec::new())
    }

    fn read_link(&self, id: FileId) -> Result<LinkTarget> {
        let (file, place) = self.load(id)?;
        if file.kind != FileKind::Symlink {
            return Err(Error::new(Kind::WrongType, LAYER, "not a symbolic link"));
        }
        let text = self.read_small(file, place, MAX_LINK)?;
        if !text.starts_with(b"/") {
            return Ok(LinkTarget::Relative(components(&text)));
        }
        // An absolute link that names this volume stays in it.
        let own = text.strip_prefix(VOLUMES).and_then(|rest| {
            let (volume, path) = rest.split_at(rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len()));
            let this = volume == self.core.geometry.label || volume == self.serial().as_bytes();
            (this && !volume.is_empty()).then(|| components(path))
        });
        Ok(own.map_or(LinkTarget::Foreign(text), LinkTarget::Volume))
    }

    fn security(&self, id: FileId) -> Result<Option<Vec<u8>>> {
        self.load(id).map(|_| None)
    }

    fn extended_attributes(&self, id: FileId) -> Result<Option<Vec<u8>>> {
        self.load(id).map(|_| None)
    }

    fn object_id(&self, id: FileId) -> Result<Option<[u8; 16]>> {
        self.load(id).map(|_| None)
    }

    fn reparse_data(&self, id: FileId) -> Result<Option<Vec<u8>>> {
        self.load(id).map(|_| None)
    }

    /// Totals; free blocks and files are not counted.
    fn stats(&self) -> Result<FsStats> {
        let block = self.core.geometry.file_block;
        Ok(FsStats {
            cluster_size: u32::try_from(block).unwrap_or(u32::MAX),
            clusters: self.core.volume.len() / block,
            free_clusters: 0,
            files: 0,
        })
    }

    fn notes(&self) -> Vec<String> {
        Vmfs::notes(self)
    }
}
