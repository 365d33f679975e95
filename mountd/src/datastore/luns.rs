//! The block devices of this host that may hold VMFS.

use std::path::{Path, PathBuf};

use vcb_block::{Error, Kind, Result};
use vcb_fs::vmfs::{Candidate, Found, discover};

use super::vmfs::open_lun;

const LAYER: &str = "datastore";
const SYSFS: &str = "/sys/class/block";
const UUID: &str = "uuid:";
const LABEL: &str = "label:";

/// Volumes found, and devices that could not be read.
pub struct Luns {
    /// The volumes.
    pub volumes: Vec<Found>,
    /// Devices that failed, by path.
    pub failures: Vec<(String, Error)>,
}

/// Looks for VMFS on all block devices of this host: whole disks, multipath devices in place of their single
/// paths, loop devices. Needs the right to read them; devices without it are among the failures.
#[must_use]
pub fn scan() -> Luns {
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for path in block_devices(Path::new(SYSFS)) {
        let name = path.display().to_string();
        match open_lun(&path) {
            Ok(block) => found.push(Candidate { name, block }),
            Err(err) => failures.push((name, err)),
        }
    }
    let (volumes, unreadable) = discover(&found);
    failures.extend(unreadable);
    Luns { volumes, failures }
}

/// Whole disks below `sysfs`, by their device paths.
fn block_devices(sysfs: &Path) -> Vec<PathBuf> {
    let read = |path: PathBuf| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(sysfs).into_iter().flatten().flatten() {
        let dir = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let empty = read(dir.join("size")).parse::<u64>().unwrap_or(0) == 0;
        let mapped = read(dir.join("dm/uuid"));
        if empty || dir.join("partition").exists() || (!mapped.is_empty() && !mapped.starts_with("mpath-")) {
            continue;
        }
        // A path of a multipath device is read through that device, which survives the loss of the path.
        let holders = std::fs::read_dir(dir.join("holders")).into_iter().flatten().flatten();
        if holders.into_iter().any(|holder| read(holder.path().join("dm/uuid")).starts_with("mpath-")) {
            continue;
        }
        let device =
            if mapped.is_empty() { name.replace('!', "/") } else { format!("mapper/{}", read(dir.join("dm/name"))) };
        found.push(Path::new("/dev").join(device));
    }
    found.sort();
    found
}

/// True for `uuid:…` and `label:…`, which name a volume instead of a device.
pub(crate) fn is_selector(lun: &Path) -> bool {
    lun.to_str().is_some_and(|text| text.starts_with(UUID) || text.starts_with(LABEL))
}

/// The devices of the volume that `selector` names.
pub(super) fn select(selector: &Path) -> Result<Vec<PathBuf>> {
    choose(&selector.to_string_lossy(), &scan())
}

fn choose(selector: &str, luns: &Luns) -> Result<Vec<PathBuf>> {
    let missing = |text: String| Error::new(Kind::NotFound, LAYER, text);
    let fits = |volume: &&Found| match (selector.strip_prefix(UUID), selector.strip_prefix(LABEL)) {
        (Some(uuid), _) => volume.uuid.is_some_and(|own| own.to_string().eq_ignore_ascii_case(uuid)),
        (_, Some(label)) => volume.label == label,
        _ => false,
    };
    let devices = |volume: &Found| {
        let names: Vec<&str> = volume.luns.iter().map(|lun| lun.name.as_str()).collect();
        names.join(", ")
    };
    let matching: Vec<&Found> = luns.volumes.iter().filter(fits).collect();
    let only = match matching.as_slice() {
        [only] => only,
        [] => {
            let unread = luns.failures.len();
            return Err(missing(format!(
                "no VMFS volume {selector} on this host ({unread} devices could not be read)"
            )));
        }
        several => {
            let all: Vec<String> = several.iter().map(|volume| devices(volume)).collect();
            return Err(missing(format!("several VMFS volumes are {selector}: on {}", all.join("; on "))));
        }
    };
    match &only.problem {
        Some(problem) => {
            Err(missing(format!("the VMFS volume {selector} on {} cannot be used: {problem}", devices(only))))
        }
        None => Ok(only.luns.iter().map(|lun| PathBuf::from(&lun.name)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_and_single_paths_are_not_candidates() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for (name, size) in
            [("sda", "100"), ("sda1", "50"), ("sdb", "100"), ("loop0", "0"), ("dm-0", "9"), ("dm-1", "9")]
        {
            put(&format!("{name}/size"), size);
        }
        put("sda1/partition", "1");
        put("sdb/holders/dm-0/dm/uuid", "mpath-36001405");
        put("dm-0/dm/uuid", "mpath-36001405\n");
        put("dm-0/dm/name", "mpatha\n");
        put("dm-1/dm/uuid", "LVM-abc\n");
        assert_eq!(block_devices(dir.path()), [PathBuf::from("/dev/mapper/mpatha"), PathBuf::from("/dev/sda")]);
    }
}
