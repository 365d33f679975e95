//! What whole-product tests share.

pub mod disks;
pub mod vcsim;
