//! The volumes that the sources of the PyPI package dissect.vmfs 3.13 carry (`tests/_data/vmfs`, unpacked into
//! `$VCBMOUNT_VMFS_IMAGES`): made by ESXi with every option of the format, not ours to pass on.

use std::path::PathBuf;

use vcb_fs::Filesystem;
use vcb_fs::vmfs::{Options, Vmfs};

use crate::common::{devices, find};

#[test]
fn published_volumes_open() {
    let Some(folder) = std::env::var_os("VCBMOUNT_VMFS_IMAGES").map(PathBuf::from) else {
        eprintln!("skipped: VCBMOUNT_VMFS_IMAGES names no folder with published VMFS volumes");
        return;
    };
    let mut volumes: Vec<Vec<PathBuf>> = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if let Some(stem) = name.strip_suffix("-span-0.bin") {
            volumes.push(vec![folder.join(format!("{stem}-span-1.bin")), path]);
        } else if name.ends_with(".bin") && !name.contains("-span-") {
            volumes.push(vec![path]);
        }
    }
    assert!(!volumes.is_empty(), "no volumes in {}", folder.display());
    for paths in volumes {
        let options = Options { system_files: true, ..Options::default() };
        let fs = Vmfs::open(devices(&paths), &options).unwrap_or_else(|err| panic!("{paths:?}: {err:?}"));
        for name in ["/.fbb.sf", "/.fdc.sf", "/.pbc.sf", "/.sbc.sf", "/.vh.sf", "/.pb2.sf"] {
            let file = fs.open(find(&*fs, name), None).unwrap_or_else(|err| panic!("{paths:?}{name}: {err:?}"));
            let mut last = [0; 1];
            file.read_at(&mut last, file.len() - 1).unwrap_or_else(|err| panic!("{paths:?}{name}: {err:?}"));
        }
        eprintln!("{paths:?}: {} '{}'", fs.kind(), String::from_utf8_lossy(&fs.label()));
    }
}
