//! The rules that Windows expects, against a small view made for the purpose.

#![allow(clippy::unwrap_used)]

mod small;

use std::sync::Arc;

use small::{BROKEN, CLOUD, FILE, LINK, Small, TWIN};
use vcb_block::Kind;
use vcb_mountd::view::{NodeId, VolumeName};
use vcb_winfsp::identity::Identity;
use vcb_winfsp::status::{Status, status_of};
use vcb_winfsp::tree::Tree;

fn tree() -> Tree {
    Tree::new(Arc::new(Small::default()), Arc::default())
}

fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

fn status(path: &str) -> Status {
    tree().open(&wide(path)).err().unwrap()
}

#[test]
fn names_are_found_in_any_case_and_twins_have_names_of_their_own() {
    let node = |path: &str| tree().open(&wide(path)).unwrap().node;
    assert_eq!(node(r"\DIR\read me.TXT"), FILE);
    // The driver takes both for one file, so that the plain name must mean one.
    assert_eq!(node(r"\dir\READ ME.TXT"), FILE);
    assert_eq!(node("\\dir\\Read me.txt\u{F07E}2"), TWIN);
    assert_eq!(node(r"\"), NodeId::ROOT);
    // The dot at the end is shown as a private-use character, and found by it.
    assert_eq!(node("\\Dir\\broken\u{F02E}"), BROKEN);
}

#[test]
fn what_is_missing_says_which_part() {
    assert_eq!(status(r"\Dir\nothing"), Status::NAME_NOT_FOUND);
    assert_eq!(status(r"\nothing\file"), Status::PATH_NOT_FOUND);
    assert_eq!(status(r"\Dir\Read Me.txt\below"), Status::PATH_NOT_FOUND);
    assert_eq!(status(r"\Dir\Read Me.txt:none"), Status::NAME_NOT_FOUND);
}

#[test]
fn reads_end_at_the_end_and_fail_where_they_fail() {
    let tree = tree();
    let file = tree.open(&wide(r"\Dir\Read Me.txt")).unwrap();
    let mut buf = [0; 8];
    assert_eq!(tree.read(&file, &mut buf, 0), Ok(5));
    assert_eq!(&buf[..5], b"hello");
    assert_eq!(tree.read(&file, &mut buf, 4), Ok(1));
    assert_eq!(tree.read(&file, &mut buf, 5), Err(Status::END_OF_FILE));
    let broken = tree.open(&wide("\\Dir\\broken\u{F02E}")).unwrap();
    assert_eq!(tree.read(&broken, &mut buf, 0), Err(status_of(Kind::Io)));
    // A placeholder opens, so that its attributes can be had, and its content fails for what it is.
    let cloud = tree.open(&wide(r"\Dir\cloud")).unwrap();
    assert_eq!(tree.read(&cloud, &mut buf, 0), Err(status_of(Kind::Unsupported)));
    let dir = tree.open(&wide(r"\Dir")).unwrap();
    assert_eq!(tree.read(&dir, &mut buf, 0), Err(status_of(Kind::WrongType)));
}

#[test]
fn streams_open_behind_a_colon() {
    let tree = tree();
    for path in [r"\Dir\Read Me.txt:s1", r"\Dir\Read Me.txt:s1:$DATA"] {
        let stream = tree.open(&wide(path)).unwrap();
        let mut buf = [0; 8];
        assert_eq!((stream.info.size, tree.read(&stream, &mut buf, 0)), (3, Ok(3)));
    }
    let unnamed = tree.open(&wide(r"\Dir\Read Me.txt::$DATA")).unwrap();
    assert_eq!(unnamed.info.size, 5);
    let names: Vec<_> = tree.streams(&unnamed).unwrap().into_iter().map(|s| (s.name, s.size)).collect();
    assert_eq!(names, [(Vec::new(), 5), (wide("s1"), 3)]);
}

#[test]
fn folders_list_everything_once_with_dots_first() {
    let tree = tree();
    let dir = tree.open(&wide(r"\Dir")).unwrap();
    let (mut names, mut attributes) = (Vec::new(), Vec::new());
    tree.entries(&dir, &mut |entry| {
        names.push(String::from_utf16(&entry.name).unwrap());
        attributes.push(entry.info.attributes);
        Ok(())
    })
    .unwrap();
    assert_eq!(names, [".", "..", "Read Me.txt", "READ ME.TXT\u{F07E}2", "link", "cloud", "broken\u{F02E}", "panics"]);
    assert_eq!(attributes[0] & 0x10, 0x10);
    assert_eq!(attributes[4] & 0x400, 0x400, "a link is a reparse point");
    assert_eq!(attributes[5], 0x420, "a placeholder is one too, and asks nobody to recall it");
    let file = tree.open(&wide(r"\Dir\link")).unwrap();
    assert_eq!(tree.entries(&file, &mut |_| Ok(())), Err(Status::NOT_A_DIRECTORY));
}

#[test]
fn translated_links_are_relative_symbolic_links_and_others_keep_their_data() {
    let tree = tree();
    let text: Vec<u8> = wide(r"..\other\file").iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let len = text.len() as u16;
    let mut expected = 0xA000_000Cu32.to_le_bytes().to_vec();
    expected.extend((12 + 2 * len).to_le_bytes());
    expected.extend([0, 0]);
    for field in [0, len, len, len] {
        expected.extend(u16::to_le_bytes(field));
    }
    expected.extend(1u32.to_le_bytes());
    expected.extend_from_slice(&text);
    expected.extend_from_slice(&text);
    assert_eq!(tree.reparse(LINK).unwrap(), expected);
    assert_eq!(tree.reparse(CLOUD).unwrap(), [0x1A, 0, 0, 0x90, 2, 0, 0, 0, 7, 7]);
    assert_eq!(tree.reparse(FILE), Err(Status::NOT_A_REPARSE_POINT));
}

#[test]
fn times_and_ids_are_the_guests_own() {
    let info = tree().open(&wide(r"\Dir\Read Me.txt")).unwrap().info;
    assert_eq!((info.created, info.written, info.changed, info.accessed), (1, 2, 3, 4));
    assert_eq!((info.index, info.links, info.allocated, info.attributes), (FILE.0, 1, 4096, 0x20));
    assert_eq!(tree().totals(), Ok((40960, 16384)));
}

#[test]
fn label_and_number_are_the_only_volumes_or_the_vms() {
    let of = |volume: Option<(&str, &str)>, name: &str| {
        let volume = volume.map(|(label, serial)| VolumeName { label: label.into(), serial: serial.to_owned() });
        let identity = Identity::of(&Small { volume }, name);
        (String::from_utf8(identity.label).unwrap(), identity.serial)
    };
    assert_eq!(of(Some(("System", "01D2A3B4C5D6E7F8")), "web01"), ("System".to_owned(), 0xC5D6_E7F8));
    assert_eq!(of(Some(("", "01D2A3B4C5D6E7F8")), "web01"), ("web01".to_owned(), 0xC5D6_E7F8));
    let vms = of(None, "web01");
    assert_eq!(vms.0, "web01");
    assert_eq!(of(Some(("System", "a UUID")), "web01"), ("System".to_owned(), vms.1));
    assert_eq!(of(None, "web01"), vms, "it is the same at every mount");
    assert_ne!(of(None, "web02").1, vms.1);
}
