//! NTFS and partition targets: each takes any bytes and may refuse them, but may not panic, loop or eat memory.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use vcb_block::{BlockRef, MemBlock, plan};
use vcb_fs::ntfs::codec::{WofAlgorithm, decode_lznt1, decode_wof};
use vcb_fs::ntfs::{Ntfs, Options, fuzzing, logfile};
use vcb_fs::{FileId, FileType, Filesystem};

/// A target by name.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this file.
pub const TARGETS: [Target; 12] = [
    ("volume_scan", scan),
    ("ntfs_boot", fuzzing::boot),
    ("ntfs_record", fuzzing::record),
    ("ntfs_attribute", fuzzing::attribute),
    ("ntfs_index", fuzzing::index),
    ("ntfs_runlist", fuzzing::run_list),
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

/// A small volume of which some bytes are replaced: offset in three bytes, length in one, bytes; repeated.
pub fn volume(mut data: &[u8]) {
    static TINY: OnceLock<Vec<u8>> = OnceLock::new();
    let mut bytes = TINY.get_or_init(vcb_fixtures::ntfs_seeds::tiny).clone();
    while let [a, b, c, len, rest @ ..] = data {
        let at = u32::from_le_bytes([*a, *b, *c, 0]) as usize % bytes.len();
        let len = usize::from(*len).min(rest.len()).min(bytes.len() - at);
        bytes[at..at + len].copy_from_slice(&rest[..len]);
        data = &rest[len..];
    }
    survey(&bytes);
}

/// Everything on a volume that can be asked for: paths of files and streams, and how many bytes each gave.
pub fn survey(volume: &[u8]) -> Vec<(String, Result<u64, String>)> {
    let options = Options { cache_bytes: 1 << 20, ..Options::default() };
    let Ok(fs) = Ntfs::open(mem(volume), &options) else { return Vec::new() };
    let mut folders = vec![(fs.root(), String::new())];
    let mut all = Vec::new();
    while let Some((folder, path)) = folders.pop() {
        let mut found: Vec<(FileId, String)> = Vec::new();
        let listed = fs.read_dir(folder, 0, &mut |entry| {
            found.push((entry.id, format!("{path}/{}", String::from_utf8_lossy(&entry.name))));
            if all.len() + found.len() < ENTRIES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if let Err(err) = listed {
            all.push((path + "/", Err(err.report())));
        }
        for (id, path) in found {
            for stream in fs.streams(id).unwrap_or_default().into_iter().take(8) {
                let name = format!("{path}:{}", String::from_utf8_lossy(&stream.name));
                all.push((name, read(&*fs, id, Some(&stream.name))));
            }
            let _ = (fs.read_link(id), fs.security(id), fs.extended_attributes(id), fs.object_id(id));
            match fs.attr(id).map(|attr| attr.kind) {
                Ok(FileType::File) => all.push((path, read(&*fs, id, None))),
                Ok(FileType::Dir) if all.len() < ENTRIES => folders.push((id, path)),
                Ok(_) => {}
                Err(err) => all.push((path, Err(err.report()))),
            }
        }
    }
    let _ = (fs.stats(), fs.census());
    all
}

fn read(fs: &dyn Filesystem, id: FileId, stream: Option<&[u8]>) -> Result<u64, String> {
    let block = fs.open(id, stream).map_err(|err| err.report())?;
    let mut bytes = vec![0; block.len().min(BYTES) as usize];
    plan::read(&block, &mut bytes, 0).map_err(|err| err.report())?;
    Ok(bytes.len() as u64)
}
