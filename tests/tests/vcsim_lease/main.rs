//! Leases against the simulator: made and released, refused, and cleaned up whatever died or failed.

#![allow(clippy::unwrap_used)]

mod bench;
mod faults;
mod leases;
