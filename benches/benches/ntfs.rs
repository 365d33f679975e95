//! The NTFS reader by itself, on a volume that mkfs.ntfs and ntfs-3g made: opening, looking up, walking with
//! attributes, reading many small files and a large one. The image is warm in the page cache, one thread;
//! "cold" starts each round with empty caches of our own.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use vcb_block::plan;
use vcb_fixtures::vmdk::{Content, Rng};
use vcb_fs::ntfs::{Ntfs, Options};
use vcb_fs::{DirEntry, FileId, FileType, Filesystem};

// Its volumes are what the reader's own tests are made of.
#[allow(dead_code)]
#[path = "../../fs/tests/ntfs_common/made.rs"]
mod made;

const FOLDERS: u64 = 40;
const FILES: u64 = 100;
const FLAT: u64 = 10_000;
const LARGE: u64 = 64 << 20;

fn fill(root: &Path) {
    let mut rng = Rng::new(1);
    let mut bytes = vec![0; LARGE as usize];
    Content::Noise(2).fill(&mut bytes, 0);
    std::fs::write(root.join("large.bin"), &bytes).unwrap();
    for folder in 0..FOLDERS {
        let folder = root.join(format!("folder {folder:02}"));
        std::fs::create_dir(&folder).unwrap();
        for file in 0..FILES {
            let magnitude = 4 + rng.below(13);
            let size = 1 + rng.below(1 << magnitude) as usize;
            std::fs::write(folder.join(format!("File_{file:03}.dat")), &bytes[..size]).unwrap();
        }
    }
    let flat = root.join("flat");
    std::fs::create_dir(&flat).unwrap();
    for file in 0..FLAT {
        std::fs::write(flat.join(name(file)), b"short").unwrap();
    }
}

fn name(file: u64) -> String {
    format!("entry-{file:06}-Some Longer Name.txt")
}

fn entries(fs: &Ntfs, dir: FileId) -> Vec<DirEntry> {
    let mut list = Vec::new();
    let each = &mut |entry| {
        list.push(entry);
        ControlFlow::Continue(())
    };
    fs.read_dir(dir, 0, each).unwrap();
    list
}

/// Calls `file` for every file below `dir`; returns how many entries there are.
fn walk(fs: &Ntfs, dir: FileId, file: &mut dyn FnMut(FileId)) -> u64 {
    let list = entries(fs, dir);
    let mut count = list.len() as u64;
    for id in list.iter().map(|entry| entry.id) {
        match fs.attr(id).unwrap().kind {
            FileType::Dir => count += walk(fs, id, file),
            _ => file(id),
        }
    }
    count
}

fn read_whole(fs: &Ntfs, id: FileId, buf: &mut [u8]) {
    let block = fs.open(id, None).unwrap();
    let mut at = 0;
    while at < block.len() {
        let len = buf.len().min((block.len() - at) as usize);
        plan::read(&block, &mut buf[..len], at).unwrap();
        at += len as u64;
    }
    black_box(buf);
}

fn ntfs(c: &mut Criterion) {
    let recipe = made::Recipe { megabytes: 512, sector: 512, cluster: 4096 };
    let Some(made) = made::Made::new(&recipe, fill) else { return };
    let open = || Ntfs::open(made.block(), &Options::default()).unwrap();
    let fs = open();
    let find = |dir, name: &str| fs.lookup(dir, name.as_bytes()).unwrap();
    let (flat, large) = (find(fs.root(), "flat"), find(fs.root(), "large.bin"));
    let mut buf = vec![0; 1 << 20];
    let total = walk(&fs, fs.root(), &mut |_| {});

    let mut group = c.benchmark_group("ntfs");
    group.sample_size(10).warm_up_time(std::time::Duration::from_millis(300));
    group.measurement_time(std::time::Duration::from_secs(1));
    group.bench_function("open", |b| b.iter(open));
    group.throughput(Throughput::Elements(1000));
    group.bench_function("lookup", |b| {
        b.iter(|| (0..1000).map(|number| find(flat, &name(number * 7 % FLAT)).0).fold(0, u64::wrapping_add));
    });
    group.throughput(Throughput::Elements(total));
    group.bench_function("walk with attributes", |b| b.iter(|| walk(&fs, fs.root(), &mut |_| {})));
    group.bench_function("walk with attributes, cold", |b| {
        b.iter_batched(open, |fs| walk(&fs, fs.root(), &mut |_| {}), BatchSize::PerIteration);
    });
    group.bench_function("read all small files, cold", |b| {
        let small = |fs: &Ntfs, buf: &mut [u8]| {
            walk(fs, fs.root(), &mut |id| {
                if id != large {
                    read_whole(fs, id, buf);
                }
            })
        };
        b.iter_batched(open, |fs| small(&fs, &mut buf), BatchSize::PerIteration);
    });
    group.throughput(Throughput::Bytes(LARGE));
    group.bench_function("read a large file", |b| b.iter(|| read_whole(&fs, large, &mut buf)));
    group.finish();
}

criterion_group!(benches, ntfs);
criterion_main!(benches);
