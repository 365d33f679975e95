//! `trust` and `changed`: what is asked of the server alone.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use serde_json::json;
use vcb_mountd::orchestrate::trust::{Certificate, Fingerprint};
use vcb_mountd::session::StateDir;
use vcb_mountd::{Code, Exit, Failure, Outcome, orchestrate};

use super::mount::with_proxy;
use crate::args::TrustArgs;
use crate::context::Context;
use crate::output::Out;

/// How long a server may take to show its certificate.
const LIMIT: Duration = Duration::from_secs(20);

/// Shows the certificate of a server, for a person to compare, and accepts it when the person says so.
pub fn trust(args: &TrustArgs, context: &Context) -> Outcome<Exit> {
    let host = &args.host;
    let certificate = orchestrate::trust::certificate(host, LIMIT)?;
    let state = StateDir::usual()?;
    let fingerprint = certificate.fingerprint.to_string();
    let before = orchestrate::trust::accepted(state.root(), host)?;
    let known = before.as_deref() == Some(&fingerprint);
    let expected = match &args.expect {
        Some(text) if !same(text, &certificate)? => {
            let what = format!("{host} presents another certificate than expected");
            return Err(Failure::new(Code::Untrusted, what)
                .because(format!("its fingerprint is {fingerprint}"))
                .next_step("Somebody may be between this host and the server: find out before trusting it."));
        }
        expected => expected.is_some(),
    };
    if !context.json {
        eprintln!("{host} presents this certificate:");
        eprintln!("  subject      {}", certificate.subject);
        eprintln!("  issuer       {}", certificate.issuer);
        eprintln!("  valid        {} to {}", certificate.not_before, certificate.not_after);
        eprintln!("  SHA-256      {fingerprint}");
        if let Some(before) = before.as_ref().filter(|_| !known) {
            context.warn(format_args!("until now another certificate was trusted: {before}"));
        }
    }
    let agreed = known || expected || args.yes || confirmed();
    if agreed && !known {
        let file = orchestrate::trust::accept(state.root(), host, &certificate)?;
        if !context.json && !context.quiet {
            eprintln!("vcbmount: from now on {host} is trusted with this certificate alone ({})", file.display());
        }
    }
    let mut out = Out::new();
    if context.json {
        out.line(json!({
            "host": host,
            "sha256": fingerprint,
            "subject": certificate.subject,
            "issuer": certificate.issuer,
            "not_before": certificate.not_before,
            "not_after": certificate.not_after,
            "trusted": agreed,
        }))?;
    } else {
        out.line(&fingerprint)?;
    }
    out.finish()?;
    if !agreed {
        return Err(Failure::new(Code::Untrusted, format!("{host} is not trusted: nobody said so")).next_step(
            "Compare the fingerprint with the one on the server's own console; then answer yes, or give --yes.",
        ));
    }
    Ok(Exit::Done)
}

fn same(text: &str, certificate: &Certificate) -> Outcome<bool> {
    let wrong = |err| Failure::new(Code::Usage, "--expect takes a SHA-256 fingerprint").because(err);
    Ok(Fingerprint::parse(text).map_err(wrong)? == certificate.fingerprint)
}

/// Asks a person, where there is one.
fn confirmed() -> bool {
    let (stdin, stderr) = (std::io::stdin(), std::io::stderr());
    if !stdin.is_terminal() || !stderr.is_terminal() {
        return false;
    }
    eprint!("Does the server's own console show this fingerprint? Type yes to trust it: ");
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).is_ok() && answer.trim().eq_ignore_ascii_case("yes")
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
