//! Volumes made by the scripts of `fixtures/ntfs`: Compact-OS files against their plain content, and volumes
//! whose $MFT and files are scattered against ntfs-3g.

#![allow(clippy::unwrap_used)]

mod ntfs_common;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use ntfs_common::made::{Made, Recipe, SCRIPTS};
use ntfs_common::{entries, open};
use vcb_block::{conformance, plan};
use vcb_fs::{FileId, Filesystem};

fn content(fs: &dyn Filesystem, id: FileId) -> Vec<u8> {
    let block = fs.open(id, None).unwrap();
    let mut bytes = vec![0; block.len() as usize];
    plan::read(&block, &mut bytes, 0).unwrap();
    bytes
}

#[test]
fn compact_os_files_in_all_algorithms_equal_their_plain_content() {
    let fill = |root: &Path| {
        let made = Command::new("python3").arg(format!("{SCRIPTS}/mkwof.py")).arg(root).output().unwrap();
        if !made.status.success() {
            vcb_fixtures::skip(&format!("mkwof.py: {}", String::from_utf8_lossy(&made.stderr)));
        }
    };
    let Some(made) = Made::new(&Recipe { megabytes: 40, sector: 512, cluster: 4096 }, fill) else { return };
    let fs = open(&made.block());
    let Ok(plain) = fs.lookup(fs.root(), b"ref") else { return };
    let samples = entries(&*fs, plain, 100).unwrap();
    assert_eq!(samples.len(), 7);
    for folder in ["xpress4k", "xpress8k", "xpress16k", "lzx"] {
        let dir = fs.lookup(fs.root(), folder.as_bytes()).unwrap();
        for sample in &samples {
            let name = format!("{folder}/{}", String::from_utf8_lossy(&sample.name));
            let id = fs.lookup(dir, &sample.name).unwrap();
            let expected = content(&*fs, sample.id);
            assert_eq!(fs.attr(id).unwrap().size, expected.len() as u64, "{name}");
            assert!(content(&*fs, id) == expected, "{name}");
            assert!(fs.streams(id).unwrap().is_empty(), "{name}");
            if expected.len() < 400_000 {
                conformance::check(&fs.open(id, None).unwrap(), 11);
            }
        }
    }
}

/// Every file below `path`, a mount by ntfs-3g, has the same bytes here; returns how many.
fn compare(fs: &dyn Filesystem, dir: FileId, path: &Path) -> usize {
    let theirs = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let mut count = 0;
    let mut here = 0;
    for entry in theirs {
        here += 1;
        let id = fs.lookup(dir, entry.file_name().as_bytes()).unwrap();
        if entry.file_type().unwrap().is_dir() {
            count += compare(fs, id, &entry.path());
        } else {
            assert!(content(fs, id) == fs::read(entry.path()).unwrap(), "{}", entry.path().display());
            count += 1;
        }
    }
    assert_eq!(entries(fs, dir, 1000).unwrap().len(), here, "{}", path.display());
    count
}

/// Minutes of ntfs-3g: for the long tier.
#[test]
fn scattered_volumes_equal_ntfs_3g() {
    if std::env::var_os("VCB_TORTURE").is_none() {
        eprintln!("skipped: VCB_TORTURE is not set");
        return;
    }
    for (script, least) in [("mkntfs-split.sh", 10_000), ("mkntfs-fragmft.sh", 60_000)] {
        let Some(made) = Made::by_script(script) else { return };
        let fs = open(&made.block());
        let compared = made.again(|root| assert!(compare(&*fs, fs.root(), root) > least, "{script}"));
        assert!(compared.is_some());
    }
}
