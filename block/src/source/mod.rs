//! Where bytes come from in the end: a file, or a block device read past the page cache.

mod device;
mod file;

pub use device::DeviceSource;
pub use file::FileSource;
