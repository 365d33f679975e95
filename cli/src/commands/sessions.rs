//! `umount`, `sessions` and `cleanup`.

use serde_json::json;
use vcb_mountd::orchestrate::Cleaned;
use vcb_mountd::session::{self, Health, StateDir, StorageState, Unmounted};
use vcb_mountd::{Code, Exit, Failure, Outcome};

use super::mount::with_proxy;
use crate::context::Context;
use crate::output::{Out, printable};

/// Unmounts.
pub fn umount(target: &str, context: &Context) -> Outcome<Exit> {
    let unmounted = with_proxy(context, |proxy| proxy.umount(target))?;
    let partial = tell_unreadable(&unmounted, context);
    if context.json {
        let mut out = Out::new();
        let value = serde_json::to_value(&unmounted)
            .map_err(|err| Failure::new(Code::Failed, "the outcome cannot be written as JSON").because(err))?;
        out.line(value)?;
        out.finish()?;
    }
    Ok(if partial { Exit::Partial } else { Exit::Done })
}

/// Names on stderr what could not be read while it was mounted; true when there was anything.
pub fn tell_unreadable(unmounted: &Unmounted, context: &Context) -> bool {
    if unmounted.crashed {
        context.warn("the process that served the mount was dead; what was read before is right");
    }
    for unreadable in &unmounted.unreadable {
        eprintln!("vcbmount: unreadable: {}: {}", printable(unreadable.path.as_bytes()), unreadable.error);
    }
    !unmounted.unreadable.is_empty()
}

/// Shows the sessions.
pub fn list(context: &Context) -> Outcome<Exit> {
    let mut out = Out::new();
    for session in session::list(&StateDir::usual()?)? {
        if context.json {
            let value = serde_json::to_value(&session)
                .map_err(|err| Failure::new(Code::Failed, "a session cannot be written as JSON").because(err))?;
            out.line(value)?;
            continue;
        }
        let record = &session.record;
        out.line(format_args!(
            "{}  {:<8}  {:<6}  {}  {}",
            record.id,
            match &session.storage {
                Some(storage) if session.health == Health::Mounted => condition(storage.state),
                _ => health(session.health),
            },
            format!("{:?}", record.mode).to_lowercase(),
            record.at.display(),
            printable(record.vm.name.as_bytes())
        ))?;
        if let Some(storage) = &session.storage {
            let state = condition(storage.state);
            out.line(format_args!("  {state} since {}: {}", storage.since, printable(storage.reason.as_bytes())))?;
        }
        for unreadable in &session.unreadable {
            out.line(format_args!("  unreadable: {}: {}", printable(unreadable.path.as_bytes()), unreadable.error))?;
        }
    }
    out.finish()
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Starting => "starting",
        Health::Mounted => "mounted",
        Health::Dead => "dead",
    }
}

fn condition(state: StorageState) -> &'static str {
    match state {
        StorageState::Degraded => "degraded",
        StorageState::Failed => "failed",
        StorageState::Voided => "voided",
    }
}

/// Puts right what was left behind.
pub fn cleanup(dry_run: bool, context: &Context) -> Outcome<Exit> {
    let tidied = with_proxy(context, |proxy| proxy.cleanup(dry_run))?;
    let mut out = Out::new();
    for one in &tidied.mounts {
        if context.json {
            out.line(
                json!({ "id": one.id, "at": one.at.display().to_string(), "mounted": one.mounted, "done": !dry_run }),
            )?;
        } else {
            let did = if dry_run { "would clean" } else { "cleaned" };
            let what = if one.mounted { "a mount without a process" } else { "what a dead session left" };
            out.line(format_args!("{did} {}: {what} at {}", one.id, one.at.display()))?;
        }
    }
    let mut failed = false;
    for (lease, cleaned) in &tidied.leases {
        let (word, why) = match cleaned {
            Cleaned::InUse => continue,
            Cleaned::OtherServer => ("is another server's", None),
            Cleaned::WouldRelease => ("would be released", None),
            Cleaned::Released => ("released", None),
            Cleaned::Failed(why) => ("not released", Some(why)),
        };
        failed |= why.is_some();
        if context.json {
            out.line(json!({ "id": lease.id, "snapshot": lease.snapshot_name, "vm": lease.vm.name, "lease": word, "why": why }))?;
        } else {
            out.line(format_args!("{word}: the snapshot {} of {}", lease.snapshot_name, lease.vm.name))?;
        }
        if let Some(why) = why {
            context.warn(why);
        }
    }
    out.finish()?;
    Ok(if failed { Exit::Failed } else { Exit::Done })
}
