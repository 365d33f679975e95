//! VMs by specification, from the server's inventory.

use vcb_vsphere::{Client, Find, PowerState, VirtualMachine};

use super::connect::server_failure;
use crate::failure::{Code, Failure, Outcome};
use crate::spec::{Spec, uuid_digits, uuid_text};

/// What `list` prints of a VM: each line is a specification by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Managed object id.
    pub moref: String,
    /// Display name.
    pub name: String,
    /// BIOS UUID.
    pub uuid: Option<String>,
    /// DNS name of the guest, else its address.
    pub ipaddr: Option<String>,
    /// Whether it runs.
    pub on: bool,
}

/// The identity of a VM.
#[must_use]
pub fn identity(vm: &VirtualMachine) -> Identity {
    Identity {
        moref: vm.moref.value.clone(),
        name: vm.name.clone(),
        uuid: vm.bios_uuid.as_deref().and_then(uuid_text),
        ipaddr: vm.guest.host_name.clone().or_else(|| vm.guest.addresses.first().cloned()),
        on: vm.power == PowerState::On,
    }
}

/// Every VM that `spec` describes.
///
/// # Errors
/// What the server says; [`Code::Usage`] for a path.
pub fn find(client: &Client, spec: &Spec) -> Outcome<Vec<VirtualMachine>> {
    let ask = |find: Find<'_>| {
        client.find_vms(find).map_err(|err| server_failure(format!("cannot look up {spec} at {}", client.host()), err))
    };
    let mut found = match spec {
        Spec::Name(name) => ask(Find::Name(name))?,
        Spec::Uuid(uuid) => ask(Find::Uuid(&uuid_text(uuid).unwrap_or_default()))?,
        Spec::Moref(moref) => ask(Find::Moref(moref))?,
        Spec::IpAddr(address) => ask(Find::Address(address))?,
        Spec::Any(None) => ask(Find::All)?,
        Spec::Any(Some(text)) => ask(Find::All)?.into_iter().filter(|vm| is_any(vm, text)).collect(),
        Spec::PowerState(on) => ask(Find::All)?.into_iter().filter(|vm| (vm.power == PowerState::On) == *on).collect(),
        Spec::Path(_) => {
            return Err(Failure::new(Code::Usage, format!("{spec} is no VM of {}", client.host())));
        }
    };
    found.sort_by(|a: &VirtualMachine, b| (&a.name, &a.moref).cmp(&(&b.name, &b.moref)));
    Ok(found)
}

fn is_any(vm: &VirtualMachine, text: &str) -> bool {
    let uuid = uuid_digits(text);
    let same = |known: &Option<String>| uuid.is_some() && known.as_deref().and_then(uuid_digits) == uuid;
    vm.name == text
        || vm.moref.value == text
        || same(&vm.bios_uuid)
        || same(&vm.instance_uuid)
        || vm.guest.host_name.as_deref() == Some(text)
        || vm.guest.addresses.iter().any(|address| address == text)
}

/// The one VM that `spec` describes.
///
/// # Errors
/// [`Code::VmNotFound`] and [`Code::Ambiguous`], the latter with a specification for each that matched.
pub fn find_one(client: &Client, spec: &Spec) -> Outcome<VirtualMachine> {
    let mut found = find(client, spec)?;
    match found.len() {
        0 => Err(Failure::new(Code::VmNotFound, format!("{} has no VM {spec}", client.host()))),
        1 => Ok(found.swap_remove(0)),
        count => {
            let lines: Vec<String> =
                found.iter().take(20).map(|vm| format!("moref:{} (name:{})", vm.moref.value, vm.name)).collect();
            Err(Failure::new(Code::Ambiguous, format!("{spec} matches {count} VMs")).because(lines.join(", ")))
        }
    }
}
