//! Disks cut short at every structure, and disks on storage that fails: the right bytes or an error.

use std::sync::Arc;

use vcb_block::{BlockRef, Fault, FaultBlock, Kind, Window};
use vcb_fixtures::vmdk::{gallery, small_gallery};
use vcb_tests::disks::{Files, Outcome, outcome, read_up_to};
use vcb_vmdk::OpenOptions;

fn torture() -> bool {
    std::env::var_os("VCB_TORTURE").is_some()
}

/// Cuts at the start, middle and end of every structure of every specimen.
#[test]
fn any_cut_is_right_or_refused() {
    let mut wrong = Vec::new();
    for specimen in gallery().unwrap() {
        let files = Files::of(&specimen.folder);
        for (name, layout) in &specimen.folder.layouts {
            let len = specimen.folder.files[name].len() as u64;
            let mut cuts: Vec<u64> = layout
                .0
                .iter()
                .flat_map(|(_, range)| [range.start, (range.start + range.end) / 2, range.end - 1, range.end])
                .filter(|&cut| cut < len)
                .collect();
            cuts.sort_unstable();
            cuts.dedup();
            let step = if torture() { 1 } else { cuts.len().div_ceil(12) };
            for cut in cuts.into_iter().step_by(step) {
                let short = files.with(name, |file| Arc::new(Window::new(file, 0, cut).unwrap()));
                if let Outcome::Wrong { len, differs } = outcome(&short, &specimen, &OpenOptions::default()) {
                    wrong.push(format!("{}: {name} cut at {cut:#x}: length {len}, {differs:x?}", specimen.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong, such as\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}

/// The Nth read of a file fails, for each N: an error, never other bytes; and what failed once works again.
#[test]
fn failing_storage_is_an_error_and_never_sticks() {
    for specimen in small_gallery().unwrap() {
        let files = Files::of(&specimen.folder);
        for name in specimen.folder.files.keys() {
            for nth in 1.. {
                let mut fault = None;
                let failing = files.with(name, |file| {
                    let block = Arc::new(FaultBlock::at(file, nth, Fault::Eio));
                    fault = Some(Arc::clone(&block));
                    block as BlockRef
                });
                let fault = fault.unwrap();
                let Ok(disk) = failing.disk(&specimen.leaf, &OpenOptions::default()) else {
                    assert!(fault.fired(), "{} does not open", specimen.name);
                    continue;
                };
                let all = specimen.raw.len() as u64;
                if let Ok(bytes) = read_up_to(disk.block(), all) {
                    assert!(bytes == specimen.raw, "{}: {name}, read {nth} failed unnoticed", specimen.name);
                } else {
                    let again = read_up_to(disk.block(), all).unwrap();
                    assert!(again == specimen.raw, "{}: {name}, read {nth} left a trace", specimen.name);
                }
                if !fault.fired() || nth > 400 {
                    break;
                }
            }
        }
    }
}

/// A header of capacity 0 may leave every field of the map 0; nothing may be divided by them.
#[test]
fn a_header_without_a_map_is_no_extent() {
    let mut header = vec![0; 4096];
    header[..8].copy_from_slice(b"KDMV\x01\0\0\0");
    let text =
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"custom\"\nRW 0 SPARSE \"a\"\n";
    let mut files = Files::default();
    files.put("disk.vmdk", text.into()).put("a", header);
    let err = files.disk("disk.vmdk", &OpenOptions::default()).err().unwrap();
    assert_eq!(err.kind(), Kind::Corrupt);
}
