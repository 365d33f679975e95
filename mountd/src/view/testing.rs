//! A filesystem in memory, and VMs made of such, for tests of views and front ends.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use vcb_block::{BlockRef, Error, Kind, MemBlock, Result};
use vcb_fs::{
    Attr, DirEntry, FileId, FileType, Filesystem, FsStats, LinkTarget, Name, NameBuf, Stream, Time, Unreadable,
};

use crate::vm::{OpenDisk, OpenVm, OpenVolume};

/// A registry hive whose key `MountedDevices` has these binary values, written by another crate.
pub(crate) fn hive(values: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = regf::HiveBuilder::new().unwrap();
    let root = builder.root_offset();
    let key = builder.add_key(root, "MountedDevices").unwrap();
    for (name, data) in values {
        builder.add_value(key, name, regf::structures::DataType::Binary, data).unwrap();
    }
    builder.to_bytes().unwrap()
}

/// One disk with these volumes.
pub(crate) fn vm_of(volumes: Vec<Result<Arc<dyn Filesystem>>>) -> OpenVm {
    let volumes = volumes
        .into_iter()
        .zip(1..)
        .map(|(fs, number)| OpenVolume {
            number,
            partition: number,
            start: u64::from(number) << 20,
            len: 1 << 20,
            mbr_signature: None,
            gpt_guid: None,
            fs,
        })
        .collect();
    OpenVm { name: "fake".to_owned(), files: Vec::new(), disks: vec![disk_of("fake.vmdk", volumes)], storage: None }
}

/// A disk of 1 MiB.
pub(crate) fn disk_of(file_name: &str, volumes: Vec<OpenVolume>) -> OpenDisk {
    OpenDisk {
        number: 0,
        node: "scsi0:0".to_owned(),
        file_name: file_name.to_owned(),
        adapter: "lsilogic".to_owned(),
        uuid: None,
        ddb: Vec::new(),
        block: Arc::new(MemBlock::new((0..1 << 20).map(|i| (i / 512 * 7 + i) as u8).collect())),
        modified: Some(Time::from_unix(1_700_000_000)),
        volumes,
    }
}

struct FakeFile {
    parent: u64,
    name: NameBuf,
    kind: FileType,
    content: BlockRef,
    streams: Vec<(NameBuf, Vec<u8>)>,
    link: Option<LinkTarget>,
    unreadable: bool,
    dos: u32,
}

/// Files in memory. Ids carry a sequence number in their high bits, as those of NTFS do.
pub(crate) struct FakeFs {
    files: BTreeMap<u64, FakeFile>,
    /// Files of a folder in order.
    children: BTreeMap<u64, Vec<u64>>,
    names: HashMap<(u64, NameBuf), u64>,
    /// Reading this file's content panics.
    pub(crate) panics: Option<u64>,
    pub(crate) label: &'static str,
}

const ROOT: u64 = 5;
const SEQUENCE: u64 = 7 << 48;

impl FakeFs {
    pub(crate) fn new() -> Self {
        let mut fs = FakeFs {
            files: BTreeMap::new(),
            children: BTreeMap::new(),
            names: HashMap::new(),
            panics: None,
            label: "",
        };
        fs.files.insert(ROOT, fs.make(ROOT, b".", FileType::Dir));
        fs.children.insert(ROOT, Vec::new());
        fs
    }

    fn make(&self, parent: u64, name: &Name, kind: FileType) -> FakeFile {
        FakeFile {
            parent,
            name: name.to_vec(),
            kind,
            content: Arc::new(MemBlock::new(Vec::new())),
            streams: Vec::new(),
            link: None,
            unreadable: false,
            dos: 0,
        }
    }

    fn add(&mut self, path: &str, kind: FileType) -> u64 {
        let mut at = ROOT;
        let parts: Vec<&str> = path.split('/').collect();
        for (depth, part) in parts.iter().enumerate() {
            let key = (at, part.as_bytes().to_vec());
            at = match self.names.get(&key) {
                Some(&id) => id,
                None => {
                    let id = 64 + self.files.len() as u64;
                    let kind = if depth + 1 == parts.len() { kind } else { FileType::Dir };
                    self.files.insert(id, self.make(at, part.as_bytes(), kind));
                    self.children.get_mut(&at).unwrap().push(id);
                    self.names.insert(key, id);
                    if kind == FileType::Dir {
                        self.children.insert(id, Vec::new());
                    }
                    id
                }
            };
        }
        at
    }

    /// Adds a file (and its folders) and gives its record number.
    pub(crate) fn file(&mut self, path: &str, content: Vec<u8>) -> u64 {
        self.block(path, Arc::new(MemBlock::new(content)))
    }

    pub(crate) fn block(&mut self, path: &str, content: BlockRef) -> u64 {
        let id = self.add(path, FileType::File);
        self.files.get_mut(&id).unwrap().content = content;
        id
    }

    pub(crate) fn dir(&mut self, path: &str) -> u64 {
        self.add(path, FileType::Dir)
    }

    pub(crate) fn link(&mut self, path: &str, target: LinkTarget) -> u64 {
        let id = self.add(path, FileType::Symlink);
        self.files.get_mut(&id).unwrap().link = Some(target);
        id
    }

    pub(crate) fn stream(&mut self, id: u64, name: &str, content: Vec<u8>) {
        self.files.get_mut(&id).unwrap().streams.push((name.as_bytes().to_vec(), content));
    }

    pub(crate) fn unreadable(&mut self, id: u64) {
        self.files.get_mut(&id).unwrap().unreadable = true;
    }

    #[allow(dead_code, reason = "FUSE alone has permission bits to test it with")]
    pub(crate) fn read_only(&mut self, id: u64) {
        self.files.get_mut(&id).unwrap().dos |= 1;
    }

    pub(crate) fn arc(self) -> Arc<dyn Filesystem> {
        Arc::new(self)
    }

    fn get(&self, id: FileId) -> Result<&FakeFile> {
        let record = id.0 & (SEQUENCE - 1) & ((1 << 48) - 1);
        let file = self.files.get(&record).filter(|_| id.0 >> 48 == 7);
        file.ok_or_else(|| Error::new(Kind::NotFound, "fake", format!("no file {:#x}", id.0)))
    }

    fn find(&self, dir: FileId, same: impl Fn(&Name) -> bool) -> Result<FileId> {
        let children = self.children.get(&(dir.0 & !SEQUENCE));
        let children = children.ok_or_else(|| Error::new(Kind::WrongType, "fake", "no folder"))?;
        let found = children.iter().find(|id| same(&self.files[id].name));
        found.map(|id| FileId(id | SEQUENCE)).ok_or_else(|| Error::new(Kind::NotFound, "fake", "no such name"))
    }
}

impl Filesystem for FakeFs {
    fn kind(&self) -> &'static str {
        "fake"
    }
    fn label(&self) -> NameBuf {
        self.label.as_bytes().to_vec()
    }
    fn serial(&self) -> String {
        format!("{:016X}", self.files.len())
    }
    fn root(&self) -> FileId {
        FileId(ROOT | SEQUENCE)
    }
    fn lookup(&self, dir: FileId, name: &Name) -> Result<FileId> {
        self.find(dir, |known| known == name)
    }
    fn lookup_ignore_case(&self, dir: FileId, name: &Name) -> Result<(FileId, NameBuf)> {
        let id = self.find(dir, |known| known.eq_ignore_ascii_case(name))?;
        Ok((id, self.files[&(id.0 & !SEQUENCE)].name.clone()))
    }
    fn read_dir(&self, dir: FileId, cookie: u64, each: &mut dyn FnMut(DirEntry) -> ControlFlow<()>) -> Result<()> {
        let children = self.children.get(&(dir.0 & !SEQUENCE));
        let children = children.ok_or_else(|| Error::new(Kind::WrongType, "fake", "no folder"))?;
        for (index, id) in children.iter().enumerate().skip(cookie as usize) {
            let file = &self.files[id];
            let entry = DirEntry {
                name: file.name.clone(),
                id: FileId(id | SEQUENCE),
                kind: file.kind,
                next: index as u64 + 1,
            };
            if each(entry).is_break() {
                break;
            }
        }
        Ok(())
    }
    fn attr(&self, id: FileId) -> Result<Attr> {
        let file = self.get(id)?;
        Ok(Attr {
            id,
            kind: file.kind,
            size: file.content.len(),
            allocated: file.content.len().next_multiple_of(4096),
            links: 1,
            modified: Time(132_000_000_000_000_000 + (id.0 & 0xFFFF)),
            changed: Time(132_000_000_000_000_001),
            accessed: Time(132_000_000_000_000_002),
            created: Time(132_000_000_000_000_003),
            dos: file.dos,
            reparse_tag: 0,
            case_sensitive: false,
            unreadable: file.unreadable.then_some(Unreadable::Encrypted),
        })
    }
    fn parent(&self, id: FileId) -> Result<FileId> {
        Ok(FileId(self.get(id)?.parent | SEQUENCE))
    }
    fn by_record(&self, record: u64) -> Result<FileId> {
        let id = FileId(record | SEQUENCE);
        self.get(id).map(|_| id)
    }
    fn open(&self, id: FileId, stream: Option<&Name>) -> Result<BlockRef> {
        let file = self.get(id)?;
        assert!(self.panics != Some(id.0 & !SEQUENCE), "this file panics");
        if file.unreadable {
            return Err(Error::unsupported("fake", "encrypted"));
        }
        match stream {
            None if file.kind == FileType::Dir => Err(Error::new(Kind::WrongType, "fake", "a folder")),
            None => Ok(Arc::clone(&file.content)),
            Some(name) => {
                let stream = file.streams.iter().find(|(known, _)| known == name);
                let (_, bytes) = stream.ok_or_else(|| Error::new(Kind::NotFound, "fake", "no such stream"))?;
                Ok(Arc::new(MemBlock::new(bytes.clone())))
            }
        }
    }
    fn streams(&self, id: FileId) -> Result<Vec<Stream>> {
        let streams = self.get(id)?.streams.iter();
        Ok(streams.map(|(name, bytes)| Stream { name: name.clone(), size: bytes.len() as u64 }).collect())
    }
    fn read_link(&self, id: FileId) -> Result<LinkTarget> {
        self.get(id)?.link.clone().ok_or_else(|| Error::new(Kind::WrongType, "fake", "no link"))
    }
    fn security(&self, _id: FileId) -> Result<Option<Vec<u8>>> {
        Ok(Some(vec![1, 0, 4, 0x80]))
    }
    fn extended_attributes(&self, _id: FileId) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn object_id(&self, _id: FileId) -> Result<Option<[u8; 16]>> {
        Ok(None)
    }
    fn reparse_data(&self, _id: FileId) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
    fn stats(&self) -> Result<FsStats> {
        Ok(FsStats { cluster_size: 8192, clusters: 100, free_clusters: 10, files: self.files.len() as u64 })
    }
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}
