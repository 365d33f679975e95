//! The `.vmx`: a VM's configuration, of which we need the disks and the identity.
//!
//! Keys and values as observed in files of ESX 3 to 8, GSX, Workstation, Fusion and Player.

use vcb_block::Result;

use crate::text::Dictionary;

const LAYER: &str = "vmx";

/// A parsed configuration.
#[derive(Debug, Clone)]
pub struct Vmx {
    entries: Dictionary,
}

/// A virtual disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VmDisk {
    /// Where it is attached: `scsi0:0`, in lower case.
    pub node: String,
    /// Name of its descriptor as written.
    pub file_name: String,
    /// `deviceType` as written; empty where the file leaves it out.
    pub device_type: String,
    /// `mode` as written: `persistent`, `independent-persistent`, …; empty for the default.
    pub mode: String,
}

impl VmDisk {
    /// True for a disk that snapshots leave out.
    #[must_use]
    pub fn is_independent(&self) -> bool {
        self.mode.to_ascii_lowercase().starts_with("independent")
    }
}

/// Controllers in the order in which VMware lists disks.
const BUSES: [&str; 4] = ["ide", "scsi", "sata", "nvme"];

impl Vmx {
    /// Parses a configuration. Lines that are no assignments are skipped, as VMware does.
    ///
    /// # Errors
    /// An unknown or wrong character set.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Ok(Vmx { entries: Dictionary::parse(LAYER, bytes)? })
    }

    /// The value of `key`, whose case does not matter.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.get(key)
    }

    /// All entries in order, keys as written.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.entries()
    }

    /// `displayName`.
    #[must_use]
    pub fn display_name(&self) -> Option<&str> {
        self.get("displayName").filter(|name| !name.is_empty())
    }

    /// `uuid.bios` as written: `56 4d … -… …`.
    #[must_use]
    pub fn uuid_bios(&self) -> Option<&str> {
        self.get("uuid.bios").filter(|uuid| !uuid.is_empty())
    }

    /// True when the configuration is encrypted, so that its disks are named only in the encrypted part.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        ["encryption.keySafe", "encryption.data"].iter().any(|key| self.get(key).is_some_and(|v| !v.is_empty()))
    }

    /// The disks that are present, by bus, controller and unit. CD-ROMs, floppies and pass-through devices
    /// are left out.
    #[must_use]
    pub fn disks(&self) -> Vec<VmDisk> {
        let mut found: Vec<((usize, u32, u32), VmDisk)> = Vec::new();
        for (key, file) in self.entries() {
            let lower = key.to_ascii_lowercase();
            let Some(node) = lower.strip_suffix(".filename") else { continue };
            let Some(place) = place(node) else { continue };
            if let Some(disk) = self.disk(node, file) {
                found.push((place, disk));
            }
        }
        found.sort_by_key(|(place, _)| *place);
        found.into_iter().map(|(_, disk)| disk).collect()
    }

    fn disk(&self, node: &str, file: &str) -> Option<VmDisk> {
        let value = |name: &str| self.get(&format!("{node}.{name}")).unwrap_or_default();
        let controller = node.split(':').next().unwrap_or_default();
        let no_controller = self.get(&format!("{controller}.present")).is_some_and(|value| !is_true(value));
        if !is_true(value("present")) || no_controller {
            return None;
        }
        let kind = value("deviceType").to_ascii_lowercase();
        let is_disk = match kind.as_str() {
            "" => file.to_ascii_lowercase().ends_with(".vmdk"),
            kind => kind.contains("disk"),
        };
        (is_disk && !file.is_empty()).then(|| VmDisk {
            node: node.to_owned(),
            file_name: file.to_owned(),
            device_type: value("deviceType").to_owned(),
            mode: value("mode").to_owned(),
        })
    }
}

/// Order of a node such as `scsi0:1`, or `None` when it is not one.
fn place(node: &str) -> Option<(usize, u32, u32)> {
    let bus = BUSES.iter().position(|bus| node.starts_with(bus))?;
    let (controller, unit) = node[BUSES[bus].len()..].split_once(':')?;
    Some((bus, controller.parse().ok()?, unit.parse().ok()?))
}

/// Booleans as VMware's parser takes them.
fn is_true(value: &str) -> bool {
    ["true", "yes", "1", "y", "t", "on"].iter().any(|word| value.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_by_controller_and_nothing_else() {
        let vmx = Vmx::parse(
            b"displayName = \"Web 01\"\nSCSI0.present = \"TRUE\"\nscsi0:10.fileName = \"b.vmdk\"\n\
              scsi0:10.present = \"true\"\nscsi0:2.filename = \"a.vmdk\"\nscsi0:2.Present = \"TRUE\"\n\
              scsi0:2.mode = \"independent-persistent\"\nide1:0.present = \"TRUE\"\nide1:0.fileName = \"x.iso\"\n\
              ide1:0.deviceType = \"cdrom-image\"\nscsi1.present = \"FALSE\"\nscsi1:0.present = \"TRUE\"\n\
              scsi1:0.fileName = \"gone.vmdk\"\nscsi0:3.fileName = \"off.vmdk\"\nscsi0:3.present = \"FALSE\"\n\
              nvme0:0.present = \"TRUE\"\nnvme0:0.fileName = \"n.vmdk\"\nnvme0:0.deviceType = \"disk\"\n",
        )
        .unwrap();
        let disks = vmx.disks();
        let names: Vec<_> = disks.iter().map(|d| (d.node.as_str(), d.file_name.as_str())).collect();
        assert_eq!(names, [("scsi0:2", "a.vmdk"), ("scsi0:10", "b.vmdk"), ("nvme0:0", "n.vmdk")]);
        assert!(disks[0].is_independent());
        assert_eq!(vmx.display_name(), Some("Web 01"));
        assert!(!vmx.is_encrypted());
    }
}
