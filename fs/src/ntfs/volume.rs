//! An open volume, and how it answers as a [`Filesystem`].

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use vcb_block::bytes::{array, le16};
use vcb_block::{BlockRef, Error, Kind, Result};

use super::attr::Standard;
use super::boot::Geometry;
use super::cache::Cache;
use super::codec::UnitCache;
use super::dir::{FileName, Folder};
use super::error::{Fault, LAYER};
use super::file::File;
use super::index::Pieces;
use super::mft::Mft;
use super::name::{UpCase, Utf16};
use super::record::kind;
use super::recover::{self, LogOutcome};
use super::secure::Secure;
use super::{ROOT, reparse};
use crate::{Attr, Census, DirEntry, FileId, Filesystem, FsStats, Journal, LinkTarget, Name, NameBuf, Stream};

/// Record number of $Volume.
const VOLUME: u64 = 3;
/// Record number of $UpCase.
const UPCASE: u64 = 10;

/// In $VOLUME_INFORMATION: Windows means to check the volume.
const DIRTY: u16 = 1;

/// Longest $EA: its length is kept in 16 bits.
const MAX_EA: u64 = 64 << 10;
/// Longest security descriptor kept as an attribute, as in $Secure.
const MAX_DESCRIPTOR: u64 = 256 << 10;
/// Smallest cache: with less, the pieces in which records and index blocks are read would not fit its parts, and each
/// record would cost a reading of 64 KiB.
const MIN_CACHE: usize = 4 << 20;
/// Longest label: 32 characters in Windows, bounded by the record anyway.
const MAX_LABEL: u64 = 4096;

/// How to open a volume.
#[derive(Debug, Clone)]
pub struct Options {
    /// Show NTFS's own files ($MFT, $Extend, …) in the root.
    pub metafiles: bool,
    /// Bytes of MFT records, index blocks and decoded content to keep in memory; 4 MiB at least.
    pub cache_bytes: u64,
    /// Show the changes that a log not closed in order holds, see [`Ntfs::log`]. Nothing is written.
    pub replay: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { metafiles: false, cache_bytes: 32 << 20, replay: true }
    }
}

/// An NTFS volume, open for reading by any number of threads.
pub struct Ntfs {
    pub(super) mft: Mft,
    pub(super) upcase: UpCase,
    /// Open folders, by file reference.
    pub(super) folders: Cache<u64, Folder>,
    /// Index blocks.
    pub(super) nodes: Pieces,
    /// Decoded content of compressed files.
    pub(super) units: Arc<UnitCache>,
    pub(super) options: Options,
    secure: OnceLock<Secure>,
    descriptors: Cache<u32, Vec<u8>>,
    root: FileId,
    label: NameBuf,
    notes: Vec<String>,
    pub(super) log: LogOutcome,
    stats: OnceLock<FsStats>,
}

impl Ntfs {
    /// Opens the volume that fills `volume`.
    ///
    /// # Errors
    /// `Corrupt` when the boot sector, the $MFT, $UpCase or $Volume cannot be trusted; read errors. A log that
    /// cannot be replayed is no error: see [`Ntfs::log`].
    pub fn open(volume: BlockRef, options: &Options) -> Result<Arc<Self>> {
        recover::open(volume, options)
    }

    /// What became of the changes in the volume's log.
    #[must_use]
    pub fn log(&self) -> &LogOutcome {
        &self.log
    }

    pub(super) fn read_mft(volume: BlockRef, options: &Options) -> Result<Mft> {
        let geometry = Geometry::read(&volume)?;
        Mft::open(volume, geometry, budget(options) / 8 * 3)
    }

    /// The volume whose $MFT is `mft`.
    pub(super) fn over(mft: Mft, options: &Options) -> Result<Self> {
        let budget = budget(options);
        let root = mft.record(ROOT)?;
        if !root.in_use() || !root.is_dir() {
            return Err(Fault::Missing("index: the root is not a folder").in_record(ROOT));
        }
        let upcase = system(&mft, UPCASE)?.bytes(kind::DATA, UpCase::BYTES as u64)?;
        let upcase = upcase
            .and_then(|bytes| UpCase::new(&bytes))
            .ok_or_else(|| Fault::Missing("table of 65536 capital letters").in_record(UPCASE))?;
        let (label, notes) = about(&mft)?;
        Ok(Ntfs {
            root: FileId(root.reference()),
            mft,
            upcase,
            folders: Cache::new(budget / 16),
            nodes: Cache::new(budget / 4),
            units: UnitCache::new(budget / 4),
            options: options.clone(),
            secure: OnceLock::new(),
            descriptors: Cache::new(budget / 16),
            label,
            notes,
            log: LogOutcome::Closed,
            stats: OnceLock::new(),
        })
    }

    /// Keeps what became of the log, and tells the user unless it was in order.
    pub(super) fn with_log(mut self, log: LogOutcome) -> Self {
        if log != LogOutcome::Closed {
            self.notes.push(log.to_string());
        }
        self.log = log;
        self
    }

    /// Sizes and places from the boot sector.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.mft.geometry
    }

    fn secure(&self) -> Result<&Secure> {
        if let Some(secure) = self.secure.get() {
            return Ok(secure);
        }
        let opened = Secure::open(&self.mft)?;
        Ok(self.secure.get_or_init(|| opened))
    }

    /// The first name that is not a DOS one, and the folder it is in.
    fn first_name(&self, id: FileId) -> Result<(u64, NameBuf)> {
        let file = File::open(&self.mft, id.0)?;
        let mut first = None;
        let wanted = |k, _: Utf16<'_>, _| k == kind::FILE_NAME;
        file.visit(wanted, |attribute| {
            let name = FileName::parse(attribute.resident()?)?;
            if !name.is_dos() {
                first.get_or_insert_with(|| (name.folder, name.name.to_wtf8()));
            }
            Ok(())
        })?;
        first.ok_or_else(|| Fault::Missing("$FILE_NAME").in_record(file.number()))
    }
}

fn budget(options: &Options) -> usize {
    usize::try_from(options.cache_bytes).unwrap_or(usize::MAX).max(MIN_CACHE)
}

/// One of NTFS's own files.
pub(super) fn system(mft: &Mft, number: u64) -> Result<File<'_>> {
    File::new(mft, mft.record(number)?)
}

/// Label, and what a user should know.
fn about(mft: &Mft) -> Result<(NameBuf, Vec<String>)> {
    let file = system(mft, VOLUME)?;
    let label = file.bytes(kind::VOLUME_NAME, MAX_LABEL)?.unwrap_or_default();
    let mut notes = Vec::new();
    // 0x08 major version  0x09 minor version  0x0A flags
    let information = file.bytes(kind::VOLUME_INFORMATION, MAX_LABEL)?.unwrap_or_default();
    match le16(&information, 0x0A) {
        None => return Err(Fault::Missing("$VOLUME_INFORMATION").in_record(VOLUME)),
        Some(flags) if flags & DIRTY != 0 => {
            notes.push("the volume is marked dirty: Windows means to check it".to_owned());
        }
        Some(_) => {}
    }
    if mft.geometry.truncated {
        notes.push(format!("the volume should be longer: only {} of its clusters are there", mft.geometry.clusters));
    }
    Ok((Utf16(&label).to_wtf8(), notes))
}

impl Filesystem for Ntfs {
    fn kind(&self) -> &'static str {
        "ntfs"
    }

    fn label(&self) -> NameBuf {
        self.label.clone()
    }

    fn serial(&self) -> String {
        format!("{:016X}", self.mft.geometry.serial)
    }

    fn root(&self) -> FileId {
        self.root
    }

    fn lookup(&self, dir: FileId, name: &Name) -> Result<FileId> {
        Ok(self.find(dir, name, false)?.0)
    }

    fn lookup_ignore_case(&self, dir: FileId, name: &Name) -> Result<(FileId, NameBuf)> {
        self.find(dir, name, true)
    }

    fn read_dir(&self, dir: FileId, cookie: u64, each: &mut dyn FnMut(DirEntry) -> ControlFlow<()>) -> Result<()> {
        self.walk(dir, cookie, each)
    }

    fn attr(&self, id: FileId) -> Result<Attr> {
        self.attributes(id, None)
    }

    fn attr_as(&self, dir: FileId, name: &Name, id: FileId) -> Result<Attr> {
        self.attributes(id, Some((dir, name))).map_err(|err| self.log.explain(err))
    }

    fn parent(&self, id: FileId) -> Result<FileId> {
        Ok(FileId(self.first_name(id)?.0))
    }

    fn by_record(&self, record: u64) -> Result<FileId> {
        let file = system(&self.mft, record)?;
        if !file.base.in_use() {
            return Err(Fault::NotInUse.in_record(record));
        }
        Ok(FileId(file.base.reference()))
    }

    fn name(&self, id: FileId) -> Result<NameBuf> {
        Ok(self.first_name(id)?.1)
    }

    fn open(&self, id: FileId, stream: Option<&Name>) -> Result<BlockRef> {
        self.open_data(id, stream)
    }

    fn streams(&self, id: FileId) -> Result<Vec<Stream>> {
        self.named_streams(id)
    }

    fn read_link(&self, id: FileId) -> Result<LinkTarget> {
        let file = File::open(&self.mft, id.0)?;
        let target = match self.reparse(&file)? {
            Some((tag, data)) => reparse::target(tag, &data).map_err(|fault| fault.in_record(file.number()))?,
            None => None,
        };
        target.ok_or_else(|| Error::new(Kind::WrongType, LAYER, format!("MFT record {} is not a link", file.number())))
    }

    fn security(&self, id: FileId) -> Result<Option<Vec<u8>>> {
        let file = File::open(&self.mft, id.0)?;
        let key = Standard::of(&file)?.security;
        if key == 0 {
            return file.bytes(kind::SECURITY_DESCRIPTOR, MAX_DESCRIPTOR);
        }
        if let Some(known) = self.descriptors.get(&key) {
            return Ok(Some(known.to_vec()));
        }
        let descriptor = self.secure()?.descriptor(&self.nodes, key)?;
        self.descriptors.insert(key, Arc::new(descriptor.clone()), descriptor.len());
        Ok(Some(descriptor))
    }

    fn extended_attributes(&self, id: FileId) -> Result<Option<Vec<u8>>> {
        File::open(&self.mft, id.0)?.bytes(kind::EA, MAX_EA)
    }

    fn object_id(&self, id: FileId) -> Result<Option<[u8; 16]>> {
        let file = File::open(&self.mft, id.0)?;
        let Some(bytes) = file.bytes(kind::OBJECT_ID, MAX_LABEL)? else { return Ok(None) };
        array(&bytes, 0).map(Some).ok_or_else(|| Fault::Short("object id").in_record(file.number()))
    }

    fn reparse_data(&self, id: FileId) -> Result<Option<Vec<u8>>> {
        let file = File::open(&self.mft, id.0)?;
        Ok(self.reparse(&file)?.map(|(_, data)| data))
    }

    fn stats(&self) -> Result<FsStats> {
        if let Some(stats) = self.stats.get() {
            return Ok(*stats);
        }
        let stats = self.totals()?;
        Ok(*self.stats.get_or_init(|| stats))
    }

    fn census(&self) -> Result<Option<Census>> {
        self.count().map(Some)
    }

    fn journal(&self) -> Option<Journal> {
        let notable = self.log != LogOutcome::Closed;
        Some(Journal { state: self.log.word(), text: self.log.to_string(), notable })
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
