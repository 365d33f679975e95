//! Failing disks and damaged volumes: every answer is right or an error, and every call ends.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod ntfs_common;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use ntfs_common::made::{Made, Recipe};
use ntfs_common::{digest, open};
use vcb_block::{BlockRef, Fault, FaultBlock, Kind, MemBlock, Result, Window};
use vcb_fs::ntfs::{Ntfs, Options};
use vcb_fs::{FileId, FileType, Filesystem};

/// Entries that one walk may meet: a damaged tree must not be endless.
const MOST: usize = 10_000;

/// A small volume with a bit of everything.
fn volume() -> Option<Made> {
    let recipe = Recipe { megabytes: 2, sector: 512, cluster: 1024 };
    Made::new(&recipe, |root| {
        std::fs::create_dir(root.join("folder")).unwrap();
        for i in 0..60 {
            let name = root.join(format!("folder/a rather long name of a file, number {i}"));
            std::fs::write(name, format!("content {i}").repeat(i)).unwrap();
        }
        std::fs::write(root.join("file"), vec![7; 50_000]).unwrap();
        std::fs::write(root.join("file:stream"), b"stream").unwrap();
        for i in 0..30 {
            std::fs::hard_link(root.join("file"), root.join(format!("folder/hard link {i}"))).unwrap();
        }
    })
}

type Files = BTreeMap<Vec<u8>, Result<String>>;

/// Path and content of everything, as far as it can be had; folders that cannot be listed are errors.
fn survey(fs: &dyn Filesystem) -> Files {
    let mut files = Files::new();
    let mut folders = vec![(fs.root(), Vec::new())];
    while let Some((dir, path)) = folders.pop() {
        let mut found = Vec::new();
        let listed = fs.read_dir(dir, 0, &mut |entry| {
            found.push((entry.name, entry.id));
            if found.len() > MOST { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(found.len() <= MOST, "endless folder");
        for (name, id) in found {
            let path = [&path[..], b"/", &name].concat();
            let content = one(fs, dir, &name, id);
            if let Ok(None) = content
                && path.len() < 2000
            {
                folders.push((id, path.clone()));
            }
            files.insert(path, content.map(Option::unwrap_or_default));
        }
        if let Err(err) = listed {
            assert_ne!(err.kind(), Kind::NotFound, "{err:?}");
            files.insert([&path[..], b"/"].concat(), Err(err));
        }
    }
    files
}

/// Content of a file, `None` for a folder; everything else that can be asked about it is asked.
fn one(fs: &dyn Filesystem, dir: FileId, name: &[u8], id: FileId) -> Result<Option<String>> {
    let attr = fs.attr_as(dir, name, id)?;
    let _ = (fs.security(id), fs.parent(id), fs.name(id), fs.lookup(dir, name), fs.read_link(id), fs.object_id(id));
    let mut all = String::new();
    for stream in fs.streams(id)? {
        all += &digest(&fs.open(id, Some(&stream.name))?)?;
    }
    match attr.kind {
        FileType::Dir => Ok(None),
        // A flipped bit may make a file huge and sparse: its size is right, reading it takes too long.
        _ if attr.size > 64 << 20 => Ok(Some("huge".to_owned())),
        _ => Ok(Some(all + &digest(&fs.open(id, None)?)?)),
    }
}

#[test]
fn every_failing_read_is_an_error_or_does_no_harm() {
    let Some(made) = volume() else { return };
    let volume = made.block();
    let expected = survey(&*open(&volume));
    assert!(expected.len() > 90 && expected.values().all(Result::is_ok));
    let counted = Arc::new(FaultBlock::new(volume.clone()));
    survey(&*open(&(counted.clone() as BlockRef)));
    assert!(counted.reads() > 50);
    for fault in [Fault::Eio, Fault::EioForever] {
        for nth in 1..=counted.reads() {
            let faulty: BlockRef = Arc::new(FaultBlock::at(volume.clone(), nth, fault));
            let fs = match Ntfs::open(faulty, &Options::default()) {
                Ok(fs) => fs,
                Err(err) => {
                    assert_eq!(err.kind(), Kind::Io, "read {nth}: {err:?}");
                    continue;
                }
            };
            let found = survey(&*fs);
            for (path, content) in &found {
                match (content, expected.get(path)) {
                    (Ok(content), Some(Ok(right))) => assert_eq!(content, right, "read {nth}: {}", path.escape_ascii()),
                    (Ok(_), _) => panic!("read {nth}: {} does not exist", path.escape_ascii()),
                    (Err(err), _) => assert_eq!(err.kind(), Kind::Io, "read {nth}: {err:?}"),
                }
            }
            let lost = expected.keys().find(|path| !found.contains_key(*path));
            assert!(
                lost.is_none() || found.values().any(Result::is_err),
                "read {nth}: {lost:?} is gone without an error"
            );
        }
    }
}

#[test]
fn a_volume_cut_short_loses_nothing_silently() {
    let Some(made) = volume() else { return };
    let volume = made.block();
    let expected = survey(&*open(&volume));
    for kept in (0..64).map(|part| volume.len() * part / 64 + part % 7) {
        let short: BlockRef = Arc::new(Window::new(volume.clone(), 0, kept).unwrap());
        let Ok(fs) = Ntfs::open(short, &Options::default()) else { continue };
        assert!(fs.notes().iter().any(|note| note.contains("longer")), "{kept}");
        let found = survey(&*fs);
        for (path, right) in &expected {
            match (found.get(path), right) {
                (Some(Ok(content)), Ok(right)) => assert_eq!(content, right, "{kept}: {}", path.escape_ascii()),
                (Some(_), _) => {}
                (None, _) => assert!(found.values().any(Result::is_err), "{kept}: {}", path.escape_ascii()),
            }
        }
    }
}

#[test]
fn every_flipped_bit_ends_in_an_answer() {
    let Some(made) = volume() else { return };
    let bytes = made.bytes();
    let expected = survey(&*open(&made.block()));
    // Sectors of one byte repeated are unused, or content of the large file.
    let busy = |sector: &[u8]| sector.iter().any(|byte| Some(byte) != sector.first());
    let used: Vec<usize> =
        bytes.chunks(512).enumerate().filter(|(_, sector)| busy(sector)).map(|(number, _)| number).collect();
    let torture = std::env::var_os("VCB_TORTURE").is_some_and(|value| value == "1");
    let step = if torture { 13 } else { 3001 };
    let (mut same, mut errors, mut changed, mut lost) = (0, 0, 0, Vec::new());
    for number in (0..used.len() * 4096).step_by(step) {
        let (sector, bit) = (used[number / 4096], number % 4096);
        let mut mutant = bytes.clone();
        mutant[sector * 512 + bit / 8] ^= 1 << (bit % 8);
        let mutant: BlockRef = Arc::new(MemBlock::new(mutant));
        let Ok(fs) = Ntfs::open(mutant, &Options::default()) else {
            errors += 1;
            continue;
        };
        let found = survey(&*fs);
        let _ = (fs.stats(), fs.label(), fs.notes());
        let equal = |path: &Vec<u8>| matches!((found.get(path), &expected[path]), (Some(Ok(a)), Ok(b)) if a == b);
        match (found.values().any(Result::is_err), expected.keys().all(equal)) {
            (true, _) => errors += 1,
            (false, true) => same += 1,
            // Names, sizes, times and file data carry no checksum.
            (false, false) => {
                changed += 1;
                if found.len() < expected.len() {
                    lost.push((sector, bit, found.len()));
                }
            }
        }
    }
    println!("{same} without effect, {errors} noticed, {changed} changed what is unprotected");
    assert!(lost.is_empty(), "files are gone without an error (sector, bit, files left): {lost:?}");
    assert!(same > errors && errors > 0);
}
