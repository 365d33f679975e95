//! What we hold on VMs, on disk before it is held.
//!
//! One JSON file per lease, `leases/ID.json` in the state folder, replaced by a synced temporary file and a
//! rename at every step. Beside it `ID.lock` is locked by the process that works on the lease, so that a
//! lease whose process is gone can be told from one that is being worked on, without process numbers.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vcb_vsphere::Moref;

use super::fault;
use crate::failure::{Code, Failure, Outcome};
use crate::plan::VmIdentity;
use crate::sys::sync_folder;

/// Form of the files; others are refused.
const VERSION: u32 = 1;
/// What every snapshot of ours is called, followed by the lease's id.
pub const MARK: &str = "vcbmount-";

/// How far a lease has come. A step is written before it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Nothing has been asked for yet.
    Planned,
    /// Moving the VM is about to be forbidden, or is.
    HoldingRelocation,
    /// The snapshot is about to be asked for; its name is known.
    AskingForSnapshot,
    /// The task that makes it is known.
    MakingSnapshot,
    /// It exists.
    Frozen,
    /// It is about to be mounted, or is, for the process that works on the lease.
    Mounting,
    /// It is mounted, and stays so without that process.
    Mounted,
    /// It is about to be removed.
    Releasing,
}

/// A lease as the journal keeps it. Holds no secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    version: u32,
    /// Unique; part of the snapshot's name.
    pub id: String,
    /// How far it has come.
    pub step: Step,
    /// The server, as the configuration names it.
    pub server: String,
    /// Which VM.
    pub vm: VmIdentity,
    /// Name of the snapshot.
    pub snapshot_name: String,
    /// Managed object id of the task that makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Managed object id of the snapshot, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Whether releasing the lease removes the snapshot.
    pub remove: bool,
    /// Whether moving the VM was forbidden.
    #[serde(default)]
    pub relocation: bool,
    /// Where it is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_point: Option<PathBuf>,
    /// When it began, RFC 3339.
    pub created: String,
}

impl Lease {
    /// The VM at the server.
    #[must_use]
    pub fn vm_moref(&self) -> Moref {
        Moref::new("VirtualMachine", self.vm.moref.clone().unwrap_or_default())
    }

    /// In whose name moving the VM is forbidden.
    #[must_use]
    pub fn holder(&self) -> String {
        format!("{MARK}{}", self.id)
    }

    /// Whether the snapshot is one that we made.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.snapshot_name == self.holder()
    }
}

/// A lease that this process works on.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    lock: File,
    /// The lease as it was last written.
    pub lease: Lease,
}

impl Journal {
    /// Begins a lease. `snapshot` is an existing snapshot's name; without it one of our own is to be made.
    ///
    /// # Errors
    /// [`Code::State`] when the state folder cannot be used.
    pub fn begin(state: &Path, server: &str, vm: VmIdentity, snapshot: Option<String>) -> Outcome<Journal> {
        let folder = state.join("leases");
        std::fs::create_dir_all(&folder).map_err(|err| unusable(&folder, err))?;
        // A collision is next to impossible, and found out by the lock.
        for _ in 0..8 {
            let id = new_id();
            let Some(lock) = try_lock(&folder, &id)? else { continue };
            let name = snapshot.clone().unwrap_or_else(|| format!("{MARK}{id}"));
            let lease = Lease {
                version: VERSION,
                id,
                step: Step::Planned,
                server: server.to_owned(),
                vm,
                snapshot_name: name,
                task: None,
                snapshot: None,
                remove: false,
                relocation: false,
                mount_point: None,
                created: jiff::Timestamp::now().to_string(),
            };
            let journal = Journal { folder, lock, lease };
            journal.write()?;
            return Ok(journal);
        }
        Err(Failure::new(Code::State, "no free name for a lease was found"))
    }

    /// Takes over the lease `id`; `None` when another process works on it, or it is gone.
    ///
    /// # Errors
    /// [`Code::State`] when it cannot be read.
    pub fn take(state: &Path, id: &str) -> Outcome<Option<Journal>> {
        let folder = state.join("leases");
        let Some(lock) = try_lock(&folder, id)? else { return Ok(None) };
        match read(&folder.join(format!("{id}.json")))? {
            Some(lease) => Ok(Some(Journal { folder, lock, lease })),
            None => {
                remove(&folder.join(format!("{id}.lock")))?;
                Ok(None)
            }
        }
    }

    /// All leases, oldest first, those being worked on included.
    ///
    /// # Errors
    /// [`Code::State`] when the folder or a file in it cannot be read.
    pub fn all(state: &Path) -> Outcome<Vec<Lease>> {
        let folder = state.join("leases");
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(err) => return Err(unusable(&folder, err)),
        };
        let mut leases = Vec::new();
        for entry in entries {
            let path = entry.map_err(|err| unusable(&folder, err))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                leases.extend(read(&path)?);
            }
        }
        leases.sort_by(|a: &Lease, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
        Ok(leases)
    }

    /// Removes what processes have left that died before their lease was written, or after it was ended.
    ///
    /// # Errors
    /// [`Code::State`].
    pub fn sweep(state: &Path) -> Outcome<()> {
        let folder = state.join("leases");
        let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(()) };
        for entry in entries {
            let path = entry.map_err(|err| unusable(&folder, err))?.path();
            let (Some(id), Some(kind)) = (path.file_stem().and_then(|id| id.to_str()), path.extension()) else {
                continue;
            };
            let whole = folder.join(format!("{id}.json"));
            if (kind != "lock" && kind != "new") || whole.exists() {
                continue;
            }
            if let Some(_lock) = try_lock(&folder, id)? {
                // Written between our looking and our locking it.
                if !whole.exists() {
                    remove(&folder.join(format!("{id}.new")))?;
                    remove(&folder.join(format!("{id}.lock")))?;
                }
            }
        }
        Ok(())
    }

    /// Whether a process works on the lease `id` now.
    ///
    /// # Errors
    /// [`Code::State`].
    pub fn is_worked_on(state: &Path, id: &str) -> Outcome<bool> {
        Ok(try_lock(&state.join("leases"), id)?.is_none())
    }

    /// Writes that `step` is about to be taken, with what `change` adds to the lease.
    ///
    /// # Errors
    /// [`Code::State`]; the step must not be taken then.
    pub fn step(&mut self, step: Step, change: impl FnOnce(&mut Lease)) -> Outcome<()> {
        self.lease.step = step;
        change(&mut self.lease);
        self.write()
    }

    fn write(&self) -> Outcome<()> {
        let name = format!("{:?}", self.lease.step);
        fault::point(&format!("before journal {name}"));
        let path = self.folder.join(format!("{}.json", self.lease.id));
        let failed = |err| unusable(&path, err);
        let text = serde_json::to_vec_pretty(&self.lease)
            .map_err(|err| Failure::new(Code::State, "the lease cannot be written").because(err))?;
        let temporary = self.folder.join(format!("{}.new", self.lease.id));
        let mut file = File::create(&temporary).map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&temporary, &path).map_err(failed)?;
        sync_folder(&self.folder).map_err(failed)?;
        fault::point(&format!("after journal {name}"));
        Ok(())
    }

    /// Forgets the lease: nothing of it is left.
    ///
    /// # Errors
    /// [`Code::State`].
    pub fn end(self) -> Outcome<()> {
        fault::point("before journal end");
        remove(&self.folder.join(format!("{}.new", self.lease.id)))?;
        remove(&self.folder.join(format!("{}.json", self.lease.id)))?;
        sync_folder(&self.folder).map_err(|err| unusable(&self.folder, err))?;
        fault::point("after journal end");
        remove(&self.folder.join(format!("{}.lock", self.lease.id)))?;
        drop(self.lock);
        Ok(())
    }
}

/// Locks a lease's lock file; `None` when another process has it. Files are not unlinked while others wait
/// for them, because nobody waits.
fn try_lock(folder: &Path, id: &str) -> Outcome<Option<File>> {
    let path = folder.join(format!("{id}.lock"));
    let file = match File::options().create(true).truncate(false).write(true).open(&path) {
        Ok(file) => file,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(unusable(&path, err)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(err)) => Err(unusable(&path, err)),
    }
}

fn read(path: &Path) -> Outcome<Option<Lease>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(unusable(path, err)),
    };
    let lease: Lease = serde_json::from_slice(&text)
        .map_err(|err| Failure::new(Code::State, format!("{} is no lease", path.display())).because(err))?;
    if lease.version != VERSION {
        let what = format!("{} was written by another version", path.display());
        return Err(Failure::new(Code::State, what).because(format!("version {}", lease.version)));
    }
    Ok(Some(lease))
}

fn remove(path: &Path) -> Outcome<()> {
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(unusable(path, err)),
        _ => Ok(()),
    }
}

fn unusable(path: &Path, err: std::io::Error) -> Failure {
    Failure::new(Code::State, format!("cannot use {}", path.display())).because(err)
}

/// Sixteen hex digits: the time in microseconds and the process, mixed so that ids of processes started
/// together differ in the digits that people look at.
fn new_id() -> String {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_i128(jiff::Timestamp::now().as_nanosecond());
    hasher.write_u32(std::process::id());
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm() -> VmIdentity {
        VmIdentity { name: "web".into(), uuid: None, moref: Some("vm-1".into()) }
    }

    #[test]
    fn a_lease_is_kept_from_step_to_step_and_forgotten_at_the_end() {
        let state = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(state.path(), "vc", vm(), None).unwrap();
        assert!(journal.lease.is_marked() && !journal.lease.remove);
        journal.step(Step::Frozen, |lease| lease.snapshot = Some("snapshot-1".into())).unwrap();
        assert_eq!(Journal::all(state.path()).unwrap(), [journal.lease.clone()]);
        journal.end().unwrap();
        assert!(Journal::all(state.path()).unwrap().is_empty());
        assert_eq!(std::fs::read_dir(state.path().join("leases")).unwrap().count(), 0);
    }

    #[test]
    fn a_lease_is_worked_on_by_one_process() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::begin(state.path(), "vc", vm(), None).unwrap();
        let id = journal.lease.id.clone();
        assert!(Journal::take(state.path(), &id).unwrap().is_none());
        assert!(Journal::is_worked_on(state.path(), &id).unwrap());
        drop(journal);
        // A child that another test is starting holds our lock too, until it has become its program.
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let again = loop {
            match Journal::take(state.path(), &id).unwrap() {
                Some(again) => break again,
                None => assert!(std::time::Instant::now() < patience, "the lock is not given back"),
            }
        };
        assert_eq!(again.lease.id, id);
        again.end().unwrap();
        assert!(Journal::take(state.path(), &id).unwrap().is_none());
    }

    #[test]
    fn files_that_are_no_leases_are_errors_and_not_skipped() {
        let state = tempfile::tempdir().unwrap();
        std::fs::create_dir(state.path().join("leases")).unwrap();
        std::fs::write(state.path().join("leases/x.json"), "{").unwrap();
        assert_eq!(Journal::all(state.path()).unwrap_err().code(), Code::State);
    }
}
