//! From `[datastore] folder/file`, as the server writes it, to where this host can read it.
//!
//! Each datastore that the frozen disks lie on is matched with a configured one: by name, by the UUID of the
//! VMFS volume, or by the NFS share that is mounted here. The configured order of transports is gone through
//! until one of them gives out the disks' descriptors, so that a LUN that is not there, or a share that is not
//! mounted, leads to the next. HTTPS needs no configured datastore.

use std::collections::BTreeMap;
use std::path::Path;

use vcb_vsphere::{Client, Datastore as ServerDatastore, DatastoreKind, Disk, VirtualMachine, parse_datastore_path};

use super::connect::server_failure;
use crate::config::{Config, DatastoreConfig, ServerStore, Transport, VCenter};
use crate::datastore::{Datastores, join, parent};
use crate::failure::{Code, Failure, Outcome};
use crate::plan::{DiskPlan, MountPlan, ReadOptions, Source, VmIdentity};

/// Small files of a VM that a `fullvm` mount shows, by extension. The .vmx comes first.
const SMALL_FILES: [&str; 3] = ["nvram", "vmsd", "vmxf"];

/// Plans reading the frozen `disks` of `vm`.
///
/// # Errors
/// [`Code::DatastoreNotFound`] naming each datastore that cannot be reached, and what was tried.
pub fn plan(
    client: &Client,
    vm: &VirtualMachine,
    disks: &[Disk],
    config: &Config,
    server: &VCenter,
    options: &ReadOptions,
) -> Outcome<MountPlan> {
    let known = client
        .datastores_of(vm)
        .map_err(|err| server_failure(format!("cannot look up the datastores of {}", vm.name), err))?;
    let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in disks.iter().flat_map(|disk| std::iter::once(&disk.file_name).chain(&disk.parents)) {
        let (name, path) = split(file)?;
        wanted.entry(name).or_default().push(path);
    }
    if let Some(vmx) = &vm.vmx_path {
        wanted.entry(split(vmx)?.0).or_default();
    }
    let mut stores: BTreeMap<&str, DatastoreConfig> = BTreeMap::new();
    for (name, files) in wanted {
        let known = known.iter().find(|store| store.name == name);
        let way = Way { client, vm, name, known, files: &files, config, server };
        stores.insert(name, way.find()?);
    }
    let stores: Vec<DatastoreConfig> = stores.into_values().collect();
    Ok(MountPlan {
        vm: VmIdentity {
            name: vm.name.clone(),
            uuid: vm.bios_uuid.as_deref().and_then(crate::spec::uuid_text),
            moref: Some(vm.moref.value.clone()),
        },
        files: small_files(vm, &stores),
        source: Source::Datastores(stores),
        disks: disks.iter().map(|disk| DiskPlan { node: disk.node.clone(), file: disk.file_name.clone() }).collect(),
        options: options.clone(),
    })
}

fn split(file: &str) -> Outcome<(&str, &str)> {
    parse_datastore_path(file).map_err(|err| server_failure("the server names a disk", err))
}

/// The search for a way to one datastore.
struct Way<'a> {
    client: &'a Client,
    vm: &'a VirtualMachine,
    /// The server's name of it.
    name: &'a str,
    /// What the server knows of it.
    known: Option<&'a ServerDatastore>,
    /// Descriptors on it that must be readable.
    files: &'a [&'a str],
    config: &'a Config,
    server: &'a VCenter,
}

impl Way<'_> {
    fn find(&self) -> Outcome<DatastoreConfig> {
        let mut tried = Vec::new();
        for transport in &self.server.transports {
            let (word, found) = match transport {
                Transport::San => ("san", self.luns(&mut tried)),
                Transport::File => ("file", self.folders()),
                Transport::Https => ("https", self.server()?),
            };
            if found.is_empty() {
                tried.push(format!("{word}: no [[datastore]] is this one"));
            }
            for store in found {
                match self.probe(&store) {
                    Ok(()) => {
                        tracing::info!(datastore = self.name, transport = word, "is read");
                        return Ok(store);
                    }
                    Err(why) => {
                        tracing::warn!(datastore = self.name, transport = word, "cannot be read: {why}");
                        tried.push(format!("{word}: {why}"));
                    }
                }
            }
        }
        let what = format!("the datastore '{}' of {} cannot be read from here", self.name, self.vm.name);
        Err(Failure::new(Code::DatastoreNotFound, what).because(tried.join("; ")))
    }

    /// `store` under the server's name, which is the one in the paths.
    fn renamed(&self, store: &DatastoreConfig) -> DatastoreConfig {
        DatastoreConfig { name: self.name.to_owned(), ..store.clone() }
    }

    /// The configured LUNs that hold the volume. The server's UUID decides where it tells one: names change, and
    /// two datacenters may use the same.
    fn luns(&self, tried: &mut Vec<String>) -> Vec<DatastoreConfig> {
        let uuid = match self.known.map(|known| &known.kind) {
            Some(DatastoreKind::Vmfs { uuid, .. }) if !uuid.is_empty() => Some(uuid),
            _ => None,
        };
        let mut found = Vec::new();
        for store in self.config.datastores.iter().filter(|store| !store.lun.is_empty()) {
            let Some(uuid) = uuid else {
                found.extend((store.name == self.name).then(|| self.renamed(store)));
                continue;
            };
            let aliases = Datastores::open_one(store).map(|open| open.aliases());
            match aliases {
                Ok(aliases) if aliases.iter().any(|alias| alias.eq_ignore_ascii_case(uuid)) => {
                    found.push(self.renamed(store));
                }
                Ok(aliases) if store.name == self.name => {
                    let here = aliases.join(", ");
                    tried.push(format!("san: the LUN of '{}' holds {here}, and the server says {uuid}", store.name));
                }
                Ok(_) => {}
                Err(failure) => {
                    tracing::warn!("{failure:?}");
                    tried.push(format!("san: {failure:?}"));
                }
            }
        }
        found
    }

    /// The configured folders that are the datastore.
    fn folders(&self) -> Vec<DatastoreConfig> {
        let is_it = |store: &&DatastoreConfig| {
            store.path.as_deref().is_some_and(|path| store.name == self.name || self.is_share(path))
        };
        self.config.datastores.iter().filter(is_it).map(|store| self.renamed(store)).collect()
    }

    /// The datastore through the server.
    fn server(&self) -> Outcome<Vec<DatastoreConfig>> {
        let datacenter = self
            .client
            .datacenter_path(&self.vm.moref)
            .map_err(|err| server_failure(format!("cannot look up the datacenter of {}", self.vm.name), err))?;
        let server = Some(Box::new(ServerStore { server: self.server.clone(), datacenter }));
        Ok(vec![DatastoreConfig { name: self.name.to_owned(), server, ..DatastoreConfig::default() }])
    }

    /// Opens every descriptor, or says why that fails.
    fn probe(&self, store: &DatastoreConfig) -> Result<(), String> {
        let open = Datastores::open_one(store).map_err(|failure| format!("{failure:?}"))?;
        for file in self.files {
            open.open(file).map_err(|err| err.report())?;
        }
        Ok(())
    }

    /// Whether `path` is where the datastore's NFS share is mounted on this host.
    fn is_share(&self, path: &Path) -> bool {
        let Some(DatastoreKind::Nas { host, path: exported }) = self.known.map(|known| &known.kind) else {
            return false;
        };
        std::fs::read_to_string("/proc/self/mounts").is_ok_and(|table| is_mounted(&table, host, exported, path))
    }
}

/// Whether a table of mounts has the share `exported` of `host` at `path`.
fn is_mounted(table: &str, host: &str, exported: &str, path: &Path) -> bool {
    let exported = exported.trim_end_matches('/');
    let sources = [format!("{host}:{exported}"), format!("[{host}]:{exported}")];
    table.lines().any(|line| {
        let mut fields = line.split(' ').map(unescape);
        let (Some(device), Some(place)) = (fields.next(), fields.next()) else { return false };
        sources.iter().any(|source| device.trim_end_matches('/') == source) && Path::new(&place) == path
    })
}

/// Undoes the octal escapes of the mount table (`\040` for a space).
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// The VM's configuration and what lies beside it and can be opened.
fn small_files(vm: &VirtualMachine, stores: &[DatastoreConfig]) -> Vec<String> {
    let Some((datastore, vmx)) = vm.vmx_path.as_deref().and_then(|path| parse_datastore_path(path).ok()) else {
        return Vec::new();
    };
    let Some(store) = stores.iter().find(|store| store.name == datastore) else { return Vec::new() };
    let open = match Datastores::open_one(store) {
        Ok(open) => open,
        Err(failure) => {
            tracing::warn!("{failure:?}");
            return Vec::new();
        }
    };
    let stem = crate::datastore::file_name(vmx).trim_end_matches(".vmx");
    let candidates = std::iter::once(vmx.to_owned())
        .chain(SMALL_FILES.iter().map(|extension| join(parent(vmx), &format!("{stem}.{extension}"))));
    candidates.filter(|path| open.open(path).is_ok()).map(|path| format!("[{datastore}] {path}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_known_by_the_table_of_mounts() {
        let table = "nas1:/vol/vms\\040a /mnt/nas\\0401 nfs ro 0 0\n[fe80::1]:/v /mnt/v6 nfs4 ro 0 0\n";
        let here = |host: &str, exported: &str, path: &str| is_mounted(table, host, exported, Path::new(path));
        assert!(here("nas1", "/vol/vms a", "/mnt/nas 1") && here("nas1", "/vol/vms a/", "/mnt/nas 1"));
        assert!(here("fe80::1", "/v", "/mnt/v6"));
        assert!(!here("nas2", "/vol/vms a", "/mnt/nas 1") && !here("nas1", "/vol/vms", "/mnt/nas 1"));
        assert!(!here("nas1", "/vol/vms a", "/mnt/nas"));
    }
}
