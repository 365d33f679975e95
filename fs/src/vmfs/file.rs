//! The content of a file: pointers → runs on the volume, and the watch that they stay true.
//!
//! A host may move, free or reuse blocks at any time, and we take no lock that would keep it from that. So
//! an opened file remembers what it was mapped by (descriptor and pointer blocks) and compares it again:
//! the descriptor every now and then while the file is read, everything when [`VmfsFile::verify`] is called.
//! A difference voids the file: every later use of it fails with [`Kind::Changed`], because bytes read since
//! the last comparison may be another file's.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lru::LruCache;
use vcb_block::{Block, BlockRef, Kind, Result, Runs, check_range, plan};

use super::address::{Address, Item};
use super::descriptor::{Descriptor, Layout, pointer, read_stable};
use super::error::{VmfsError, corrupt, moved, unsupported};
use super::geometry::{Geometry, Version};
use super::resource::Resource;

/// Memory for pointer blocks kept per file: 16 of VMFS-6, which map 8 GiB each, or 256 of VMFS-5.
const TABLE_CACHE: usize = 1 << 20;

/// What any file is read through: the volume and the pools opened so far.
#[derive(Clone)]
pub(super) struct Core {
    pub volume: BlockRef,
    pub geometry: Arc<Geometry>,
    /// `.pb2.sf`: pointer blocks of system files.
    pub pb2: Option<Resource>,
    /// `.pbc.sf`: pointer blocks of VMFS-3 and 5.
    pub pbc: Option<Resource>,
    /// `.sbc.sf`: sub-blocks, and the pointer blocks of VMFS-6.
    pub sbc: Option<Resource>,
}

/// Where a piece of a file is.
enum Place<'a> {
    Zero,
    /// At this volume offset.
    Volume(u64),
    /// At this offset of `.sbc.sf`.
    SubBlock(&'a Resource, u64),
}

/// A table of pointers to data blocks, or the lack of one.
enum Leaf {
    /// Nothing is allocated before this block number.
    Hole { until: u64 },
    /// Pointers from this block number on.
    Table { table: Arc<[u8]>, first: u64 },
    /// The descriptor's own pointers.
    Own,
}

/// When and by what a file was voided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voided {
    /// When it was noticed.
    pub since: SystemTime,
    /// What had changed.
    pub what: &'static str,
}

/// Compares a file with the volume from time to time.
struct Watch {
    every: Duration,
    /// The last comparison; none before the first read.
    last: Mutex<Option<Instant>>,
    voided: OnceLock<Voided>,
}

/// The content of a file.
pub struct VmfsFile {
    core: Core,
    /// Volume offset of the descriptor.
    place: u64,
    opened: Descriptor,
    tables: Mutex<LruCache<u64, Arc<[u8]>>>,
    /// Digests of all pointer blocks ever used, by their pointers.
    used: Mutex<HashMap<u64, u64>>,
    digest: RandomState,
    watch: Option<Watch>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the mutexes here protect is complete after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VmfsFile {
    /// The file of `descriptor`, read from volume offset `place`. It is compared with the volume at most
    /// once per `recheck`, and never without one: so are system files, which hosts change all the time.
    pub(super) fn new(core: Core, place: u64, descriptor: Descriptor, recheck: Option<Duration>) -> VmfsFile {
        let geometry = &core.geometry;
        let table = (geometry.pointers_per_block() as usize).saturating_mul(geometry.pointer_len()).max(1);
        let tables = NonZeroUsize::new(TABLE_CACHE / table).unwrap_or(NonZeroUsize::MIN);
        VmfsFile {
            core,
            place,
            opened: descriptor,
            tables: Mutex::new(LruCache::new(tables)),
            used: Mutex::default(),
            digest: RandomState::new(),
            watch: recheck.map(|every| Watch { every, last: Mutex::new(None), voided: OnceLock::new() }),
        }
    }

    /// Compares everything this file was mapped by with the volume as it is now: bytes read so far were the
    /// file's when this succeeds.
    ///
    /// # Errors
    /// [`Kind::Changed`] when anything differs, now or at an earlier comparison; errors of the volume.
    pub fn verify(&self) -> Result<()> {
        self.judged(|| {
            // Tables first: that the descriptor still points at them makes their contents count.
            let used: Vec<(u64, u64)> = locked(&self.used).iter().map(|(raw, digest)| (*raw, *digest)).collect();
            for (raw, digest) in used {
                if self.digest.hash_one(self.read_table(raw)?) != digest {
                    return Err(moved("a pointer block of the file"));
                }
            }
            self.compare_descriptor()
        })
    }

    /// Compares the descriptor when the last comparison is long enough ago.
    fn recheck(&self) -> Result<()> {
        let Some(watch) = &self.watch else {
            return Ok(());
        };
        if let Some(voided) = watch.voided.get() {
            return Err(moved(voided.what));
        }
        let mut last = locked(&watch.last);
        if last.is_some_and(|last| last.elapsed() < watch.every) {
            return Ok(());
        }
        // Whoever comes meanwhile need not compare as well, unless every use must.
        *last = Some(Instant::now());
        drop(last);
        self.judged(|| self.compare_descriptor())
    }

    fn compare_descriptor(&self) -> Result<()> {
        let now = Descriptor::read(&*self.core.volume, self.place, &self.core.geometry, self.opened.address);
        match now {
            Ok(now) => self.opened.still(&now),
            // It was a good descriptor once: what is there now is something else, or being written.
            Err(err) if err.kind() == Kind::Corrupt || err.kind() == Kind::Unsupported => {
                Err(moved("the file descriptor"))
            }
            Err(err) => Err(err),
        }
    }

    /// Runs a comparison and remembers a bad end.
    fn judged(&self, compare: impl FnOnce() -> Result<()>) -> Result<()> {
        if let Some(voided) = self.voided() {
            return Err(moved(voided.what));
        }
        let result = compare();
        if let (Some(watch), Err(err)) = (&self.watch, &result)
            && err.kind() == Kind::Changed
        {
            let what = err.cause::<VmfsError>().map_or("the file", VmfsError::subject);
            // The first comparison that fails says why.
            let _ = watch.voided.set(Voided { since: SystemTime::now(), what });
        }
        result
    }

    /// Set once the file was found changed: no use of it succeeds from then on.
    #[must_use]
    pub fn voided(&self) -> Option<Voided> {
        self.watch.as_ref()?.voided.get().copied()
    }

    /// Volume offset of `range`, which must lie there in one piece.
    pub(super) fn volume_offset(&self, range: Range<u64>) -> Result<u64> {
        check_range(self.opened.size, range.start, range.end.saturating_sub(range.start))?;
        let mut found: Option<(u64, u64)> = None;
        let mut whole = true;
        self.walk(range.clone(), &mut |len, place| {
            match (place, &mut found) {
                (Place::Volume(at), None) => found = Some((at, len)),
                (Place::Volume(at), Some((start, so_far))) if at == *start + *so_far => *so_far += len,
                _ => whole = false,
            }
            Ok(())
        })?;
        found.filter(|_| whole).map(|(at, _)| at).ok_or_else(|| {
            let expected = "an allocated block (a volume that grew since it was opened must be opened again)";
            corrupt("resource file", "offset", range.start, expected)
        })
    }

    /// Calls `visit` with the pieces of `range`, which must lie within the file.
    fn walk(&self, range: Range<u64>, visit: &mut dyn FnMut(u64, Place<'_>) -> Result<()>) -> Result<()> {
        let Layout::Pointers { levels } = self.opened.layout else {
            return Err(unsupported("file descriptor", "type", u64::from(self.opened.mode), "a file with blocks"));
        };
        let (geometry, unit) = (&self.core.geometry, self.opened.block_size);
        let mut position = range.start;
        while position < range.end {
            let leaf = self.leaf(position / unit, levels)?;
            if let Leaf::Hole { until } = leaf {
                let stop = until.saturating_mul(unit).min(range.end);
                visit(stop - position, Place::Zero)?;
                position = stop;
                continue;
            }
            let before = position;
            while position < range.end {
                let number = position / unit;
                let pointer = match &leaf {
                    Leaf::Table { table, first } => pointer(table, number - first, geometry),
                    _ => self.opened.pointer(number, geometry),
                };
                let Some(pointer) = pointer else {
                    break;
                };
                let stop = (position - position % unit + unit).min(range.end);
                let place = self.place(pointer, position, stop - position)?;
                visit(stop - position, place)?;
                position = stop;
            }
            if position == before {
                return Err(corrupt("file descriptor", "size", self.opened.size, "within the reach of its pointers"));
            }
        }
        Ok(())
    }

    /// The table with the pointer of block `number`.
    fn leaf(&self, number: u64, levels: u32) -> Result<Leaf> {
        if levels == 0 {
            return Ok(Leaf::Own);
        }
        let (geometry, fan) = (&self.core.geometry, self.core.geometry.pointers_per_block());
        let mut span = fan.pow(levels);
        let mut first = number - number % span;
        let mut raw = self.opened.pointer(number / span, geometry).unwrap_or(0);
        loop {
            if raw == 0 {
                return Ok(Leaf::Hole { until: first + span });
            }
            let table = self.table(raw)?;
            span /= fan;
            if span == 1 {
                return Ok(Leaf::Table { table, first });
            }
            let index = (number - first) / span;
            first += index * span;
            raw = pointer(&table, index, geometry).unwrap_or(0);
        }
    }

    /// Where the `len` bytes at `position`, within one block, are by the block's pointer.
    fn place(&self, raw: u64, position: u64, len: u64) -> Result<Place<'_>> {
        let (geometry, unit) = (&self.core.geometry, self.opened.block_size);
        let wrong = || corrupt("file descriptor", "block size", unit, "that of the blocks it points to");
        let (size, number, zeroed) = match Address::decode(raw, geometry)? {
            Address::Hole => return Ok(Place::Zero),
            Address::SubBlock(item) => {
                if unit != geometry.sub_block {
                    return Err(wrong());
                }
                let pool = self.pool(raw, self.core.sbc.as_ref())?;
                return Ok(Place::SubBlock(pool, pool.locate(item, geometry)? + position % unit));
            }
            Address::File { block, zeroed } if unit == geometry.file_block => (unit, block, zeroed),
            Address::Large { number, zeroed } if unit == geometry.file_block || unit == geometry.large_block() => {
                (geometry.large_block(), number, zeroed)
            }
            Address::File { .. } | Address::Large { .. } => return Err(wrong()),
            Address::PointerBlock(_) | Address::PointerBlock2(_) => {
                return Err(corrupt("block pointer", "type", raw & 7, "a data block"));
            }
        };
        let offset = number.checked_mul(size).and_then(|start| start.checked_add(position % size));
        let offset = offset.filter(|at| at.checked_add(len).is_some_and(|end| end <= self.core.volume.len()));
        let Some(offset) = offset else {
            let blocks = self.core.volume.len() / size;
            return Err(corrupt("block pointer", "block", number, format!("below {blocks}, the end of the volume")));
        };
        Ok(if self.reads_as_zero(zeroed)? { Place::Zero } else { Place::Volume(offset) })
    }

    /// True when the marks of a block say that it was never written.
    fn reads_as_zero(&self, marks: u8) -> Result<bool> {
        let all = if self.core.geometry.version == Version::V6 { 0xFF } else { 1 };
        if marks == 0 || marks == all {
            return Ok(marks != 0);
        }
        // VMFS-6 has eight marks. With a unit of zeroing as large as the block there is nothing that only some
        // of them could mean; otherwise which part each of them speaks of is not known.
        if self.opened.zeroing_unit >= self.opened.block_size {
            return Ok(true);
        }
        Err(unsupported("block pointer", "to-be-zeroed marks", marks.into(), "none or all"))
    }

    fn pool<'a>(&self, raw: u64, pool: Option<&'a Resource>) -> Result<&'a Resource> {
        pool.ok_or_else(|| corrupt("pointer", "type", raw & 7, "a kind of block that this volume has"))
    }

    /// The pointer block at pointer `raw`.
    fn table(&self, raw: u64) -> Result<Arc<[u8]>> {
        if let Some(table) = locked(&self.tables).get(&raw) {
            return Ok(Arc::clone(table));
        }
        let table: Arc<[u8]> = self.read_table(raw)?.into();
        let digest = self.digest.hash_one(&*table);
        if *locked(&self.used).entry(raw).or_insert(digest) != digest {
            return self.judged(|| Err(moved("a pointer block of the file"))).map(|()| table);
        }
        locked(&self.tables).put(raw, Arc::clone(&table));
        Ok(table)
    }

    fn read_table(&self, raw: u64) -> Result<Vec<u8>> {
        let (core, geometry) = (&self.core, &self.core.geometry);
        let (pool, item): (Option<&Resource>, Item) = match Address::decode(raw, geometry)? {
            Address::SubBlock(item) if geometry.version == Version::V6 => (core.sbc.as_ref(), item),
            Address::PointerBlock(item) => (core.pbc.as_ref(), item),
            Address::PointerBlock2(item) => (core.pb2.as_ref(), item),
            _ => return Err(corrupt("pointer", "type", raw & 7, "a pointer block")),
        };
        let pool = self.pool(raw, pool)?;
        let len = geometry.pointers_per_block() as usize * geometry.pointer_len();
        read_stable(&*pool.file, pool.locate(item, geometry)?, len, "a pointer block")
    }
}

impl Block for VmfsFile {
    fn len(&self) -> u64 {
        self.opened.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.opened.size, offset, buf.len() as u64)?;
        if self.opened.layout == Layout::Resident {
            // The size was checked against the room for resident bytes.
            let bytes = self.opened.resident().get(offset as usize..offset as usize + buf.len());
            buf.copy_from_slice(bytes.ok_or_else(|| corrupt("file descriptor", "size", offset, "resident bytes"))?);
        } else {
            plan::read_mapped(&Unwatched(self), buf, offset)?;
        }
        // After the bytes: a small file that is read at once and dropped is compared once, and then counts.
        self.recheck()
    }

    fn modified(&self) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.opened.modified.into()))
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.opened.size, range.start, range.end.saturating_sub(range.start))?;
        self.recheck()?;
        if self.opened.layout == Layout::Resident {
            runs.push_opaque(range.end - range.start);
            return Ok(());
        }
        self.extents(range, runs)
    }
}

impl VmfsFile {
    /// Appends where the blocks of `range` are, as far as is known without comparing.
    fn extents(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        // Neighbouring blocks are translated together: the layers below are asked once per extent.
        let mut pending: Option<Range<u64>> = None;
        let volume = &self.core.volume;
        self.walk(range, &mut |len, place| {
            if let (Place::Volume(at), Some(before)) = (&place, &mut pending)
                && before.end == *at
            {
                before.end += len;
                return Ok(());
            }
            if let Some(before) = pending.take() {
                runs.map_child(volume, before)?;
            }
            match place {
                Place::Zero => runs.push_zero(len),
                Place::Volume(at) => pending = Some(at..at + len),
                Place::SubBlock(pool, at) => {
                    let file: BlockRef = pool.file.clone();
                    runs.map_child(&file, at..at + len)?;
                }
            }
            Ok(())
        })?;
        if let Some(before) = pending {
            runs.map_child(volume, before)?;
        }
        Ok(())
    }
}

/// A file with blocks while it is being read: who reads compares it afterwards.
struct Unwatched<'a>(&'a VmfsFile);

impl Block for Unwatched<'_> {
    fn len(&self) -> u64 {
        self.0.opened.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        plan::read_mapped(self, buf, offset)
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        self.0.extents(range, runs)
    }
}
