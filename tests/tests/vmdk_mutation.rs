//! Any bit of a small disk's metadata flipped: right bytes or an error, in bounded memory.

#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use vcb_fixtures::vmdk::{Part, Rng, Specimen, small_gallery};
use vcb_tests::disks::{Files, Flipped, Outcome, outcome};
use vcb_vmdk::{OpenOptions, Severity};

/// What opening and reading a disk of a few MiB may allocate at its peak, whatever its metadata claims.
const MEMORY: usize = 96 << 20;
/// Bits flipped per structure in the quick tier; all of them under `VCB_TORTURE=1`.
const SAMPLE: u64 = 64;

/// Counts what is allocated, and its peak.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged; the counters are no part of the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` and fails when it allocated more than [`MEMORY`] at any time. This file has one test, so that
/// nothing else is counted.
fn bounded<T>(what: &str, work: impl FnOnce() -> T) -> T {
    PEAK.store(LIVE.load(Relaxed), Relaxed);
    let before = LIVE.load(Relaxed);
    let result = work();
    let grown = PEAK.load(Relaxed).saturating_sub(before);
    assert!(grown < MEMORY, "{what} allocated {grown} bytes");
    result
}

fn torture() -> bool {
    std::env::var_os("VCB_TORTURE").is_some()
}

/// Bits to flip in a structure: all, or the first bytes of headers and a seeded sample of the rest.
fn bits(part: Part, range: &Range<u64>, seed: u64) -> Vec<u64> {
    let all = range.start * 8..range.end * 8;
    if torture() {
        return all.collect();
    }
    let mut rng = Rng::new(seed);
    let mut bits: Vec<u64> = (0..SAMPLE).map(|_| all.start + rng.below(all.end - all.start)).collect();
    if part == Part::Header {
        bits.extend(all.start..all.end.min(all.start + 80 * 8));
    }
    bits.sort_unstable();
    bits.dedup();
    bits
}

/// True for what no reader can tell from the truth, because the format says it once and without a checksum:
/// - a table entry that still points to a free place in the extent, as far as it changes no byte beyond the
///   grain it stands for; a directory entry likewise with its table;
/// - the directory's position, where there is no second directory to compare with;
/// - the end of the disk within its last grain;
/// - a line that runs into the comment before it.
fn untellable(part: Part, file: &[u8], at: u64, specimen: &Specimen, len: u64, differs: &Range<usize>) -> bool {
    let (grain, entries) = match specimen.name {
        "COWD" => (512, 4096),
        "SEsparse" => (4096, 4096),
        "hosted sparse, one directory" | "hosted sparse" => (4096, 512),
        _ => (65536, 512),
    };
    let whole = specimen.raw.len() as u64;
    let within = |unit: u64| len == whole && differs.start as u64 / unit == (differs.end as u64 - 1) / unit;
    match part {
        Part::Table | Part::SpareTable => within(grain),
        Part::Directory | Part::SpareDirectory => within(grain * entries),
        Part::Header => {
            let one_directory = specimen.name.starts_with("stream") || specimen.name.ends_with("one directory");
            len == whole && one_directory && (56..64).contains(&(at % 512))
        }
        Part::Descriptor => {
            let line = file[..at as usize].rsplit(|&byte| byte == b'\n').next();
            let comment = file[at as usize] == b'\n' && line.is_some_and(|line| line.starts_with(b"#"));
            comment || (differs.is_empty() && len < whole && whole - len < grain)
        }
        _ => false,
    }
}

/// True where what reading cannot tell is written twice, so that checking the disk must find it.
fn is_told_twice(specimen: &Specimen, part: Part) -> bool {
    let twice = ["hosted sparse", "split sparse", "hosted delta"].contains(&specimen.name);
    let entries = matches!(part, Part::Table | Part::SpareTable | Part::Directory | Part::SpareDirectory);
    entries && (twice || specimen.name.starts_with("stream"))
}

/// True when checking the disk gives an error, one way or the other.
fn is_named(files: &Files, specimen: &Specimen) -> bool {
    match vcb_vmdk::check(Arc::new(files.clone()), &specimen.leaf, &OpenOptions::default()) {
        Ok(findings) => findings.iter().any(|finding| finding.severity == Severity::Error),
        Err(_) => true,
    }
}

#[test]
fn any_flipped_bit_of_metadata_is_right_or_refused() {
    let mut wrong = Vec::new();
    let mut tally: BTreeMap<(&str, Part), [u32; 3]> = BTreeMap::new();
    for specimen in small_gallery().unwrap() {
        let files = Files::of(&specimen.folder);
        assert!(matches!(outcome(&files, &specimen, &OpenOptions::default()), Outcome::Right), "{}", specimen.name);
        for (name, layout) in &specimen.folder.layouts {
            for (part, range) in layout.metadata() {
                for bit in bits(*part, range, range.start) {
                    let flipped = files.with(name, |file| Arc::new(Flipped::new(file, bit)));
                    let what = format!("{}: {name} {part:?} byte {:#x} bit {}", specimen.name, bit / 8, bit % 8);
                    let came = bounded(&what, || outcome(&flipped, &specimen, &OpenOptions::default()));
                    let count = tally.entry((specimen.name, *part)).or_default();
                    match came {
                        Outcome::Refused(err) => {
                            count[0] += 1;
                            // What reading refuses, checking names; every few bits, because it takes its time.
                            if count[0].is_multiple_of(8) && !is_named(&flipped, &specimen) {
                                wrong.push(format!("{what}: checking does not see {err:?}"));
                            }
                        }
                        Outcome::Right => count[1] += 1,
                        Outcome::Wrong { len, differs } => {
                            count[2] += 1;
                            let file = &specimen.folder.files[name];
                            let excused = untellable(*part, file, bit / 8, &specimen, len, &differs)
                                && (!is_told_twice(&specimen, *part) || is_named(&flipped, &specimen));
                            if !excused {
                                wrong.push(format!("{what}: length {len}, bytes {differs:x?} differ"));
                            }
                        }
                    }
                }
            }
        }
    }
    for ((name, part), [refused, right, untellable]) in tally {
        eprintln!("{name}, {part:?}: refused {refused}, right {right}, untellable {untellable}");
    }
    assert!(wrong.is_empty(), "{} wrong, such as\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}
