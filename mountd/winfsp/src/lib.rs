//! The WinFsp front end: the same views as through FUSE, on Windows.
//!
//! [`tree`] turns a view into what Windows expects and knows no WinFsp, so that it is tested on every system.
//! On Windows `adapter` puts its answers into WinFsp's structures, `load` finds WinFsp and makes its functions
//! callable, and `front` mounts.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod identity;
pub mod names;
pub mod security;
pub mod status;
pub mod tree;
pub mod twins;

#[cfg(windows)]
pub mod adapter;
#[cfg(windows)]
mod delay_load;
#[cfg(windows)]
mod front;
#[cfg(windows)]
pub mod load;

#[cfg(windows)]
pub use front::WinFspFrontEnd;
