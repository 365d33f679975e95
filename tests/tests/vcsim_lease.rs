//! Leases against the simulator: made and released, refused, and cleaned up whatever died or failed.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use vcb_mountd::config::{Config, DatastoreConfig, Preexisting, Quiesce, SnapshotPolicy, Transport, VCenter};
use vcb_mountd::orchestrate::{Cleaned, Held, Journal, Options, Orchestrator, Reached, cleanup, connect};
use vcb_mountd::plan::ReadOptions;
use vcb_mountd::spec::Spec;
use vcb_mountd::{Code, Failure};
use vcb_tests::vcsim::Vcsim;
use vcb_vsphere::Cancel;

const VM: &str = "DC0_H0_VM0";
const CONTENT: u8 = 0x5a;

/// A simulator whose VM has a real disk, and the configuration to read it.
struct Bench {
    sim: Vcsim,
    vm: String,
    dir: tempfile::TempDir,
    config: Config,
}

impl Bench {
    fn new(args: &[&str]) -> Option<Bench> {
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

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn with<T>(&self, work: impl FnOnce(&Orchestrator<'_>) -> T) -> T {
        with(&self.config, &self.state(), work).unwrap()
    }

    fn acquire(&self) -> Result<Held, Failure> {
        self.with(|orchestrator| orchestrator.acquire(&Spec::Name(self.vm.clone()), &options()))
    }

    fn cleanup(&self) -> Vec<Cleaned> {
        clean(&self.config, &self.state()).into_iter().map(|(_, cleaned)| cleaned).collect()
    }

    fn assert_nothing_left(&self, when: &str) {
        let state = self.sim.state();
        assert_eq!(state["vms"][&self.vm]["snapshots"], json!([]), "{when}");
        assert_eq!(state["disabled"], json!({}), "{when}");
        assert_eq!(state["sessions"], json!([]), "{when}");
        assert!(Journal::all(&self.state()).unwrap().is_empty(), "{when}");
    }
}

fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn name() -> Spec {
    Spec::Name(VM.to_owned())
}

fn options() -> Options {
    Options { existing: None, read: ReadOptions::default() }
}

fn with<T>(config: &Config, state: &Path, work: impl FnOnce(&Orchestrator<'_>) -> T) -> Result<T, Failure> {
    let server = config.vcenter.as_ref().unwrap();
    let client = connect(server, "test", &|_| None)?;
    let mut orchestrator = Orchestrator::new(&client, config, server, state, Cancel::default());
    orchestrator.task_limit = Duration::from_secs(3);
    Ok(work(&orchestrator))
}

fn clean(config: &Config, state: &Path) -> Vec<(vcb_mountd::orchestrate::Lease, Cleaned)> {
    let server = &config.vcenter.as_ref().unwrap().host;
    with(config, state, |orchestrator| {
        orchestrator.client.end_sessions(|agent| agent.starts_with("vcbmount/")).unwrap();
        cleanup(state, server, |_| false, false, &mut || Ok(orchestrator)).unwrap()
    })
    .unwrap()
}

fn read(held: &Held) -> Vec<u8> {
    let disks = held.plan.open_disks().unwrap();
    let block = disks[0].disk.block();
    let mut buf = vec![0; usize::try_from(block.len()).unwrap()];
    block.read_at(&mut buf, 0).unwrap();
    buf
}

#[test]
fn vcsim_a_lease_freezes_a_vm_and_gives_it_back() {
    for model in [&[][..], &["-esx"]] {
        let Some(mut bench) = Bench::new(model) else { return };
        if !model.is_empty() {
            // A host by itself knows no promise against moving.
            bench.config.vcenter.as_mut().unwrap().hold_relocation = false;
        }
        let held = bench.acquire().unwrap();
        assert_eq!(held.reached, Reached::Quiesced);
        assert_eq!(bench.sim.snapshots(&bench.vm), [held.journal.lease.snapshot_name.as_str()]);
        assert!(held.journal.lease.is_marked());
        assert_eq!(held.plan.disks[0].file, format!("[LocalDS_0] {}/web.vmdk", bench.vm));
        assert!(held.plan.files[0].ends_with(".vmx"), "{:?}", held.plan.files);
        assert!(read(&held).iter().all(|byte| *byte == CONTENT));
        bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
        bench.assert_nothing_left("after a release");
    }
}

#[test]
fn vcsim_frozen_disks_are_read_through_the_server() {
    let Some(mut bench) = Bench::new(&[]) else { return };
    bench.config.vcenter.as_mut().unwrap().transports = vec![Transport::San, Transport::Https];
    bench.config.datastores.clear();
    let held = bench.acquire().unwrap();
    assert!(read(&held).iter().all(|byte| *byte == CONTENT));
    let text = serde_json::to_string(&held.plan).unwrap();
    assert!(!text.contains(bench.sim.password()), "{text}");
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    bench.assert_nothing_left("after a release");
}

#[test]
fn vcsim_what_cannot_be_frozen_is_refused_with_every_reason() {
    let Some(mut bench) = Bench::new(&[]) else { return };
    let code = |bench: &Bench| bench.acquire().err().unwrap().code();
    bench.config.datastores[0].name = "other".to_owned();
    assert_eq!(code(&bench), Code::DatastoreNotFound);
    bench.assert_nothing_left("after a datastore that is not configured");
    bench.config.datastores[0].name = "LocalDS_0".to_owned();
    bench.sim.free("LocalDS_0", 1);
    assert_eq!(code(&bench), Code::Space);
    bench.config.snapshot.min_free_percent = 0;
    let disks = json!([
        {"file": "a.vmdk", "capacity": 1 << 20, "kind": "prdm"},
        {"file": "b.vmdk", "capacity": 1 << 20, "kind": "independent"},
    ]);
    bench.sim.vm(&json!({"name": VM, "disks": disks, "ft": true, "encrypted": true, "template": true}));
    let failure = bench.acquire().err().unwrap();
    assert_eq!(failure.code(), Code::NotFreezable);
    let text = format!("{failure:?}");
    for reason in ["template", "Fault Tolerance", "encrypted", "scsi0:0", "physical raw", "scsi0:1", "independent"] {
        assert!(text.contains(reason), "{reason}: {text}");
    }
    let missing = bench.with(|orchestrator| orchestrator.acquire(&Spec::Name("none".into()), &options())).err();
    assert_eq!(missing.unwrap().code(), Code::VmNotFound);
    let many = bench.with(|orchestrator| orchestrator.acquire(&Spec::Any(None), &options())).err().unwrap();
    assert!(many.code() == Code::Ambiguous && format!("{many:?}").contains("DC0_H0_VM1"), "{many:?}");
    bench.assert_nothing_left("after refusals");
}

#[test]
fn vcsim_quiescing_is_tried_required_or_left_alone() {
    let Some(mut bench) = Bench::new(&[]) else { return };
    let fails = json!({"method": "CreateSnapshotEx_Task", "kind": "task-fail", "fault": "ApplicationQuiesceFault"});
    bench.sim.fault(&fails);
    let held = bench.acquire().unwrap();
    assert_eq!(held.reached, Reached::CrashConsistent);
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    bench.config.snapshot.quiesce = Quiesce::Required;
    assert_eq!(bench.acquire().err().unwrap().code(), Code::Quiesce);
    bench.assert_nothing_left("after a guest that did not come to rest");
    bench.config.snapshot.quiesce = Quiesce::No;
    let held = bench.acquire().unwrap();
    assert_eq!(held.reached, Reached::CrashConsistent);
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    bench.assert_nothing_left("without quiescing");
}

#[test]
fn vcsim_only_our_own_snapshots_are_removed_and_only_by_the_policy() {
    let Some(mut bench) = Bench::new(&[]) else { return };
    bench.config.snapshot.policy = SnapshotPolicy::CreateOnly;
    let held = bench.acquire().unwrap();
    let made = held.journal.lease.snapshot_name.clone();
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    assert_eq!(bench.sim.snapshots(VM), [made.as_str()]);
    // The journal has forgotten it: it is not ours to touch any more, nor in the way.
    bench.config.snapshot.policy = SnapshotPolicy::Automatic;
    let held = bench.acquire().unwrap();
    assert_eq!(bench.sim.snapshots(VM).len(), 2);
    // A second backup finds the first at work.
    assert_eq!(bench.acquire().err().unwrap().code(), Code::SnapshotExists);
    drop(held);
    // It died: its snapshot is in the way, or dealt with.
    assert_eq!(bench.acquire().err().unwrap().code(), Code::SnapshotExists);
    bench.config.snapshot.preexisting = Preexisting::Delete;
    let held = bench.acquire().unwrap();
    assert_eq!(bench.sim.snapshots(VM).len(), 2);
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    assert_eq!(bench.sim.snapshots(VM), [made.as_str()]);
    let read_it = Options { existing: Some(made.clone()), ..options() };
    let held = bench.with(|orchestrator| orchestrator.acquire(&name(), &read_it)).unwrap();
    assert_eq!(held.reached, Reached::Existing);
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    assert_eq!(bench.sim.snapshots(VM), [made.as_str()]);
    bench.config.snapshot.policy = SnapshotPolicy::DeleteOnly;
    let held = bench.acquire().unwrap();
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    bench.assert_nothing_left("after deleteonly");
}

#[test]
fn vcsim_late_and_hanging_tasks_are_not_forgotten() {
    let Some(bench) = Bench::new(&[]) else { return };
    bench.sim.fault(&json!({"method": "CreateSnapshotEx_Task", "count": 1, "kind": "task-slow", "millis": 9000}));
    let failure = bench.acquire().err().unwrap();
    assert_eq!(failure.code(), Code::LeftBehind, "{failure:?}");
    assert_eq!(Journal::all(&bench.state()).unwrap().len(), 1);
    let mut cleaned = bench.cleanup();
    for _ in 0..4 {
        if !matches!(cleaned.first(), Some(Cleaned::Failed(_))) {
            break;
        }
        cleaned = bench.cleanup();
    }
    assert_eq!(cleaned, [Cleaned::Released]);
    bench.assert_nothing_left("after a late task");
    bench.sim.reset();
    bench
        .sim
        .fault(&json!({"method": "RemoveSnapshot_Task", "count": 1, "kind": "task-fail", "fault": "TaskInProgress"}));
    bench.sim.vm(&json!({"name": VM, "consolidation_needed": true}));
    let held = bench.acquire().unwrap();
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    assert_eq!(bench.sim.state()["vms"][VM]["consolidation_needed"], json!(false));
    bench.assert_nothing_left("after a busy VM");
}

/// Run by [`vcsim_a_process_killed_anywhere_leaves_nothing_after_cleanup`] in a process of its own.
#[test]
fn vcsim_worker() {
    let Some(job) = std::env::var_os("VCB_TEST_JOB") else { return };
    let job = PathBuf::from(job);
    let config: Config = serde_json::from_slice(&std::fs::read(job.join("config.json")).unwrap()).unwrap();
    let state = job.join("state");
    with(&config, &state, |orchestrator| {
        let mut held = orchestrator.acquire(&name(), &options()).unwrap();
        orchestrator.mounting(&mut held.journal, Path::new("/nowhere")).unwrap();
        orchestrator.mounted(&mut held.journal).unwrap();
        orchestrator.release(held.journal).unwrap();
    })
    .unwrap();
}

#[test]
fn vcsim_a_process_killed_anywhere_leaves_nothing_after_cleanup() {
    let Some(bench) = Bench::new(&[]) else { return };
    let trace = bench.dir.path().join("trace");
    std::fs::write(bench.dir.path().join("config.json"), serde_json::to_vec(&bench.config).unwrap()).unwrap();
    let run = |kill_at: Option<usize>| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["vcsim_worker", "--exact", "--nocapture"]).env("VCB_TEST_JOB", bench.dir.path());
        match kill_at {
            Some(number) => command.env("VCB_FAULT_POINT", number.to_string()),
            None => command.env("VCB_FAULT_TRACE", &trace),
        };
        command.output().unwrap()
    };
    let whole = run(None);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let points: Vec<String> = std::fs::read_to_string(&trace).unwrap().lines().map(str::to_owned).collect();
    assert!(points.len() > 25, "{points:?}");
    bench.assert_nothing_left("after the whole run");
    let mut snapshots = 0;
    for (number, point) in (1..).zip(&points) {
        let killed = run(Some(number));
        assert!(!killed.status.success(), "{point}");
        snapshots += bench.sim.snapshots(VM).len();
        for cleaned in bench.cleanup() {
            assert_eq!(cleaned, Cleaned::Released, "killed {point}");
        }
        bench.assert_nothing_left(&format!("killed {point}"));
    }
    assert!(snapshots > 5, "the kills did leave snapshots behind: {snapshots}");
    println!("killed at {} points, {snapshots} snapshots left and all removed", points.len());
}

#[test]
fn vcsim_whatever_request_fails_nothing_stays_behind() {
    let Some(bench) = Bench::new(&[]) else { return };
    let held = bench.acquire().unwrap();
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    let requests = bench.sim.state()["requests"].as_array().unwrap().len();
    let thorough = std::env::var_os("VCB_TORTURE").is_some();
    let kinds = [
        json!({"kind": "status", "status": 503}),
        json!({"kind": "drop"}),
        json!({"kind": "drop-after"}),
        json!({"kind": "expire"}),
        json!({"kind": "cut-body"}),
        json!({"kind": "garbage"}),
        json!({"kind": "fault", "fault": "HostCommunication"}),
        json!({"kind": "fault", "fault": "NoPermission"}),
    ];
    let (mut succeeded, mut failed) = (0, 0);
    for number in 0..requests {
        for (index, kind) in kinds.iter().enumerate() {
            if !thorough && (number + index) % 4 != 0 {
                continue;
            }
            let mut rule = kind.clone();
            rule["method"] = json!("*");
            rule["skip"] = json!(number);
            rule["count"] = json!(1);
            bench.sim.reset();
            bench.sim.fault(&rule);
            let when = format!("request {number}: {kind}");
            let outcome = with(&bench.config, &bench.state(), |orchestrator| {
                orchestrator.acquire(&name(), &options()).and_then(|held| orchestrator.release(held.journal))
            });
            bench.sim.reset();
            match outcome.and_then(|inner| inner) {
                Ok(()) => succeeded += 1,
                Err(failure) => {
                    assert_ne!(failure.code(), Code::Failed, "{when}: {failure:?}");
                    failed += 1;
                }
            }
            for cleaned in bench.cleanup() {
                assert_eq!(cleaned, Cleaned::Released, "{when}");
            }
            bench.assert_nothing_left(&when);
        }
    }
    println!("{requests} requests: {succeeded} runs succeeded in spite of a fault, {failed} failed cleanly");
    assert!(succeeded > 0 && failed > 0);
}
