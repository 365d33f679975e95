//! Failing disks and damaged volumes: every answer is right or an error, and every call ends.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod ntfs_common;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use ntfs_common::made::{Made, Recipe};
use ntfs_common::open;
use ntfs_common::place::{CLUSTER, Places};
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

/// What is told of everything, by path.
type Files = BTreeMap<Vec<u8>, Result<Told>>;

/// What is told of one file.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    is_dir: bool,
    /// Hash of attributes, ACL, object id and names of streams.
    about: u64,
    /// Of each stream its length and a hash, the unnamed one last; folders have none.
    content: Vec<(u64, u64)>,
}

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
            if content.as_ref().is_ok_and(|told| told.is_dir) && path.len() < 2000 {
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

/// What is told of a file. A file of many names is read once.
fn one(fs: &dyn Filesystem, dir: FileId, name: &[u8], id: FileId, known: &mut HashMap<FileId, Told>) -> Result<Told> {
    let attr = fs.attr_as(dir, name, id)?;
    if let Some(told) = known.get(&id) {
        return Ok(told.clone());
    }
    let _ = (fs.parent(id), fs.name(id), fs.read_link(id));
    let is_dir = attr.kind == FileType::Dir;
    let streams = fs.streams(id)?;
    let mut about = DefaultHasher::new();
    let times = [attr.modified, attr.changed, attr.accessed, attr.created];
    let numbers = (attr.size, attr.allocated, attr.links, attr.dos, attr.reparse_tag, attr.case_sensitive);
    (attr.kind, times, numbers).hash(&mut about);
    (fs.security(id)?, fs.extended_attributes(id)?, fs.object_id(id)?, fs.reparse_data(id)?).hash(&mut about);
    let mut content = Vec::new();
    for stream in streams {
        stream.name.hash(&mut about);
        content.push(hashed(&fs.open(id, Some(&stream.name))?)?);
    }
    if !is_dir {
        content.push(hashed(&fs.open(id, None)?)?);
    }
    let told = Told { is_dir, about: about.finish(), content };
    known.insert(id, told.clone());
    Ok(told)
}

/// Of `paths` those that are said not to be there when they are asked for by name.
fn unfound<'p>(fs: &dyn Filesystem, paths: impl Iterator<Item = &'p Vec<u8>>) -> Vec<String> {
    let mut folders: HashMap<&[u8], Option<FileId>> = HashMap::from([(&b""[..], Some(fs.root()))]);
    let mut missing = Vec::new();
    for path in paths {
        let at = path.iter().rposition(|&byte| byte == b'/').unwrap();
        // Ancestors sort before what they hold.
        let Some(Some(dir)) = folders.get(&path[..at]) else { continue };
        let found = fs.child(*dir, &path[at + 1..]);
        if found.as_ref().is_err_and(|err| err.kind() == Kind::NotFound) {
            missing.push(path.escape_ascii().to_string());
        }
        folders.insert(path, found.ok().map(|attr| attr.id));
    }
    missing
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
            assert!(unfound(&*fs, expected.keys()).is_empty(), "read {nth}");
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
        assert!(unfound(&*fs, expected.keys()).is_empty(), "{kept}");
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
    /// Not as it was, and nobody says so: the paths that are gone, new, and other than they were; what is gone only
    /// when asked for by name is among the first whatever else is noticed.
    Silent([Vec<String>; 3]),
}

fn judge(mutant: Flipped, expected: &Files) -> Outcome {
    let mutant: BlockRef = Arc::new(mutant);
    let Ok(fs) = Ntfs::open(mutant, &Options::default()) else { return Outcome::Noticed };
    let unfound = unfound(&*fs, expected.keys());
    let found = survey(&*fs);
    let _ = (fs.stats(), fs.label(), fs.notes());
    if !unfound.is_empty() {
        return Outcome::Silent([unfound, Vec::new(), Vec::new()]);
    }
    if found.values().any(Result::is_err) {
        return Outcome::Noticed;
    }
    let show = |path: &Vec<u8>| path.escape_ascii().to_string();
    let gone = expected.keys().filter(|path| !found.contains_key(*path)).map(show).collect::<Vec<_>>();
    let new = found.keys().filter(|path| !expected.contains_key(*path)).map(show).collect::<Vec<_>>();
    let equal = |path: &Vec<u8>, told: &Result<Told>| {
        expected.get(path).is_none_or(|right| right.as_ref().unwrap() == told.as_ref().unwrap())
    };
    let other = found.iter().filter(|(path, told)| !equal(path, told)).map(|(path, _)| show(path)).collect::<Vec<_>>();
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

/// Part of $LogFile that is flipped whole: both restart pages. The rest of an empty log is one byte repeated.
const RESTART_PAGES: usize = 8192;

/// Fields in which a flip lost names only now and then: the length of an entry that then ended where another one does, and
/// the last character of a name that became its neighbour's.
const TREACHEROUS: [&str; 2] = ["index block entry 0x9", "index block entry end of name"];

/// The bits to flip: in the long tier all of the metadata and few of the rest, otherwise some of each field of records
/// and index blocks, and all of a few fields.
fn chosen(bytes: &[u8], places: &Places<'_>, torture: bool) -> Vec<usize> {
    // Sectors of one byte repeated are unused, or content of the large file.
    let busy = |sector: &[u8]| sector.iter().any(|byte| Some(byte) != sector.first());
    let mut bits = Vec::new();
    let mut fields = HashSet::new();
    for (number, sector) in bytes.chunks(512).enumerate() {
        let at = number * 512;
        let own = places.own(at);
        if !busy(sector) && !matches!(own, Some(("$LogFile", 0..RESTART_PAGES) | ("$MFT" | "$MFTMirr" | "$Bitmap", _)))
        {
            continue;
        }
        let all = at * 8..(at + 512) * 8;
        let place = places.of(at);
        match torture {
            true => bits.extend(all.step_by(if place == CLUSTER { 301 } else { 1 })),
            false if place == CLUSTER || own.is_some_and(|own| own.0 == place) => {}
            false => {
                for byte in at..at + 512 {
                    let field = places.of(byte);
                    let every = TREACHEROUS.contains(&&*field);
                    let unused = field.contains("(free)") || field.contains("slack");
                    let mut one =
                        |bit: &usize| bit.is_multiple_of(5) && !unused && fields.insert((field.clone(), bit % 8));
                    bits.extend((byte * 8..byte * 8 + 8).filter(|bit| every || one(bit)));
                }
            }
        }
    }
    bits
}

#[test]
fn a_folder_called_as_ntfs_calls_its_own_files_is_not_taken_for_one() {
    const NAME: &str = "$Recycle.Bin";
    let recipe = Recipe { megabytes: 2, sector: 512, cluster: 1024 };
    let made = Made::new(&recipe, |root| {
        for name in ["a", NAME, "z"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
    });
    let Some(made) = made else { return };
    let bytes = Arc::new(made.bytes());
    let fs = open(&made.block());
    let expected = survey(&*fs);
    assert!(expected.len() == 3 && unfound(&*fs, expected.keys()).is_empty());
    // NTFS's own are left out, which is no damage.
    assert_eq!(fs.child(fs.root(), b"$MFT").unwrap_err().kind(), Kind::NotFound);
    let name: Vec<u8> = NAME.encode_utf16().flat_map(u16::to_le_bytes).collect();
    // The index entry, and what lies as far before the name in the record.
    let places = bytes.windows(name.len()).enumerate().filter(|(_, found)| *found == name).map(|(at, _)| at - 0x52);
    let mut flips = 0;
    for bit in places.flat_map(|at| at * 8..(at + 0x52 + name.len()) * 8) {
        let mutant = Flipped { bytes: bytes.clone(), byte: bit as u64 / 8, mask: 1 << (bit % 8) };
        if let Outcome::Silent([gone, new, _]) = judge(mutant, &expected) {
            assert!(gone.is_empty() && new.is_empty(), "{:#x} bit {}: {gone:?}, {new:?}", bit / 8, bit % 8);
        }
        flips += 1;
    }
    assert!(flips >= 2 * 8 * 0x6A);
}

#[test]
fn every_flipped_bit_ends_in_an_answer() {
    let Some(made) = volume() else { return };
    let bytes = Arc::new(made.bytes());
    let expected = survey(&*open(&made.block()));
    let torture = std::env::var_os("VCB_TORTURE").is_some_and(|value| value == "1");
    let places = Places::new(&bytes);
    let bits = chosen(&bytes, &places, torture);
    let mut classes = BTreeMap::<String, u64>::new();
    for bit in &bits {
        let place = places.of(bit / 8);
        let class = ["(free)", "record", "index block", "boot"].into_iter().find(|part| place.contains(part));
        *classes.entry(class.map_or(place, str::to_owned)).or_default() += 1;
    }
    println!("{} flips: {classes:#?}", bits.len());
    let threads = if torture { 2 } else { 1 };
    let (next, sweep) = (AtomicUsize::new(0), Mutex::new(Sweep::default()));
    let work = || {
        while let Some(number) = bits.get(next.fetch_add(1, Relaxed)) {
            let (byte, bit) = (number / 8, number % 8);
            let mutant = Flipped { bytes: bytes.clone(), byte: byte as u64, mask: 1 << bit };
            let outcome = catch_unwind(AssertUnwindSafe(|| judge(mutant, &expected)))
                .unwrap_or_else(|_| panic!("byte {byte:#x} bit {bit}, in {}", places.of(byte)));
            let mut sweep = sweep.lock().unwrap();
            match outcome {
                Outcome::Same => sweep.same += 1,
                Outcome::Noticed => sweep.noticed += 1,
                Outcome::Silent([gone, new, other]) => {
                    let place = places.of(byte);
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
