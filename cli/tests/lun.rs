//! VMs on the LUNs of a SAN, with the real binary and real mounts: image files, loop devices and an iSCSI
//! target stand for the LUNs.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Guard, World, can_mount, mount, run};
use vcb_fixtures::san::{self, NAMES, San, Shape};
use vcb_fixtures::{need_tool, skip, vmfs};

/// When everything on the written volumes was last changed.
const WRITTEN: i64 = 1_700_000_000;

fn quiet(label: &str) -> Shape<'_> {
    Shape { label, devices: 1, gpt: false, locked: false }
}

fn configure(world: &World, luns: &[PathBuf], more: &str) {
    let luns: Vec<String> = luns.iter().map(|lun| format!("{:?}", lun.to_str().unwrap())).collect();
    let text = format!("[[datastore]]\nname = \"san\"\nlun = [{}]\n{more}\n", luns.join(", "));
    world.write("home/.config/vcbmount/config.toml", text);
}

fn sha256(path: &Path) -> String {
    run("sha256sum", &[path.to_str().unwrap()], Path::new("/")).split(' ').next().unwrap().to_owned()
}

/// Compares the guest's files in a mount with what was put there.
fn check_files(mount: &Path, texts: &[Vec<u8>]) {
    for (name, text) in NAMES.iter().zip(texts) {
        assert!(fs::read(mount.join("digits/1").join(name)).unwrap() == *text, "{name}");
    }
}

/// Waits until `sessions` says that the storage of the only session is `state`, and gives its line in JSON.
fn wait_for_state(world: &World, state: &str) -> Value {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let session: Value = serde_json::from_str(&world.ok(&["--json", "sessions"])).unwrap();
        if session["storage"]["state"] == state {
            return session;
        }
        assert!(Instant::now() < limit, "not {state}: {session}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A process that serves a test, ended with it.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let limit = Instant::now() + Duration::from_secs(3);
        while Instant::now() < limit && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Shows the node `top` of `nodes` as the file `at`, by qemu-storage-daemon; `None` (with the reason printed)
/// where it cannot.
fn export(world: &World, nodes: &[Value], top: &str, at: &str) -> Option<(Daemon, PathBuf)> {
    if !can_mount() || !need_tool("qemu-storage-daemon") {
        return None;
    }
    let file = world.write(at, "");
    let mut command = Command::new("qemu-storage-daemon");
    for node in nodes {
        command.arg("--blockdev").arg(node.to_string());
    }
    let export = format!("type=fuse,id=e,node-name={top},mountpoint={},writable=off", file.display());
    let log = fs::File::create(world.path("daemon.log")).unwrap();
    let child = command.arg("--export").arg(export).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let mut daemon = Daemon(child);
    let limit = Instant::now() + Duration::from_secs(20);
    while fs::metadata(&file).unwrap().len() == 0 {
        if matches!(daemon.0.try_wait(), Ok(Some(_))) || Instant::now() > limit {
            skip(&format!("qemu-storage-daemon: {}", fs::read_to_string(world.path("daemon.log")).unwrap().trim()));
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some((daemon, file))
}

/// `image` as a read-only loop device; `None` (with the reason printed) where there are none.
fn loop_device(image: &Path) -> Option<Loop> {
    let output = Command::new("losetup").args(["-r", "-f", "--show"]).arg(image).output();
    match output {
        Ok(output) if output.status.success() => {
            Some(Loop(String::from_utf8(output.stdout).unwrap().trim().to_owned().into()))
        }
        other => {
            skip(&format!("no loop device can be had: {other:?}"));
            None
        }
    }
}

struct Loop(PathBuf);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

#[test]
fn a_vm_with_a_chain_is_mounted_from_nothing_but_its_luns() {
    let world = World::new();
    let shape = Shape { devices: 2, gpt: true, ..quiet("plain") };
    let Some(San { devices, texts }) = san::make(world.dir.path(), &shape) else { return };
    configure(&world, &devices, "");
    assert!(world.ok(&["list"]).lines().any(|line| line == "name:web01"));

    let listed = world.ok(&["ls", "[san] web01"]);
    assert!(listed.lines().any(|line| line.ends_with("2023-11-14 22:13:20 web01.vmx")), "{listed}");
    let json = world.ok(&["--json", "ls", "[san] web01"]);
    let entries: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let flat = entries.iter().find(|entry| entry["name"] == "web01-flat.vmdk").unwrap();
    assert_eq!((&flat["size"], &flat["modified"][0]), (&san::DISK.into(), &WRITTEN.into()), "{flat}");
    world.ok(&["cp", "[san] web01/web01.vmx", "."]);
    assert!(fs::read(world.path("web01.vmx")).unwrap() == fs::read(world.path("files/web01.vmx")).unwrap());
    assert_eq!(fs::metadata(world.path("web01.vmx")).unwrap().mtime(), WRITTEN);
    world.ok(&["cp", "[san] web01/web01-flat.vmdk", "flat"]);
    assert_eq!(sha256(&world.path("flat")), sha256(&world.path("files/web01-flat.vmdk")));
    assert!(world.run(&["ls", "[san] none"]).stderr().contains("no file 'none'"));

    if !can_mount() {
        return;
    }
    let files = mount(&world, &["--vm", "name:web01", "--mode", "file"], "mnt");
    check_files(&files.1, &texts);
    assert_eq!(world.run(&["umount", files.1.to_str().unwrap()]).exit(), 0);
    let images = mount(&world, &["--vm", "name:web01", "--mode", "fullvm"], "images");
    let shown = fs::read_dir(&images.1).unwrap().map(|entry| entry.unwrap().path());
    let flat = shown.into_iter().find(|path| path.to_str().unwrap().ends_with("-flat.vmdk")).unwrap();
    assert_eq!(fs::metadata(&flat).unwrap().mtime(), WRITTEN);
    assert_eq!(sha256(&flat), sha256(&world.path("ntfs")));
}

#[test]
fn what_a_live_host_writes_is_refused_and_the_host_is_named() {
    let world = World::new();
    let shape = Shape { locked: true, gpt: true, ..quiet("locked") };
    let Some(San { devices, texts }) = san::make(world.dir.path(), &shape) else { return };
    if !can_mount() {
        return;
    }
    configure(&world, &devices, "");
    san::with_live_host(&devices[0], || {
        let ran = world.run(&["mount", "--vm", "name:web01", "--at", "mnt"]);
        assert_ne!(ran.exit(), 0);
        assert!(ran.stderr().contains("192.0.2.7") && ran.stderr().contains("00:50:56:00:00:01"), "{}", ran.stderr());
        let ran = world.run(&["cp", "[san] web01/web01-000002-sesparse.vmdk", "delta"]);
        assert!(ran.exit() != 0 && ran.stderr().contains("192.0.2.7"), "{}", ran.stderr());
        let frozen = mount(&world, &["--vm", "name:web01", "--read-existing", "frozen"], "mnt");
        check_files(&frozen.1, &texts[..2]);
        assert!(!frozen.1.join("digits/1/live.txt").exists());
        // The heartbeat moves, and that is no change of what is read.
        assert_eq!(world.run(&["umount", frozen.1.to_str().unwrap()]).exit(), 0);
    });
}

/// Unmounts a session that was voided.
fn umount_voided(world: &World, guard: &Guard<'_>) {
    let ran = world.run(&["umount", guard.1.to_str().unwrap()]);
    assert_eq!(ran.exit(), 3, "{}", ran.stderr());
    let text = ran.stderr();
    assert!(text.contains("(everything)") && text.contains("[san] web01/web01-flat.vmdk"), "{text}");
    assert!(text.contains("changed since"), "{text}");
}

#[test]
fn a_change_of_the_mapping_voids_the_session() {
    let world = World::new();
    let Some(San { devices, texts }) = san::make(world.dir.path(), &quiet("voided")) else { return };
    if !can_mount() {
        return;
    }
    configure(&world, &devices, "");
    let descriptor = san::descriptor_of(&devices[0], san::DISK as u64);

    // While it is read: no byte comes through that may be another file's.
    let guard = mount(&world, &["--vm", "name:web01"], "mnt");
    san::take_over(&devices[0], descriptor);
    std::thread::sleep(Duration::from_millis(1100));
    let err = fs::read(guard.1.join("digits/1/old.txt")).unwrap_err();
    assert_eq!(err.raw_os_error(), Some(5), "{err}");
    let session = wait_for_state(&world, "voided");
    let storage = &session["storage"];
    assert!(storage["since"].as_str().unwrap().starts_with("20"), "{session}");
    assert!(storage["reason"].as_str().unwrap().contains("web01-flat.vmdk"), "{session}");
    let text = world.ok(&["sessions"]);
    assert!(text.contains("  voided  ") && text.contains("voided since 20"), "{text}");
    umount_voided(&world, &guard);

    // After the last read: only the end of the session can tell.
    let guard = mount(&world, &["--vm", "name:web01"], "mnt");
    check_files(&guard.1, &texts);
    san::take_over(&devices[0], descriptor);
    umount_voided(&world, &guard);
    assert_eq!(world.ok(&["sessions"]), "");

    // The same for commands without a mount.
    let ran = world.run(&["run", "--vm", "name:web01", "--", "true"]);
    assert_eq!(ran.exit(), 0, "{}", ran.stderr());
}

#[test]
fn errors_of_a_path_are_repeated_and_told() {
    let world = World::new();
    let Some(San { devices, texts }) = san::make(world.dir.path(), &quiet("paths")) else { return };
    let sector = |byte: u8| {
        let found = san::search(&devices[0], |sector| sector.iter().all(|other| *other == byte));
        *found.iter().find(|at| found.contains(&(*at + 8192))).unwrap() / 512
    };
    // Of the reads of old.txt one fails; those of new.txt always do.
    let error = |sector: u64, once: bool| serde_json::json!({ "event": "none", "iotype": "read", "errno": 5, "sector": sector, "once": once });
    let image = devices[0].to_str().unwrap();
    let nodes = [
        serde_json::json!({ "driver": "file", "node-name": "f", "filename": image, "read-only": true }),
        serde_json::json!({ "driver": "blkdebug", "node-name": "b", "image": "f", "read-only": true,
            "inject-error": [error(sector(b'a'), true), error(sector(b'b'), false)] }),
    ];
    let Some((_daemon, lun)) = export(&world, &nodes, "b", "lun") else { return };
    configure(&world, &[lun], "");
    let guard = mount(&world, &["--vm", "name:web01"], "mnt");
    let session: Value = serde_json::from_str(&world.ok(&["--json", "sessions"])).unwrap();
    assert_eq!((&session["health"], &session["storage"]), (&"mounted".into(), &Value::Null), "{session}");

    assert!(fs::read(guard.1.join("digits/1/old.txt")).unwrap() == texts[0]);
    let session = wait_for_state(&world, "degraded");
    let reason = session["storage"]["reason"].as_str().unwrap();
    assert!(reason.contains("datastore san") && reason.contains("repeated") && reason.contains("lun"), "{reason}");
    let err = fs::read(guard.1.join("digits/1/new.txt")).unwrap_err();
    assert_eq!(err.raw_os_error(), Some(5), "{err}");
    wait_for_state(&world, "failed");
    assert!(world.ok(&["sessions"]).contains("failed since 20"));
    assert!(fs::read(guard.1.join("digits/1/live.txt")).unwrap() == texts[2]);
    wait_for_state(&world, "degraded");
    let ran = world.run(&["umount", guard.1.to_str().unwrap()]);
    assert_eq!(ran.exit(), 3, "{}", ran.stderr());
    assert!(ran.stderr().contains("new.txt"), "{}", ran.stderr());
}

/// tgtd with one target that has `image` as LUN 1, read-only; `None` (with the reason printed) where it cannot
/// run. The portal is an address of the loopback.
fn iscsi_target(world: &World, image: &Path) -> Option<(Daemon, String)> {
    if !need_tool("tgtd") || !need_tool("tgtadm") {
        return None;
    }
    let portal = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    // The number of its control socket; process ids are below it on no common system, so take the low bits.
    let control = (std::process::id() % 32_000).to_string();
    let log = fs::File::create(world.path("tgtd.log")).unwrap();
    let child = Command::new("/usr/sbin/tgtd")
        .args(["-f", "-C", &control, "--iscsi", &format!("portal={portal}")])
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn();
    let daemon = match child {
        Ok(child) => Daemon(child),
        Err(err) => {
            skip(&format!("tgtd does not start: {err}"));
            return None;
        }
    };
    let image = image.to_str().unwrap();
    let steps: [&[&str]; 4] = [
        &["--op", "new", "--mode", "target", "--tid", "1", "-T", "iqn.2026-01.test:lun"],
        &["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", image],
        &["--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--params", "readonly=1"],
        &["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"],
    ];
    let limit = Instant::now() + Duration::from_secs(10);
    for step in steps {
        loop {
            let output = Command::new("/usr/sbin/tgtadm").args(["-C", &control, "--lld", "iscsi"]).args(step).output();
            let output = output.unwrap();
            if output.status.success() {
                break;
            }
            if Instant::now() > limit {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                skip(&format!("tgtd: {why} {}", fs::read_to_string(world.path("tgtd.log")).unwrap()));
                return None;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Some((daemon, portal))
}

/// SCSI commands over TCP to a real target. The initiator runs in user space (libiscsi in QEMU), so that the
/// test needs no kernel module; it shows the LUN as a file through FUSE.
#[test]
fn a_vm_is_mounted_from_an_iscsi_target() {
    let world = World::new();
    let Some(San { devices, texts }) = san::make(world.dir.path(), &quiet("iscsi")) else { return };
    let before = sha256(&devices[0]);
    let Some((target, portal)) = iscsi_target(&world, &devices[0]) else { return };
    let lun = serde_json::json!({ "driver": "iscsi", "node-name": "lun", "transport": "tcp", "portal": portal,
        "target": "iqn.2026-01.test:lun", "lun": 1, "read-only": true, "cache": { "direct": true } });
    let Some((initiator, lun)) = export(&world, &[lun], "lun", "lun") else { return };
    configure(&world, &[lun], "");
    assert!(world.ok(&["list"]).lines().any(|line| line == "name:web01"));
    let guard = mount(&world, &["--vm", "name:web01", "--mode", "file"], "mnt");
    check_files(&guard.1, &texts);
    assert_eq!(world.run(&["umount", guard.1.to_str().unwrap()]).exit(), 0);
    drop((initiator, target));
    assert_eq!(sha256(&devices[0]), before);
}

#[test]
fn a_lun_is_opened_read_only_and_past_the_page_cache() {
    const O_ACCMODE: u32 = 0o3;
    const O_DIRECT: u32 = if cfg!(target_arch = "x86_64") { 0o40_000 } else { 0o200_000 };
    let world = World::new();
    let Some(San { devices, texts }) = san::make(world.dir.path(), &quiet("flags")) else { return };
    let before = sha256(&devices[0]);
    let Some(lun) = loop_device(&devices[0]) else { return };
    if !can_mount() {
        return;
    }
    configure(&world, std::slice::from_ref(&lun.0), "");
    let guard = mount(&world, &["--vm", "name:web01"], "mnt");
    check_files(&guard.1, &texts);
    let session: Value = serde_json::from_str(&world.ok(&["--json", "sessions"])).unwrap();
    let process = PathBuf::from(format!("/proc/{}", session["server"]["pid"]));
    let mut seen = 0;
    for entry in fs::read_dir(process.join("fd")).unwrap() {
        let entry = entry.unwrap();
        if fs::read_link(entry.path()).is_ok_and(|target| target == lun.0) {
            let info = fs::read_to_string(process.join("fdinfo").join(entry.file_name())).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
            let flags = u32::from_str_radix(flags, 8).unwrap();
            assert_eq!((flags & O_ACCMODE, flags & O_DIRECT), (0, O_DIRECT), "{info}");
            seen += 1;
        }
    }
    assert!(seen > 0, "the server has no descriptor of {}", lun.0.display());
    assert_eq!(world.run(&["umount", guard.1.to_str().unwrap()]).exit(), 0);

    // No command reaches the device but reads: ioctl is how reservations and other SCSI commands are sent.
    if need_tool("strace") {
        let calls = "trace=openat,ioctl,write,writev,pwrite64,pwritev,pwritev2,fallocate,ftruncate";
        let binary = env!("CARGO_BIN_EXE_vcbmount");
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-o", "trace", "-e", calls, binary, "cp", "[san] web01/web01-flat.vmdk", "flat"]);
        command.current_dir(world.dir.path()).env("HOME", world.path("home")).env_remove("XDG_CONFIG_HOME");
        command.env("VCBMOUNT_STATE", world.path("state")).env_remove("VCBMOUNT_CONFIG");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let trace = fs::read_to_string(world.path("trace")).unwrap();
        let device = lun.0.to_str().unwrap();
        let of_lun: Vec<&str> = trace.lines().filter(|line| line.contains(device)).collect();
        assert!(!of_lun.is_empty(), "{trace}");
        for line in of_lun {
            assert!(line.contains("openat(") && line.contains("O_RDONLY|O_DIRECT"), "{line}");
        }
    }
    drop(guard);
    drop(lun);
    assert_eq!(sha256(&devices[0]), before);
}

#[test]
fn doctor_finds_volumes_and_a_clone_is_refused_unless_named() {
    let world = World::new();
    let label = format!("doctor{}", std::process::id());
    let Some(San { devices, .. }) = san::make(world.dir.path(), &quiet(&label)) else { return };
    let clone = world.path("clone");
    run("cp", &["--sparse=always", devices[0].to_str().unwrap(), clone.to_str().unwrap()], world.dir.path());
    let Some(lun) = loop_device(&devices[0]) else { return };
    let device = lun.0.to_str().unwrap();
    let find = || {
        let output = world.run(&["--json", "doctor"]).stdout();
        let mut checks = output.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        checks.find(|check| check["volume"]["label"] == label.as_str()).unwrap_or_else(|| panic!("{output}"))
    };
    let check = find();
    let volume = &check["volume"];
    assert_eq!((&check["health"], &volume["version"]), (&"limited".into(), &"VMFS-6".into()), "{check}");
    assert_eq!((&volume["devices"][0], &volume["size"]), (&device.into(), &(512u64 << 20).into()), "{check}");
    assert_eq!((&volume["datastore"], &volume["problem"]), (&Value::Null, &Value::Null), "{check}");
    let uuid = volume["uuid"].as_str().unwrap().to_owned();
    assert!(check["advice"].as_str().unwrap().contains(&format!("uuid:{uuid}")), "{check}");
    let text = world.run(&["doctor"]).stdout();
    assert!(text.contains(&label) && text.contains(&uuid) && text.contains("not configured"), "{text}");

    for selector in [format!("uuid:{uuid}"), format!("label:{label}"), device.to_owned()] {
        configure(&world, &[selector.into()], "");
        let check = find();
        assert_eq!((&check["health"], &check["volume"]["datastore"]), (&"ok".into(), &"san".into()), "{check}");
        assert!(world.ok(&["list"]).contains("name:web01"));
    }

    // Which of two equal devices is current cannot be told from their bytes.
    let Some(other) = loop_device(&clone) else { return };
    let check = find();
    assert_eq!(check["health"], "limited", "{check}");
    assert!(check["volume"]["problem"].as_str().unwrap().contains("clone"), "{check}");
    configure(&world, &[format!("uuid:{uuid}").into()], "");
    let ran = world.run(&["list"]);
    assert_ne!(ran.exit(), 0);
    assert!(ran.stderr().contains(device) && ran.stderr().contains(other.0.to_str().unwrap()), "{}", ran.stderr());
    configure(&world, std::slice::from_ref(&other.0), "");
    assert!(world.ok(&["list"]).contains("name:web01"));
}

#[test]
fn raw_device_mappings_are_read_from_their_configured_device() {
    const ID: &str = "naa.6001405aabbccdd";
    let world = World::new();
    let raw: Vec<u8> = (0..1u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let descriptor = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n\
                      createType=\"vmfsRawDeviceMap\"\nRW 2048 VMFSRDM \"data-rdm.vmdk\"\n";
    let manifest = serde_json::json!({ "version": 6, "label": "rdm", "extent_mib": 512, "entries": [
        { "path": "/vm", "type": "dir" },
        { "path": "/vm/data.vmdk", "text": descriptor },
        { "path": "/vm/data-rdm.vmdk", "type": "rdm", "size": "1MiB", "lun_id": ID }] });
    let Some(volume) = vmfs::make_text(&manifest.to_string(), world.dir.path()) else { return };
    let device = world.write("device", &raw);

    configure(&world, &volume.devices, "");
    let listed = world.ok(&["ls", "[san] vm"]);
    assert!(listed.contains(&format!("'{ID}', which is not configured")), "{listed}");
    for args in [["info", "[san] vm/data.vmdk"], ["check", "[san] vm/data.vmdk"], ["cat", "[san] vm/data-rdm.vmdk"]] {
        let ran = world.run(&args);
        let said = ran.stdout() + &ran.stderr();
        assert!(ran.exit() != 0 && said.contains(&format!("'{ID}', which is not configured")), "{}: {said}", ran.args);
    }

    configure(&world, &volume.devices, &format!("raw_devices = {{ \"{ID}\" = {device:?} }}"));
    assert!(!world.ok(&["ls", "[san] vm"]).contains("not configured"));
    assert!(world.run(&["cat", "[san] vm/data-rdm.vmdk"]).output.stdout == raw);
    world.ok(&["export", "[san] vm/data.vmdk", "--to", "out"]);
    assert!(fs::read(world.path("out")).unwrap() == raw);
    // Another device than the one that was mapped is too short, or it is not noticed: say the former.
    fs::write(&device, &raw[..4096]).unwrap();
    let ran = world.run(&["cat", "[san] vm/data-rdm.vmdk"]);
    assert!(ran.exit() != 0 && ran.stderr().contains("another device"), "{}", ran.stderr());
}
