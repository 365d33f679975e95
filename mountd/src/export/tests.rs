//! Copies judged by qemu-img, and by what they were made from.

use std::process::Command;
use std::sync::Arc;

use vcb_block::{Fault, FaultBlock, MemBlock};
use vcb_fixtures::need_tool;

use super::*;

/// A disk with data, zero grains, long holes and an odd last grain.
fn content() -> Vec<u8> {
    let mut bytes = vec![0u8; 40 * (1 << 20) + 3 * 512];
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut fill = |range: std::ops::Range<usize>| {
        for chunk in bytes[range].chunks_mut(8) {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            chunk.copy_from_slice(&seed.to_be_bytes()[..chunk.len()]);
        }
    };
    fill(0..512);
    fill(GRAIN * 3 + 100..GRAIN * 5);
    fill(33 << 20..35 << 20);
    let len = 40 * (1 << 20) + 3 * 512;
    fill(len - 512..len);
    bytes
}

fn export(disk: &BlockRef, format: Format, to: &Path) -> Outcome<Copied> {
    let mut seen = 0;
    let mut progress = |done| seen = done;
    let stop = AtomicBool::new(false);
    let mut export = Export {
        format,
        adapter: "lsilogic",
        threads: 3,
        overwrite: false,
        progress: &mut progress,
        verify: &|| Ok(()),
        stop: &stop,
    };
    let copied = export.run(disk, to)?;
    assert_eq!(seen, disk.len());
    Ok(copied)
}

#[test]
fn raw_copies_are_equal_and_sparse() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content();
    let disk: BlockRef = Arc::new(MemBlock::new(bytes.clone()));
    let to = dir.path().join("disk.raw");
    let copied = export(&disk, Format::Raw, &to).unwrap();
    assert!(std::fs::read(&to).unwrap() == bytes);
    assert!(copied.data < 3 << 20, "{copied:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let again = export(&disk, Format::Raw, &to).unwrap_err();
    assert_eq!(again.code(), Code::Usage);
}

#[test]
fn vmdk_copies_are_equal_for_qemu() {
    if !need_tool("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let bytes = content();
    let disk: BlockRef = Arc::new(MemBlock::new(bytes.clone()));
    let raw = dir.path().join("expected.raw");
    std::fs::write(&raw, &bytes).unwrap();
    for format in [Format::SparseVmdk, Format::StreamVmdk] {
        let to = dir.path().join("disk.vmdk");
        export(&disk, format, &to).unwrap();
        let compare = Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "vmdk"]).arg(&raw).arg(&to).output();
        let compare = compare.unwrap();
        assert!(compare.status.success(), "{format:?}: {}", String::from_utf8_lossy(&compare.stdout));
        std::fs::remove_file(&to).unwrap();
    }
}

#[test]
fn a_failed_copy_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let disk: BlockRef = Arc::new(MemBlock::new(content()));
    for nth in [1, 2, 3] {
        let faulty: BlockRef = Arc::new(FaultBlock::at(Arc::clone(&disk), nth, Fault::EioForever));
        for format in [Format::Raw, Format::SparseVmdk, Format::StreamVmdk] {
            let failure = export(&faulty, format, &dir.path().join("disk")).unwrap_err();
            assert_eq!(failure.code(), Code::Io);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }
}

#[test]
fn a_stopped_copy_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let disk: BlockRef = Arc::new(MemBlock::new(content()));
    let stop = AtomicBool::new(true);
    let mut export = Export {
        format: Format::Raw,
        adapter: "ide",
        threads: 2,
        overwrite: false,
        progress: &mut |_| {},
        verify: &|| Ok(()),
        stop: &stop,
    };
    let failure = export.run(&disk, &dir.path().join("disk.raw")).unwrap_err();
    assert_eq!(failure.code(), Code::Interrupted);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_copy_of_a_disk_that_changed_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let disk: BlockRef = Arc::new(MemBlock::new(content()));
    let mut export = Export {
        format: Format::Raw,
        adapter: "ide",
        threads: 2,
        overwrite: false,
        progress: &mut |_| {},
        verify: &|| Err(Error::new(Kind::Changed, "test", "moved")),
        stop: &AtomicBool::new(false),
    };
    export.run(&disk, &dir.path().join("disk.raw")).unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
