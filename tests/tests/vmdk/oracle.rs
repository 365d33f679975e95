//! Every kind of VMDK against what was written. That the writers write what they claim is judged by QEMU
//! in `fixtures/tests/vmdk_qemu.rs`; here the reader is held to the same models.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use vcb_block::{conformance, plan};
use vcb_fixtures::need_tool;
use vcb_fixtures::vmdk::{Chain, Content, Directory, Grain, Kind, Model, gallery, ova};
use vcb_tests::disks::Files;
use vcb_vmdk::{Disk, FolderResolver, OpenOptions, Severity};

#[test]
fn every_specimen_reads_as_written() {
    for (seed, specimen) in (1..).zip(gallery().unwrap()) {
        eprintln!("{}", specimen.name);
        let disk = Files::of(&specimen.folder).disk(&specimen.leaf, &OpenOptions::default()).unwrap();
        conformance::same_bytes(disk.block(), &specimen.raw, seed);
        conformance::check(disk.block(), seed);
    }
}

#[test]
fn every_specimen_reads_from_a_folder_on_the_host() {
    for (seed, specimen) in (1..).zip(gallery().unwrap()) {
        let dir = tempfile::tempdir().unwrap();
        specimen.folder.save(dir.path()).unwrap();
        let resolver = FolderResolver::new(dir.path()).unwrap();
        let disk = Disk::open(resolver, &specimen.leaf, &OpenOptions::default()).unwrap();
        conformance::same_bytes(disk.block(), &specimen.raw, seed);
    }
}

#[test]
fn checking_finds_no_error_in_sound_disks() {
    for specimen in gallery().unwrap() {
        let files = Arc::new(Files::of(&specimen.folder));
        let mut findings = vcb_vmdk::check(files, &specimen.leaf, &OpenOptions::default()).unwrap();
        findings.retain(|finding| finding.severity == Severity::Error);
        assert!(findings.is_empty(), "{}: {findings:#?}", specimen.name);
    }
}

#[test]
fn a_cache_of_almost_nothing_changes_nothing() {
    let mut options = OpenOptions::default();
    options.cache_bytes = 1;
    for (seed, specimen) in (1..).zip(gallery().unwrap()) {
        let disk = Files::of(&specimen.folder).disk(&specimen.leaf, &options).unwrap();
        conformance::same_bytes(disk.block(), &specimen.raw, seed);
    }
}

/// Chains that QEMU itself made and wrote to, three links long.
#[test]
fn chains_that_qemu_made_read_as_qemu_reads_them() {
    if !need_tool("qemu-img") || !need_tool("qemu-io") {
        return;
    }
    for subformat in ["monolithicSparse", "twoGbMaxExtentSparse"] {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("subformat={subformat}");
        run(dir.path(), "qemu-img", &["create", "-q", "-f", "vmdk", "-o", &options, "a.vmdk", "9M"]);
        write(dir.path(), "a.vmdk", &["write -P 1 0 4M", "write -P 2 6M 3M"]);
        for (parent, child, writes) in [
            ("a.vmdk", "b.vmdk", ["write -P 3 1M 70k", "write -P 4 5M 512"]),
            ("b.vmdk", "c.vmdk", ["write -P 5 1100k 1k", "write -z 2M 1M"]),
        ] {
            let args = ["create", "-q", "-f", "vmdk", "-o", &options, "-b", parent, "-F", "vmdk", child];
            run(dir.path(), "qemu-img", &args);
            write(dir.path(), child, &writes);
        }
        run(dir.path(), "qemu-img", &["convert", "-f", "vmdk", "-O", "raw", "c.vmdk", "c.raw"]);
        let raw = std::fs::read(dir.path().join("c.raw")).unwrap();
        let resolver = FolderResolver::new(dir.path()).unwrap();
        let disk = Disk::open(resolver, "c.vmdk", &OpenOptions::default()).unwrap();
        assert_eq!(disk.links().len(), 3);
        conformance::same_bytes(disk.block(), &raw, 3);
        conformance::check(disk.block(), 3);
    }
}

fn run(dir: &Path, tool: &str, args: &[&str]) {
    let out = Command::new(tool).args(args).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn write(dir: &Path, disk: &str, commands: &[&str]) {
    let mut args = vec!["-f", "vmdk"];
    args.extend(commands.iter().flat_map(|command| ["-c", command]));
    args.push(disk);
    run(dir, "qemu-io", &args);
}

/// A flat base and nine deltas of alternating kinds, opened at each of the ten links.
#[test]
fn every_point_of_a_chain_can_be_opened() {
    let mut chain = Chain::new("disk");
    let mut points = Vec::new();
    chain.push(Kind::Vmfs, &Model::all(4096, 128, &Grain::Fill(Content::Noise(1)))).unwrap();
    points.push((chain.leaf().to_owned(), chain.raw().to_vec()));
    for (seed, kind) in (2..).zip([Kind::SeSparse, Kind::VmfsSparse, Kind::MonolithicSparse].repeat(3)) {
        chain.push(kind, &Model::random(4096, kind.grain_sectors(), seed)).unwrap();
        points.push((chain.leaf().to_owned(), chain.raw().to_vec()));
    }
    let files = Files::of(&chain.folder);
    for (number, (leaf, raw)) in points.iter().enumerate() {
        let disk = files.disk(leaf, &OpenOptions::default()).unwrap();
        assert_eq!(disk.links().len(), number + 1);
        assert_eq!(disk.links()[0].cid, Chain::cid(number));
        conformance::same_bytes(disk.block(), raw, 5);
    }
}

#[test]
fn disks_inside_an_ova_read_without_unpacking() {
    let mut chain = Chain::new("disk");
    chain.push(Kind::StreamOptimized(Directory::AtEnd), &Model::random(9000, 128, 4)).unwrap();
    let mut archive = Files::default();
    archive.put("vm.ova", ova("vm", &chain.folder));
    let block = vcb_vmdk::Resolver::open(&archive, "", "vm.ova").unwrap().block;
    let resolver = vcb_vmdk::ova::OvaResolver::open(block, "vm.ova").unwrap();
    assert_eq!(resolver.disks().collect::<Vec<_>>(), ["disk.vmdk"]);
    assert!(resolver.check().unwrap().is_empty());
    let disk = Disk::open(resolver, "disk.vmdk", &OpenOptions::default()).unwrap();
    conformance::same_bytes(disk.block(), chain.raw(), 1);
    conformance::check(disk.block(), 1);
}

/// A last sector by itself, reads of nothing, and reads across every boundary of a link.
#[test]
fn odd_ranges_read_right() {
    for specimen in gallery().unwrap() {
        let disk = Files::of(&specimen.folder).disk(&specimen.leaf, &OpenOptions::default()).unwrap();
        let len = specimen.raw.len();
        for (start, size) in [(len - 1, 1), (len - 513, 513), (0, 0), (len, 0), (65_535, 2), (4095, 4098), (511, 1)] {
            let mut buf = vec![0xA5; size];
            plan::read(disk.block(), &mut buf, start as u64).unwrap();
            assert_eq!(buf, specimen.raw[start..start + size], "{}: {size} bytes at {start}", specimen.name);
        }
    }
}
