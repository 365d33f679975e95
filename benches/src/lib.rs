//! The disks that benches read, and clocks.

pub mod disks;
