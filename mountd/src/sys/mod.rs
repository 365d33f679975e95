//! What differs between platforms, behind functions that do not.

#[cfg(unix)]
mod unix;

#[cfg(unix)]
pub use unix::Process;
#[cfg(unix)]
pub(crate) use unix::*;
