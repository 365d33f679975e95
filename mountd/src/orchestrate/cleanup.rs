//! Puts right what killed processes have left: leases that nobody works on and whose mount is gone.

use std::path::Path;

use super::journal::{Journal, Lease, Step};
use super::lease::Orchestrator;
use crate::failure::{Code, Failure, Outcome};

/// What [`cleanup`] did about a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cleaned {
    /// It is being used; nothing was done.
    InUse,
    /// It belongs to another server than the configured one; nothing was done.
    OtherServer,
    /// It would be released.
    WouldRelease,
    /// It was released.
    Released,
    /// It could not be.
    Failed(String),
}

/// Releases every lease whose process is gone and whose mount `is_mounted` does not know (any more).
/// Snapshots that are not in the journal are never touched, whatever they are called.
///
/// `orchestrator` is asked for a session only when there is something to do; `dry_run` does nothing.
///
/// # Errors
/// [`Code::State`]; what happens to single leases is told by [`Cleaned`].
pub fn cleanup<'a>(
    state: &Path,
    server: &str,
    is_mounted: impl Fn(&Lease) -> bool,
    dry_run: bool,
    orchestrator: &mut dyn FnMut() -> Outcome<&'a Orchestrator<'a>>,
) -> Outcome<Vec<(Lease, Cleaned)>> {
    let mut done = Vec::new();
    for lease in Journal::all(state)? {
        let outcome = clean(state, server, &lease, &is_mounted, dry_run, orchestrator);
        let cleaned = outcome.unwrap_or_else(|failure| Cleaned::Failed(format!("{failure:?}")));
        done.push((lease, cleaned));
    }
    Ok(done)
}

fn clean<'a>(
    state: &Path,
    server: &str,
    lease: &Lease,
    is_mounted: &impl Fn(&Lease) -> bool,
    dry_run: bool,
    orchestrator: &mut dyn FnMut() -> Outcome<&'a Orchestrator<'a>>,
) -> Outcome<Cleaned> {
    if lease.server != server {
        return Ok(Cleaned::OtherServer);
    }
    let may_be_mounted = |lease: &Lease| matches!(lease.step, Step::Mounting | Step::Mounted | Step::Releasing);
    if may_be_mounted(lease) && is_mounted(lease) {
        return Ok(Cleaned::InUse);
    }
    if dry_run {
        return Ok(if Journal::is_worked_on(state, &lease.id)? { Cleaned::InUse } else { Cleaned::WouldRelease });
    }
    let Some(journal) = Journal::take(state, &lease.id)? else { return Ok(Cleaned::InUse) };
    // It may have been mounted between our looking at it and our taking it.
    if may_be_mounted(&journal.lease) && is_mounted(&journal.lease) {
        return Ok(Cleaned::InUse);
    }
    if !journal.lease.is_marked() && journal.lease.remove && journal.lease.snapshot.is_none() {
        return Err(Failure::new(Code::State, format!("the lease {} does not name what it holds", lease.id)));
    }
    orchestrator()?.release(journal)?;
    Ok(Cleaned::Released)
}
