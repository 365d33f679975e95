//! Whole backups through the binary, against the simulator: every way to name a VM and to reach its disks,
//! VCB's own commands, many VMs at once, killed processes, failing requests, and secrets that must not show.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod backups;
mod bench;
mod faults;
mod names;
mod server;
mod transports;
mod vcb;
