//! A folder of this host as a datastore: a mounted NFS export, or a copy.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use vcb_block::{BlockRef, Error, FileSource, Kind, Result, Trouble};
use vcb_fs::Time;
use vcb_vmdk::{FolderResolver, Resolved, Resolver};

use super::raw::{Devices, RawDevices};
use super::{Datastore, Entry};

const LAYER: &str = "datastore";

/// Everything below one folder. Symbolic links that lead out of it are refused.
pub struct Folder {
    name: String,
    root: PathBuf,
    raw: RawDevices,
}

impl Folder {
    /// `root` must be a folder.
    ///
    /// # Errors
    /// When it is not, or cannot be reached.
    pub fn open(name: impl Into<String>, root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let real = root.canonicalize().map_err(|err| Error::io(LAYER, err).path(root))?;
        if !real.is_dir() {
            return Err(Error::new(Kind::WrongType, LAYER, "not a folder").path(root));
        }
        Ok(Folder { name: name.into(), root: real, raw: RawDevices::default() })
    }

    /// With the raw devices that descriptors in it may name, and where they are on this host.
    #[must_use]
    pub fn with_raw_devices(self, paths: &BTreeMap<String, PathBuf>) -> Self {
        Folder { raw: RawDevices::new(paths, Devices::default()), ..self }
    }

    /// The folder, canonical.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The host path of `path`, when it exists below the root.
    fn real(&self, path: &str) -> Result<PathBuf> {
        let forbidden = || Error::new(Kind::Forbidden, LAYER, format!("'{path}' leads out of the datastore"));
        let relative = Path::new(path);
        if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(forbidden().path(&self.root));
        }
        let full = self.root.join(relative);
        let real = full.canonicalize().map_err(|err| Error::io(LAYER, err).path(&full))?;
        if real.starts_with(&self.root) { Ok(real) } else { Err(forbidden().path(&full)) }
    }
}

impl Datastore for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    fn describe(&self) -> String {
        format!("folder {}", self.root.display())
    }

    fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let real = self.real(folder)?;
        let fail = |err| Error::io(LAYER, err).path(&real);
        let mut entries = Vec::new();
        let entries_of = std::fs::read_dir(&real).map_err(|err| match real.is_file() {
            // Systems say it in words of their own.
            true => fail(std::io::ErrorKind::NotADirectory.into()),
            false => fail(err),
        });
        for entry in entries_of? {
            let entry = entry.map_err(fail)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Follows links, so that a linked VM folder counts as a folder. A dangling or forbidden link is
            // no entry: opening it by name still says why.
            let Ok(meta) = std::fs::metadata(entry.path()) else { continue };
            entries.push(Entry {
                name,
                is_dir: meta.is_dir(),
                size: if meta.is_dir() { 0 } else { meta.len() },
                modified: meta.modified().ok().and_then(Time::from_system),
                unreadable: None,
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn open(&self, path: &str) -> Result<BlockRef> {
        Ok(Arc::new(FileSource::open(self.real(path)?)?))
    }

    fn resolver(&self) -> Result<Arc<dyn Resolver>> {
        Ok(Arc::new(Files { files: FolderResolver::new(&self.root)?, raw: self.raw.clone() }))
    }

    fn trouble(&self) -> Option<Trouble> {
        self.raw.trouble()
    }
}

/// The files of a folder, and the raw devices that they name.
struct Files {
    files: Arc<FolderResolver>,
    raw: RawDevices,
}

impl Resolver for Files {
    fn open(&self, from: &str, name: &str) -> Result<Resolved> {
        self.files.open(from, name)
    }

    fn siblings(&self, from: &str) -> Result<Vec<String>> {
        self.files.siblings(from)
    }

    fn device(&self, _from: &str, name: &str) -> Result<Option<BlockRef>> {
        self.raw.open(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("ds");
        std::fs::create_dir_all(root.join("vm")).unwrap();
        std::fs::write(root.join("vm/a.vmx"), "x").unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        let linked = crate::sys::symlink(Path::new("../secret"), &root.join("out"));
        let folder = Folder::open("ds", &root).unwrap();
        let listed = folder.list("vm").unwrap();
        assert_eq!((listed.len(), listed[0].name.as_str(), listed[0].is_dir, listed[0].size), (1, "a.vmx", false, 1));
        assert!(listed[0].modified.unwrap() > Time::from_unix(1_500_000_000));
        assert_eq!(folder.open("vm/a.vmx").unwrap().len(), 1);
        let outside = ["../secret", "vm/../../secret", "/etc/passwd", "out"];
        for out in &outside[..if linked { 4 } else { 3 }] {
            assert_eq!(folder.open(out).err().unwrap().kind(), Kind::Forbidden, "{out}");
        }
        assert_eq!(folder.open("vm/none").err().unwrap().kind(), Kind::NotFound);
        assert_eq!(folder.list("vm/a.vmx").unwrap_err().kind(), Kind::WrongType);
        assert_eq!(Folder::open("x", root.join("vm/a.vmx")).err().unwrap().kind(), Kind::WrongType);
    }
}
