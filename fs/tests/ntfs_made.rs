//! Volumes of every cluster size, against what was written to them.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod ntfs_common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use ntfs_common::fill::{Written, fill, noise};
use ntfs_common::made::{Made, Recipe, getfattr, setfattr};
use ntfs_common::{entries, listing, open};
use vcb_block::{BlockRef, Kind, MemBlock, RunKind, Runs, conformance};
use vcb_fs::ntfs::{Ntfs, Options};
use vcb_fs::{Attr, FileId, FileType, Filesystem, Unreadable};

fn check(recipe: &Recipe) {
    let mut lines = BTreeSet::new();
    let made = Made::new(recipe, |root| {
        let mut written = Written::new(root);
        fill(&mut written, recipe.cluster as usize);
        lines = written.lines;
    });
    let Some(made) = made else { return };
    let fs = open(&made.block());
    assert_eq!(fs.geometry().cluster, recipe.cluster);
    assert_eq!(fs.geometry().sector, recipe.sector);
    assert_eq!(fs.geometry().record, recipe.sector.max(1024), "records are as long as sectors");
    assert_eq!((fs.kind(), fs.label()), ("ntfs", b"made".to_vec()));
    let found: BTreeSet<String> = listing(&*fs).into_iter().collect();
    let difference: Vec<_> = found.symmetric_difference(&lines).take(10).collect();
    assert!(difference.is_empty(), "{difference:#?}");
    details(&*fs);
}

fn at(fs: &dyn Filesystem, path: &str) -> FileId {
    path.split('/').fold(fs.root(), |dir, name| fs.lookup(dir, name.as_bytes()).unwrap())
}

fn attr(fs: &dyn Filesystem, path: &str) -> Attr {
    fs.attr(at(fs, path)).unwrap()
}

/// What a listing does not show.
fn details(fs: &dyn Filesystem) {
    assert_eq!(attr(fs, "mixed/one of forty names 7").links, 40);
    assert_eq!(attr(fs, "mixed/one of forty names 7").id, at(fs, "mixed/one of forty names 0"));
    let names = at(fs, "names");
    assert_ne!(at(fs, "names/Case"), at(fs, "names/CASE"));
    assert_eq!(fs.lookup_ignore_case(names, b"CASE").unwrap(), (at(fs, "names/CASE"), b"CASE".to_vec()));
    let (id, name) = fs.lookup_ignore_case(names, b"case").unwrap();
    assert!(fs.lookup(names, b"case").is_err() && fs.lookup(names, &name).unwrap() == id);
    assert_eq!(fs.parent(names).unwrap(), fs.root());
    assert_eq!(fs.parent(fs.root()).unwrap(), fs.root());
    assert_eq!(fs.name(names).unwrap(), b"names");
    assert_eq!(fs.by_record(names.0 & 0xFFFF_FFFF_FFFF).unwrap(), names);
    assert!(fs.security(names).unwrap().is_some_and(|descriptor| descriptor.first() == Some(&1)));

    let sparse = attr(fs, "mixed/holes");
    assert!(sparse.allocated < sparse.size, "{sparse:?}");
    for path in ["mixed/holes", "mixed/odd", "packed/text", "packed/noise", "sizes/700", "sizes/0"] {
        conformance::check(&fs.open(at(fs, path), None).unwrap(), 11);
    }
    let holes = fs.open(at(fs, "mixed/holes"), None).unwrap();
    let runs = Runs::of(&holes, 0..holes.len()).unwrap();
    assert!(runs.as_slice().iter().any(|run| run.kind == RunKind::Zero), "{runs:?}");

    let page_by_page = entries(fs, at(fs, "many"), 1).unwrap();
    assert_eq!(page_by_page, entries(fs, at(fs, "many"), 1000).unwrap());
    assert_eq!(page_by_page.len(), 300);
    assert!(page_by_page.iter().all(|entry| entry.kind == FileType::File && entry.next > 15));
}

#[test]
fn clusters_of_512_bytes() {
    check(&Recipe { megabytes: 64, sector: 512, cluster: 512 });
}

#[test]
fn clusters_of_4_kib() {
    check(&Recipe { megabytes: 64, sector: 512, cluster: 4096 });
}

#[test]
fn sectors_of_4_kib() {
    check(&Recipe { megabytes: 64, sector: 4096, cluster: 4096 });
}

#[test]
fn clusters_of_64_kib() {
    check(&Recipe { megabytes: 256, sector: 512, cluster: 65536 });
}

#[test]
fn clusters_of_2_mib() {
    check(&Recipe { megabytes: 1024, sector: 512, cluster: 2 << 20 });
}

const SMALL: Recipe = Recipe { megabytes: 32, sector: 512, cluster: 4096 };

#[test]
fn attributes_are_those_that_ntfs_3g_answers() {
    let paths = ["dir", "dir/file", "large", "new"];
    let mut theirs = Vec::new();
    let made = Made::new(&SMALL, |root| {
        fs::create_dir(root.join("dir")).unwrap();
        for path in &paths[1..] {
            fs::write(root.join(path), path).unwrap();
        }
        setfattr(&root.join("dir/file"), "system.ntfs_attrib_be", "0x00000003");
        setfattr(&root.join("large"), "system.ntfs_ea", "0x0c0000000001020041007879");
        setfattr(&root.join("large"), "system.ntfs_object_id", "0x00112233445566778899aabbccddeeff");
        setfattr(
            &root.join("new"),
            "system.ntfs_times",
            "0x0080f9a5f1d4ca010100000000000000ffffffffffffff7f8040302010000000",
        );
        for path in paths {
            let path = root.join(path);
            let number = fs::metadata(&path).unwrap().ino();
            theirs.push((number, ["system.ntfs_acl", "system.ntfs_times"].map(|name| getfattr(&path, name))));
        }
    });
    let Some(made) = made else { return };
    let fs = open(&made.block());
    for (path, (number, [acl, times])) in paths.iter().zip(theirs) {
        let attr = attr(&*fs, path);
        assert_eq!(attr.id.0 & 0xFFFF_FFFF_FFFF, number, "{path}");
        assert_eq!(fs.security(attr.id).unwrap(), Some(acl), "{path}");
        let ours = [attr.created, attr.modified, attr.accessed, attr.changed];
        // The last one of the four cannot be set.
        let ours: Vec<u8> = ours.iter().flat_map(|time| time.0.to_le_bytes()).collect();
        assert_eq!(ours, times, "{path}");
    }
    assert_eq!((attr(&*fs, "dir/file").dos, attr(&*fs, "dir").dos & 0x10), (3, 0x10));
    let large = at(&*fs, "large");
    assert_eq!(fs.extended_attributes(large).unwrap().unwrap(), *b"\x0c\0\0\0\0\x01\x02\0A\0xy");
    assert_eq!(fs.object_id(large).unwrap().unwrap()[..4], [0x00, 0x11, 0x22, 0x33]);
    assert_eq!(fs.object_id(at(&*fs, "new")).unwrap(), None);
}

#[test]
fn reparse_points_of_others_are_never_read_as_data() {
    let made = Made::new(&SMALL, |root| {
        for (name, tag) in [("cloud", "1a000090"), ("dedup", "13000080"), ("unknown", "77000080")] {
            fs::write(root.join(name), b"placeholder").unwrap();
            let data = format!("0x{tag}08000000") + "3132333435363738";
            setfattr(&root.join(name), "system.ntfs_reparse_data", &data);
        }
    });
    let Some(made) = made else { return };
    let fs = open(&made.block());
    // All of it is on the volume: see docs/decisions/0301-cloud-files.md.
    assert_eq!(attr(&*fs, "cloud").unreadable, None);
    for (name, tag, why) in [
        ("dedup", 0x8000_0013, Unreadable::Deduplicated),
        ("unknown", 0x8000_0077, Unreadable::UnknownReparse { tag: 0x8000_0077 }),
    ] {
        let attr = attr(&*fs, name);
        assert_eq!((attr.reparse_tag, attr.unreadable, attr.size), (tag, Some(why), 11));
        assert!(fs.open(attr.id, None).is_err_and(|err| err.kind() == Kind::Unsupported));
        assert_eq!(fs.reparse_data(attr.id).unwrap().as_deref(), Some(&b"12345678"[..]));
    }
}

/// The record of the file called `name`, and where its attribute `kind` begins.
fn attribute<'v>(volume: &'v mut [u8], name: &str, kind: u32) -> (&'v mut [u8], usize) {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut records = volume.chunks_exact_mut(1024).filter(|record| record.starts_with(b"FILE"));
    let record = records.find(|record| record.windows(name.len()).any(|window| window == name)).unwrap();
    let mut at = usize::from(u16::from_le_bytes([record[0x14], record[0x15]]));
    while u32::from_le_bytes(record[at..at + 4].try_into().unwrap()) != kind {
        at += u32::from_le_bytes(record[at + 4..at + 8].try_into().unwrap()) as usize;
    }
    (record, at)
}

/// Sets the encryption flag in attribute `kind` of the file called `name`.
fn encrypt(volume: &mut [u8], name: &str, kind: u32) {
    let (record, at) = attribute(volume, name, kind);
    record[at + 0x0D] |= 0x40;
}

/// Where the index entry for `name` begins, when no end of a sector is in it.
fn entry_of(volume: &[u8], name: &str) -> Option<usize> {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let is_key = |key: &[u8]| usize::from(key[0x40]) * 2 == name.len() && key[0x42..].starts_with(&name);
    let len = (0x42 + name.len()) as u16;
    // The last one: a block that was split keeps the remains of what went into a new one.
    let mut places = (0..volume.len() - 1024).step_by(2).rev();
    places.find(|&at| volume[at + 10..].starts_with(&len.to_le_bytes()) && is_key(&volume[at + 0x10..]))
}

/// One bit of an entry could otherwise make a file one of NTFS's own, or a name one for DOS only, and hide it.
#[test]
fn names_are_left_out_only_where_both_sides_agree() {
    let made = Made::new(&SMALL, |root| {
        fs::write(root.join("Alpha of a long name"), b"first").unwrap();
        setfattr(&root.join("Alpha of a long name"), "system.ntfs_dos_name", "0x414c5048417e31");
        fs::write(root.join("Beta"), b"second").unwrap();
    });
    let Some(made) = made else { return };
    let bytes = made.bytes();
    let ask = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        edit(&mut bytes);
        let fs = open(&(Arc::new(MemBlock::new(bytes)) as BlockRef));
        let entries = entries(&*fs, fs.root(), 100).unwrap();
        let told = |entry: &vcb_fs::DirEntry| {
            assert_eq!(fs.lookup(fs.root(), &entry.name).unwrap(), entry.id);
            let attr = fs.attr_as(fs.root(), &entry.name, entry.id);
            (String::from_utf8(entry.name.clone()).unwrap(), attr.map(|attr| attr.size).map_err(|err| err.kind()))
        };
        entries.iter().map(told).collect::<Vec<_>>()
    };
    let alpha = ("Alpha of a long name".to_owned(), Ok(5));
    let beta = ("Beta".to_owned(), Ok(6));
    assert_eq!(ask(&|_| ()), [alpha.clone(), beta.clone()]);
    // Made a name for DOS by damage: the file knows better.
    assert_eq!(
        ask(&|bytes| {
            let at = entry_of(bytes, "Beta").unwrap();
            bytes[at + 0x51] = 2
        }),
        [alpha.clone(), beta.clone()]
    );
    // The other way round it is shown, and is no name of the file's.
    let extra = ("ALPHA~1".to_owned(), Err(Kind::Corrupt));
    let found = ask(&|bytes| {
        let at = entry_of(bytes, "ALPHA~1").unwrap();
        bytes[at + 0x51] = 1
    });
    assert_eq!(found, [alpha.clone(), extra, beta]);
    // Made to lead to $Boot, with the right sequence number.
    let found = ask(&|bytes| {
        let at = entry_of(bytes, "Beta").unwrap();
        bytes[at..at + 8].copy_from_slice(&[7, 0, 0, 0, 0, 0, 7, 0])
    });
    assert_eq!(found, [alpha, ("Beta".to_owned(), Err(Kind::Corrupt))]);
}

/// A pointer that leads past a part of the tree contradicts nothing but the bitmap of blocks in use, and a damaged
/// character may make two names of one.
#[test]
fn an_index_that_lost_a_part_is_not_taken_for_a_whole_one() {
    let made = Made::new(&SMALL, |root| {
        fs::create_dir(root.join("much in here")).unwrap();
        for i in 100..500 {
            fs::write(root.join(format!("much in here/a rather long name of a file, number {i}")), b"x").unwrap();
        }
    });
    let Some(made) = made else { return };
    let names = |bytes: &[u8]| {
        let fs = open(&(Arc::new(MemBlock::new(bytes.to_vec())) as BlockRef));
        let folder = fs.lookup(fs.root(), b"much in here").unwrap();
        let absent = fs.lookup(folder, b"z").unwrap_err().kind();
        let found = entries(&*fs, folder, 70).map_err(|err| err.kind());
        let names = |found: Vec<vcb_fs::DirEntry>| found.into_iter().map(|entry| entry.name).collect::<BTreeSet<_>>();
        (found.map(|found| names(found).len()), absent)
    };
    let mut bytes = made.bytes();
    assert_eq!(names(&bytes), (Ok(400), Kind::NotFound));
    let (record, at) = attribute(&mut bytes, "much in here", 0x90);
    let word = |at: usize| usize::from(u16::from_le_bytes([record[at], record[at + 1]]));
    let mut entry = at + usize::from(record[at + 0x14]) + 0x20;
    while word(entry + 12) & 2 == 0 {
        entry += word(entry + 8);
    }
    let child = entry + word(entry + 8) - 8;
    let right = word(child);
    let mut refused = 0;
    for other in 0..=255 {
        attribute(&mut bytes, "much in here", 0x90).0[child..child + 2].copy_from_slice(&(other as u16).to_le_bytes());
        match names(&bytes) {
            found if other == right => assert_eq!(found, (Ok(400), Kind::NotFound)),
            (Err(Kind::Corrupt), Kind::Corrupt) => refused += 1,
            found => panic!("{other}: {found:?}"),
        }
    }
    assert_eq!(refused, 255);

    let bytes = made.bytes();
    let mut noticed = 0;
    for number in (300..330).step_by(2) {
        let Some(at) = entry_of(&bytes, &format!("a rather long name of a file, number {number}")) else { continue };
        let mut bytes = bytes.clone();
        bytes[at + 0x52 + 2 * 39] ^= 1;
        // What is found may be the remains of an entry in a block that was split.
        match names(&bytes).0 {
            Ok(400) => {}
            found => {
                assert_eq!(found, Err(Kind::Corrupt), "{number}");
                noticed += 1;
            }
        }
    }
    assert!(noticed > 3, "{noticed}");
}

#[test]
fn a_case_sensitive_folder_keeps_its_own_rules() {
    let made = Made::new(&SMALL, |root| {
        for folder in ["exact folder", "usual folder"] {
            fs::create_dir(root.join(folder)).unwrap();
            fs::write(root.join(folder).join("Name"), folder).unwrap();
        }
    });
    let Some(made) = made else { return };
    let mut bytes = made.bytes();
    // $STANDARD_INFORMATION, no versions kept, version 1: as `fsutil file setCaseSensitiveInfo` leaves it.
    let (record, at) = attribute(&mut bytes, "exact folder", 0x10);
    let value = at + usize::from(record[at + 0x14]);
    record[value + 0x28] = 1;
    let fs = open(&(Arc::new(MemBlock::new(bytes)) as BlockRef));
    for (folder, sensitive) in [("exact folder", true), ("usual folder", false)] {
        let dir = attr(&*fs, folder);
        assert_eq!(dir.case_sensitive, sensitive, "{folder}");
        assert!(fs.lookup(dir.id, b"Name").is_ok() && fs.lookup_ignore_case(dir.id, b"Name").is_ok());
        assert_eq!(fs.lookup_ignore_case(dir.id, b"NAME").is_err(), sensitive, "{folder}");
    }
}

#[test]
fn encrypted_files_are_refused_and_encrypted_folders_listed() {
    let made = Made::new(&SMALL, |root| {
        fs::create_dir(root.join("secret folder")).unwrap();
        fs::write(root.join("secret folder/plain"), b"x").unwrap();
        fs::write(root.join("secret file"), noise(5000, 1)).unwrap();
    });
    let Some(made) = made else { return };
    let mut bytes = made.bytes();
    encrypt(&mut bytes, "secret folder", 0x90);
    encrypt(&mut bytes, "secret file", 0x80);
    let fs = open(&(Arc::new(MemBlock::new(bytes)) as BlockRef));
    assert_eq!(attr(&*fs, "secret folder/plain").size, 1);
    let file = attr(&*fs, "secret file");
    assert_eq!((file.size, file.unreadable), (5000, Some(Unreadable::Encrypted)));
    assert!(fs.open(file.id, None).is_err_and(|err| err.kind() == Kind::Unsupported));
}

#[test]
fn metafiles_are_shown_only_when_asked_for() {
    let Some(made) = Made::new(&SMALL, |root| fs::write(root.join("file"), b"x").unwrap()) else { return };
    let shown = |metafiles| {
        let fs = Ntfs::open(made.block(), &Options { metafiles, ..Options::default() }).unwrap();
        let names: Vec<_> = entries(&*fs, fs.root(), 100).unwrap().into_iter().map(|entry| entry.name).collect();
        (fs, names)
    };
    let (fs, names) = shown(false);
    assert_eq!(names, [b"file".to_vec()]);
    assert!(fs.lookup(fs.root(), b"$MFT").is_err_and(|err| err.kind() == Kind::NotFound));
    let (fs, names) = shown(true);
    assert_eq!(names.len(), 12, "{names:?}");
    let boot = fs.open(at(&*fs, "$Boot"), None).unwrap();
    conformance::same_bytes(&boot, &made.bytes()[..boot.len() as usize], 3);
    assert_eq!(fs.streams(at(&*fs, "$BadClus")).unwrap()[0].size, (32 << 20) - 4096);
    assert_eq!(fs.open(at(&*fs, "$Secure"), None).unwrap().len(), 0);
}

#[test]
fn records_that_windows_keeps_twice_survive_the_loss_of_one_copy() {
    let Some(made) = Made::new(&SMALL, |root| fs::write(root.join("file"), b"x").unwrap()) else { return };
    let whole = listing(&*open(&made.block()));
    let mut bytes = made.bytes();
    let cluster = u64::from_le_bytes(bytes[0x30..0x38].try_into().unwrap()) as usize;
    bytes[cluster * 4096..cluster * 4096 + 4 * 1024].fill(0);
    let damaged: BlockRef = Arc::new(MemBlock::new(bytes));
    assert_eq!(listing(&*open(&damaged)), whole);
}

#[test]
fn many_threads_see_what_one_sees() {
    let mut lines = BTreeSet::new();
    let made = Made::new(&Recipe { megabytes: 64, ..SMALL }, |root| {
        let mut written = Written::new(root);
        fill(&mut written, 4096);
        lines = written.lines;
    });
    let Some(made) = made else { return };
    // A cache too small for anything, so that threads also meet each other's evictions.
    for cache_bytes in [0, 1 << 20] {
        let fs = Ntfs::open(made.block(), &Options { cache_bytes, ..Options::default() }).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(listing(&*fs).into_iter().collect::<BTreeSet<_>>() == lines));
            }
        });
    }
}
