//! A simulator whose VM has a real disk, and the configuration to read it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use vcb_mountd::Failure;
use vcb_mountd::config::{Config, DatastoreConfig, Transport, VCenter};
use vcb_mountd::orchestrate::{Cleaned, Held, Journal, Lease, Options, Orchestrator, cleanup, connect};
use vcb_mountd::spec::Spec;
use vcb_tests::vcsim::Vcsim;
use vcb_vsphere::Cancel;

pub const VM: &str = "DC0_H0_VM0";
pub const CONTENT: u8 = 0x5a;

/// A simulator whose VM has a real disk, and the configuration to read it.
pub struct Bench {
    pub sim: Vcsim,
    pub vm: String,
    pub dir: tempfile::TempDir,
    pub config: Config,
}

impl Bench {
    pub fn new(args: &[&str]) -> Option<Bench> {
        let sim = Vcsim::start(args)?;
        let vm = if args.is_empty() { VM } else { "ha-host_VM0" }.to_owned();
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("web.vmdk");
        let text = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\
                    RW 2048 VMFS \"web-flat.vmdk\"\nddb.adapterType = \"lsilogic\"\n";
        std::fs::write(&disk, text).unwrap();
        let flat = dir.path().join("web-flat.vmdk");
        std::fs::write(&flat, vec![CONTENT; 1 << 20]).unwrap();
        sim.vm(&json!({
            "name": vm, "guest": "windowsGuest",
            "files": {"web.vmdk": disk, "web-flat.vmdk": flat},
            "disks": [{"file": "web.vmdk", "capacity": 1 << 20}],
        }));
        let password = dir.path().join("password");
        write_secret(&password, sim.password());
        let config = Config {
            vcenter: Some(VCenter {
                host: sim.host().to_owned(),
                username: sim.user().to_owned(),
                password_file: Some(password),
                ca_file: None,
                fingerprint: Some(sim.fingerprint().to_owned()),
                transports: vec![Transport::San, Transport::File],
                hold_relocation: true,
            }),
            datastores: vec![DatastoreConfig {
                name: "LocalDS_0".to_owned(),
                path: Some(sim.datastore("LocalDS_0")),
                ..DatastoreConfig::default()
            }],
            ..Config::default()
        };
        let mut bench = Bench { sim, vm, dir, config };
        bench.config.hooks.dir = bench.dir.path().join("hooks.d");
        Some(bench)
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn with<T>(&self, work: impl FnOnce(&Orchestrator<'_>) -> T) -> T {
        with(&self.config, &self.state(), work).unwrap()
    }

    pub fn acquire(&self) -> Result<Held, Failure> {
        self.with(|orchestrator| orchestrator.acquire(&Spec::Name(self.vm.clone()), &options()))
    }

    pub fn cleanup(&self) -> Vec<Cleaned> {
        clean(&self.config, &self.state()).into_iter().map(|(_, cleaned)| cleaned).collect()
    }

    pub fn assert_nothing_left(&self, when: &str) {
        let state = self.sim.state();
        assert_eq!(state["vms"][&self.vm]["snapshots"], json!([]), "{when}");
        assert_eq!(state["disabled"], json!({}), "{when}");
        assert_eq!(state["sessions"], json!([]), "{when}");
        assert!(Journal::all(&self.state()).unwrap().is_empty(), "{when}");
    }
}

pub fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub fn name() -> Spec {
    Spec::Name(VM.to_owned())
}

pub fn options() -> Options {
    Options::default()
}

pub fn with<T>(config: &Config, state: &Path, work: impl FnOnce(&Orchestrator<'_>) -> T) -> Result<T, Failure> {
    let server = config.vcenter.as_ref().unwrap();
    let client = connect(server, &|_| None)?;
    let mut orchestrator = Orchestrator::new(&client, config, server, state, Cancel::default());
    orchestrator.task_limit = Duration::from_secs(3);
    Ok(work(&orchestrator))
}

pub fn clean(config: &Config, state: &Path) -> Vec<(Lease, Cleaned)> {
    with(config, state, |orchestrator| {
        orchestrator.client.end_sessions(|agent| agent.starts_with("vcbmount/")).unwrap();
        cleanup(orchestrator, &|_| false, &|_| Ok(()), false).unwrap()
    })
    .unwrap()
}

pub fn read(held: &Held) -> Vec<u8> {
    let disks = held.plan.open_disks().unwrap();
    let block = disks[0].disk.block();
    let mut buf = vec![0; usize::try_from(block.len()).unwrap()];
    block.read_at(&mut buf, 0).unwrap();
    buf
}
