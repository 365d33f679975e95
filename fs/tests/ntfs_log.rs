//! Volumes whose last changes are in their log only. ntfs-3g makes a volume and then changes it; a log of that
//! difference, written by `vcb_fixtures::ntfs_log`, put into the volume of before must show the volume of after.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod ntfs_common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ntfs_common::made::{Made, Recipe};
use ntfs_common::{digest, listing};
use vcb_block::{BlockRef, MemBlock};
use vcb_fixtures::ntfs_log::{Change, LogWriter, Tables, open_number};
use vcb_fs::Filesystem;
use vcb_fs::ntfs::{LogOutcome, Ntfs, Options};

const CLUSTER: usize = 4096;
const RECORD: usize = 1024;

/// The first run of record `number`'s unnamed data: byte offset and length on the volume.
fn data_of(volume: &[u8], number: usize) -> (usize, usize) {
    let mft = u64::from_le_bytes(volume[0x30..0x38].try_into().unwrap()) as usize * CLUSTER;
    let record = &volume[mft + number * RECORD..][..RECORD];
    let mut at = usize::from(record[0x14]);
    while record[at] != 0x80 {
        at += usize::from(u16::from_le_bytes([record[at + 4], record[at + 5]]));
    }
    let runs = &record[at + usize::from(record[at + 0x20])..];
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0usize, |value, &byte| value << 8 | usize::from(byte));
    let (len, delta) = (usize::from(runs[0] & 15), usize::from(runs[0] >> 4));
    (number(&runs[1 + len..1 + len + delta]) * CLUSTER, number(&runs[1..1 + len]) * CLUSTER)
}

/// A record or index block without fixups and without LSN; `None` when it is none.
fn plain(block: &[u8]) -> Option<Vec<u8>> {
    if !block.starts_with(b"FILE") && !block.starts_with(b"INDX") {
        return None;
    }
    let mut block = block.to_vec();
    let usa = usize::from(u16::from_le_bytes([block[4], block[5]]));
    for sector in 0..block.len() / 512 {
        let end = (sector + 1) * 512 - 2;
        block.copy_within(usa + 2 + 2 * sector..usa + 4 + 2 * sector, end);
    }
    block[8..16].fill(0);
    let sectors = block.len() / 512;
    block[usa..usa + 2 * (sectors + 1)].fill(0);
    Some(block)
}

/// What differs between two states of a volume, as one transaction of changes.
fn difference(before: &[u8], after: &[u8]) -> Vec<Change> {
    let (mft, mft_len) = data_of(after, 0);
    assert_eq!(data_of(before, 0), (mft, mft_len), "the $MFT grew");
    let (log, log_len) = data_of(after, 2);
    let (mirror, mirror_len) = data_of(after, 1);
    let skipped = |at: usize| (log..log + log_len).contains(&at) || (mirror..mirror + mirror_len).contains(&at);
    let mut changes = Vec::new();
    let mut at = 0;
    while at < after.len() {
        let is_mft = (mft..mft + mft_len).contains(&at);
        let step = if is_mft { RECORD } else { CLUSTER };
        let (old, new) = (&before[at..at + step], &after[at..at + step]);
        let cluster = at / CLUSTER;
        let base = Change { lcns: vec![cluster as u64], transaction: 24, ..Change::default() };
        match (plain(old), plain(new)) {
            _ if old == new || skipped(at) => {}
            (old, Some(new)) if is_mft => changes.push(Change {
                // A record that was not there is given back.
                undo: old.map_or((0x03, Vec::new()), |old| (0x02, old)),
                redo: (0x02, new),
                target: open_number(0),
                vcn: ((at - mft) / CLUSTER) as u64,
                block: at % CLUSTER,
                block_len: RECORD,
                ..base
            }),
            (old, Some(new)) => changes.push(Change {
                undo: old.map_or((0, Vec::new()), |old| (0x08, old)),
                redo: (0x08, new),
                target: open_number(1),
                vcn: cluster as u64,
                block_len: CLUSTER,
                ..base
            }),
            (_, None) => changes.push(Change {
                redo: (0x08, new.to_vec()),
                undo: (0x08, old.to_vec()),
                target: open_number(2),
                vcn: cluster as u64,
                ..base
            }),
        }
        at += step;
    }
    changes
}

/// The content of a log that holds `changes`, in format `major`.
fn log(len: usize, major: u16, changes: &[Change], finished: bool, clean: bool) -> Vec<u8> {
    let mut log = LogWriter::new(len, major, 3);
    let attributes = vec![(0x80, 0), (0xA0, 5), (0x80, 6)];
    log.checkpoint(&Tables { attributes, ..Tables::default() });
    let mut last = 0;
    for change in changes {
        last = log.change(&Change { undo_next: last, ..change.clone() });
    }
    if finished {
        log.change(&Change { redo: (0x1B, Vec::new()), undo: (1, Vec::new()), transaction: 24, ..Change::default() });
    }
    log.finish(clean)
}

fn with_log(volume: &[u8], log: &[u8]) -> BlockRef {
    let (at, len) = data_of(volume, 2);
    assert!(log.len() <= len);
    let mut bytes = volume.to_vec();
    bytes[at..at + log.len()].copy_from_slice(log);
    Arc::new(MemBlock::new(bytes))
}

fn open(volume: &BlockRef, replay: bool) -> Arc<Ntfs> {
    Ntfs::open(volume.clone(), &Options { replay, ..Options::default() }).unwrap()
}

fn before(root: &Path) {
    fs::create_dir(root.join("folder")).unwrap();
    for number in 0..60 {
        fs::write(root.join(format!("folder/file number {number}")), format!("content {number}")).unwrap();
    }
    fs::write(root.join("grows"), vec![b'g'; 5000]).unwrap();
    fs::write(root.join("hiberfil.sys"), b"WAKE and so on".repeat(500)).unwrap();
}

/// Creates in place of what was deleted, so that no record is added to the $MFT.
fn after(root: &Path) {
    for number in (0..60).step_by(3) {
        fs::remove_file(root.join(format!("folder/file number {number}"))).unwrap();
    }
    fs::rename(root.join("folder/file number 1"), root.join("renamed")).unwrap();
    fs::write(root.join("folder/new"), b"made by the log").unwrap();
    fs::create_dir(root.join("folder/new folder")).unwrap();
    fs::write(root.join("grows"), vec![b'G'; 150_000]).unwrap();
}

struct Case {
    before: Vec<u8>,
    after: Vec<u8>,
    changes: Vec<Change>,
    log_len: usize,
    old: Vec<String>,
    new: Vec<String>,
}

fn case() -> Option<Case> {
    let made = Made::new(&Recipe { megabytes: 20, sector: 512, cluster: CLUSTER as u32 }, before)?;
    let old = made.bytes();
    made.again(after)?;
    let new = made.bytes();
    let changes = difference(&old, &new);
    assert!(changes.len() > 30, "{}", changes.len());
    let lines = |bytes: &[u8]| listing(&*open(&(Arc::new(MemBlock::new(bytes.to_vec())) as BlockRef), true));
    let (old_lines, new_lines) = (lines(&old), lines(&new));
    // What was done shows, whoever reads it.
    let has = |lines: &[String], path: &str| lines.iter().any(|line| line.contains(&format!("\t{path}\t")));
    for path in ["/renamed", "/folder/new", "/folder/new folder"] {
        assert!(has(&new_lines, path) && !has(&old_lines, path), "{path}");
    }
    assert!(has(&old_lines, "/folder/file number 3") && !has(&new_lines, "/folder/file number 3"));
    let log_len = data_of(&old, 2).1;
    Some(Case { before: old, after: new, changes, log_len, old: old_lines, new: new_lines })
}

#[test]
fn changes_in_the_log_only_are_shown_and_those_unfinished_are_not() {
    let Some(case) = case() else { return };
    let Case { before, after, changes, log_len, old, new } = &case;
    for major in [1, 2] {
        // Nothing of the transaction had reached the volume.
        let volume = with_log(before, &log(*log_len, major, changes, true, false));
        let fs = open(&volume, true);
        assert_eq!(
            fs.log().to_string(),
            format!("the log was not closed: {} changes replayed and 0 taken back, in memory", changes.len())
        );
        assert!(listing(&*fs) == *new, "not the volume of after");
        let redone = changes.len() as u64;
        assert_eq!(*fs.log(), LogOutcome::Replayed { redone, undone: 0 });
        assert!(fs.notes().iter().any(|note| note.contains("replayed")), "{:?}", fs.notes());
        let id = fs.lookup(fs.root(), b"grows").unwrap();
        let grown: BlockRef = Arc::new(MemBlock::new(vec![b'G'; 150_000]));
        assert_eq!(digest(&fs.open(id, None).unwrap()).unwrap(), digest(&grown).unwrap());

        let as_is = open(&volume, false);
        assert_eq!((listing(&*as_is), as_is.log()), (old.clone(), &LogOutcome::NotAsked));

        // All of it had, but it never ended. Blocks that did not exist before cannot be told from their changes.
        let undoable: Vec<Change> = changes.iter().filter(|change| change.undo.0 != 0).cloned().collect();
        let volume = with_log(after, &log(*log_len, major, &undoable, false, false));
        let fs = open(&volume, true);
        assert!(listing(&*fs) == *old, "not the volume of before");
        assert!(matches!(fs.log(), LogOutcome::Replayed { undone, .. } if *undone == undoable.len() as u64));
    }
}

#[test]
fn a_clean_log_changes_nothing() {
    let Some(case) = case() else { return };
    let volume = with_log(&case.before, &log(case.log_len, 2, &case.changes, true, true));
    for replay in [true, false] {
        let fs = open(&volume, replay);
        assert_eq!((listing(&*fs), fs.log(), fs.notes().len()), (case.old.clone(), &LogOutcome::Closed, 0));
    }
}

#[test]
fn a_log_that_is_not_understood_leaves_the_volume_as_it_is() {
    let Some(case) = case() else { return };
    let odd = Change { redo: (0x23, vec![1; 8]), target: open_number(1), lcns: vec![9], ..Change::default() };
    let changes = [case.changes.as_slice(), &[odd]].concat();
    let fs = open(&with_log(&case.before, &log(case.log_len, 2, &changes, true, false)), true);
    assert_eq!(listing(&*fs), case.old);
    assert!(matches!(fs.log(), LogOutcome::Refused(why) if why.contains("0x23")), "{:?}", fs.log());
    assert!(fs.notes().iter().any(|note| note.contains("cannot be replayed")));

    // The log of a volume whose $MFT lies elsewhere.
    let mut moved = case.changes.clone();
    for change in moved.iter_mut().filter(|change| change.target == open_number(0)) {
        change.vcn += 1;
    }
    let fs = open(&with_log(&case.before, &log(case.log_len, 2, &moved, true, false)), true);
    assert_eq!(listing(&*fs), case.old);
    assert!(matches!(fs.log(), LogOutcome::Refused(_)));
}

#[test]
fn the_log_of_a_hibernated_system_is_not_replayed() {
    let Some(case) = case() else { return };
    let mut volume = case.before.clone();
    let at = volume.windows(14).position(|bytes| bytes == b"WAKE and so on").unwrap();
    volume[at..at + 4].copy_from_slice(b"HIBR");
    for clean in [false, true] {
        let fs = open(&with_log(&volume, &log(case.log_len, 2, &case.changes, true, clean)), true);
        assert_eq!(*fs.log(), LogOutcome::Hibernated);
        assert!(fs.lookup(fs.root(), b"renamed").is_err());
        assert!(fs.notes().iter().any(|note| note.contains("hibernated")));
    }
}
