//! A folder of the host as the root of all names.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use vcb_block::{Error, FileSource, Kind, Result};

use super::{Resolved, Resolver, candidates, worse};
use crate::sys::{Confined, Refused};

const LAYER: &str = "resolver";

/// Opens files below one folder and nothing else: `..`, absolute names and symbolic links are followed
/// only as far as they end inside it. On Linux the last step is one `openat2` that the kernel confines,
/// so that exchanging a folder for a link between check and opening gains nothing.
pub struct FolderResolver {
    root: PathBuf,
    files: Confined,
}

impl FolderResolver {
    /// Everything below `root` may be opened, nothing else.
    ///
    /// # Errors
    /// When `root` is not a folder or cannot be opened.
    pub fn new(root: impl AsRef<Path>) -> Result<Arc<Self>> {
        let root = root.as_ref();
        let fail = |err| Error::io(LAYER, err).path(root);
        let root = root.canonicalize().map_err(fail)?;
        if !root.is_dir() {
            return Err(Error::new(Kind::WrongType, LAYER, "not a folder").path(root));
        }
        Ok(Arc::new(FolderResolver { files: Confined::to(&root).map_err(fail)?, root }))
    }

    /// The folder, with symbolic links resolved.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Opens one candidate, a path relative to the folder of `from`.
    fn open_one(&self, from: &str, name: &Path) -> Result<Resolved> {
        let base = Path::new(from).parent().unwrap_or(Path::new(""));
        let relative = normal(&base.join(name)).ok_or_else(|| self.forbidden(name))?;
        let full = self.root.join(&relative);
        let real = match full.canonicalize() {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => self.other_case(&full).ok_or(err),
            other => other,
        };
        let real = real.map_err(|err| Error::io(LAYER, err).path(&full))?;
        let inside = real.strip_prefix(&self.root).map_err(|_| self.forbidden(name))?;
        let text = inside.to_str().ok_or_else(|| {
            Error::unsupported(LAYER, "the name is not UTF-8, which VMware's files cannot refer to").path(&real)
        })?;
        let file = self.files.open(inside).map_err(|refused| match refused {
            Refused::LeadsOut => self.forbidden(inside),
            Refused::Failed(err) => Error::io(LAYER, err).path(&real),
        })?;
        let kind = file.metadata().map_err(|err| Error::io(LAYER, err).path(&real))?;
        if !kind.is_file() {
            return Err(Error::new(Kind::WrongType, LAYER, "not a regular file").path(&real));
        }
        Ok(Resolved {
            name: text.replace(std::path::MAIN_SEPARATOR, "/"),
            block: Arc::new(FileSource::from_file(file, &real)?),
        })
    }

    /// The only file of the folder whose name differs from `wanted` in case alone: disks move from Windows
    /// hosts, where case does not matter, with names that were never compared exactly.
    fn other_case(&self, wanted: &Path) -> Option<PathBuf> {
        let folder = wanted.parent()?.canonicalize().ok()?;
        if !folder.starts_with(&self.root) {
            return None;
        }
        let name = wanted.file_name()?.to_str()?.to_lowercase();
        let same = |entry: &std::fs::DirEntry| entry.file_name().to_str().is_some_and(|n| n.to_lowercase() == name);
        let mut found = std::fs::read_dir(&folder).ok()?.flatten().filter(same);
        match (found.next(), found.next()) {
            (Some(only), None) => only.path().canonicalize().ok(),
            _ => None,
        }
    }

    fn forbidden(&self, name: &Path) -> Error {
        Error::new(Kind::Forbidden, LAYER, format!("'{}' leads out of the folder", name.display())).path(&self.root)
    }
}

/// Removes `.` and `..` by name; `None` when the path would climb out of its root or is absolute.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            Component::Normal(part) => out.push(part),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

impl Resolver for FolderResolver {
    fn open(&self, from: &str, name: &str) -> Result<Resolved> {
        // What the user names may be absolute, as long as it is in the folder.
        let own = Path::new(name);
        if from.is_empty() && own.is_absolute() {
            let real = own.canonicalize().map_err(|err| Error::io(LAYER, err).path(own))?;
            let inside = real.strip_prefix(&self.root).map_err(|_| self.forbidden(own))?;
            return self.open_one("", inside);
        }
        // The user's own relative name means that file and no other.
        let names = if from.is_empty() { vec![name.to_owned()] } else { candidates(name) };
        let mut failure = None;
        for candidate in &names {
            match self.open_one(from, Path::new(candidate)) {
                Ok(found) => return Ok(found),
                Err(err) if matches!(err.kind(), Kind::NotFound | Kind::Forbidden) => {
                    failure = Some(worse(failure, err));
                }
                Err(err) => return Err(err),
            }
        }
        Err(failure.unwrap_or_else(|| Error::new(Kind::NotFound, LAYER, format!("'{name}' names no file"))))
    }

    fn siblings(&self, from: &str) -> Result<Vec<String>> {
        let base = Path::new(from).parent().unwrap_or(Path::new(""));
        let folder = self.root.join(normal(base).ok_or_else(|| self.forbidden(base))?);
        let fail = |err| Error::io(LAYER, err).path(&folder);
        let real = folder.canonicalize().map_err(fail)?;
        if !real.starts_with(&self.root) {
            return Err(self.forbidden(base));
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&real).map_err(fail)? {
            names.extend(entry.map_err(fail)?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sys::testing::{put_no_file, symlink};

    /// `outside/secret`, and a root with `vm/` and `base/` in it.
    fn tree() -> (tempfile::TempDir, Arc<FolderResolver>) {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["outside", "root/vm", "root/base"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        for file in ["outside/secret", "root/vm/d.vmdk", "root/vm/Mixed Case.vmdk", "root/base/b.vmdk"] {
            fs::write(dir.path().join(file), file).unwrap();
        }
        let resolver = FolderResolver::new(dir.path().join("root")).unwrap();
        (dir, resolver)
    }

    #[test]
    fn names_as_found_in_descriptors() {
        let (_dir, resolver) = tree();
        for (name, expected) in [
            ("d.vmdk", "vm/d.vmdk"),
            ("../vm/d.vmdk", "vm/d.vmdk"),
            ("..\\base\\b.vmdk", "base/b.vmdk"),
            ("/vmfs/volumes/0-1/base/b.vmdk", "base/b.vmdk"),
            ("/vmfs/volumes/0-1/renamed/d.vmdk", "vm/d.vmdk"),
            ("E:\\VMs\\base\\b.vmdk", "base/b.vmdk"),
            ("mixed case.VMDK", "vm/Mixed Case.vmdk"),
        ] {
            let found = resolver.open("vm/x.vmx", name).unwrap_or_else(|err| panic!("{name}: {err:?}"));
            assert_eq!(found.name, expected, "{name}");
        }
        assert_eq!(resolver.siblings("vm/x.vmx").unwrap(), ["Mixed Case.vmdk", "d.vmdk"]);
    }

    #[test]
    fn nothing_outside_is_opened() {
        let (dir, resolver) = tree();
        let secret = dir.path().join("outside/secret");
        let linked = symlink(&secret, &dir.path().join("root/vm/link"))
            && symlink(Path::new("../../outside"), &dir.path().join("root/vm/out"));
        let links = if linked { ["link", "out/secret"].as_slice() } else { &[] };
        let plain = ["../../outside/secret", "..\\..\\outside\\secret", "../../../../etc/passwd"];
        for name in plain.iter().chain(links) {
            let err = resolver.open("vm/x.vmx", name).err().unwrap_or_else(|| panic!("{name} was opened"));
            assert_eq!(err.kind(), Kind::Forbidden, "{name}: {err:?}");
        }
        assert_eq!(resolver.open("", secret.to_str().unwrap()).err().unwrap().kind(), Kind::Forbidden);
        assert!(resolver.open("vm/x.vmx", secret.to_str().unwrap()).is_err());
        assert!(resolver.siblings("../outside/x").is_err());
        assert!(resolver.siblings("vm/out/x").is_err());
    }

    #[test]
    fn links_that_stay_inside_are_followed_and_give_one_name() {
        let (dir, resolver) = tree();
        let to = |target: &Path, name: &str| symlink(target, &dir.path().join("root/vm").join(name));
        if !to(Path::new("../base/b.vmdk"), "rel") || !to(&dir.path().join("root/base"), "abs") {
            vcb_fixtures::skip("this system makes no symbolic links");
            return;
        }
        assert_eq!(resolver.open("vm/x.vmx", "rel").unwrap().name, "base/b.vmdk");
        assert_eq!(resolver.open("vm/x.vmx", "abs/b.vmdk").unwrap().name, "base/b.vmdk");
    }

    #[test]
    fn only_regular_files_are_opened() {
        let (dir, resolver) = tree();
        let odd = put_no_file(&dir.path().join("root/vm/odd"));
        for name in ["../vm", "odd"].into_iter().take(if odd { 2 } else { 1 }) {
            assert_eq!(resolver.open("vm/x.vmx", name).err().unwrap().kind(), Kind::WrongType, "{name}");
        }
    }
}
