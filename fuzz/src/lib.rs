//! What fuzz targets do with their input. The quick tests include the same files, so that targets keep
//! compiling and their invariants hold between fuzzing runs.

pub mod ntfs;
pub mod vmdk;
pub mod vmfs;
