//! Keeping a VM where it is: the calls that forbid others to move it, as VDDK's PrepareForAccess does.

use crate::client::Client;
use crate::error::{Error, Result};
use crate::model::Moref;
use crate::soap::Call;

/// What is forbidden: storage vMotion would move the files from under a reader.
const RELOCATE: &str = "RelocateVM_Task";

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

    /// Which of `privileges` (such as `VirtualMachine.State.CreateSnapshot`) this session lacks on `object`.
    ///
    /// # Errors
    /// What the server says.
    pub fn missing_privileges(&self, object: &Moref, privileges: &[&str]) -> Result<Vec<String>> {
        let manager = self.authorization_manager()?;
        let mut call = Call::new("HasPrivilegeOnEntities", &manager)
            .moref("entity", object)
            .text("sessionId", self.session_key()?);
        for privilege in privileges {
            call = call.text("privId", privilege);
        }
        let answer = self.call(call)?;
        let availability = answer.child("returnval").map(|entity| entity.all("privAvailability"));
        let granted: Vec<&str> = availability
            .into_iter()
            .flatten()
            .filter(|entry| entry.boolean("isGranted") == Some(true))
            .filter_map(|entry| entry.text_of("privId"))
            .collect();
        Ok(privileges.iter().filter(|id| !granted.contains(id)).map(|id| (*id).to_owned()).collect())
    }

    fn authorization_manager(&self) -> Result<Moref> {
        self.content("authorizationManager").ok_or_else(|| Error::NotFound("the authorization manager".to_owned()))
    }
}
