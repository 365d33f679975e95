//! NTFS, read-only.

mod cache;
pub mod codec;
