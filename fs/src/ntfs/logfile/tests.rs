//! Logs written by `vcb_fixtures::ntfs_log` over a volume of a few records, each operation by itself, and what
//! may go wrong with a log.

use std::sync::Arc;

use vcb_block::{Fault, FaultBlock, Kind, MemBlock, conformance};
use vcb_fixtures::ntfs_log::{Change, LogWriter, Tables, open_entry, open_number, protect};

use super::record::op;
use super::*;

mod operations;
mod whole;

const CLUSTER: usize = 4096;
const RECORD: usize = 1024;
/// First cluster of the $MFT, of an index, of a bitmap.
const MFT: u64 = 8;
const INDEX: u64 = 32;
const BITMAP: u64 = 40;
const CLUSTERS: usize = 48;
/// The MFT record that is changed, in the middle of its cluster.
const NUMBER: u64 = 25;
/// Numbers of the open attributes.
const OF_MFT: usize = 0;
const OF_INDEX: usize = 1;
const OF_BITMAP: usize = 2;
const FORGET: Change = mark(op::FORGET_TRANSACTION);

const fn mark(operation: u16) -> Change {
    Change {
        redo: (operation, Vec::new()),
        undo: (op::COMPENSATION, Vec::new()),
        target: 0,
        vcn: 0,
        lcns: Vec::new(),
        block: 0,
        block_len: 0,
        record: 0,
        attribute: 0,
        transaction: 24,
        undo_next: 0,
    }
}

fn mem(bytes: Vec<u8>) -> BlockRef {
    Arc::new(MemBlock::new(bytes))
}

/// An MFT record without fixups: header, `attributes`, end mark.
fn record(number: u64, attributes: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0; 0x38];
    bytes[..8].copy_from_slice(b"FILE\x30\0\x03\0");
    bytes[0x10] = 5;
    bytes[0x14] = 0x38;
    bytes[0x16] = 1;
    bytes[0x1C..0x20].copy_from_slice(&(RECORD as u32).to_le_bytes());
    bytes[0x28] = 9;
    bytes[0x2C..0x30].copy_from_slice(&(number as u32).to_le_bytes());
    bytes.extend(attributes.concat());
    bytes.extend_from_slice(&[0xFF; 4]);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let used = bytes.len() as u32;
    bytes[0x18..0x1C].copy_from_slice(&used.to_le_bytes());
    bytes.resize(RECORD, 0);
    bytes
}

fn resident(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 24];
    bytes[0] = kind;
    bytes[0x0E] = kind >> 4;
    bytes[0x10..0x14].copy_from_slice(&(value.len() as u32).to_le_bytes());
    bytes[0x14] = 24;
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let len = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&len.to_le_bytes());
    bytes
}

fn non_resident(highest: u64, sizes: [u64; 3], runs: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    (bytes[0], bytes[8], bytes[0x20]) = (0x80, 1, 64);
    bytes[0x18..0x20].copy_from_slice(&highest.to_le_bytes());
    for (at, size) in [0x28, 0x30, 0x38].into_iter().zip(sizes) {
        bytes[at..at + 8].copy_from_slice(&size.to_le_bytes());
    }
    bytes.extend_from_slice(runs);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let len = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&len.to_le_bytes());
    bytes
}

/// An index entry with a key and perhaps a child.
fn entry(key: &[u8], child: Option<u64>) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes.extend_from_slice(key);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    if let Some(child) = child {
        bytes[12] = 1;
        bytes.extend_from_slice(&child.to_le_bytes());
    }
    let len = bytes.len() as u16;
    bytes[8..10].copy_from_slice(&len.to_le_bytes());
    bytes
}

/// An index root attribute.
fn root(entries: &[&[u8]]) -> Vec<u8> {
    let entries = entries.concat();
    let mut value = vec![0x30; 16];
    let len = 16 + entries.len() as u32;
    for field in [16, len, len, 0] {
        value.extend_from_slice(&field.to_le_bytes());
    }
    value.extend_from_slice(&entries);
    resident(0x90, &value)
}

/// An index block without fixups, `after` behind its entries.
fn index(entries: &[&[u8]], after: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..8].copy_from_slice(b"INDX\x28\0\x09\0");
    bytes[24] = 40;
    bytes.extend(entries.concat());
    let len = bytes.len() as u32 - 24;
    bytes[28..32].copy_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(after);
    bytes.resize(CLUSTER, 0);
    bytes
}

fn volume(record: &[u8], index: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; CLUSTERS * CLUSTER];
    let at = MFT as usize * CLUSTER + NUMBER as usize * RECORD;
    bytes[at..at + RECORD].copy_from_slice(record);
    protect(&mut bytes[at..at + RECORD]);
    let at = INDEX as usize * CLUSTER;
    bytes[at..at + CLUSTER].copy_from_slice(index);
    protect(&mut bytes[at..at + CLUSTER]);
    bytes
}

fn geometry(bytes: Vec<u8>) -> Volume {
    Volume { block: mem(bytes), cluster: CLUSTER as u32, record: RECORD as u32 }
}

/// Bytes of a block of the replayed volume, fixups undone, LSN cleared.
fn after(overlay: Overlay, bytes: Vec<u8>, offset: usize, len: usize) -> Vec<u8> {
    let volume = overlay.apply(mem(bytes)).unwrap();
    conformance::check(&volume, 5);
    let mut block = vec![0; len];
    volume.read_at(&mut block, offset as u64).unwrap();
    let start = usize::from(block[4]);
    for sector in 0..len / 512 {
        let end = (sector + 1) * 512 - 2;
        assert_eq!(block[start..start + 2], block[end..end + 2], "torn");
        block.copy_within(start + 2 + 2 * sector..start + 4 + 2 * sector, end);
    }
    block[8..16].fill(0);
    block[start..start + 2 * (len / 512 + 1)].fill(0);
    block
}

fn tables() -> Tables {
    Tables { attributes: vec![(0x80, 0), (0xA0, 30), (0x80, 6)], ..Tables::default() }
}

fn on_record(change: Change) -> Change {
    Change {
        target: open_number(OF_MFT),
        vcn: NUMBER / 4,
        lcns: vec![MFT + NUMBER / 4],
        block: (NUMBER % 4) as usize * RECORD,
        block_len: RECORD,
        transaction: 24,
        ..change
    }
}

fn on_index(change: Change) -> Change {
    Change { target: open_number(OF_INDEX), lcns: vec![INDEX], block_len: CLUSTER, transaction: 24, ..change }
}

fn on_bitmap(change: Change) -> Change {
    Change { target: open_number(OF_BITMAP), lcns: vec![BITMAP], transaction: 24, ..change }
}

/// A log in which `changes` are one finished transaction.
fn finished(changes: &[Change]) -> Vec<u8> {
    let mut log = LogWriter::new(1 << 20, 2, 0);
    log.checkpoint(&tables());
    for change in changes {
        log.change(change);
    }
    log.change(&FORGET);
    log.finish(false)
}

/// A log in which `changes` are one transaction that never ended.
fn unfinished(changes: &[Change]) -> Vec<u8> {
    let mut log = LogWriter::new(1 << 20, 2, 0);
    log.checkpoint(&tables());
    let mut last = 0;
    for change in changes {
        last = log.change(&Change { undo_next: last, ..change.clone() });
    }
    log.finish(false)
}

const EMPTY: &[u8] = &[];

/// `block` as it is when the log's changes of it have reached the disk.
fn written(block: &[u8]) -> Vec<u8> {
    let mut block = block.to_vec();
    block[8..16].fill(0x70);
    block
}

/// Compares blocks without printing all of them.
fn same(found: &[u8], expected: &[u8], name: &str) {
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    if let Some(at) = differs {
        let part = |block: &[u8]| block[at..block.len().min(at + 40)].to_vec();
        panic!("{name}: at {at:#x} {:x?}, not {:x?}", part(found), part(expected));
    }
    assert_eq!(found.len(), expected.len(), "{name}");
}

/// Redoes `change` on a record, and undoes it again where it says how.
fn record_case(name: &str, before: &[u8], change: Change, expected: &[u8]) {
    let change = on_record(change);
    let at = MFT as usize * CLUSTER + NUMBER as usize * RECORD;
    let disk = volume(before, &index(&[], EMPTY));
    let overlay = replay(&geometry(disk.clone()), &mem(finished(std::slice::from_ref(&change)))).unwrap();
    assert_eq!((overlay.redone, overlay.undone), (1, 0), "{name}");
    assert_eq!(overlay.records(), [(NUMBER, at as u64)], "{name}");
    let mut want = expected.to_vec();
    want[0x30..0x36].fill(0);
    same(&after(overlay, disk, at, RECORD), &want, name);
    if change.undo.0 != op::NOOP {
        let disk = volume(&written(expected), &index(&[], EMPTY));
        let overlay = replay(&geometry(disk.clone()), &mem(unfinished(&[change]))).unwrap();
        assert_eq!((overlay.redone, overlay.undone), (0, 1), "{name}");
        let mut want = before.to_vec();
        want[0x30..0x36].fill(0);
        // An instance number once given is not taken back.
        let found = after(overlay, disk, at, RECORD);
        want[0x28..0x2A].copy_from_slice(&found[0x28..0x2A]);
        same(&found, &want, &format!("{name}, undone"));
    }
}

fn redo(operation: u16, data: &[u8]) -> Change {
    Change { redo: (operation, data.to_vec()), ..Change::default() }
}

fn both(redo: u16, data: &[u8], undo: u16, undo_data: &[u8]) -> Change {
    Change { redo: (redo, data.to_vec()), undo: (undo, undo_data.to_vec()), ..Change::default() }
}

fn at(change: Change, record: u16, attribute: u16) -> Change {
    Change { record, attribute, ..change }
}
