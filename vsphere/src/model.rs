//! What the API tells about VMs, disks, snapshots and datastores, as far as a backup needs it.

use std::fmt;

use crate::error::{Error, Result};
use crate::property::Object;
use crate::xml::Node;

/// A managed object reference: the server's name of a thing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moref {
    /// `VirtualMachine`, `VirtualMachineSnapshot`, …
    pub kind: String,
    /// `vm-42`, `snapshot-7`, …
    pub value: String,
}

impl Moref {
    /// Of its two parts.
    #[must_use]
    pub fn new(kind: impl Into<String>, value: impl Into<String>) -> Self {
        Moref { kind: kind.into(), value: value.into() }
    }
}

impl fmt::Display for Moref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

/// Whether a VM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerState {
    /// It runs.
    On,
    /// It is off.
    Off,
    /// It is suspended.
    Suspended,
}

/// What VMware Tools report from inside the guest.
#[derive(Debug, Clone, Default)]
pub struct Guest {
    /// Tools are running.
    pub tools_running: bool,
    /// `windowsGuest`, `linuxGuest`, …
    pub family: Option<String>,
    /// DNS name.
    pub host_name: Option<String>,
    /// All addresses, the primary one first.
    pub addresses: Vec<String>,
}

/// A VM.
#[derive(Debug, Clone)]
pub struct VirtualMachine {
    /// The server's name of it.
    pub moref: Moref,
    /// Display name.
    pub name: String,
    /// BIOS UUID.
    pub bios_uuid: Option<String>,
    /// Instance UUID, unique within a vCenter.
    pub instance_uuid: Option<String>,
    /// `[datastore] folder/name.vmx`.
    pub vmx_path: Option<String>,
    /// Whether it runs.
    pub power: PowerState,
    /// A template: cannot be snapshotted.
    pub template: bool,
    /// Has a fault tolerance role: cannot be snapshotted.
    pub fault_tolerant: bool,
    /// Its configuration is encrypted.
    pub encrypted: bool,
    /// Disks of removed snapshots were left behind.
    pub consolidation_needed: bool,
    /// Changed block tracking is on.
    pub change_tracking: bool,
    /// The guest's side.
    pub guest: Guest,
    /// Host it is on.
    pub host: Option<Moref>,
    /// Datastores it uses.
    pub datastores: Vec<Moref>,
    /// Disks as they are now, in controller order.
    pub disks: Vec<Disk>,
    /// Snapshots, parents before children.
    pub snapshots: Vec<Snapshot>,
    /// The snapshot the VM runs on.
    pub current_snapshot: Option<Moref>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The server's name of it.
    pub moref: Moref,
    /// Display name; need not be unique.
    pub name: String,
    /// Free text.
    pub description: String,
    /// When it was made, as the server writes it.
    pub created: String,
    /// The guest's filesystems were quiesced.
    pub quiesced: bool,
    /// The snapshot under it.
    pub parent: Option<Moref>,
}

/// What a disk consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Files of the VMDK family.
    File,
    /// A mapping of a whole LUN, through which snapshots work.
    VirtualRdm,
    /// A mapping of a whole LUN that bypasses snapshots.
    PhysicalRdm,
    /// Something this crate does not know.
    Unknown,
}

/// A virtual disk of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Device key, stable for the disk's life.
    pub key: i32,
    /// `Hard disk 1`.
    pub label: String,
    /// Where it is attached: `scsi0:0`.
    pub node: String,
    /// Bytes.
    pub capacity: u64,
    /// What it consists of.
    pub backing: Backing,
    /// `[datastore] folder/name.vmdk`.
    pub file_name: String,
    /// Its parents' file names, nearest first.
    pub parents: Vec<String>,
    /// `persistent`, `independent_persistent`, …
    pub mode: String,
    /// Where changes are counted from, when they are tracked.
    pub change_id: Option<String>,
    /// UUID of the disk.
    pub uuid: Option<String>,
    /// Encrypted with a key of a key server.
    pub encrypted: bool,
}

impl Disk {
    /// Left out of snapshots, so that its state cannot be frozen.
    #[must_use]
    pub fn is_independent(&self) -> bool {
        self.mode.starts_with("independent")
    }
}

/// How a datastore is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatastoreKind {
    /// VMFS on LUNs.
    Vmfs {
        /// UUID of the filesystem.
        uuid: String,
        /// Canonical names of the LUNs (`naa.…`), in extent order.
        extents: Vec<String>,
    },
    /// An NFS share.
    Nas {
        /// Server.
        host: String,
        /// Exported path.
        path: String,
    },
    /// vSAN, vVols, a local folder, …
    Other(String),
}

/// A datastore.
#[derive(Debug, Clone)]
pub struct Datastore {
    /// The server's name of it.
    pub moref: Moref,
    /// The name between the brackets of `[name] path`.
    pub name: String,
    /// `ds:///vmfs/volumes/…/`.
    pub url: String,
    /// Bytes.
    pub capacity: u64,
    /// Bytes.
    pub free: u64,
    /// Whether it can be reached.
    pub accessible: bool,
    /// How it is stored.
    pub kind: DatastoreKind,
}

/// Splits `[datastore] folder/file` into its two parts. The path is refused when it is absolute, empty or
/// has a part that is `..` or `.`, so that it can be joined to a folder.
///
/// # Errors
/// [`Error::Setting`] naming the text.
pub fn parse_datastore_path(text: &str) -> Result<(&str, &str)> {
    let bad = || Error::Setting(format!("'{text}' is not of the form '[datastore] folder/file'"));
    let (name, path) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).ok_or_else(bad)?;
    let path = path.strip_prefix(' ').unwrap_or(path);
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\0', '\\']);
    if name.is_empty() || name.contains(['/', '\0']) || !path.split('/').all(plain) {
        return Err(bad());
    }
    Ok((name, path))
}

pub(crate) const VM_PROPERTIES: &[&str] = &[
    "name",
    "config.uuid",
    "config.instanceUuid",
    "config.template",
    "config.files.vmPathName",
    "config.ftInfo",
    "config.keyId",
    "config.changeTrackingEnabled",
    "config.hardware.device",
    "runtime.powerState",
    "runtime.host",
    "runtime.consolidationNeeded",
    "guest.toolsRunningStatus",
    "guest.guestFamily",
    "guest.hostName",
    "guest.ipAddress",
    "guest.net",
    "datastore",
    "snapshot",
];

impl VirtualMachine {
    pub(crate) fn read(object: &Object) -> Result<Self> {
        let flag = |path: &str| object.get(path).is_some_and(|node| crate::xml::is_true(node.text.trim()));
        let mut addresses: Vec<String> = object.text("guest.ipAddress").into_iter().collect();
        for network in object.get("guest.net").map(|net| &net.children).into_iter().flatten() {
            for address in network.all("ipAddress").map(|node| node.text.trim()) {
                if !address.is_empty() && !addresses.iter().any(|known| known == address) {
                    addresses.push(address.to_owned());
                }
            }
        }
        let mut snapshots = Vec::new();
        if let Some(info) = object.get("snapshot") {
            collect_snapshots(info, "rootSnapshotList", None, &mut snapshots);
        }
        Ok(VirtualMachine {
            moref: object.object.clone(),
            name: unescape_name(&object.need("name")?.text),
            bios_uuid: object.text("config.uuid"),
            instance_uuid: object.text("config.instanceUuid"),
            vmx_path: object.text("config.files.vmPathName"),
            power: match object.text("runtime.powerState").as_deref() {
                Some("poweredOn") => PowerState::On,
                Some("suspended") => PowerState::Suspended,
                _ => PowerState::Off,
            },
            template: flag("config.template"),
            fault_tolerant: object.get("config.ftInfo").is_some(),
            encrypted: object.get("config.keyId").is_some(),
            consolidation_needed: flag("runtime.consolidationNeeded"),
            change_tracking: flag("config.changeTrackingEnabled"),
            guest: Guest {
                tools_running: object.text("guest.toolsRunningStatus").as_deref() == Some("guestToolsRunning"),
                family: object.text("guest.guestFamily"),
                host_name: object.text("guest.hostName"),
                addresses,
            },
            host: object.get("runtime.host").and_then(Node::moref),
            datastores: object.get("datastore").map(morefs).unwrap_or_default(),
            disks: object.get("config.hardware.device").map(|node| read_disks(&node.children)).unwrap_or_default(),
            current_snapshot: object.get("snapshot").and_then(|info| info.child("currentSnapshot")?.moref()),
            snapshots,
        })
    }
}

/// Inventory names have `%`, `/` and `\` escaped as in an URL.
pub(crate) fn unescape_name(name: &str) -> String {
    name.replace("%2f", "/").replace("%2F", "/").replace("%5c", "\\").replace("%5C", "\\").replace("%25", "%")
}

fn morefs(node: &Node) -> Vec<Moref> {
    node.children.iter().filter_map(Node::moref).collect()
}

fn collect_snapshots(node: &Node, list: &str, parent: Option<&Moref>, out: &mut Vec<Snapshot>) {
    // The depth is bounded by the parser.
    for entry in node.all(list) {
        let Some(moref) = entry.child("snapshot").and_then(Node::moref) else { continue };
        out.push(Snapshot {
            moref: moref.clone(),
            name: unescape_name(entry.text_of("name").unwrap_or_default()),
            description: entry.text_of("description").unwrap_or_default().to_owned(),
            created: entry.text_of("createTime").unwrap_or_default().to_owned(),
            quiesced: entry.boolean("quiesced").unwrap_or(false),
            parent: parent.cloned(),
        });
        collect_snapshots(entry, "childSnapshotList", Some(&moref), out);
    }
}

/// Reads the disks of a device list, in controller order.
pub(crate) fn read_disks(devices: &[Node]) -> Vec<Disk> {
    let mut disks: Vec<(&str, u32, u32, Disk)> = Vec::new();
    for device in devices.iter().filter(|device| device.xsi_type.as_deref() == Some("VirtualDisk")) {
        let controller: Option<i32> = device.number("controllerKey");
        let unit: u32 = device.number("unitNumber").unwrap_or(0);
        let (bus_name, bus) = devices
            .iter()
            .find(|other| controller.is_some() && other.number("key") == controller)
            .map_or(("disk", 0), |other| {
                (controller_name(other.xsi_type.as_deref()), other.number("busNumber").unwrap_or(0))
            });
        let backing = device.child("backing");
        let field = |name: &str| backing.and_then(|backing| backing.string(name));
        let kilobytes = || device.number::<u64>("capacityInKB").unwrap_or(0).saturating_mul(1024);
        disks.push((
            bus_name,
            bus,
            unit,
            Disk {
                key: device.number("key").unwrap_or(0),
                label: device.path(&["deviceInfo", "label"]).map(|node| node.text.clone()).unwrap_or_default(),
                node: format!("{bus_name}{bus}:{unit}"),
                capacity: device.number("capacityInBytes").unwrap_or_else(kilobytes),
                backing: backing.map_or(Backing::Unknown, backing_kind),
                file_name: field("fileName").unwrap_or_default(),
                parents: backing.map(parents).unwrap_or_default(),
                mode: field("diskMode").unwrap_or_else(|| "persistent".to_owned()),
                change_id: field("changeId"),
                uuid: field("uuid"),
                encrypted: backing.is_some_and(|backing| backing.child("keyId").is_some()),
            },
        ));
    }
    disks.sort_by_key(|disk| (order(disk.0), disk.1, disk.2));
    disks.into_iter().map(|(.., disk)| disk).collect()
}

fn order(bus: &str) -> u8 {
    match bus {
        "ide" => 0,
        "scsi" => 1,
        "sata" => 2,
        "nvme" => 3,
        _ => 4,
    }
}

fn controller_name(kind: Option<&str>) -> &'static str {
    match kind.unwrap_or_default() {
        "VirtualIDEController" => "ide",
        "VirtualAHCIController" | "VirtualSATAController" => "sata",
        "VirtualNVMEController" => "nvme",
        // ParaVirtualSCSIController, VirtualLsiLogicController, VirtualBusLogicController, …
        _ => "scsi",
    }
}

fn backing_kind(backing: &Node) -> Backing {
    match backing.xsi_type.as_deref().unwrap_or_default() {
        "VirtualDiskFlatVer1BackingInfo"
        | "VirtualDiskFlatVer2BackingInfo"
        | "VirtualDiskSparseVer1BackingInfo"
        | "VirtualDiskSparseVer2BackingInfo"
        | "VirtualDiskSeSparseBackingInfo" => Backing::File,
        "VirtualDiskRawDiskMappingVer1BackingInfo" if backing.text_of("compatibilityMode") == Some("virtualMode") => {
            Backing::VirtualRdm
        }
        "VirtualDiskRawDiskMappingVer1BackingInfo" | "VirtualDiskRawDiskVer2BackingInfo" => Backing::PhysicalRdm,
        _ => Backing::Unknown,
    }
}

fn parents(backing: &Node) -> Vec<String> {
    let mut out = Vec::new();
    let mut next = backing.child("parent");
    while let Some(parent) = next {
        out.extend(parent.string("fileName"));
        next = parent.child("parent");
    }
    out
}

impl Datastore {
    pub(crate) fn read(object: &Object) -> Result<Self> {
        let summary = object.need("summary")?;
        let info = object.get("info");
        let kind = match info.and_then(|info| info.xsi_type.as_deref()) {
            Some("VmfsDatastoreInfo") => {
                let vmfs = info.and_then(|info| info.child("vmfs"));
                DatastoreKind::Vmfs {
                    uuid: vmfs.and_then(|vmfs| vmfs.string("uuid")).unwrap_or_default(),
                    extents: vmfs
                        .map(|vmfs| vmfs.all("extent").filter_map(|extent| extent.string("diskName")).collect())
                        .unwrap_or_default(),
                }
            }
            Some("NasDatastoreInfo") => {
                let nas = info.and_then(|info| info.child("nas"));
                let field = |name| nas.and_then(|nas| nas.string(name)).unwrap_or_default();
                DatastoreKind::Nas { host: field("remoteHost"), path: field("remotePath") }
            }
            _ => DatastoreKind::Other(summary.string("type").unwrap_or_default()),
        };
        Ok(Datastore {
            moref: object.object.clone(),
            name: unescape_name(summary.text_of("name").unwrap_or_default()),
            url: summary.string("url").unwrap_or_default(),
            capacity: summary.number("capacity").unwrap_or(0),
            free: summary.number("freeSpace").unwrap_or(0),
            accessible: summary.boolean("accessible").unwrap_or(true),
            kind,
        })
    }
}
