//! Real mounts, served by threads of this process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vcb_block::{Block, BlockRef, Fault, FaultBlock, MemBlock};
use vcb_fs::{FileType, Filesystem};

use super::*;
use crate::front::fuse::attr::Owner;
use crate::front::fuse::handler::Handler;
use crate::front::fuse::{FuseMounted, config};
use crate::front::{FrontOptions, Mounted, Report};
use crate::sys;
use crate::view::testing::{FakeFs, vm_of};
use crate::view::{FileOptions, FileView};

// Its volumes are what the reader's own tests are made of.
#[allow(dead_code)]
#[path = "../../../../../fs/tests/ntfs_common/made.rs"]
mod made;

const DEAD: Duration = Duration::from_secs(20);

struct Live {
    dir: tempfile::TempDir,
    ahead: Arc<Ahead>,
    serving: Option<JoinHandle<()>>,
}

impl Live {
    fn new(fs: Arc<dyn Filesystem>, threads: usize) -> Option<Live> {
        if !Path::new("/dev/fuse").exists() || !sys::user().is_root() {
            vcb_fixtures::skip("real mounts need /dev/fuse and root");
            return None;
        }
        let view = FileView::new(&vm_of(vec![Ok(fs)]), &FileOptions::default()).unwrap();
        let owner = Owner { uid: 0, gid: 0, file_mode: 0o644, dir_mode: 0o755 };
        let handler = Handler::new(Arc::new(view), Arc::new(Report::default()), owner, false);
        let ahead = handler.ahead().unwrap();
        let mut config = config(&FrontOptions::default());
        config.n_threads = Some(threads);
        let dir = tempfile::tempdir().unwrap();
        let session = fuser::Session::new(handler, dir.path(), &config).unwrap();
        let mounted = Box::new(FuseMounted {
            session,
            at: dir.path().to_owned(),
            source: String::new(),
            ahead: Some(Arc::clone(&ahead)),
        });
        let serving = Some(std::thread::spawn(move || mounted.serve().unwrap()));
        Some(Live { dir, ahead, serving })
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("digits/1")
    }

    fn wait_until(&self, what: &str, done: impl Fn(u64) -> bool) {
        let end = Instant::now() + DEAD;
        while !done(self.ahead.stored()) {
            assert!(Instant::now() < end, "{what}: {} files are stored", self.ahead.stored());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Unmounts and waits for the end of serving; returns how long it took to end.
    fn end(&mut self) -> Duration {
        let serving = self.serving.take().unwrap();
        vcb_fixtures::unmount(self.dir.path()).unwrap();
        let unmounted = Instant::now();
        serving.join().unwrap();
        unmounted.elapsed()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.serving.is_some() {
            let _ = sys::unmount(self.dir.path(), true);
        }
    }
}

/// Counts the reads that threads which answer the kernel's requests make of it.
struct Watched {
    bytes: MemBlock,
    asked: Arc<AtomicU64>,
    slow: Duration,
}

impl Block for Watched {
    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> vcb_block::Result<()> {
        std::thread::sleep(self.slow);
        let answers = std::thread::current().name().is_some_and(|name| name.starts_with("fuser"));
        self.asked.fetch_add(u64::from(answers), Relaxed);
        self.bytes.read_at(buf, offset)
    }

    fn map(&self, range: std::ops::Range<u64>, runs: &mut vcb_block::Runs) -> vcb_block::Result<()> {
        runs.push_opaque(range.end - range.start);
        Ok(())
    }
}

fn bytes(number: usize) -> Vec<u8> {
    (0..number * number % 30_011 + 1).map(|i| (i * 31 + i / 257 + number) as u8).collect()
}

fn watched(number: usize, asked: &Arc<AtomicU64>, slow: Duration) -> BlockRef {
    Arc::new(Watched { bytes: MemBlock::new(bytes(number)), asked: Arc::clone(asked), slow })
}

fn name(number: usize) -> String {
    format!("file{number:04}")
}

fn read_all(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    File::open(path)?.read_to_end(&mut all).map(|_| all)
}

#[test]
fn files_are_stored_whole_before_they_are_read_and_broken_ones_are_eio() {
    const FILES: usize = 400;
    const SECRET: usize = 20;
    const FAULTY: usize = 27;
    const PANICS: usize = 31;
    const EMPTY: usize = 40;
    const LARGE: usize = 41;
    for threads in [1, 4] {
        let mut fs = FakeFs::new();
        let asked = Arc::new(AtomicU64::new(0));
        for number in 0..FILES {
            let path = format!("many/{}", name(number));
            match number {
                SECRET => {
                    let file = fs.file(&path, bytes(number));
                    fs.unreadable(file);
                }
                FAULTY => {
                    let faults = FaultBlock::at(Arc::new(MemBlock::new(bytes(number))), 1, Fault::Eio);
                    fs.block(&path, Arc::new(faults));
                }
                PANICS => fs.panics = Some(fs.file(&path, bytes(number))),
                EMPTY => drop(fs.file(&path, Vec::new())),
                LARGE => drop(fs.file(&path, vec![3; SMALL as usize + 1])),
                _ => drop(fs.block(&path, watched(number, &asked, Duration::ZERO))),
            }
        }
        let Some(mut live) = Live::new(fs.arc(), threads) else { return };
        let many = live.root().join("many");
        // As `ls -l` does.
        let listed = fs::read_dir(&many).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum::<u64>();
        assert!(listed > 0);
        assert_eq!(live.ahead.stored(), 0, "listing alone has stored something");
        let mut broken = Vec::new();
        for number in 0..FILES {
            if number == 4 {
                live.wait_until("the first window", |stored| stored >= 20);
                asked.store(0, Relaxed);
            }
            if number == 32 {
                // Of the first 32 files those that were stored are not asked for.
                assert!(asked.load(Relaxed) <= 8, "{asked:?} of 28");
            }
            let expected = match number {
                EMPTY => Vec::new(),
                LARGE => vec![3; SMALL as usize + 1],
                _ => bytes(number),
            };
            match read_all(&many.join(name(number))) {
                Ok(got) => assert!(got == expected, "{number}"),
                Err(err) => {
                    assert_eq!(err.raw_os_error(), Some(nix::libc::EIO), "{number}");
                    broken.push(number);
                }
            }
        }
        // The faulty one fails once: it fails its reader unless the thread ahead met the fault.
        broken.retain(|&number| number != FAULTY);
        assert_eq!(broken, [SECRET, PANICS]);
        live.end();
    }
}

#[test]
fn a_walk_stores_nothing_nor_does_one_file_of_each_folder() {
    let mut fs = FakeFs::new();
    for dir in 0..50 {
        for number in 0..20 {
            fs.file(&format!("d{dir}/{}", name(number)), bytes(number));
        }
    }
    let Some(mut live) = Live::new(fs.arc(), 4) else { return };
    for round in 0..2 {
        let mut seen = 0;
        for dir in fs::read_dir(live.root()).unwrap().map(|entry| entry.unwrap().path()) {
            for file in fs::read_dir(&dir).unwrap() {
                seen += u64::from(file.unwrap().metadata().unwrap().ino() > 0);
            }
            if round == 1 {
                assert_eq!(read_all(&dir.join(name(7))).unwrap(), bytes(7));
            }
        }
        assert_eq!(seen, 1000);
    }
    live.end();
    assert_eq!(live.ahead.stored(), 0);
}

#[test]
fn unmounting_does_not_wait_for_a_window() {
    let mut fs = FakeFs::new();
    let asked = Arc::default();
    for number in 0..200 {
        fs.block(&format!("many/{}", name(number)), watched(number, &asked, Duration::from_millis(100)));
    }
    let Some(mut live) = Live::new(fs.arc(), 4) else { return };
    let many = live.root().join("many");
    assert_eq!(fs::read_dir(&many).unwrap().count(), 200);
    for number in 0..2 {
        read_all(&many.join(name(number))).unwrap();
    }
    live.wait_until("a file", |stored| stored >= 1);
    let took = live.end();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(live.ahead.stored() < 20);
}

/// Answers after a while, and counts how many are waiting.
struct Waited {
    waiting: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
}

impl Block for Waited {
    fn len(&self) -> u64 {
        1000
    }

    fn read_at(&self, buf: &mut [u8], _: u64) -> vcb_block::Result<()> {
        self.most.fetch_max(self.waiting.fetch_add(1, Relaxed) + 1, Relaxed);
        std::thread::sleep(Duration::from_millis(30));
        self.waiting.fetch_sub(1, Relaxed);
        buf.fill(7);
        Ok(())
    }

    fn map(&self, range: std::ops::Range<u64>, runs: &mut vcb_block::Runs) -> vcb_block::Result<()> {
        runs.push_opaque(range.end - range.start);
        Ok(())
    }
}

#[test]
fn slow_storage_is_asked_for_many_files_at_once() {
    let mut fs = FakeFs::new();
    let (waiting, most) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    for number in 0..100 {
        fs.block(&format!("many/{}", name(number)), Arc::new(Waited { waiting: waiting.clone(), most: most.clone() }));
    }
    let Some(mut live) = Live::new(fs.arc(), 4) else { return };
    let many = live.root().join("many");
    assert_eq!(fs::read_dir(&many).unwrap().count(), 100);
    for number in 0..2 {
        assert_eq!(read_all(&many.join(name(number))).unwrap(), [7; 1000]);
    }
    live.wait_until("most of a window", |stored| stored >= 25);
    assert!(most.load(Relaxed) >= 4, "{most:?} at once");
    live.end();
}

/// Reads all below `dir` in the order of its listing; returns what was read, by path.
fn read_tree(dir: &Path, top: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
    let entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()).collect();
    for entry in entries {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            read_tree(&path, top, into);
        } else if entry.file_type().unwrap().is_file() {
            into.insert(path.strip_prefix(top).unwrap().to_owned(), read_all(&path).unwrap());
        }
    }
}

/// What the reader gives without a mount.
fn plainly(fs: &dyn Filesystem, dir: vcb_fs::FileId, at: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
    let mut entries = Vec::new();
    fs.read_dir(dir, 0, &mut |entry| {
        entries.push(entry);
        ControlFlow::Continue(())
    })
    .unwrap();
    for entry in entries {
        let path = at.join(String::from_utf8(entry.name).unwrap());
        match fs.attr(entry.id).unwrap().kind {
            FileType::Dir => plainly(fs, entry.id, &path, into),
            FileType::File => {
                let block = fs.open(entry.id, None).unwrap();
                let mut bytes = vec![0; block.len() as usize];
                vcb_block::plan::read(&block, &mut bytes, 0).unwrap();
                into.insert(path, bytes);
            }
            _ => {}
        }
    }
}

#[test]
fn ntfs_files_of_every_kind_are_the_same_as_without() {
    let text =
        |number: usize| -> Vec<u8> { (0..number * 331).map(|i| b"some text to compress "[i * i / 97 % 22]).collect() };
    let fill = |root: &Path| {
        for folder in ["resident", "plain", "sparse", "compressed"] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        made::setfattr(&root.join("compressed"), "system.ntfs_attrib_be", "0x00000810");
        for number in 0..120 {
            let file = |folder: &str| root.join(folder).join(name(number));
            fs::write(file("resident"), &text(number)[..number]).unwrap();
            fs::write(file("plain"), bytes(number)).unwrap();
            fs::write(file("compressed"), text(number)).unwrap();
            let sparse = File::create(file("sparse")).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&sparse, b"tail", 4096 * number as u64 % 200_000).unwrap();
        }
        let wof = std::process::Command::new("python3").arg(format!("{}/mkwof.py", made::SCRIPTS)).arg(root).output();
        if !wof.is_ok_and(|made| made.status.success()) {
            vcb_fixtures::skip("mkwof.py: files of Compact OS are left out");
        }
    };
    let recipe = made::Recipe { megabytes: 60, sector: 512, cluster: 4096 };
    let Some(volume) = made::Made::new(&recipe, fill) else { return };
    let fs = vcb_fs::ntfs::Ntfs::open(volume.block(), &vcb_fs::ntfs::Options::default()).unwrap();
    let mut expected = BTreeMap::new();
    plainly(fs.as_ref(), fs.root(), Path::new(""), &mut expected);
    assert!(expected.len() >= 480);
    for threads in [1, 4] {
        let Some(mut live) = Live::new(Arc::clone(&fs) as Arc<dyn Filesystem>, threads) else { return };
        let mut got = BTreeMap::new();
        let root = live.root();
        read_tree(&root, &root, &mut got);
        let names = |tree: &BTreeMap<PathBuf, Vec<u8>>| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&got), names(&expected));
        assert!(got == expected);
        assert!(live.ahead.stored() > 0);
        live.end();
    }
}
