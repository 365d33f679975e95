//! What differs between operating systems in opening files. Nothing else in this crate is `cfg`-dependent.

use std::io;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
pub(crate) use linux::Confined;
#[cfg(all(test, target_os = "linux"))]
pub(crate) use linux::testing;
#[cfg(not(target_os = "linux"))]
pub(crate) use other::Confined;
#[cfg(all(test, not(target_os = "linux")))]
pub(crate) use other::testing;

/// Why a file below a folder was not opened.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It has become one that lies outside.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "Linux' kernel alone tells"))]
    LeadsOut,
    /// The system says why.
    Failed(io::Error),
}
