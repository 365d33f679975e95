//! VMDK descriptors, extents and snapshot chains as blocks.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod resolve;

pub use resolve::{FolderResolver, Resolved, Resolver};
