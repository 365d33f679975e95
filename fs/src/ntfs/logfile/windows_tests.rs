//! Logs that Windows wrote, on the volumes that it wrote them for: every change that can be taken back is taken
//! back, newest first, and made again. The volume must then be what it was, or an operation does something else
//! than Windows did.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;

use vcb_block::bytes::{le32, le64};
use vcb_block::{BlockRef, MemBlock};

use super::analysis::changes;
use super::pages::Log;
use super::record::{Change, op};
use super::replay::{Replay, Volume, is_mark};
use super::restart::{self, Found};
use super::tables::{OpenAttribute, open_attribute};
use crate::ntfs::{Ntfs, Options, fixup, recover};

fn unpack(name: &str, tool: &str, args: &[&str]) -> Option<BlockRef> {
    let path = vcb_fixtures::corpus(name)?;
    if !vcb_fixtures::need_tool(tool) {
        return None;
    }
    let (flag, member) = args.split_first().unwrap();
    let output = Command::new(tool).arg(flag).arg(path).args(member).output().unwrap();
    assert!(output.status.success());
    let disk: BlockRef = Arc::new(MemBlock::new(output.stdout));
    Some(crate::volume::scan(&disk).unwrap().volumes.remove(0).block)
}

/// All changes from the oldest record that leads to the end of the log.
fn all_changes(log: &BlockRef) -> Vec<Change> {
    let Found::Restart(restart) = restart::read(log).unwrap() else { panic!("no log") };
    let records = Log::open(log, &restart).unwrap();
    let mut bytes = vec![0; log.len() as usize];
    log.read_at(&mut bytes, 0).unwrap();
    // A record is where its LSN says that it is.
    let bits = restart.sequence_bits;
    let is_record = |&at: &usize| {
        let lsn = le64(&bytes, at).unwrap();
        lsn != 0 && (lsn << bits) >> (bits - 3) == at as u64
    };
    let page = restart.page as usize;
    let firsts = (4 * page..bytes.len()).step_by(page).filter_map(|start| {
        (start + restart.data..start + page - 48).step_by(8).find(is_record).map(|at| le64(&bytes, at).unwrap())
    });
    let firsts: BTreeSet<u64> = firsts.collect();
    firsts.into_iter().find_map(|lsn| changes(&records, lsn).ok()).expect("no record leads to the end")
}

/// The attributes open at any time: numbers are not given again while there are changes for them.
fn attributes(changes: &[Change]) -> BTreeMap<u16, OpenAttribute> {
    let mut open = BTreeMap::new();
    for change in changes {
        let data = change.data();
        if change.redo == op::OPEN_ATTRIBUTE {
            open.insert(change.target, open_attribute(data, 1).unwrap());
        } else if change.redo == op::OPEN_ATTRIBUTE_TABLE {
            let size = usize::from(data[0]);
            for (index, entry) in data[24..].chunks_exact(size).enumerate() {
                if le32(entry, 0) == Some(u32::MAX) {
                    open.entry((24 + index * size) as u16).or_insert(open_attribute(entry, 1).unwrap());
                }
            }
        }
    }
    open
}

/// Takes back and makes again; returns how many changes, and of how many kinds.
fn there_and_back(volume: &BlockRef) -> (usize, usize) {
    let mft = Ntfs::read_mft(volume.clone(), &Options::default()).unwrap();
    let (cluster, record) = (mft.geometry.cluster, mft.geometry.record);
    let all = all_changes(&recover::content(&mft).unwrap());
    let target = Volume { block: volume.clone(), cluster, record };
    let mut replay = Replay::new(&target, attributes(&all));

    // What a record or block held before it was written as a whole is not in the log.
    let place = |change: &Change| change.lcns.first().map(|lcn| lcn * u64::from(cluster) + change.block as u64);
    let mut made_new = BTreeSet::new();
    let mut window = Vec::new();
    for change in all.into_iter().rev().filter(|change| !is_mark(change.redo)) {
        if !made_new.contains(&place(&change)) {
            if matches!(change.redo, op::INITIALIZE_FILE_RECORD | op::UPDATE_NONRESIDENT_VALUE)
                && change.undo == op::NOOP
            {
                made_new.insert(place(&change));
            }
            window.push(change);
        }
    }
    for change in window.iter().filter(|change| change.can_be_undone()) {
        replay.change(&change.clone().reversed(), true).unwrap();
    }
    for change in window.iter().rev() {
        replay.change(change, true).unwrap();
    }
    for (at, mut bytes) in replay.stage.finish().unwrap() {
        let mut original = vec![0; bytes.len()];
        volume.read_at(&mut original, at).unwrap();
        let kind = if bytes.starts_with(b"FILE") { "FILE" } else { "INDX" };
        if bytes.starts_with(kind.as_bytes()) {
            for block in [&mut bytes, &mut original] {
                fixup::apply(block, kind).unwrap();
                // The LSN, which is not set in a change taken back, and the update sequence.
                block[8..16].fill(0);
                let usa = usize::from(block[4]);
                let end = usa + 2 * (block.len() / 512 + 1);
                block[usa..end].fill(0);
                let used = le32(block, 24).unwrap() as usize + if kind == "INDX" { 24 } else { 0 };
                let compared = if kind == "FILE" && made_new.contains(&Some(at)) {
                    // Content of small files is not logged.
                    0x38
                } else {
                    used
                };
                block.truncate(compared);
            }
        }
        let differs = bytes.iter().zip(&original).position(|(a, b)| a != b);
        assert_eq!((differs, bytes.len()), (None, original.len()), "{kind} at {at:#x}");
    }
    let kinds: BTreeSet<u16> = window.iter().map(|change| change.redo).collect();
    (window.len(), kinds.len())
}

#[test]
fn windows_10_log_of_format_2() {
    let Some(volume) = unpack("ntfs/velociraptor-test.ntfs.raw.xz", "xz", &["-dc"]) else { return };
    let (changes, kinds) = there_and_back(&volume);
    assert!(changes > 100 && kinds > 8, "{changes} of {kinds} kinds");
}

#[test]
fn windows_logs_of_format_1() {
    if let Some(volume) = unpack("ntfs/ntfs_index.raw.gz", "gzip", &["-dc"]) {
        let (changes, kinds) = there_and_back(&volume);
        assert!(changes > 200 && kinds > 12, "{changes} of {kinds} kinds");
    }
    if let Some(volume) = unpack("ntfs/SampleTinyNtfsVolume.zip", "unzip", &["-p", "*.dd"]) {
        let (changes, kinds) = there_and_back(&volume);
        assert!(changes > 100 && kinds > 8, "{changes} of {kinds} kinds");
    }
}
