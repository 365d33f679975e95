//! Windows.

use std::fs::{File, OpenOptions};
use std::path::Path;

/// Creates a file that must not exist yet. Who can read it is decided by its folder, as a user's profile
/// folder is readable by that user alone.
pub fn create_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}
