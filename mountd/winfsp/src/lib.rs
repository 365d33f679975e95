//! The WinFsp front end: the same views as through FUSE, on Windows.
//!
//! [`tree`] turns a view into what Windows expects and knows no WinFsp; [`adapter`] is the thin layer that
//! WinFsp calls. Only the latter needs Windows.

pub mod names;
pub mod status;
pub mod tree;

#[cfg(windows)]
mod adapter;
#[cfg(windows)]
mod delay_load;
#[cfg(windows)]
mod front;
#[cfg(windows)]
pub mod load;

#[cfg(windows)]
pub use adapter::Adapter;
#[cfg(windows)]
pub use front::WinFspFrontEnd;
