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

/// Replaces bytes as `data` says: offset in three bytes, length in one, bytes; repeated. Offsets count through the
/// `structures`, a list of sectors, and in the upper half of their range through everything.
fn patch(bytes: &mut [u8], structures: &[usize], mut data: &[u8]) {
    while let [a, b, c, len, rest @ ..] = data {
        let offset = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
        let at = match offset >> 23 {
            0 => structures[offset / 512 % structures.len()] * 512 + offset % 512,
            _ => (offset & 0x7F_FFFF) % bytes.len(),
        };
        let len = usize::from(*len).min(rest.len()).min(bytes.len() - at);
        bytes[at..at + len].copy_from_slice(&rest[..len]);
        data = &rest[len..];
    }
}

/// A log over a volume of as many zeros: one that the first byte chooses, of which some bytes are replaced before
/// its pages are protected against torn writes (few random changes would get past that protection), or all
/// that follows.
pub fn log(data: &[u8]) {
    static LOGS: OnceLock<[(Vec<u8>, Vec<usize>); 2]> = OnceLock::new();
    let plain = |major| {
        let log = protected(vcb_fixtures::ntfs_seeds::log(major), false);
        let used = (0..log.len() / 512).filter(|sector| log[sector * 512..][..512].iter().any(|&byte| byte != 0));
        let used = used.collect();
        (log, used)
    };
    let Some((&which, data)) = data.split_first() else { return };
    let log = match which {
        0xFF => data.to_vec(),
        _ => {
            let (log, used) = &LOGS.get_or_init(|| [1, 2].map(plain))[usize::from(which % 2)];
            let mut log = log.clone();
            patch(&mut log, used, data);
            protected(log, true)
        }
    };
    let volume = logfile::Volume { block: mem(&vec![0; log.len()]), cluster: 4096, record: 1024 };
    let log: BlockRef = Arc::new(MemBlock::new(log));
    let _ = logfile::inspect(&log);
    if let Ok(overlay) = logfile::replay(&volume, &log) {
        assert!(overlay.apply(volume.block).is_ok(), "a change outside of the volume");
    }
}

/// The pages of a log with their sectors' ends as they are stored (`stored`), or as they are meant.
fn protected(mut log: Vec<u8>, stored: bool) -> Vec<u8> {
    for page in log.chunks_exact_mut(4096) {
        let start = usize::from(u16::from_le_bytes([page[4], page[5]]));
        if !matches!(&page[..4], b"RCRD" | b"RSTR") || start + 18 > 510 {
            continue;
        }
        for sector in 0..8 {
            let (end, own) = (sector * 512 + 510, start + 2 + 2 * sector);
            match stored {
                true => {
                    page.copy_within(end..end + 2, own);
                    page.copy_within(start..start + 2, end);
                }
                false => page.copy_within(own..own + 2, end),
            }
        }
    }
    log
}

/// A small volume of which some bytes are replaced, mostly of boot sector, records and index blocks.
pub fn volume(data: &[u8]) {
    static TINY: OnceLock<(Vec<u8>, Vec<usize>)> = OnceLock::new();
    let (tiny, structures) = TINY.get_or_init(|| {
        let tiny = vcb_fixtures::ntfs_seeds::tiny();
        let begins = |sector: usize, what: &[u8]| tiny.get(sector * 512..).is_some_and(|rest| rest.starts_with(what));
        let in_block = |sector: usize, len, what| (0..len).any(|back| sector >= back && begins(sector - back, what));
        let structure = |sector: &usize| *sector == 0 || in_block(*sector, 2, b"FILE") || in_block(*sector, 8, b"INDX");
        let sectors = (0..tiny.len() / 512).filter(structure).collect();
        (tiny, sectors)
    });
    let mut bytes = tiny.clone();
    patch(&mut bytes, structures, data);
    survey(bytes);
}

/// Everything on a volume that can be asked for: paths of files and streams, and how many bytes each gave.
pub fn survey(volume: Vec<u8>) -> Vec<(String, Result<u64, String>)> {
    let options = Options { cache_bytes: 1 << 20, ..Options::default() };
    let volume: BlockRef = Arc::new(MemBlock::new(volume));
    let Ok(fs) = Ntfs::open(volume, &options) else { return Vec::new() };
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
