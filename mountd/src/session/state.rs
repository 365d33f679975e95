//! The state folder: one record for every session, in JSON, and what belongs to it.
//!
//! ```text
//! STATE/sessions/ID.json              the record: written to a temporary file, fsynced, renamed
//! STATE/sessions/ID.unreadable.jsonl  what could not be read, one line per file
//! STATE/sessions/ID.storage           what is wrong with the storage at present, in JSON; usually not there
//! STATE/sessions/ID.log               stderr of the background process
//! STATE/locks/HASH.lock               held by the process that serves the mount point of that name
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Mode, Storage};
use crate::failure::{Code, Failure, Outcome};
use crate::front::Unreadable;
use crate::plan::VmIdentity;
use crate::sys;
pub use crate::sys::Process;

/// Version of the record's form. Records of another version are left alone and named.
const VERSION: u32 = 1;
/// Environment variable that names another state folder.
pub const STATE_VARIABLE: &str = "VCBMOUNT_STATE";
/// Longest line of a report that is read back.
const MAX_ENTRIES: usize = 100_000;

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Nothing is mounted yet.
    Starting,
    /// The mount answers, as long as its process lives.
    Mounted,
}

/// A session as it is kept on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this form.
    pub version: u32,
    /// The session's id.
    pub id: String,
    /// The VM.
    pub vm: VmIdentity,
    /// What is shown.
    pub mode: Mode,
    /// The mount point, absolute.
    pub at: PathBuf,
    /// Folders that were made for it, deepest first.
    #[serde(default)]
    pub created: Vec<PathBuf>,
    /// Where it is.
    pub stage: Stage,
    /// The process that serves it.
    pub server: Process,
    /// When it was started, RFC 3339.
    pub started: String,
    /// Device number of the mount, as the table of mounts has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

impl Record {
    /// A record of a session that this process is about to serve.
    #[must_use]
    pub fn new(id: &str, vm: VmIdentity, mode: Mode, at: &Path) -> Self {
        Record {
            version: VERSION,
            id: id.to_owned(),
            vm,
            mode,
            at: at.to_owned(),
            created: Vec::new(),
            stage: Stage::Starting,
            server: Process::current(),
            started: jiff::Timestamp::now().to_string(),
            device: None,
        }
    }

    /// Name of its mount in the system's list of mounts.
    #[must_use]
    pub fn source(&self) -> String {
        source_of(&self.id)
    }
}

/// Name of a session's mount in the system's list of mounts.
pub(super) fn source_of(id: &str) -> String {
    format!("vcbmount:{id}")
}

/// A new session id: unique on this host, short enough to type.
#[must_use]
pub fn new_id() -> String {
    let process = Process::current();
    let now = jiff::Timestamp::now().as_nanosecond();
    // The time differs between sessions of one process, the process between simultaneous ones.
    let mixed = (now as u64) ^ (u64::from(process.pid) << 32) ^ process.started.rotate_left(17);
    format!("{:010x}", fnv(&mixed.to_le_bytes()) & 0xFF_FFFF_FFFF)
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

/// The folder in which sessions are kept.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// The usual one: `$VCBMOUNT_STATE`, else `/var/lib/vcbmount` for root and
    /// `$XDG_STATE_HOME/vcbmount` for others.
    ///
    /// # Errors
    /// When it cannot be made, or no home folder is known.
    pub fn usual() -> Outcome<Self> {
        let named = std::env::var_os(STATE_VARIABLE).map(PathBuf::from);
        let root = named.or_else(sys::state_folder);
        Self::at(root.ok_or_else(|| Failure::new(Code::State, "no state folder: HOME is not set"))?)
    }

    /// `root`, which is made when it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn at(root: impl Into<PathBuf>) -> Outcome<Self> {
        let state = StateDir { root: root.into() };
        for folder in [state.sessions(), state.root.join("locks")] {
            sys::create_private_dir(&folder).map_err(|err| state.failed("make", &folder, err))?;
        }
        Ok(state)
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn sessions(&self) -> PathBuf {
        self.root.join("sessions")
    }

    fn failed(&self, what: &str, path: &Path, err: io::Error) -> Failure {
        Failure::new(Code::State, format!("cannot {what} {}", path.display())).because(err)
    }

    fn record_file(&self, id: &str) -> PathBuf {
        self.sessions().join(format!("{id}.json"))
    }

    /// Where the background process writes what it has to say.
    #[must_use]
    pub fn log_file(&self, id: &str) -> PathBuf {
        self.sessions().join(format!("{id}.log"))
    }

    fn unreadable_file(&self, id: &str) -> PathBuf {
        self.sessions().join(format!("{id}.unreadable.jsonl"))
    }

    fn storage_file(&self, id: &str) -> PathBuf {
        self.sessions().join(format!("{id}.storage"))
    }

    /// Notes what is wrong with the storage of a session. Failing to must not stop the mount.
    pub(super) fn set_storage(&self, id: &str, storage: Option<&Storage>) {
        let path = self.storage_file(id);
        let done = match storage {
            Some(storage) => {
                serde_json::to_vec(storage).map_err(io::Error::from).and_then(|text| sys::replace_file(&path, &text))
            }
            None => fs::remove_file(&path),
        };
        if let Err(err) = done
            && err.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(%err, path = %path.display(), "the state of the storage cannot be noted");
        }
    }

    /// What is wrong with the storage of a session.
    #[must_use]
    pub fn storage(&self, id: &str) -> Option<Storage> {
        serde_json::from_slice(&fs::read(self.storage_file(id)).ok()?).ok()
    }

    /// Writes a record so that after a crash there is the old one or the new one.
    ///
    /// # Errors
    /// What the system says.
    pub fn save(&self, record: &Record) -> Outcome<()> {
        let path = self.record_file(&record.id);
        let text = serde_json::to_vec_pretty(record).map_err(|err| self.failed("write", &path, err.into()))?;
        sys::replace_file(&path, &text).map_err(|err| self.failed("write", &path, err))
    }

    /// Every record, oldest first. Files that are no records of ours are named in the log and left alone.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn records(&self) -> Outcome<Vec<Record>> {
        let folder = self.sessions();
        let mut records = Vec::new();
        for entry in fs::read_dir(&folder).map_err(|err| self.failed("read", &folder, err))? {
            let path = entry.map_err(|err| self.failed("read", &folder, err))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match fs::read(&path) {
                Ok(text) => match serde_json::from_slice::<Record>(&text) {
                    Ok(record) if record.version == VERSION => records.push(record),
                    Ok(record) => tracing::warn!(path = %path.display(), record.version, "of another version"),
                    Err(err) => tracing::warn!(path = %path.display(), %err, "no session"),
                },
                // Ended meanwhile.
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(self.failed("read", &path, err)),
            }
        }
        records.sort_by(|a, b| a.started.cmp(&b.started));
        Ok(records)
    }

    /// Removes a session and everything kept for it.
    ///
    /// # Errors
    /// What the system says, other than that it is gone already.
    pub fn forget(&self, id: &str) -> Outcome<()> {
        // The record goes last: while it exists, somebody will try again.
        for path in [self.unreadable_file(id), self.storage_file(id), self.log_file(id), self.record_file(id)] {
            match fs::remove_file(&path) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(self.failed("remove", &path, err)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The file to which unreadable files are added.
    pub(super) fn append_unreadable(&self, id: &str) -> Outcome<File> {
        let path = self.unreadable_file(id);
        let file = OpenOptions::new().append(true).create(true).open(&path);
        file.map_err(|err| self.failed("write", &path, err))
    }

    /// Opens what a session could not read, for reading it after the session has removed the file.
    pub(super) fn open_unreadable(&self, id: &str) -> Option<File> {
        File::open(self.unreadable_file(id)).ok()
    }

    /// What a session could not read so far.
    #[must_use]
    pub fn unreadable(&self, id: &str) -> Vec<Unreadable> {
        self.open_unreadable(id).map(read_unreadable).unwrap_or_default()
    }

    /// Takes the mount point `at` for this process, until the lock is dropped or the process ends.
    ///
    /// # Errors
    /// [`Code::MountPointBusy`] when another process has it.
    pub(super) fn lock(&self, at: &Path) -> Outcome<MountLock> {
        let name = format!("{:016x}.lock", fnv(at.as_os_str().as_encoded_bytes()));
        let path = self.root.join("locks").join(name);
        loop {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(|err| self.failed("open", &path, err))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let text = format!("{} is taken by another session", at.display());
                    return Err(Failure::new(Code::MountPointBusy, text));
                }
                Err(TryLockError::Error(err)) => return Err(self.failed("lock", &path, err)),
            }
            // The holder before us may have removed the file between our opening and our locking it.
            if sys::is_same_file(&file, &path) {
                return Ok(MountLock { path, _file: file });
            }
        }
    }
}

/// A mount point taken.
pub(super) struct MountLock {
    path: PathBuf,
    _file: File,
}

impl Drop for MountLock {
    fn drop(&mut self) {
        // While we hold it: whoever waits looks whether its file is still the one of that name.
        let _ = fs::remove_file(&self.path);
    }
}

/// Adds an entry; a report that cannot be written must not stop the mount.
pub(super) fn write_unreadable(mut file: &File, entry: &Unreadable) {
    let line = serde_json::to_string(entry).map(|line| line + "\n");
    if let Err(err) = line.map_err(io::Error::from).and_then(|line| file.write_all(line.as_bytes())) {
        tracing::error!(%err, path = %entry.path, "the report cannot be written");
    }
}

pub(super) fn read_unreadable(file: File) -> Vec<Unreadable> {
    let lines = BufReader::new(file).lines().map_while(Result::ok).take(MAX_ENTRIES);
    lines.filter_map(|line| serde_json::from_str(&line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::StorageState;

    #[test]
    fn records_come_back_and_strangers_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path().join("a/b")).unwrap();
        let vm = VmIdentity { name: "web \"1\"".to_owned(), ..VmIdentity::default() };
        let record = Record::new(&new_id(), vm, Mode::File, Path::new("/mnt/x"));
        state.save(&record).unwrap();
        fs::write(state.sessions().join("other.json"), "{\"version\": 9}").unwrap();
        assert_eq!(state.records().unwrap(), std::slice::from_ref(&record));
        let entry = Unreadable { path: "letters/C/x".to_owned(), error: "encrypted".to_owned() };
        write_unreadable(&state.append_unreadable(&record.id).unwrap(), &entry);
        assert_eq!(state.unreadable(&record.id), [entry]);
        let storage = Storage { state: StorageState::Failed, since: "now".to_owned(), reason: "\"x\"".to_owned() };
        assert_eq!(state.storage(&record.id), None);
        state.set_storage(&record.id, Some(&storage));
        assert_eq!(state.storage(&record.id), Some(storage));
        state.set_storage(&record.id, None);
        state.set_storage(&record.id, None);
        assert_eq!(state.storage(&record.id), None);
        state.forget(&record.id).unwrap();
        state.forget(&record.id).unwrap();
        assert!(state.records().unwrap().is_empty());
        assert!(state.sessions().join("other.json").exists());
    }

    #[test]
    fn a_mount_point_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path()).unwrap();
        let lock = state.lock(Path::new("/mnt/x")).unwrap();
        assert_eq!(state.lock(Path::new("/mnt/x")).err().unwrap().code(), Code::MountPointBusy);
        state.lock(Path::new("/mnt/y")).unwrap();
        drop(lock);
        state.lock(Path::new("/mnt/x")).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("locks")).unwrap().count(), 0);
    }

    #[test]
    fn ids_differ() {
        let ids: std::collections::HashSet<String> = (0..100).map(|_| new_id()).collect();
        assert_eq!(ids.len(), 100);
    }
}
