//! The watcher: a process whose only task is to outlive the server.
//!
//! It holds one end of a socket. When the other end closes without a farewell, the server is gone, however
//! it ended, and its mount is taken away so that nobody hangs on it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::mount_point;
use super::start::Program;
use super::state::Record;
use crate::sys;

/// Argument that makes the program a watcher.
pub(super) const COMMAND: &str = "__watch";

/// What the server tells its watcher.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    /// This is mounted now.
    Mounted { at: PathBuf, source: String },
    /// All is done.
    Farewell,
}

/// The server's end. Dropping it without a farewell lets the watcher act.
pub(super) struct Watcher(sys::Tether);

impl Watcher {
    pub(super) fn spawn(program: &Program) -> std::io::Result<Self> {
        sys::spawn_tethered(&program.path, &program.with(COMMAND)).map(Watcher)
    }

    pub(super) fn mounted(&mut self, record: &Record) {
        self.say(&Word::Mounted { at: record.at.clone(), source: record.source() });
    }

    pub(super) fn farewell(mut self) {
        self.say(&Word::Farewell);
    }

    fn say(&mut self, word: &Word) {
        let line = serde_json::to_string(word).map_err(std::io::Error::from).map(|line| line + "\n");
        if let Err(err) = line.and_then(|line| self.0.write_all(line.as_bytes())) {
            tracing::warn!(%err, "the watcher is gone: after a crash the mount has to be removed by hand");
        }
    }
}

/// The watcher's whole life. `tether` is the other end of the server's socket.
pub(super) fn watch(tether: impl Read) {
    sys::leave_terminal();
    let mut mounted = None;
    for line in BufReader::new(tether).lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Word::Mounted { at, source }) => mounted = Some((at, source)),
            Ok(Word::Farewell) => return,
            Err(err) => tracing::error!(%err, "the server said something unknown"),
        }
    }
    let Some((at, source)) = mounted else { return };
    // Somebody may have unmounted it, and mounted something else there, in the meantime.
    match mount_point::mounted_at(&at) {
        Ok(Some(entry)) if entry.source == source => {
            if let Err(err) = sys::unmount(&at, true) {
                tracing::error!(at = %at.display(), %err, "the mount of a dead server cannot be removed");
            }
        }
        Ok(_) => {}
        Err(err) => tracing::error!(?err, "the mount of a dead server cannot be found"),
    }
}
