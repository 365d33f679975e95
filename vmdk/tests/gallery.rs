//! Every written specimen gives its model's bytes: whole, in pieces, and with failing storage.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::Memory;
use vcb_block::{BlockRef, Fault, FaultBlock, Result, conformance, plan};
use vcb_fixtures::vmdk::{Specimen, gallery, small_gallery};
use vcb_vmdk::{Disk, OpenOptions, Severity, check};

fn memory(specimen: &Specimen) -> Memory {
    Memory::new(specimen.folder.files.clone())
}

fn open(memory: Memory, specimen: &Specimen) -> Result<Disk> {
    Disk::open(Arc::new(memory), &specimen.leaf, &OpenOptions::default())
}

/// The whole disk in reads of `step` bytes.
fn read_all(block: &BlockRef, step: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0xEE; block.len() as usize];
    for (index, part) in bytes.chunks_mut(step).enumerate() {
        plan::read(block, part, (index * step) as u64)?;
    }
    Ok(bytes)
}

#[test]
fn every_specimen_gives_its_bytes() {
    for (number, specimen) in gallery().unwrap().iter().enumerate() {
        let disk = open(memory(specimen), specimen).unwrap_or_else(|err| panic!("{}: {err:?}", specimen.name));
        println!("{}: {:?}", specimen.name, disk.warnings());
        conformance::same_bytes(disk.block(), &specimen.raw, number as u64);
        conformance::check(disk.block(), number as u64);
        for step in [4096, 1000, 1 << 20] {
            assert!(read_all(disk.block(), step).unwrap() == specimen.raw, "{} by {step}", specimen.name);
        }
    }
}

#[test]
fn failing_storage_is_an_error_and_never_wrong_bytes() {
    for specimen in small_gallery().unwrap() {
        for name in specimen.folder.files.keys() {
            for fault in [Fault::Eio, Fault::EioForever] {
                for nth in 1.. {
                    let files = memory(&specimen);
                    let faulty = Arc::new(FaultBlock::at(files.file(name), nth, fault));
                    let files = files.with(name, faulty.clone());
                    let result = open(files, &specimen).and_then(|disk| read_all(disk.block(), 100_000));
                    if let Ok(bytes) = result {
                        assert!(bytes == specimen.raw, "{}: read {nth} of {name} failed", specimen.name);
                    }
                    if !faulty.fired() {
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn check_finds_nothing_in_sound_disks() {
    for specimen in gallery().unwrap() {
        let findings = check(Arc::new(memory(&specimen)), &specimen.leaf, &OpenOptions::default()).unwrap();
        let bad: Vec<_> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
        assert!(bad.is_empty(), "{}: {bad:?}", specimen.name);
    }
}
