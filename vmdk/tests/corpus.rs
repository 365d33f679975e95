//! Real disks: every one must give the raw bytes that its manifest names.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};
use vcb_block::{BlockRef, Kind, RunKind, Runs, conformance, plan};
use vcb_vmdk::vmsd::Snapshots;
use vcb_vmdk::vmx::Vmx;
use vcb_vmdk::{Descriptor, Disk, FolderResolver, OpenOptions, check};

/// Disks longer than this are hashed by the tests of the workspace, once for all crates.
const LONGEST: u64 = 1 << 30;

/// Copies a folder of the corpus, unpacking what is packed.
fn unpack(folder: &Path) -> Option<tempfile::TempDir> {
    if !vcb_fixtures::need_tool("xz") || !vcb_fixtures::need_tool("gzip") {
        return None;
    }
    let out = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let (tool, plain) = match (name.strip_suffix(".xz"), name.strip_suffix(".gz")) {
            (Some(plain), _) => ("xz", plain),
            (_, Some(plain)) => ("gzip", plain),
            _ => {
                fs::copy(&path, out.path().join(&name)).unwrap();
                continue;
            }
        };
        let file = File::create(out.path().join(plain)).unwrap();
        assert!(Command::new(tool).arg("-dc").arg(&path).stdout(file).status().unwrap().success(), "{name}");
    }
    // The corpus keeps this content once, for monolithicFlat.
    let flat = out.path().join("monolithicFlat-flat.vmdk");
    if flat.exists() {
        fs::copy(&flat, out.path().join("twoGbMaxExtentFlat-f001.vmdk")).unwrap();
    }
    Some(out)
}

/// Writes the descriptor that the SEsparse extent of the corpus came without.
fn describe(folder: &Path, extent: &str) -> &'static str {
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=11111111\nparentCID=ffffffff\ncreateType=\"seSparse\"\n\
         RW 1048576 SESPARSE \"{extent}\"\n"
    );
    fs::write(folder.join("described.vmdk"), text).unwrap();
    "described.vmdk"
}

fn open(folder: &Path, name: &str) -> vcb_block::Result<Disk> {
    Disk::open(FolderResolver::new(folder).unwrap(), name, &OpenOptions::default())
}

/// Hash of the whole block; disks without a single stored byte are hashed once per length.
fn hash(block: &BlockRef, zeros: &mut HashMap<u64, String>) -> String {
    let empty = Runs::of(block, 0..block.len()).unwrap().as_slice().iter().all(|run| run.kind == RunKind::Zero);
    if empty && let Some(known) = zeros.get(&block.len()) {
        return known.clone();
    }
    let mut hasher = Sha256::new();
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    while at < block.len() {
        let part = (block.len() - at).min(buf.len() as u64) as usize;
        plan::read(block, &mut buf[..part], at).unwrap();
        hasher.update(&buf[..part]);
        at += part as u64;
    }
    let text: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if empty {
        zeros.insert(block.len(), text.clone());
    }
    text
}

#[test]
fn every_disk_gives_its_raw_bytes() {
    let Some(root) = vcb_fixtures::corpus("MANIFEST.tsv") else { return };
    let manifest = fs::read_to_string(&root).unwrap();
    let root = root.parent().unwrap();
    let mut zeros = HashMap::new();
    let mut seen = 0;
    for line in manifest.lines().filter(|line| line.starts_with("vmdk/")) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (file, expected) = (Path::new(fields[0]), fields[3]);
        if expected.is_empty() {
            continue;
        }
        let Some(folder) = unpack(&root.join(file.parent().unwrap())) else { return };
        let name = file.file_name().unwrap().to_str().unwrap();
        let name = name.trim_end_matches(".xz").trim_end_matches(".gz");
        let name = if fields[2].starts_with("seSparse") { describe(folder.path(), name) } else { name };
        let disk = open(folder.path(), name).unwrap_or_else(|err| panic!("{line}: {err:?}"));
        conformance::check(disk.block(), 7);
        let resolver = FolderResolver::new(folder.path()).unwrap();
        let findings = check(resolver, name, &OpenOptions::default()).unwrap();
        assert_eq!(findings, [], "{line}");
        seen += 1;
        if disk.len() > LONGEST {
            continue;
        }
        assert_eq!(hash(disk.block(), &mut zeros), expected, "{line}");
    }
    assert!(seen > 10, "only {seen} disks");
}

#[test]
fn malformed_disks_are_refused_with_a_reason() {
    let Some(root) = vcb_fixtures::corpus("malformed") else { return };
    for (folder, name, kinds) in [
        ("", "trivy-aws-head-2049.vmdk", [Kind::Corrupt, Kind::Unsupported]),
        ("", "vmdk-invalid.img", [Kind::Corrupt, Kind::Unsupported]),
        ("vmdk-rs-delta-missing", "vmfs_thick-000001.vmdk", [Kind::NotFound, Kind::Corrupt]),
    ] {
        let err = open(&root.join(folder), name).err().unwrap_or_else(|| panic!("{name} was opened"));
        println!("{name}: {}", err.report());
        assert!(kinds.contains(&err.kind()), "{name}: {err:?}");
    }
}

#[test]
fn every_text_parses() {
    let Some(root) = vcb_fixtures::corpus("texts") else { return };
    let mut with_disks = 0;
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let name = path.to_str().unwrap().trim_end_matches(".txt").to_owned();
        let bytes = fs::read(&path).unwrap();
        if name.ends_with(".vmx") {
            let vmx = Vmx::parse(&bytes).unwrap_or_else(|err| panic!("{name}: {err:?}"));
            with_disks += usize::from(!vmx.disks().is_empty());
            assert!(vmx.disks().iter().all(|disk| !disk.file_name.ends_with(".iso")), "{name}");
        } else if name.ends_with(".vmsd") {
            let snapshots = Snapshots::parse(&bytes).unwrap_or_else(|err| panic!("{name}: {err:?}"));
            assert_eq!(snapshots.all().len(), 4, "{name}");
            assert_eq!(snapshots.find("third").unwrap().disks[0].1, "test flo_0-000002.vmdk");
        } else if name.ends_with(".vmdk") {
            let descriptor = Descriptor::parse(&bytes).unwrap_or_else(|err| panic!("{name}: {err:?}"));
            assert!(!descriptor.is_empty(), "{name}");
        }
    }
    // The others are network-booted, or their only disk is switched off.
    assert!(with_disks >= 50, "disks found in {with_disks} configurations only");
}
