//! Taking a snapshot for a backup, and giving it back.
//!
//! The order, and what holds when the process dies between two lines:
//!
//! ```text
//!   look up, refuse, check space         nothing is held
//!   journal: planned
//!   journal: holding-relocation          cleanup allows moving again
//!   journal: asking-for-snapshot (name)  cleanup waits for the VM's tasks and looks the name up
//!   journal: making-snapshot (task)
//!   journal: frozen (snapshot)           cleanup removes it
//!   journal: mounting, mounted           cleanup unmounts first
//!   journal: releasing
//!   remove, consolidate, allow moving
//!   journal: ended
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use vcb_vsphere::{Cancel, Client, Snapshot, VirtualMachine, Wait, parse_datastore_path};

use super::connect::server_failure;
use super::hooks::{Event, Hooks, Subject};
use super::journal::{Journal, Lease, MARK, Step};
use super::snapshot::{KEPT, VCB_SNAPSHOT};
use super::{limits, lookup, refusals, transport};
use crate::config::{Config, Preexisting, SnapshotPolicy, VCenter};
use crate::failure::{Code, Failure, Outcome};
use crate::plan::{MountPlan, ReadOptions, VmIdentity};
use crate::spec::{Spec, uuid_text};

/// What is wanted of a lease beyond what the configuration says.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Read this existing snapshot, by name or managed object id, and leave it alone.
    pub existing: Option<String>,
    /// Only these disks, by where they are attached; all when it is empty.
    pub nodes: Vec<String>,
    /// How to read.
    pub read: ReadOptions,
}

/// How far the guest came to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// The VM is off: nothing writes.
    PoweredOff,
    /// The guest flushed its filesystems, and on Windows its applications.
    Quiesced,
    /// It did not: the disks look as after a power cut.
    CrashConsistent,
    /// Somebody else made the snapshot.
    Existing,
}

impl Reached {
    /// The stable word of messages and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reached::PoweredOff => "powered-off",
            Reached::Quiesced => "quiesced",
            Reached::CrashConsistent => "crash-consistent",
            Reached::Existing => "existing-snapshot",
        }
    }
}

/// What a lease stands on.
enum Ground {
    /// A snapshot that is yet to be made.
    Nothing,
    /// One that somebody else has made, or that was made to be kept.
    Theirs(Snapshot),
    /// One that a dead process of ours has left, with its lease.
    Ours(Box<Journal>, Snapshot),
}

/// A lease that is held, ready to be mounted.
pub struct Held {
    /// The lease; hand it to [`Orchestrator::release`].
    pub journal: Journal,
    /// What to mount.
    pub plan: MountPlan,
    /// How far the guest came to rest.
    pub reached: Reached,
}

/// Leases on VMs of one server.
pub struct Orchestrator<'a> {
    /// The session.
    pub client: &'a Client,
    /// The whole configuration.
    pub config: &'a Config,
    /// The server's part of it.
    pub server: &'a VCenter,
    /// Our state folder.
    pub state: &'a Path,
    /// Whether a lease's mount is being served; nobody's is, unless somebody knows better.
    pub served: &'a (dyn Fn(&str) -> bool + Send + Sync),
    /// Raised when the user wants to stop.
    pub cancel: Cancel,
    /// How long making or removing a snapshot may take.
    pub task_limit: Duration,
}

impl<'a> Orchestrator<'a> {
    /// As configured.
    #[must_use]
    pub fn new(client: &'a Client, config: &'a Config, server: &'a VCenter, state: &'a Path, cancel: Cancel) -> Self {
        let task_limit = Duration::from_secs(60 * u64::from(config.snapshot.task_minutes));
        Orchestrator { client, config, server, state, served: &|_| false, cancel, task_limit }
    }

    /// Freezes the one VM that `spec` describes. Whatever fails, nothing is held afterwards; where even that
    /// fails, the failure says so and the journal remains.
    ///
    /// # Errors
    /// See [`Code`].
    pub fn acquire(&self, spec: &Spec, options: &Options) -> Outcome<Held> {
        let vm = lookup::find_one(self.client, spec)?;
        let refused = refusals::refusals(&vm, &options.nodes);
        if !refused.is_empty() {
            let what = format!("{} cannot be backed up", vm.name);
            return Err(Failure::new(Code::NotFreezable, what).because(refused.join("\n")));
        }
        let ground = self.ground(&vm, options)?;
        if matches!(ground, Ground::Nothing) {
            self.check_space(&vm)?;
        }
        if vm.consolidation_needed {
            tracing::warn!(vm = vm.name, "disks of removed snapshots were left behind and need consolidation");
        }
        let identity = VmIdentity {
            name: vm.name.clone(),
            uuid: vm.bios_uuid.as_deref().and_then(uuid_text),
            moref: Some(vm.moref.value.clone()),
        };
        let begin = |named| Journal::begin(self.state, &self.server.host, identity, named);
        let (mut journal, existing) = match ground {
            Ground::Nothing => (begin(None)?, None),
            Ground::Theirs(snapshot) => (begin(Some(snapshot.name.clone()))?, Some(snapshot)),
            Ground::Ours(journal, snapshot) => (*journal, Some(snapshot)),
        };
        match self.freeze(&mut journal, &vm, existing, options) {
            Ok((plan, reached)) => Ok(Held { journal, plan, reached }),
            Err(failure) => {
                self.hook(Event::Failure, &journal.lease, None, &format!("{failure:?}")).unwrap_or_else(|hook| {
                    tracing::warn!("{hook:?}");
                });
                Err(self.undo(journal, failure))
            }
        }
    }

    /// Notes that the lease is about to be mounted at `mount_point`.
    ///
    /// # Errors
    /// [`Code::State`].
    pub fn mounting(&self, journal: &mut Journal, mount_point: &Path) -> Outcome<()> {
        journal.step(Step::Mounting, |lease| lease.mount_point = Some(mount_point.to_owned()))
    }

    /// Runs the hooks of `event` for a lease.
    ///
    /// # Errors
    /// [`Code::Hook`] for events that come before something.
    pub fn hook(&self, event: Event, lease: &Lease, mount: Option<PathBuf>, error: &str) -> Outcome<()> {
        let subject = Subject {
            vm: lease.vm.name.clone(),
            moref: lease.vm.moref.clone().unwrap_or_default(),
            uuid: lease.vm.uuid.clone().unwrap_or_default(),
            session: lease.id.clone(),
            snapshot: lease.snapshot_name.clone(),
            mount,
            error: error.to_owned(),
        };
        Hooks::new(&self.config.hooks).run(event, &subject)
    }

    /// Releases after `failure`, and adds to it what could not be released.
    #[must_use]
    pub fn undo(&self, journal: Journal, failure: Failure) -> Failure {
        let id = journal.lease.id.clone();
        match self.release(journal) {
            Ok(()) => failure,
            Err(left) => {
                tracing::error!("{left:?}");
                let text = format!("{failure:?}; and then {left:?}");
                Failure::new(Code::LeftBehind, format!("{} (lease {id} is still held)", failure.what())).because(text)
            }
        }
    }

    /// Gives a lease back: removes the snapshot when it is ours to remove, repairs what that leaves behind,
    /// and ends the journal entry. What is mounted must have been unmounted. May be repeated until it works.
    ///
    /// # Errors
    /// What the server says; the journal entry remains then.
    pub fn release(&self, mut journal: Journal) -> Outcome<()> {
        journal.step(Step::Releasing, |_| {})?;
        let lease = journal.lease.clone();
        let vm = lease.vm_moref();
        if lease.remove {
            let places = match self.client.vm(&vm) {
                Ok(now) => self.places(&now),
                Err(err) if err.is_not_found() => return journal.end(),
                Err(err) => return Err(server_failure(format!("cannot look at {}", lease.vm.name), err)),
            };
            let _slots = limits::enter(self.state, places, self.task_limit, &Cancel::default())?;
            self.remove(&lease)?;
        }
        if lease.relocation {
            self.client.enable_relocation(&vm, &lease.holder()).or_else(|err| {
                if err.is_not_found() { Ok(()) } else { Err(server_failure("cannot allow moving the VM again", err)) }
            })?;
        }
        journal.end()
    }

    pub(super) fn wait(&self, cancel: bool) -> Wait {
        let cancel = if cancel { self.cancel.clone() } else { Cancel::default() };
        Wait { limit: self.task_limit, cancel }
    }

    fn places(&self, vm: &VirtualMachine) -> Vec<(String, u32)> {
        let snapshot = &self.config.snapshot;
        let disks = vm.disks.iter().filter_map(|disk| parse_datastore_path(&disk.file_name).ok());
        let stores = disks.map(|(name, _)| (format!("datastore-{name}"), snapshot.per_datastore));
        let host = vm.host.iter().map(|host| (format!("host-{}", host.value), snapshot.per_host));
        stores.chain(host).collect()
    }

    /// What the lease will stand on, by the options and the configured policies.
    fn ground(&self, vm: &VirtualMachine, options: &Options) -> Outcome<Ground> {
        if let Some(wanted) = &options.existing {
            let found: Vec<&Snapshot> =
                vm.snapshots.iter().filter(|s| s.name == *wanted || s.moref.value == *wanted).collect();
            return match found.as_slice() {
                [one] => Ok(Ground::Theirs((*one).clone())),
                [] => Err(Failure::new(Code::SnapshotNotFound, format!("{} has no snapshot '{wanted}'", vm.name))),
                _ => Err(Failure::new(Code::Ambiguous, format!("{} has several snapshots '{wanted}'", vm.name))
                    .next_step("Name the one by its managed object id, snapshot-N.")),
            };
        }
        if matches!(self.config.snapshot.policy, SnapshotPolicy::Manual | SnapshotPolicy::DeleteOnly) {
            // A snapshot with our mark that is not kept belongs to a backup that is under way somewhere.
            let kept =
                |s: &&Snapshot| s.name == VCB_SNAPSHOT || (s.name.starts_with(MARK) && s.description.contains(KEPT));
            return match vm.snapshots.iter().rfind(kept) {
                Some(snapshot) => Ok(Ground::Theirs(snapshot.clone())),
                None => Err(Failure::new(Code::SnapshotNotFound, format!("{} has no snapshot for backups", vm.name))
                    .because(format!(
                        "with this snapshot policy {VCB_SNAPSHOT}, or one of policy createonly, is made before"
                    ))),
            };
        }
        self.preexisting(vm)
    }

    /// Deals with an older snapshot of ours on the VM, as configured. Only those in our own journal are ours.
    fn preexisting(&self, vm: &VirtualMachine) -> Outcome<Ground> {
        let leases = Journal::all(self.state)?;
        for snapshot in &vm.snapshots {
            let Some(id) = snapshot.name.strip_prefix(MARK) else {
                if snapshot.name == VCB_SNAPSHOT {
                    tracing::warn!(vm = vm.name, "another backup product has left the snapshot {VCB_SNAPSHOT}");
                }
                continue;
            };
            if !leases.iter().any(|lease| lease.id == id && lease.server == self.server.host) {
                tracing::warn!(vm = vm.name, snapshot = snapshot.name, "another proxy holds this snapshot");
                continue;
            }
            let taken = |why: &str| {
                let what = format!("{} has the snapshot {} of ours already", vm.name, snapshot.name);
                Err(Failure::new(Code::SnapshotExists, what).because(why.to_owned()))
            };
            let journal = Journal::take(self.state, id)?.filter(|_| !(self.served)(id));
            let Some(journal) = journal else { return taken("a session is using it") };
            match self.config.snapshot.preexisting {
                Preexisting::Fail => return taken("preexisting = \"fail\" in [snapshot]"),
                // The rest of an unfinished one would be read as a whole one.
                Preexisting::Reuse if journal.lease.snapshot.as_ref() == Some(&snapshot.moref.value) => {
                    return Ok(Ground::Ours(Box::new(journal), snapshot.clone()));
                }
                Preexisting::Reuse | Preexisting::Delete => self.release(journal)?,
            }
        }
        Ok(Ground::Nothing)
    }

    fn check_space(&self, vm: &VirtualMachine) -> Outcome<()> {
        let stores = self
            .client
            .datastores_of(vm)
            .map_err(|err| server_failure(format!("cannot look up the datastores of {}", vm.name), err))?;
        let least = u64::from(self.config.snapshot.min_free_percent);
        for store in stores.iter().filter(|store| store.capacity > 0) {
            let percent = u128::from(store.free) * 100 / u128::from(store.capacity);
            if percent < u128::from(least) {
                let what = format!("the datastore '{}' of {} is too full for a snapshot", store.name, vm.name);
                return Err(Failure::new(Code::Space, what)
                    .because(format!("{percent} % of it is free, and min_free_percent is {least}")));
            }
        }
        Ok(())
    }

    fn freeze(
        &self,
        journal: &mut Journal,
        vm: &VirtualMachine,
        existing: Option<Snapshot>,
        options: &Options,
    ) -> Outcome<(MountPlan, Reached)> {
        if self.server.hold_relocation && !journal.lease.relocation {
            self.hold(journal, vm)?;
        }
        let (snapshot, reached) = match existing {
            Some(snapshot) => {
                let ours = journal.lease.is_marked() && journal.lease.remove;
                let remove =
                    ours || (options.existing.is_none() && self.config.snapshot.policy == SnapshotPolicy::DeleteOnly);
                let id = snapshot.moref.value.clone();
                journal.step(Step::Frozen, |lease| (lease.snapshot, lease.remove) = (Some(id), remove))?;
                (snapshot.moref, Reached::Existing)
            }
            None => {
                let _slots = limits::enter(self.state, self.places(vm), self.task_limit, &self.cancel)?;
                self.hook(Event::PreSnapshot, &journal.lease, None, "")?;
                let made = self.make(journal, vm)?;
                self.hook(Event::PostSnapshot, &journal.lease, None, "")?;
                made
            }
        };
        let mut disks = self
            .client
            .snapshot_disks(&snapshot)
            .map_err(|err| server_failure(format!("cannot read the disks of {}", journal.lease.snapshot_name), err))?;
        if !options.nodes.is_empty() {
            disks.retain(|disk| options.nodes.contains(&disk.node));
        }
        if disks.is_empty() {
            let what = format!("{} has no disk at {}", vm.name, options.nodes.join(", "));
            return Err(Failure::new(Code::Usage, what));
        }
        let plan = transport::plan(self.client, vm, &disks, self.config, self.server, &options.read)?;
        Ok((plan, reached))
    }

    /// Forbids moving the VM's storage. A host by itself cannot move it, and knows no such promise.
    fn hold(&self, journal: &mut Journal, vm: &VirtualMachine) -> Outcome<()> {
        if !self.client.is_virtual_center() {
            tracing::info!(vm = vm.name, "a host by itself moves no VMs: there is nothing to forbid");
            return Ok(());
        }
        journal.step(Step::HoldingRelocation, |lease| lease.relocation = true)?;
        self.client
            .disable_relocation(&vm.moref, &journal.lease.holder())
            .map_err(|err| server_failure(format!("cannot forbid moving {}", vm.name), err))
    }
}
