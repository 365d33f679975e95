//! Runs the NTFS and partition fuzz targets over small valid inputs and mutations of them.

#![allow(clippy::unwrap_used)]

#[path = "../../fuzz/src/ntfs.rs"]
mod targets;

use std::panic::catch_unwind;
use std::process::{Command, Stdio};

use vcb_fixtures::ntfs_log::{Change, LogWriter, Tables, open_number};
use vcb_fixtures::{mutate, need_tool};

const ROUNDS: u64 = 150;

/// Chunks made by libwim, see `fixtures/ntfs/mkvectors.py`: those of `algorithm`, without their headers.
fn chunks(algorithm: u8, limit: usize) -> Vec<Vec<u8>> {
    let mut file: &[u8] = include_bytes!("../../fs/src/ntfs/codec/chunks.bin");
    let mut found = Vec::new();
    while let [number, rest @ ..] = file {
        let len = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        if *number == algorithm && found.len() < limit {
            // The first byte chooses how much is decoded.
            found.push([&[0x3F], &rest[40..40 + len]].concat());
        }
        file = &rest[40 + len..];
    }
    found
}

fn log(major: u16) -> Vec<u8> {
    let mut log = LogWriter::new(256 << 10, major, 0);
    let dirty = vec![(open_number(1), 3, log.next_lsn(), vec![20])];
    let change = |redo, target, lcn| Change {
        redo,
        undo: (0x16, vec![1, 0, 0, 0, 3, 0, 0, 0]),
        target: open_number(target),
        vcn: 3,
        lcns: vec![lcn],
        block_len: 1024,
        transaction: 24,
        ..Change::default()
    };
    let mut record = vec![0; 600];
    record[..8].copy_from_slice(b"FILE\x30\0\x03\0");
    record[0x2C] = 12;
    log.change(&change((0x15, vec![1, 0, 0, 0, 3, 0, 0, 0]), 1, 20));
    log.checkpoint(&Tables { attributes: vec![(0x80, 0), (0x80, 6)], dirty, transactions: vec![(1, 0, 0)] });
    log.change(&Change { undo: (0, Vec::new()), ..change((0x02, record), 0, 30) });
    log.change(&change((0x15, vec![9, 0, 0, 0, 30, 0, 0, 0]), 1, 20));
    log.finish(false)
}

fn table() -> Vec<u8> {
    let mut disk = vec![0; 1 << 16];
    let mut slot = |record: usize, index: usize, kind: u8, start: u8, sectors: u8| {
        let at = record * 512 + 446 + 16 * index;
        (disk[at + 4], disk[at + 8], disk[at + 12]) = (kind, start, sectors);
        disk[record * 512 + 510..record * 512 + 512].copy_from_slice(&[0x55, 0xAA]);
    };
    slot(0, 0, 7, 2, 10);
    slot(0, 1, 5, 20, 100);
    slot(20, 0, 7, 1, 5);
    slot(20, 1, 5, 30, 10);
    slot(50, 0, 0x42, 1, 9);
    disk
}

fn volume() -> Option<Vec<u8>> {
    if !need_tool("mkfs.ntfs") {
        return None;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(2 << 20).unwrap();
    let mut command = Command::new("mkfs.ntfs");
    command.args(["-F", "-Q", "-c", "512"]).arg(file.path()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
    Some(std::fs::read(file.path()).unwrap())
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "volume_scan" => vec![table()],
        "ntfs_lznt1" => vec![[b"\x0C\xB0\0Hello wo\0rld".as_slice(), b"\xFF\x3F", &[7; 4096]].concat()],
        "ntfs_xpress" => chunks(3, 4),
        "ntfs_lzx" => chunks(1, 4),
        "ntfs_wof" => chunks(0, 4).into_iter().map(|chunk| [&[4, 8, 0, 0, 0], &chunk[..]].concat()).collect(),
        "ntfs_log" => vec![log(1), log(2)],
        "ntfs_volume" => volume().into_iter().collect(),
        other => panic!("no seeds for {other}"),
    }
}

#[test]
fn no_target_panics() {
    let torture = std::env::var_os("VCB_TORTURE").is_some();
    for (name, run) in targets::TARGETS {
        let rounds = if torture { 100 * ROUNDS } else { ROUNDS };
        for (number, seed) in seeds(name).into_iter().enumerate() {
            run(&seed);
            for round in 0..rounds {
                let mutated = mutate(&seed, round);
                if catch_unwind(|| run(&mutated)).is_err() {
                    panic!("{name}: seed {number} mutated with {round} panics");
                }
            }
        }
    }
}
