//! Every file of every volume has the right bytes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use md5::{Digest, Md5};
use vcb_block::{BlockRef, Kind, conformance};
use vcb_fixtures::{corpus, vmfs};
use vcb_fs::{FileId, FileType, Filesystem};

use crate::common::{bytes, check, find, open, unpacked};

/// Paths of everything below `dir`.
fn walk(fs: &dyn Filesystem, dir: FileId, path: &str, found: &mut BTreeMap<String, FileId>) {
    let mut folders = Vec::new();
    fs.read_dir(dir, 0, &mut |entry| {
        let path = format!("{path}/{}", String::from_utf8(entry.name).unwrap());
        if entry.kind == FileType::Dir {
            folders.push((path.clone(), entry.id));
        }
        found.insert(path, entry.id);
        ControlFlow::Continue(())
    })
    .unwrap();
    for (path, id) in folders {
        assert_eq!(fs.parent(id).unwrap(), dir, "{path}");
        walk(fs, id, &path, found);
    }
}

fn manifest(name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let Some(volume) = vmfs::make(&vmfs::manifest(name), dir.path()) else {
        return;
    };
    let fs = open(&volume.devices);
    for expected in &volume.files {
        check(&*fs, expected);
    }
    let mut found = BTreeMap::new();
    walk(&*fs, fs.root(), "", &mut found);
    let mut wanted: Vec<&str> = volume.files.iter().map(|file| file.path.as_str()).collect();
    wanted.sort_unstable();
    assert!(found.keys().eq(wanted.iter()), "{name}: {:?}, not {wanted:?}", found.keys());
    fs.verify().unwrap();
}

#[test]
fn every_written_volume_reads_as_its_manifest_says() {
    let names = vmfs::manifests();
    assert!(names.len() >= 19, "{names:?}");
    for name in names {
        manifest(&name);
    }
}

#[test]
fn files_of_every_layout_keep_the_block_contract() {
    let dir = tempfile::tempdir().unwrap();
    for (seed, name) in ["v3", "v5", "v6", "v6-lfb-tbz", "v5-double"].iter().enumerate() {
        let Some(volume) = vmfs::make(&vmfs::manifest(name), dir.path()) else {
            return;
        };
        let fs = open(&volume.devices);
        for expected in volume.files.iter().filter(|file| file.kind == "file" && !file.path.starts_with("/many")) {
            let block: BlockRef = fs.open(find(&*fs, &expected.path), None).unwrap();
            conformance::check(&block, seed as u64);
        }
    }
}

/// Lines of `NAME.contents.txt`: `/path size=N zla=Z md5=HEX`, `/path -> target`, `/path/`, `/path RDM size=N`.
fn real(image: &Path, contents: &Path) {
    let fs = open(&[image.to_owned()]);
    let mut found = BTreeMap::new();
    walk(&*fs, fs.root(), "", &mut found);
    let text = std::fs::read_to_string(contents).unwrap();
    let mut seen = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("  /")) {
        seen += 1;
        if let Some(path) = line.strip_suffix('/') {
            assert_eq!(fs.attr(find(&*fs, path)).unwrap().kind, FileType::Dir, "{path}");
        } else if let Some((path, target)) = line.split_once(" -> ") {
            let link = fs.read_link(find(&*fs, path)).unwrap();
            // The link is absolute and names the volume by its label.
            let last = target.rsplit('/').next().unwrap().as_bytes().to_vec();
            assert_eq!(link, vcb_fs::LinkTarget::Volume(vec![last]), "{path}");
        } else if let Some((path, size)) = line.split_once(" RDM size=") {
            assert_eq!(fs.attr(find(&*fs, path)).unwrap().size.to_string(), size, "{path}");
            assert_eq!(fs.open(find(&*fs, path), None).err().unwrap().kind(), Kind::Unsupported);
        } else {
            let (path, rest) = line.split_once(" size=").unwrap();
            let fields: Vec<&str> = rest.split(' ').collect();
            let id = find(&*fs, path);
            assert_eq!(fs.attr(id).unwrap().size.to_string(), fields[0], "{path}");
            let block = fs.open(id, None).unwrap();
            let md5 = fields[2].strip_prefix("md5=").unwrap();
            if md5 != "-" {
                let mut digest = Md5::new();
                let mut at = 0;
                while at < block.len() {
                    let part = bytes(&block, at, (block.len() - at).min(1 << 20));
                    digest.update(&part);
                    at += part.len() as u64;
                }
                let got: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(got, md5, "{path}");
            }
        }
    }
    assert_eq!(seen, found.len(), "files that the list does not have: {:?}", found.keys());
    fs.verify().unwrap();
}

#[test]
fn real_vmfs_5_and_6_read_as_listed() {
    for name in ["vmfs5", "vmfs6"] {
        let Some(image) = unpacked(&format!("{name}.bin.gz")) else { return };
        real(&image, &corpus(&format!("vmfs/{name}.contents.txt")).unwrap());
        let fs = open(&[image]);
        // 69 GiB thin with one block of 0x42 at 42 GiB, 42 TiB through double indirection with one at 117 GiB.
        for (path, gib) in [("/normal-flat.vmdk", 42u64), ("/large-flat.vmdk", 117)] {
            let block = fs.open(find(&*fs, path), None).unwrap();
            let at = gib << 30;
            assert!(bytes(&block, at, 16).iter().all(|byte| *byte == 0x42), "{name}{path}");
            assert!(bytes(&block, at - 8192, 8192).iter().all(|byte| *byte == 0), "{name}{path}");
            assert!(bytes(&block, block.len() - 4096, 4096).iter().all(|byte| *byte == 0), "{name}{path}");
        }
    }
}

#[test]
fn real_vmfs_3_reads_zeroed_blocks_as_zeros() {
    let Some(image) = unpacked("glandium-vmfs3.raw.xz") else { return };
    let fs = open(&[image]);
    assert_eq!((fs.kind(), fs.label().as_slice()), ("vmfs3", b"toto".as_slice()));
    let mut found = BTreeMap::new();
    walk(&*fs, fs.root(), "", &mut found);
    let flats: Vec<_> = found.iter().filter(|(path, _)| path.ends_with("-flat.vmdk")).collect();
    assert_eq!(flats.len(), 4, "{:?}", found.keys());
    for (path, id) in flats {
        let block = fs.open(*id, None).unwrap();
        assert_eq!(block.len(), 200 << 20, "{path}");
        for mib in 0..200 {
            assert!(bytes(&block, mib << 20, 1 << 20).iter().all(|byte| *byte == 0), "{path} at {mib} MiB");
        }
    }
}
