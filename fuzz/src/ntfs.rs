//! NTFS and partition targets: each takes any bytes and may refuse them, but may not panic, loop or eat memory.

use std::ops::ControlFlow;
use std::sync::Arc;

use vcb_block::{BlockRef, MemBlock, plan};
use vcb_fs::ntfs::codec::{WofAlgorithm, decode_lznt1, decode_wof};
use vcb_fs::ntfs::{Ntfs, Options, logfile};
use vcb_fs::{FileId, Filesystem};

/// A target by name.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this file.
pub const TARGETS: [Target; 7] = [
    ("volume_scan", scan),
    ("ntfs_lznt1", lznt1),
    ("ntfs_xpress", xpress),
    ("ntfs_lzx", lzx),
    ("ntfs_wof", wof),
    ("ntfs_log", log),
    ("ntfs_volume", volume),
];

/// Entries and bytes that the volume target looks at, so that one input stays fast.
const ENTRIES: usize = 200;
const BYTES: u64 = 1 << 20;

fn mem(data: &[u8]) -> BlockRef {
    Arc::new(MemBlock::new(data.to_vec()))
}

/// A disk.
pub fn scan(data: &[u8]) {
    if let Ok(scan) = vcb_fs::volume::scan(&mem(data)) {
        for volume in &scan.volumes {
            assert!(volume.block.len() <= volume.len && volume.block.len() <= data.len() as u64);
        }
    }
}

/// A compression unit.
pub fn lznt1(data: &[u8]) {
    let mut out = vec![0; 65_536];
    let _ = decode_lznt1(data, &mut out);
}

/// A chunk; its first byte chooses the length.
pub fn xpress(data: &[u8]) {
    let Some((&len, data)) = data.split_first() else { return };
    let mut out = vec![0; (usize::from(len) + 1) * 64];
    let _ = decode_wof(WofAlgorithm::Xpress16K, data, &mut out);
}

/// As [`xpress`].
pub fn lzx(data: &[u8]) {
    let Some((&len, data)) = data.split_first() else { return };
    let mut out = vec![0; (usize::from(len) + 1) * 128];
    let _ = decode_wof(WofAlgorithm::Lzx32K, data, &mut out);
}

/// A whole stream with its chunk table, in the algorithm of its first byte.
pub fn wof(data: &[u8]) {
    let Some((&first, data)) = data.split_first() else { return };
    let Ok(algorithm) = WofAlgorithm::from_number(u32::from(first & 3)) else { return };
    let cache = vcb_fs::ntfs::codec::UnitCache::new(1 << 16);
    let size = u64::from(first >> 2) * 3000;
    if let Ok(file) = vcb_fs::ntfs::codec::open_wof(mem(data), size, algorithm, &cache) {
        let _ = plan::read(&file, &mut vec![0; size as usize], 0);
    }
}

/// A log, over a volume of as many zeros.
pub fn log(data: &[u8]) {
    let volume = logfile::Volume { block: mem(&vec![0; data.len()]), cluster: 4096, record: 1024 };
    let _ = logfile::inspect(&mem(data));
    if let Ok(overlay) = logfile::replay(&volume, &mem(data)) {
        assert!(overlay.apply(volume.block).is_ok(), "a change outside of the volume");
    }
}

/// A volume: opened, listed, read.
pub fn volume(data: &[u8]) {
    let options = Options { cache_bytes: 1 << 20, ..Options::default() };
    let Ok(fs) = Ntfs::open(mem(data), &options) else { return };
    let mut folders = vec![fs.root()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        let mut found: Vec<FileId> = Vec::new();
        let _ = fs.read_dir(folder, 0, &mut |entry| {
            found.push(entry.id);
            seen += 1;
            if seen < ENTRIES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        for id in found {
            let _ = fs
                .attr(id)
                .map(|attr| (attr.kind == vcb_fs::FileType::Dir && seen < ENTRIES).then(|| folders.push(id)));
            for stream in fs.streams(id).unwrap_or_default().into_iter().take(8) {
                read(&*fs, id, Some(&stream.name));
            }
            read(&*fs, id, None);
            let _ = (fs.read_link(id), fs.security(id), fs.extended_attributes(id), fs.object_id(id));
        }
    }
    let _ = fs.stats();
}

fn read(fs: &dyn Filesystem, id: FileId, stream: Option<&[u8]>) {
    if let Ok(block) = fs.open(id, stream) {
        let mut bytes = vec![0; block.len().min(BYTES) as usize];
        let _ = plan::read(&block, &mut bytes, 0);
    }
}
