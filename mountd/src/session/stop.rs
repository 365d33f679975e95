//! Ending sessions, and putting right what crashed ones left.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::state::{Record, StateDir, read_unreadable};
use super::{Unreadable, mount_point};
use crate::failure::{Code, Failure, Outcome};
use crate::sys;

/// How long a server may take to end after it was asked to, before it is killed: its own time for
/// unmounting lazily and some more.
const SERVER_ENDS_WITHIN: Duration = Duration::from_secs(30);

/// What unmounting did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Unmounted {
    /// The session, when there was one.
    pub id: Option<String>,
    /// What could not be read while it was mounted.
    pub unreadable: Vec<Unreadable>,
    /// True when its process was dead already or had to be killed.
    pub crashed: bool,
}

/// Unmounts the session `target`, which is its id or its mount point. Where nothing is mounted any more,
/// there is nothing to do and that is no failure.
///
/// # Errors
/// [`Code::SessionNotFound`] for an id that no session has, [`Code::MountPoint`] for a mount that is not ours.
pub fn umount(state: &StateDir, target: &str) -> Outcome<Unmounted> {
    let records = state.records()?;
    if let Some(record) = records.iter().find(|record| record.id == target) {
        return end(state, record);
    }
    let at = mount_point::absolute(Path::new(target))?;
    if let Some(record) = records.iter().rev().find(|record| sys::is_same_path(&record.at, &at)) {
        return end(state, record);
    }
    match mount_point::mounted_at(&at)? {
        Some(entry) if mount_point::is_ours(&entry) => {
            // Another user's session, or one whose record was lost: the system decides whether we may.
            sys::unmount(&at, false).or_else(|_| sys::unmount(&at, true)).map_err(|err| cannot(&at, err))?;
            Ok(Unmounted::default())
        }
        Some(entry) => {
            let text = format!("{} is no mount of ours but {} ({})", at.display(), entry.source, entry.fs_type);
            Err(Failure::new(Code::MountPoint, text))
        }
        None if at == Path::new(target) || target.contains(std::path::MAIN_SEPARATOR) || Path::new(target).exists() => {
            Ok(Unmounted::default())
        }
        None => Err(Failure::new(Code::SessionNotFound, format!("no session '{target}'"))),
    }
}

fn end(state: &StateDir, record: &Record) -> Outcome<Unmounted> {
    // Opened now, because a server that ends well removes it.
    let report = state.open_unreadable(&record.id);
    let mut crashed = !record.server.is_alive();
    if record.server.is_alive() {
        sys::signal(record.server.pid, sys::Signal::Term);
        if !wait_until(SERVER_ENDS_WITHIN, || !record.server.is_alive()) {
            tracing::error!(pid = record.server.pid, "the server does not end: killed");
            sys::signal(record.server.pid, sys::Signal::Kill);
            crashed = true;
            wait_until(Duration::from_secs(5), || !record.server.is_alive());
        }
    }
    put_right(state, &record.id)?;
    let unreadable = report.map(read_unreadable).unwrap_or_default();
    Ok(Unmounted { id: Some(record.id.clone()), unreadable, crashed })
}

/// Removes what the dead session `id` left: mount, folders, files.
pub(super) fn put_right(state: &StateDir, id: &str) -> Outcome<()> {
    let Some(record) = state.records()?.into_iter().find(|record| record.id == id) else {
        return state.forget(id);
    };
    let is_mounted = || {
        let entry = mount_point::mounted_at(&record.at)?;
        Ok(entry.is_some_and(|entry| entry.source == record.source()))
    };
    if is_mounted()?
        && let Err(err) = sys::unmount(&record.at, true)
        // The watcher may have been quicker.
        && is_mounted()?
    {
        return Err(cannot(&record.at, err));
    }
    mount_point::remove(&record.created);
    // Taking the lock that died with its holder removes its file; a new holder keeps it.
    drop(state.lock(&record.at));
    state.forget(id)
}

/// Something that [`cleanup`] did or would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cleaned {
    /// The session, or the mark on the mount, that it belonged to.
    pub id: String,
    /// Where it was mounted.
    pub at: PathBuf,
    /// True when a mount was found on it.
    pub mounted: bool,
}

/// Puts right what crashed sessions left: dead mounts with our mark, folders made for them, records. Living
/// sessions and others' mounts are not touched. With `dry_run` it only looks.
///
/// # Errors
/// At the first thing that cannot be done.
pub fn cleanup(state: &StateDir, dry_run: bool) -> Outcome<Vec<Cleaned>> {
    let mut cleaned = Vec::new();
    let records = state.records()?;
    for record in records.iter().filter(|record| !record.server.is_alive()) {
        let mounted = mount_point::mounted_at(&record.at)?.is_some_and(|entry| entry.source == record.source());
        if !dry_run {
            put_right(state, &record.id)?;
        }
        cleaned.push(Cleaned { id: record.id.clone(), at: record.at.clone(), mounted });
    }
    let mounts =
        sys::mounts().map_err(|err| Failure::new(Code::Fuse, "cannot read the list of mounts").because(err))?;
    for entry in mounts {
        let known = records.iter().any(|record| record.source() == entry.source);
        if known || !mount_point::is_stale(&entry, state)? {
            continue;
        }
        if !dry_run {
            sys::unmount(&entry.at, true).map_err(|err| cannot(&entry.at, err))?;
        }
        cleaned.push(Cleaned { id: entry.source, at: entry.at, mounted: true });
    }
    Ok(cleaned)
}

fn cannot(at: &Path, err: std::io::Error) -> Failure {
    Failure::new(Code::Fuse, format!("cannot unmount {}", at.display())).because(err)
}

/// Asks `done` again and again until it says so or time is up; says whether it did.
pub(super) fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(5);
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}
