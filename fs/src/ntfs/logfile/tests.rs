//! Logs written by `vcb_fixtures::ntfs_log` over a volume of a few records, each operation by itself, and what
//! may go wrong with a log.

use std::sync::Arc;

use vcb_block::{Fault, FaultBlock, Kind, MemBlock, conformance};
use vcb_fixtures::ntfs_log::{Change, LogWriter, Tables, open_entry, open_number, protect};

use super::record::op;
use super::*;

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

#[test]
fn operations_on_attributes_of_a_record() {
    let (name, list) = (resident(0x30, b"a name in it"), resident(0x20, b"twenty!!"));
    let data = |value: &[u8]| resident(0x80, value);
    let start = 0x38 + name.len() as u16;
    let one = record(NUMBER, &[&name, &data(b"short")]);
    let mut with_new = record(NUMBER, &[&list, &name, &data(b"short")]);
    with_new[0x28] = 9;
    let create = both(op::CREATE_ATTRIBUTE, &list, op::DELETE_ATTRIBUTE, EMPTY);
    record_case("create", &one, at(create, 0x38, 0), &with_new);
    let new_instance = resident(0xC0, b"reparse?");
    let mut counted = record(NUMBER, &[&name, &new_instance]);
    counted[0x28] = 13;
    record_case("create", &record(NUMBER, &[&name]), at(redo(op::CREATE_ATTRIBUTE, &new_instance), start, 0), &counted);

    let update = |data: &[u8], old: &[u8], within| {
        at(both(op::UPDATE_RESIDENT_VALUE, data, op::UPDATE_RESIDENT_VALUE, old), start, within)
    };
    record_case("same length", &one, update(b"HO", b"ho", 25), &record(NUMBER, &[&name, &data(b"sHOrt")]));
    let longer = record(NUMBER, &[&name, &data(b"short and then some more")]);
    record_case("grow", &one, update(b"t and then some more", b"t", 28), &longer);
    record_case(
        "shrink",
        &longer,
        update(b"T", b"t and then some more", 28),
        &record(NUMBER, &[&name, &data(b"shorT")]),
    );
}

#[test]
fn operations_on_clusters_of_an_attribute() {
    let sizes = [8 * 4096, 30_000, 20_000];
    let before = record(NUMBER, &[&non_resident(7, sizes, &[0x11, 8, 50, 0])]);
    let runs =
        both(op::UPDATE_MAPPING_PAIRS, &[0x11, 8, 50, 0x21, 5, 0, 2, 0], op::UPDATE_MAPPING_PAIRS, &[0x11, 8, 50, 0]);
    let longer = record(NUMBER, &[&non_resident(12, sizes, &[0x11, 8, 50, 0x21, 5, 0, 2, 0])]);
    record_case("runs", &before, at(runs, 0x38, 64), &longer);
    let bytes = |sizes: [u64; 3]| [sizes[0], sizes[2], sizes[1]].map(u64::to_le_bytes).concat();
    let new = [13 * 4096, 50_000, 40_000];
    let change = both(op::SET_NEW_ATTRIBUTE_SIZES, &bytes(new), op::SET_NEW_ATTRIBUTE_SIZES, &bytes(sizes));
    let want = record(NUMBER, &[&non_resident(7, new, &[0x11, 8, 50, 0])]);
    record_case("sizes", &before, at(change, 0x38, 0), &want);
}

#[test]
fn operations_on_whole_records() {
    let full = record(NUMBER, &[&resident(0x80, b"content")]);
    let used = u32::from_le_bytes(full[0x18..0x1C].try_into().unwrap()) as usize;
    let mut freed = full.clone();
    (freed[0x16], freed[0x10]) = (0, 6);
    let change = both(op::DEALLOCATE_FILE_RECORD, EMPTY, op::INITIALIZE_FILE_RECORD, &full[..24]);
    record_case("deallocate", &full, change, &freed);
    record_case("initialize", &freed, redo(op::INITIALIZE_FILE_RECORD, &full[..used]), &full);

    let other = record(NUMBER, &[&resident(0x30, b"other")]);
    let tail = other[0x38..].iter().rposition(|&byte| byte != 0).unwrap() + 0x38 + 5;
    let mut want = full.clone();
    want[0x38..tail].copy_from_slice(&other[0x38..tail]);
    want[0x18..0x1C].copy_from_slice(&(tail as u32).to_le_bytes());
    let change = redo(op::WRITE_END_OF_FILE_RECORD, &other[0x38..tail]);
    record_case("write end", &full, at(change, 0x38, 0), &want);

    // A record that was never written, and one that the log made already.
    let at = MFT as usize * CLUSTER + NUMBER as usize * RECORD;
    let mut disk = volume(&full, &index(&[], EMPTY));
    disk[at..at + RECORD].fill(0);
    let initialize = on_record(redo(op::INITIALIZE_FILE_RECORD, &full[..used]));
    let overlay = replay(&geometry(disk.clone()), &mem(finished(std::slice::from_ref(&initialize)))).unwrap();
    let mut want = full.clone();
    want[0x30..0x36].fill(0);
    same(&after(overlay, disk, at, RECORD), &want, "initialize");
    let mut newer = full;
    newer[8..16].fill(0x70);
    let overlay = replay(&geometry(volume(&newer, &index(&[], EMPTY))), &mem(finished(&[initialize]))).unwrap();
    assert!(overlay.is_empty() && overlay.redone == 0);
}

#[test]
fn operations_on_an_index_root() {
    let (a, b, end) = (entry(b"aaaaaaaaaa", None), entry(b"bbb", Some(7)), entry(b"", None));
    let name = resident(0x30, b"name");
    let place = 0x38 + name.len() as u16;
    // Attribute header, index root, index header.
    let first = 24 + 16 + 16;
    let of = |entries: &[&[u8]]| record(NUMBER, &[&name, &root(entries), &resident(0xB0, b"bits")]);
    let add = both(op::ADD_INDEX_ENTRY_ROOT, &b, op::DELETE_INDEX_ENTRY_ROOT, EMPTY);
    record_case("add", &of(&[&a, &end]), at(add, place, first + a.len() as u16), &of(&[&a, &b, &end]));
    let child =
        both(op::SET_INDEX_ENTRY_VCN_ROOT, &9u64.to_le_bytes(), op::SET_INDEX_ENTRY_VCN_ROOT, &7u64.to_le_bytes());
    record_case("child", &of(&[&b, &end]), at(child, place, first), &of(&[&entry(b"bbb", Some(9)), &end]));
    let (long, other) = (entry(&[1; 60], None), {
        let mut key = [1; 60];
        key[8..40].fill(2);
        entry(&key, None)
    });
    let name_update = both(op::UPDATE_FILE_NAME_ROOT, &[2; 32], op::UPDATE_FILE_NAME_ROOT, &[1; 32]);
    record_case("name", &of(&[&long, &end]), at(name_update, place, first), &of(&[&other, &end]));
    let view = |data: &[u8; 8]| {
        let mut entry = entry(data, None);
        (entry[0], entry[2]) = (16, 8);
        entry
    };
    let update = both(op::UPDATE_RECORD_DATA_ROOT, b"NEW", op::UPDATE_RECORD_DATA_ROOT, b"old");
    record_case("data", &of(&[&view(b"old data")]), at(update, place, first), &of(&[&view(b"NEW data")]));
}

#[test]
fn operations_on_an_index_block() {
    let (a, b, end) = (entry(b"aaaaaaaaaa", None), entry(b"bbb", Some(7)), entry(b"", Some(1)));
    let at_block = INDEX as usize * CLUSTER;
    let case = |name: &str, before: &[u8], change: Change, expected: &[u8]| {
        let disk = volume(&record(NUMBER, &[]), before);
        let overlay = replay(&geometry(disk.clone()), &mem(finished(&[on_index(change.clone())]))).unwrap();
        let clear = |block: &[u8]| [&block[..0x28], &[0; 18], &block[0x3A..]].concat();
        same(&after(overlay, disk, at_block, CLUSTER), &clear(expected), name);
        if change.undo.0 != op::NOOP {
            let disk = volume(&record(NUMBER, &[]), &written(expected));
            let overlay = replay(&geometry(disk.clone()), &mem(unfinished(&[on_index(change)]))).unwrap();
            same(&after(overlay, disk, at_block, CLUSTER), &clear(before), &format!("{name}, undone"));
        }
    };
    let second = 64 + a.len() as u16;
    let add = both(op::ADD_INDEX_ENTRY_ALLOCATION, &b, op::NOOP, EMPTY);
    case("add", &index(&[&a, &end], EMPTY), at(add, 0, second), &index(&[&a, &b, &end], EMPTY));
    // What is behind the new end stays.
    let mut deleted = index(&[&a, &end], EMPTY);
    let from = 64 + a.len() + end.len();
    deleted[from..].copy_from_slice(&index(&[&a, &b, &end], EMPTY)[from..]);
    let delete = both(op::DELETE_INDEX_ENTRY_ALLOCATION, EMPTY, op::ADD_INDEX_ENTRY_ALLOCATION, &b);
    case("delete", &index(&[&a, &b, &end], EMPTY), at(delete.clone(), 0, second), &deleted);
    let child = redo(op::SET_INDEX_ENTRY_VCN_ALLOCATION, &3u64.to_le_bytes());
    case("child", &index(&[&b, &end], EMPTY), at(child, 0, 64), &index(&[&entry(b"bbb", Some(3)), &end], EMPTY));
    let tail = [b.as_slice(), &end].concat();
    let write = both(op::WRITE_END_OF_INDEX_BUFFER, &tail, op::WRITE_END_OF_INDEX_BUFFER, &end);
    case(
        "write end",
        &index(&[&a, &end], EMPTY),
        at(redo(write.redo.0, &tail), 0, second),
        &index(&[&a, &b, &end], EMPTY),
    );
    let whole = index(&[&a], EMPTY);
    let rewrite = redo(op::UPDATE_NONRESIDENT_VALUE, &whole[..200]);
    case("whole", &index(&[&a, &b, &end], &[9; 30]), rewrite, &{
        let mut block = index(&[&a, &b, &end], &[9; 30]);
        block[..200].copy_from_slice(&whole[..200]);
        block
    });
}

#[test]
fn bits_and_bytes_of_attributes_without_structure() {
    let bits = |first: u32, count: u32| [first.to_le_bytes(), count.to_le_bytes()].concat();
    let mut disk = volume(&record(NUMBER, &[]), &index(&[], EMPTY));
    let start = BITMAP as usize * CLUSTER;
    disk[start..start + 16].fill(0x0F);
    let mut want = disk[start..start + CLUSTER].to_vec();
    want[0] = 0b1110_1111;
    want[1] = 0xFF;
    want[2] = 0b0001_1111;
    want[9] = 0b0000_1101;
    want[1000..1003].copy_from_slice(b"raw");
    let log = finished(&[
        on_bitmap(redo(op::SET_BITS, &bits(5, 16))),
        on_bitmap(redo(op::CLEAR_BITS, &bits(73, 1))),
        on_bitmap(at(redo(op::UPDATE_NONRESIDENT_VALUE, b"raw"), 900, 100)),
    ]);
    let volume = replay(&geometry(disk.clone()), &mem(log)).unwrap().apply(mem(disk.clone())).unwrap();
    let mut found = vec![0; CLUSTER];
    volume.read_at(&mut found, start as u64).unwrap();
    assert_eq!(found, want);
    // Undone: what a transaction set is cleared, though it never reached the disk.
    let change = on_bitmap(both(op::SET_BITS, &bits(0, 8), op::CLEAR_BITS, &bits(0, 8)));
    let volume = replay(&geometry(disk.clone()), &mem(unfinished(&[change]))).unwrap().apply(mem(disk)).unwrap();
    volume.read_at(&mut found, start as u64).unwrap();
    assert_eq!(found[..2], [0, 0x0F]);
}

/// Many changes over a small log: records that cross pages, a full lap, tables of the checkpoint.
fn long_log(major: u16) -> (LogWriter, Vec<u8>, Vec<u8>) {
    let mut log = LogWriter::new(256 << 10, major, 20);
    let mut value = vec![0; 600];
    let before = record(NUMBER, &[&resident(0x80, &value)]);
    for _ in 0..3 {
        log.change(&FORGET);
    }
    let write = |step: usize, value: &mut Vec<u8>| {
        let (from, len) = (step * 37 % 500, 1 + step * 13 % 100);
        let old = value[from..from + len].to_vec();
        value[from..from + len].fill(step as u8);
        let new = value[from..from + len].to_vec();
        let change = both(op::UPDATE_RESIDENT_VALUE, &new, op::UPDATE_RESIDENT_VALUE, &old);
        on_record(at(change, 0x38, 24 + from as u16))
    };
    let oldest = log.next_lsn();
    for step in 0..300 {
        log.change(&write(step, &mut value));
    }
    let dirty = vec![(open_number(OF_MFT), NUMBER / 4, oldest, vec![MFT + NUMBER / 4])];
    log.checkpoint(&Tables { dirty, ..tables() });
    for step in 300..600 {
        log.change(&write(step, &mut value));
    }
    log.change(&FORGET);
    (log, before, record(NUMBER, &[&resident(0x80, &value)]))
}

fn check_long(log: Vec<u8>, before: &[u8], expected: &[u8], redone: u64) {
    let disk = volume(before, &index(&[], EMPTY));
    let overlay = replay(&geometry(disk.clone()), &mem(log)).unwrap();
    assert_eq!(overlay.redone, redone);
    let mut want = expected.to_vec();
    want[0x30..0x36].fill(0);
    same(&after(overlay, disk, MFT as usize * CLUSTER + NUMBER as usize * RECORD, RECORD), &want, "record");
}

#[test]
fn a_log_that_wrapped_is_followed_around_in_both_formats() {
    for major in [1, 2] {
        let (log, before, expected) = long_log(major);
        check_long(log.finish(false), &before, &expected, 600);
        let clean = replay(&geometry(volume(&before, &index(&[], EMPTY))), &mem(log.finish(true))).unwrap();
        assert!(clean.is_empty());
        let version = if major == 1 { (1, 1) } else { (2, 0) };
        assert_eq!(inspect(&mem(log.finish(false))).unwrap(), LogState::Dirty { version });
        assert_eq!(inspect(&mem(log.finish(true))).unwrap(), LogState::Clean { version });
    }
}

#[test]
fn the_newest_page_may_be_in_the_tail_only() {
    for major in [1, 2] {
        for older_at_home in [false, true] {
            let (mut log, before, mut expected) = long_log(major);
            let older = log.last_page();
            let change = on_record(at(redo(op::UPDATE_RESIDENT_VALUE, b"last"), 0x38, 24));
            log.change(&change);
            log.change(&FORGET);
            expected[0x38 + 24..0x38 + 28].copy_from_slice(b"last");
            log.last_page_to_tail(older.filter(|_| older_at_home));
            check_long(log.finish(false), &before, &expected, 601);
        }
    }
}

#[test]
fn a_transaction_open_at_the_checkpoint_is_undone_to_its_start() {
    let mut log = LogWriter::new(1 << 20, 2, 0);
    let update = |new: &[u8], old: &[u8], within| {
        on_record(at(both(op::UPDATE_RESIDENT_VALUE, new, op::UPDATE_RESIDENT_VALUE, old), 0x38, within))
    };
    let first = log.change(&update(b"one", b"...", 24));
    let second = log.change(&Change { undo_next: first, ..update(b"two", b"...", 27) });
    log.checkpoint(&Tables { transactions: vec![(1, second, second)], ..tables() });
    // Another one ends; a compensation record says that `second` was undone already.
    log.change(&Change { transaction: 64, ..update(b"kept", b"....", 33) });
    log.change(&Change { transaction: 64, ..FORGET });
    let compensation = both(op::UPDATE_RESIDENT_VALUE, b"...", op::COMPENSATION, EMPTY);
    log.change(&Change { undo_next: first, ..on_record(at(compensation, 0x38, 27)) });
    let disk = volume(&record(NUMBER, &[&resident(0x80, b"onetwo..........")]), &index(&[], EMPTY));
    let overlay = replay(&geometry(disk.clone()), &mem(log.finish(false))).unwrap();
    assert_eq!((overlay.redone, overlay.undone), (2, 1));
    let mut want = record(NUMBER, &[&resident(0x80, b".........kept...")]);
    want[0x30..0x36].fill(0);
    same(&after(overlay, disk, MFT as usize * CLUSTER + NUMBER as usize * RECORD, RECORD), &want, "record");
}

#[test]
fn changes_of_clusters_freed_later_are_left_out() {
    let change = on_bitmap(redo(op::UPDATE_NONRESIDENT_VALUE, b"gone"));
    let freed = [BITMAP.to_le_bytes(), 1u64.to_le_bytes()].concat();
    let free = Change { redo: (op::DELETE_DIRTY_CLUSTERS, freed), transaction: 24, ..Change::default() };
    let disk = volume(&record(NUMBER, &[]), &index(&[], EMPTY));
    let overlay = replay(&geometry(disk.clone()), &mem(finished(&[change.clone(), free.clone()]))).unwrap();
    assert!(overlay.is_empty());
    let overlay = replay(&geometry(disk), &mem(finished(&[change.clone(), free, change]))).unwrap();
    assert_eq!(overlay.redone, 1);
}

#[test]
fn an_attribute_opened_after_the_checkpoint_is_known() {
    let number = open_number(7);
    let open = Change { redo: (op::OPEN_ATTRIBUTE, open_entry(0x80, 6)), target: number, ..Change::default() };
    let change = Change { target: number, ..on_bitmap(redo(op::UPDATE_NONRESIDENT_VALUE, b"new")) };
    let disk = volume(&record(NUMBER, &[]), &index(&[], EMPTY));
    let log = finished(&[open, change.clone()]);
    assert_eq!(replay(&geometry(disk.clone()), &mem(log)).unwrap().redone, 1);
    let err = replay(&geometry(disk), &mem(finished(&[change]))).err().unwrap();
    assert_eq!(err.kind(), Kind::Unsupported);
}

#[test]
fn redo_data_left_out_are_zeros_where_the_record_says_so() {
    let before = record(NUMBER, &[&resident(0x80, b"0123456789abcdef")]);
    let change = on_record(at(redo(op::UPDATE_RESIDENT_VALUE, &[b'x', 0, 0, 0, 0, 0, 0, 0]), 0x38, 26));
    let mut log = LogWriter::new(1 << 20, 2, 0);
    log.checkpoint(&tables());
    log.short_change(&change, 7);
    log.change(&FORGET);
    check_long(log.finish(false), &before, &record(NUMBER, &[&resident(0x80, b"01x\0\0\0\0\0\0\0abcdef")]), 1);
}

#[test]
fn what_is_not_understood_is_refused_as_a_whole() {
    let good = record(NUMBER, &[&resident(0x80, b"content")]);
    let disk = volume(&good, &index(&[&entry(b"", None)], EMPTY));
    let mut torn = disk.clone();
    torn[MFT as usize * CLUSTER + NUMBER as usize * RECORD + 510] ^= 1;
    let value = |within| on_record(at(redo(op::UPDATE_RESIDENT_VALUE, b"c"), 0x38, within));
    let cases = [
        ("unknown operation", &disk, on_record(redo(0x23, EMPTY))),
        ("hot fix", &disk, on_bitmap(redo(0x17, EMPTY))),
        ("operation 0", &disk, on_index(redo(0x80, EMPTY))),
        ("torn record", &torn, value(24)),
        ("outside of the value", &disk, value(3)),
        ("outside of the record", &disk, value(2000)),
        ("outside of the volume", &disk, Change { lcns: vec![1 << 40], ..value(24) }),
        ("cluster overflow", &disk, Change { lcns: vec![u64::MAX], ..value(24) }),
        ("no cluster for the block", &disk, Change { block: 65_024, ..value(24) }),
        ("another record", &disk, Change { vcn: 3, ..value(24) }),
        ("an index operation on a record", &disk, on_record(redo(op::ADD_INDEX_ENTRY_ALLOCATION, &[0; 16]))),
        ("a record operation on an index", &disk, on_index(redo(op::CREATE_ATTRIBUTE, &[0; 16]))),
        ("raw bytes in a record", &disk, on_record(redo(op::UPDATE_NONRESIDENT_VALUE, b"x"))),
        ("an entry of no length", &disk, on_index(at(redo(op::DELETE_INDEX_ENTRY_ALLOCATION, EMPTY), 0, 400))),
        ("an index that overflows", &disk, on_index(at(redo(op::ADD_INDEX_ENTRY_ALLOCATION, &[0; 4090]), 0, 64))),
        ("bits outside", &disk, on_bitmap(redo(op::SET_BITS, &[0, 0, 2, 0, 1, 0, 0, 0]))),
        ("no bits", &disk, on_bitmap(redo(op::SET_BITS, &[0, 0]))),
        ("prepared", &disk, mark(op::PREPARE_TRANSACTION)),
    ];
    for (name, disk, change) in cases {
        let err = replay(&geometry(disk.clone()), &mem(finished(&[change]))).err();
        assert_eq!(err.map(|err| err.kind()), Some(Kind::Unsupported), "{name}");
    }
}

#[test]
fn logs_that_are_none() {
    assert_eq!(inspect(&mem(vec![0xFF; 8192])).unwrap(), LogState::Empty);
    assert_eq!(inspect(&mem(Vec::new())).unwrap(), LogState::Unknown);
    assert_eq!(inspect(&mem(vec![0; 1 << 20])).unwrap(), LogState::Unknown);
    let (log, before, _) = long_log(2);
    let mut bytes = log.finish(false);
    let disk = geometry(volume(&before, &index(&[], EMPTY)));
    assert!(replay(&disk, &mem(vec![0xFF; 8192])).unwrap().is_empty());
    bytes[..4].copy_from_slice(b"CHKD");
    assert_eq!(inspect(&mem(bytes.clone())).unwrap(), LogState::Unknown);
    assert_eq!(replay(&disk, &mem(bytes)).err().unwrap().kind(), Kind::Unsupported);
}

#[test]
fn one_restart_page_is_enough() {
    let (log, before, expected) = long_log(2);
    for torn in [510, 4096 + 510] {
        let mut bytes = log.finish(false);
        bytes[torn] ^= 1;
        if torn > 4096 {
            // The older page names a checkpoint that is gone: refused, not guessed.
            let err = replay(&geometry(volume(&before, &index(&[], EMPTY))), &mem(bytes)).err();
            assert_eq!(err.map(|err| err.kind()), Some(Kind::Unsupported));
        } else {
            check_long(bytes, &before, &expected, 600);
        }
    }
}

/// Any single flipped bit in the part of a log that is read: the right result, or a refusal.
#[test]
fn flipped_bits_never_panic_nor_pass_unnoticed_in_the_structure() {
    let (log, before, _) = long_log(2);
    let bytes = log.finish(false);
    let disk = geometry(volume(&before, &index(&[], EMPTY)));
    let step = if std::env::var_os("VCB_TORTURE").is_some() { 7 } else { 4001 };
    for bit in (0..bytes.len() * 8).step_by(step) {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        if let Err(err) = replay(&disk, &mem(bad)) {
            assert_eq!(err.kind(), Kind::Unsupported, "bit {bit}: {err:?}");
        }
    }
}

#[test]
fn every_read_fault_of_log_or_volume_is_passed_on() {
    let (log, before, _) = long_log(1);
    let (bytes, disk) = (log.finish(false), volume(&before, &index(&[], EMPTY)));
    let mut nth = 1;
    loop {
        let faulty = Arc::new(FaultBlock::at(mem(bytes.clone()), nth, Fault::Eio));
        let result = replay(&geometry(disk.clone()), &(faulty.clone() as BlockRef));
        if !faulty.fired() {
            assert_eq!(result.unwrap().redone, 600);
            break;
        }
        assert_eq!(result.err().unwrap().kind(), Kind::Io, "read {nth}");
        nth += 1;
    }
    let block: BlockRef = Arc::new(FaultBlock::at(mem(disk), 1, Fault::Eio));
    let volume = Volume { block, cluster: CLUSTER as u32, record: RECORD as u32 };
    assert_eq!(replay(&volume, &mem(bytes)).err().unwrap().kind(), Kind::Io);
}

#[test]
fn hibernation_is_told_by_the_first_bytes() {
    for (magic, expected) in [(b"HIBR", true), (b"hibr", true), (b"RSTR", true), (b"WAKE", false), (b"\0\0\0\0", false)]
    {
        assert_eq!(is_hibernated(&mem(magic.repeat(10))).unwrap(), expected);
    }
    assert!(!is_hibernated(&mem(Vec::new())).unwrap());
}
