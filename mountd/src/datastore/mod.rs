//! Where VMs live: folders of this host, and VMFS volumes on LUNs.
//!
//! ```text
//!   plan, lookup, cli
//!        │  "[ds] folder/file"
//!        ▼
//!   Datastores ── a Resolver over all of them: names keep the datastore they are in
//!        ▼
//!   Datastore: Folder │ Vmfs            list, open, resolver, is_running
//! ```

mod folder;
pub mod luns;
mod raw;
mod server;
mod set;
mod vmfs;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use vcb_block::{BlockRef, Result, Trouble};
use vcb_fs::Time;
use vcb_vmdk::Resolver;

use crate::failure::{Code, Failure, Outcome};

pub use folder::Folder;
pub use server::Server;
pub use set::{Datastores, holding};
pub use vmfs::VmfsStore;

/// A place where VMs live. Paths are relative to its root, with `/` between components; the root is the
/// empty path. Methods may be called by many threads at once.
pub trait Datastore: Send + Sync {
    /// The name in `[name] folder/file`.
    fn name(&self) -> &str;

    /// What it is, for messages: `folder /vmfs1`, `VMFS-6 'ds1' on /dev/sdb`.
    fn describe(&self) -> String;

    /// The entries of a folder, sorted by name. Names that are not UTF-8 are left out: nothing that a VM
    /// consists of has such a name.
    ///
    /// # Errors
    /// `NotFound`, `WrongType` when it is a file, `Forbidden` when the path leads out.
    fn list(&self, folder: &str) -> Result<Vec<Entry>>;

    /// Opens a file.
    ///
    /// # Errors
    /// As for [`Datastore::list`].
    fn open(&self, path: &str) -> Result<BlockRef>;

    /// Opens what descriptors name; its root is the datastore's.
    ///
    /// # Errors
    /// When the datastore is gone.
    fn resolver(&self) -> Result<Arc<dyn Resolver>>;

    /// Says why the VM in `folder` appears to be running, or `None` when nothing says so.
    ///
    /// # Errors
    /// As for [`Datastore::list`].
    fn running(&self, folder: &str) -> Result<Option<String>> {
        Ok(lock_file(&self.list(folder)?))
    }

    /// What is wrong with its storage at present. Reads nothing.
    fn trouble(&self) -> Option<Trouble> {
        None
    }

    /// Names by which descriptors may call it besides its own: the `UUID` of `/vmfs/volumes/UUID/…`.
    fn aliases(&self) -> Vec<String> {
        Vec::new()
    }
}

/// An entry of a folder on a datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// True for a folder.
    pub is_dir: bool,
    /// Length in bytes; 0 for folders.
    pub size: u64,
    /// Last write, when the datastore tells.
    pub modified: Option<Time>,
    /// Why its content cannot be had, when that is known.
    pub unreadable: Option<String>,
}

/// The lock that hosted products (`NAME.vmx.lck/`, `NAME.vmdk.lck/`) and ESXi on NFS (`.lck-…`) leave in
/// the folder of a running VM. Sources: VMware knowledge base 10051 (`.lck` files on NFS datastores),
/// Workstation's `.lck` folders as observed.
fn lock_file(entries: &[Entry]) -> Option<String> {
    let locks = |entry: &&Entry| {
        (entry.is_dir && (entry.name.ends_with(".vmx.lck") || entry.name.ends_with(".vmdk.lck")))
            || (!entry.is_dir && entry.name.starts_with(".lck-"))
    };
    entries.iter().find(locks).map(|entry| format!("there is a lock, '{}'", entry.name))
}

/// `[datastore] folder/file`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DsPath {
    /// Name of the datastore.
    pub datastore: String,
    /// Path in it, without a leading `/`.
    pub path: String,
}

impl DsPath {
    /// From its parts.
    pub fn new(datastore: impl Into<String>, path: impl Into<String>) -> Self {
        DsPath { datastore: datastore.into(), path: path.into() }
    }
}

impl fmt::Display for DsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.datastore, self.path)
    }
}

impl FromStr for DsPath {
    type Err = Failure;

    fn from_str(text: &str) -> Outcome<DsPath> {
        let parts = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let Some((datastore, path)) = parts.filter(|(datastore, _)| !datastore.is_empty()) else {
            let what = format!("'{text}' is no path of the form '[datastore] folder/file'");
            return Err(Failure::new(Code::Spec, what));
        };
        Ok(DsPath::new(datastore, path.trim_start().trim_matches('/')))
    }
}

/// The folder part of a path, empty for a name alone.
#[must_use]
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The last component of a path.
#[must_use]
pub fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// `folder/name`, or the name alone at the root.
#[must_use]
pub fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datastore_paths_read_as_they_print() {
        let path: DsPath = "[SAN 1] web 01/web 01.vmx".parse().unwrap();
        assert_eq!((path.datastore.as_str(), path.path.as_str()), ("SAN 1", "web 01/web 01.vmx"));
        assert_eq!(path.to_string(), "[SAN 1] web 01/web 01.vmx");
        assert_eq!("[a]b/c".parse::<DsPath>().unwrap(), DsPath::new("a", "b/c"));
        assert_eq!("[a]".parse::<DsPath>().unwrap(), DsPath::new("a", ""));
        for wrong in ["a/b", "[a", "[] a", ""] {
            assert_eq!(wrong.parse::<DsPath>().unwrap_err().code(), Code::Spec, "{wrong}");
        }
    }

    #[test]
    fn locks_of_hosted_products_and_of_nfs_are_seen() {
        let entry =
            |name: &str, is_dir| Entry { name: name.to_owned(), is_dir, size: 0, modified: None, unreadable: None };
        assert!(lock_file(&[entry("a.vmx.lck", true)]).is_some());
        assert!(lock_file(&[entry("a.vmdk.lck", true)]).is_some());
        assert!(lock_file(&[entry(".lck-1234000000000000", false)]).is_some());
        assert!(lock_file(&[entry("a.vmx", false), entry("a.vmx.lck", false), entry("x.lck", true)]).is_none());
    }

    #[test]
    fn paths_come_apart_and_together() {
        assert_eq!((parent("a/b/c"), file_name("a/b/c"), join("a/b", "c").as_str()), ("a/b", "c", "a/b/c"));
        assert_eq!((parent("c"), file_name("c"), join("", "c").as_str()), ("", "c", "c"));
    }
}
