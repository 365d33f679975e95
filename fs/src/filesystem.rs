//! What every filesystem reader offers to views.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::SystemTime;

use vcb_block::{BlockRef, Error, Kind, Result};

/// A file name in WTF-8: UTF-8 that also carries unpaired UTF-16 surrogates, so that every NTFS name has
/// exactly one form. For filesystems with byte names it is those bytes.
pub type Name = [u8];
/// An owned [`Name`].
pub type NameBuf = Vec<u8>;

/// Identity of a file within its volume, the same at every mount. For NTFS it is the 64-bit file
/// reference: record number in the low 48 bits, sequence number above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// A point in time, as NTFS counts it: 100-nanosecond steps since 1601-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Time(pub u64);

impl Time {
    /// Steps between 1601-01-01 and 1970-01-01.
    const UNIX_EPOCH: i128 = 116_444_736_000_000_000;

    /// Seconds and nanoseconds since 1970-01-01; seconds are negative before, nanoseconds never are.
    #[must_use]
    pub fn unix(self) -> (i64, u32) {
        let steps = i128::from(self.0) - Self::UNIX_EPOCH;
        // 2^64 steps are 58,000 years: both parts fit their types.
        (steps.div_euclid(10_000_000) as i64, (steps.rem_euclid(10_000_000) * 100) as u32)
    }

    /// From whole seconds since 1970-01-01, for filesystems that count those.
    #[must_use]
    pub fn from_unix(seconds: i64) -> Self {
        let steps = i128::from(seconds) * 10_000_000 + Self::UNIX_EPOCH;
        Time(u64::try_from(steps).unwrap_or(0))
    }

    /// From the clock of this host; `None` before 1970.
    #[must_use]
    pub fn from_system(time: SystemTime) -> Option<Self> {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let seconds = Time::from_unix(i64::try_from(since.as_secs()).ok()?);
        Some(Time(seconds.0 + u64::from(since.subsec_nanos() / 100)))
    }
}

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link or junction.
    Symlink,
    /// Something that has no content here: a device, a VMFS system file.
    Other,
}

/// Why a file's data cannot be had. Such a file is shown as it is; reading it fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// Encrypted by EFS.
    Encrypted,
    /// Replaced by a data-deduplication reparse point.
    Deduplicated,
    /// A cloud placeholder whose data is not on this volume.
    CloudPlaceholder {
        /// The reparse tag.
        tag: u32,
    },
    /// A reparse tag that we do not know how to follow.
    UnknownReparse {
        /// The reparse tag.
        tag: u32,
    },
    /// Any other reason.
    Other(String),
}

impl Unreadable {
    /// The stable word for the sort of reason, used in counts and JSON.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Unreadable::Encrypted => "encrypted",
            Unreadable::Deduplicated => "deduplicated",
            Unreadable::CloudPlaceholder { .. } => "cloud-placeholder",
            Unreadable::UnknownReparse { .. } => "unknown-reparse-tag",
            Unreadable::Other(_) => "other",
        }
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unreadable::Encrypted => f.write_str("encrypted by EFS"),
            Unreadable::Deduplicated => f.write_str("replaced by data deduplication"),
            Unreadable::CloudPlaceholder { tag } => write!(f, "a cloud placeholder (reparse tag {tag:#010x})"),
            Unreadable::UnknownReparse { tag } => write!(f, "behind the unknown reparse tag {tag:#010x}"),
            Unreadable::Other(why) => f.write_str(why),
        }
    }
}

/// Attributes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    /// Identity within the volume.
    pub id: FileId,
    /// What it is.
    pub kind: FileType,
    /// Length of the content in bytes.
    pub size: u64,
    /// Bytes really occupied: what `du` shows.
    pub allocated: u64,
    /// Number of names (on NTFS: not counting DOS ones).
    pub links: u32,
    /// Last write.
    pub modified: Time,
    /// Last change of metadata: what backup software calls ctime.
    pub changed: Time,
    /// Last read.
    pub accessed: Time,
    /// Birth.
    pub created: Time,
    /// DOS attributes (`FILE_ATTRIBUTE_*`), 0 where the filesystem has none.
    pub dos: u32,
    /// Reparse tag, 0 when there is none.
    pub reparse_tag: u32,
    /// True when names in this folder are compared case-sensitively.
    pub case_sensitive: bool,
    /// Set when reading the content is known to fail.
    pub unreadable: Option<Unreadable>,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name.
    pub name: NameBuf,
    /// The file.
    pub id: FileId,
    /// What it is, as far as the entry alone tells; [`Filesystem::attr`] has the last word.
    pub kind: FileType,
    /// Position after this entry: passed to [`Filesystem::read_dir`] it continues with the next one.
    pub next: u64,
}

/// A named stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Its name.
    pub name: NameBuf,
    /// Length in bytes.
    pub size: u64,
}

/// Where a symbolic link or junction leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkTarget {
    /// Inside the same volume: path components from the volume's root.
    Volume(Vec<NameBuf>),
    /// Relative to the link's folder: components, `..` among them.
    Relative(Vec<NameBuf>),
    /// To a place that the guest names absolutely: on this volume or another one, which only those who
    /// know the guest's drive letters can tell.
    Guest {
        /// The volume.
        volume: GuestVolume,
        /// Path components from that volume's root.
        path: Vec<NameBuf>,
    },
    /// Leads elsewhere (a network share, a device, a path of the guest's Linux subsystem): the text as the
    /// guest has it.
    Foreign(NameBuf),
}

/// How a guest names one of its volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestVolume {
    /// By drive letter, a capital: `C:\…`.
    Letter(char),
    /// By volume GUID, `\\?\Volume{…}\…`, in the byte order of GPT entries and MountedDevices.
    Guid([u8; 16]),
}

/// Totals of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FsStats {
    /// Unit of allocation in bytes.
    pub cluster_size: u32,
    /// Clusters in all.
    pub clusters: u64,
    /// Free clusters.
    pub free_clusters: u64,
    /// Files, as far as the filesystem counts them.
    pub files: u64,
}

/// How many files of a volume cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Census {
    /// Files looked at, folders and links included, NTFS's own not.
    pub files: u64,
    /// By [`Unreadable::word`], or `damaged` for what could not even be looked at.
    pub unreadable: BTreeMap<&'static str, u64>,
}

impl Census {
    /// Counts one more under `word`.
    pub fn count(&mut self, word: &'static str) {
        *self.unreadable.entry(word).or_default() += 1;
    }
}

/// What became of the changes in a filesystem's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    /// A stable word, used in JSON.
    pub state: &'static str,
    /// For people.
    pub text: String,
    /// True when the user should know: changes may be missing, or were made in memory.
    pub notable: bool,
}

/// A read-only filesystem on one volume. All methods may be called by many threads at once; no lock is
/// held while data is read, nor while a caller's closure runs. Names that are not there give
/// [`vcb_block::Kind::NotFound`]. An id that leads nowhere gives `Corrupt`, as all damage does: it came from
/// a folder, and damage is never presented as absence.
pub trait Filesystem: Send + Sync {
    /// Short name of the format: `ntfs`, `vmfs6`.
    fn kind(&self) -> &'static str;

    /// Volume label, empty when there is none.
    fn label(&self) -> NameBuf;

    /// Volume serial number or UUID as the format prints it.
    fn serial(&self) -> String;

    /// The root folder.
    fn root(&self) -> FileId;

    /// The file called `name` in folder `dir`, byte-exact. Where the folder has no such name but one that
    /// differs only in case, that is not a match: see [`Filesystem::lookup_ignore_case`].
    fn lookup(&self, dir: FileId, name: &Name) -> Result<FileId>;

    /// As [`Filesystem::lookup`], by the folder's own rules for letter case; an exact match wins. With the name as the
    /// folder has it.
    fn lookup_ignore_case(&self, dir: FileId, name: &Name) -> Result<(FileId, NameBuf)>;

    /// Calls `each` for the entries of `dir` after position `cookie` (0 is the start), in the folder's own
    /// order, until it breaks or the folder ends. `.` and `..` are not among them. Positions survive a
    /// remount; they are below 2^63, and 1 to 15 are never used, so that a front end may have them.
    fn read_dir(&self, dir: FileId, cookie: u64, each: &mut dyn FnMut(DirEntry) -> ControlFlow<()>) -> Result<()>;

    /// Attributes.
    fn attr(&self, id: FileId) -> Result<Attr>;

    /// Attributes of the file that `dir` has as `name`: an error unless the file agrees that this is its name. Where
    /// a format keeps names in folder and file, damage of an entry would otherwise show another file's content.
    fn attr_as(&self, _dir: FileId, _name: &Name, id: FileId) -> Result<Attr> {
        self.attr(id)
    }

    /// [`Filesystem::lookup`] and [`Filesystem::attr_as`] in one: what paths are followed with.
    fn child(&self, dir: FileId, name: &Name) -> Result<Attr> {
        self.attr_as(dir, name, self.lookup(dir, name)?)
    }

    /// [`Filesystem::child`] by the folder's own rules for letter case, with the name as the folder has it.
    fn child_ignore_case(&self, dir: FileId, name: &Name) -> Result<(Attr, NameBuf)> {
        let (id, name) = self.lookup_ignore_case(dir, name)?;
        Ok((self.attr_as(dir, &name, id)?, name))
    }

    /// The folder that holds (one name of) `id`; the root's parent is the root.
    fn parent(&self, id: FileId) -> Result<FileId>;

    /// The file whose id has `record` in its low 48 bits. A volume that does not change has at most one, so
    /// inode numbers of a mount need not carry more. Filesystems whose ids use the high bits override it.
    fn by_record(&self, record: u64) -> Result<FileId> {
        Ok(FileId(record))
    }

    /// (One of) the names of `id` in the folder that [`Filesystem::parent`] gives. The default searches that
    /// folder; formats that store names with the file override it.
    fn name(&self, id: FileId) -> Result<NameBuf> {
        let mut found = None;
        self.read_dir(self.parent(id)?, 0, &mut |entry| {
            if entry.id == id {
                found = Some(entry.name);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        found.ok_or_else(|| Error::new(Kind::NotFound, "fs", "a file is not in its own parent folder"))
    }

    /// Opens the content, or a named stream.
    ///
    /// # Errors
    /// `Unsupported` for what [`Attr::unreadable`] tells, `NotFound` for a stream that is not there,
    /// `WrongType` for a folder's content.
    fn open(&self, id: FileId, stream: Option<&Name>) -> Result<BlockRef>;

    /// Named streams, without the content.
    fn streams(&self, id: FileId) -> Result<Vec<Stream>>;

    /// Where a link leads. `WrongType` when it is none.
    fn read_link(&self, id: FileId) -> Result<LinkTarget>;

    /// The security descriptor in self-relative form, when there is one.
    fn security(&self, id: FileId) -> Result<Option<Vec<u8>>>;

    /// Extended attributes in the format's own encoding (NTFS `$EA`), when there are any.
    fn extended_attributes(&self, id: FileId) -> Result<Option<Vec<u8>>>;

    /// The 16-byte object id, when there is one.
    fn object_id(&self, id: FileId) -> Result<Option<[u8; 16]>>;

    /// The raw reparse data (without the tag header), when there is any.
    fn reparse_data(&self, id: FileId) -> Result<Option<Vec<u8>>>;

    /// Totals of the volume.
    fn stats(&self) -> Result<FsStats>;

    /// Looks at every file of the volume, which reads all of its metadata, and counts those that cannot be
    /// read. `None` where the format has no such files.
    ///
    /// # Errors
    /// Failing reads. Damage of single files is counted.
    fn census(&self) -> Result<Option<Census>> {
        Ok(None)
    }

    /// The state of the journal; `None` where the format has none.
    fn journal(&self) -> Option<Journal> {
        None
    }

    /// Conditions of the volume that a user should know: a dirty log, hibernation, replay done.
    fn notes(&self) -> Vec<String>;
}
