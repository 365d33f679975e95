//! Finds and changes structures of written volumes by the layout alone, without the reader.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use vcb_block::{Block, BlockRef, FileSource, Result, Runs, check_range};

/// Device offset of the volume's first byte on images with one device and no partition table.
pub const DATA: u64 = 0x110_0000;
const SECTOR: u64 = 512;

/// Numbers of a version.
#[derive(Clone, Copy)]
pub struct Layout {
    pub six: bool,
    pub descriptor: u64,
    pub meta: u64,
    pub pointers: u64,
    /// Volume offset of the first descriptor.
    pub first: u64,
    pub heartbeats: u64,
    pub heartbeat: u64,
}

pub const V5: Layout = Layout {
    six: false,
    descriptor: 2048,
    meta: 0x200,
    pointers: 0x400,
    first: 0x42_0000,
    heartbeats: 0x30_0000,
    heartbeat: 512,
};
pub const V6: Layout = Layout {
    six: true,
    descriptor: 8192,
    meta: 0x1000,
    pointers: 0x1600,
    first: 0x72_0000,
    heartbeats: 0x30_0000,
    heartbeat: 4096,
};

impl Layout {
    /// Encodes the address of file block `number`.
    pub fn pointer(&self, number: u64) -> Vec<u8> {
        if self.six {
            (1 | (number / 512) << 15 | (number % 512) << 51).to_le_bytes().to_vec()
        } else {
            (1 | (number as u32) << 6).to_le_bytes().to_vec()
        }
    }

    /// File block of an encoded address.
    pub fn block(&self, raw: &[u8]) -> u64 {
        if self.six {
            let raw = u64::from_le_bytes(raw[..8].try_into().unwrap());
            (raw >> 15 & 0x7FFF_FFFF) * 512 + (raw >> 51)
        } else {
            u64::from(u32::from_le_bytes(raw[..4].try_into().unwrap()) >> 6)
        }
    }

    pub fn pointer_len(&self) -> u64 {
        if self.six { 8 } else { 4 }
    }
}

/// An image with changes over it, some of which come into force while it is read.
pub struct Changing {
    base: FileSource,
    state: Mutex<State>,
    reads: AtomicU64,
    /// Ranges read, as far as somebody wants to know.
    trace: Mutex<Option<Vec<Range<u64>>>>,
}

#[derive(Default)]
struct State {
    sectors: BTreeMap<u64, Vec<u8>>,
    /// Changes to come: (number of the read before which they happen, device offset, bytes), last first.
    due: Vec<(u64, u64, Vec<u8>)>,
}

impl Changing {
    pub fn new(path: &Path) -> Arc<Changing> {
        let base = FileSource::open(path).unwrap();
        Arc::new(Changing { base, state: Mutex::default(), reads: AtomicU64::new(0), trace: Mutex::default() })
    }

    /// The sectors that `work` reads, in ascending ranges.
    pub fn traced(&self, work: impl FnOnce()) -> Vec<Range<u64>> {
        *self.trace.lock().unwrap() = Some(Vec::new());
        work();
        let mut read = self.trace.lock().unwrap().take().unwrap();
        read.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in read {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged
    }

    /// Bytes as they are now, without counting as a read.
    pub fn peek(&self, at: u64, len: u64) -> Vec<u8> {
        let mut buf = vec![0; len as usize];
        self.fill(&self.state.lock().unwrap(), &mut buf, at);
        buf
    }

    fn fill(&self, state: &State, buf: &mut [u8], at: u64) {
        self.base.read_at(buf, at).unwrap();
        let end = at + buf.len() as u64;
        for (sector, bytes) in state.sectors.range(at / SECTOR..end.div_ceil(SECTOR)) {
            let start = sector * SECTOR;
            let (from, to) = (start.max(at), (start + SECTOR).min(end));
            buf[(from - at) as usize..(to - at) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
    }

    fn apply(&self, state: &mut State, at: u64, bytes: &[u8]) {
        for (offset, byte) in (at..).zip(bytes) {
            let sector = offset / SECTOR;
            let stored = state.sectors.entry(sector).or_insert_with(|| {
                let mut buf = vec![0; SECTOR as usize];
                self.base.read_at(&mut buf, sector * SECTOR).unwrap();
                buf
            });
            stored[(offset % SECTOR) as usize] = *byte;
        }
    }

    /// Changes bytes at once.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.apply(&mut self.state.lock().unwrap(), at, bytes);
    }

    /// Changes bytes before read number `read` from now.
    pub fn write_before(&self, read: u64, at: u64, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.due.push((self.reads.load(SeqCst) + read, at, bytes.to_vec()));
    }

    /// Takes all changes back.
    pub fn reset(&self) {
        *self.state.lock().unwrap() = State::default();
    }

    /// Device offset of the descriptor of the only file that is `size` bytes long.
    pub fn descriptor_of(&self, layout: &Layout, size: u64) -> u64 {
        // The file of descriptors need not lie in one piece; all of it is in the first 64 MiB.
        let found: Vec<u64> = (layout.first..64 << 20)
            .step_by(layout.descriptor as usize)
            .map(|place| DATA + place)
            .filter(|at| {
                let lock = self.peek(*at, 4);
                let meta = self.peek(at + layout.meta, 0x1C);
                lock == 0x10C0_0001u32.to_le_bytes() && meta[0x14..0x1C] == size.to_le_bytes()
            })
            .collect();
        assert_eq!(found.len(), 1, "descriptors of {size} bytes: {found:x?}");
        found[0]
    }
}

impl Block for Changing {
    fn len(&self) -> u64 {
        self.base.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.len(), offset, buf.len() as u64)?;
        let number = self.reads.fetch_add(1, SeqCst) + 1;
        if let Some(trace) = self.trace.lock().unwrap().as_mut() {
            trace.push(offset..offset + buf.len() as u64);
        }
        let mut state = self.state.lock().unwrap();
        let (due, later) = std::mem::take(&mut state.due).into_iter().partition(|(at, _, _)| *at <= number);
        state.due = later;
        let due: Vec<(u64, u64, Vec<u8>)> = due;
        for (_, at, bytes) in due {
            self.apply(&mut state, at, &bytes);
        }
        self.fill(&state, buf, offset);
        Ok(())
    }

    fn map(&self, range: Range<u64>, runs: &mut Runs) -> Result<()> {
        check_range(self.len(), range.start, range.end - range.start)?;
        runs.push_own_data(range.end - range.start);
        Ok(())
    }
}

/// As a device.
pub fn device(image: &Arc<Changing>) -> BlockRef {
    image.clone()
}
