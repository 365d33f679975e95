//! The part of `doctor` that looks for VMFS volumes on the block devices of this host.

use serde_json::json;
use vcb_block::Kind;
use vcb_fs::vmfs::Found;
use vcb_mountd::config::DatastoreConfig;
use vcb_mountd::datastore::luns::{self, Luns};

use super::doctor::Check;
use crate::output::human_size;

/// One check for each volume, and one for the devices that cannot be read.
pub fn checks(configs: &[DatastoreConfig]) -> Vec<Check> {
    let Luns { volumes, failures } = luns::scan();
    let mut checks: Vec<Check> = volumes.iter().map(|volume| check(volume, configs)).collect();
    if checks.is_empty() && failures.is_empty() {
        checks.push(Check::good("no VMFS volume on the block devices of this host"));
    }
    if let Some((device, err)) = failures.first() {
        let found = format!("{} block devices cannot be read, the first: {device}: {}", failures.len(), err.report());
        let advice = if err.kind() == Kind::Denied { crate::sys::READ_DEVICES } else { crate::sys::LOOK_AT_DEVICE };
        checks.push(Check::limited(found, advice));
    }
    checks
}

fn check(volume: &Found, configs: &[DatastoreConfig]) -> Check {
    let config = luns::configured(volume, configs);
    let devices: Vec<&str> = volume.luns.iter().map(|lun| lun.name.as_str()).collect();
    let version = volume.version.map(|version| version.to_string());
    let uuid = volume.uuid.map(|uuid| uuid.to_string());
    let size = volume.luns.iter().find_map(|lun| lun.header.as_ref().map(|header| header.volume_len));
    let found = format!(
        "VMFS volume '{}' ({}, {}, {}) on {}{}",
        volume.label,
        version.as_deref().unwrap_or("unknown version"),
        uuid.as_deref().unwrap_or("unknown UUID"),
        size.map_or_else(|| "unknown size".to_owned(), human_size),
        devices.join(", "),
        config.map(|config| format!(", configured as datastore {}", config.name)).unwrap_or_default()
    );
    let data = json!({
        "label": volume.label,
        "uuid": uuid,
        "version": version,
        "size": size,
        "devices": devices,
        "datastore": config.map(|config| &config.name),
        "problem": volume.problem,
    });
    let check = match (&volume.problem, config) {
        (Some(problem), _) => Check::limited(
            format!("{found}: {problem}"),
            "Name the devices of the right one in [[datastore]] lun, or make the missing ones visible.",
        ),
        (None, Some(_)) => Check::good(found),
        (None, None) => {
            let selector = uuid.map_or_else(|| format!("label:{}", volume.label), |uuid| format!("uuid:{uuid}"));
            Check::limited(
                format!("{found}, not configured"),
                format!("To read it, configure a [[datastore]] with lun = [\"{selector}\"]."),
            )
        }
    };
    check.about(data)
}
