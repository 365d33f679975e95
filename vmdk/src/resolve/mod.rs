//! The one place that decides which files a descriptor may open.

mod folder;

use vcb_block::{BlockRef, Error, Kind, Result, Trouble};

pub use folder::FolderResolver;

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
    /// hints (`/vmfs/volumes/…`, `C:\…`) as far as they lead to something it may open. [`candidates`] gives
    /// the relative names that a hint may stand for, in the order to try them.
    ///
    /// # Errors
    /// [`Kind::Forbidden`] for names that lead out, [`Kind::NotFound`] for names that lead nowhere.
    fn open(&self, from: &str, name: &str) -> Result<Resolved>;

    /// Names of the files in the folder of `from`, without paths.
    ///
    /// # Errors
    /// When the folder cannot be read.
    fn siblings(&self, from: &str) -> Result<Vec<String>>;

    /// Compares the files that are in use with the storage they are on. Bytes read so far were right when it
    /// succeeds. For storage that others may change under us; elsewhere there is nothing to do.
    ///
    /// # Errors
    /// [`Kind::Changed`] when a file was moved, rewritten or taken over since it was opened.
    fn verify(&self) -> Result<()> {
        Ok(())
    }

    /// The raw device that `name`, written in the file `from`, stands for: a device of this host that is
    /// configured under that name, or under the id in the mapping file of that name. `None` when the name
    /// stands for no device that is known here.
    ///
    /// # Errors
    /// Those of opening the device; [`Kind::Unsupported`] for a mapping file whose device is not configured.
    fn device(&self, _from: &str, _name: &str) -> Result<Option<BlockRef>> {
        Ok(None)
    }

    /// What is wrong with the storage at present. Reads nothing.
    fn trouble(&self) -> Option<Trouble> {
        None
    }
}

/// The relative names, with `/` between folders, that a written name may stand for after its folder was
/// copied or moved, best first: the name as written when it is relative, the same name beside the file
/// that mentions it, the last folder of the name as a neighbour of the mentioning file's folder.
///
/// An absolute name is never itself a candidate: a descriptor may not point anywhere on this machine.
#[must_use]
pub fn candidates(name: &str) -> Vec<String> {
    let plain = name.replace('\\', "/");
    // `[datastore] folder/file`, as vSphere writes names of other datastores.
    let (datastore, path) = match plain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((_, path)) => (true, path.trim_start()),
        None => (false, plain.as_str()),
    };
    let drive = path.as_bytes().get(1) == Some(&b':');
    let absolute = datastore || drive || path.starts_with('/');
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let Some((&file, folders)) = parts.split_last() else { return Vec::new() };
    let mut names = Vec::new();
    let mut add = |name: String| {
        if !names.contains(&name) {
            names.push(name);
        }
    };
    if !absolute {
        add(parts.join("/"));
    }
    add(file.to_owned());
    if let Some(&folder) = folders.last()
        && folder != ".."
        && !folder.ends_with(':')
    {
        add(format!("../{folder}/{file}"));
    }
    names
}

/// The failure to report when every candidate failed: a forbidden name tells more than a missing one.
pub(crate) fn worse(old: Option<Error>, new: Error) -> Error {
    match old {
        Some(old) if old.kind() != Kind::NotFound => old,
        _ => new,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_hint_may_stand_for() {
        let cases: [(&str, &[&str]); 9] = [
            ("a.vmdk", &["a.vmdk"]),
            ("./a.vmdk", &["a.vmdk"]),
            ("../base/a.vmdk", &["../base/a.vmdk", "a.vmdk"]),
            ("sub/a.vmdk", &["sub/a.vmdk", "a.vmdk", "../sub/a.vmdk"]),
            ("/vmfs/volumes/4980-00/vm 1/a.vmdk", &["a.vmdk", "../vm 1/a.vmdk"]),
            ("C:\\VMs\\vm 1\\a.vmdk", &["a.vmdk", "../vm 1/a.vmdk"]),
            ("D:\\a.vmdk", &["a.vmdk"]),
            ("[datastore1] vm 1/a.vmdk", &["a.vmdk", "../vm 1/a.vmdk"]),
            ("/", &[]),
        ];
        for (name, expected) in cases {
            assert_eq!(candidates(name), expected, "{name}");
        }
    }
}
