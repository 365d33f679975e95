//! `cp`: files and folders to this host.

use std::ffi::OsString;
use std::fs::{File, FileTimes, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vcb_block::{BlockRef, RunKind, Runs, plan};
use vcb_fs::{FileId, FileType, Filesystem, LinkTarget, NameBuf, Time};
use vcb_mountd::{Code, Exit, Failure, Outcome};

use super::target;
use crate::args::Reading;
use crate::context::Context;
use crate::output::{arg_bytes, print_failure, printable};
use crate::sys;

/// Bytes copied at a time.
const PIECE: u64 = 1 << 20;

/// How to copy.
pub struct How {
    pub recursive: bool,
    pub stream: Option<OsString>,
    pub force: bool,
}

/// Copies `DISK N:/path TARGET` or `'[datastore] file' TARGET`.
pub fn run(args: &[OsString], how: &How, reading: &Reading, context: &Context) -> Outcome<Exit> {
    let text = |arg: &OsString| {
        let wrong = || Failure::new(Code::Usage, format!("'{}' is not text", arg.display()));
        arg.to_str().map(str::to_owned).ok_or_else(wrong)
    };
    let mut copy = Copy { how, context, failed: false };
    match args {
        [disk, target] => {
            let disk = text(disk)?;
            let place = target::on_datastore(&disk, context)?.ok_or_else(|| {
                Failure::new(Code::Usage, format!("which file of {disk}?"))
                    .next_step("Write DISK N:/path TARGET, or '[datastore] folder/file' TARGET.")
            })?;
            let failed = |err| Failure::reading(format!("cannot open {disk}"), err);
            let block = place.store.open(&place.path.path).map_err(failed)?;
            let name = vcb_mountd::datastore::file_name(&place.path.path).as_bytes().to_vec();
            let to = into(Path::new(target), &name)?;
            let times = block.modified().and_then(Time::from_system).map(|time| (time, time));
            copy.file(&block, &to, times)?;
            let verified = place.store.resolver().and_then(|storage| storage.verify());
            verified.map_err(|err| discarded(&to, err))?;
        }
        [disk, path, target] => {
            let vm = target::open(&text(disk)?, reading, context)?;
            let file = target::on_volume(&vm, path)?;
            let to = if file.name.is_empty() { PathBuf::from(target) } else { into(Path::new(target), &file.name)? };
            copy.tree(&*file.fs, file.id, to.clone(), &file.shown)?;
            vm.verify().map_err(|err| changed(&to, err))?;
        }
        _ => return Err(Failure::new(Code::Usage, "two or three arguments are needed")),
    }
    Ok(if copy.failed { Exit::Partial } else { Exit::Done })
}

/// `target` itself, or the entry `name` in it when it is a folder.
fn into(target: &Path, name: &[u8]) -> Outcome<PathBuf> {
    if !target.is_dir() {
        return Ok(target.to_owned());
    }
    let name = safe_name(name).ok_or_else(|| unusable(name))?;
    Ok(target.join(name))
}

/// A name as a file of this host, unless it would lead elsewhere: the names on a hostile volume are hostile.
fn safe_name(name: &[u8]) -> Option<OsString> {
    let unsafe_name = matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, b'/' | 0));
    (!unsafe_name).then(|| sys::os_name(name)).flatten()
}

fn unusable(name: &[u8]) -> Failure {
    Failure::new(Code::Unsupported, format!("'{}' cannot be the name of a file on this host", printable(name)))
}

struct Copy<'a> {
    how: &'a How,
    context: &'a Context,
    failed: bool,
}

/// Something still to be copied.
struct Pending {
    id: FileId,
    /// Folder and name by which it was found below what the user named.
    known_as: Option<(FileId, NameBuf)>,
    to: PathBuf,
    shown: String,
}

impl Copy<'_> {
    /// Copies a file, or a folder with all below it. Only the failure of the file or folder that the user
    /// named ends the command; others are reported and the rest is copied.
    fn tree(&mut self, fs: &dyn Filesystem, id: FileId, to: PathBuf, shown: &str) -> Outcome<()> {
        let mut pending = vec![Pending { id, known_as: None, to, shown: shown.to_owned() }];
        let mut first = true;
        while let Some(next) = pending.pop() {
            match self.one(fs, &next, &mut pending) {
                Err(failure) if first => return Err(failure),
                Err(failure) => self.report(&failure),
                Ok(()) => {}
            }
            first = false;
        }
        Ok(())
    }

    fn one(&mut self, fs: &dyn Filesystem, next: &Pending, pending: &mut Vec<Pending>) -> Outcome<()> {
        let failed = |err| Failure::reading(format!("cannot read {}", next.shown), err);
        let attr = match &next.known_as {
            Some((dir, name)) => fs.attr_as(*dir, name, next.id),
            None => fs.attr(next.id),
        };
        let attr = attr.map_err(failed)?;
        match attr.kind {
            FileType::Dir if self.how.recursive => self.folder(fs, next, pending),
            FileType::Dir => Err(Failure::new(Code::Usage, format!("{} is a folder", next.shown))
                .next_step("Give -r to copy it with all that is in it.")),
            FileType::Symlink => self.link(fs, next),
            FileType::File | FileType::Other => {
                let block = fs.open(next.id, self.how.stream.as_deref().map(arg_bytes)).map_err(failed)?;
                self.file(&block, &next.to, Some((attr.modified, attr.accessed)))
            }
        }
    }

    fn folder(&mut self, fs: &dyn Filesystem, next: &Pending, pending: &mut Vec<Pending>) -> Outcome<()> {
        // A link in the way, perhaps one that this very tree put there, is not followed.
        if !next.to.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            std::fs::create_dir(&next.to).map_err(|err| write_failed(&next.to, err))?;
        }
        let mut entries = Vec::new();
        let read = fs.read_dir(next.id, 0, &mut |entry| {
            entries.push(entry);
            ControlFlow::Continue(())
        });
        for entry in entries.into_iter().rev() {
            match safe_name(&entry.name) {
                Some(name) => pending.push(Pending {
                    id: entry.id,
                    to: next.to.join(name),
                    shown: format!("{}/{}", next.shown.trim_end_matches('/'), printable(&entry.name)),
                    known_as: Some((next.id, entry.name)),
                }),
                None => self.report(&unusable(&entry.name)),
            }
        }
        read.map_err(|err| Failure::reading(format!("cannot list {} to its end", next.shown), err))
    }

    fn link(&mut self, fs: &dyn Filesystem, next: &Pending) -> Outcome<()> {
        let failed = |err| Failure::reading(format!("cannot read the link {}", next.shown), err);
        let parts = match fs.read_link(next.id).map_err(failed)? {
            LinkTarget::Relative(parts) => parts,
            LinkTarget::Volume(_) | LinkTarget::Guest { .. } | LinkTarget::Foreign(_) => {
                self.context.warn(format_args!("{} leads elsewhere and was left out", next.shown));
                return Ok(());
            }
        };
        sys::symlink(&parts.join(&b'/'), &next.to).map_err(|err| write_failed(&next.to, err))
    }

    fn report(&mut self, failure: &Failure) {
        print_failure(failure, self.context.json);
        self.failed = true;
    }

    /// Copies content. Holes stay holes. `times` are those of the last write and the last access.
    fn file(&self, block: &BlockRef, to: &Path, times: Option<(Time, Time)>) -> Outcome<()> {
        let mut options = OpenOptions::new();
        options.write(true);
        if self.how.force {
            options.create(true).truncate(true)
        } else {
            options.create_new(true)
        };
        let mut file = options.open(to).map_err(|err| write_failed(to, err))?;
        let copied = copy_content(block, &mut file);
        let copied = copied.and_then(|()| match times {
            Some(times) => set_times(&file, times).map_err(CopyError::Write),
            None => Ok(()),
        });
        copied.map_err(|err| {
            // Half a file must not be taken for a whole one.
            let _ = std::fs::remove_file(to);
            match err {
                CopyError::Read(err) => Failure::reading(format!("cannot read the content for {}", to.display()), err),
                CopyError::Write(err) => write_failed(to, err),
            }
        })
    }
}

enum CopyError {
    Read(vcb_block::Error),
    Write(std::io::Error),
}

fn copy_content(block: &BlockRef, file: &mut File) -> Result<(), CopyError> {
    file.set_len(block.len()).map_err(CopyError::Write)?;
    let mut bytes = vec![0; PIECE.min(block.len()) as usize];
    let mut offset = 0;
    while offset < block.len() {
        let len = PIECE.min(block.len() - offset);
        let runs = Runs::of(block, offset..offset + len).map_err(CopyError::Read)?;
        if runs.as_slice().iter().any(|run| run.kind != RunKind::Zero) {
            let piece = &mut bytes[..len as usize];
            plan::read(block, piece, offset).map_err(CopyError::Read)?;
            file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(piece)).map_err(CopyError::Write)?;
        }
        offset += len;
    }
    Ok(())
}

fn set_times(file: &File, (modified, accessed): (Time, Time)) -> std::io::Result<()> {
    let (Some(modified), Some(accessed)) = (system_time(modified), system_time(accessed)) else { return Ok(()) };
    file.set_times(FileTimes::new().set_modified(modified).set_accessed(accessed))
}

fn system_time(time: Time) -> Option<SystemTime> {
    let (seconds, nanoseconds) = time.unix();
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base?.checked_add(Duration::from_nanos(u64::from(nanoseconds)))
}

/// The storage changed while it was read.
fn changed(to: &Path, err: vcb_block::Error) -> Failure {
    Failure::reading(format!("what was copied to {} cannot be trusted", to.display()), err)
}

/// As [`changed`], for a single file, which is removed.
fn discarded(to: &Path, err: vcb_block::Error) -> Failure {
    let _ = std::fs::remove_file(to);
    changed(to, err)
}

fn write_failed(to: &Path, err: std::io::Error) -> Failure {
    let exists = err.kind() == std::io::ErrorKind::AlreadyExists;
    let failure = Failure::new(Code::Failed, format!("cannot write {}", to.display())).because(err);
    if exists {
        failure.next_step("Give --force to replace what is there.")
    } else {
        failure.next_step("Check the target folder, its permissions and its free space.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_no_names() {
        for name in [b"".as_slice(), b".", b"..", b"a/b", b"/etc/passwd", b"a\0b"] {
            assert_eq!(safe_name(name), None, "{name:?}");
        }
        assert_eq!(safe_name(b"..."), crate::sys::os_name(b"..."));
    }

    #[test]
    fn times_before_1970_are_kept() {
        let time = system_time(Time(116_444_736_000_000_000 - 5)).unwrap();
        assert_eq!(UNIX_EPOCH.duration_since(time).unwrap(), Duration::from_nanos(500));
    }
}
