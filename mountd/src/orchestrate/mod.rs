//! From a VM's name to disks that stand still, and back to a VM as it was.
//!
//! ```text
//!   connect ─ lookup ─ refusals ─ limits ─┐
//!                                         ▼
//!   journal ◄── each step first ──  lease: pre-snapshot hooks, snapshot, post-snapshot hooks
//!      │                                  │ disks as the snapshot's configuration names them
//!      ▼                                  ▼
//!   cleanup: undoes what the         transport: [datastore] names → folders, LUNs, HTTPS → MountPlan
//!   journal says is left
//! ```
//!
//! A lease is what a backup holds on a VM: a snapshot with our mark, and sometimes the promise that nobody
//! moves the VM. Before each change to the outside world the journal says what is about to happen, on disk;
//! so whatever kills the process, [`cleanup`] knows where to look. It touches nothing without our mark.

mod cleanup;
mod connect;
pub mod fault;
mod hooks;
mod inspect;
mod journal;
mod lease;
mod limits;
mod lookup;
mod proxy;
mod refusals;
mod run;
mod snapshot;
mod transport;
pub mod trust;

pub use cleanup::{Cleaned, cleanup};
pub(crate) use connect::hand_password;
pub use connect::{PASSWORD_VARIABLE, Prompt, connect, server_failure};
pub use hooks::{Event, Hooks, Subject};
pub use inspect::{Examined, Lacking};
pub use journal::{Journal, Lease, Step};
pub use lease::{Held, Options, Orchestrator, Reached};
pub use lookup::{Identity, find, find_one, identity};
pub(crate) use proxy::KEEP_ALIVE;
pub use proxy::{Mount, Proxy, Tidied, Wanted};
pub use refusals::refusals;
pub use run::Ran;
