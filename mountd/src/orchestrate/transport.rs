//! From `[datastore] folder/file`, as the server writes it, to where this host can read it.
//!
//! Each datastore that the frozen disks lie on is matched with a configured one: by name, by the UUID of the
//! VMFS volume, or by the NFS share that is mounted here. Of the ways there are, the first in the configured
//! order of transports wins; HTTPS needs no configured datastore.

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
    let mut stores: BTreeMap<String, DatastoreConfig> = BTreeMap::new();
    let files = disks.iter().flat_map(|disk| std::iter::once(&disk.file_name).chain(&disk.parents));
    for file in files.chain(&vm.vmx_path) {
        let (name, _) = parse_datastore_path(file).map_err(|err| server_failure("the server names a disk", err))?;
        if !stores.contains_key(name) {
            let found = known.iter().find(|store| store.name == name);
            stores.insert(name.to_owned(), reach(client, vm, name, found, config, server)?);
        }
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

/// The way to one datastore.
fn reach(
    client: &Client,
    vm: &VirtualMachine,
    name: &str,
    known: Option<&ServerDatastore>,
    config: &Config,
    server: &VCenter,
) -> Outcome<DatastoreConfig> {
    let mut tried = Vec::new();
    for transport in &server.transports {
        let found = match transport {
            Transport::San => {
                config.datastores.iter().find(|store| !store.lun.is_empty() && is_volume(store, name, known))
            }
            Transport::File => config
                .datastores
                .iter()
                .find(|store| store.path.as_deref().is_some_and(|path| store.name == name || is_share(path, known))),
            Transport::Https => {
                let datacenter = client
                    .datacenter_path(&vm.moref)
                    .map_err(|err| server_failure("cannot look up the datacenter", err))?;
                let store = ServerStore { server: server.clone(), datacenter };
                return Ok(DatastoreConfig {
                    name: name.to_owned(),
                    server: Some(Box::new(store)),
                    ..DatastoreConfig::default()
                });
            }
        };
        match found {
            // Under the server's name, which is the one in the paths.
            Some(store) => return Ok(DatastoreConfig { name: name.to_owned(), ..store.clone() }),
            None => tried.push(match transport {
                Transport::San => "san: no [[datastore]] with that volume's LUN",
                Transport::File => "file: no [[datastore]] with that name or share",
                Transport::Https => "https",
            }),
        }
    }
    let what = format!("the datastore '{name}' of {} cannot be read from here", vm.name);
    Err(Failure::new(Code::DatastoreNotFound, what).because(tried.join("; ")))
}

fn is_volume(store: &DatastoreConfig, name: &str, known: Option<&ServerDatastore>) -> bool {
    if store.name == name {
        return true;
    }
    let Some(DatastoreKind::Vmfs { uuid, .. }) = known.map(|known| &known.kind) else { return false };
    match Datastores::open_one(store) {
        Ok(open) => open.aliases().iter().any(|alias| alias.eq_ignore_ascii_case(uuid)),
        Err(failure) => {
            tracing::warn!("{failure:?}");
            false
        }
    }
}

/// Whether `path` is where the datastore's NFS share is mounted on this host.
fn is_share(path: &Path, known: Option<&ServerDatastore>) -> bool {
    let Some(DatastoreKind::Nas { host, path: exported }) = known.map(|known| &known.kind) else { return false };
    let Ok(table) = std::fs::read_to_string("/proc/self/mounts") else { return false };
    let source = format!("{host}:{}", exported.trim_end_matches('/'));
    table.lines().any(|line| {
        let mut fields = line.split(' ');
        let (Some(device), Some(place)) = (fields.next(), fields.next()) else { return false };
        device.trim_end_matches('/') == source && Path::new(&unescape(place)) == path
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
