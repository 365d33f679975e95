//! What is asked of the server without mounting anything: VMs, snapshots, changed areas, privileges, paths.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use vcb_vsphere::{ChangedAreas, Disk, Moref, Quiesce as Ask, Snapshot, SnapshotSpec, Wait};

use super::connect::server_failure;
use super::journal::Journal;
use super::lookup as at_server;
use super::proxy::Proxy;
use super::refusals;
use crate::config::{SnapshotPolicy, Transport};
use crate::failure::{Code, Failure, Outcome};
use crate::lookup::{self, FoundVm, Search};
use crate::spec::{Place, Spec};

/// How a server and our account there were found.
#[derive(Debug)]
pub struct Examined {
    /// Product, version and build.
    pub about: String,
    /// By how many seconds its clock is ahead of ours.
    pub ahead_seconds: i64,
    /// Privileges that the account lacks.
    pub lacking: Vec<Lacking>,
}

/// A privilege that the account lacks.
#[derive(Debug)]
pub struct Lacking {
    /// Its id.
    pub privilege: String,
    /// What it is needed for.
    pub purpose: &'static str,
    /// Whether backups fail without it.
    pub needed: bool,
    /// Names of the objects on which it is missing, at most three of them.
    pub examples: Vec<String>,
    /// On how many objects it is missing.
    pub count: usize,
}

impl Proxy<'_> {
    /// The VMs that `spec` describes.
    ///
    /// # Errors
    /// As [`lookup::find`], and what the server says.
    pub fn list(&self, spec: &Spec) -> Outcome<Search> {
        let Some(server) = self.server_for(spec) else { return lookup::find(spec, self.config) };
        let vms = at_server::find(&*self.client(server)?, spec)?;
        let found = |vm: &vcb_vsphere::VirtualMachine| {
            let identity = at_server::identity(vm);
            let place = vm.vmx_path.as_deref().and_then(|path| path.parse().ok());
            FoundVm {
                name: identity.name,
                uuid: identity.uuid,
                moref: Some(identity.moref),
                ipaddr: identity.ipaddr,
                refusals: refusals::refusals(vm, &[]),
                place: place.map_or_else(|| Place::Host(PathBuf::new()), Place::Datastore),
            }
        };
        Ok(Search { vms: vms.iter().map(found).collect(), failures: Vec::new() })
    }

    /// Logs in and out again.
    ///
    /// # Errors
    /// As [`connect`]; [`Code::Config`] when no server is configured.
    pub fn ping(&self) -> Outcome<String> {
        let server = self.server()?;
        Ok(self.client(server)?.about().to_owned())
    }

    /// The snapshots of a VM, parents before children.
    ///
    /// # Errors
    /// What the server says.
    pub fn snapshots(&self, spec: &Spec) -> Outcome<Vec<Snapshot>> {
        Ok(at_server::find_one(&*self.client(self.server()?)?, spec)?.snapshots)
    }

    /// Makes a snapshot that the caller keeps and removes, and gives its managed object id.
    ///
    /// # Errors
    /// What the server says.
    pub fn make_snapshot(&self, spec: &Spec, name: &str, description: &str) -> Outcome<String> {
        let client = self.client(self.server()?)?;
        let vm = at_server::find_one(&client, spec)?;
        let wanted = SnapshotSpec {
            name: name.to_owned(),
            description: description.to_owned(),
            quiesce: if vm.guest.tools_running { Ask::Filesystems } else { Ask::No },
        };
        let made = client.create_snapshot(&vm.moref, &wanted, &self.wait());
        made.map(|snapshot| snapshot.value)
            .map_err(|err| server_failure(format!("cannot make a snapshot of {}", vm.name), err))
    }

    /// Removes the one snapshot `id` of a VM, because the caller says so.
    ///
    /// # Errors
    /// [`Code::SnapshotNotFound`]; what the server says.
    pub fn remove_snapshot(&self, spec: &Spec, id: &str) -> Outcome<()> {
        let client = self.client(self.server()?)?;
        let vm = at_server::find_one(&client, spec)?;
        let found = vm
            .snapshots
            .iter()
            .find(|snapshot| snapshot.moref.value == id)
            .ok_or_else(|| Failure::new(Code::SnapshotNotFound, format!("{} has no snapshot {id}", vm.name)))?;
        client
            .remove_snapshot(&found.moref, &self.wait())
            .map_err(|err| server_failure(format!("cannot remove the snapshot {}", found.name), err))
    }

    pub(super) fn wait(&self) -> Wait {
        let minutes = u64::from(self.config.snapshot.task_minutes);
        Wait { limit: Duration::from_secs(60 * minutes), cancel: self.cancel.clone() }
    }

    /// What has changed since `since` on the disks of a mounted session (on the one at `node`, when given).
    ///
    /// # Errors
    /// [`Code::SessionNotFound`]; what the server says, in particular when changes were not tracked.
    pub fn changed(&self, session: &str, node: Option<&str>, since: &str) -> Outcome<Vec<(Disk, ChangedAreas)>> {
        let missing = || Failure::new(Code::SessionNotFound, format!("no session '{session}' holds a snapshot"));
        let absolute = std::path::absolute(session).unwrap_or_else(|_| PathBuf::from(session));
        let leases = Journal::all(self.state.root())?;
        let lease = leases
            .iter()
            .find(|lease| lease.id == session || lease.mount_point.as_deref() == Some(&absolute))
            .ok_or_else(missing)?;
        let snapshot = Moref::new("VirtualMachineSnapshot", lease.snapshot.clone().ok_or_else(missing)?);
        let client = self.client(self.server()?)?;
        let failed = |err| server_failure(format!("cannot tell what changed on {}", lease.vm.name), err);
        let disks = client.snapshot_disks(&snapshot).map_err(failed)?;
        let mut changed = Vec::new();
        for disk in disks.into_iter().filter(|disk| node.is_none_or(|node| disk.node == node)) {
            let areas =
                client.changed_areas(&lease.vm_moref(), &snapshot, disk.key, since, disk.capacity).map_err(failed)?;
            changed.push((disk, areas));
        }
        if changed.is_empty() {
            return Err(Failure::new(Code::Usage, format!("{} has no such disk", lease.vm.name)));
        }
        Ok(changed)
    }

    /// Logs in, compares clocks, and looks for privileges that the configured way of working needs and the
    /// account lacks: on every VM and datastore that it can see.
    ///
    /// # Errors
    /// As [`connect`](super::connect()); what the server says.
    pub fn examine(&self) -> Outcome<Examined> {
        let server = self.server()?;
        let client = self.client(server)?;
        let failed = |err| server_failure(format!("cannot examine {}", server.host), err);
        let time = client.current_time().map_err(failed)?;
        let ahead_seconds = time
            .parse::<Timestamp>()
            .map_err(|err| {
                Failure::new(Code::Server, format!("{} tells the time as '{time}'", server.host)).because(err)
            })?
            .duration_since(Timestamp::now())
            .as_secs();

        let root = vec![(client.root_folder().map_err(failed)?, "the root folder".to_owned())];
        let vms = client.names("VirtualMachine").map_err(failed)?;
        let datastores = client.names("Datastore").map_err(failed)?;
        let policy = self.config.snapshot.policy;
        let (makes, removes) = match policy {
            SnapshotPolicy::Automatic => (true, true),
            SnapshotPolicy::CreateOnly => (true, false),
            SnapshotPolicy::DeleteOnly => (false, true),
            SnapshotPolicy::Manual => (false, false),
        };
        let mut lacking = Vec::new();
        let mut look = |objects: &[(Moref, String)], privilege: &str, purpose, needed| -> Outcome<()> {
            let of: Vec<Moref> = objects.iter().map(|(object, _)| object.clone()).collect();
            for (privilege, on) in client.missing_privileges(&of, &[privilege]).map_err(failed)? {
                let named = objects.iter().filter(|(object, _)| on.contains(object)).map(|(_, name)| name.clone());
                lacking.push(Lacking {
                    privilege,
                    purpose,
                    needed,
                    examples: named.take(3).collect(),
                    count: on.len(),
                });
            }
            Ok(())
        };
        if makes {
            look(&vms, "VirtualMachine.State.CreateSnapshot", "making snapshots", true)?;
        }
        if removes {
            look(&vms, "VirtualMachine.State.RemoveSnapshot", "removing snapshots", true)?;
        }
        look(&vms, "VirtualMachine.Provisioning.DiskRandomRead", "'changed'", false)?;
        if server.transports.contains(&Transport::Https) {
            look(&datastores, "Datastore.Browse", "the transport https", true)?;
            look(&datastores, "Datastore.FileManagement", "the transport https", true)?;
        }
        if server.hold_relocation {
            look(&root, "Global.DisableMethods", "hold_relocation", true)?;
            look(&root, "Global.EnableMethods", "hold_relocation", true)?;
        }
        look(&root, "Sessions.TerminateSession", "ending the sessions of killed processes", false)?;
        Ok(Examined { about: client.about().to_owned(), ahead_seconds, lacking })
    }

    /// Inventory paths of all resource pools.
    ///
    /// # Errors
    /// What the server says.
    pub fn resource_pools(&self) -> Outcome<Vec<String>> {
        self.paths("ResourcePool")
    }

    /// Inventory paths of all folders that VMs may be in.
    ///
    /// # Errors
    /// What the server says.
    pub fn vm_folders(&self) -> Outcome<Vec<String>> {
        // A datacenter keeps its VMs below its folder 'vm', and other things below others.
        let mut paths = self.paths("Folder")?;
        paths.retain(|path| path.split('/').any(|part| part == "vm"));
        Ok(paths)
    }

    fn paths(&self, kind: &str) -> Outcome<Vec<String>> {
        let server = self.server()?;
        let paths = self.client(server)?.inventory_paths(kind);
        paths.map_err(|err| server_failure(format!("cannot list the inventory of {}", server.host), err))
    }
}
