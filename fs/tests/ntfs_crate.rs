//! Windows-made volumes against the crate `ntfs`: names, references, times, attributes. Content is compared
//! elsewhere, because that crate does not decode all of it.

#![allow(clippy::unwrap_used)]

mod ntfs_common;

use std::collections::BTreeSet;
use std::io::{Error, Read, Result, Seek, SeekFrom};

use ntfs::structured_values::NtfsFileNamespace;
use ntfs_common::{entries, open, unpack};
use vcb_block::BlockRef;
use vcb_fs::{FileId, Filesystem};

/// A block as the crate wants it.
struct Cursor(BlockRef, u64);

impl Read for Cursor {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let len = (self.0.len().saturating_sub(self.1)).min(buf.len() as u64) as usize;
        self.0.read_at(&mut buf[..len], self.1).map_err(Error::other)?;
        self.1 += len as u64;
        Ok(len)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.1 = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(by) => self.1.checked_add_signed(by).unwrap(),
            SeekFrom::End(by) => self.0.len().checked_add_signed(by).unwrap(),
        };
        Ok(self.1)
    }
}

const NUMBER: u64 = 0xFFFF_FFFF_FFFF;

/// Names and references of a folder as the crate lists them, without DOS names and NTFS's own files.
fn theirs(ntfs: &ntfs::Ntfs, from: &mut Cursor, dir: FileId) -> BTreeSet<(Vec<u8>, u64)> {
    let file = ntfs.file(from, dir.0 & NUMBER).unwrap();
    let index = file.directory_index(from).unwrap();
    let mut found = BTreeSet::new();
    let mut entries = index.entries();
    while let Some(entry) = entries.next(from) {
        let entry = entry.unwrap();
        let name = entry.key().unwrap().unwrap();
        let reference = entry.file_reference();
        let number = reference.file_record_number();
        let own = dir.0 & NUMBER == 5 && number < 16;
        if name.namespace() != NtfsFileNamespace::Dos && !own {
            let id = number | u64::from(reference.sequence_number()) << 48;
            found.insert((name.name().to_string_lossy().into_bytes(), id));
        }
    }
    found
}

fn compare(image: &str) {
    let Some(image) = unpack(image) else { return };
    let fs = open(&image.block);
    let mut from = Cursor(image.block.clone(), 0);
    let ntfs = ntfs::Ntfs::new(&mut from).unwrap();
    assert_eq!(fs.serial(), format!("{:016X}", ntfs.serial_number()));
    let mut folders = vec![fs.root()];
    let mut seen = 0;
    while let Some(dir) = folders.pop() {
        let ours: BTreeSet<_> = entries(&*fs, dir, 1000).unwrap().into_iter().map(|e| (e.name, e.id.0)).collect();
        assert_eq!(ours, theirs(&ntfs, &mut from, dir), "folder {:#x}", dir.0);
        for (name, id) in ours {
            let shown = name.escape_ascii();
            let attr = fs.attr(FileId(id)).unwrap();
            let file = ntfs.file(&mut from, id & NUMBER).unwrap();
            let info = file.info().unwrap();
            let times = [attr.created, attr.modified, attr.changed, attr.accessed].map(|time| time.0);
            let expected = [
                info.creation_time(),
                info.modification_time(),
                info.mft_record_modification_time(),
                info.access_time(),
            ];
            assert_eq!(times, expected.map(|time| time.nt_timestamp()), "{shown}");
            // The crate leaves out attributes that it has no name for.
            let known = info.file_attributes().bits();
            assert_eq!(attr.dos & known, known, "{shown}");
            assert_eq!(attr.dos & 0x10 != 0, file.is_directory(), "{shown}");
            if let Some(Ok(data)) = file.data(&mut from, "") {
                let len = data.to_attribute().unwrap().value_length();
                assert!(file.is_directory() || attr.size == len, "{shown}");
            }
            if file.is_directory() {
                folders.push(FileId(id));
            }
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen}");
}

#[test]
fn a_small_volume() {
    compare("SampleTinyNtfsVolume.zip");
}

#[test]
fn thousands_of_folders() {
    compare("ntfs.bin.gz");
}

#[test]
fn cloud_files() {
    compare("ntfs-cloud.bin.gz");
}

#[test]
fn compressed_files() {
    compare("velociraptor-test.ntfs.raw.xz");
}
