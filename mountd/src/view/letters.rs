//! How the guest's Windows calls its volumes: the values `\DosDevices\X:` and `\??\Volume{…}` of the key
//! `MountedDevices` in its registry hive `SYSTEM`.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use vcb_block::{BlockRef, Error, Kind, Result, bytes};
use vcb_fs::Filesystem;

use super::guid;
use super::hive::Hive;
use super::link::GuestNames;
use crate::vm::{OpenVm, OpenVolume};

const LAYER: &str = "letters";
/// Where Windows keeps the hive.
const HIVE: [&str; 4] = ["Windows", "System32", "config", "SYSTEM"];
/// Largest hive that is looked at. Windows 10's grows to some 30 MB; 2 GiB is the format's end.
const MAX_HIVE: u64 = 512 << 20;

/// What a value of `MountedDevices` says about a volume.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// Disk signature and byte offset of an MBR partition.
    Mbr { signature: u32, start: u64 },
    /// GUID of a GPT partition.
    Gpt([u8; 16]),
}

impl Target {
    /// Twelve bytes for MBR; `DMIO:ID:` and a GUID for GPT; anything else is a removable device (observed).
    fn parse(data: &[u8]) -> Option<Target> {
        if let Some(guid) = data.strip_prefix(b"DMIO:ID:") {
            return guid.try_into().ok().map(Target::Gpt);
        }
        (data.len() == 12).then_some(())?;
        Some(Target::Mbr { signature: bytes::le32(data, 0)?, start: bytes::le64(data, 4)? })
    }

    fn is(&self, volume: &OpenVolume) -> bool {
        match *self {
            Target::Mbr { signature, start } => volume.mbr_signature == Some(signature) && volume.start == start,
            Target::Gpt(guid) => volume.gpt_guid == Some(guid),
        }
    }
}

/// A name of `MountedDevices`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum GuestName {
    Letter(char),
    Guid([u8; 16]),
}

/// Names of a VM's volumes.
#[derive(Default)]
pub(super) struct Letters {
    names: BTreeMap<u32, GuestNames>,
    /// What went wrong in finding them, and on which volume.
    pub(super) errors: Vec<(u32, Error)>,
}

impl Letters {
    /// The names of volume `number`.
    pub(super) fn of(&self, number: u32) -> GuestNames {
        self.names.get(&number).cloned().unwrap_or_default()
    }
}

/// Finds the names of `vm`'s volumes. With several Windows installations the first one counts.
pub(super) fn find(vm: &OpenVm) -> Letters {
    let mut letters = Letters::default();
    for volume in vm.disks.iter().flat_map(|disk| &disk.volumes) {
        let Ok(fs) = &volume.fs else { continue };
        match targets(fs) {
            Ok(targets) => {
                letters.names = assign(vm, targets);
                break;
            }
            Err(err) if err.kind() == Kind::NotFound => {}
            Err(err) => letters.errors.push((volume.number, err)),
        }
    }
    letters
}

/// A volume has at most one letter, the first, and a letter one volume.
fn assign(vm: &OpenVm, mut targets: Vec<(GuestName, Target)>) -> BTreeMap<u32, GuestNames> {
    targets.sort_by_key(|(name, _)| *name);
    let mut names: BTreeMap<u32, GuestNames> = BTreeMap::new();
    for (name, target) in targets {
        let volume = vm.disks.iter().flat_map(|disk| &disk.volumes).find(|volume| target.is(volume));
        let Some(volume) = volume else { continue };
        match name {
            GuestName::Letter(letter) if names.values().all(|names| names.letter != Some(letter)) => {
                names.entry(volume.number).or_default().letter.get_or_insert(letter);
            }
            GuestName::Letter(_) => {}
            GuestName::Guid(guid) => names.entry(volume.number).or_default().guids.push(guid),
        }
    }
    names
}

fn targets(fs: &Arc<dyn Filesystem>) -> Result<Vec<(GuestName, Target)>> {
    let mut id = fs.root();
    for part in HIVE {
        id = fs.child_ignore_case(id, part.as_bytes())?.0.id;
    }
    let file = fs.open(id, None)?;
    if file.len() > MAX_HIVE {
        return Err(Error::new(Kind::Limit, LAYER, format!("a registry hive of {} bytes", file.len())));
    }
    // The cells are parsed by foreign code.
    let read = catch_unwind(AssertUnwindSafe(|| values(&file)));
    let values = read.unwrap_or_else(|_| Err(Error::corrupt(LAYER, "the registry parser panicked")))?;
    Ok(values.iter().filter_map(|(name, data)| Some((name_of(name)?, Target::parse(data)?))).collect())
}

fn values(file: &BlockRef) -> Result<Vec<(String, Vec<u8>)>> {
    // A hive without the key belongs to an installation that never saw a volume.
    Hive::open(file)?.values("MountedDevices")
}

fn name_of(name: &str) -> Option<GuestName> {
    if let Some(text) = name.strip_prefix("\\??\\Volume") {
        return guid::parse(text).map(GuestName::Guid);
    }
    let rest = name.strip_prefix("\\DosDevices\\")?.strip_suffix(':')?;
    let mut chars = rest.chars();
    let letter = chars.next()?.to_ascii_uppercase();
    (chars.next().is_none() && letter.is_ascii_uppercase()).then_some(GuestName::Letter(letter))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{FakeFs, hive, vm_of};
    use super::*;

    #[test]
    fn letters_follow_mbr_and_gpt_entries_and_ignore_the_rest() {
        let mbr = [0x78, 0x56, 0x34, 0x12, 0, 0, 0x10, 0, 0, 0, 0, 0].to_vec();
        let gpt = [b"DMIO:ID:".as_slice(), &[7; 16]].concat();
        let bytes = hive(&[
            ("\\DosDevices\\E:", gpt.clone()),
            ("\\DosDevices\\c:", mbr),
            ("\\DosDevices\\D:", gpt.clone()),
            ("\\DosDevices\\F:", vec![9; 12]),
            ("\\DosDevices\\G:", b"\\??\\STORAGE#Removable".to_vec()),
            ("\\??\\Volume{c12a7328-f81f-11d2-ba4b-00a0c93ec93b}", gpt.clone()),
        ]);
        let mut fs = FakeFs::new();
        fs.file("windows/system32/CONFIG/system", bytes);
        let mut vm = vm_of(vec![Ok(fs.arc()), Ok(FakeFs::new().arc())]);
        vm.disks[0].volumes[0].mbr_signature = Some(0x1234_5678);
        vm.disks[0].volumes[0].start = 0x10_0000;
        vm.disks[0].volumes[1].gpt_guid = Some([7; 16]);
        let letters = find(&vm);
        assert_eq!(letters.of(1), GuestNames { letter: Some('C'), guids: vec![] });
        assert_eq!((letters.of(2).letter, letters.of(2).guids.len()), (Some('D'), 1));
        assert!(letters.errors.is_empty());
    }

    #[test]
    fn a_damaged_hive_leaves_no_letters_and_says_so() {
        let mut fs = FakeFs::new();
        fs.file("Windows/System32/config/SYSTEM", vec![0; 9000]);
        let letters = find(&vm_of(vec![Ok(fs.arc())]));
        assert!(letters.names.is_empty());
        assert_eq!(letters.errors[0].1.kind(), Kind::Corrupt);
    }
}
