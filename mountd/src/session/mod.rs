//! Sessions: a mount, the background process that serves it, and what is kept about it on disk.
//!
//! ```text
//!  vcbmount mount ──spawn──► vcbmount __serve ──spawn──► vcbmount __watch
//!        ◄── ready or why not ──┘      │ ◄── tether (socket) ──┘
//!     prints the path, ends            │ serves until SIGTERM or umount
//!                                      ▼ gone without a word: the watcher unmounts
//!  vcbmount umount ──SIGTERM──► unmounts, lazily after a while; removes what it made
//! ```
//! A crash of one server takes one mount. What is left after worse (both processes killed, the host
//! stopped) is recognised by its record and by the mark on its mount, and [`cleanup`] puts it right.

mod mount_point;
mod serve;
mod start;
mod state;
mod stop;
mod watch;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vcb_block::{Trouble, TroubleKind};
use vcb_vsphere::Secret;

pub use crate::config::Mode;
use crate::front::{FrontOptions, Unreadable};
use crate::plan::MountPlan;
use crate::view::{FileOptions, FullVmOptions, Note};

pub use serve::{OpenPlan, hidden};
pub use start::{Program, Started, start};
pub use state::{Process, Record, STATE_VARIABLE, Stage, StateDir, new_id};
pub use stop::{Cleaned, Unmounted, cleanup, umount};

/// What a background process is asked to serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Id of the session, from [`new_id`].
    pub id: String,
    /// The VM.
    pub plan: MountPlan,
    /// What of it is shown.
    pub show: Show,
    /// Where. Made when it is missing.
    pub at: PathBuf,
    /// How.
    pub front: FrontOptions,
    /// The password of the server that files are read through. It goes through a pipe, and is not kept.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "secret")]
    pub password: Option<Secret>,
}

/// The password on its way through the pipe.
mod secret {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use vcb_vsphere::Secret;

    pub fn serialize<S: Serializer>(secret: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
        secret.as_ref().map(Secret::expose).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Secret::new))
    }
}

/// What is shown of a VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Show {
    /// The guest's files.
    File(FileOptions),
    /// The VM's folder with whole images.
    Fullvm(FullVmOptions),
}

impl Show {
    /// Its name on the command line.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self {
            Show::File(_) => Mode::File,
            Show::Fullvm(_) => Mode::Fullvm,
        }
    }
}

/// A session as it is now.
#[derive(Debug, Clone, Serialize)]
pub struct Session {
    /// What is on disk.
    #[serde(flatten)]
    pub record: Record,
    /// How it is.
    pub health: Health,
    /// What is wrong with the storage it reads from.
    pub storage: Option<Storage>,
    /// What could not be read so far.
    pub unreadable: Vec<Unreadable>,
}

/// How a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Being set up.
    Starting,
    /// Served.
    Mounted,
    /// Its process is gone, and `umount` or `cleanup` has something to do.
    Dead,
}

/// What is wrong with the storage of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// How bad it is.
    pub state: StorageState,
    /// When it began, RFC 3339.
    pub since: String,
    /// Where, and the last error.
    pub reason: String,
}

/// How bad the trouble with storage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageState {
    /// Reads failed and succeeded when they were repeated.
    Degraded,
    /// Reads fail although they are repeated.
    Failed,
    /// A file is no longer what was opened: it cannot be read any more, and what was read does not count.
    Voided,
}

impl From<&Trouble> for Storage {
    fn from(trouble: &Trouble) -> Self {
        let state = match trouble.kind {
            TroubleKind::Degraded => StorageState::Degraded,
            TroubleKind::Failed => StorageState::Failed,
            TroubleKind::Voided => StorageState::Voided,
        };
        let since = jiff::Timestamp::try_from(trouble.since).map(|time| time.to_string()).unwrap_or_default();
        Storage { state, since, reason: trouble.reason.clone() }
    }
}

/// The sessions of this user, oldest first.
///
/// # Errors
/// When the state folder cannot be read.
pub fn list(state: &StateDir) -> crate::Outcome<Vec<Session>> {
    let session = |record: Record| {
        let health = match (record.stage, record.server.is_alive()) {
            (_, false) => Health::Dead,
            (Stage::Starting, true) => Health::Starting,
            (Stage::Mounted, true) => Health::Mounted,
        };
        let (storage, unreadable) = (state.storage(&record.id), state.unreadable(&record.id));
        Session { record, health, storage, unreadable }
    };
    Ok(state.records()?.into_iter().map(session).collect())
}

/// What the background process tells whoever started it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ready { notes: Vec<Note> },
    Failed { code: u16, what: String, cause: Option<String>, next: String },
}
