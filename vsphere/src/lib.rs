//! A thin, blocking client of the vSphere SOAP API (vim25), for ESXi 6.7 to 8 and vCenter 7 to 9.
//!
//! It knows the few dozen calls a backup needs and no more: sessions, finding VMs, snapshots, tasks,
//! changed areas, consolidation, and reading files through the datastore browser. SOAP is the one
//! protocol all those servers speak; the version asked for is low and fixed, and answers are read
//! leniently: unknown elements are skipped, missing optional ones are `None`.
//!
//! ```text
//!   Client ── call ──► Http ── ureq ── Connector (rustls, our verifier)
//!     │                 │
//!     │                 └─ size cap, 503 back-off, cookie
//!     └─ login, log in again on NotAuthenticated, log out on drop
//! ```
//!
//! Everything a server sends is hostile input: sizes, depths and pages are capped, document types are
//! refused, and names are returned as they came, for the caller to check. Secrets are never logged:
//! only method names, durations and results are.
//!
//! All calls block and may be made from any number of threads.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cbt;
mod certificate;
mod client;
mod error;
pub mod fault;
mod folder;
mod http;
mod inventory;
mod methods;
mod model;
mod property;
mod secret;
mod snapshot;
mod soap;
mod task;
mod tls;
mod xml;

pub use cbt::ChangedAreas;
pub use certificate::Certificate;
pub use client::{Client, KeepAlive, Retry, Settings};
pub use error::{Error, Fault, Result};
pub use folder::DatastoreFile;
pub use inventory::Find;
pub use model::{
    Backing, Datastore, DatastoreKind, Disk, Guest, Moref, PowerState, Snapshot, VirtualMachine, parse_datastore_path,
};
pub use secret::Secret;
pub use snapshot::{Quiesce, SnapshotSpec};
pub use task::{Cancel, Wait};
pub use tls::{Fingerprint, Trust, address, server_certificate};
