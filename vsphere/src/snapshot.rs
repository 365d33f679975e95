//! Making and removing snapshots.

use crate::client::Client;
use crate::error::{Error, Result};
use crate::model::{Disk, Moref, read_disks};
use crate::soap::Call;
use crate::task::Wait;
use crate::xml::Node;

/// How the guest is asked to come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiesce {
    /// Not at all: the disks look as after a power cut.
    No,
    /// Flush filesystems through VMware Tools.
    Filesystems,
    /// Windows: through VSS, so that applications come to rest too, as a *copy* backup, which leaves the
    /// log chains of databases alone. `minutes` is the guest's time limit (5 to 240).
    WindowsVss {
        /// The guest's time limit.
        minutes: u32,
    },
}

/// A snapshot to be made.
#[derive(Debug, Clone)]
pub struct SnapshotSpec {
    /// Display name. Unique if it is to be found again.
    pub name: String,
    /// Free text.
    pub description: String,
    /// How the guest comes to rest.
    pub quiesce: Quiesce,
}

impl Client {
    /// Makes a snapshot without memory and waits for it.
    ///
    /// It is asked for once. When [`Error::outcome_unknown`] says so it may exist or yet come into being:
    /// look for its name before asking again.
    ///
    /// # Errors
    /// `ApplicationQuiesceFault` and its kin when the guest did not come to rest; what the server says.
    pub fn create_snapshot(&self, vm: &Moref, spec: &SnapshotSpec, wait: &Wait) -> Result<Moref> {
        let task = self.request_snapshot(vm, spec)?;
        self.await_snapshot(&task, wait)
    }

    /// Asks for a snapshot without memory, once, and gives the task that makes it.
    ///
    /// # Errors
    /// As for [`Client::create_snapshot`].
    pub fn request_snapshot(&self, vm: &Moref, spec: &SnapshotSpec) -> Result<Moref> {
        let plain = |quiesce: bool| {
            Call::once("CreateSnapshot_Task", vm)
                .text("name", &spec.name)
                .text("description", &spec.description)
                .value("memory", false)
                .value("quiesce", quiesce)
        };
        let call = match spec.quiesce {
            Quiesce::No => plain(false),
            Quiesce::Filesystems => plain(true),
            Quiesce::WindowsVss { minutes } => Call::once("CreateSnapshotEx_Task", vm)
                .text("name", &spec.name)
                .text("description", &spec.description)
                .value("memory", false)
                .raw(&windows_spec(minutes)),
        };
        let answer = match self.call(call) {
            // Servers before 6.5, and some that forward to them, lack the newer call.
            Err(err)
                if matches!(spec.quiesce, Quiesce::WindowsVss { .. })
                    && matches!(err.fault(), Some("MethodNotFound" | "NotSupported" | "InvalidRequest")) =>
            {
                tracing::info!(%err, "no Windows quiescing on this server, using the plain one");
                self.call(plain(true))?
            }
            other => other?,
        };
        task_of(&answer, "CreateSnapshot_Task")
    }

    /// Waits for a task of [`Client::request_snapshot`] and gives the snapshot.
    ///
    /// # Errors
    /// As for [`Client::create_snapshot`].
    pub fn await_snapshot(&self, task: &Moref, wait: &Wait) -> Result<Moref> {
        self.wait(task, wait)?
            .filter(|result| result.kind == "VirtualMachineSnapshot" || result.kind.is_empty())
            .map(|result| Moref::new("VirtualMachineSnapshot", result.value))
            .ok_or_else(|| Error::protocol("CreateSnapshot_Task", "the task gave no snapshot"))
    }

    /// Waits until none of the VM's tasks is queued or running, whatever becomes of them.
    ///
    /// # Errors
    /// [`Error::TaskTimeout`], or what the server says.
    pub fn await_idle(&self, vm: &Moref, wait: &Wait) -> Result<()> {
        let tasks = self.properties(vm, &["recentTask"])?;
        for task in tasks.get("recentTask").map(|list| &list.children).into_iter().flatten().filter_map(Node::moref) {
            match self.wait(&task, wait) {
                Ok(_) | Err(Error::Task { .. }) => {}
                Err(err) if err.is_not_found() => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    /// Removes one snapshot, leaving those made on top of it, and merges its disks into their parents.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when it is gone already, [`Error::is_busy`] when another task holds the VM.
    pub fn remove_snapshot(&self, snapshot: &Moref, wait: &Wait) -> Result<()> {
        let call =
            Call::once("RemoveSnapshot_Task", snapshot).value("removeChildren", false).value("consolidate", true);
        let task = task_of(&self.call(call)?, "RemoveSnapshot_Task")?;
        self.wait(&task, wait).map(drop)
    }

    /// Merges disks that removed snapshots have left behind.
    ///
    /// # Errors
    /// What the server says.
    pub fn consolidate_disks(&self, vm: &Moref, wait: &Wait) -> Result<()> {
        let answer = self.call(Call::once("ConsolidateVMDisks_Task", vm))?;
        let task = task_of(&answer, "ConsolidateVMDisks_Task")?;
        self.wait(&task, wait).map(drop)
    }

    /// The disks as a snapshot froze them, in controller order. Their files are the ones the VM wrote to
    /// *before* the snapshot, which nobody writes to any more.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when the snapshot is gone.
    pub fn snapshot_disks(&self, snapshot: &Moref) -> Result<Vec<Disk>> {
        let devices = self.property(snapshot, "config.hardware.device")?;
        Ok(read_disks(&devices.children))
    }
}

/// `vssBackupType` 5 is VSS_BT_COPY (vsbackup.h).
fn windows_spec(minutes: u32) -> String {
    format!(
        "<quiesceSpec xsi:type=\"VirtualMachineWindowsQuiesceSpec\"><timeout>{}</timeout>\
         <vssBackupType>5</vssBackupType><vssBootableSystemState>true</vssBootableSystemState>\
         <vssPartialFileSupport>false</vssPartialFileSupport><vssBackupContext>ctx_auto</vssBackupContext>\
         </quiesceSpec>",
        minutes.clamp(5, 240)
    )
}

fn task_of(answer: &Node, method: &'static str) -> Result<Moref> {
    let task = answer.child("returnval").and_then(Node::moref).ok_or_else(|| Error::protocol(method, "no task"))?;
    Ok(Moref::new("Task", task.value))
}
