//! Whole backups through the binary, against the simulator: every way to name a VM, VCB's own commands,
//! many VMs at once, killed processes, and secrets that must not show.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::json;
use vcb_fixtures::need_tool;
use vcb_tests::vcsim::Vcsim;

const VM: &str = "DC0_H0_VM0";
const HELLO: &str = "hello from the guest\n";
const PARTITION: usize = 1 << 20;

/// A simulator whose VMs have an NTFS disk each, and a configuration that leads to them.
struct Bench {
    sim: Vcsim,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(args: &[&str], vms: &[String]) -> Option<Bench> {
        if !["mkntfs", "ntfscp", "fusermount3"].into_iter().all(need_tool) {
            return None;
        }
        let sim = Vcsim::start(args)?;
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench { sim, dir };
        let flat = bench.path("disk-flat.vmdk");
        make_disk(&flat, &bench.path("volume"));
        let sectors = std::fs::metadata(&flat).unwrap().len() / 512;
        let disk = bench.path("disk.vmdk");
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\
             RW {sectors} VMFS \"disk-flat.vmdk\"\nddb.adapterType = \"lsilogic\"\n"
        );
        std::fs::write(&disk, text).unwrap();
        for (index, vm) in vms.iter().enumerate() {
            let vmx = bench.path(&format!("{vm}.vmx"));
            let text = format!(
                "config.version = \"8\"\ndisplayName = \"{vm}\"\nscsi0.present = \"TRUE\"\n\
                 scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"disk.vmdk\"\n"
            );
            std::fs::write(&vmx, text).unwrap();
            bench.sim.vm(&json!({
                "name": vm, "guest": "windowsGuest", "address": format!("10.0.0.{}", index + 1),
                "host_name": format!("vm{index}.example"),
                "files": {"disk.vmdk": disk, "disk-flat.vmdk": flat, format!("{vm}.vmx"): vmx},
                "disks": [{"file": "disk.vmdk", "capacity": sectors * 512}],
            }));
        }
        std::fs::write(bench.path("password"), bench.sim.password()).unwrap();
        std::fs::set_permissions(bench.path("password"), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::create_dir_all(bench.path("config/vcbmount")).unwrap();
        let config = format!(
            "[vcenter]\nhost = {:?}\nusername = {:?}\npassword_file = {:?}\nfingerprint = {:?}\n\
             [[datastore]]\nname = \"LocalDS_0\"\npath = {:?}\n[mount]\nroot = {:?}\n[hooks]\ndir = {:?}\n",
            bench.sim.host(),
            bench.sim.user(),
            bench.path("password"),
            bench.sim.fingerprint(),
            bench.sim.datastore("LocalDS_0"),
            bench.path("mnt"),
            bench.path("hooks.d"),
        );
        std::fs::write(bench.path("config/vcbmount/config.toml"), config).unwrap();
        Some(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `program` is the binary, or a link to it under one of VCB's names.
    fn command(&self, program: &str) -> Command {
        let binary = Path::new(env!("CARGO_BIN_EXE_vcbmount"));
        let link = self.path(program);
        if program != "vcbmount" && !link.exists() {
            std::os::unix::fs::symlink(binary, &link).unwrap();
        }
        let mut command = Command::new(if program == "vcbmount" { binary } else { &link });
        command.env("XDG_CONFIG_HOME", self.path("config")).env("VCBMOUNT_STATE", self.path("state"));
        command
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        self.command(program).args(args).output().unwrap()
    }

    /// What a command that must succeed printed.
    fn ok(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(program, args);
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn assert_nothing_left(&self, when: &str) {
        let state = self.sim.state();
        for (name, vm) in state["vms"].as_object().unwrap() {
            assert_eq!(vm["snapshots"], json!([]), "{when}: {name}");
        }
        assert_eq!(state["sessions"], json!([]), "{when}");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "{when}: {mounts}");
        let leases = std::fs::read_dir(self.path("state/leases")).map_or(0, Iterator::count);
        assert_eq!(leases, 0, "{when}");
        assert_eq!(self.ok("vcbmount", &["sessions"]), "", "{when}");
    }
}

/// A disk with one NTFS partition that holds one file.
fn make_disk(flat: &Path, volume: &Path) {
    let run = |program: &str, args: &[&str]| {
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let output = Command::new(program).args(args).env("PATH", path).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::write(volume, vec![0; 8 << 20]).unwrap();
    let volume_text = volume.to_str().unwrap();
    run("mkntfs", &["-q", "-F", "-p", "2048", "-H", "255", "-S", "63", "-s", "512", volume_text]);
    let hello = volume.with_extension("txt");
    std::fs::write(&hello, HELLO).unwrap();
    run("ntfscp", &["-f", volume_text, hello.to_str().unwrap(), "hello.txt"]);
    let mut disk = vec![0; PARTITION];
    // One entry of an MBR: type 7 (NTFS), from sector 2048.
    disk[446 + 4] = 7;
    disk[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
    disk[446 + 12..446 + 16].copy_from_slice(&(8u32 << 11).to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.extend(std::fs::read(volume).unwrap());
    std::fs::write(flat, disk).unwrap();
}

fn one() -> Vec<String> {
    vec![VM.to_owned()]
}

fn read_hello(mount: &str) -> String {
    std::fs::read_to_string(Path::new(mount).join("digits/1/hello.txt")).unwrap()
}

#[test]
fn vcsim_a_vm_is_mounted_by_each_of_its_names() {
    let Some(bench) = Bench::new(&[], &one()) else { return };
    let lines = bench.ok("vcbmount", &["list", "name:DC0_H0_VM0"]);
    let specs: Vec<&str> = lines.lines().filter(|line| !line.starts_with("path:")).collect();
    assert_eq!(specs.len(), 4, "{lines}");
    for spec in specs.into_iter().chain(["any:DC0_H0_VM0", "ipaddr:10.0.0.1", VM]) {
        let mount = bench.ok("vcbmount", &["mount", "--vm", spec, "--mode", "file"]);
        assert_eq!(bench.sim.snapshots(VM).len(), 1, "{spec}");
        assert_eq!(read_hello(&mount), HELLO, "{spec}");
        bench.ok("vcbmount", &["umount", &mount]);
        bench.assert_nothing_left(spec);
        bench.ok("vcbmount", &["umount", &mount]);
    }
    let at = bench.path("image");
    let mount = bench.ok("vcbmount", &["mount", "--vm", VM, "--mode", "fullvm", "--at", at.to_str().unwrap()]);
    let names: Vec<String> =
        std::fs::read_dir(&mount).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(
        names.iter().any(|name| name.ends_with("-flat.vmdk")) && names.iter().any(|n| n.ends_with(".vmx")),
        "{names:?}"
    );
    bench.ok("vcbmount", &["umount", &mount]);
    for (spec, code) in [("name:none", 10), ("any:", 10), ("nonsense:x", 2)] {
        let output = bench.run("vcbmount", &["mount", "--vm", spec]);
        assert_eq!(output.status.code(), Some(code), "{spec}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let doctor = bench.run("vcbmount", &["doctor"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("logged in to"), "{doctor:?}");
    bench.assert_nothing_left("at the end");
}

#[test]
fn vcsim_vcb_s_own_commands_do_what_they_did() {
    let Some(bench) = Bench::new(&[], &one()) else { return };
    let lines = bench.ok("vcbVmName", &["-sAny:", "-L", "0"]);
    let moref = lines.lines().find(|line| line.starts_with("moref:")).unwrap();
    assert!(lines.contains("name:DC0_H0_VM0") && lines.contains("ipaddr:vm0.example"), "{lines}");
    let at = bench.path("vcb mount");
    let at = at.to_str().unwrap();
    bench.ok("vcbMounter", &["-a", moref, "-r", at, "-t", "file", "-m", "san", "-L", "6"]);
    assert_eq!(read_hello(at), HELLO);
    bench.ok("vcbMounter", &["-U", at]);
    bench.assert_nothing_left("after vcbMounter -U");
    let id = bench.ok("vcbSnapshot", &["-c", moref, "my snapshot", "a text"]);
    assert!(id.starts_with("SsId:snapshot-"), "{id}");
    assert_eq!(bench.ok("vcbSnapshot", &["-f", moref, "my snapshot"]), id);
    bench.ok("vcbSnapshot", &["-d", moref, &id]);
    assert!(!bench.run("vcbSnapshot", &["-d", moref, &id]).status.success());
    assert!(bench.ok("vcbUtil", &["-c", "ping"]).contains("vCenter"));
    bench.ok("pre-command", &["/opt/vcb", VM, "file"]);
    assert_eq!(read_hello(bench.path("mnt/DC0_H0_VM0-file").to_str().unwrap()), HELLO);
    bench.ok("post-command", &["/opt/vcb", VM, "file"]);
    bench.ok("vcbCleanup", &["-y"]);
    let host = bench.sim.host();
    let wrong = bench.run("vcbVmName", &["-h", host, "-u", "nobody", "-p", "wrong", "-s", "any:"]);
    assert_eq!(wrong.status.code(), Some(1));
    let all = bench.path("all");
    bench.sim.vm(&json!({"name": "DC0_H0_VM1", "template": true}));
    let some = bench.run("vcbSnapAll", &["-a", "powerstate:on", "-r", all.to_str().unwrap(), "-M", "1"]);
    assert_eq!(some.status.code(), Some(1), "a template is among them");
    bench.ok("vcbMounter", &["-U", all.join(VM).to_str().unwrap()]);
    bench.assert_nothing_left("at the end");
}

#[test]
fn vcsim_many_vms_are_backed_up_at_once() {
    let vms: Vec<String> = (0..20).map(|index| format!("DC0_H0_VM{index}")).collect();
    let Some(bench) = Bench::new(&["-vms", "20"], &vms) else { return };
    let out = bench.path("backups");
    std::fs::create_dir(&out).unwrap();
    let script = format!("cp \"$VCB_MOUNT/digits/1/hello.txt\" '{}'/\"$VCB_VM_NAME\"", out.display());
    let started = Instant::now();
    let text = bench.ok("vcbmount", &["run", "--vm", "powerstate:on", "--jobs", "4", "--", "sh", "-c", &script]);
    let each = started.elapsed() / 20;
    assert_eq!(text.lines().filter(|line| line.starts_with("done")).count(), 20, "{text}");
    for vm in &vms {
        assert_eq!(std::fs::read_to_string(out.join(vm)).unwrap(), HELLO, "{vm}");
    }
    bench.assert_nothing_left("after 20 VMs");
    println!("20 VMs, 4 at a time: {} ms per VM", each.as_millis());
    assert!(each < Duration::from_secs(3), "{each:?} per VM");
    bench.sim.vm(&json!({"name": VM, "template": true}));
    let some = bench.run("vcbmount", &["run", "--vm", "any:", "--jobs", "4", "--", "true"]);
    assert_eq!(some.status.code(), Some(3), "{}", String::from_utf8_lossy(&some.stderr));
    let one = bench.run("vcbmount", &["run", "--vm", "DC0_H0_VM1", "--", "sh", "-c", "exit 7"]);
    assert_eq!(one.status.code(), Some(7));
    bench.assert_nothing_left("after failures");
}

#[test]
fn vcsim_killed_commands_leave_nothing_after_cleanup() {
    let Some(bench) = Bench::new(&[], &one()) else { return };
    let trace = bench.path("trace");
    let at = bench.path("m");
    let at = at.to_str().unwrap();
    let status = bench
        .command("vcbmount")
        .args(["run", "--vm", VM, "--", "true"])
        .env("VCB_FAULT_TRACE", &trace)
        .status()
        .unwrap();
    assert!(status.success());
    let points = std::fs::read_to_string(&trace).unwrap().lines().count();
    let step = if std::env::var_os("VCB_TORTURE").is_some() { 1 } else { 3 };
    let mut killed = 0;
    for number in (1..=points).step_by(step) {
        for command in [&["mount", "--vm", VM, "--at", at][..], &["umount", at]] {
            let output =
                bench.command("vcbmount").args(command).env("VCB_FAULT_POINT", number.to_string()).output().unwrap();
            killed += usize::from(output.status.code().is_none());
        }
        bench.run("vcbmount", &["umount", at]);
        bench.ok("vcbmount", &["cleanup"]);
        bench.assert_nothing_left(&format!("killed at point {number}"));
    }
    println!("{killed} commands killed at {points} points");
    assert!(killed > 5, "{killed}");
}

#[test]
fn vcsim_secrets_show_nowhere() {
    let Some(bench) = Bench::new(&[], &one()) else { return };
    let log = bench.path("log");
    let output = bench
        .command("vcbmount")
        .args(["-vvv", "--log-file", log.to_str().unwrap(), "run", "--vm", VM, "--", "sh", "-c"])
        .arg("env; cat /proc/*/cmdline | tr '\\0' ' '; cat \"$VCBMOUNT_STATE\"/leases/* \"$VCBMOUNT_STATE\"/sessions/*")
        .env("VCBMOUNT_PASSWORD", bench.sim.password())
        .output()
        .unwrap();
    let mut all = String::from_utf8_lossy(&output.stdout).into_owned();
    all.push_str(&String::from_utf8_lossy(&output.stderr));
    all.push_str(&std::fs::read_to_string(&log).unwrap());
    assert!(all.contains("snapshot_name") && all.contains("CreateSnapshot"), "{all}");
    assert!(!all.contains(bench.sim.password()), "the password shows");
    assert!(!all.contains("vmware_soap_session"), "the cookie shows");
    bench.assert_nothing_left("at the end");
}
