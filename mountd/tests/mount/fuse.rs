//! What Linux' kernel sees, and what becomes of sessions.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vcb_block::{BlockRef, Concat, FileSource, MemBlock, ZeroBlock};
use vcb_mountd::config::Preexisting;
use vcb_mountd::front::fuse::FuseFrontEnd;
use vcb_mountd::plan::{DiskPlan, MountPlan};
use vcb_mountd::session::{self, Health, Program, Show, Started, StateDir};
use vcb_mountd::view::FullVmOptions;
use vcb_mountd::vm::OpenVm;
use vcb_mountd::{Code, Outcome};

use crate::place::{self, Place, request};
use crate::testing::{FakeFs, vm_of};

const MANY: usize = 50_000;
const SPARSE: u64 = 10 << 30;
const NOBODY: u32 = 65_534;
const DEAD: Duration = Duration::from_secs(10);

pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let program = Program::current(Vec::new()).unwrap();
    match args.first().map(String::as_str) {
        Some("__nobody") => return as_nobody(Path::new(&args[1])),
        Some(command) => {
            if let Some(code) = session::hidden(&program, command, &open, &FuseFrontEnd) {
                return code;
            }
        }
        None => {}
    }
    if !Path::new("/dev/fuse").exists() || !nix::unistd::geteuid().is_root() {
        vcb_fixtures::skip("real mounts need /dev/fuse and root");
        return ExitCode::SUCCESS;
    }
    let tests: [(&str, fn()); 9] = [
        ("a_folder_of_50000_files_lists_in_one_pass", many_files),
        ("a_sparse_file_tells_its_holes_at_once", sparse),
        ("inodes_and_times_are_the_same_after_a_remount", remount),
        ("links_and_streams_are_shown", links_and_streams),
        ("a_panic_and_an_unreadable_file_are_eio_and_reported_once", errors),
        ("a_killed_server_leaves_nothing", killed),
        ("what_cannot_be_mounted_on_is_refused_and_left_alone", refused),
        ("a_flat_image_is_the_host_file_with_and_without_passthrough", flat),
        ("a_user_who_is_not_root_mounts_and_unmounts", unprivileged),
    ];
    place::run(&args, &tests)
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 257 + seed) as u8).collect()
}

/// The VMs of these tests, by the name in the plan.
fn open(plan: &MountPlan) -> Outcome<OpenVm> {
    let mut fs = FakeFs::new();
    match plan.vm.name.as_str() {
        "many" => {
            for number in 0..MANY {
                fs.file(&format!("many/file{number:05}"), vec![b'x'; number % 7]);
            }
        }
        "flat" => {
            let mut vm = vm_of(vec![]);
            let file = FileSource::open(&plan.disks[0].file).map_err(|e| vcb_mountd::Failure::reading("flat", e))?;
            vm.disks[0].block = Arc::new(file);
            return Ok(vm);
        }
        "slow" => std::thread::sleep(Duration::from_secs(3)),
        _ => {
            let parts: Vec<BlockRef> = vec![
                Arc::new(ZeroBlock::new(SPARSE)),
                Arc::new(MemBlock::new(pattern(100_000, 3))),
                Arc::new(ZeroBlock::new(1 << 20)),
            ];
            fs.block("sparse", Arc::new(Concat::new(parts).unwrap()));
            fs.file("a/b/big.bin", pattern(3_000_001, 1));
            fs.file("empty", Vec::new());
            let file = fs.file("a/streams", b"content".to_vec());
            fs.stream(file, "Zone.Identifier", b"[ZoneTransfer]".to_vec());
            fs.stream(file, "large", vec![1; 70_000]);
            let to = ["A", "b"].iter().map(|part| part.as_bytes().to_vec()).collect();
            fs.link("a/link", vcb_fs::LinkTarget::Volume(to));
            let secret = fs.file("secret", vec![1; 5000]);
            fs.unreadable(secret);
            fs.panics = Some(fs.file("panic", vec![1; 5000]));
        }
    }
    Ok(vm_of(vec![Ok(fs.arc()), Err(vcb_block::Error::unsupported("volume", "BitLocker"))]))
}

impl Place {
    fn mount(&self, name: &str) -> Started {
        self.start(name).unwrap()
    }

    fn volume(&self) -> PathBuf {
        self.at().join("digits/1")
    }

    fn umount(&self) -> session::Unmounted {
        let unmounted = session::umount(&self.state, self.at().to_str().unwrap()).unwrap();
        self.clean();
        unmounted
    }
}

fn program() -> Program {
    Program::current(Vec::new()).unwrap()
}

fn many_files() {
    let place = Place::new();
    place.mount("many");
    let mut count = 0;
    for entry in fs::read_dir(place.volume().join("many")).unwrap() {
        let entry = entry.unwrap();
        let number: u64 = entry.file_name().to_str().unwrap()[4..].parse().unwrap();
        let meta = entry.metadata().unwrap();
        assert_eq!((meta.len(), meta.is_file(), meta.mode() & 0o777), (number % 7, true, 0o644));
        count += 1;
    }
    assert_eq!(count, MANY);
    assert!(place.umount().unreadable.is_empty());
}

fn seek(file: &File, offset: i64, whence: nix::unistd::Whence) -> Result<i64, nix::errno::Errno> {
    nix::unistd::lseek(file, offset, whence)
}

fn sparse() {
    use nix::unistd::Whence::{SeekData, SeekHole};
    let place = Place::new();
    place.mount("sample");
    let file = File::open(place.volume().join("sparse")).unwrap();
    let started = Instant::now();
    let data = i64::try_from(SPARSE).unwrap();
    assert_eq!(seek(&file, 0, SeekHole), Ok(0));
    assert_eq!(seek(&file, 0, SeekData), Ok(data));
    assert_eq!(seek(&file, data, SeekHole), Ok(data + 100_000));
    assert_eq!(seek(&file, data + 100_000, SeekData), Err(nix::errno::Errno::ENXIO));
    assert!(started.elapsed() < Duration::from_secs(1));
    let mut got = vec![0; 100_000];
    file.read_exact_at(&mut got, SPARSE).unwrap();
    assert_eq!(got, pattern(100_000, 3));
    assert!(file.as_raw_fd() > 0);
    drop(file);
    place.umount();
}

fn tree(root: &Path) -> BTreeMap<PathBuf, (u64, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let below = path.strip_prefix(root).unwrap().to_path_buf();
        found.insert(below, (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()));
    }
    found
}

fn remount() {
    let place = Place::new();
    place.mount("sample");
    let first = tree(&place.at());
    let bytes = fs::read(place.volume().join("a/b/big.bin")).unwrap();
    assert_eq!(bytes, pattern(3_000_001, 1));
    assert!(fs::read_to_string(place.at().join("digits/2/UNREADABLE.txt")).unwrap().contains("BitLocker"));
    place.umount();
    place.mount("sample");
    assert_eq!(first, tree(&place.at()));
    assert!(first.values().all(|(inode, ..)| *inode > 0));
    place.umount();
}

fn links_and_streams() {
    let place = Place::new();
    place.mount("sample");
    assert_eq!(fs::read_link(place.volume().join("a/link")).unwrap(), Path::new("../a/b"));
    assert_eq!(fs::metadata(place.volume().join("a/link/big.bin")).unwrap().len(), 3_000_001);
    if vcb_fixtures::need_tool("getfattr") {
        let file = place.volume().join("a/streams");
        let get = |name: &str| {
            let output = Command::new("getfattr").args(["--only-values", "-n", name]).arg(&file).output().unwrap();
            (output.stdout, String::from_utf8(output.stderr).unwrap())
        };
        assert_eq!(get("user.Zone.Identifier").0, b"[ZoneTransfer]");
        assert!(get("user.large").1.contains("Argument list too long"));
        assert!(get("user.none").1.contains("No such attribute"));
        assert_eq!(get("system.ntfs_acl").0, [1, 0, 4, 0x80]);
        let list = Command::new("getfattr").args(["-m", "-"]).arg(&file).output().unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        assert!(list.contains("user.Zone.Identifier") && list.contains("user.large") && !list.contains("system."));
    }
    place.umount();
}

fn errors() {
    let place = Place::new();
    place.mount("sample");
    for _ in 0..2 {
        for name in ["panic", "secret"] {
            let mut byte = [0];
            let err = File::open(place.volume().join(name)).unwrap().read(&mut byte).unwrap_err();
            assert_eq!(err.raw_os_error(), Some(nix::libc::EIO), "{name}");
        }
    }
    // Enough panics to end every thread, if panics ended threads.
    for _ in 0..20 {
        assert!(fs::read(place.volume().join("panic")).is_err());
    }
    assert_eq!(fs::read(place.volume().join("a/streams")).unwrap(), b"content");
    assert_eq!(session::list(&place.state).unwrap()[0].unreadable.len(), 2);
    let mut paths: Vec<String> = place.umount().unreadable.into_iter().map(|entry| entry.path).collect();
    paths.sort();
    assert_eq!(paths, ["digits/1/panic", "digits/1/secret"]);
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + DEAD;
    while !done() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn killed() {
    let place = Place::new();
    let started = place.mount("sample");
    let session = &session::list(&place.state).unwrap()[0];
    assert_eq!((session.health, &session.record.id), (Health::Mounted, &started.id));
    // A reader must not hang, nor keep the dead mount.
    let reader = File::open(place.volume().join("a/b/big.bin")).unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(session.record.server.pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    wait("unmounting by the watcher", || {
        !fs::read_to_string("/proc/self/mountinfo").unwrap().contains(place.dir.path().to_str().unwrap())
    });
    assert!(reader.read_exact_at(&mut [0; 10], 2_000_000).is_err());
    assert_eq!(session::list(&place.state).unwrap()[0].health, Health::Dead);
    assert_eq!(session::cleanup(&place.state, true).unwrap().len(), 1);
    // Its mount point can be used again at once.
    let locks = || fs::read_dir(place.state.root().join("locks")).unwrap().count();
    assert_eq!(locks(), 1);
    let again = place.mount("sample");
    assert_ne!(again.id, started.id);
    assert!(!session::umount(&place.state, &again.id).unwrap().crashed);
    assert!(session::umount(&place.state, &started.id).unwrap().crashed);
    assert_eq!(locks(), 0);
    drop(fs::remove_dir(place.at()));
    drop(fs::remove_dir(place.dir.path().join("mnt")));
    place.clean();
    // And a dead session alone.
    place.mount("sample");
    let record = session::list(&place.state).unwrap().remove(0).record;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(record.server.pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    wait("its end", || session::list(&place.state).unwrap()[0].health == Health::Dead);
    assert_eq!(session::cleanup(&place.state, false).unwrap().len(), 1);
    place.clean();
    let nothing = session::umount(&place.state, place.at().to_str().unwrap()).unwrap();
    assert!(nothing.id.is_none() && nothing.unreadable.is_empty());
    let failure = session::umount(&place.state, "nosuchsession").unwrap_err();
    assert_eq!(failure.code(), Code::SessionNotFound);
}

fn refused() {
    let place = Place::new();
    let full = place.dir.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), "x").unwrap();
    for (at, code) in
        [(full.clone(), Code::MountPoint), (full.join("file"), Code::MountPoint), ("/proc".into(), Code::MountPoint)]
    {
        let failure = session::start(&place.state, &request("sample", &at), Preexisting::Fail, &program()).unwrap_err();
        assert_eq!(failure.code(), code, "{}", at.display());
        place.clean();
    }
    assert_eq!(fs::read_to_string(full.join("file")).unwrap(), "x");
    place.mount("sample");
    let again = |preexisting| session::start(&place.state, &request("sample", &place.at()), preexisting, &program());
    assert_eq!(again(Preexisting::Fail).unwrap_err().code(), Code::MountPointBusy);
    assert!(again(Preexisting::Reuse).unwrap().reused);
    assert!(!again(Preexisting::Delete).unwrap().reused);
    // What is not ours is not unmounted.
    assert_eq!(session::umount(&place.state, "/proc").unwrap_err().code(), Code::MountPoint);
    place.umount();
}

fn flat() {
    let place = Place::new();
    let host = place.dir.path().join("disk.raw");
    let bytes = pattern(5 << 20, 9);
    fs::write(&host, &bytes).unwrap();
    for passthrough in [true, false] {
        let mut request = request("flat", &place.at());
        request.show = Show::Fullvm(FullVmOptions::default());
        request.plan.disks = vec![DiskPlan { node: "scsi0:0".to_owned(), file: host.to_str().unwrap().to_owned() }];
        request.front.passthrough = passthrough;
        session::start(&place.state, &request, Preexisting::Fail, &program()).unwrap();
        let image = place.at().join("fake-flat.vmdk");
        assert_eq!(fs::metadata(&image).unwrap().len(), bytes.len() as u64);
        assert_eq!(fs::read(&image).unwrap(), bytes);
        let twice = (File::open(&image).unwrap(), File::open(&image).unwrap());
        let mut piece = [0; 4097];
        for file in [&twice.0, &twice.1] {
            file.read_exact_at(&mut piece, 12_345).unwrap();
            assert_eq!(piece, bytes[12_345..12_345 + 4097]);
        }
        assert!(File::options().write(true).open(&image).is_err(), "the mount is read-only");
        if vcb_fixtures::need_tool("qemu-img") {
            let mut compare = Command::new("qemu-img");
            compare.args(["compare", "-f", "vmdk", "-F", "raw"]).arg(place.at().join("fake.vmdk")).arg(&host);
            assert!(compare.status().unwrap().success());
        }
        drop(twice);
        place.umount();
    }
}

/// What user nobody does, in a process of its own.
fn as_nobody(dir: &Path) -> ExitCode {
    let state = StateDir::at(dir.join("state")).unwrap();
    let at = dir.join("mnt");
    let program = program();
    session::start(&state, &request("sample", &at), Preexisting::Fail, &program).unwrap();
    assert_eq!(fs::read(at.join("digits/1/a/b/big.bin")).unwrap(), pattern(3_000_001, 1));
    assert_eq!(fs::metadata(at.join("digits")).unwrap().uid(), NOBODY);
    let session = session::list(&state).unwrap().remove(0);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(session.record.server.pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let mounted = || fs::read_to_string("/proc/self/mountinfo").unwrap().contains(at.to_str().unwrap());
    wait("unmounting by nobody's watcher", || !mounted());
    session::umount(&state, at.to_str().unwrap()).unwrap();
    session::start(&state, &request("sample", &at), Preexisting::Fail, &program).unwrap();
    assert!(mounted());
    session::umount(&state, at.to_str().unwrap()).unwrap();
    assert!(!mounted() && !at.exists());
    // Another user's folder is not ours to use.
    let foreign = session::start(&state, &request("sample", Path::new("/var/empty-vcb")), Preexisting::Fail, &program);
    assert_eq!(foreign.unwrap_err().code(), Code::MountPoint);
    ExitCode::SUCCESS
}

fn unprivileged() {
    let usable = fs::metadata("/dev/fuse").is_ok_and(|meta| meta.permissions().mode() & 0o006 == 0o006);
    if !usable || !vcb_fixtures::need_tool("fusermount3") {
        return vcb_fixtures::skip("users who are not root may not use /dev/fuse here");
    }
    let dir = tempfile::Builder::new().prefix("vcb-nobody").tempdir_in("/tmp").unwrap();
    // The build folder need not be open to others.
    let program = dir.path().join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let status = Command::new(&program)
        .arg("__nobody")
        .arg(dir.path())
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .env("HOME", dir.path())
        .status()
        .unwrap();
    assert!(status.success());
}
