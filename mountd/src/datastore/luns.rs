//! The block devices of this host that may hold VMFS.

use std::path::{Path, PathBuf};

use vcb_block::{Error, Kind, Result};
use vcb_fs::vmfs::{Candidate, Found, discover};

use super::vmfs::open_lun;
use crate::sys;

const LAYER: &str = "datastore";
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
    for path in sys::block_devices() {
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
