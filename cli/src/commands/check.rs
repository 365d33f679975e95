//! `check`: the structure of a disk's chain.

use std::sync::Arc;

use serde_json::json;
use vcb_mountd::{Exit, Outcome};
use vcb_vmdk::Severity;

use super::target;
use crate::args::Reading;
use crate::context::Context;
use crate::output::{Out, printable};

/// Checks every disk that `spec` means.
pub fn run(spec: &str, reading: &Reading, context: &Context) -> Outcome<Exit> {
    let plan = target::plan(spec, reading, context)?;
    let mut findings = plan.check_archive()?;
    let resolver = plan.source.resolver()?;
    for disk in &plan.disks {
        let found = vcb_vmdk::check(Arc::clone(&resolver), &disk.file, &plan.options.disk_options());
        findings.extend(
            found.map_err(|err| vcb_mountd::Failure::reading(format!("cannot open the disk {}", disk.shown()), err))?,
        );
    }
    let mut out = Out::new();
    for finding in &findings {
        let severity = match finding.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        if context.json {
            out.line(json!({
                "severity": severity,
                "file": finding.path,
                "offset": finding.offset,
                "text": finding.text,
            }))?;
        } else {
            let offset = finding.offset.map(|offset| format!(" at {offset:#x}")).unwrap_or_default();
            let (file, text) = (printable(finding.path.as_bytes()), printable(finding.text.as_bytes()));
            out.line(format_args!("{severity}: {file}{offset}: {text}"))?;
        }
    }
    let broken = findings.iter().any(|finding| finding.severity == Severity::Error);
    if !context.json && !context.quiet {
        let disks = plan.disks.len();
        out.line(format_args!(
            "{} {disks} checked, {} findings",
            if disks == 1 { "disk" } else { "disks" },
            findings.len()
        ))?;
    }
    out.finish()?;
    Ok(if broken { Exit::Input } else { Exit::Done })
}
