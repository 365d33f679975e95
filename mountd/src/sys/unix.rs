//! Linux.

#[cfg(test)]
pub(super) mod testing;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::{MountEntry, Signal};

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

/// The block devices of this host that may be LUNs: whole disks, multipath devices in place of their single
/// paths, loop devices.
pub(crate) fn block_devices() -> Vec<PathBuf> {
    devices_of(Path::new("/sys/class/block"))
}

/// Whole disks below `sysfs`, by their device paths.
fn devices_of(sysfs: &Path) -> Vec<PathBuf> {
    let read = |path: PathBuf| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let mut found = Vec::new();
    for entry in fs::read_dir(sysfs).into_iter().flatten().flatten() {
        let dir = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let empty = read(dir.join("size")).parse::<u64>().unwrap_or(0) == 0;
        let mapped = read(dir.join("dm/uuid"));
        if empty || dir.join("partition").exists() || (!mapped.is_empty() && !mapped.starts_with("mpath-")) {
            continue;
        }
        // A path of a multipath device is read through that device, which survives the loss of the path.
        let holders = fs::read_dir(dir.join("holders")).into_iter().flatten().flatten();
        if holders.into_iter().any(|holder| read(holder.path().join("dm/uuid")).starts_with("mpath-")) {
            continue;
        }
        let device =
            if mapped.is_empty() { name.replace('!', "/") } else { format!("mapper/{}", read(dir.join("dm/name"))) };
        found.push(Path::new("/dev").join(device));
    }
    found.sort();
    found
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
    PathBuf::from(OsString::from_vec(bytes))
}

/// Raises the kernel's readahead of the filesystem mounted at `at`. Needs root.
pub(crate) fn raise_read_ahead(at: &Path, kib: u32) -> io::Result<()> {
    let at = at.canonicalize()?;
    let device = mounts()?.into_iter().rev().find(|entry| entry.at == at).map(|entry| entry.device);
    let device = device.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), kib.to_string())
}

/// When a running process started; `None` when there is none, or it has ended and waits for its parent.
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows the last one has fixed places (proc(5)).
    let end = stat.iter().rposition(|&b| b == b')')?;
    let text = std::str::from_utf8(stat.get(end + 2..)?).ok()?;
    let fields: Vec<&str> = text.split(' ').collect();
    // Fields 20 and 22, counted from 1; the first one here is number 3. The first thread may have ended before the
    // others, which then still hold what the process holds.
    let threads: u32 = fields.get(17)?.parse().ok()?;
    if matches!(*fields.first()?, "Z" | "X") && threads <= 1 {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Sends a signal. A process that is gone has got it.
pub(crate) fn signal(pid: u32, signal: Signal) {
    use nix::sys::signal::{Signal as Nix, kill};
    let signal = match signal {
        Signal::Term => Nix::SIGTERM,
        Signal::Kill => Nix::SIGKILL,
    };
    let Ok(pid) = i32::try_from(pid) else { return };
    if let Err(err) = kill(nix::unistd::Pid::from_raw(pid), signal) {
        tracing::debug!(pid, %err, "not signalled");
    }
}

/// Becomes independent of the terminal and of the current folder.
pub(crate) fn leave_terminal() {
    // Fails for who leads a group already and so is independent.
    let _ = nix::unistd::setsid();
    if let Err(err) = std::env::set_current_dir("/") {
        tracing::debug!(%err, "stays in its folder");
    }
}

/// Calls `stop` at SIGTERM, SIGINT and SIGHUP, on a thread of its own.
pub fn on_stop_signal(mut stop: impl FnMut() + Send + 'static) {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    match signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]) {
        Ok(mut signals) => {
            std::thread::spawn(move || signals.forever().for_each(|_| stop()));
        }
        Err(err) => tracing::error!(%err, "signals end this process without unmounting"),
    }
}

/// Closes stdout for whoever reads it.
pub(crate) fn close_stdout() {
    let null = fs::OpenOptions::new().write(true).open("/dev/null");
    if let Err(err) = null.and_then(|null| Ok(nix::unistd::dup2_stdout(null)?)) {
        tracing::warn!(%err, "stdout stays open");
    }
}

/// The end of a socket whose other end is another process's stdin.
pub(crate) type Tether = std::os::unix::net::UnixStream;

/// Starts a process at the other end of a tether.
pub(crate) fn spawn_tethered(program: &Path, args: &[OsString]) -> io::Result<Tether> {
    use std::process::Stdio;
    let (ours, theirs) = Tether::pair()?;
    let theirs = Stdio::from(std::os::fd::OwnedFd::from(theirs));
    Command::new(program).args(args).stdin(theirs).stdout(Stdio::null()).spawn()?;
    Ok(ours)
}

/// Unmounts `at`; `lazily` even while files are open.
pub(crate) fn unmount(at: &Path, lazily: bool) -> io::Result<()> {
    use nix::mount::{MntFlags, umount2};
    let flags = if lazily { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(at, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Err(nix::errno::Errno::EPERM) => fusermount(at, lazily),
        other => Ok(other?),
    }
}

/// What users who are not root unmount with.
fn fusermount(at: &Path, lazily: bool) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u").args(lazily.then_some("-z")).arg("--").arg(at);
    let output = command.stdin(std::process::Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// True when nobody serves the mount at `at`. Such a mount answers at once.
pub(crate) fn is_disconnected(at: &Path) -> bool {
    matches!(nix::sys::statvfs::statvfs(at), Err(nix::errno::Errno::ENOTCONN))
}

/// Where sessions are kept, unless it is said otherwise.
pub(crate) fn state_folder() -> Option<PathBuf> {
    if user().is_root() {
        return Some(PathBuf::from("/var/lib/vcbmount"));
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    base.map(|base| base.join("vcbmount"))
}

/// Creates a file that must not exist yet and that only its owner can read, from the moment it exists.
///
/// # Errors
/// What the system says.
pub fn create_private_file(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Services are the service manager's affair here: it starts ordinary programs.
///
/// # Errors
/// Always.
pub fn run_service(_work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "the service manager of this system starts ordinary programs"))
}

/// Makes a folder, and those above it, that only this user may look into.
///
/// # Errors
/// What the system says.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces `path` by a file with this content, so that a crash leaves the old one or the new one.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = fs::File::create(&temporary).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    if let Err(err) = written {
        let _ = fs::remove_file(&temporary);
        return Err(err);
    }
    // The name is on disk once its folder is.
    path.parent().map_or(Ok(()), sync_folder)
}

/// True when `path` still names the open `file`.
pub(crate) fn is_same_file(file: &fs::File, path: &Path) -> bool {
    let same = file.metadata().and_then(|a| Ok((a, fs::metadata(path)?)));
    same.is_ok_and(|(a, b)| (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// True when `meta` is of a file of this user's.
pub(crate) fn is_owner(meta: &fs::Metadata, user: User) -> bool {
    meta.uid() == user.uid
}

/// True when both name the same place.
pub(crate) fn is_same_path(a: &Path, b: &Path) -> bool {
    a == b
}

/// What can be mounted on, as advice.
pub(crate) const MOUNT_POINTS: &str = "Name an empty folder of your own, or one that does not exist yet.";

/// Mount points that are no folders; there are none here.
pub(crate) fn bare_mount_point(_at: &Path) -> Option<PathBuf> {
    None
}

/// The folder that has to exist before something is mounted on `at`.
pub(crate) fn folder_to_make(at: &Path) -> &Path {
    at
}

/// A resolved path as users write it.
pub(crate) fn plain(path: PathBuf) -> PathBuf {
    path
}

/// Lets a process that is to be started live on by itself.
pub(crate) fn detach(_command: &mut Command) {
    // It does so by [`leave_terminal`].
}

/// Configuration files of the host and the user, lowest layer first.
pub(crate) fn config_files() -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("/etc/vcbmount/config.toml")];
    let user = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let user = user.or_else(|| home().map(|home| home.join(".config")));
    files.extend(user.map(|dir| dir.join("vcbmount/config.toml")));
    files
}

/// The folder of hooks, unless it is said otherwise.
pub(crate) fn hooks_folder() -> PathBuf {
    PathBuf::from("/etc/vcbmount/hooks.d")
}

/// The user's own folder.
pub(crate) fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from)
}

/// The host's name, for people.
pub(crate) fn host_name() -> Option<String> {
    Some(nix::unistd::gethostname().ok()?.to_string_lossy().into_owned())
}

/// When others than its owner can read a file: what says so, and how to change it.
pub(crate) fn others_can_read(path: &Path) -> io::Result<Option<(String, String)>> {
    let mode = fs::metadata(path)?.permissions().mode() & 0o7777;
    let next = || format!("Run: chmod 600 {}", path.display());
    Ok((mode & 0o077 != 0).then(|| (format!("its mode is {mode:04o}"), next())))
}

/// Whether a file can be run: `Err` with what to do when anybody may change it, because whoever does would
/// run as us.
pub(crate) fn is_executable(path: &Path) -> io::Result<Result<bool, String>> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o111 != 0 && mode & 0o002 != 0 {
        return Ok(Err(format!("Run: chmod o-w {}", path.display())));
    }
    Ok(Ok(mode & 0o111 != 0))
}

/// Makes a process that is to be started, with its children, one that [`kill_group`] ends.
pub(crate) fn own_group(command: &mut Command) {
    command.process_group(0);
}

/// Ends a process and its children.
pub(crate) fn kill_group(child: &mut Child) -> io::Result<()> {
    let group = i32::try_from(child.id()).map_err(io::Error::other)?;
    Ok(nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), nix::sys::signal::Signal::SIGKILL)?)
}

/// Makes sure that the names in a folder are on disk.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
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

    #[test]
    fn partitions_and_single_paths_are_not_candidates() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (name, size) in
            [("sda", "100"), ("sda1", "50"), ("sdb", "100"), ("loop0", "0"), ("dm-0", "9"), ("dm-1", "9")]
        {
            put(&format!("{name}/size"), size);
        }
        put("sda1/partition", "1");
        put("sdb/holders/dm-0/dm/uuid", "mpath-36001405");
        put("dm-0/dm/uuid", "mpath-36001405\n");
        put("dm-0/dm/name", "mpatha\n");
        put("dm-1/dm/uuid", "LVM-abc\n");
        assert_eq!(devices_of(dir.path()), [PathBuf::from("/dev/mapper/mpatha"), PathBuf::from("/dev/sda")]);
    }
}
