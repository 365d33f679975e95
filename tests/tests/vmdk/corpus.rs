//! Real disks, made by VMware's products and others.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};
use vcb_block::{BlockRef, Kind, RunKind, Runs, plan};
use vcb_fixtures::{corpus, need_tool};
use vcb_vmdk::{Disk, FolderResolver, OpenOptions};

/// Disks longer than this are hashed only under `VCB_TORTURE=1`; otherwise their data is compared with
/// what QEMU converts, and their holes with its holes.
const HASHED: u64 = 600 << 20;
const STEP: u64 = 16 << 20;

struct Entry {
    file: PathBuf,
    raw_sha256: String,
}

fn manifest(path: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let is_disk = fields[0].starts_with("vmdk/") && fields[3].len() == 64;
            is_disk.then(|| Entry { file: fields[0].into(), raw_sha256: fields[3].to_owned() })
        })
        .collect()
}

/// Copies the folder of a corpus file to `to`, unpacking on the way, so that extents find each other.
fn unpack(folder: &Path, to: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let tool = match path.extension().and_then(|ext| ext.to_str()) {
            Some("xz") => "xz",
            Some("gz") => "gzip",
            _ => {
                std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
                continue;
            }
        };
        let out = std::fs::File::create(to.join(path.file_stem().unwrap())).unwrap();
        let status = Command::new(tool).args(["-dc"]).arg(&path).stdout(Stdio::from(out)).status().unwrap();
        assert!(status.success(), "{tool} of {}", path.display());
    }
}

fn sha256(block: &BlockRef) -> String {
    let mut hash = Sha256::new();
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    while at < block.len() {
        let len = buf.len().min((block.len() - at) as usize);
        plan::read(block, &mut buf[..len], at).unwrap();
        hash.update(&buf[..len]);
        at += len as u64;
    }
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Compares with `raw`, a sparse file: what we call zeros must be a hole or zeros there.
fn same_as_sparse_file(block: &BlockRef, raw: &Path) {
    let raw: BlockRef = std::sync::Arc::new(vcb_block::FileSource::open(raw).unwrap());
    assert_eq!(raw.len(), block.len());
    let data = data_ranges(&raw);
    let mut at = 0;
    while at < block.len() {
        let end = (at + STEP).min(block.len());
        let runs = Runs::of(block, at..end).unwrap();
        for run in runs.as_slice() {
            let stop = at + run.len;
            let overlaps = data.iter().any(|range| range.start < stop && range.end > at);
            if !matches!(run.kind, RunKind::Zero) || overlaps {
                let mut ours = vec![0xA5; run.len as usize];
                let mut theirs = vec![0x5A; run.len as usize];
                plan::read(block, &mut ours, at).unwrap();
                raw.read_at(&mut theirs, at).unwrap();
                assert!(ours == theirs, "bytes {at:#x}..{stop:#x} differ");
            }
            at = stop;
        }
    }
}

/// Ranges of a sparse file that are not holes, as `qemu-img map` tells them.
fn data_ranges(raw: &BlockRef) -> Vec<std::ops::Range<u64>> {
    let file = raw.host_file().unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
    let path = std::fs::read_link(path).unwrap();
    let out = Command::new("qemu-img").args(["map", "-f", "raw", "--output=json"]).arg(path).output().unwrap();
    let map: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let ranges = map.as_array().unwrap().iter().filter(|extent| extent["data"] == true);
    ranges
        .map(|extent| {
            let start = extent["start"].as_u64().unwrap();
            start..start + extent["length"].as_u64().unwrap()
        })
        .collect()
}

#[test]
fn every_disk_of_the_corpus_has_its_hash() {
    let Some(path) = corpus("MANIFEST.tsv") else { return };
    if !need_tool("xz") || !need_tool("gzip") || !need_tool("qemu-img") {
        return;
    }
    let root = path.parent().unwrap();
    let torture = std::env::var_os("VCB_TORTURE").is_some();
    let mut seen = 0;
    for entry in manifest(&path) {
        let dir = tempfile::tempdir().unwrap();
        unpack(root.join(&entry.file).parent().unwrap(), dir.path());
        let mut name = entry.file.file_name().unwrap().to_str().unwrap().to_owned();
        for packed in [".xz", ".gz"] {
            name = name.trim_end_matches(packed).to_owned();
        }
        if name == "sesparse.vmdk" {
            // The extent came without its descriptor.
            let text = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"seSparse\"\n\
                        RW 1048576 SESPARSE \"sesparse.vmdk\"\n";
            name = "descriptor.vmdk".into();
            std::fs::write(dir.path().join(&name), text).unwrap();
        }
        if name == "twoGbMaxExtentFlat.vmdk" {
            // Its extent is not there; it is the same disk as the flat one beside it.
            std::fs::copy(dir.path().join("monolithicFlat-flat.vmdk"), dir.path().join("twoGbMaxExtentFlat-f001.vmdk"))
                .unwrap();
        }
        eprintln!("{}", entry.file.display());
        let disk = Disk::open(FolderResolver::new(dir.path()).unwrap(), &name, &OpenOptions::default()).unwrap();
        if disk.len() > HASHED && !torture {
            let args = ["convert", "-f", "vmdk", "-O", "raw", &name, "out.raw"];
            let status = Command::new("qemu-img").args(args).current_dir(dir.path()).status().unwrap();
            assert!(status.success());
            same_as_sparse_file(disk.block(), &dir.path().join("out.raw"));
        } else {
            assert_eq!(sha256(disk.block()), entry.raw_sha256, "{}", entry.file.display());
        }
        seen += 1;
    }
    assert!(seen >= 20, "the manifest lists {seen} disks");
}

#[test]
fn every_malformed_disk_is_a_clear_error() {
    for (folder, name) in [
        ("malformed", "trivy-aws-head-2049.vmdk"),
        ("malformed", "vmdk-invalid.img"),
        ("malformed/vmdk-rs-delta-missing", "vmfs_thick-000001.vmdk"),
    ] {
        let Some(folder) = corpus(folder) else { return };
        let disk = Disk::open(FolderResolver::new(folder).unwrap(), name, &OpenOptions::default());
        let err = match disk {
            Err(err) => err,
            Ok(disk) => vcb_tests::disks::read_up_to(disk.block(), 256 << 20).err().unwrap(),
        };
        eprintln!("{name}: {err:?}");
        assert!(
            matches!(err.kind(), Kind::Corrupt | Kind::Unsupported | Kind::NotFound | Kind::OutOfRange),
            "{name}: {err:?}"
        );
    }
}

#[test]
fn a_truncated_archive_is_a_clear_error() {
    let Some(path) = corpus("malformed/ttylinux-truncated.ova") else { return };
    let block: BlockRef = std::sync::Arc::new(vcb_block::FileSource::open(&path).unwrap());
    let err = vcb_vmdk::ova::OvaResolver::open(block, "ttylinux.ova").and_then(|resolver| {
        let name = resolver.disks().next().unwrap().to_owned();
        let disk = Disk::open(resolver, &name, &OpenOptions::default())?;
        vcb_tests::disks::read_up_to(disk.block(), 64 << 20)
    });
    let err = err.unwrap_err();
    eprintln!("{err:?}");
    assert_eq!(err.kind(), Kind::Corrupt);
}
