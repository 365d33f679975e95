//! `trust` and `changed`: what is asked of the server alone.

use std::time::Duration;

use serde_json::json;
use vcb_mountd::{Code, Exit, Failure, Outcome, orchestrate};

use super::mount::with_proxy;
use crate::context::Context;
use crate::output::Out;

/// Shows the certificate of a server, for a person to compare, and how to trust it.
pub fn trust(host: &str, context: &Context) -> Outcome<Exit> {
    let fingerprint = orchestrate::fingerprint(host, Duration::from_secs(20))?;
    let mut out = Out::new();
    if context.json {
        out.line(json!({"host": host, "sha256": fingerprint}))?;
        return out.finish();
    }
    out.line(format_args!("# {host} presents a certificate with this SHA-256 fingerprint. Compare it with what the"))?;
    out.line("# server's own console shows; if they are equal, put this into the configuration:")?;
    out.line("[vcenter]")?;
    out.line(format_args!("host = {host:?}"))?;
    out.line(format_args!("fingerprint = {fingerprint:?}"))?;
    out.finish()
}

/// Prints what changed on the disks of a session, one JSON object per disk.
pub fn changed(session: &str, node: Option<&str>, since: &str, context: &Context) -> Outcome<Exit> {
    let disks = with_proxy(context, |proxy| proxy.changed(session, node, since))?;
    let mut out = Out::new();
    for (disk, changed) in disks {
        let areas: Vec<_> = changed.areas.iter().map(|area| [area.start, area.end - area.start]).collect();
        let line = serde_json::to_string(&json!({
            "disk": disk.node,
            "file": disk.file_name,
            "capacity": changed.capacity,
            "change_id": disk.change_id,
            "areas": areas,
        }))
        .map_err(|err| Failure::new(Code::Failed, "cannot print the areas").because(err))?;
        out.line(line)?;
    }
    out.finish()
}
