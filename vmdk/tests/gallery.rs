//! Every written specimen gives its model's bytes: whole, in pieces, with failing storage, and with any bit
//! of its metadata flipped (or an error).

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::Memory;
use vcb_block::{BlockRef, Fault, FaultBlock, Result, conformance, plan};
use vcb_fixtures::vmdk::{Part, Rng, Specimen, gallery, small_gallery};
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

/// Where a format says a thing once, and any other value says something else just as well: the entries of
/// tables and directories without a second copy. Opening a disk looks for grains stored twice within a table;
/// `check` looks in the whole file. What neither can see is a grain that was never allocated, or is no more.
fn is_single(specimen: &Specimen, part: Part) -> bool {
    let redundant = matches!(specimen.name, "hosted sparse" | "split sparse" | "hosted delta");
    !redundant && matches!(part, Part::Table | Part::Directory) && !specimen.name.starts_with("stream")
}

/// Flips metadata bits one at a time: all of them under `VCB_TORTURE=1`, else a sample.
#[test]
fn a_flipped_bit_gives_the_right_bytes_or_an_error() {
    let torture = std::env::var_os("VCB_TORTURE").is_some();
    let mut rng = Rng::new(42);
    for specimen in small_gallery().unwrap() {
        let (mut tried, mut unseen) = (0, 0);
        for (file, layout) in &specimen.folder.layouts {
            for (part, range) in layout.metadata().filter(|(part, _)| *part != Part::Bookkeeping) {
                let bits = (range.end - range.start) * 8;
                let step = if torture { 1 } else { (bits / 20).max(1) };
                for bit in (rng.below(step)..bits).step_by(step as usize) {
                    let at = (range.start + bit / 8) as usize;
                    let mut files = specimen.folder.files.clone();
                    files.get_mut(file).unwrap()[at] ^= 1 << (bit % 8);
                    let files = Arc::new(Memory::new(files));
                    let options = OpenOptions::default();
                    let result = Disk::open(files.clone(), &specimen.leaf, &options)
                        .and_then(|disk| read_all(disk.block(), 1 << 20));
                    tried += 1;
                    let Ok(bytes) = result else { continue };
                    if bytes == specimen.raw {
                        continue;
                    }
                    let findings = check(files, &specimen.leaf, &options).unwrap();
                    if findings.is_empty() {
                        unseen += 1;
                        assert!(
                            is_single(&specimen, *part),
                            "{}: bit {} of {at:#x} in {file} ({part:?})",
                            specimen.name,
                            bit % 8
                        );
                    }
                }
            }
        }
        println!("{}: {tried} flips, {unseen} unseen", specimen.name);
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
