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
use std::time::{Duration, Instant};

use vcb_vsphere::{
    Cancel, Client, Error, Moref, PowerState, Quiesce as Ask, Snapshot, SnapshotSpec, VirtualMachine, Wait,
    parse_datastore_path,
};

use super::connect::server_failure;
use super::fault::point;
use super::hooks::{Event, Hooks, Subject};
use super::journal::{Journal, Lease, MARK, Step};
use super::{limits, lookup, refusals, transport};
use crate::config::{Config, Preexisting, Quiesce, SnapshotPolicy, VCenter};
use crate::failure::{Code, Failure, Outcome};
use crate::plan::{MountPlan, ReadOptions, VmIdentity};
use crate::spec::{Spec, uuid_text};

/// Longest pause between two attempts at a VM that is busy with another task.
const BUSY_PAUSE: Duration = Duration::from_secs(5);
/// How often a change whose outcome stayed unknown is asked for.
const ATTEMPTS: u32 = 3;
/// How long releasing a lease waits for a task that should have made its snapshot long ago.
const LATE: Duration = Duration::from_secs(60);
/// Name that VMware Consolidated Backup gave its snapshots.
const VCB_SNAPSHOT: &str = "_VCB-BACKUP_";

/// What is wanted of a lease beyond what the configuration says.
#[derive(Debug, Clone)]
pub struct Options {
    /// Read this existing snapshot, by name or managed object id, and leave it alone.
    pub existing: Option<String>,
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
        Orchestrator { client, config, server, state, cancel, task_limit }
    }

    /// Freezes the one VM that `spec` describes. Whatever fails, nothing is held afterwards; where even that
    /// fails, the failure says so and the journal remains.
    ///
    /// # Errors
    /// See [`Code`].
    pub fn acquire(&self, spec: &Spec, options: &Options) -> Outcome<Held> {
        let vm = lookup::find_one(self.client, spec)?;
        let refused = refusals::refusals(&vm);
        if !refused.is_empty() {
            let what = format!("{} cannot be backed up", vm.name);
            return Err(Failure::new(Code::NotFreezable, what).because(refused.join("\n")));
        }
        let existing = self.existing(&vm, options)?;
        if existing.is_none() {
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
        let named = existing.as_ref().map(|snapshot| snapshot.name.clone());
        let mut journal = Journal::begin(self.state, &self.server.host, identity, named)?;
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

    /// Notes that it is mounted.
    ///
    /// # Errors
    /// [`Code::State`].
    pub fn mounted(&self, journal: &mut Journal) -> Outcome<()> {
        journal.step(Step::Mounted, |_| {})
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
            point("before EnableMethods");
            self.client.enable_relocation(&vm, &lease.snapshot_name).or_else(|err| {
                if err.is_not_found() { Ok(()) } else { Err(server_failure("cannot allow moving the VM again", err)) }
            })?;
            point("after EnableMethods");
        }
        journal.end()
    }

    fn wait(&self, cancel: bool) -> Wait {
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

    /// The snapshot to read instead of making one, when there is one to be read.
    fn existing(&self, vm: &VirtualMachine, options: &Options) -> Outcome<Option<Snapshot>> {
        let by_name = |wanted: &str| -> Outcome<Snapshot> {
            let found: Vec<&Snapshot> =
                vm.snapshots.iter().filter(|s| s.name == wanted || s.moref.value == wanted).collect();
            match found.as_slice() {
                [one] => Ok((*one).clone()),
                [] => Err(Failure::new(Code::SnapshotNotFound, format!("{} has no snapshot '{wanted}'", vm.name))),
                _ => Err(Failure::new(Code::Ambiguous, format!("{} has several snapshots '{wanted}'", vm.name))
                    .next_step("Name the one by its managed object id, snapshot-N.")),
            }
        };
        if let Some(wanted) = &options.existing {
            return by_name(wanted).map(Some);
        }
        if matches!(self.config.snapshot.policy, SnapshotPolicy::Manual | SnapshotPolicy::DeleteOnly) {
            let ours = vm.snapshots.iter().rfind(|s| s.name == VCB_SNAPSHOT || s.name.starts_with(MARK));
            return match ours {
                Some(snapshot) => Ok(Some(snapshot.clone())),
                None => Err(Failure::new(Code::SnapshotNotFound, format!("{} has no snapshot for backups", vm.name))
                    .because(format!("with this snapshot policy one named {VCB_SNAPSHOT} or {MARK}… is made before"))),
            };
        }
        self.preexisting(vm)
    }

    /// Deals with an older snapshot of ours on the VM, as configured. Only those in our own journal are ours.
    fn preexisting(&self, vm: &VirtualMachine) -> Outcome<Option<Snapshot>> {
        let leases = Journal::all(self.state)?;
        for snapshot in &vm.snapshots {
            let Some(id) = snapshot.name.strip_prefix(MARK) else {
                if snapshot.name == VCB_SNAPSHOT {
                    tracing::warn!(vm = vm.name, "another backup product has left the snapshot {VCB_SNAPSHOT}");
                }
                continue;
            };
            let Some(lease) = leases.iter().find(|lease| lease.id == id) else {
                tracing::warn!(vm = vm.name, snapshot = snapshot.name, "another proxy holds this snapshot");
                continue;
            };
            let taken = |why: &str| {
                let what = format!("{} has the snapshot {} of ours already", vm.name, snapshot.name);
                Err(Failure::new(Code::SnapshotExists, what).because(why.to_owned()))
            };
            if matches!(lease.step, Step::Mounting | Step::Mounted) || Journal::is_worked_on(self.state, id)? {
                return taken("a session is using it");
            }
            match self.config.snapshot.preexisting {
                Preexisting::Fail => return taken("preexisting = \"fail\" in [snapshot]"),
                Preexisting::Reuse => return Ok(Some(snapshot.clone())),
                Preexisting::Delete => match Journal::take(self.state, id)? {
                    Some(journal) => self.release(journal)?,
                    None => return taken("a session is using it"),
                },
            }
        }
        Ok(None)
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
        if self.server.hold_relocation {
            journal.step(Step::HoldingRelocation, |lease| lease.relocation = true)?;
            point("before DisableMethods");
            self.client
                .disable_relocation(&vm.moref, &journal.lease.snapshot_name)
                .map_err(|err| server_failure(format!("cannot forbid moving {}", vm.name), err))?;
            point("after DisableMethods");
        }
        let (snapshot, reached) = match existing {
            Some(snapshot) => {
                let remove = options.existing.is_none() && self.config.snapshot.policy == SnapshotPolicy::DeleteOnly;
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
        point("before snapshot config");
        let disks = self
            .client
            .snapshot_disks(&snapshot)
            .map_err(|err| server_failure(format!("cannot read the disks of {}", journal.lease.snapshot_name), err))?;
        point("after snapshot config");
        let plan = transport::plan(self.client, vm, &disks, self.config, self.server, &options.read)?;
        Ok((plan, reached))
    }

    /// Makes the snapshot, quiesced as configured.
    fn make(&self, journal: &mut Journal, vm: &VirtualMachine) -> Outcome<(Moref, Reached)> {
        let policy = self.config.snapshot.quiesce;
        let off = vm.power != PowerState::On;
        let minutes = self.config.snapshot.quiesce_minutes;
        let windows = vm.guest.family.as_deref() == Some("windowsGuest");
        let ask = match policy {
            _ if off => Ask::No,
            Quiesce::No => Ask::No,
            Quiesce::Required if !vm.guest.tools_running => {
                let what = format!("{} cannot be brought to rest", vm.name);
                return Err(Failure::new(Code::Quiesce, what).because("VMware Tools are not running in it"));
            }
            Quiesce::Try if !vm.guest.tools_running => {
                tracing::warn!(vm = vm.name, "VMware Tools are not running: its disks look as after a power cut");
                Ask::No
            }
            Quiesce::Required | Quiesce::Try if windows => Ask::WindowsVss { minutes },
            Quiesce::Required | Quiesce::Try => Ask::Filesystems,
        };
        let snapshot = match self.make_once(journal, vm, ask) {
            Err(failure) if failure.code() == Code::Quiesce && policy == Quiesce::Try => {
                tracing::warn!(
                    vm = vm.name,
                    "the guest did not come to rest, its disks will look as after a power cut"
                );
                tracing::info!("{failure:?}");
                self.make_once(journal, vm, Ask::No)?
            }
            other => other?,
        };
        let keep = self.config.snapshot.policy == SnapshotPolicy::CreateOnly;
        let id = snapshot.value.clone();
        journal.step(Step::Frozen, |lease| (lease.snapshot, lease.remove) = (Some(id), !keep))?;
        // Servers ignore the wish to quiesce when they cannot fulfil it: only the result tells.
        let now =
            self.client.vm(&vm.moref).map_err(|err| server_failure(format!("cannot look at {}", vm.name), err))?;
        let made = now.snapshots.iter().find(|made| made.moref.value == snapshot.value);
        let reached = match made {
            _ if off => Reached::PoweredOff,
            Some(made) if made.quiesced => Reached::Quiesced,
            _ => Reached::CrashConsistent,
        };
        if reached == Reached::CrashConsistent && policy == Quiesce::Required {
            return Err(Failure::new(Code::Quiesce, format!("{} did not come to rest", vm.name))
                .because("the server made the snapshot without it"));
        }
        tracing::info!(vm = vm.name, ?reached, "frozen");
        Ok((snapshot, reached))
    }

    /// Asks for the snapshot; when the answer is lost, looks its name up before asking again.
    fn make_once(&self, journal: &mut Journal, vm: &VirtualMachine, quiesce: Ask) -> Outcome<Moref> {
        let what = || format!("cannot make a snapshot of {}", vm.name);
        let spec = SnapshotSpec {
            name: journal.lease.snapshot_name.clone(),
            description: format!(
                "Made by vcbmount on {} (process {}) for a backup. Removed when the backup ends; if that proxy is \
                 gone for good, it may be removed by hand.",
                host_name(),
                std::process::id()
            ),
            quiesce,
        };
        let started = Instant::now();
        let mut attempts = 0;
        loop {
            journal.step(Step::AskingForSnapshot, |lease| (lease.task, lease.remove) = (None, true))?;
            point("before CreateSnapshot");
            let asked = self.client.request_snapshot(&vm.moref, &spec);
            point("after CreateSnapshot");
            let result = match asked {
                Ok(task) => {
                    journal.step(Step::MakingSnapshot, |lease| lease.task = Some(task.value.clone()))?;
                    point("before task");
                    let made = self.client.await_snapshot(&task, &self.wait(true));
                    point("after task");
                    made
                }
                Err(err) => Err(err),
            };
            match result {
                Ok(snapshot) => return Ok(snapshot),
                Err(err) if self.cancel.is_raised() => return Err(server_failure(what(), err)),
                // It may still be made: asking again would make two.
                Err(err @ (Error::TaskTimeout { .. } | Error::Cancelled { .. })) => {
                    return Err(server_failure(what(), err));
                }
                Err(err) if err.outcome_unknown() => {
                    tracing::warn!(%err, "it is not known whether the snapshot was made, looking for it");
                    if let Some(found) = self.by_name(vm, &spec.name, true)? {
                        return Ok(found.moref);
                    }
                    attempts += 1;
                    if attempts >= ATTEMPTS {
                        return Err(server_failure(what(), err));
                    }
                }
                Err(err) if err.is_busy() && started.elapsed() < self.task_limit => {
                    tracing::info!(%err, "the VM is busy, waiting");
                    pause(started, &self.cancel);
                }
                Err(err) => return Err(server_failure(what(), err)),
            }
        }
    }

    /// The VM's snapshot of that name, once the VM's tasks have ended.
    fn by_name(&self, vm: &VirtualMachine, name: &str, cancel: bool) -> Outcome<Option<Snapshot>> {
        let failed = |err| server_failure(format!("cannot look for the snapshot {name}"), err);
        match self.client.await_idle(&vm.moref, &self.wait(cancel)) {
            Err(err) if err.is_not_found() => return Ok(None),
            other => other.map_err(failed)?,
        }
        match self.client.vm(&vm.moref) {
            Ok(vm) => Ok(vm.snapshots.into_iter().find(|snapshot| snapshot.name == name)),
            Err(err) if err.is_not_found() => Ok(None),
            Err(err) => Err(failed(err)),
        }
    }

    /// Removes the lease's snapshot and repairs the VM's disks.
    fn remove(&self, lease: &Lease) -> Outcome<()> {
        let failed = |err| server_failure(format!("cannot remove the snapshot {}", lease.snapshot_name), err);
        let started = Instant::now();
        let mut attempts = 0;
        loop {
            point("before lookup for removal");
            if let Some(task) = &lease.task {
                // A task that still runs may make the snapshot after we have looked.
                let task = Moref::new("Task", task.clone());
                let wait = Wait::at_most(self.task_limit.min(LATE));
                if let Err(err @ Error::TaskTimeout { .. }) = self.client.await_snapshot(&task, &wait) {
                    return Err(failed(err));
                }
            }
            let now = match self.client.await_idle(&lease.vm_moref(), &self.wait(false)) {
                Ok(()) => self.client.vm(&lease.vm_moref()),
                Err(err) => Err(err),
            };
            let vm = match now {
                Ok(vm) => vm,
                Err(err) if err.is_not_found() => return Ok(()),
                Err(err) => return Err(failed(err)),
            };
            let found = vm.snapshots.iter().find(|snapshot| match &lease.snapshot {
                Some(moref) => snapshot.moref.value == *moref,
                None => snapshot.name == lease.snapshot_name,
            });
            let Some(found) = found else { return self.consolidate(&vm) };
            point("before RemoveSnapshot");
            let removed = self.client.remove_snapshot(&found.moref, &self.wait(false));
            point("after RemoveSnapshot");
            match removed {
                Ok(()) => {}
                Err(err) if err.is_not_found() => {}
                Err(err) if err.is_busy() && started.elapsed() < self.task_limit => {
                    tracing::info!(%err, "the VM is busy, waiting");
                    pause(started, &Cancel::default());
                }
                Err(err) if err.outcome_unknown() && attempts + 1 < ATTEMPTS => {
                    tracing::warn!(%err, "it is not known whether the snapshot was removed, looking for it");
                    attempts += 1;
                    pause(started, &Cancel::default());
                }
                Err(err) => return Err(failed(err)),
            }
        }
    }

    fn consolidate(&self, vm: &VirtualMachine) -> Outcome<()> {
        if vm.consolidation_needed {
            tracing::warn!(vm = vm.name, "consolidating disks that a removed snapshot left behind");
            point("before ConsolidateVMDisks");
            self.client
                .consolidate_disks(&vm.moref, &self.wait(false))
                .map_err(|err| server_failure(format!("cannot consolidate the disks of {}", vm.name), err))?;
            point("after ConsolidateVMDisks");
        }
        Ok(())
    }
}

/// Waits a little before the next attempt, longer the longer it has lasted, unless `cancel` is raised.
fn pause(started: Instant, cancel: &Cancel) {
    let until = Instant::now() + (started.elapsed() / 2).clamp(Duration::from_millis(100), BUSY_PAUSE);
    while Instant::now() < until && !cancel.is_raised() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(super) fn host_name() -> String {
    crate::sys::host_name().unwrap_or_else(|| "this proxy".to_owned())
}
