//! Front ends: a [`View`] mounted on a platform.

#[cfg(unix)]
pub mod fuse;
mod report;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vcb_block::Result;

use crate::view::View;
pub use report::{Report, Unreadable};

/// How a view is mounted. Front ends ignore what their platform does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FrontOptions {
    /// Name of the mount in the system's list of mounts.
    pub source: String,
    /// Name of what is mounted, where mounts have a label.
    pub label: String,
    /// Owner shown for everything; the user who mounts when not given.
    pub uid: Option<u32>,
    /// Group shown for everything.
    pub gid: Option<u32>,
    /// Permission bits of files; those with the attribute READONLY lose the write bits.
    pub file_mode: u32,
    /// Permission bits of folders.
    pub dir_mode: u32,
    /// Other users may look too, as far as the permission bits let them.
    pub allow_other: bool,
    /// Let the kernel read files that are whole files of the host.
    pub passthrough: bool,
    /// Threads that answer requests; chosen by the number of processors when not given.
    pub threads: Option<usize>,
}

impl Default for FrontOptions {
    fn default() -> Self {
        FrontOptions {
            source: "vcbmount".to_owned(),
            label: String::new(),
            uid: None,
            gid: None,
            file_mode: 0o644,
            dir_mode: 0o755,
            allow_other: false,
            passthrough: true,
            threads: None,
        }
    }
}

/// Mounts views.
pub trait FrontEnd {
    /// Mounts `view` at `at`, which the session has made ready. When it returns, the mount answers.
    ///
    /// # Errors
    /// What the system says, with what to do about it.
    fn mount(
        &self,
        view: Arc<dyn View>,
        at: &Path,
        options: &FrontOptions,
        report: Arc<Report>,
    ) -> Result<Box<dyn Mounted>>;
}

/// Takes a mount away, from any thread; with `true` even while files are open. A mount that is gone has been
/// taken away.
pub type Unmounter = Box<dyn Fn(bool) -> std::io::Result<()> + Send>;

/// A view while it is mounted. Dropping it unmounts.
pub trait Mounted: Send {
    /// What ends [`Mounted::serve`].
    fn unmounter(&self) -> Unmounter;

    /// Answers requests until the mount is gone, whoever removed it.
    ///
    /// # Errors
    /// When answering ended for another reason.
    fn serve(self: Box<Self>) -> Result<()>;
}
