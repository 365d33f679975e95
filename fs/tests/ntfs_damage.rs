//! Failing disks and damaged volumes: every answer is right or an error, and every call ends.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod ntfs_common;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hasher};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use ntfs_common::made::{Made, Recipe};
use ntfs_common::{open, place};
use vcb_block::{Block, BlockRef, Fault, FaultBlock, Kind, Result, Window, check_range, plan};
use vcb_fs::ntfs::{Ntfs, Options};
use vcb_fs::{FileId, FileType, Filesystem};

/// Entries that one walk may meet: a damaged tree must not be endless.
const MOST: usize = 10_000;

/// A small volume with a bit of everything.
fn volume() -> Option<Made> {
    let recipe = Recipe { megabytes: 2, sector: 512, cluster: 1024 };
    Made::new(&recipe, |root| {
        std::fs::create_dir(root.join("folder")).unwrap();
        for i in 0..60 {
            let name = root.join(format!("folder/a rather long name of a file, number {i}"));
            std::fs::write(name, format!("content {i}").repeat(i)).unwrap();
        }
        std::fs::write(root.join("file"), vec![7; 50_000]).unwrap();
        std::fs::write(root.join("file:stream"), b"stream").unwrap();
        for i in 0..30 {
            std::fs::hard_link(root.join("file"), root.join(format!("folder/hard link {i}"))).unwrap();
        }
    })
}

/// What is known of everything: path, and the content in a few words.
type Files = BTreeMap<Vec<u8>, Result<Content>>;
/// Of each stream its length and a hash, the unnamed one last; `None` is a folder.
type Content = Option<Vec<(u64, u64)>>;

/// Path and content of everything, as far as it can be had; folders that cannot be listed are errors.
fn survey(fs: &dyn Filesystem) -> Files {
    let mut files = Files::new();
    let mut known = HashMap::new();
    let mut folders = vec![(fs.root(), Vec::new())];
    while let Some((dir, path)) = folders.pop() {
        let mut found = Vec::new();
        let listed = fs.read_dir(dir, 0, &mut |entry| {
            found.push((entry.name, entry.id));
            if found.len() > MOST { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(found.len() <= MOST, "endless folder");
        for (name, id) in found {
            let path = [&path[..], b"/", &name].concat();
            let content = one(fs, dir, &name, id, &mut known);
            if matches!(&content, Ok(None)) && path.len() < 2000 {
                folders.push((id, path.clone()));
            }
            // Of two entries with one name the error counts.
            if content.is_err() || !files.contains_key(&path) {
                files.insert(path, content);
            }
        }
        if let Err(err) = listed {
            assert_ne!(err.kind(), Kind::NotFound, "{err:?}");
            files.insert([&path[..], b"/"].concat(), Err(err));
        }
    }
    files
}

/// Content of a file; everything else that can be asked about it is asked. A file of many names is read once.
fn one(
    fs: &dyn Filesystem,
    dir: FileId,
    name: &[u8],
    id: FileId,
    known: &mut HashMap<FileId, Content>,
) -> Result<Content> {
    let attr = fs.attr_as(dir, name, id)?;
    if let Some(content) = known.get(&id) {
        return Ok(content.clone());
    }
    let _ = (fs.security(id), fs.parent(id), fs.name(id), fs.lookup(dir, name), fs.read_link(id), fs.object_id(id));
    let mut content = Vec::new();
    for stream in fs.streams(id)? {
        content.push(hashed(&fs.open(id, Some(&stream.name))?)?);
    }
    let content = match attr.kind {
        FileType::Dir => None,
        _ => {
            content.push(hashed(&fs.open(id, None)?)?);
            Some(content)
        }
    };
    known.insert(id, content.clone());
    Ok(content)
}

/// Length and hash. A flipped bit may make a file huge and sparse: only its start is read then.
fn hashed(block: &BlockRef) -> Result<(u64, u64)> {
    let mut bytes = vec![0; block.len().min(8 << 20) as usize];
    plan::read(block, &mut bytes, 0)?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    Ok((block.len(), hasher.finish()))
}

/// A volume in memory with one bit flipped.
struct Flipped {
    bytes: Arc<Vec<u8>>,
    byte: u64,
    mask: u8,
}

impl Block for Flipped {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.len(), offset, buf.len() as u64)?;
        buf.copy_from_slice(&self.bytes[offset as usize..][..buf.len()]);
        if let Some(byte) = self.byte.checked_sub(offset).and_then(|at| buf.get_mut(at as usize)) {
            *byte ^= self.mask;
        }
        Ok(())
    }
}

#[test]
fn every_failing_read_is_an_error_or_does_no_harm() {
    let Some(made) = volume() else { return };
    let volume = made.block();
    let expected = survey(&*open(&volume));
    assert!(expected.len() > 90 && expected.values().all(Result::is_ok));
    let counted = Arc::new(FaultBlock::new(volume.clone()));
    survey(&*open(&(counted.clone() as BlockRef)));
    assert!(counted.reads() > 50);
    for fault in [Fault::Eio, Fault::EioForever] {
        for nth in 1..=counted.reads() {
            let faulty: BlockRef = Arc::new(FaultBlock::at(volume.clone(), nth, fault));
            let fs = match Ntfs::open(faulty, &Options::default()) {
                Ok(fs) => fs,
                Err(err) => {
                    assert_eq!(err.kind(), Kind::Io, "read {nth}: {err:?}");
                    continue;
                }
            };
            let found = survey(&*fs);
            for (path, content) in &found {
                match (content, expected.get(path)) {
                    (Ok(content), Some(Ok(right))) => assert_eq!(content, right, "read {nth}: {}", path.escape_ascii()),
                    (Ok(_), _) => panic!("read {nth}: {} does not exist", path.escape_ascii()),
                    (Err(err), _) => assert_eq!(err.kind(), Kind::Io, "read {nth}: {err:?}"),
                }
            }
            let lost = expected.keys().find(|path| !found.contains_key(*path));
            assert!(
                lost.is_none() || found.values().any(Result::is_err),
                "read {nth}: {lost:?} is gone without an error"
            );
        }
    }
}

#[test]
fn a_volume_cut_short_loses_nothing_silently() {
    let Some(made) = volume() else { return };
    let volume = made.block();
    let expected = survey(&*open(&volume));
    for kept in (0..64).map(|part| volume.len() * part / 64 + part % 7) {
        let short: BlockRef = Arc::new(Window::new(volume.clone(), 0, kept).unwrap());
        let Ok(fs) = Ntfs::open(short, &Options::default()) else { continue };
        assert!(fs.notes().iter().any(|note| note.contains("longer")), "{kept}");
        let found = survey(&*fs);
        for (path, right) in &expected {
            match (found.get(path), right) {
                (Some(Ok(content)), Ok(right)) => assert_eq!(content, right, "{kept}: {}", path.escape_ascii()),
                (Some(_), _) => {}
                (None, _) => assert!(found.values().any(Result::is_err), "{kept}: {}", path.escape_ascii()),
            }
        }
    }
}

/// What became of a volume with one bit flipped.
enum Outcome {
    Same,
    Noticed,
    /// Not as it was, and nobody says so: the paths that are gone, new, and other than they were.
    Silent([Vec<String>; 3]),
}

fn judge(mutant: Flipped, expected: &Files) -> Outcome {
    let mutant: BlockRef = Arc::new(mutant);
    let Ok(fs) = Ntfs::open(mutant, &Options::default()) else { return Outcome::Noticed };
    let found = survey(&*fs);
    let _ = (fs.stats(), fs.label(), fs.notes());
    if found.values().any(Result::is_err) {
        return Outcome::Noticed;
    }
    let show = |path: &Vec<u8>| path.escape_ascii().to_string();
    let gone = expected.keys().filter(|path| !found.contains_key(*path)).map(show).collect::<Vec<_>>();
    let new = found.keys().filter(|path| !expected.contains_key(*path)).map(show).collect::<Vec<_>>();
    let equal = |path: &Vec<u8>, content: &Result<Content>| {
        expected.get(path).is_none_or(|right| right.as_ref().unwrap() == content.as_ref().unwrap())
    };
    let other =
        found.iter().filter(|(path, content)| !equal(path, content)).map(|(path, _)| show(path)).collect::<Vec<_>>();
    if gone.is_empty() && new.is_empty() && other.is_empty() {
        Outcome::Same
    } else {
        Outcome::Silent([gone, new, other])
    }
}

/// What a sweep counted.
#[derive(Default)]
struct Sweep {
    same: u64,
    noticed: u64,
    /// Silent changes: by what the flipped bit is part of, how many, and one of them.
    silent: BTreeMap<String, (u64, String)>,
    /// Flips that lose or invent names.
    lost: Vec<String>,
}

/// The bits to flip: in the long tier every 13th one of records and index blocks and few of the rest, otherwise
/// some bits of each field of those.
fn chosen(bytes: &[u8], torture: bool) -> Vec<usize> {
    // Sectors of one byte repeated are unused, or content of the large file.
    let busy = |sector: &[u8]| sector.iter().any(|byte| Some(byte) != sector.first());
    let mut bits = Vec::new();
    let mut fields = HashSet::new();
    for (number, _) in bytes.chunks(512).enumerate().filter(|(_, sector)| busy(sector)) {
        let all = number * 4096..(number + 1) * 4096;
        match (torture, place::of(bytes, number * 512) == place::CLUSTER) {
            (true, content) => bits.extend(all.step_by(if content { 301 } else { 13 })),
            (false, true) => {}
            (false, false) => bits.extend(all.step_by(5).filter(|bit| {
                let field = place::of(bytes, bit / 8);
                !field.contains("(free)") && !field.contains("slack") && fields.insert((field, bit % 8))
            })),
        }
    }
    bits
}

#[test]
fn every_flipped_bit_ends_in_an_answer() {
    let Some(made) = volume() else { return };
    let bytes = Arc::new(made.bytes());
    let expected = survey(&*open(&made.block()));
    let torture = std::env::var_os("VCB_TORTURE").is_some_and(|value| value == "1");
    let bits = chosen(&bytes, torture);
    println!("{} flips", bits.len());
    let threads = if torture { 2 } else { 1 };
    let (next, sweep) = (AtomicUsize::new(0), Mutex::new(Sweep::default()));
    let work = || {
        while let Some(number) = bits.get(next.fetch_add(1, Relaxed)) {
            let (byte, bit) = (number / 8, number % 8);
            let mutant = Flipped { bytes: bytes.clone(), byte: byte as u64, mask: 1 << bit };
            let outcome = catch_unwind(AssertUnwindSafe(|| judge(mutant, &expected)))
                .unwrap_or_else(|_| panic!("byte {byte:#x} bit {bit}, in {}", place::of(&bytes, byte)));
            let mut sweep = sweep.lock().unwrap();
            match outcome {
                Outcome::Same => sweep.same += 1,
                Outcome::Noticed => sweep.noticed += 1,
                Outcome::Silent([gone, new, other]) => {
                    let place = place::of(&bytes, byte);
                    let what =
                        format!("{place}: byte {byte:#x} bit {bit}: gone {gone:?}, new {new:?}, other {other:?}");
                    if !gone.is_empty() || !new.is_empty() {
                        eprintln!("LOST {what}");
                        sweep.lost.push(what.clone());
                    } else if !sweep.silent.contains_key(&place) {
                        eprintln!("other {what}");
                    }
                    sweep.silent.entry(place).or_insert((0, what)).0 += 1;
                }
            }
            let done = sweep.same + sweep.noticed + sweep.silent.values().map(|class| class.0).sum::<u64>();
            if done.is_multiple_of(5000) {
                eprintln!("{done} of {} flips, {} noticed, {} lost", bits.len(), sweep.noticed, sweep.lost.len());
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let sweep = sweep.into_inner().unwrap();
    println!("{} without effect, {} noticed; silent changes:", sweep.same, sweep.noticed);
    for (place, (count, one)) in &sweep.silent {
        println!("{count:7} {place} ({one})");
    }
    assert!(sweep.lost.is_empty(), "files are gone or made up without an error: {:#?}", sweep.lost);
    assert!(sweep.same > sweep.noticed && sweep.noticed > 0);
}
