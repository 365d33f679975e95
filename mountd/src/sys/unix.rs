//! Linux.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Who runs this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    pub(crate) fn is_root(self) -> bool {
        self.uid == 0
    }
}

/// The effective user and group.
pub(crate) fn user() -> User {
    User { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
}

/// A line of the table of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// `major:minor` of the mounted filesystem.
    pub(crate) device: String,
    pub(crate) at: PathBuf,
    pub(crate) fs_type: String,
    pub(crate) source: String,
}

/// The mounts that this process sees, in the order in which they were made. Asking for them touches no
/// filesystem, so a dead one cannot hang it.
pub(crate) fn mounts() -> io::Result<Vec<MountEntry>> {
    Ok(parse_mounts(&fs::read("/proc/self/mountinfo")?))
}

/// Format: proc(5), `/proc/pid/mountinfo`.
fn parse_mounts(text: &[u8]) -> Vec<MountEntry> {
    let lines = text.split(|&b| b == b'\n');
    let entry = |line: &[u8]| {
        let mut fields = line.split(|&b| b == b' ');
        let device = String::from_utf8_lossy(fields.nth(2)?).into_owned();
        let at = path_of(unescape(fields.nth(1)?));
        let mut tail = fields.skip_while(|field| *field != b"-").skip(1);
        let fs_type = String::from_utf8_lossy(tail.next()?).into_owned();
        let source = String::from_utf8_lossy(&unescape(tail.next()?)).into_owned();
        Some(MountEntry { device, at, fs_type, source })
    };
    lines.filter_map(entry).collect()
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// Raises the kernel's readahead of the filesystem mounted at `at`. Needs root.
pub(crate) fn raise_read_ahead(at: &Path, kib: u32) -> io::Result<()> {
    let at = at.canonicalize()?;
    let device = mounts()?.into_iter().rev().find(|entry| entry.at == at).map(|entry| entry.device);
    let device = device.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), kib.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_mounts_is_read_with_its_escapes() {
        let text = b"36 35 98:0 / /mnt/a\\040b\\134 rw,noatime shared:1 master:2 - fuse vcbmount:x\\0401 rw\n\
            37 35 0:52 / /proc rw - proc proc rw\nnonsense\n";
        let mounts = parse_mounts(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].at, Path::new("/mnt/a b\\"));
        assert_eq!((mounts[0].device.as_str(), mounts[0].fs_type.as_str()), ("98:0", "fuse"));
        assert_eq!(mounts[0].source, "vcbmount:x 1");
    }
}
