//! Real mounts of VMs in memory. Windows needs WinFsp's driver for them, on a machine of its own.
//!
//! A session's background processes are this program again, so it has a `main` of its own.

#![allow(clippy::unwrap_used)]

#[cfg(unix)]
mod fuse;
#[cfg(unix)]
#[path = "../place/mod.rs"]
mod place;
#[cfg(unix)]
#[path = "../../src/view/testing.rs"]
#[allow(dead_code)]
mod testing;

#[cfg(unix)]
use fuse::main;
#[cfg(unix)]
use vcb_mountd::vm;

#[cfg(not(unix))]
fn main() {
    println!("FUSE is not of this system: WinFsp's mounts are tested by scripts/windows/real.ps1");
}
