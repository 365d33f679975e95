//! The VMDK reader by itself: mapping, sequential and random reads of every format, chains. Files are warm
//! in the page cache, one thread.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vcb_benches::disks::{Format, open, write_chain};
use vcb_block::{BlockRef, Runs, plan};

const SIZE: u64 = 64 << 20;
const PIECE: u64 = 1 << 20;
/// Odd in units of 4 KiB, so that steps modulo the size visit every page before they repeat.
const STRIDE: u64 = 4096 * 4099;

fn sequential(block: &BlockRef, buf: &mut [u8]) {
    for at in (0..SIZE).step_by(buf.len()) {
        plan::read(block, buf, at).unwrap();
    }
    black_box(buf);
}

fn random(block: &BlockRef, buf: &mut [u8]) {
    let mut at = 0;
    for _ in 0..1024 {
        plan::read(block, buf, at).unwrap();
        at = (at + STRIDE) % SIZE;
    }
    black_box(buf);
}

fn map(block: &BlockRef) {
    let mut runs = Runs::new();
    for at in (0..SIZE).step_by(PIECE as usize) {
        runs.clear();
        runs.map_child(block, at..at + PIECE).unwrap();
        black_box(&runs);
    }
}

fn vmdk(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let mut disks = Vec::new();
    for format in Format::ALL {
        format.write(dir.path(), SIZE).unwrap();
        disks.push((format.name().to_owned(), open(dir.path(), &format.leaf()).unwrap()));
    }
    for deltas in [1, 10] {
        let leaf = write_chain(dir.path(), SIZE, deltas).unwrap();
        disks.push((format!("chain of {deltas}"), open(dir.path(), &leaf).unwrap()));
    }
    let mut group = c.benchmark_group("vmdk");
    group.sample_size(10).warm_up_time(std::time::Duration::from_millis(300));
    group.measurement_time(std::time::Duration::from_secs(1));
    for (name, block) in &disks {
        group.throughput(Throughput::Bytes(SIZE));
        group.bench_function(format!("{name}/map"), |b| b.iter(|| map(block)));
        let mut buf = vec![0; PIECE as usize];
        group.bench_function(format!("{name}/sequential"), |b| b.iter(|| sequential(block, &mut buf)));
        group.throughput(Throughput::Elements(1024));
        group.bench_function(format!("{name}/random 4K"), |b| b.iter(|| random(block, &mut buf[..4096])));
    }
    group.finish();
}

criterion_group!(benches, vmdk);
criterion_main!(benches);
