//! Windows. The only place of this package with unsafe code: calls of the Win32 API.
#![allow(unsafe_code)]

mod access;
mod process;
mod service;
mod stop;
#[cfg(test)]
pub(super) mod testing;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::windows::ffi::{OsStrExt, OsStringExt};
use std::os::windows::io::AsRawHandle;
use std::path::{Component, Path, PathBuf, Prefix};

use windows_sys::Win32::Foundation::{HANDLE, LocalFree};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, GetFileInformationByHandle, GetLogicalDrives, MOVEFILE_REPLACE_EXISTING,
    MOVEFILE_WRITE_THROUGH, MoveFileExW, QueryDosDeviceW,
};
use windows_sys::Win32::UI::Shell::IsUserAnAdmin;

use super::{MountEntry, Signal};

pub(crate) use access::others_can_read;
pub use access::{create_private_dir, create_private_file};
pub(crate) use process::{close_stdout, detach, kill_group, leave_terminal, own_group, signal, start_of};
pub use service::run_service;
pub use stop::on_stop_signal;

/// Text for a function that ends with `W`.
fn wide(text: impl AsRef<OsStr>) -> Vec<u16> {
    text.as_ref().encode_wide().chain([0]).collect()
}

/// The outcome of a function that gives `BOOL`.
fn check(result: i32) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Memory that the system has given and wants back by `LocalFree`.
struct Local(*mut core::ffi::c_void);

impl Drop for Local {
    fn drop(&mut self) {
        // SAFETY: whoever makes a `Local` got the pointer from a function that says to free it so.
        unsafe { LocalFree(self.0) };
    }
}

/// Who runs this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User {
    elevated: bool,
}

impl User {
    /// True with an administrator's rights in force.
    pub(crate) fn is_root(self) -> bool {
        self.elevated
    }
}

/// Who runs this process.
pub(crate) fn user() -> User {
    // SAFETY: it takes nothing and has no preconditions.
    User { elevated: unsafe { IsUserAnAdmin() } != 0 }
}

/// The drives of this process, without touching what is on them. A mount in a folder, or under a share's
/// name, is known to its session alone.
#[allow(clippy::unnecessary_wraps, reason = "reading the table fails elsewhere")]
pub(crate) fn mounts() -> io::Result<Vec<MountEntry>> {
    // SAFETY: it takes nothing and has no preconditions.
    let drives = unsafe { GetLogicalDrives() };
    let letters = ('A'..='Z').zip(0..).filter(|(_, bit)| drives >> bit & 1 == 1);
    let entry = |(letter, _)| {
        let at = format!("{letter}:");
        let device = dos_device(&at).into_iter().next().unwrap_or_default();
        let source = format!("drive {letter}: of this host");
        MountEntry { device, at: at.into(), fs_type: "in use".to_owned(), source }
    };
    Ok(letters.map(entry).collect())
}

/// What a device name stands for, or with an empty name all device names.
fn dos_device(name: &str) -> Vec<String> {
    let wanted = wide(name);
    let mut buffer = vec![0_u16; 1 << 16];
    let wanted = if name.is_empty() { std::ptr::null() } else { wanted.as_ptr() };
    let len = buffer.len() as u32;
    // SAFETY: the name ends with a zero or is null, and the buffer's length is told.
    let len = unsafe { QueryDosDeviceW(wanted, buffer.as_mut_ptr(), len) };
    let used = &buffer[..(len as usize).min(buffer.len())];
    used.split(|&unit| unit == 0).filter(|name| !name.is_empty()).map(String::from_utf16_lossy).collect()
}

/// The disks of this host, which may be LUNs.
pub(crate) fn block_devices() -> Vec<PathBuf> {
    let number = |name: &str| name.strip_prefix("PhysicalDrive")?.parse::<u32>().ok();
    let mut numbers: Vec<u32> = dos_device("").iter().filter_map(|name| number(name)).collect();
    numbers.sort_unstable();
    numbers.into_iter().map(|number| PathBuf::from(format!(r"\\.\PhysicalDrive{number}"))).collect()
}

/// Mounts end with the process that serves them, and only it can unmount.
pub(crate) fn unmount(at: &Path, _lazily: bool) -> io::Result<()> {
    Err(io::Error::other(format!("{} can be unmounted by the process that serves it alone", at.display())))
}

/// A mount that nobody serves is no mount here.
pub(crate) fn is_disconnected(_at: &Path) -> bool {
    false
}

/// True when both name the same place: names differ in more than their case.
pub(crate) fn is_same_path(a: &Path, b: &Path) -> bool {
    let lower = |path: &Path| path.to_string_lossy().to_lowercase();
    a == b || lower(a) == lower(b)
}

/// What can be mounted on, as advice.
pub(crate) const MOUNT_POINTS: &str =
    r"Name a free drive letter such as V:, a folder that does not exist yet, or \\SERVER\SHARE.";

/// Mount points that are no folders: a drive letter (`X:`) and `\\server\share`.
pub(crate) fn bare_mount_point(at: &Path) -> Option<PathBuf> {
    let mut parts = at.components();
    let Component::Prefix(prefix) = parts.next()? else { return None };
    if parts.any(|part| part != Component::RootDir) {
        return None;
    }
    match prefix.kind() {
        Prefix::Disk(letter) => Some(format!("{}:", char::from(letter.to_ascii_uppercase())).into()),
        Prefix::UNC(server, share) => {
            Some(format!(r"\\{}\{}", server.to_string_lossy(), share.to_string_lossy()).into())
        }
        _ => None,
    }
}

/// The folder that has to exist before something is mounted on `at`: WinFsp makes `at` itself.
pub(crate) fn folder_to_make(at: &Path) -> &Path {
    at.parent().unwrap_or(at)
}

/// A resolved path as users write it: without `\\?\`, which most programs do not take.
pub(crate) fn plain(path: PathBuf) -> PathBuf {
    let mut parts = path.components();
    let Some(Component::Prefix(prefix)) = parts.next() else { return path };
    let start = match prefix.kind() {
        Prefix::VerbatimDisk(letter) => format!("{}:", char::from(letter)),
        Prefix::VerbatimUNC(server, share) => format!(r"\\{}\{}", server.to_string_lossy(), share.to_string_lossy()),
        _ => return path,
    };
    let mut text = OsString::from(start);
    for part in parts.filter(|part| *part != Component::RootDir) {
        text.push("\\");
        text.push(part);
    }
    if text.encode_wide().all(|unit| unit != u16::from(b'\\')) {
        text.push("\\");
    }
    text.into()
}

fn folder(variable: &str, usual: Option<&str>) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    named.or_else(|| usual.map(PathBuf::from))
}

fn program_data() -> Option<PathBuf> {
    Some(folder("ProgramData", Some(r"C:\ProgramData"))?.join("vcbmount"))
}

/// Where sessions are kept, unless it is said otherwise.
pub(crate) fn state_folder() -> Option<PathBuf> {
    if user().is_root() {
        return Some(program_data()?.join("state"));
    }
    Some(folder("LOCALAPPDATA", None)?.join("vcbmount").join("state"))
}

/// Configuration files of the host and the user, lowest layer first.
pub(crate) fn config_files() -> Vec<PathBuf> {
    let user = folder("APPDATA", None).map(|dir| dir.join("vcbmount"));
    program_data().into_iter().chain(user).map(|dir| dir.join("config.toml")).collect()
}

/// The folder of hooks, unless it is said otherwise.
pub(crate) fn hooks_folder() -> PathBuf {
    program_data().unwrap_or_default().join("hooks.d")
}

/// The user's own folder.
pub(crate) fn home() -> Option<PathBuf> {
    folder("USERPROFILE", None)
}

/// The host's name, for people.
pub(crate) fn host_name() -> Option<String> {
    std::env::var("COMPUTERNAME").ok()
}

/// Whether a file can be run: `Err` with what to do when anybody may change it or put others beside it, because
/// whoever does would run as us.
pub(crate) fn is_executable(path: &Path) -> io::Result<Result<bool, String>> {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    if !["exe", "bat", "cmd"].iter().any(|known| extension.eq_ignore_ascii_case(known)) {
        return Ok(Ok(false));
    }
    // Folders below ProgramData let every user add files, unless that was taken from them.
    for place in [Some(path), path.parent()].into_iter().flatten() {
        if let Some(next) = access::others_can_change(place)? {
            return Ok(Err(next));
        }
    }
    Ok(Ok(true))
}

/// Replaces `path` by a file with this content, so that a crash leaves the old one or the new one.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = fs::File::create(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    let (from, to) = (wide(&temporary), wide(path));
    let replaced = written.and_then(|()| {
        // SAFETY: both names end with a zero.
        check(unsafe { MoveFileExW(from.as_ptr(), to.as_ptr(), MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH) })
    });
    if replaced.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    replaced
}

/// Names are on disk when the call that made them returns, as far as the file system can say.
#[allow(clippy::unnecessary_wraps, reason = "other systems have something to do")]
pub(crate) fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// True when `path` still names the open `file`.
pub(crate) fn is_same_file(file: &fs::File, path: &Path) -> bool {
    let same = fs::File::open(path).and_then(|other| Ok((file_id(file)?, file_id(&other)?)));
    same.is_ok_and(|(a, b)| a == b)
}

/// Volume and number of a file.
fn file_id(file: &fs::File) -> io::Result<(u32, u32, u32)> {
    let mut info = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: the handle is open as long as `file` is, and `info` is written only.
    check(unsafe { GetFileInformationByHandle(file.as_raw_handle() as HANDLE, &raw mut info) })?;
    Ok((info.dwVolumeSerialNumber, info.nFileIndexHigh, info.nFileIndexLow))
}

/// Mount points have no owner here: who may make the folder may mount on it.
pub(crate) fn is_owner(_meta: &fs::Metadata, _user: User) -> bool {
    true
}

/// Nothing watches a server: when its process ends, however it does, the driver takes its mount away.
pub(crate) type Tether = io::Sink;

/// Starts nothing.
#[allow(clippy::unnecessary_wraps, reason = "other systems start a process")]
pub(crate) fn spawn_tethered(_program: &Path, _args: &[OsString]) -> io::Result<Tether> {
    Ok(io::sink())
}

/// The text of a pointer to UTF-16 that ends with a zero.
///
/// # Safety
/// `text` points to such text.
unsafe fn text_at(text: *const u16) -> String {
    let mut len = 0;
    // SAFETY: the caller says that a zero follows, and nothing behind it is read.
    let units = unsafe {
        while *text.add(len) != 0 {
            len += 1;
        }
        std::slice::from_raw_parts(text, len)
    };
    OsString::from_wide(units).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drive_letters_and_shares_are_no_folders() {
        let bare = |text: &str| bare_mount_point(Path::new(text)).map(|path| path.display().to_string());
        assert_eq!(bare("x:").as_deref(), Some("X:"));
        assert_eq!(bare(r"X:\").as_deref(), Some("X:"));
        assert_eq!(bare(r"\\vcb\web01").as_deref(), Some(r"\\vcb\web01"));
        assert_eq!(bare(r"\\vcb\web01\").as_deref(), Some(r"\\vcb\web01"));
        for folder in [r"X:\a", r"a", r"\a", r"\\vcb\web01\a", "X:a"] {
            assert_eq!(bare(folder), None, "{folder}");
        }
    }

    #[test]
    fn resolved_paths_are_shown_as_users_write_them() {
        let plain = |text: &str| plain(PathBuf::from(text)).display().to_string();
        assert_eq!(plain(r"\\?\C:\a b\c"), r"C:\a b\c");
        assert_eq!(plain(r"\\?\C:\"), r"C:\");
        assert_eq!(plain(r"\\?\UNC\s\t\a"), r"\\s\t\a");
        assert_eq!(plain(r"D:\x"), r"D:\x");
    }

    #[test]
    fn the_drives_are_known_and_files_are_told_apart() {
        assert!(mounts().unwrap().iter().any(|entry| entry.at == Path::new("C:")));
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        replace_file(&a, b"one").unwrap();
        replace_file(&a, b"two").unwrap();
        fs::write(&b, "two").unwrap();
        let file = fs::File::open(&a).unwrap();
        assert_eq!(fs::read(&a).unwrap(), b"two");
        assert!(is_same_file(&file, &a) && !is_same_file(&file, &b));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file is left");
    }
}
