//! Linux: the kernel confines what is opened.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::Refused;

/// A folder, below which files are opened.
pub(crate) struct Confined {
    root: PathBuf,
    dir: File,
}

impl Confined {
    pub(crate) fn to(root: &Path) -> io::Result<Self> {
        Ok(Confined { root: root.to_owned(), dir: File::open(root)? })
    }

    /// Opens `inside`, which held no symbolic links when it was looked at, for reading.
    pub(crate) fn open(&self, inside: &Path) -> Result<File, Refused> {
        // O_NONBLOCK keeps a FIFO from blocking us before we can see that it is one.
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        match openat2(&self.dir, inside, how) {
            Ok(fd) => Ok(File::from(fd)),
            // Linux before 5.6, or a seccomp filter that does not know the call.
            Err(Errno::ENOSYS | Errno::EPERM) => File::open(self.root.join(inside)).map_err(Refused::Failed),
            Err(Errno::ELOOP | Errno::EXDEV) => Err(Refused::LeadsOut),
            Err(err) => Err(Refused::Failed(err.into())),
        }
    }
}

/// What tests need of the system.
#[cfg(test)]
pub(crate) mod testing {
    use std::path::Path;

    /// Makes a symbolic link; false where that cannot be done.
    pub(crate) fn symlink(target: &Path, link: &Path) -> bool {
        std::os::unix::fs::symlink(target, link).is_ok()
    }

    /// Puts something there that is neither file nor folder; false where there is no such thing.
    pub(crate) fn put_no_file(at: &Path) -> bool {
        nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRWXU).is_ok()
    }
}
