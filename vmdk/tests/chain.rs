//! Chains that are not as they should be, and the places where parents are looked for.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use common::Memory;
use vcb_block::{BlockRef, Kind, MemBlock, plan};
use vcb_vmdk::{ChainError, Disk, FolderResolver, OpenOptions};

const SECTORS: usize = 8;

/// A flat link with all bytes `fill`, or a descriptor that stands on `parent`.
fn base(name: &str, cid: u32, fill: u8) -> Vec<(String, Vec<u8>)> {
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\
         RW {SECTORS} VMFS \"{name}-flat.vmdk\"\nddb.adapterType = \"lsilogic\"\nddb.uuid = \"60 00\"\n"
    );
    vec![(format!("{name}.vmdk"), text.into_bytes()), (format!("{name}-flat.vmdk"), vec![fill; SECTORS * 512])]
}

/// A child that stores nothing: one zero-length delta would do, but an all-hole COWD is the real thing.
fn child(name: &str, cid: u32, parent_cid: u32, hint: &str) -> Vec<(String, Vec<u8>)> {
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID={parent_cid:08x}\ncreateType=\"vmfsSparse\"\n\
         parentFileNameHint=\"{hint}\"\nRW {SECTORS} VMFSSPARSE \"{name}-delta.vmdk\"\n"
    );
    let mut delta = vec![0; 2048 + 512];
    delta[..4].copy_from_slice(b"COWD");
    for (at, value) in [(4, 1u32), (8, 3), (12, SECTORS as u32), (16, 1), (20, 4), (24, 1), (28, 5)] {
        delta[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    vec![(format!("{name}.vmdk"), text.into_bytes()), (format!("{name}-delta.vmdk"), delta)]
}

fn first_byte(disk: &Disk) -> u8 {
    let mut byte = [0];
    plan::read(disk.block(), &mut byte, 700).unwrap();
    byte[0]
}

fn refused(files: Vec<(String, Vec<u8>)>, leaf: &str) -> vcb_block::Error {
    Disk::open(Arc::new(Memory::new(files)), leaf, &OpenOptions::default()).err().expect("it was opened")
}

#[test]
fn a_parent_that_changed_is_refused_unless_asked_for() {
    let files = [base("base", 7, 0xAA), child("leaf", 9, 8, "base.vmdk")].concat();
    let err = refused(files.clone(), "leaf.vmdk");
    assert!(matches!(err.cause(), Some(ChainError::CidMismatch { expected: 8, found: 7, .. })), "{err:?}");
    let options = || {
        let mut options = OpenOptions::default();
        options.ignore_cid = true;
        options
    };
    let disk = Disk::open(Arc::new(Memory::new(files)), "leaf.vmdk", &options()).unwrap();
    assert_eq!((first_byte(&disk), disk.links().len()), (0xAA, 2));
    assert_eq!(disk.ddb("adaptertype"), Some("lsilogic"), "looked up in the base");
}

#[test]
fn chains_without_an_end_are_refused() {
    let err = refused(child("a", 1, 1, "a.vmdk"), "a.vmdk");
    assert!(matches!(err.cause(), Some(ChainError::Cycle(_))), "{err:?}");
    let err = refused([child("a", 1, 1, "b.vmdk"), child("b", 1, 1, "a.vmdk")].concat(), "a.vmdk");
    assert!(matches!(err.cause(), Some(ChainError::Cycle(_))), "{err:?}");
    let long = (0..300).flat_map(|n| child(&format!("l{n}"), 1, 1, &format!("l{}.vmdk", n + 1))).collect();
    let err = refused(long, "l0.vmdk");
    assert!(matches!(err.cause(), Some(ChainError::TooDeep)), "{err:?}");
    assert_eq!(err.kind(), Kind::Limit);
}

#[test]
fn a_missing_parent_or_extent_is_named() {
    let err = refused(child("a", 1, 1, "/vmfs/volumes/0-1/vm/gone.vmdk"), "a.vmdk");
    assert!(matches!(err.cause(), Some(ChainError::MissingParent { .. })), "{err:?}");
    assert_eq!(err.kind(), Kind::NotFound);
    let mut files = base("b", 1, 0);
    files.pop();
    assert_eq!(refused(files, "b.vmdk").kind(), Kind::NotFound);
    let mut files = base("b", 1, 0);
    files[1].1.truncate(1000);
    let err = refused(files, "b.vmdk");
    assert_eq!((err.kind(), err.offset()), (Kind::Corrupt, Some(1000)));
    let delta = child("a", 1, 1, "b.vmdk").remove(1);
    assert_eq!(refused(vec![delta], "a-delta.vmdk").kind(), Kind::Unsupported, "a lone extent");
}

#[test]
fn the_parent_with_the_right_content_is_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let save = |folder: &str, files: Vec<(String, Vec<u8>)>| {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
        files.into_iter().for_each(|(name, bytes)| fs::write(dir.path().join(folder).join(name), bytes).unwrap());
    };
    // A linked clone whose own disk has the name of its parent, and a decoy of another content.
    save("master", base("disk", 5, 0x55));
    save("clone", child("disk", 6, 5, "/vmfs/volumes/0-1/master/disk.vmdk"));
    save("moved", [child("leaf", 6, 5, "/vmfs/volumes/0-1/master/disk.vmdk"), base("disk", 99, 0x99)].concat());
    save("win", child("leaf", 6, 5, "..\\master\\disk.vmdk"));
    let resolver = FolderResolver::new(dir.path()).unwrap();
    for leaf in ["clone/disk.vmdk", "moved/leaf.vmdk", "win/leaf.vmdk"] {
        let disk =
            Disk::open(resolver.clone(), leaf, &OpenOptions::default()).unwrap_or_else(|err| panic!("{leaf}: {err:?}"));
        assert_eq!((first_byte(&disk), disk.links()[1].name.as_str()), (0x55, "master/disk.vmdk"), "{leaf}");
    }
    let confined = FolderResolver::new(dir.path().join("win")).unwrap();
    let err = Disk::open(confined, "leaf.vmdk", &OpenOptions::default()).err().unwrap();
    assert_eq!(err.kind(), Kind::Forbidden, "{err:?}");
}

#[test]
fn raw_devices_are_read_when_configured() {
    let text = |kind: &str, name: &str| {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"fullDevice\"\n\
             RW 4 {kind} \"{name}\" 2\nNOACCESS 1 FLAT \"{name}\" 60\nRW 1 ZERO\n"
        );
        vec![("d.vmdk".to_owned(), text.into_bytes())]
    };
    for (kind, name) in [("FLAT", "/dev/sda"), ("FLAT", "\\\\.\\PhysicalDrive0"), ("VMFSRAW", "vml.01")] {
        let err = refused(text(kind, name), "d.vmdk");
        assert_eq!(err.kind(), Kind::Unsupported, "{err:?}");
        assert!(err.report().contains(name));
        let device: BlockRef = Arc::new(MemBlock::new((0..8192u32).map(|n| (n / 512) as u8).collect()));
        let mut options = OpenOptions::default();
        options.devices = BTreeMap::from([(name.to_owned(), device)]);
        let disk = Disk::open(Arc::new(Memory::new(text(kind, name))), "d.vmdk", &options).unwrap();
        assert_eq!((first_byte(&disk), disk.len()), (3, 6 * 512));
        let mut buf = [1; 512];
        assert_eq!(disk.block().read_at(&mut buf, 2048).unwrap_err().kind(), Kind::Denied, "NOACCESS");
        disk.block().read_at(&mut buf, 2560).unwrap();
        assert_eq!(buf, [0; 512]);
    }
}
