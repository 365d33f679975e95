//! What may be mounted on: an empty folder of the user's own, or one that is made for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::state::{StateDir, source_of};
use crate::failure::{Code, Failure, Outcome};
use crate::sys;

/// `at` made absolute without touching it: what is mounted there may be dead, and asking it would fail.
/// The folder that holds it is resolved, so that one place has one name.
pub(super) fn absolute(at: &Path) -> Outcome<PathBuf> {
    if let Some(at) = sys::bare_mount_point(at) {
        return Ok(at);
    }
    let refuse = |err| unusable(at, "its parent folder cannot be resolved").because(err);
    let full = std::path::absolute(at).map_err(refuse)?;
    let (Some(parent), Some(name)) = (full.parent(), full.file_name()) else {
        return Err(unusable(at, "the root folder cannot be mounted on"));
    };
    // Of a path that is yet to be made, as much is resolved as there is.
    let mut missing = vec![name.to_owned()];
    let mut existing = parent;
    let real = loop {
        match existing.canonicalize() {
            Ok(real) => break real,
            Err(err) if err.kind() == io::ErrorKind::NotFound => match (existing.parent(), existing.file_name()) {
                (Some(above), Some(name)) => {
                    missing.push(name.to_owned());
                    existing = above;
                }
                _ => return Err(refuse(err)),
            },
            Err(err) => return Err(refuse(err)),
        }
    };
    Ok(missing.into_iter().rev().fold(sys::plain(real), |path, name| path.join(name)))
}

/// Looks whether `at` (absolute) can be mounted on, and takes a dead mount of ours away from it. Gives the folders
/// that are missing, deepest first; [`make`] makes them.
pub(super) fn prepare(at: &Path, state: &StateDir) -> Outcome<Vec<PathBuf>> {
    if let Some(entry) = mounted_at(at)? {
        if !is_stale(&entry, state)? {
            let text = format!("{} ({}) is mounted on it", entry.source, entry.fs_type);
            return Err(unusable(at, &text));
        }
        sys::unmount(at, true).map_err(|err| unusable(at, "a dead mount of ours cannot be removed").because(err))?;
    }
    if sys::bare_mount_point(at).is_some() {
        return Ok(Vec::new());
    }
    let wanted = sys::folder_to_make(at);
    match fs::symlink_metadata(at) {
        Ok(meta) if meta.is_dir() => {
            let user = sys::user();
            if !user.is_root() && !sys::is_owner(&meta, user) {
                return Err(unusable(at, "it belongs to another user"));
            }
            let mut entries = fs::read_dir(at).map_err(|err| unusable(at, "it cannot be read").because(err))?;
            if entries.next().is_some() {
                return Err(unusable(at, "it is not empty"));
            }
            if wanted != at {
                return Err(unusable(at, "it exists, and the folder of a mount is made by mounting"));
            }
            Ok(Vec::new())
        }
        Ok(meta) if meta.is_symlink() => Err(unusable(at, "it is a symbolic link")),
        Ok(_) => Err(unusable(at, "it is not a folder")),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            let missing: Vec<PathBuf> =
                wanted.ancestors().take_while(|path| !path.exists()).map(Path::to_path_buf).collect();
            let above = wanted.ancestors().nth(missing.len());
            if let Some(above) = above.filter(|above| !above.is_dir()) {
                return Err(unusable(at, &format!("{} is not a folder", above.display())));
            }
            Ok(missing)
        }
        Err(err) => Err(unusable(at, "it cannot be examined").because(err)),
    }
}

/// Makes the folders that [`prepare`] has found missing. Those above the mount point may be made, or removed as
/// empty, by other sessions at the same time.
pub(super) fn make(missing: &[PathBuf]) -> Outcome<()> {
    let Some(at) = missing.first() else { return Ok(()) };
    let above = at.parent().unwrap_or(at);
    let mut attempts = 0;
    loop {
        match fs::create_dir_all(above).and_then(|()| fs::create_dir(at)) {
            Err(err) if err.kind() == io::ErrorKind::NotFound && attempts < 10 => attempts += 1,
            other => return other.map_err(|err| unusable(at, "it cannot be made").because(err)),
        }
    }
}

/// Removes folders that were made, as far as they are empty.
pub(super) fn remove(created: &[PathBuf]) {
    for path in created {
        match fs::remove_dir(path) {
            // It was yet to be made.
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => {
                tracing::debug!(path = %path.display(), %err, "stays");
                return;
            }
            Ok(()) => {}
        }
    }
}

/// The topmost mount on `at`.
pub(super) fn mounted_at(at: &Path) -> Outcome<Option<sys::MountEntry>> {
    let mounts =
        sys::mounts().map_err(|err| Failure::new(Code::Fuse, "cannot read the list of mounts").because(err))?;
    Ok(mounts.into_iter().rev().find(|entry| sys::is_same_path(&entry.at, at)))
}

/// True for mounts that bear our mark.
pub(super) fn is_ours(entry: &sys::MountEntry) -> bool {
    entry.fs_type.starts_with("fuse") && entry.source.starts_with(&source_of(""))
}

/// True for a mount of ours that nobody serves any more. Others' mounts, dead or not, are never touched.
pub(super) fn is_stale(entry: &sys::MountEntry, state: &StateDir) -> Outcome<bool> {
    if !is_ours(entry) {
        return Ok(false);
    }
    let record = state.records()?.into_iter().find(|record| record.source() == entry.source);
    Ok(match record {
        Some(record) => !record.server.is_alive(),
        None => sys::is_disconnected(&entry.at),
    })
}

fn unusable(at: &Path, why: &str) -> Failure {
    Failure::new(Code::MountPoint, format!("cannot mount on {}: {why}", at.display())).next_step(sys::MOUNT_POINTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(dir.path().join("state")).unwrap();
        (dir, state)
    }

    #[test]
    fn missing_folders_are_made_and_removed_again() {
        let (dir, state) = state();
        let at = absolute(&dir.path().join("a/b/c")).unwrap();
        let created = prepare(&at, &state).unwrap();
        assert!(!dir.path().join("a").exists());
        make(&created).unwrap();
        let made = sys::folder_to_make(&at);
        assert!(made.is_dir());
        assert_eq!(created.len(), if made == at { 3 } else { 2 });
        remove(&created);
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn what_is_not_an_empty_folder_is_refused_and_stays_as_it_is() {
        let (dir, state) = state();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let link = dir.path().join("link");
        let linked = sys::symlink(dir.path(), &link).then_some(&link);
        for at in [&file, &dir.path().to_path_buf(), &file.join("below")].into_iter().chain(linked) {
            let failure = absolute(at).and_then(|at| prepare(&at, &state)).unwrap_err();
            assert_eq!(failure.code(), Code::MountPoint, "{}", at.display());
        }
        assert_eq!(prepare(Path::new(sys::TAKEN), &state).unwrap_err().code(), Code::MountPoint);
        assert!(absolute(Path::new("/")).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"x");
    }
}
