//! The folder a VM lives in, whether on a datastore or anywhere on this host, and how files in it are named.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vcb_block::{Error, Kind, Result};

use super::Source;
use crate::config::Config;
use crate::datastore::{self, Datastore, Datastores, DsPath, Entry, Folder};
use crate::failure::{Code, Failure, Outcome};
use crate::spec::Place;

/// Longest .vmx or .vmsd that is read: real ones have a few KiB.
const MAX_TEXT: u64 = 4 << 20;

/// A place made readable: its datastore, and the path there.
pub(crate) struct Ground {
    /// Where its files are.
    pub store: Arc<dyn Datastore>,
    /// Path of the place in `store`.
    pub path: String,
    /// What a plan says about it.
    pub source: Source,
    /// Names within `source` are this and the path in `store`: `[name] ` or nothing.
    prefix: String,
}

impl Ground {
    /// Finds the ground of `place`. A host path inside a configured datastore is taken as a path of that
    /// datastore, so that disks elsewhere in it can be followed; any other stands on its own folder.
    pub fn of(place: &Place, config: &Config) -> Outcome<Ground> {
        match place {
            Place::Datastore(path) => Self::in_datastore(path, config),
            Place::Host(path) => match datastore::holding(&config.datastores, path) {
                Some(path) => Self::in_datastore(&path, config),
                None => Self::alone(path),
            },
        }
    }

    fn in_datastore(path: &DsPath, config: &Config) -> Outcome<Ground> {
        let known = Datastores::open_all(&config.datastores).0;
        let store = match config.datastore(&path.datastore) {
            // Opening it by itself says why it cannot be opened; a plan may not rely on it then.
            Some(found) => Datastores::open_one(found)?,
            None => Arc::clone(known.get(&path.datastore)?),
        };
        let usable = config.datastores.iter().filter(|one| known.get(&one.name).is_ok()).cloned().collect();
        Ok(Ground {
            prefix: format!("[{}] ", store.name()),
            store,
            path: path.path.clone(),
            source: Source::Datastores(usable),
        })
    }

    fn alone(path: &Path) -> Outcome<Ground> {
        let failed = |err: Error| Failure::new(not_there(&err), format!("cannot open {}", path.display())).because(err);
        let real = path.canonicalize().map_err(|err| failed(Error::io("plan", err).path(path)))?;
        let (root, name) = if real.is_dir() {
            (real.clone(), String::new())
        } else {
            let name = real.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
                failed(Error::unsupported("plan", "the name is not UTF-8, which VMware's files cannot refer to"))
            })?;
            (real.parent().map(PathBuf::from).unwrap_or_default(), name.to_owned())
        };
        Ok(Ground {
            store: Arc::new(Folder::open("", &root).map_err(failed)?),
            path: name,
            source: Source::Folder(root),
            prefix: String::new(),
        })
    }

    /// The name of a path of `store` within `source`.
    pub fn name(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// A name for messages: `[ds] web/web.vmx`, or the whole host path.
    pub fn shown(&self, path: &str) -> String {
        match &self.source {
            Source::Folder(root) if path.is_empty() => root.display().to_string(),
            Source::Folder(root) => root.join(path).display().to_string(),
            _ => self.name(path),
        }
    }

    /// The place as a path of this host, when it lies in a folder of it.
    pub fn host_path(&self) -> Option<PathBuf> {
        match &self.source {
            Source::Folder(root) => Some(root.join(&self.path)),
            Source::Datastores(configs) => {
                let config = configs.iter().find(|config| config.name == self.store.name())?;
                Some(config.path.as_ref()?.join(&self.path))
            }
            Source::Ova(file) => Some(file.clone()),
        }
    }

    /// Reads a small text file.
    pub fn read(&self, path: &str) -> Outcome<Vec<u8>> {
        read_text(&*self.store, path).map_err(|err| Failure::reading(format!("cannot read {}", self.shown(path)), err))
    }

    /// The entries of a folder.
    pub fn list(&self, folder: &str) -> Outcome<Vec<Entry>> {
        self.store
            .list(folder)
            .map_err(|err| Failure::new(not_there(&err), format!("cannot list {}", self.shown(folder))).because(err))
    }
}

/// Reads a small text file of a VM.
pub(crate) fn read_text(store: &dyn Datastore, path: &str) -> Result<Vec<u8>> {
    let block = store.open(path)?;
    if block.len() > MAX_TEXT {
        let why = format!("{} bytes are more than the {MAX_TEXT} that such a file may have", block.len());
        return Err(Error::new(Kind::Limit, "plan", why).path(path));
    }
    let mut bytes = vec![0; block.len() as usize];
    block.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// A place that the user named and that is not there is a VM that was not found.
fn not_there(err: &Error) -> Code {
    match err.kind() {
        Kind::NotFound => Code::VmNotFound,
        kind => Code::of(kind),
    }
}
