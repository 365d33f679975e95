//! A VMFS volume on LUNs as a datastore. Nothing is written, locked or reserved on a LUN.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vcb_block::{BlockRef, DeviceSource, Error, Kind, Result, RetryBlock, RetryPolicy};
use vcb_fs::vmfs::{self, Vmfs};
use vcb_fs::{FileId, FileType, Filesystem, LinkTarget, NameBuf};
use vcb_vmdk::{Resolved, Resolver, candidates};

use super::{Datastore, Entry, luns};

const LAYER: &str = "datastore";
/// Symbolic links followed for one name; the limit of Linux.
const MAX_LINKS: usize = 40;

/// A VMFS volume. Files that a live host may be writing are refused; files in use are compared with the
/// volume while they are read ([`Resolver::verify`]).
#[derive(Clone)]
pub struct VmfsStore {
    name: String,
    luns: Vec<PathBuf>,
    volume: Arc<Vmfs>,
}

impl VmfsStore {
    /// Opens the volume on `luns`: all its devices (or images of them), or one selector `uuid:…` or
    /// `label:…` that is looked up among the block devices of this host.
    ///
    /// # Errors
    /// When a device cannot be read, when they are not all devices of one volume, or when a selector fits no
    /// volume, several, or one whose devices are ambiguous.
    pub fn open(name: impl Into<String>, luns: &[PathBuf]) -> Result<Self> {
        let luns = match luns {
            [only] if luns::is_selector(only) => luns::select(only)?,
            _ => luns.to_vec(),
        };
        let devices = luns.iter().map(|path| open_lun(path)).collect::<Result<Vec<_>>>()?;
        let options = vmfs::Options::default();
        let volume =
            Vmfs::open(devices, &options).map_err(|err| err.path(luns.first().cloned().unwrap_or_default()))?;
        Ok(VmfsStore { name: name.into(), luns, volume })
    }

    /// The volume.
    #[must_use]
    pub fn volume(&self) -> &Arc<Vmfs> {
        &self.volume
    }

    /// The file at `path`, and its canonical path: no `.`, `..` or symbolic links.
    fn find(&self, path: &str) -> Result<(FileId, String)> {
        let forbidden = || Error::new(Kind::Forbidden, LAYER, format!("'{path}' leads out of the datastore"));
        // Components still to go, last first; folders come so far, with their names.
        let mut rest: Vec<NameBuf> = split(path).into_iter().rev().collect();
        let mut at: Vec<(FileId, NameBuf)> = Vec::new();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == b".." {
                at.pop().ok_or_else(forbidden)?;
                continue;
            }
            let folder = at.last().map_or_else(|| self.volume.root(), |(id, _)| *id);
            let id = self.volume.lookup(folder, &part)?;
            if self.volume.attr(id)?.kind != FileType::Symlink {
                at.push((id, part));
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::new(Kind::Limit, LAYER, "too many symbolic links"));
            }
            let target = match self.volume.read_link(id)? {
                LinkTarget::Relative(parts) => parts,
                LinkTarget::Volume(parts) => {
                    at.clear();
                    parts
                }
                LinkTarget::Foreign(_) | LinkTarget::Guest { .. } => return Err(forbidden()),
            };
            rest.extend(target.into_iter().rev());
        }
        let id = at.last().map_or_else(|| self.volume.root(), |(id, _)| *id);
        let names: Vec<String> = at.into_iter().map(|(_, name)| String::from_utf8_lossy(&name).into_owned()).collect();
        Ok((id, names.join("/")))
    }

    fn located(&self, path: &str) -> Result<(FileId, String)> {
        self.find(path).map_err(|err| err.path(self.shown(path)))
    }

    fn shown(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("[{}] {path}", self.name))
    }

    fn open_at(&self, path: &str) -> Result<Resolved> {
        let (id, name) = self.located(path)?;
        let block = self.volume.open(id, None).map_err(|err| err.path(self.shown(path)))?;
        Ok(Resolved { name, block })
    }
}

fn split(path: &str) -> Vec<NameBuf> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").map(|part| part.as_bytes().to_vec()).collect()
}

/// Opens a LUN past the page cache; a path that fails for a while is tried again.
pub(super) fn open_lun(path: &Path) -> Result<BlockRef> {
    let source: BlockRef = Arc::new(DeviceSource::open(path)?);
    Ok(Arc::new(RetryBlock::new(source, RetryPolicy::default())))
}

impl Datastore for VmfsStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn describe(&self) -> String {
        let luns: Vec<String> = self.luns.iter().map(|path| path.display().to_string()).collect();
        let label = self.volume.label();
        format!("{} '{}' on {}", self.volume.kind(), String::from_utf8_lossy(&label), luns.join(", "))
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let (id, _) = self.located(folder)?;
        let fail = |err: Error| err.path(self.shown(folder));
        let mut found = Vec::new();
        self.volume
            .read_dir(id, 0, &mut |entry| {
                found.push(entry);
                std::ops::ControlFlow::Continue(())
            })
            .map_err(fail)?;
        let mut entries = Vec::with_capacity(found.len());
        for entry in found {
            let Ok(name) = String::from_utf8(entry.name) else { continue };
            let mut attr = self.volume.attr(entry.id).map_err(fail)?;
            if attr.kind == FileType::Symlink {
                // A link that leads nowhere or out is no entry: opening it by name still says why.
                let Ok((target, _)) = self.find(&super::join(folder, &name)) else { continue };
                attr = self.volume.attr(target).map_err(fail)?;
            }
            let is_dir = attr.kind == FileType::Dir;
            entries.push(Entry { name, is_dir, size: if is_dir { 0 } else { attr.size } });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn open(&self, path: &str) -> Result<BlockRef> {
        Ok(self.open_at(path)?.block)
    }

    fn resolver(&self) -> Result<Arc<dyn Resolver>> {
        Ok(Arc::new(self.clone()))
    }

    /// A VM runs where a live host holds a file of its folder for writing.
    fn running(&self, folder: &str) -> Result<Option<String>> {
        for entry in self.list(folder)?.into_iter().filter(|entry| !entry.is_dir) {
            let path = super::join(folder, &entry.name);
            let (id, _) = self.located(&path)?;
            let report = self.volume.lock(id, true).map_err(|err| err.path(self.shown(&path)))?;
            if let Some(writer) = report.writer() {
                return Ok(Some(format!("'{}' is held by {writer}", entry.name)));
            }
        }
        Ok(None)
    }

    fn aliases(&self) -> Vec<String> {
        let label = String::from_utf8_lossy(&self.volume.label()).into_owned();
        [self.volume.serial(), label].into_iter().filter(|alias| !alias.is_empty()).collect()
    }
}

impl Resolver for VmfsStore {
    fn open(&self, from: &str, name: &str) -> Result<Resolved> {
        if from.is_empty() {
            return self.open_at(name);
        }
        let mut failure: Option<Error> = None;
        for candidate in candidates(name) {
            match self.open_at(&super::join(super::parent(from), &candidate)) {
                // A name that leads out tells more than one that leads nowhere.
                Err(err) if err.kind() == Kind::NotFound => failure = failure.or(Some(err)),
                Err(err) if err.kind() == Kind::Forbidden => failure = Some(err),
                result => return result,
            }
        }
        Err(failure.unwrap_or_else(|| Error::new(Kind::NotFound, LAYER, format!("'{name}' names no file"))))
    }

    fn siblings(&self, from: &str) -> Result<Vec<String>> {
        let entries = self.list(super::parent(from))?;
        Ok(entries.into_iter().map(|entry| entry.name).collect())
    }

    fn verify(&self) -> Result<()> {
        self.volume.verify()
    }
}
