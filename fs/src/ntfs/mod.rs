//! NTFS, read-only.
//!
//! ```text
//!   Filesystem (volume)      folders (dir)   attributes, data (attr)   links (reparse)   ACLs (secure)
//!                                  │                │
//!                            index ┤   file: a base record and its attribute list
//!                                  │                │
//!                                  └── mft: records, cached in large pieces
//!                                                   │
//!          boot · fixup · record · runlist ── stream: clusters as a Block ── codec ── …
//!                                                   │
//!                                               the volume
//! ```
//! What is read is checked before it is believed, and every read goes through the volume's block, so that
//! a file's content is one translation away from the disk. Nothing is locked while something is read.
//!
//! The reader's rules: an attribute's parts belong together by type, name and lowest VCN; bytes past the
//! initialized size are zeros; data that is not here or cannot be decoded (EFS, deduplication, cloud
//! placeholders, unknown reparse tags) is [`vcb_block::Kind::Unsupported`], never zeros; a contradiction
//! is [`vcb_block::Kind::Corrupt`], never absence.

mod attr;
mod boot;
mod cache;
pub mod codec;
mod dir;
mod error;
mod file;
mod fixup;
#[doc(hidden)]
pub mod fuzzing;
mod index;
pub mod logfile;
mod mft;
mod name;
mod node;
mod record;
mod recover;
mod reparse;
mod runlist;
mod secure;
mod stream;
mod totals;
mod volume;

pub use boot::Geometry;
pub use error::{Fault, NtfsError, Place};
pub use recover::{LogOutcome, Unreplayed};
pub use volume::{Ntfs, Options};

/// Record number of the root folder.
const ROOT: u64 = 5;
