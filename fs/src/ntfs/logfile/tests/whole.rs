//! Whole logs: wrapped, cut, torn, refused, on failing disks.

use super::*;

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
