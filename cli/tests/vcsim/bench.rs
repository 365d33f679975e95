//! A simulator whose VMs have an NTFS disk each, and a configuration that leads to them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use vcb_fixtures::need_tool;
use vcb_tests::vcsim::Vcsim;

pub const VM: &str = "DC0_H0_VM0";
pub const HELLO: &str = "hello from the guest\n";
/// What `data.bin` consists of in the template; each VM has its own number in place of the zeros.
const MARK: &[u8; 16] = b"VM-MARK-0000000\n";
const MARKS: usize = 16 << 10;
const PARTITION: usize = 1 << 20;

pub struct Bench {
    pub sim: Vcsim,
    pub dir: tempfile::TempDir,
    /// Length of each VM's disk.
    pub capacity: u64,
}

impl Bench {
    /// A simulator started with `args`, with disks for `vms`.
    pub fn new(args: &[&str], vms: &[&str]) -> Option<Bench> {
        if !["mkntfs", "ntfscp", "fusermount3"].into_iter().all(need_tool) {
            return None;
        }
        let sim = Vcsim::start(args)?;
        let dir = tempfile::tempdir().unwrap();
        let mut bench = Bench { sim, dir, capacity: 0 };
        let template = make_disk(&bench.path("volume"));
        bench.capacity = template.len() as u64;
        for (index, vm) in vms.iter().enumerate() {
            let folder = bench.path(&format!("vms/{vm}"));
            bench.make_vm(&folder, vm, index, &template);
            let files = ["disk.vmdk", "disk-flat.vmdk", &format!("{vm}.vmx")]
                .map(|name| (name.to_owned(), json!(folder.join(name))));
            bench.sim.vm(&json!({
                "name": vm, "guest": "windowsGuest", "address": format!("10.0.0.{}", index + 1),
                "host_name": format!("vm{index}.example"),
                "files": Value::Object(files.into_iter().collect()),
                "disks": [{"file": "disk.vmdk", "capacity": bench.capacity}],
            }));
        }
        std::fs::write(bench.path("password"), bench.sim.password()).unwrap();
        std::fs::set_permissions(bench.path("password"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let store = bench.folder_store("LocalDS_0", &bench.sim.datastore("LocalDS_0"));
        bench.configure(&["san", "file"], &store, "");
        Some(bench)
    }

    /// The usual simulator, with one VM.
    pub fn one() -> Option<Bench> {
        Self::new(&[], &[VM])
    }

    /// The files of a VM, with its own content on the disk.
    fn make_vm(&self, folder: &Path, vm: &str, index: usize, template: &[u8]) {
        std::fs::create_dir_all(folder).unwrap();
        let mut disk = template.to_vec();
        let mark = mark(index);
        for unit in disk.chunks_exact_mut(MARK.len()).filter(|unit| *unit == MARK) {
            unit.copy_from_slice(&mark);
        }
        std::fs::write(folder.join("disk-flat.vmdk"), &disk).unwrap();
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\
             RW {} VMFS \"disk-flat.vmdk\"\nddb.adapterType = \"lsilogic\"\n",
            disk.len() / 512
        );
        std::fs::write(folder.join("disk.vmdk"), text).unwrap();
        let text = format!(
            "config.version = \"8\"\ndisplayName = \"{vm}\"\nscsi0.present = \"TRUE\"\n\
             scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"disk.vmdk\"\n"
        );
        std::fs::write(folder.join(format!("{vm}.vmx")), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn folder_store(&self, name: &str, path: &Path) -> String {
        format!("[[datastore]]\nname = {name:?}\npath = {path:?}\n")
    }

    /// Writes the configuration; `more` goes into `[vcenter]`.
    pub fn configure(&self, transports: &[&str], stores: &str, more: &str) {
        let config = format!(
            "[vcenter]\nhost = {:?}\nusername = {:?}\npassword_file = {:?}\nfingerprint = {:?}\ntransports = {transports:?}\n\
             {more}\n{}",
            self.sim.host(),
            self.sim.user(),
            self.path("password"),
            self.sim.fingerprint(),
            self.rest(stores),
        );
        self.write_config(&config);
    }

    /// The tables after `[vcenter]`.
    pub fn rest(&self, stores: &str) -> String {
        format!("{stores}[mount]\nroot = {:?}\n[hooks]\ndir = {:?}\n", self.path("mnt"), self.path("hooks.d"))
    }

    pub fn write_config(&self, text: &str) {
        std::fs::create_dir_all(self.path("config/vcbmount")).unwrap();
        std::fs::write(self.path("config/vcbmount/config.toml"), text).unwrap();
    }

    /// `program` is the binary, or a link to it under one of VCB's names.
    pub fn command(&self, program: &str) -> Command {
        let binary = Path::new(env!("CARGO_BIN_EXE_vcbmount"));
        let link = self.path(program);
        if program != "vcbmount" && !link.exists() {
            std::os::unix::fs::symlink(binary, &link).unwrap();
        }
        let mut command = Command::new(if program == "vcbmount" { binary } else { &link });
        command.env("XDG_CONFIG_HOME", self.path("config")).env("VCBMOUNT_STATE", self.path("state"));
        command
    }

    pub fn run(&self, program: &str, args: &[&str]) -> Output {
        self.command(program).args(args).output().unwrap()
    }

    /// What a command that must succeed printed.
    pub fn ok(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(program, args);
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// What a command that must fail said, after it exited with `code`.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run("vcbmount", args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        text
    }

    pub fn assert_nothing_left(&self, when: &str) {
        let state = self.sim.state();
        for (name, vm) in state["vms"].as_object().unwrap() {
            assert_eq!(vm["snapshots"], json!([]), "{when}: {name}");
        }
        assert_eq!(state["sessions"], json!([]), "{when}");
        assert_eq!(state["disabled"], json!({}), "{when}");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "{when}: {mounts}");
        for folder in ["state/leases", "state/sessions", "mnt"] {
            let left: Vec<_> = std::fs::read_dir(self.path(folder)).into_iter().flatten().flatten().collect();
            assert!(left.is_empty(), "{when}: {left:?}");
        }
    }
}

/// The unit of a VM's `data.bin`.
fn mark(index: usize) -> Vec<u8> {
    format!("VM-MARK-{index:07}\n").into_bytes()
}

/// What a VM's `data.bin` holds.
pub fn data(index: usize) -> Vec<u8> {
    mark(index).repeat(MARKS)
}

/// Checks the files of the first VM below a mount.
pub fn assert_files(mount: impl AsRef<Path>, when: &str) {
    let volume = mount.as_ref().join("digits/1");
    assert_eq!(std::fs::read_to_string(volume.join("hello.txt")).unwrap(), HELLO, "{when}");
    assert!(std::fs::read(volume.join("data.bin")).unwrap() == data(0), "{when}: data.bin");
}

/// A disk with one NTFS partition that holds two files.
fn make_disk(volume: &Path) -> Vec<u8> {
    let run = |program: &str, args: &[&str]| {
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let output = Command::new(program).args(args).env("PATH", path).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::write(volume, vec![0; 8 << 20]).unwrap();
    let volume_text = volume.to_str().unwrap();
    run("mkntfs", &["-q", "-F", "-p", "2048", "-H", "255", "-S", "63", "-s", "512", volume_text]);
    for (name, content) in [("hello.txt", HELLO.as_bytes().to_vec()), ("data.bin", MARK.repeat(MARKS))] {
        let source = volume.with_extension("in");
        std::fs::write(&source, content).unwrap();
        run("ntfscp", &["-f", volume_text, source.to_str().unwrap(), name]);
    }
    let mut disk = vec![0; PARTITION];
    // One entry of an MBR: type 7 (NTFS), from sector 2048.
    disk[446 + 4] = 7;
    disk[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
    disk[446 + 12..446 + 16].copy_from_slice(&(8u32 << 11).to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.extend(std::fs::read(volume).unwrap());
    disk
}
