//! All configured datastores, and one resolver over them, so that a VM whose disks lie on several
//! datastores is one VM.

use std::path::Path;
use std::sync::Arc;

use vcb_block::{BlockRef, Error, Kind, Result, Trouble};
use vcb_vmdk::{Resolved, Resolver};

use super::{Datastore, DsPath, Folder, Server, VmfsStore};
use crate::config::DatastoreConfig;
use crate::failure::{Code, Failure, Outcome};

const LAYER: &str = "datastore";

/// The open datastores.
///
/// As a [`Resolver`] its canonical names are `[datastore] folder/file`. A name in a descriptor that starts
/// with `[name]` or `/vmfs/volumes/NAME/` leads to that datastore when there is one; every other name is for
/// the resolver of the datastore that holds the descriptor.
#[derive(Clone, Default)]
pub struct Datastores {
    stores: Vec<Arc<dyn Datastore>>,
}

impl Datastores {
    /// A set of open datastores.
    #[must_use]
    pub fn new(stores: Vec<Arc<dyn Datastore>>) -> Self {
        Datastores { stores }
    }

    /// Opens one datastore.
    ///
    /// # Errors
    /// Why it cannot be opened, with its name.
    pub fn open_one(config: &DatastoreConfig) -> Outcome<Arc<dyn Datastore>> {
        let failed = |err| Failure::reading(format!("cannot open the datastore '{}'", config.name), err);
        if let Some(store) = &config.server {
            return Ok(Arc::new(Server::open(&config.name, store)?));
        }
        match &config.path {
            Some(path) => {
                let folder = Folder::open(&config.name, path).map_err(failed)?;
                Ok(Arc::new(folder.with_raw_devices(&config.raw_devices)))
            }
            None => {
                let volume = VmfsStore::open(&config.name, &config.lun, &config.raw_devices).map_err(failed)?;
                Ok(Arc::new(volume))
            }
        }
    }

    /// Opens all datastores of the configuration. Those that cannot be opened are given back as failures
    /// beside those that can, because one lost share must not stop the backup of the others.
    #[must_use]
    pub fn open_all(configs: &[DatastoreConfig]) -> (Self, Vec<Failure>) {
        let (mut stores, mut failures) = (Vec::new(), Vec::new());
        for config in configs {
            match Self::open_one(config) {
                Ok(store) => stores.push(store),
                Err(failure) => failures.push(failure),
            }
        }
        (Datastores { stores }, failures)
    }

    /// The open datastores, in the order of the configuration.
    #[must_use]
    pub fn all(&self) -> &[Arc<dyn Datastore>] {
        &self.stores
    }

    /// The datastore called `name`.
    ///
    /// # Errors
    /// [`Code::DatastoreNotFound`], with those that there are.
    pub fn get(&self, name: &str) -> Outcome<&Arc<dyn Datastore>> {
        self.known(name).ok_or_else(|| {
            let names: Vec<&str> = self.stores.iter().map(|store| store.name()).collect();
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Failure::new(Code::DatastoreNotFound, format!("there is no datastore '{name}'"))
                .because(format!("known datastores: {known}"))
        })
    }

    fn known(&self, name: &str) -> Option<&Arc<dyn Datastore>> {
        let by_name = self.stores.iter().find(|store| store.name() == name);
        by_name.or_else(|| self.stores.iter().find(|store| store.aliases().iter().any(|alias| alias == name)))
    }

    /// Where `name`, written in the file `from`, leads by its own words; `None` leaves it to the resolver of
    /// `from`'s datastore.
    fn redirect(&self, name: &str) -> Result<Option<(&Arc<dyn Datastore>, String)>> {
        if let Ok(path) = name.parse::<DsPath>() {
            let store = self.known(&path.datastore).ok_or_else(|| {
                Error::new(Kind::NotFound, LAYER, format!("there is no datastore '{}'", path.datastore)).path(name)
            })?;
            return Ok(Some((store, path.path)));
        }
        let Some(rest) = name.strip_prefix("/vmfs/volumes/") else { return Ok(None) };
        let Some((volume, path)) = rest.split_once('/') else { return Ok(None) };
        Ok(self.known(volume).map(|store| (store, path.to_owned())))
    }

    fn home(&self, from: &str) -> Result<(&Arc<dyn Datastore>, String)> {
        let path: DsPath = from.parse().map_err(|_| {
            Error::new(Kind::Forbidden, LAYER, format!("'{from}' does not say which datastore it is in"))
        })?;
        let store = self.known(&path.datastore).ok_or_else(|| {
            Error::new(Kind::NotFound, LAYER, format!("there is no datastore '{}'", path.datastore)).path(from)
        })?;
        Ok((store, path.path))
    }
}

fn resolve(store: &Arc<dyn Datastore>, from: &str, name: &str) -> Result<Resolved> {
    let found = store.resolver()?.open(from, name)?;
    Ok(Resolved { name: DsPath::new(store.name(), found.name).to_string(), block: found.block })
}

impl Resolver for Datastores {
    fn open(&self, from: &str, name: &str) -> Result<Resolved> {
        if let Some((store, path)) = self.redirect(name)? {
            return resolve(store, "", &path);
        }
        let (store, from) = self.home(from)?;
        resolve(store, &from, name)
    }

    fn siblings(&self, from: &str) -> Result<Vec<String>> {
        let (store, from) = self.home(from)?;
        store.resolver()?.siblings(&from)
    }

    fn verify(&self) -> Result<()> {
        let checked: Vec<Result<()>> = self.stores.iter().map(|store| store.resolver()?.verify()).collect();
        checked.into_iter().collect()
    }

    fn device(&self, from: &str, name: &str) -> Result<Option<BlockRef>> {
        if let Some((store, path)) = self.redirect(name)? {
            return store.resolver()?.device("", &path);
        }
        let (store, from) = self.home(from)?;
        store.resolver()?.device(&from, name)
    }

    fn trouble(&self) -> Option<Trouble> {
        let troubles = self.stores.iter().filter_map(|store| {
            let trouble = store.trouble()?;
            Some(Trouble { reason: format!("datastore {}: {}", store.name(), trouble.reason), ..trouble })
        });
        troubles.max_by_key(|trouble| trouble.kind)
    }
}

/// The datastore of `configs` that holds the host path `path`, and the path in it.
#[must_use]
pub fn holding(configs: &[DatastoreConfig], path: &Path) -> Option<DsPath> {
    let real = path.canonicalize().ok()?;
    configs.iter().find_map(|config| {
        let root = config.path.as_ref()?.canonicalize().ok()?;
        let inside: Option<Vec<&str>> = real.strip_prefix(root).ok()?.iter().map(|part| part.to_str()).collect();
        Some(DsPath::new(&config.name, inside?.join("/")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (tempfile::TempDir, Datastores) {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [("one/vm/a.vmdk", "a"), ("two/vm/b.vmdk", "bb")] {
            std::fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let open = |name: &str| Arc::new(Folder::open(name, dir.path().join(name)).unwrap()) as Arc<dyn Datastore>;
        let stores = Datastores::new(vec![open("one"), open("two")]);
        (dir, stores)
    }

    #[test]
    fn names_lead_to_the_datastore_they_say_or_stay_at_home() {
        let (_dir, stores) = two();
        let open = |from: &str, name: &str| stores.open(from, name).map(|found| (found.name, found.block.len()));
        assert_eq!(open("", "[one] vm/a.vmdk").unwrap(), ("[one] vm/a.vmdk".to_owned(), 1));
        assert_eq!(open("[one] vm/a.vmx", "a.vmdk").unwrap(), ("[one] vm/a.vmdk".to_owned(), 1));
        assert_eq!(open("[one] vm/a.vmx", "[two] vm/b.vmdk").unwrap(), ("[two] vm/b.vmdk".to_owned(), 2));
        assert_eq!(open("[one] vm/a.vmx", "/vmfs/volumes/two/vm/b.vmdk").unwrap(), ("[two] vm/b.vmdk".to_owned(), 2));
        assert_eq!(stores.siblings("[two] vm/x").unwrap(), ["b.vmdk"]);
    }

    #[test]
    fn names_that_lead_nowhere_are_told_apart_from_names_that_lead_out() {
        let (_dir, stores) = two();
        let kind = |from: &str, name: &str| stores.open(from, name).err().unwrap().kind();
        assert_eq!(kind("[one] vm/a.vmx", "[three] vm/b.vmdk"), Kind::NotFound);
        assert_eq!(kind("", "a.vmdk"), Kind::Forbidden);
        assert_eq!(kind("[one] vm/a.vmx", "../../two/vm/b.vmdk"), Kind::Forbidden);
        assert_eq!(kind("[one] vm/a.vmx", "none.vmdk"), Kind::NotFound);
    }

    #[test]
    fn a_host_path_inside_a_datastore_is_known_as_such() {
        let (dir, _) = two();
        let config =
            DatastoreConfig { name: "one".into(), path: Some(dir.path().join("one")), ..DatastoreConfig::default() };
        let inside = holding(std::slice::from_ref(&config), &dir.path().join("one/vm/a.vmdk")).unwrap();
        assert_eq!(inside, DsPath::new("one", "vm/a.vmdk"));
        assert!(holding(&[config], &dir.path().join("two/vm/b.vmdk")).is_none());
    }
}
