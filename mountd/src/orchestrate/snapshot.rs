//! Making and removing the snapshot of a lease, each in such a way that it may be interrupted anywhere.

use std::time::{Duration, Instant};

use vcb_vsphere::{Cancel, Error, Moref, PowerState, Quiesce as Ask, Snapshot, SnapshotSpec, VirtualMachine, Wait};

use super::connect::{host_name, server_failure};
use super::journal::{Journal, Lease, Step};
use super::lease::{Orchestrator, Reached};
use crate::config::{Quiesce, SnapshotPolicy};
use crate::failure::{Code, Failure, Outcome};

/// Longest pause between two attempts at a VM that is busy with another task.
const BUSY_PAUSE: Duration = Duration::from_secs(5);
/// How often a change whose outcome stayed unknown is asked for.
const ATTEMPTS: u32 = 3;
/// How long releasing a lease waits for a task that should have made its snapshot long ago.
const LATE: Duration = Duration::from_secs(60);
/// Name that VMware Consolidated Backup gave its snapshots.
pub(super) const VCB_SNAPSHOT: &str = "_VCB-BACKUP_";
/// What the description of a snapshot says that somebody else is to remove.
pub(super) const KEPT: &str = "It is kept for somebody else to remove.";
/// What it says otherwise.
const PASSING: &str = "It is removed when the backup ends; if that proxy is gone for good, it may be removed by hand.";

impl Orchestrator<'_> {
    /// Makes the snapshot, quiesced as configured.
    pub(super) fn make(&self, journal: &mut Journal, vm: &VirtualMachine) -> Outcome<(Moref, Reached)> {
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
        let fate = if self.config.snapshot.policy == SnapshotPolicy::CreateOnly { KEPT } else { PASSING };
        let maker = format!("Made by vcbmount on {} (process {}) for a backup.", host_name(), std::process::id());
        let spec =
            SnapshotSpec { name: journal.lease.snapshot_name.clone(), description: format!("{maker} {fate}"), quiesce };
        let started = Instant::now();
        let mut attempts = 0;
        loop {
            journal.step(Step::AskingForSnapshot, |lease| (lease.task, lease.remove) = (None, true))?;
            let asked = self.client.request_snapshot(&vm.moref, &spec);
            let result = match asked {
                Ok(task) => {
                    journal.step(Step::MakingSnapshot, |lease| lease.task = Some(task.value.clone()))?;
                    self.client.await_snapshot(&task, &self.wait(true))
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
            Ok(vm) => only(&vm, name).map(|found| found.cloned()),
            Err(err) if err.is_not_found() => Ok(None),
            Err(err) => Err(failed(err)),
        }
    }

    /// Removes the lease's snapshot and repairs the VM's disks.
    pub(super) fn remove(&self, lease: &Lease) -> Outcome<()> {
        let failed = |err| server_failure(format!("cannot remove the snapshot {}", lease.snapshot_name), err);
        let started = Instant::now();
        let mut attempts = 0;
        loop {
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
            let found = match &lease.snapshot {
                Some(moref) => vm.snapshots.iter().find(|snapshot| snapshot.moref.value == *moref),
                None => only(&vm, &lease.snapshot_name)?,
            };
            let Some(found) = found else { return self.consolidate(&vm) };
            let removed = self.client.remove_snapshot(&found.moref, &self.wait(false));
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
            self.client
                .consolidate_disks(&vm.moref, &self.wait(false))
                .map_err(|err| server_failure(format!("cannot consolidate the disks of {}", vm.name), err))?;
        }
        Ok(())
    }
}

/// The snapshot of that name. Where somebody has made another one of the same name, none is ours for sure.
fn only<'v>(vm: &'v VirtualMachine, name: &str) -> Outcome<Option<&'v Snapshot>> {
    let mut found = vm.snapshots.iter().filter(|snapshot| snapshot.name == name);
    let first = found.next();
    match found.next() {
        None => Ok(first),
        Some(_) => Err(Failure::new(Code::Ambiguous, format!("{} has several snapshots '{name}'", vm.name))
            .because("one of them was made for a backup, and it is not known which")
            .next_step("Remove the right one by hand; what is left is then cleaned up.")),
    }
}

/// Waits a little before the next attempt, longer the longer it has lasted, unless `cancel` is raised.
fn pause(started: Instant, cancel: &Cancel) {
    let until = Instant::now() + (started.elapsed() / 2).clamp(Duration::from_millis(100), BUSY_PAUSE);
    while Instant::now() < until && !cancel.is_raised() {
        std::thread::sleep(Duration::from_millis(20));
    }
}
