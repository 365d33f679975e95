//! `list`: the VMs there are.

use serde_json::json;
use vcb_mountd::spec::Spec;
use vcb_mountd::{Code, Exit, Failure, Outcome};

use super::mount::with_proxy;
use crate::context::Context;
use crate::output::{Out, print_failure};

/// Lists the VMs that match `spec`.
pub fn run(spec: &str, context: &Context) -> Outcome<Exit> {
    let spec = Spec::parse(spec, context.config.mount.lookup)?;
    let search = with_proxy(context, |proxy| proxy.list(&spec))?;
    for failure in &search.failures {
        print_failure(failure, context.json);
    }
    if search.vms.is_empty() && search.failures.is_empty() && !spec.is_plural() {
        return Err(Failure::new(Code::VmNotFound, format!("no VM matches '{spec}'")));
    }
    let mut out = Out::new();
    for vm in &search.vms {
        if context.json {
            out.line(json!({
                "name": vm.name,
                "uuid": vm.uuid,
                "moref": vm.moref,
                "ipaddr": vm.ipaddr,
                "path": vm.place.to_string(),
                "refusals": vm.refusals,
            }))?;
        } else {
            for spec in vm.specs() {
                out.line(spec)?;
            }
            for why in &vm.refusals {
                context.warn(format_args!("{} cannot be backed up: {why}", vm.name));
            }
        }
    }
    out.finish()?;
    Ok(if search.failures.is_empty() { Exit::Done } else { Exit::Partial })
}
