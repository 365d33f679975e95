//! Damaged and hostile volumes: errors, never panics, never other files' bytes.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Duration;

use vcb_block::{BlockRef, Fault, FaultBlock};
use vcb_fixtures::vmdk::Rng;
use vcb_fixtures::vmfs;
use vcb_fs::vmfs::{Options, Vmfs};
use vcb_fs::{FileId, FileType, Filesystem};

use crate::common::sha256;
use crate::image::{Changing, DATA, Layout, V5, V6, device};

const MANIFEST_ENTRIES: &str = r#"[
    {"path": "/small.txt", "text": "hello"},
    {"path": "/sub.bin", "random": {"size": 20000, "seed": 1}, "layout": "sb"},
    {"path": "/d", "type": "dir"},
    {"path": "/d/multi.bin", "random": {"size": 1100000, "seed": 2}},
    {"path": "/d/pb.vmdk", "size": "600MiB", "runs": [{"at": 0, "size": 70000, "seed": 3},
                                                     {"at": "555MiB", "size": 70000, "seed": 4}]},
    {"path": "/link", "type": "symlink", "target": "d/multi.bin"}],
    "hosts": [{"slot": 64, "mac": "005056000001"}], "locks": [{"path": "/small.txt", "mode": 1, "host": 0}]"#;
/// Bytes of a file that are compared: enough to reach every pointer block of the files above.
const PROBES: [Range<u64>; 3] = [0..65_536, 1_048_576..1_100_000, 581_959_680..582_029_680];

/// What can be read of a volume: the hash of the probed bytes of every file, by path.
fn contents(device: BlockRef) -> BTreeMap<String, Option<String>> {
    let options = Options { lease: Some(Duration::ZERO), ..Options::default() };
    let mut found = BTreeMap::new();
    if let Ok(fs) = Vmfs::open(vec![device], &options) {
        walk(&fs, fs.root(), "", 0, &mut found);
    }
    found
}

fn walk(fs: &Vmfs, dir: FileId, path: &str, depth: u32, found: &mut BTreeMap<String, Option<String>>) {
    let mut entries = Vec::new();
    let listed = fs.read_dir(dir, 0, &mut |entry| {
        entries.push(entry);
        ControlFlow::Continue(())
    });
    if listed.is_err() || depth > 4 {
        return;
    }
    for entry in entries {
        let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
        match entry.kind {
            FileType::Dir => walk(fs, entry.id, &path, depth + 1, found),
            FileType::File => {
                found.insert(path, probe(fs, entry.id).ok());
            }
            _ => drop(fs.read_link(entry.id)),
        }
    }
}

fn probe(fs: &Vmfs, id: FileId) -> vcb_block::Result<String> {
    let file = fs.open(id, None)?;
    let mut all = file.len().to_le_bytes().to_vec();
    for range in PROBES {
        let mut buf = vec![0; range.end.min(file.len()).saturating_sub(range.start) as usize];
        if !buf.is_empty() {
            file.read_at(&mut buf, range.start)?;
        }
        all.extend(buf);
    }
    Ok(sha256(&all))
}

/// Structures whose every bit is checked by another one, as device ranges with the bytes within that carry
/// meaning and that nothing else repeats (times, labels, ids of the device).
fn protected(layout: &Layout) -> Vec<Range<u64>> {
    let (entry, rows) = if layout.six { (0x10_1000, 0x18_2000) } else { (0x10_0200, 0x18_0600) };
    let fsd = DATA + 0x20_0000;
    let mut ranges = vec![
        0x10_0000..0x10_0008,       // LVM magic, version
        0x10_0066..0x10_006E,       // volumes, rows
        entry..entry + 8,           // volume length
        entry + 0x10..entry + 0x14, // state
        entry + 0x54..entry + 0x68, // UUID, snapshot id
        entry + 0x74..entry + 0x88, // units
        entry + 0x90..entry + 0x94, // devices
        rows..rows + 0x21,          // first row
        fsd..fsd + 4,               // magic
        fsd + 0xA1..fsd + 0xA9,     // file block
        fsd + 0xB1..fsd + 0xC5,     // LVM UUID
        fsd + 0xD1..fsd + 0xDD,     // groups, sub-blocks
    ];
    // System files: lock type and place, address, block size, layout, and the headers they begin with.
    for number in [2, 3, 4, 6] {
        let at = DATA + layout.first + number * layout.descriptor;
        ranges.push(at..at + 12);
        ranges.push(at + layout.meta..at + layout.meta + 4);
        ranges.push(at + layout.meta + 0x1C..at + layout.meta + 0x24);
    }
    ranges
}

fn flip(version: u32, layout: &Layout) {
    let manifest =
        format!(r#"{{"version": {version}, "label": "flip", "extent_mib": 512, "entries": {MANIFEST_ENTRIES}}}"#);
    let dir = tempfile::tempdir().unwrap();
    let Some(made) = vmfs::make_text(&manifest, dir.path()) else { return };
    let image = Changing::new(&made.devices[0]);
    let good = contents(device(&image));
    assert_eq!(good.len(), 4, "{good:?}");
    assert!(good.values().all(Option::is_some));
    let torture = std::env::var_os("VCB_TORTURE").is_some();
    let mut random = Rng::new(u64::from(version));

    for range in protected(layout) {
        for at in range {
            for bit in 0..8 {
                if !torture && random.below(8) != 0 {
                    continue;
                }
                image.write(at, &[image.peek(at, 1)[0] ^ 1 << bit]);
                for (path, hash) in contents(device(&image)) {
                    let same = hash.is_none() || good.get(&path) == Some(&hash);
                    assert!(same, "VMFS-{version}: bit {bit} at {at:#x} gives other bytes for {path}");
                }
                image.reset();
            }
        }
    }

    // Everywhere else a flip may change what a file is, as there are no checksums; it must be survived. The
    // metadata is what is read to open, list and map everything, without any file's blocks.
    let metadata = image.traced(|| survey(device(&image)));
    let len: u64 = metadata.iter().map(|range| range.end - range.start).sum();
    eprintln!("VMFS-{version}: {len} bytes of metadata in {} ranges", metadata.len());
    let places = || metadata.iter().cloned().flatten();
    if torture {
        let started = std::time::Instant::now();
        for (number, at) in places().enumerate() {
            (0..8).for_each(|bit| survive(&image, at, bit));
            if number % 65_536 == 65_535 {
                eprintln!("VMFS-{version}: {} of {len} bytes after {:?}", number + 1, started.elapsed());
            }
        }
        return;
    }
    // Bytes that are not zero are few and carry most of the meaning.
    let written: Vec<u64> = places().filter(|at| image.peek(*at, 1)[0] != 0).collect();
    let all: Vec<u64> = places().collect();
    for places in [written, all] {
        for _ in 0..300 {
            let at = places[random.below(places.len() as u64) as usize];
            survive(&image, at, random.below(8) as u32);
        }
    }
}

/// Opens, lists and maps everything with one bit changed.
fn survive(image: &Arc<Changing>, at: u64, bit: u32) {
    image.write(at, &[image.peek(at, 1)[0] ^ 1 << bit]);
    let survived = std::panic::catch_unwind(|| survey(device(image)));
    assert!(survived.is_ok(), "bit {bit} at {at:#x} panics");
    image.reset();
}

/// Reads all metadata, and no blocks of files.
fn survey(device: BlockRef) {
    let options = Options { lease: Some(Duration::ZERO), ..Options::default() };
    let Ok(fs) = Vmfs::open(vec![device], &options) else { return };
    let mut folders = vec![fs.root()];
    let mut left = 100;
    while let Some(folder) = folders.pop() {
        let _ = fs.read_dir(folder, 0, &mut |entry| {
            left -= 1;
            let _ = (fs.attr(entry.id), fs.lock(entry.id, false), fs.parent(entry.id));
            match entry.kind {
                FileType::Dir => folders.push(entry.id),
                FileType::Symlink => drop(fs.read_link(entry.id)),
                _ => drop(fs.open_file(entry.id).map(|file| {
                    let file: BlockRef = file;
                    // A size that a flip made large is mapped at its ends.
                    for range in [0..file.len().min(1 << 30), file.len().saturating_sub(1 << 20)..file.len()] {
                        drop(vcb_block::Runs::of(&file, range));
                    }
                })),
            }
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if left == 0 {
            break;
        }
    }
    let _ = fs.verify();
}

#[test]
fn single_bit_flips_of_vmfs_5() {
    flip(5, &V5);
}

#[test]
fn single_bit_flips_of_vmfs_6() {
    flip(6, &V6);
}

#[test]
fn every_failing_read_is_an_error() {
    let manifest = format!(r#"{{"version": 6, "label": "eio", "extent_mib": 512, "entries": {MANIFEST_ENTRIES}}}"#);
    let dir = tempfile::tempdir().unwrap();
    let Some(made) = vmfs::make_text(&manifest, dir.path()) else { return };
    let image = Changing::new(&made.devices[0]);
    let good = contents(device(&image));
    for nth in 1.. {
        let fault = Arc::new(FaultBlock::at(device(&image), nth, Fault::Eio));
        for (path, hash) in contents(fault.clone()) {
            assert!(hash.is_none() || good.get(&path) == Some(&hash), "read {nth} failed and {path} has other bytes");
        }
        if !fault.fired() {
            break;
        }
    }
}
