//! Puts right what killed processes have left: leases that nobody works on and nobody keeps.

use super::journal::{Journal, Lease};
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

/// Releases every lease whose process is gone and that is not `kept`. `unmount` takes away what is mounted of
/// it: a mount that its process has not kept was to end with it. Snapshots that are not in the journal are
/// never touched, whatever they are called. With `dry_run` nothing is done.
///
/// `kept` is asked again once a lease is ours, so it must look anew each time.
///
/// # Errors
/// [`Code::State`]; what happens to single leases is told by [`Cleaned`].
pub fn cleanup(
    orchestrator: &Orchestrator<'_>,
    kept: &dyn Fn(&Lease) -> bool,
    unmount: &dyn Fn(&Lease) -> Outcome<()>,
    dry_run: bool,
) -> Outcome<Vec<(Lease, Cleaned)>> {
    let mut done = Vec::new();
    for lease in Journal::all(orchestrator.state)? {
        let outcome = clean(orchestrator, &lease, kept, unmount, dry_run);
        let cleaned = outcome.unwrap_or_else(|failure| Cleaned::Failed(format!("{failure:?}")));
        done.push((lease, cleaned));
    }
    Ok(done)
}

fn clean(
    orchestrator: &Orchestrator<'_>,
    lease: &Lease,
    kept: &dyn Fn(&Lease) -> bool,
    unmount: &dyn Fn(&Lease) -> Outcome<()>,
    dry_run: bool,
) -> Outcome<Cleaned> {
    if lease.server != orchestrator.server.host {
        return Ok(Cleaned::OtherServer);
    }
    if kept(lease) {
        return Ok(Cleaned::InUse);
    }
    if dry_run {
        let worked_on = Journal::is_worked_on(orchestrator.state, &lease.id)?;
        return Ok(if worked_on { Cleaned::InUse } else { Cleaned::WouldRelease });
    }
    let Some(journal) = Journal::take(orchestrator.state, &lease.id)? else { return Ok(Cleaned::InUse) };
    if kept(&journal.lease) {
        return Ok(Cleaned::InUse);
    }
    if !journal.lease.is_marked() && journal.lease.remove && journal.lease.snapshot.is_none() {
        return Err(Failure::new(Code::State, format!("the lease {} does not name what it holds", lease.id)));
    }
    unmount(&journal.lease)?;
    orchestrator.release(journal)?;
    Ok(Cleaned::Released)
}
