//! Keeping a VM where it is: the calls that forbid others to move it, as VDDK's PrepareForAccess does.

use crate::client::Client;
use crate::error::{Error, Result};
use crate::model::Moref;
use crate::soap::Call;
use crate::xml::Node;

/// What is forbidden: storage vMotion would move the files from under a reader.
const RELOCATE: &str = "RelocateVM_Task";
/// Objects whose privileges are asked for in one call.
const OBJECTS: usize = 100;

impl Client {
    /// Forbids moving the VM's storage, in the name of `source`. vCenter only: hosts by themselves know no
    /// such thing.
    ///
    /// # Errors
    /// `MethodAlreadyDisabledFault` (see [`Error::is_busy`]) when another backup holds it.
    pub fn disable_relocation(&self, vm: &Moref, source: &str) -> Result<()> {
        let manager = self.authorization_manager()?;
        let mut methods = String::from("<method>");
        crate::xml::tag(&mut methods, "method", RELOCATE);
        crate::xml::tag(&mut methods, "reasonId", "vcbmount.backup");
        methods.push_str("</method>");
        let call =
            Call::new("DisableMethods", &manager).internal().moref("entity", vm).raw(&methods).text("sourceId", source);
        self.call(call).map(drop)
    }

    /// Allows again what [`Client::disable_relocation`] forbade in the name of the same `source`.
    ///
    /// # Errors
    /// What the server says.
    pub fn enable_relocation(&self, vm: &Moref, source: &str) -> Result<()> {
        let manager = self.authorization_manager()?;
        let call = Call::new("EnableMethods", &manager)
            .internal()
            .moref("entity", vm)
            .text("method", RELOCATE)
            .text("sourceId", source);
        self.call(call).map(drop)
    }

    /// Which of `privileges` (such as `VirtualMachine.State.CreateSnapshot`) this session lacks, on which of
    /// `objects`; each with the objects in their order. What it has everywhere is left out.
    ///
    /// # Errors
    /// What the server says.
    pub fn missing_privileges(&self, objects: &[Moref], privileges: &[&str]) -> Result<Vec<(String, Vec<Moref>)>> {
        let manager = self.authorization_manager()?;
        let mut missing: Vec<(String, Vec<Moref>)> =
            privileges.iter().map(|id| ((*id).to_owned(), Vec::new())).collect();
        for objects in objects.chunks(OBJECTS) {
            let mut call = Call::new("HasPrivilegeOnEntities", &manager);
            for object in objects {
                call = call.moref("entity", object);
            }
            call = call.text("sessionId", self.session_key()?);
            for privilege in privileges {
                call = call.text("privId", privilege);
            }
            let answer = self.call(call)?;
            let granted = |object: &Moref, id: &str| {
                answer
                    .all("returnval")
                    .filter(|entry| entry.child("entity").and_then(Node::moref).as_ref() == Some(object))
                    .flat_map(|entry| entry.all("privAvailability"))
                    .any(|entry| entry.text_of("privId") == Some(id) && entry.boolean("isGranted") == Some(true))
            };
            for (id, on) in &mut missing {
                on.extend(objects.iter().filter(|object| !granted(object, id)).cloned());
            }
        }
        missing.retain(|(_, on)| !on.is_empty());
        Ok(missing)
    }

    fn authorization_manager(&self) -> Result<Moref> {
        self.content("authorizationManager").ok_or_else(|| Error::NotFound("the authorization manager".to_owned()))
    }
}
