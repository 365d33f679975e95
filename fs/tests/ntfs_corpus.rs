//! Volumes made by Windows, against what ntfs-3g read from them.

#![allow(clippy::unwrap_used)]

mod ntfs_common;

use std::collections::BTreeSet;

use ntfs_common::{listing, open, unpack};
use vcb_block::Kind;
use vcb_fs::{Filesystem, Unreadable};

/// Reads every file and stream of a corpus image. `differs` are the lines, of either listing, that are
/// known and right to differ.
fn compare(image: &str, expected: &str, differs: &[&str]) {
    let Some(expected) = vcb_fixtures::corpus(&format!("ntfs/{expected}.expected.tsv")) else { return };
    let Some(image) = unpack(image) else { return };
    let fs = open(&image.block);
    let ours: BTreeSet<String> = listing(&*fs).into_iter().collect();
    let text = std::fs::read_to_string(expected).unwrap();
    let theirs: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    let difference: Vec<&String> = ours.symmetric_difference(&theirs).collect();
    let unexpected: Vec<_> =
        difference.iter().filter(|line| !differs.iter().any(|known| line.contains(known))).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    assert!(ours.len() + 2 >= theirs.len());
    let stats = fs.stats().unwrap();
    assert!(stats.free_clusters <= stats.clusters && stats.files > 16, "{stats:?}");
}

#[test]
fn a_small_volume_of_512_byte_clusters() {
    compare("SampleTinyNtfsVolume.zip", "tiny", &[]);
}

#[test]
fn a_volume_with_thousands_of_folders() {
    compare("ntfs.bin.gz", "ntfs", &[]);
}

#[test]
fn a_deep_index() {
    compare("ntfs_index.raw.gz", "ntfs_index", &[]);
}

#[test]
fn a_hundred_names_in_twelve_records() {
    compare("ntfs3_attrlist.raw.gz", "ntfs3_attrlist", &[]);
}

#[test]
fn streams_attribute_lists_and_compression() {
    compare("velociraptor-test.ntfs.raw.xz", "velociraptor-test", &[]);
}

#[test]
fn files_shorter_than_what_was_written_of_them() {
    compare("vsstest.qcow2", "vsstest", &[]);
}

#[test]
fn a_cloud_folder() {
    // ntfs-3g shows a folder with a tag it does not know as a broken link; it is a folder.
    compare("ntfs-cloud.bin.gz", "ntfs-cloud", &["/OneDrive\t", "/OneDrive:", "/OneDrive/"]);
}

#[test]
fn cloud_files_are_read_where_their_content_is_here() {
    let Some(image) = unpack("ntfs-cloud.bin.gz") else { return };
    let fs = open(&image.block);
    let file = |name: &str| fs.lookup(fs.lookup(fs.root(), b"OneDrive").unwrap(), name.as_bytes()).unwrap();

    let here = file("always-keep-on-device.txt");
    let block = fs.open(here, None).unwrap();
    let mut bytes = vec![0; block.len() as usize];
    block.read_at(&mut bytes, 0).unwrap();
    assert!(bytes.starts_with(b"This is a document created on the desktop"), "{}", bytes.escape_ascii());
    assert_eq!(fs.attr(here).unwrap().unreadable, None);

    let away = file("created-online.txt");
    let attr = fs.attr(away).unwrap();
    assert_eq!((attr.size, attr.unreadable), (70, Some(Unreadable::CloudPlaceholder { tag: 0x9000_401A })));
    assert_eq!(fs.open(away, None).err().unwrap().kind(), Kind::Unsupported);
}

#[test]
fn undeleted_remains_stay_out() {
    compare("7-undel-ntfs.zip", "7-undel", &[]);
}
