//! What to mount, as data: everything a background process needs to open a VM again.
//!
//! A plan holds names and choices, no open files and no secrets, so that it can be printed, kept in a
//! session file and handed to another process.

mod ground;
mod make;
mod open;
mod ova;

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vcb_vmdk::{FolderResolver, Resolver};

use crate::config::{Config, DatastoreConfig, VCenter};
use crate::datastore::{Datastore, Datastores};
use crate::failure::{Failure, Outcome};
use crate::spec::Place;

pub(crate) use ground::read_text;
pub use make::{Choice, identify, snapshots};
pub use open::{PlannedDisk, open_filesystem};

/// A VM at one frozen point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Which VM it is.
    pub vm: VmIdentity,
    /// Where the names below lead to.
    pub source: Source,
    /// Small files that a `fullvm` mount shows beside the disks, as names within the source: .vmx first.
    pub files: Vec<String>,
    /// Disks, in controller order.
    pub disks: Vec<DiskPlan>,
    /// How they are read.
    pub options: ReadOptions,
}

impl MountPlan {
    /// The server through which files are read, when that is a way of this plan.
    #[must_use]
    pub fn server(&self) -> Option<&VCenter> {
        let Source::Datastores(stores) = &self.source else { return None };
        stores.iter().find_map(|store| store.server.as_ref()).map(|store| &store.server)
    }
}

/// Which VM it is, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VmIdentity {
    /// Display name.
    pub name: String,
    /// BIOS UUID in its usual form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Managed object id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moref: Option<String>,
}

/// Where file names lead to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Names are relative to a folder of this host.
    Folder(PathBuf),
    /// Names are `[datastore] folder/file` in these datastores.
    Datastores(Vec<DatastoreConfig>),
    /// Names are members of an OVA, which is read as it is.
    Ova(PathBuf),
}

/// A disk at the chosen point of its chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskPlan {
    /// Where it is attached, `scsi0:0`; empty when a disk was given without a VM.
    pub node: String,
    /// Name within the source of the VMDK to read: the leaf, or the snapshot's frozen disk.
    pub file: String,
}

/// How disks and volumes are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadOptions {
    /// Read disks whose own journal says that they were not closed.
    pub allow_dirty: bool,
    /// Read chains whose content ids disagree.
    pub ignore_cid: bool,
    /// Apply the log of NTFS volumes that were not closed.
    pub replay: bool,
    /// Show NTFS's own files.
    pub metafiles: bool,
    /// Memory for disk metadata, in bytes.
    pub cache_bytes: u64,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions::from_config(&Config::default())
    }
}

impl ReadOptions {
    /// What the configuration says.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        ReadOptions {
            allow_dirty: false,
            ignore_cid: false,
            replay: config.mount.replay,
            metafiles: config.mount.metafiles,
            cache_bytes: config.mount.cache_mib << 20,
        }
    }
}

impl Source {
    /// The place that a name within the source stands for.
    ///
    /// # Errors
    /// When the name is none of this source.
    pub fn place(&self, name: &str) -> Outcome<Place> {
        match self {
            Source::Folder(folder) => Ok(Place::Host(folder.join(name))),
            Source::Datastores(_) => Ok(Place::Datastore(name.parse()?)),
            Source::Ova(file) => Ok(Place::Host(file.clone())),
        }
    }

    /// Opens the resolver for the names.
    ///
    /// # Errors
    /// When the folder, a datastore or the OVA cannot be opened.
    pub fn resolver(&self) -> Outcome<Arc<dyn Resolver>> {
        match self {
            Source::Folder(folder) => {
                let failed = |err| Failure::reading(format!("cannot open the folder {}", folder.display()), err);
                Ok(FolderResolver::new(folder).map_err(failed)?)
            }
            Source::Datastores(configs) => {
                let stores: Outcome<Vec<Arc<dyn Datastore>>> = configs.iter().map(Datastores::open_one).collect();
                Ok(Arc::new(Datastores::new(stores?)))
            }
            Source::Ova(file) => Ok(ova::open(file)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_json() {
        let plan = MountPlan {
            vm: VmIdentity { name: "web \"01\"\n".into(), uuid: None, moref: Some("vm-1".into()) },
            source: Source::Datastores(vec![DatastoreConfig {
                name: "a".into(),
                path: None,
                lun: vec!["/dev/x".into()],
                raw_devices: [("naa.6000".to_owned(), "/dev/y".into())].into(),
                server: None,
            }]),
            files: vec!["[a] web/web.vmx".into()],
            disks: vec![DiskPlan { node: "scsi0:0".into(), file: "[a] web/web-000001.vmdk".into() }],
            options: ReadOptions::default(),
        };
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<MountPlan>(&text).unwrap(), plan);
    }
}
