//! Reading properties of managed objects.

use std::collections::BTreeMap;

use crate::client::Client;
use crate::error::{Error, Fault, Result};
use crate::model::Moref;
use crate::soap::{Call, localized_fault};
use crate::xml::{self, Node};

/// Objects asked for in one page.
const PAGE: u32 = 500;
/// Most pages of one answer: half a million VMs.
const MAX_PAGES: usize = 1000;

/// The properties of one object, as far as it has them and we may see them.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) object: Moref,
    pub(crate) properties: BTreeMap<String, Node>,
    /// Properties that could not be read, and why.
    pub(crate) missing: Vec<(String, Fault)>,
}

impl Object {
    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        self.properties.get(path)
    }

    pub(crate) fn text(&self, path: &str) -> Option<String> {
        self.get(path).map(|node| node.text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// A property that must be there.
    pub(crate) fn need(&self, path: &str) -> Result<&Node> {
        const METHOD: &str = "RetrievePropertiesEx";
        if let Some(node) = self.get(path) {
            return Ok(node);
        }
        let what = format!("{}:{} has no {path}", self.object.kind, self.object.value);
        Err(match self.missing.iter().find(|(name, _)| name == path) {
            Some((_, fault)) => Error::Fault { method: METHOD, fault: fault.clone() },
            None => Error::protocol(METHOD, what),
        })
    }
}

impl Client {
    /// One property of one object.
    pub(crate) fn property(&self, object: &Moref, path: &str) -> Result<Node> {
        let mut found = self.properties(object, &[path])?;
        match found.properties.remove(path) {
            Some(node) => Ok(node),
            None => found.need(path).map(|_| Node::default()),
        }
    }

    /// Some properties of one object.
    pub(crate) fn properties(&self, object: &Moref, paths: &[&str]) -> Result<Object> {
        let mut set = String::from("<objectSet>");
        xml::moref(&mut set, "obj", object);
        set.push_str("<skip>false</skip></objectSet>");
        let objects = self.retrieve(&object.kind, paths, &set)?;
        objects
            .into_iter()
            .find(|found| found.object.value == object.value)
            // A server says ManagedObjectNotFound when it is gone. Without that nothing may take it for gone.
            .ok_or_else(|| Error::protocol("RetrievePropertiesEx", format!("the answer says nothing about {object}")))
    }

    /// Some properties of every object of a kind below the root folder.
    pub(crate) fn inventory(&self, kind: &str, paths: &[&str]) -> Result<Vec<Object>> {
        let seen = self.login_number();
        match self.inventory_once(kind, paths) {
            // Views and pages end with their session: in the new one all is asked for again.
            Err(err) if self.login_number() != seen => {
                tracing::info!(%err, "the session ended while the inventory was read, reading it again");
                self.inventory_once(kind, paths)
            }
            other => other,
        }
    }

    fn inventory_once(&self, kind: &str, paths: &[&str]) -> Result<Vec<Object>> {
        let missing = |what: &str| Error::NotFound(format!("the {what}"));
        let manager = self.content("viewManager").ok_or_else(|| missing("view manager"))?;
        let root = self.content("rootFolder").ok_or_else(|| missing("root folder"))?;
        let call = Call::new("CreateContainerView", &manager)
            .moref("container", &root)
            .text("type", kind)
            .text("recursive", "true");
        let answer = self.call(call)?;
        let view = answer
            .child("returnval")
            .and_then(Node::moref)
            .ok_or_else(|| Error::protocol("CreateContainerView", "no view"))?;
        let mut set = String::from("<objectSet>");
        xml::moref(&mut set, "obj", &view);
        set.push_str(
            "<skip>true</skip><selectSet xsi:type=\"TraversalSpec\"><name>view</name><type>ContainerView</type>\
             <path>view</path><skip>false</skip></selectSet></objectSet>",
        );
        let result = self.retrieve(kind, paths, &set);
        // The view ends with the session anyway.
        if let Err(err) = self.call(Call::new("DestroyView", &view)) {
            tracing::debug!(%err, "a view was not destroyed");
        }
        result
    }

    fn retrieve(&self, kind: &str, paths: &[&str], object_set: &str) -> Result<Vec<Object>> {
        let collector =
            self.content("propertyCollector").ok_or_else(|| Error::NotFound("the property collector".to_owned()))?;
        let mut spec = String::from("<specSet><propSet>");
        xml::tag(&mut spec, "type", kind);
        spec.push_str("<all>false</all>");
        for path in paths {
            xml::tag(&mut spec, "pathSet", path);
        }
        spec.push_str("</propSet>");
        spec.push_str(object_set);
        spec.push_str("</specSet>");
        let call = Call::new("RetrievePropertiesEx", &collector)
            .raw(&spec)
            .raw(&format!("<options><maxObjects>{PAGE}</maxObjects></options>"));
        let mut answer = self.call(call)?;
        let mut objects = Vec::new();
        for _ in 0..MAX_PAGES {
            // No result at all: no object is of that kind.
            let Some(at) = answer.children.iter().position(|node| node.name == "returnval") else {
                return Ok(objects);
            };
            let mut page = answer.children.swap_remove(at);
            let token = page.string("token");
            objects.extend(
                std::mem::take(&mut page.children)
                    .into_iter()
                    .filter(|node| node.name == "objects")
                    .filter_map(read_object),
            );
            let Some(token) = token else { return Ok(objects) };
            // A page is given out once, so that a lost answer cannot be asked for again.
            answer = self.call(Call::once("ContinueRetrievePropertiesEx", &collector).text("token", token))?;
        }
        Err(Error::protocol("ContinueRetrievePropertiesEx", format!("more than {MAX_PAGES} pages")))
    }
}

fn read_object(node: Node) -> Option<Object> {
    let object = node.child("obj")?.moref()?;
    let mut found = Object { object, properties: BTreeMap::new(), missing: Vec::new() };
    for mut entry in node.children {
        let Some(name) = entry.string("name").or_else(|| entry.string("path")) else { continue };
        match entry.name.as_str() {
            "propSet" => {
                if let Some(at) = entry.children.iter().position(|child| child.name == "val") {
                    found.properties.insert(name, entry.children.swap_remove(at));
                }
            }
            "missingSet" => {
                if let Some(fault) = entry.child("fault") {
                    found.missing.push((name, localized_fault(fault)));
                }
            }
            _ => {}
        }
    }
    Some(found)
}
