//! Finding VMs and datastores.

use crate::client::Client;
use crate::error::{Error, Result};
use crate::model::{Datastore, Moref, VM_PROPERTIES, VirtualMachine, unescape_name};
use crate::property::Object;
use crate::soap::Call;
use crate::xml::Node;

/// How deep an inventory is searched upward for the datacenter.
const MAX_FOLDERS: usize = 64;

/// What to look for. Every way may find several VMs; whoever needs one refuses more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Find<'a> {
    /// All.
    All,
    /// The server's name: `vm-42`.
    Moref(&'a str),
    /// Display name, exact.
    Name(&'a str),
    /// BIOS or instance UUID.
    Uuid(&'a str),
    /// An IP address, or the guest's DNS name; needs running Tools.
    Address(&'a str),
}

impl Client {
    /// The VMs that `find` describes, with everything known about them. An empty list means there is none.
    ///
    /// # Errors
    /// What the server says.
    pub fn find_vms(&self, find: Find<'_>) -> Result<Vec<VirtualMachine>> {
        match find {
            Find::All => self.all_vms(|_| true),
            Find::Name(name) => self.all_vms(|object| object.text("name").is_some_and(|n| unescape_name(&n) == name)),
            Find::Moref(value) => match self.vm(&Moref::new("VirtualMachine", value)) {
                Ok(vm) => Ok(vec![vm]),
                Err(err) if err.is_not_found() => Ok(Vec::new()),
                Err(err) => Err(err),
            },
            Find::Uuid(uuid) => {
                let mut found = self.search("FindAllByUuid", &[("uuid", uuid), ("vmSearch", "true")])?;
                let instance = [("uuid", uuid), ("vmSearch", "true"), ("instanceUuid", "true")];
                merge(&mut found, self.search("FindAllByUuid", &instance)?);
                self.vms(&found)
            }
            Find::Address(text) => {
                let found = match text.parse::<std::net::IpAddr>() {
                    Ok(_) => self.search("FindAllByIp", &[("ip", text), ("vmSearch", "true")])?,
                    Err(_) => self.search("FindAllByDnsName", &[("dnsName", text), ("vmSearch", "true")])?,
                };
                self.vms(&found)
            }
        }
    }

    /// One VM.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when there is none of that name.
    pub fn vm(&self, vm: &Moref) -> Result<VirtualMachine> {
        VirtualMachine::read(&self.properties(vm, VM_PROPERTIES)?)
    }

    /// All datastores that we may see.
    ///
    /// # Errors
    /// What the server says.
    pub fn datastores(&self) -> Result<Vec<Datastore>> {
        self.inventory("Datastore", &["summary", "info"])?.iter().map(Datastore::read).collect()
    }

    /// Some datastores, such as those a VM uses.
    ///
    /// # Errors
    /// What the server says.
    pub fn datastores_of(&self, vm: &VirtualMachine) -> Result<Vec<Datastore>> {
        vm.datastores.iter().map(|ds| Datastore::read(&self.properties(ds, &["summary", "info"])?)).collect()
    }

    /// Managed objects of a kind (`VirtualMachine`, `Datastore`) with their names.
    ///
    /// # Errors
    /// What the server says.
    pub fn names(&self, kind: &str) -> Result<Vec<(Moref, String)>> {
        let found = self.inventory(kind, &["name"])?;
        let name = |object: Object| (object.object.clone(), unescape_name(&object.text("name").unwrap_or_default()));
        Ok(found.into_iter().map(name).collect())
    }

    /// The folder that everything else is in.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the server has none.
    pub fn root_folder(&self) -> Result<Moref> {
        self.content("rootFolder").ok_or_else(|| Error::NotFound("the root folder".to_owned()))
    }

    /// Inventory paths, from the root folder on, of all managed objects of a kind: sorted, with the names as
    /// the server escapes them.
    ///
    /// # Errors
    /// What the server says.
    pub fn inventory_paths(&self, kind: &str) -> Result<Vec<String>> {
        let root = self.root_folder()?;
        let mut known = self.inventory("ManagedEntity", &["name", "parent"])?;
        known.push(self.properties(&root, &["name", "parent"])?);
        let known: std::collections::BTreeMap<&str, &Object> =
            known.iter().map(|object| (object.object.value.as_str(), object)).collect();
        let path = |of: &Object| {
            let (mut path, mut next) = (String::new(), Some(of));
            // Bounded, because what the server calls parents may go round in circles.
            for _ in 0..MAX_FOLDERS {
                let Some(object) = next else { break };
                path = format!("/{}{path}", object.text("name").unwrap_or_default());
                let parent = object.get("parent").and_then(Node::moref);
                next = parent.and_then(|parent| known.get(parent.value.as_str()).copied());
            }
            path
        };
        let mut paths: Vec<String> =
            known.values().filter(|object| object.object.kind == kind).map(|object| path(object)).collect();
        paths.sort();
        Ok(paths)
    }

    /// Inventory path of the datacenter that holds a VM or a datastore, as the datastore browser wants it:
    /// `folder/datacenter`.
    ///
    /// # Errors
    /// What the server says; [`Error::NotFound`] when it is in none.
    pub fn datacenter_path(&self, object: &Moref) -> Result<String> {
        let mut path: Vec<String> = Vec::new();
        let mut next = object.clone();
        for _ in 0..MAX_FOLDERS {
            let found = self.properties(&next, &["name", "parent"])?;
            let parent = found.get("parent").and_then(Node::moref);
            if next.kind == "Datacenter" || !path.is_empty() {
                // The root folder itself is not part of paths.
                if parent.is_none() {
                    break;
                }
                path.insert(0, found.text("name").unwrap_or_default());
            }
            let Some(parent) = parent else { break };
            next = parent;
        }
        if path.is_empty() {
            return Err(Error::NotFound(format!("the datacenter of {object}")));
        }
        Ok(path.join("/"))
    }

    fn all_vms(&self, wanted: impl Fn(&Object) -> bool) -> Result<Vec<VirtualMachine>> {
        let names = self.inventory("VirtualMachine", &["name"])?;
        let found: Vec<Moref> = names.into_iter().filter(|vm| wanted(vm)).map(|vm| vm.object).collect();
        self.vms(&found)
    }

    /// Reads each VM; one that has been removed meanwhile is left out.
    fn vms(&self, found: &[Moref]) -> Result<Vec<VirtualMachine>> {
        let mut out = Vec::new();
        for vm in found {
            match self.vm(vm) {
                Ok(vm) => out.push(vm),
                Err(err) if err.is_not_found() => {}
                Err(err) => return Err(err),
            }
        }
        Ok(out)
    }

    fn search(&self, method: &'static str, arguments: &[(&str, &str)]) -> Result<Vec<Moref>> {
        let index = self.content("searchIndex").ok_or_else(|| Error::NotFound("the search index".to_owned()))?;
        let mut call = Call::new(method, &index);
        for (name, value) in arguments {
            call = call.text(name, value);
        }
        let answer = self.call(call)?;
        let mut found = Vec::new();
        let vms = answer.all("returnval").filter_map(Node::moref).filter(|object| object.kind == "VirtualMachine");
        merge(&mut found, vms.collect());
        Ok(found)
    }
}

fn merge(into: &mut Vec<Moref>, from: Vec<Moref>) {
    for object in from {
        if !into.contains(&object) {
            into.push(object);
        }
    }
}
