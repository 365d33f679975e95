//! Stream-optimized extents: hosted sparse with each grain compressed on its own.
//!
//! Layout: VMware "Virtual Disk Format 5.0", chapter "Stream-Optimized Compressed Sparse Extents". What it
//! calls RFC 1951 is RFC 1950 (zlib) in every file seen, so that each grain carries a checksum. There are two
//! layouts: the directory at the end, found through a footer (vSphere exports), and the directory in front
//! (VDDK, open-vmdk, QEMU), which the header points to.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use libdeflater::Decompressor;
use vcb_block::ahead::{Ahead, Reach, Source};
use vcb_block::bytes::{le32, le64};
use vcb_block::{Block, BlockRef, Error, Result, Runs, check_range};

use super::footer::{cut_short, walk};
use super::grains::Grains;
use super::hosted::{Hosted, HostedHeader};
use super::table::Place;
use super::{Cursor, Extent, Piece};
use crate::cache::{Cache, Cached, Key, owner};
use crate::check::{Report, Severity};
use crate::disk::OpenOptions;

const LAYER: &str = "vmdk-stream";

/// Largest grain in bytes: 1 MiB, eight times what any known writer makes. Grains are inflated into memory.
const MAX_GRAIN: u64 = 1 << 20;
/// Stored bytes read at once when neighbouring grains are wanted.
const MAX_SPAN: u64 = 2 << 20;
/// Stored grains whose headers are looked at together.
const BATCH: usize = 64;
/// Most threads that inflate ahead for one extent.
const MAX_THREADS: usize = 4;
/// One request of the kernel: several of one reader are under way at once.
const NEAR: u64 = 1 << 20;

/// Opens a stream; `header` is the effective one.
pub(crate) fn open(
    header: &HostedHeader,
    file: BlockRef,
    cache: Arc<Cache>,
    options: &OpenOptions,
) -> Result<(Stream, Vec<String>)> {
    let grain = header.grain * 512;
    if grain > MAX_GRAIN {
        return Err(Error::unsupported(LAYER, format!("compressed grains of {grain} bytes")).at(20));
    }
    let (shape, warning) = header.shape(file.len())?;
    let grains = Grains::new(Hosted::new(header), shape, file, cache, options.allow_dirty);
    grains.survey(u64::MAX)?;
    let inflater = Inflater { grains: Arc::new(grains), markers: header.has_markers(), owner: owner() };
    inflater.check_end().map_err(|err| match err.kind() {
        vcb_block::Kind::Corrupt => cut_short(header, inflater.grains.file(), err.report()),
        _ => err,
    })?;
    let grains = Arc::clone(&inflater.grains);
    let inflater = Arc::new(inflater);
    let ahead = Ahead::new(Arc::clone(&inflater), reach(options));
    let inflated = Arc::new(Inflated { inflater, ahead });
    Ok((Stream { grains, header: header.clone(), inflated }, warning.into_iter().collect()))
}

fn reach(options: &OpenOptions) -> Reach {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // With a single core there is nobody to do the work meanwhile.
    let window = if cores > 1 { options.read_ahead_budget() } else { 0 };
    Reach { window, near: NEAR, threads: cores.min(MAX_THREADS) }
}

/// A stream as an extent: holes and zeros by its map, stored grains by the inflater.
pub(crate) struct Stream {
    grains: Arc<Grains<Hosted>>,
    header: HostedHeader,
    inflated: BlockRef,
}

impl Extent for Stream {
    fn len(&self) -> u64 {
        self.grains.shape().len
    }

    fn piece(&self, cursor: &mut Cursor, offset: u64, end: u64) -> Result<(Piece<'_>, u64)> {
        let (place, _, len) = self.grains.segment(cursor, offset, end)?;
        let piece = match place {
            Place::HOLE => Piece::Hole,
            Place::ZERO => Piece::Zero,
            _ => Piece::Child(&self.inflated, offset),
        };
        Ok((piece, len))
    }

    /// Inflates every grain, which compares its place and its checksum.
    fn check(&self, report: &mut Report) -> Result<()> {
        self.grains.check_tables(report)?;
        let shape = self.grains.shape();
        let mut buf = vec![0; shape.grain as usize];
        let mut listed = 0;
        for index in 0..shape.tables() {
            let Ok(table) = self.grains.load_copy(index, false) else { continue };
            for segment in table.segments().filter(|segment| segment.place.offset().is_some()) {
                listed += 1;
                let guest = index * shape.coverage() + u64::from(segment.start) * shape.grain;
                let len = shape.grain.min(shape.len - guest) as usize;
                if let Err(err) = self.inflated.read_at(&mut buf[..len], guest) {
                    report.error(&err);
                }
            }
            if report.is_full() {
                return Ok(());
            }
        }
        if self.header.has_markers() {
            let walk = walk(self.header.overhead, &self.header, self.grains.file())?;
            if walk.grains != listed {
                let text = format!("the stream holds {} grains, its tables list {listed}", walk.grains);
                report.add(Severity::Error, Some(walk.end), text);
            }
        }
        Ok(())
    }
}

/// Inflates stored grains.
struct Inflater {
    grains: Arc<Grains<Hosted>>,
    /// Grains begin with their guest sector.
    markers: bool,
    owner: u64,
}

thread_local! {
    static DECOMPRESSOR: RefCell<Decompressor> = RefCell::new(Decompressor::new());
    /// Stored bytes of a batch; at most [`MAX_SPAN`] and one grain.
    static STORED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A stored grain: where it is in guest and file.
#[derive(Clone, Copy)]
struct Stored {
    guest: u64,
    at: u64,
    /// Where it may end: the next grain's place when that is a likely one, else the longest a grain may be.
    /// Only a guess, which spares reading what is not needed.
    end: u64,
}

/// Runs `work` with this thread's buffer. The buffer is taken out for the time, because reading may come
/// back here: a disk inside a file system inside a disk.
fn with_buffer<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut buffer = STORED.take();
    let result = work(&mut buffer);
    STORED.set(buffer);
    result
}

impl Inflater {
    fn grain(&self) -> u64 {
        self.grains.shape().grain
    }

    /// Bytes before the compressed data.
    fn prefix(&self) -> u64 {
        if self.markers { 12 } else { 4 }
    }

    /// Most bytes that a stored grain may take: twice the grain, which is what QEMU reads.
    fn bound(&self) -> u64 {
        self.grain() * 2 + self.prefix()
    }

    /// The grain for `guest`, stored at `at`; `next` is where the grain after it is.
    fn stored(&self, guest: u64, at: u64, next: Option<u64>) -> Stored {
        let longest = at + self.bound();
        Stored { guest, at, end: next.filter(|next| (at + 1..longest).contains(next)).unwrap_or(longest) }
    }

    /// Inflates the last stored grain, which is the one that a stream cut short has lost.
    fn check_end(&self) -> Result<()> {
        for index in (0..self.grains.shape().tables()).rev() {
            let table = self.grains.load_copy(index, false)?;
            let stored = table.segments().filter_map(|s| Some((s.place.offset()?, s.start))).max();
            if let Some((at, start)) = stored {
                let guest = index * self.grains.shape().coverage() + u64::from(start) * self.grain();
                return self.inflate_one(self.stored(guest, at, None)).map(drop);
            }
        }
        Ok(())
    }

    /// Reads `span`, as far as the file goes, into `buffer`.
    fn fetch<'a>(&self, buffer: &'a mut Vec<u8>, span: Range<u64>) -> Result<&'a [u8]> {
        let file = self.grains.file();
        // At most MAX_SPAN and one grain's bound.
        let len = (span.end.min(file.len()) - span.start) as usize;
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        file.read_at(&mut buffer[..len], span.start)?;
        Ok(&buffer[..len])
    }

    /// The compressed bytes of `grain` in `raw`, which begins at its first byte, and how many there should be.
    fn body<'a>(&self, grain: Stored, raw: &'a [u8]) -> Result<(Option<&'a [u8]>, u64)> {
        let corrupt = |text: String| Error::corrupt(LAYER, text).at(grain.at);
        let header = |at| le32(raw, at).ok_or_else(|| corrupt("a grain's header passes the end of the file".into()));
        let size = if self.markers {
            let sector = le64(raw, 0).filter(|&sector| sector == grain.guest / 512);
            sector
                .ok_or_else(|| corrupt(format!("the grain here is not the one for guest offset {:#x}", grain.guest)))?;
            header(8)?
        } else {
            header(0)?
        };
        let size = u64::from(size);
        if size == 0 || size + self.prefix() > self.bound() {
            return Err(corrupt(format!("a compressed grain of {size} bytes")));
        }
        let prefix = self.prefix() as usize;
        Ok((raw.get(prefix..prefix + size as usize), size))
    }

    /// Inflates `body` into `out`, which takes the whole grain.
    fn inflate(&self, grain: Stored, body: &[u8], out: &mut [u8]) -> Result<()> {
        let result = DECOMPRESSOR.with_borrow_mut(|decompressor| decompressor.zlib_decompress(body, out));
        // The disk may end within its last grain, and the grain may be stored as short as that.
        let need = self.grain().min(self.grains.shape().len - grain.guest);
        match result {
            Ok(got) if got as u64 >= need => Ok(()),
            Ok(got) => Err(Error::corrupt(LAYER, format!("a grain inflates to {got} of {need} bytes")).at(grain.at)),
            Err(err) => Err(Error::corrupt(LAYER, format!("a grain does not inflate: {err}")).at(grain.at)),
        }
    }

    /// Inflates one grain into memory of its own, whatever its neighbours.
    fn inflate_one(&self, grain: Stored) -> Result<Box<[u8]>> {
        let mut out = vec![0; self.grain() as usize].into_boxed_slice();
        self.inflate_group(&[grain], &mut out)?;
        Ok(out)
    }

    /// Inflates grains that lie closely behind each other, each into its part of `out`.
    fn inflate_group(&self, group: &[Stored], out: &mut [u8]) -> Result<()> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(()) };
        let grain = self.grain() as usize;
        let whole = with_buffer(|buffer| {
            let raw = self.fetch(buffer, first.at..last.end)?;
            for (&stored, out) in group.iter().zip(out.chunks_exact_mut(grain)) {
                let (Some(body), _) = self.body(stored, &raw[(stored.at - first.at) as usize..])? else {
                    return Ok(false);
                };
                self.inflate(stored, body, out)?;
            }
            Ok::<_, Error>(true)
        })?;
        if whole {
            return Ok(());
        }
        // The guess where one of them ends was wrong, or the file ends before.
        for (&stored, out) in group.iter().zip(out.chunks_exact_mut(grain)) {
            with_buffer(|buffer| {
                let raw = self.fetch(buffer, stored.at..stored.at + self.bound())?;
                let (body, size) = self.body(stored, raw)?;
                self.inflate(stored, body.ok_or_else(|| self.past_end(stored, size))?, out)
            })?;
        }
        Ok(())
    }

    fn past_end(&self, grain: Stored, size: u64) -> Error {
        let text = format!("a grain of {size} bytes passes the end of the file at {:#x}", self.grains.file().len());
        Error::corrupt(LAYER, text).at(grain.at)
    }

    /// Inflates whole neighbouring grains into `buf`, reading their stored bytes at once where they lie
    /// closely behind each other.
    fn read_whole(&self, batch: &[Stored], mut buf: &mut [u8]) -> Result<()> {
        let grain = self.grain() as usize;
        let mut rest = batch;
        while let Some(&first) = rest.first() {
            let limit = first.at + MAX_SPAN;
            let follows = |pair: &[Stored]| pair[0].at < pair[1].at && pair[1].at <= limit;
            let count = 1 + rest.windows(2).take_while(|pair| follows(pair)).count();
            let (group, tail) = rest.split_at(count);
            let (out, more) = std::mem::take(&mut buf).split_at_mut(count * grain);
            self.inflate_group(group, out)?;
            rest = tail;
            buf = more;
        }
        Ok(())
    }
}

impl Source for Inflater {
    type Job = Stored;

    fn make(&self, stored: Stored) -> Option<Box<[u8]>> {
        self.inflate_one(stored).ok()
    }
}

/// The stored grains as a block. It is addressed by guest offset and asked only for what is stored.
struct Inflated {
    inflater: Arc<Inflater>,
    ahead: Ahead<Inflater>,
}

impl Inflated {
    /// The grains stored for guest offsets `from..to`. Only a hint: whoever reads them meets the error that
    /// ends the list early.
    fn list(&self, from: u64, to: u64) -> Vec<(u64, Stored)> {
        let Inflater { grains, .. } = &*self.inflater;
        let size = self.inflater.grain();
        let (mut at, to) = (from.next_multiple_of(size), to.min(self.len()));
        let mut cursor = Cursor::default();
        let mut list = Vec::new();
        while at < to {
            let Ok((place, _, len)) = grains.segment(&mut cursor, at, to) else { break };
            if let Some(place) = place.offset() {
                list.push((at, self.inflater.stored(at, place, grains.next_place(&cursor))));
            }
            at += len;
        }
        list
    }

    /// Copies a part of a grain, through the cache: small reads come back to the same grain.
    fn read_part(&self, grain: Stored, from: u64, buf: &mut [u8]) -> Result<()> {
        let key = Key { owner: self.inflater.owner, index: grain.guest / self.inflater.grain() };
        let cache = self.inflater.grains.cache();
        let cached = match cache.get(key) {
            Some(cached) => cached,
            None => {
                let bytes = self.ahead.take(grain.guest).map_or_else(|| self.inflater.inflate_one(grain), Ok)?;
                cache.put(key, Cached::Grain(bytes))
            }
        };
        let part = match &*cached {
            Cached::Grain(bytes) => bytes.get(from as usize..from as usize + buf.len()),
            _ => None,
        };
        buf.copy_from_slice(part.ok_or_else(|| Error::corrupt(LAYER, "a cached grain is short"))?);
        Ok(())
    }
}

impl Block for Inflated {
    fn len(&self) -> u64 {
        self.inflater.grains.shape().len
    }

    fn read_at(&self, mut buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.len(), offset, buf.len() as u64)?;
        let grain = self.inflater.grain();
        let end = offset + buf.len() as u64;
        self.ahead.note(offset, end, |from, to| self.list(from, to));
        let mut cursor = Cursor::default();
        let mut batch = [Stored { guest: 0, at: 0, end: 0 }; BATCH];
        let mut count = 0;
        let mut position = offset;
        while position < end {
            let guest = position - position % grain;
            let (place, _, _) = self.inflater.grains.segment(&mut cursor, position, end)?;
            let at = place.offset().ok_or_else(|| {
                Error::corrupt(LAYER, format!("guest offset {guest:#x} was asked for, which is not stored"))
            })?;
            let stored = self.inflater.stored(guest, at, self.inflater.grains.next_place(&cursor));
            let stop = (guest + grain).min(end);
            let whole = position == guest && stop == guest + grain;
            let ready = if whole { self.ahead.take(guest) } else { None };
            let waits = whole && ready.is_none();
            if waits {
                batch[count] = stored;
                count += 1;
            }
            if count > 0 && (!waits || count == BATCH || stop == end) {
                let (out, rest) = std::mem::take(&mut buf).split_at_mut(count * grain as usize);
                self.inflater.read_whole(&batch[..count], out)?;
                buf = rest;
                count = 0;
            }
            if !waits {
                let (out, rest) = std::mem::take(&mut buf).split_at_mut((stop - position) as usize);
                match ready {
                    Some(bytes) => out.copy_from_slice(&bytes),
                    None => self.read_part(stored, position - guest, out)?,
                }
                buf = rest;
            }
            position = stop;
        }
        Ok(())
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len(), range.start, range.end.saturating_sub(range.start))?;
        runs.push_opaque(range.end - range.start);
        Ok(())
    }
}
