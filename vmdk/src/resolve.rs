//! The one place that decides which files a descriptor may open.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vcb_block::{BlockRef, Error, FileSource, Kind, Result};

/// A file that a resolver let through.
#[derive(Clone)]
pub struct Resolved {
    /// Canonical name within the resolver: two names are one file exactly when these are equal. It is
    /// also the `from` of names written inside that file.
    pub name: String,
    /// Its bytes.
    pub block: BlockRef,
}

/// Opens files by the names that descriptors, .vmx and .vmsd files contain. All such names are hostile
/// until an implementation of this trait has accepted them.
pub trait Resolver: Send + Sync {
    /// Opens `name` as it is written in the file `from` (the `name` of an earlier [`Resolved`]); `from` is
    /// empty for names given by the user. Accepts plain and relative names, Windows separators, and absolute
    /// hints (`/vmfs/volumes/…`, `C:\…`) as far as they lead to something it may open.
    ///
    /// # Errors
    /// [`Kind::Forbidden`] for names that lead out, [`Kind::NotFound`] for names that lead nowhere.
    fn open(&self, from: &str, name: &str) -> Result<Resolved>;

    /// Names of the files in the folder of `from`, without paths.
    fn siblings(&self, from: &str) -> Result<Vec<String>>;
}

/// A folder of the host as the root of all names.
pub struct FolderResolver {
    root: PathBuf,
}

impl FolderResolver {
    /// Everything below `root` may be opened, nothing else.
    ///
    /// # Errors
    /// When `root` cannot be made canonical.
    pub fn new(root: impl AsRef<Path>) -> Result<Arc<Self>> {
        let root = root.as_ref();
        let root = root.canonicalize().map_err(|err| Error::io("resolver", err).path(root))?;
        Ok(Arc::new(FolderResolver { root }))
    }

    fn forbidden(&self, name: &str) -> Error {
        Error::new(Kind::Forbidden, "resolver", format!("'{name}' leads out of the folder")).path(&self.root)
    }
}

impl Resolver for FolderResolver {
    fn open(&self, from: &str, name: &str) -> Result<Resolved> {
        let base = Path::new(from).parent().unwrap_or(Path::new(""));
        let full = self.root.join(base).join(name);
        let real = full.canonicalize().map_err(|err| Error::io("resolver", err).path(&full))?;
        let inside = real.strip_prefix(&self.root).map_err(|_| self.forbidden(name))?;
        let name = inside.to_str().ok_or_else(|| self.forbidden(name))?.to_owned();
        Ok(Resolved { name, block: Arc::new(FileSource::open(&real)?) })
    }

    fn siblings(&self, from: &str) -> Result<Vec<String>> {
        let folder = self.root.join(Path::new(from).parent().unwrap_or(Path::new("")));
        let fail = |err| Error::io("resolver", err).path(&folder);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(fail)? {
            names.extend(entry.map_err(fail)?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }
}
