//! Finding VMFS volumes among block devices.

use vcb_block::{BlockRef, Result};

use super::geometry::{Geometry, Version};
use super::lvm::LvmHeader;
use super::uuid::Uuid;
use crate::volume::{self, Content};

/// Where VMFS is on a device.
pub(super) enum Place {
    /// A device of a logical volume: its partition and header.
    Lvm(BlockRef, LvmHeader),
    /// A logical volume as such, without LVM.
    Bare(BlockRef),
    None,
}

/// Looks for VMFS on `device`: at its start, else in the partitions of its table.
pub(super) fn place(device: &BlockRef) -> Result<Place> {
    match at_start(device)? {
        Place::None => {}
        found => return Ok(found),
    }
    for partition in volume::scan(device)?.volumes {
        if partition.content == Content::Vmfs {
            match at_start(&partition.block)? {
                Place::None => {}
                found => return Ok(found),
            }
        }
    }
    Ok(Place::None)
}

fn at_start(device: &BlockRef) -> Result<Place> {
    if let Some(header) = LvmHeader::read(device)? {
        return Ok(Place::Lvm(device.clone(), header));
    }
    Ok(if Geometry::present(device)? { Place::Bare(device.clone()) } else { Place::None })
}

/// A device that may hold VMFS.
pub struct Candidate {
    /// Its path, for messages and for naming it in a configuration.
    pub name: String,
    /// Its bytes.
    pub block: BlockRef,
}

/// What a device holds of a VMFS volume.
#[derive(Debug, Clone)]
pub struct Lun {
    /// The candidate's name.
    pub name: String,
    /// The LVM header, when there is one.
    pub header: Option<LvmHeader>,
}

/// A volume among the candidates.
#[derive(Debug, Clone)]
pub struct Found {
    /// UUID of the file system; `None` while its first device is missing or unreadable.
    pub uuid: Option<Uuid>,
    /// Its label.
    pub label: String,
    /// Generation of the format.
    pub version: Option<Version>,
    /// Its devices, in the order of the volume. With `clones` these are candidates for the same place.
    pub luns: Vec<Lun>,
    /// Why it cannot be opened as it is: a missing device, or several devices that claim the same part.
    pub problem: Option<String>,
}

/// Looks at one device. `None` when it holds no VMFS.
///
/// # Errors
/// Those of the device, and of headers that cannot be believed.
pub fn probe(candidate: &Candidate) -> Result<Option<Lun>> {
    Ok(match place(&candidate.block)? {
        Place::Lvm(_, header) => Some(Lun { name: candidate.name.clone(), header: Some(header) }),
        Place::Bare(_) => Some(Lun { name: candidate.name.clone(), header: None }),
        Place::None => None,
    })
}

/// Groups the candidates that hold VMFS into volumes. Two devices that claim the same part of a volume (a
/// clone or array snapshot that kept its signature, or two paths to one LUN) make it unusable until the right
/// one is named: which of them is current cannot be told from their bytes. Candidates that cannot be read
/// are given back with their errors.
#[must_use]
pub fn discover(candidates: &[Candidate]) -> (Vec<Found>, Vec<(String, vcb_block::Error)>) {
    let (mut groups, mut failures): (Vec<Vec<(BlockRef, Lun)>>, Vec<_>) = (Vec::new(), Vec::new());
    for candidate in candidates {
        let (block, lun) = match place(&candidate.block) {
            Ok(Place::Lvm(block, header)) => (block, Lun { name: candidate.name.clone(), header: Some(header) }),
            Ok(Place::Bare(block)) => (block, Lun { name: candidate.name.clone(), header: None }),
            Ok(Place::None) => continue,
            Err(err) => {
                failures.push((candidate.name.clone(), err));
                continue;
            }
        };
        let key = |lun: &Lun| lun.header.as_ref().map(|header| (header.volume, header.snapshot));
        let group = groups.iter_mut().find(|group| key(&lun).is_some() && key(&group[0].1) == key(&lun));
        match group {
            Some(group) => group.push((block, lun)),
            None => groups.push(vec![(block, lun)]),
        }
    }
    (groups.into_iter().map(found).collect(), failures)
}

fn found(mut group: Vec<(BlockRef, Lun)>) -> Found {
    let first_unit = |lun: &Lun| lun.header.as_ref().map_or(0, |header| header.units.0);
    group.sort_by_key(|(_, lun)| first_unit(lun));
    let mut found = Found {
        uuid: None,
        label: String::new(),
        version: None,
        luns: group.iter().map(|(_, lun)| lun.clone()).collect(),
        problem: None,
    };
    let wanted = found.luns[0].header.as_ref().map_or(1, |header| header.devices as usize);
    let twice = found.luns.windows(2).find(|pair| first_unit(&pair[0]) == first_unit(&pair[1]));
    if let Some([one, other]) = twice {
        found.problem = Some(format!(
            "'{}' and '{}' both claim the same part: a clone with the same signature or two paths to one LUN; \
             name the right one",
            one.name, other.name
        ));
    } else if found.luns.len() != wanted {
        found.problem = Some(format!("{} of its {wanted} devices are here", found.luns.len()));
    }
    match describe(&group[0]) {
        Ok(Some(geometry)) => {
            found.uuid = Some(geometry.uuid);
            found.label = String::from_utf8_lossy(&geometry.label).into_owned();
            found.version = Some(geometry.version);
        }
        Ok(None) => {}
        Err(err) => {
            found.problem.get_or_insert_with(|| err.report());
        }
    }
    found
}

/// The file system descriptor: it lies in the first part of the volume, which one device holds alone.
fn describe((block, lun): &(BlockRef, Lun)) -> Result<Option<Geometry>> {
    match &lun.header {
        None => Geometry::read(block).map(Some),
        Some(header) => match header.head(block)? {
            Some(head) => Geometry::read(&head).map(Some),
            None => Ok(None),
        },
    }
}
