//! The block devices of this host that may hold VMFS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vcb_block::{BlockRef, DeviceSource, Error, Kind, Result};
use vcb_fs::vmfs::{Candidate, Found, discover};

use crate::config::DatastoreConfig;
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
        // Without retries: a dead device among many must not hold up the search.
        match DeviceSource::open(&path) {
            Ok(device) => found.push(Candidate { name, block: Arc::new(device) as BlockRef }),
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

/// The datastore of `configs` that is on `volume`, when one is: it names one of its devices, or the volume.
#[must_use]
pub fn configured<'a>(volume: &Found, configs: &'a [DatastoreConfig]) -> Option<&'a DatastoreConfig> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let devices: Vec<PathBuf> = volume.luns.iter().map(|lun| real(Path::new(&lun.name))).collect();
    configs.iter().find(|config| match config.lun.as_slice() {
        [only] if is_selector(only) => fits(&only.to_string_lossy(), volume),
        luns => luns.iter().any(|lun| devices.contains(&real(lun))),
    })
}

/// True when `volume` is the one that a selector names.
fn fits(selector: &str, volume: &Found) -> bool {
    match (selector.strip_prefix(UUID), selector.strip_prefix(LABEL)) {
        (Some(uuid), _) => volume.uuid.is_some_and(|own| own.to_string().eq_ignore_ascii_case(uuid)),
        (_, Some(label)) => volume.label == label,
        _ => false,
    }
}

/// The devices of the volume that `selector` names.
pub(super) fn select(selector: &Path) -> Result<Vec<PathBuf>> {
    choose(&selector.to_string_lossy(), &scan())
}

fn choose(selector: &str, luns: &Luns) -> Result<Vec<PathBuf>> {
    let missing = |text: String| Error::new(Kind::NotFound, LAYER, text);
    let devices = |volume: &Found| {
        let names: Vec<&str> = volume.luns.iter().map(|lun| lun.name.as_str()).collect();
        names.join(", ")
    };
    let matching: Vec<&Found> = luns.volumes.iter().filter(|volume| fits(selector, volume)).collect();
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
