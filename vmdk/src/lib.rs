//! VMDK descriptors, extents and snapshot chains as blocks.
//!
//! [`Disk::open`] reads a descriptor, finds its parents, opens every extent through a [`Resolver`] and gives
//! one [`vcb_block::Block`] with the bytes that the guest sees.
//!
//! ```text
//!   .vmx / .vmsd ──► name of a link ──► Descriptor ──► parent's Descriptor ──► … base
//!                                          │ extents        │ extents
//!                                          ▼                ▼
//!                    Chain:  leaf layer ── holes ──► next layer ── holes ──► … zeros
//!                               │ runs                  │ runs
//!                               ▼                       ▼
//!                            files, devices (whatever the Resolver lets through)
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cache;
mod chain;
mod check;
mod descriptor;
mod disk;
mod extent;
mod link;
pub mod ova;
mod resolve;
mod sys;
mod text;
pub mod vmsd;
pub mod vmx;

pub use cache::Cache;
pub use check::{Finding, Severity, check};
pub use descriptor::{Access, Descriptor, DescriptorError, ExtentInfo, ExtentKind, NO_PARENT};
pub use disk::{ChainError, Disk, Link, OpenOptions};
pub use extent::footer::CutShort;
pub use extent::sesparse::DirtyJournal;
pub use resolve::{FolderResolver, Resolved, Resolver, candidates};
