//! A VMFS volume on LUNs as a datastore. Nothing is written, locked or reserved on a LUN.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use vcb_block::{BlockRef, Error, Kind, Result, Trouble, TroubleKind, Window};
use vcb_fs::vmfs::{self, RawDevice, Vmfs, VmfsFile};
use vcb_fs::{FileId, FileType, Filesystem, LinkTarget, NameBuf};
use vcb_vmdk::{Resolved, Resolver, candidates};

use super::raw::{Devices, RawDevices};
use super::{Datastore, Entry, luns};

const LAYER: &str = "datastore";
/// Symbolic links followed for one name; the limit of Linux.
const MAX_LINKS: usize = 40;

/// A file handed out, by its path.
type OpenFile = (Weak<VmfsFile>, String);

/// A VMFS volume. Files that a live host may be writing are refused; files in use are compared with the
/// volume while they are read ([`Resolver::verify`]).
#[derive(Clone)]
pub struct VmfsStore {
    name: String,
    luns: Vec<PathBuf>,
    volume: Arc<Vmfs>,
    devices: Devices,
    raw: RawDevices,
    /// Files handed out, with their paths, as far as they are still in use.
    open: Arc<Mutex<Vec<OpenFile>>>,
}

impl VmfsStore {
    /// Opens the volume on `luns`: all its devices (or images of them), or one selector `uuid:…` or
    /// `label:…` that is looked up among the block devices of this host. `raw` says where the devices of raw
    /// device mappings are, by the ids in the mapping files.
    ///
    /// # Errors
    /// When a device cannot be read, when they are not all devices of one volume, or when a selector fits no
    /// volume, several, or one whose devices are ambiguous.
    pub fn open(name: impl Into<String>, luns: &[PathBuf], raw: &BTreeMap<String, PathBuf>) -> Result<Self> {
        let luns = match luns {
            [only] if luns::is_selector(only) => luns::select(only)?,
            _ => luns.to_vec(),
        };
        let devices = Devices::default();
        let blocks = luns.iter().map(|path| devices.open(path)).collect::<Result<Vec<_>>>()?;
        let volume = Vmfs::open(blocks, &vmfs::Options::default());
        let volume = volume.map_err(|err| err.path(luns.first().cloned().unwrap_or_default()))?;
        let raw = RawDevices::new(raw, devices.clone());
        Ok(VmfsStore { name: name.into(), luns, volume, devices, raw, open: Arc::default() })
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
        let fail = |err: Error| err.path(self.shown(path));
        if let Some(device) = self.volume.raw_device(id).map_err(fail)? {
            return Ok(Resolved { name, block: self.raw(&device).map_err(fail)? });
        }
        let file = self.volume.open_file(id).map_err(fail)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(file, _)| file.strong_count() > 0);
        open.push((Arc::downgrade(&file), name.clone()));
        Ok(Resolved { name, block: file })
    }

    /// The part of a raw device that a VM sees.
    fn raw(&self, device: &RawDevice) -> Result<BlockRef> {
        let here = self.raw.open(&device.id)?.ok_or_else(|| Error::unsupported(LAYER, unconfigured(device)))?;
        if here.len() < device.len {
            let text = format!(
                "the raw device '{}' has {} bytes here, its mapping says {}: another device is configured",
                device.id,
                here.len(),
                device.len
            );
            return Err(Error::new(Kind::Changed, LAYER, text));
        }
        Ok(Arc::new(Window::new(here, 0, device.len)?))
    }

    /// Files in use, with their paths.
    fn in_use(&self) -> Vec<(Arc<VmfsFile>, String)> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().filter_map(|(file, path)| Some((file.upgrade()?, path.clone()))).collect()
    }
}

fn unconfigured(device: &RawDevice) -> String {
    format!("a mapping of the raw device '{}', which is not configured (raw_devices)", device.id)
}

fn split(path: &str) -> Vec<NameBuf> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").map(|part| part.as_bytes().to_vec()).collect()
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
            let mut id = entry.id;
            let mut attr = self.volume.attr(id).map_err(fail)?;
            if attr.kind == FileType::Symlink {
                // A link that leads nowhere or out is no entry: opening it by name still says why.
                let Ok((target, _)) = self.find(&super::join(folder, &name)) else { continue };
                id = target;
                attr = self.volume.attr(id).map_err(fail)?;
            }
            let is_dir = attr.kind == FileType::Dir;
            let device = if attr.unreadable.is_some() { self.volume.raw_device(id).map_err(fail)? } else { None };
            entries.push(Entry {
                name,
                is_dir,
                size: if is_dir { 0 } else { attr.size },
                modified: Some(attr.modified),
                unreadable: device.filter(|device| !self.raw.has(&device.id)).map(|device| unconfigured(&device)),
            });
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

    fn trouble(&self) -> Option<Trouble> {
        let voided = self.in_use().into_iter().find_map(|(file, path)| {
            let voided = file.voided()?;
            let reason = format!("{}: {} changed since it was opened", self.shown(&path).display(), voided.what);
            Some(Trouble { kind: TroubleKind::Voided, since: voided.since, reason })
        });
        voided.or_else(|| self.devices.trouble())
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

    /// All files in use are compared, so that each that changed is voided; the first failure is told.
    fn verify(&self) -> Result<()> {
        let compare = |(file, path): &(Arc<VmfsFile>, String)| file.verify().map_err(|err| err.path(self.shown(path)));
        let checked: Vec<Result<()>> = self.in_use().iter().map(compare).collect();
        checked.into_iter().collect()
    }

    fn device(&self, from: &str, name: &str) -> Result<Option<BlockRef>> {
        if let Some(device) = self.raw.open(name)? {
            return Ok(Some(device));
        }
        for candidate in candidates(name) {
            let path = super::join(super::parent(from), &candidate);
            match self.find(&path) {
                Ok((id, _)) => {
                    let device = self.volume.raw_device(id).map_err(|err| err.path(self.shown(&path)))?;
                    return device
                        .map(|device| self.raw(&device))
                        .transpose()
                        .map_err(|err| err.path(self.shown(&path)));
                }
                Err(err) if matches!(err.kind(), Kind::NotFound | Kind::Forbidden) => {}
                Err(err) => return Err(err.path(self.shown(&path))),
            }
        }
        Ok(None)
    }
}
