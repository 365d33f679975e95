//! Each operation by itself, redone and undone, against blocks written by hand.

use super::*;

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
