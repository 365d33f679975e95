//! Exported archives: read in place, compared with their manifests, refused when cut short.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use vcb_block::{BlockRef, FileSource, Kind, MemBlock, Window, conformance};
use vcb_fixtures::vmdk::{Chain, Directory, Kind as DiskKind, Model, ova};
use vcb_vmdk::ova::OvaResolver;
use vcb_vmdk::{Disk, OpenOptions, Severity, check};

fn archive() -> (Vec<u8>, Vec<u8>) {
    let mut chain = Chain::new("disk");
    chain.push(DiskKind::StreamOptimized(Directory::AtEnd), &Model::random(3000, 128, 5)).unwrap();
    (ova("appliance", &chain.folder), chain.raw().to_vec())
}

fn open(bytes: Vec<u8>) -> vcb_block::Result<Arc<OvaResolver>> {
    OvaResolver::open(Arc::new(MemBlock::new(bytes)), "a.ova")
}

#[test]
fn disks_are_read_where_they_lie() {
    let (bytes, raw) = archive();
    let resolver = open(bytes).unwrap();
    let names: Vec<&str> = resolver.disks().collect();
    let [name] = names.as_slice() else { panic!("{names:?}") };
    let disk = Disk::open(resolver.clone(), name, &OpenOptions::default()).unwrap();
    conformance::same_bytes(disk.block(), &raw, 1);
    conformance::check(disk.block(), 1);
    assert_eq!(resolver.check().unwrap(), []);
}

#[test]
fn a_changed_member_does_not_match_the_manifest() {
    let (mut bytes, _) = archive();
    let resolver = open(bytes.clone()).unwrap();
    let name = resolver.disks().next().unwrap().to_owned();
    let at = bytes.windows(name.len()).rposition(|window| window == name.as_bytes()).unwrap();
    // The last mention of the disk is in its own header, or in the manifest; its content is what changes.
    let magic = bytes.windows(4).position(|window| window == b"KDMV").unwrap();
    bytes[magic + 400] ^= 1;
    let findings = open(bytes).unwrap().check().unwrap();
    assert!(findings.iter().any(|f| f.severity == Severity::Error && f.text.contains(&name)), "{at}: {findings:?}");
}

#[test]
fn an_archive_cut_short_is_refused_wherever_it_ends() {
    let (bytes, _) = archive();
    let whole: BlockRef = Arc::new(MemBlock::new(bytes));
    // Not in the empty sectors at its end, which add nothing.
    for len in (0..whole.len() - 10_240).step_by(1111) {
        let part: BlockRef = Arc::new(Window::new(whole.clone(), 0, len).unwrap());
        let resolver = match OvaResolver::open(part, "a.ova") {
            Ok(resolver) => resolver,
            Err(err) => {
                assert_eq!(err.kind(), Kind::Corrupt, "{len}: {err:?}");
                continue;
            }
        };
        panic!("cut to {len}: {:?}", resolver.names().collect::<Vec<_>>());
    }
}

#[test]
fn the_truncated_export_of_the_corpus() {
    let Some(path) = vcb_fixtures::corpus("malformed/ttylinux-truncated.ova") else { return };
    let file: BlockRef = Arc::new(FileSource::open(path).unwrap());
    let resolver = OvaResolver::open(file, "ttylinux-truncated.ova").unwrap();
    let name = resolver.disks().next().unwrap().to_owned();
    let err = Disk::open(resolver.clone(), &name, &OpenOptions::default()).err().unwrap();
    println!("{}", err.report());
    assert_eq!(err.kind(), Kind::Corrupt);
    assert!(err.report().contains("cut short"), "{err:?}");
    let findings = check(resolver, &name, &OpenOptions::default()).unwrap();
    assert!(findings.iter().any(|finding| finding.severity == Severity::Error));
}
