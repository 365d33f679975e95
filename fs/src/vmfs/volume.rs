//! Opening a volume, and finding and opening the files on it.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lru::LruCache;
use vcb_block::{Block, BlockRef, Error, Kind, Result};

use super::address::{BLOCKS_PER_CLUSTER, descriptor_item, system_address};
use super::descriptor::{Descriptor, FileKind, Layout};
use super::directory::Listing;
use super::discover::{self, Place};
use super::error::{LAYER, VmfsError, corrupt, moved, unsupported};
use super::file::{Core, VmfsFile};
use super::geometry::{Geometry, Version};
use super::lock::{Heartbeats, LockReport};
use super::lvm::{self, LvmHeader, ScsiId};
use super::resource::{Resource, ResourceHeader};
use super::uuid::Uuid;
use crate::FileId;

/// Numbers of the system files' descriptors.
const FBB: u32 = 1;
const FDC: u32 = 2;
const PBC: u32 = 3;
const SBC: u32 = 4;
const PB2: u32 = 6;
/// Offset of the file block bitmap's header in `.fbb.sf` of VMFS-6, behind that of the large blocks.
const SMALL_BLOCK_HEADER: u64 = 0x1000;
/// Folders whose listings are kept.
const LISTINGS: usize = 64;
/// Longest listing kept.
const LISTING_ENTRIES: usize = 100_000;
/// Files whose folder is remembered.
const FOLDERS: usize = 65_536;
/// For how long a listing is used without reading the folder again.
const LISTING_LIFE: Duration = Duration::from_secs(1);
/// Readings of a folder before we say that it does not hold still.
const TRIES: usize = 4;
/// Longest symbolic link we read; the limit of the hosts is 4095.
pub(super) const MAX_LINK: u64 = 4096;
/// Notes kept, so that a volume full of stale locks does not fill memory.
const MAX_NOTES: usize = 100;

/// How to open a volume.
#[derive(Clone)]
pub struct Options {
    /// How often the descriptor of a file that is being read is compared with the volume. Zero compares at
    /// every use.
    pub recheck: Duration,
    /// Opens files that a live host may be writing, instead of refusing them.
    pub allow_locked: bool,
    /// Time without a new heartbeat after which a host counts as dead; `None` takes the volume's own.
    pub lease: Option<Duration>,
    /// Shows system files (`.fbb.sf` and others) in the root folder.
    pub system_files: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { recheck: Duration::from_secs(1), allow_locked: false, lease: None, system_files: false }
    }
}

/// What a mapping file says of its raw device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawDevice {
    /// The id of the LUN as text ([`ScsiId::text`]).
    pub id: String,
    /// Bytes of it that the VM sees.
    pub len: u64,
}

impl fmt::Display for RawDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a mapping of the raw device '{}', which is not on this volume", self.id)
    }
}

/// An opened volume.
pub struct Vmfs {
    pub(super) core: Core,
    /// `.fdc.sf`: file descriptors.
    descriptors: Resource,
    pub(super) options: Options,
    heartbeats: Heartbeats,
    listings: Mutex<LruCache<FileId, Arc<Listing>>>,
    /// Folders of files, as far as they were looked up: versions before 6 do not record them with the file.
    folders: Mutex<LruCache<FileId, FileId>>,
    /// Files handed out and still in use.
    open: Mutex<Vec<Weak<VmfsFile>>>,
    notes: Mutex<Vec<String>>,
    pub(super) root: FileId,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the mutexes here protect is complete after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The id of a file: its descriptor's address in the low bits, what fits of the generation above.
pub(super) fn id_of(address: u32, generation: u32) -> FileId {
    FileId(u64::from(address) | u64::from(generation & 0xFFFF) << 48)
}

fn cache<T>(len: usize) -> Mutex<LruCache<FileId, T>> {
    Mutex::new(LruCache::new(NonZeroUsize::new(len).unwrap_or(NonZeroUsize::MIN)))
}

fn not_handed_out(id: FileId) -> Error {
    Error::new(Kind::NotFound, LAYER, format!("no file has the id {:#x}", id.0))
}

impl Vmfs {
    /// Opens the volume that `devices` (whole LUNs, partitions, or images of either) form together. All
    /// devices of a volume must be given, in any order.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when a device is missing or belongs elsewhere, `Unsupported` for versions we do not
    /// know, `Corrupt` for damage.
    pub fn open(devices: Vec<BlockRef>, options: &Options) -> Result<Arc<Vmfs>> {
        let volume = logical_volume(devices)?;
        let geometry = Arc::new(Geometry::read(&volume.block)?);
        if volume.lvm.is_some_and(|lvm| lvm != geometry.lvm) {
            let text = format!("the file system is of LVM volume {}, not of the one it is on", geometry.lvm.0);
            return Err(Error::unsupported(LAYER, VmfsError::Devices(text)));
        }
        let mut core = Core { volume: volume.block, geometry: Arc::clone(&geometry), pb2: None, pbc: None, sbc: None };
        // In this order each file needs only pools that are open: larger volumes map .sbc.sf and .fdc.sf
        // through pointer blocks. They are read straight from the descriptor array, not through the root.
        let pointer_block = geometry.pointers_per_block() * geometry.pointer_len() as u64;
        if geometry.version != Version::V3 {
            core.pb2 = Some(Resource::open(system_file(&core, PB2)?, &geometry, pointer_block)?);
        }
        core.pbc = Some(Resource::open(system_file(&core, PBC)?, &geometry, pointer_block)?);
        core.sbc = Some(Resource::open(system_file(&core, SBC)?, &geometry, geometry.sub_block)?);
        let len = geometry.descriptor_len() as u64;
        let descriptors = Resource::open(system_file(&core, FDC)?, &geometry, len)?;
        check_block_bitmap(&core)?;

        let root_address = system_address(0);
        let root = descriptor(&core, &descriptors, root_address)?;
        if root.kind != FileKind::Dir {
            return Err(corrupt("root folder", "mode", root.mode.into(), "a folder"));
        }
        Ok(Arc::new(Vmfs {
            heartbeats: Heartbeats::new(options.lease.unwrap_or(geometry.lease)),
            core,
            descriptors,
            options: options.clone(),
            listings: cache(LISTINGS),
            folders: cache(FOLDERS),
            open: Mutex::default(),
            notes: Mutex::default(),
            root: id_of(root_address, root.generation),
        }))
    }

    /// UUID of the volume, as in `/vmfs/volumes/UUID`.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.core.geometry.uuid
    }

    /// Generation of the format.
    #[must_use]
    pub fn version(&self) -> Version {
        self.core.geometry.version
    }

    /// How `id` is locked, and by whom. With `settle` it waits until every holder is known to be live or not:
    /// a few seconds for a live host, a whole lease (16 s) for a dead one.
    ///
    /// # Errors
    /// Those of the volume.
    pub fn lock(&self, id: FileId, settle: bool) -> Result<LockReport> {
        let (file, _) = self.load(id)?;
        self.heartbeats.report(&self.core.volume, &self.core.geometry, &file.lock, settle)
    }

    /// The raw device that `id` is a mapping file of; `None` when it is none.
    ///
    /// # Errors
    /// Those of the volume.
    pub fn raw_device(&self, id: FileId) -> Result<Option<RawDevice>> {
        let (file, _) = self.load(id)?;
        if file.kind != FileKind::Rdm {
            return Ok(None);
        }
        raw_device(&file).map(Some)
    }

    /// Opens the content of a file, with the means to verify it.
    ///
    /// # Errors
    /// [`Kind::Busy`] when a live host may be writing it (naming the host), `WrongType` for folders and links,
    /// `Unsupported` for mapping files.
    pub fn open_file(&self, id: FileId) -> Result<Arc<VmfsFile>> {
        let (file, place) = self.load(id)?;
        match file.kind {
            FileKind::File | FileKind::System => {}
            FileKind::Dir | FileKind::Symlink => {
                return Err(Error::new(Kind::WrongType, LAYER, "a folder or a link, not a file"));
            }
            FileKind::Rdm => return Err(Error::unsupported(LAYER, raw_device(&file)?.to_string())),
        }
        if file.lock.mode.writable() && file.kind == FileKind::File && !self.options.allow_locked {
            let report = self.heartbeats.report(&self.core.volume, &self.core.geometry, &file.lock, true)?;
            if let Some(writer) = report.writer() {
                return Err(Error::new(Kind::Busy, LAYER, VmfsError::Held(writer)));
            }
            let holders: Vec<String> = report.holders.iter().map(ToString::to_string).collect();
            self.note(format!("a lock is left over from {}: its heartbeat stands still", holders.join(", ")));
        }
        let recheck = (file.kind == FileKind::File).then_some(self.options.recheck);
        let file = Arc::new(VmfsFile::new(self.core.clone(), place, file, recheck));
        let mut open = locked(&self.open);
        open.retain(|file| file.strong_count() > 0);
        open.push(Arc::downgrade(&file));
        Ok(file)
    }

    /// Compares every open file with the volume ([`VmfsFile::verify`]). Bytes read so far from files that
    /// are still open were right when this succeeds; call it once more after the last read.
    ///
    /// # Errors
    /// The first failure, after all files have been compared, so that each that changed is voided.
    pub fn verify(&self) -> Result<()> {
        let files: Vec<Arc<VmfsFile>> = locked(&self.open).iter().filter_map(Weak::upgrade).collect();
        let mut result = Ok(());
        for file in files {
            let checked = file.verify();
            result = result.and(checked);
        }
        result
    }

    pub(super) fn notes(&self) -> Vec<String> {
        locked(&self.notes).clone()
    }

    fn note(&self, text: String) {
        let mut notes = locked(&self.notes);
        if notes.len() < MAX_NOTES && !notes.contains(&text) {
            notes.push(text);
        }
    }

    /// The descriptor of `id`, and its volume offset.
    pub(super) fn load(&self, id: FileId) -> Result<(Descriptor, u64)> {
        let address = u32::try_from(id.0 & 0xFFFF_FFFF_FFFF).map_err(|_| not_handed_out(id))?;
        let item = descriptor_item(address).ok_or_else(|| not_handed_out(id))?;
        let place = self.descriptors.place(item, &self.core.geometry)?;
        let file = Descriptor::read(&*self.core.volume, place, &self.core.geometry, address)?;
        if id_of(address, file.generation) != id {
            return Err(moved("the generation of the file descriptor"));
        }
        Ok((file, place))
    }

    /// Remembers that `id` is in folder `dir`.
    pub(super) fn remember(&self, id: FileId, dir: FileId) {
        locked(&self.folders).put(id, dir);
    }

    /// The folder that `id` was found in, if it was looked up.
    pub(super) fn remembered(&self, id: FileId) -> Option<FileId> {
        locked(&self.folders).get(&id).copied()
    }

    /// The present id of the descriptor at `address`.
    pub(super) fn current(&self, address: u32) -> Result<FileId> {
        let file = descriptor(&self.core, &self.descriptors, address)?;
        Ok(id_of(address, file.generation))
    }

    /// The entries of folder `id`.
    pub(super) fn listing(&self, id: FileId) -> Result<Arc<Listing>> {
        if let Some(known) = locked(&self.listings).get(&id)
            && known.read.elapsed() < LISTING_LIFE
        {
            return Ok(Arc::clone(known));
        }
        let listing = Arc::new(self.read_listing(id)?);
        if listing.entries.len() <= LISTING_ENTRIES {
            locked(&self.listings).put(id, Arc::clone(&listing));
        }
        Ok(listing)
    }

    /// Reads a folder until two readings, with the descriptor around them, agree.
    fn read_listing(&self, id: FileId) -> Result<Listing> {
        let mut last: Option<(Descriptor, Listing)> = None;
        for _ in 0..TRIES {
            let (dir, place) = self.load(id)?;
            if !is_folder(&dir) {
                return Err(Error::new(Kind::WrongType, LAYER, "not a folder"));
            }
            let file = VmfsFile::new(self.core.clone(), place, dir.clone(), None);
            let listing = Listing::read(&file, &self.core.geometry)?;
            if let Some((before, known)) = &last
                && before.still(&dir).is_ok()
                && known.same(&listing)
            {
                return Ok(listing);
            }
            last = Some((dir, listing));
        }
        Err(Error::new(Kind::Changed, LAYER, VmfsError::Unstable("a folder")))
    }

    /// All bytes of a small file that is no larger than `limit`.
    pub(super) fn read_small(&self, file: Descriptor, place: u64, limit: u64) -> Result<Vec<u8>> {
        if file.size > limit {
            return Err(corrupt("file descriptor", "size", file.size, format!("at most {limit}")));
        }
        let mut bytes = vec![0; file.size as usize];
        VmfsFile::new(self.core.clone(), place, file, Some(Duration::ZERO)).read_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// The device that mapping file `file` names.
pub(super) fn raw_device(file: &Descriptor) -> Result<RawDevice> {
    let scsi = ScsiId::parse(file.resident());
    let scsi = scsi.ok_or_else(|| corrupt("raw device mapping", "device id", 0, "a SCSI id"))?;
    Ok(RawDevice { id: scsi.text(), len: file.size })
}

/// `.sdd.sf` is a folder of type "system file".
pub(super) fn is_folder(file: &Descriptor) -> bool {
    const TYPE_BITS: u32 = 0o170_000;
    const FOLDER: u32 = 0o040_000;
    file.kind == FileKind::Dir || (file.kind == FileKind::System && file.mode & TYPE_BITS == FOLDER)
}

fn descriptor(core: &Core, pool: &Resource, address: u32) -> Result<Descriptor> {
    let wrong = || corrupt("address", "type", u64::from(address & 7), "4 (file descriptor)");
    let item = descriptor_item(address).ok_or_else(wrong)?;
    Descriptor::read(&*core.volume, pool.place(item, &core.geometry)?, &core.geometry, address)
}

/// A system file, from the array of descriptors at its fixed place.
fn system_file(core: &Core, number: u32) -> Result<VmfsFile> {
    let place = core.geometry.system_descriptor(number.into());
    let file = Descriptor::read(&*core.volume, place, &core.geometry, system_address(number))?;
    if file.kind != FileKind::System || !matches!(file.layout, Layout::Pointers { .. }) {
        return Err(corrupt("system file", "mode", file.mode.into(), "a system file in blocks").at(place));
    }
    Ok(VmfsFile::new(core.clone(), place, file, None))
}

/// Block pointers of VMFS-6 count in clusters whose length the block bitmap tells.
fn check_block_bitmap(core: &Core) -> Result<()> {
    if core.geometry.version != Version::V6 {
        return Ok(());
    }
    let bitmap = system_file(core, FBB)?;
    let mut raw = [0; 64];
    bitmap.read_at(&mut raw, SMALL_BLOCK_HEADER)?;
    let header = ResourceHeader::parse(&raw, &core.geometry)?;
    if header.items_per_cluster != BLOCKS_PER_CLUSTER {
        return Err(unsupported(".fbb.sf", "blocks per cluster", header.items_per_cluster, "512"));
    }
    Ok(())
}

struct Logical {
    block: BlockRef,
    /// UUID and snapshot id, when there is an LVM.
    lvm: Option<(Uuid, u32)>,
}

fn logical_volume(devices: Vec<BlockRef>) -> Result<Logical> {
    let single = devices.len() == 1;
    let mut parts: Vec<(BlockRef, LvmHeader)> = Vec::with_capacity(devices.len().min(32));
    for device in devices {
        match discover::place(&device)? {
            Place::Lvm(block, header) => parts.push((block, header)),
            Place::Bare(block) if single => return Ok(Logical { block, lvm: None }),
            Place::Bare(_) => {
                let text = "a volume without LVM is complete on its own: no other device can belong to it";
                return Err(Error::new(Kind::NotFound, LAYER, VmfsError::Devices(text.to_owned())));
            }
            Place::None => return Err(Error::new(Kind::NotFound, LAYER, VmfsError::NotVmfs)),
        }
    }
    let lvm = parts.first().map(|(_, header)| (header.volume, header.snapshot));
    Ok(Logical { block: lvm::assemble(&parts)?, lvm })
}
