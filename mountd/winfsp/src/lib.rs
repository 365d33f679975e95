//! Towards a WinFsp front end: the same views as through FUSE, on Windows.
//!
//! [`tree`] turns a view into what Windows expects and knows no WinFsp, so that it is tested on every system.
//! On Windows `load` finds WinFsp and makes its functions callable. Nothing mounts yet.

pub mod names;
pub mod status;
pub mod tree;

#[cfg(windows)]
mod delay_load;
#[cfg(windows)]
pub mod load;
