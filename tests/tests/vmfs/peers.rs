//! Where other readers are wrong or fail, we are right. Each test checks our bytes and prints the other
//! reader's answer beside them; a peer that has been mended fails nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vcb_fixtures::{need_tool, vmfs};
use vcb_fs::Filesystem;

use crate::common::{bytes, check, find, open, sha256, unpacked};

/// Mounts `images` with a peer, asks, unmounts.
fn peer(tool: &str, images: &[PathBuf], ask: impl Fn(&Path) -> String) -> String {
    if !need_tool(tool) || !need_tool("fusermount") || !Path::new("/dev/fuse").exists() {
        return "not here".to_owned();
    }
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new(tool).args(images).arg(dir.path()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        return format!("does not mount it ({status:?})");
    }
    let mounted = || std::fs::read_to_string("/proc/mounts").unwrap().contains(dir.path().to_str().unwrap());
    let started = Instant::now();
    while !mounted() {
        if started.elapsed() > Duration::from_secs(3) {
            return "dies while mounting it".to_owned();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let answer = ask(dir.path());
    drop(Command::new("fusermount").arg("-uz").arg(dir.path()).status());
    answer
}

/// The hash of `len` bytes at `at` of a file as a peer gives them.
fn peer_hash(mount: &Path, path: &str, at: u64, len: u64) -> String {
    use std::os::unix::fs::FileExt;
    let mut buf = vec![0; len as usize];
    let read = std::fs::File::open(mount.join(&path[1..])).and_then(|file| file.read_exact_at(&mut buf, at));
    match read {
        Ok(()) if buf.iter().all(|byte| *byte == 0) => "zeros".to_owned(),
        Ok(()) => sha256(&buf),
        Err(err) => err.to_string(),
    }
}

/// Checks all files of a written volume, and shows what `tool` says about `len` bytes at `at` of `path`.
fn compare(name: &str, tool: &str, path: &str, at: u64, len: u64) {
    let dir = tempfile::tempdir().unwrap();
    let Some(volume) = vmfs::make(&vmfs::manifest(name), dir.path()) else { return };
    let fs = open(&volume.devices);
    for expected in &volume.files {
        check(&*fs, expected);
    }
    let ours = bytes(&fs.open(find(&*fs, path), None).unwrap(), at, len);
    let ours = if ours.iter().all(|byte| *byte == 0) { "zeros".to_owned() } else { sha256(&ours) };
    let theirs = peer(tool, &volume.devices, |mount| peer_hash(mount, path, at, len));
    eprintln!("{name}{path} at {at:#x}: right {ours}, {tool} {theirs}");
}

const GIB: u64 = 1 << 30;

#[test]
fn a_thin_disk_with_an_empty_first_pointer_is_not_zeros() {
    compare("v6-hole-first", "vmfs6-fuse", "/h-flat.vmdk", 15 * GIB, 4096);
}

#[test]
fn a_real_thin_disk_with_an_empty_first_pointer_is_not_zeros() {
    let Some(image) = unpacked("vmfs6.bin.gz") else { return };
    let fs = open(std::slice::from_ref(&image));
    let file = fs.open(find(&*fs, "/normal-flat.vmdk"), None).unwrap();
    assert!(bytes(&file, 42 * GIB, 16).iter().all(|byte| *byte == 0x42));
    let theirs = peer("vmfs6-fuse", &[image], |mount| peer_hash(mount, "/normal-flat.vmdk", 42 * GIB, 16));
    eprintln!("real vmfs6 /normal-flat.vmdk: right 0x42…, vmfs6-fuse {theirs}");
}

#[test]
fn a_disk_of_42_tib_is_read_through_double_indirection() {
    let Some(image) = unpacked("vmfs5.bin.gz") else { return };
    let fs = open(std::slice::from_ref(&image));
    let file = fs.open(find(&*fs, "/large-flat.vmdk"), None).unwrap();
    assert!(bytes(&file, 117 * GIB, 16).iter().all(|byte| *byte == 0x42));
    let theirs = peer("vmfs-fuse", &[image], |mount| peer_hash(mount, "/large-flat.vmdk", 117 * GIB, 16));
    eprintln!("real vmfs5 /large-flat.vmdk: right 0x42…, vmfs-fuse {theirs}");
    compare("v5-double", "vmfs-fuse", "/d-flat.vmdk", 117 * GIB, 4096);
}

#[test]
fn blocks_to_be_zeroed_do_not_show_stale_bytes() {
    compare("v6-lazy", "vmfs6-fuse", "/z-flat.vmdk", 0, 4096);
    compare("v6-lfb-tbz", "vmfs6-fuse", "/lz-flat.vmdk", 0, 4096);
}

#[test]
fn a_volume_with_a_large_descriptor_file_opens() {
    compare("v5-bigfdc", "vmfs-fuse", "/small.txt", 0, 12);
    compare("v5-bigsys", "vmfs-fuse", "/small.txt", 0, 12);
}

#[test]
fn sub_blocks_in_far_clusters_are_found() {
    compare("v6-farsb", "vmfs6-fuse", "/d/sub.bin", 0, 5000);
}

#[test]
fn partitioned_images_open() {
    compare("v6-gpt", "vmfs6-fuse", "/small.txt", 0, 12);
}

#[test]
fn deleted_names_are_not_listed() {
    let dir = tempfile::tempdir().unwrap();
    for (name, tool) in [("v5-deleted", "vmfs-fuse"), ("v6-deleted", "vmfs6-fuse")] {
        let Some(volume) = vmfs::make(&vmfs::manifest(name), dir.path()) else { return };
        let fs = open(&volume.devices);
        let folder = find(&*fs, "/d");
        assert_eq!(fs.lookup(folder, b"gone").err().unwrap().kind(), vcb_block::Kind::NotFound, "{name}");
        let theirs = peer(tool, &volume.devices, |mount| {
            let names = std::fs::read_dir(mount.join("d")).unwrap();
            format!("{:?}", names.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>())
        });
        eprintln!("{name}: right [\"live\"], {tool} {theirs}");
    }
}
