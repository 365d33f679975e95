//! The vSphere client against govmomi's simulator, and against the faults of the front before it.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vcb_tests::vcsim::Vcsim;
use vcb_vsphere::{
    Backing, Cancel, Client, DatastoreFile, Error, Find, Fingerprint, KeepAlive, Moref, PowerState, Quiesce, Retry,
    Secret, Settings, SnapshotSpec, Trust, VirtualMachine, Wait, server_certificate,
};

const VM: &str = "DC0_H0_VM0";

fn settings(sim: &Vcsim) -> Settings {
    Settings {
        trust: Trust::Pin(Fingerprint::parse(sim.fingerprint()).unwrap()),
        limit: Duration::from_secs(10),
        retry: Retry { attempts: 3, pause: Duration::from_millis(10) },
        ..Settings::new(sim.host(), sim.user(), Secret::new(sim.password()))
    }
}

fn connect(sim: &Vcsim) -> Client {
    Client::connect(&settings(sim)).unwrap()
}

fn one(client: &Client, find: Find<'_>) -> VirtualMachine {
    let mut found = client.find_vms(find).unwrap();
    assert_eq!(found.len(), 1, "{find:?}");
    found.remove(0)
}

fn spec(name: &str) -> SnapshotSpec {
    SnapshotSpec { name: name.to_owned(), description: "d".to_owned(), quiesce: Quiesce::No }
}

fn wait() -> Wait {
    Wait::at_most(Duration::from_secs(10))
}

/// The next request whose method matches goes wrong, and no other.
fn once(sim: &Vcsim, method: &str, mut fault: Value) {
    fault["method"] = json!(method);
    fault["count"] = json!(1);
    sim.reset();
    sim.fault(&fault);
}

#[test]
fn vcsim_sessions_are_trusted_explicitly_and_always_ended() {
    let Some(sim) = Vcsim::start(&[]) else { return };
    let client = connect(&sim);
    assert!(client.is_virtual_center(), "{}", client.about());
    assert_eq!(sim.sessions(), [settings(&sim).user_agent]);
    client.log_out().unwrap();
    drop(connect(&sim));
    assert!(sim.sessions().is_empty());

    let with = |trust| Client::connect(&Settings { trust, ..settings(&sim) });
    assert!(with(Trust::Authorities(sim.authority().as_bytes().to_vec())).is_ok());
    assert!(with(Trust::Anything).is_ok());
    let unknown = with(Trust::System).err().unwrap();
    assert!(matches!(&unknown, Error::Tls { reason, .. } if reason.contains("UnknownIssuer")), "{unknown}");
    let pinned = with(Trust::Pin(Fingerprint::of(b"another"))).err().unwrap();
    assert!(matches!(&pinned, Error::Tls { reason, .. } if reason.contains("not the pinned one")), "{pinned}");
    let shown = server_certificate(sim.host(), Duration::from_secs(5)).unwrap();
    assert_eq!(shown.fingerprint, Fingerprint::parse(sim.fingerprint()).unwrap());
    assert_eq!((shown.subject.as_str(), shown.issuer.as_str()), ("CN=127.0.0.1", "CN=test authority"));
    assert!(shown.not_before < shown.not_after && shown.not_after.ends_with('Z'), "{shown:?}");

    // A login whose answer is lost is made again, and leaves no session behind, unless nothing of the answer came:
    // that session is known to the server alone, and `end_sessions` ends it once its process is gone.
    for kind in ["cut-body", "drop"] {
        once(&sim, "Login", json!({"kind": kind}));
        let client = connect(&sim);
        assert_eq!(sim.calls("Login"), 2, "{kind}");
        drop(client);
    }
    let refused = Client::connect(&Settings { password: Secret::new("wrong-one"), ..settings(&sim) }).err().unwrap();
    assert!(refused.is_refused(), "{refused}");
    assert!(!format!("{refused:?}").contains("wrong-one"));
    assert!(sim.sessions().is_empty());
}

#[test]
fn vcsim_certificates_for_another_name_are_refused() {
    let Some(sim) = Vcsim::start(&["-cert-name", "other.example"]) else { return };
    let trust = Trust::Authorities(sim.authority().as_bytes().to_vec());
    let err = Client::connect(&Settings { trust, ..settings(&sim) }).err().unwrap();
    assert!(matches!(&err, Error::Tls { reason, .. } if reason.contains("not valid for name")), "{err}");
    drop(connect(&sim));
}

#[test]
fn vcsim_vms_are_found_in_every_way() {
    for model in [&[][..], &["-esx"]] {
        let Some(sim) = Vcsim::start(model) else { return };
        let client = connect(&sim);
        assert_eq!(client.is_virtual_center(), model.is_empty());
        let all = client.find_vms(Find::All).unwrap();
        assert_eq!(all.len(), 2);
        let vm = &all[0];
        sim.vm(
            &json!({"name": vm.name, "address": "10.0.0.42", "host_name": "web01.example", "guest": "windowsGuest"}),
        );
        let (uuid, instance) = (vm.bios_uuid.clone().unwrap(), vm.instance_uuid.clone().unwrap());
        for find in [
            Find::Moref(&vm.moref.value),
            Find::Name(&vm.name),
            Find::Uuid(&uuid),
            Find::Uuid(&instance),
            Find::Address("10.0.0.42"),
            Find::Address("web01.example"),
        ] {
            let found = one(&client, find);
            assert_eq!(found.moref, vm.moref, "{find:?}");
            assert_eq!(found.guest.addresses, ["10.0.0.42"]);
            assert!(found.guest.tools_running);
            assert_eq!(found.power, PowerState::On);
            assert_eq!((found.disks.len(), found.disks[0].backing), (1, Backing::File));
            assert!(found.disks[0].file_name.starts_with("[LocalDS_0] "), "{}", found.disks[0].file_name);
        }
        for find in [
            Find::Moref("vm-none"),
            Find::Name("nobody"),
            Find::Name(&vm.name.to_lowercase()),
            Find::Uuid("00000000-0000-0000-0000-000000000000"),
            Find::Address("10.9.9.9"),
            Find::Address("nobody.example"),
        ] {
            assert!(client.find_vms(find).unwrap().is_empty(), "{find:?}");
        }
        sim.vm(&json!({"name": all[1].name, "rename": "50 á \"<&>"}));
        assert_eq!(one(&client, Find::Name("50 á \"<&>")).moref, all[1].moref);
        let stores = client.datastores_of(vm).unwrap();
        assert_eq!((stores.len(), stores[0].name.as_str()), (1, "LocalDS_0"));
        assert!(stores[0].free > 0 && stores[0].accessible);
    }
}

#[test]
fn vcsim_many_vms_come_in_pages() {
    let Some(sim) = Vcsim::start(&["-vms", "520"]) else { return };
    let client = connect(&sim);
    assert_eq!(client.find_vms(Find::Name("DC0_H0_VM519")).unwrap().len(), 1);
    let seen = sim.state()["requests"].to_string();
    assert!(seen.contains("ContinueRetrievePropertiesEx"), "{seen}");
}

#[test]
fn vcsim_snapshots_freeze_the_disks_they_were_made_of() {
    let Some(sim) = Vcsim::start(&[]) else { return };
    let client = connect(&sim);
    let vm = one(&client, Find::Name(VM));
    let frozen = vm.disks[0].file_name.clone();
    let quiesced = SnapshotSpec { quiesce: Quiesce::WindowsVss { minutes: 5 }, ..spec("s <1>") };
    let snapshot = client.create_snapshot(&vm.moref, &quiesced, &wait()).unwrap();
    let after = client.vm(&vm.moref).unwrap();
    assert_eq!(after.snapshots.len(), 1);
    assert_eq!((after.snapshots[0].name.as_str(), after.snapshots[0].quiesced), ("s <1>", true));
    assert_eq!(after.current_snapshot.as_ref(), Some(&snapshot));
    assert_ne!(after.disks[0].file_name, frozen);
    assert_eq!(after.disks[0].parents, [frozen.as_str()]);
    assert_eq!(client.snapshot_disks(&snapshot).unwrap()[0].file_name, frozen);

    let second = client.create_snapshot(&vm.moref, &spec("s2"), &wait()).unwrap();
    assert_eq!(client.vm(&vm.moref).unwrap().snapshots[1].parent.as_ref(), Some(&snapshot));
    client.remove_snapshot(&snapshot, &wait()).unwrap();
    assert_eq!(sim.snapshots(VM), ["s2"]);
    assert!(client.remove_snapshot(&snapshot, &wait()).unwrap_err().is_not_found());
    assert!(client.snapshot_disks(&snapshot).unwrap_err().is_not_found());
    client.remove_snapshot(&second, &wait()).unwrap();
    let after = client.vm(&vm.moref).unwrap();
    assert_eq!((after.disks[0].file_name.as_str(), after.snapshots.len()), (frozen.as_str(), 0));
}

#[test]
fn vcsim_vms_that_cannot_be_frozen_are_described() {
    let Some(sim) = Vcsim::start(&[]) else { return };
    let client = connect(&sim);
    let disks = json!([
        {"file": "a.vmdk", "capacity": 1 << 20},
        {"file": "b.vmdk", "capacity": 1 << 20, "kind": "prdm"},
        {"file": "c.vmdk", "capacity": 1 << 20, "kind": "vrdm"},
        {"file": "d.vmdk", "capacity": 1 << 20, "kind": "independent"},
    ]);
    sim.vm(&json!({"name": VM, "disks": disks, "ft": true, "encrypted": true, "template": true,
                   "consolidation_needed": true}));
    let vm = one(&client, Find::Name(VM));
    assert!(vm.fault_tolerant && vm.encrypted && vm.template && vm.consolidation_needed);
    let kinds: Vec<_> = vm.disks.iter().map(|disk| (disk.backing, disk.is_independent(), disk.node.as_str())).collect();
    let expected = [
        (Backing::File, false, "scsi0:0"),
        (Backing::PhysicalRdm, false, "scsi0:1"),
        (Backing::VirtualRdm, false, "scsi0:2"),
        (Backing::File, true, "scsi0:3"),
    ];
    assert_eq!(kinds, expected);
    client.consolidate_disks(&vm.moref, &wait()).unwrap();
    assert!(!client.vm(&vm.moref).unwrap().consolidation_needed);
}

#[test]
fn vcsim_changed_areas_are_asked_for_to_the_end() {
    let Some(sim) = Vcsim::start(&[]) else { return };
    let client = connect(&sim);
    sim.vm(&json!({"name": VM, "disks": [{"file": "a.vmdk", "capacity": 4u64 << 20}]}));
    let vm = one(&client, Find::Name(VM));
    let snapshot = client.create_snapshot(&vm.moref, &spec("s"), &wait()).unwrap();
    let disk = client.snapshot_disks(&snapshot).unwrap().remove(0);
    let ask = || client.changed_areas(&vm.moref, &snapshot, disk.key, disk.change_id.as_ref().unwrap(), disk.capacity);
    assert_eq!(ask().unwrap_err().fault(), Some("FileFault"));
    let areas = json!([[65536, 131_072], [1 << 20, 1 << 20], [(4 << 20) - 512, 512]]);
    let set = |broken: &str| {
        sim.changed(&json!({"vm": VM, "key": disk.key, "areas": areas, "page": 300_000, "broken": broken}));
    };
    set("");
    assert_eq!(ask().unwrap().areas, [65536..196_608, (1 << 20)..(2 << 20), ((4 << 20) - 512)..(4 << 20)]);
    for broken in ["stuck", "gap"] {
        set(broken);
        assert!(matches!(ask(), Err(Error::Protocol { .. })), "{broken}");
    }
}

#[test]
fn vcsim_relocation_is_held_by_one() {
    let Some(sim) = Vcsim::start(&[]) else { return };
    let client = connect(&sim);
    let vm = one(&client, Find::Name(VM)).moref;
    client.disable_relocation(&vm, "vcbmount-a").unwrap();
    assert!(client.disable_relocation(&vm, "vcbmount-b").unwrap_err().is_busy());
    assert_eq!(sim.state()["disabled"][&vm.value], "vcbmount-a");
    client.enable_relocation(&vm, "vcbmount-a").unwrap();
    assert_eq!(sim.state()["disabled"], json!({}));
    let ask = |ids: &[&str]| client.missing_privileges(std::slice::from_ref(&vm), ids).unwrap();
    let (create, remove) = ("VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RemoveSnapshot");
    assert!(ask(&[create, remove]).is_empty());
    sim.deny(&[remove]);
    assert_eq!(ask(&[create, remove]), [(remove.to_owned(), vec![vm.clone()])]);
    let pools = client.inventory_paths("ResourcePool").unwrap();
    assert_eq!(pools, ["/Datacenters/DC0/host/DC0_H0/Resources"]);
}

#[test]
fn vcsim_tasks_are_waited_for_within_limits() {
    let Some(sim) = Vcsim::start(&[]) else { return };
    let client = connect(&sim);
    let vm = one(&client, Find::Name(VM)).moref;
    let create = "CreateSnapshot_Task";
    once(&sim, create, json!({"kind": "task-fail", "fault": "ApplicationQuiesceFault"}));
    let err = client.create_snapshot(&vm, &spec("s"), &wait()).unwrap_err();
    assert_eq!((err.fault(), err.outcome_unknown()), (Some("ApplicationQuiesceFault"), false));

    once(&sim, create, json!({"kind": "task-hang"}));
    let started = Instant::now();
    let err = client.create_snapshot(&vm, &spec("s"), &Wait::at_most(Duration::from_millis(300))).unwrap_err();
    assert!(matches!(err, Error::TaskTimeout { .. }) && err.outcome_unknown());
    assert!(started.elapsed() < Duration::from_secs(3));

    once(&sim, create, json!({"kind": "task-hang"}));
    let cancel = Cancel::default();
    let raiser = cancel.clone();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        raiser.raise();
    });
    let err = client.create_snapshot(&vm, &spec("s"), &Wait { limit: Duration::from_secs(60), cancel }).unwrap_err();
    assert!(matches!(err, Error::Cancelled { .. }));
    thread.join().unwrap();

    once(&sim, create, json!({"kind": "task-slow", "millis": 300}));
    let snapshot = client.create_snapshot(&vm, &spec("late"), &wait()).unwrap();
    assert_eq!(sim.snapshots(VM), ["late"]);
    client.remove_snapshot(&snapshot, &wait()).unwrap();
}

#[test]
fn vcsim_lost_answers_are_asked_for_again_only_where_that_is_safe() {
    let Some(sim) = Vcsim::start(&[]) else { return };
    let client = connect(&sim);
    let vm = one(&client, Find::Name(VM)).moref;
    for fault in [
        json!({"kind": "status", "status": 503}),
        json!({"kind": "drop"}),
        json!({"kind": "drop-after"}),
        json!({"kind": "cut-body"}),
        json!({"kind": "expire"}),
        json!({"kind": "slow-body", "millis": 50}),
    ] {
        once(&sim, "*", fault.clone());
        client.vm(&vm).unwrap_or_else(|err| panic!("{fault}: {err:?}"));
    }
    for kind in ["drop", "drop-after"] {
        once(&sim, "CreateSnapshot_Task", json!({"kind": kind}));
        let err = client.create_snapshot(&vm, &spec(kind), &wait()).unwrap_err();
        assert!(err.outcome_unknown(), "{kind}: {err}");
    }
    assert_eq!(sim.snapshots(VM), ["drop-after"]);
    sim.reset();
    sim.fault(&json!({"method": "*", "kind": "status", "status": 503}));
    assert!(matches!(client.vm(&vm), Err(Error::Http { status: 503, .. })));
    sim.reset();
    sim.fault(&json!({"method": "*", "kind": "garbage"}));
    assert!(matches!(client.vm(&vm), Err(Error::Protocol { .. })));
    // An answer of the right form that does not hold the VM does not mean that there is none.
    once(&sim, "RetrievePropertiesEx", json!({"kind": "task-fail"}));
    assert!(matches!(client.vm(&vm), Err(Error::Protocol { .. })));
    sim.reset();
    let hasty = Settings {
        limit: Duration::from_secs(2),
        retry: Retry { attempts: 1, pause: Duration::ZERO },
        ..settings(&sim)
    };
    let hasty = Client::connect(&hasty).unwrap();
    once(&sim, "*", json!({"kind": "slow", "millis": 10_000}));
    let started = Instant::now();
    assert!(matches!(hasty.vm(&vm), Err(Error::Unreachable { .. })));
    assert!(started.elapsed() < Duration::from_secs(8));
}

#[test]
fn vcsim_sessions_of_the_dead_are_ended_by_their_mark() {
    let Some(sim) = Vcsim::start(&[]) else { return };
    let named =
        |user_agent: &str| Client::connect(&Settings { user_agent: user_agent.to_owned(), ..settings(&sim) }).unwrap();
    let _ours = named("vcbmount/1 (mark 1)");
    let _other = named("somebody/1");
    let cleaner = named("vcbmount/1 (mark 2)");
    assert_eq!(cleaner.end_sessions(|agent| agent.starts_with("vcbmount/")).unwrap(), 1);
    let mut left = sim.sessions();
    left.sort();
    assert_eq!(left, ["somebody/1", "vcbmount/1 (mark 2)"]);
}

#[test]
fn vcsim_sessions_that_are_kept_alive_do_not_end() {
    let Some(sim) = Vcsim::start(&[]) else { return };
    let client = Arc::new(connect(&sim));
    let vm = one(&client, Find::Name(VM)).moref;
    sim.idle(3000);
    let alive = KeepAlive::start(client.clone(), Duration::from_millis(100));
    std::thread::sleep(Duration::from_secs(5));
    client.vm(&vm).unwrap();
    assert_eq!(sim.calls("Login"), 1);
    drop(alive);
    std::thread::sleep(Duration::from_secs(4));
    client.vm(&vm).unwrap();
    assert_eq!(sim.calls("Login"), 2, "without it the session has ended, and a new one was opened");
    drop(client);
    assert!(sim.sessions().is_empty());
}

#[test]
fn vcsim_datastore_files_are_read_in_ranges() {
    let Some(sim) = Vcsim::start(&[]) else { return };
    let client = Arc::new(connect(&sim));
    let vm = one(&client, Find::Name(VM));
    let content: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let folder = sim.datastore("LocalDS_0").join("my vm+é");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("a&b.vmdk"), &content).unwrap();
    let datacenter = client.datacenter_path(&vm.moref).unwrap();
    assert_eq!(datacenter, "DC0");
    let open = |path: &str| DatastoreFile::open(client.clone(), &datacenter, "LocalDS_0", path);
    assert!(open("my vm+é/none.vmdk").err().unwrap().is_not_found());
    let file = open("my vm+é/a&b.vmdk").unwrap();
    assert_eq!(file.len(), content.len() as u64);
    std::thread::scope(|scope| {
        for thread in 0..8usize {
            let (file, content) = (&file, &content);
            scope.spawn(move || {
                for step in 0..10usize {
                    let at = (thread * 100_003 + step * 31_337) % (content.len() - 5000);
                    let mut buf = vec![0; 5000 - step];
                    file.read_at(&mut buf, at as u64).unwrap();
                    assert_eq!(buf, content[at..at + buf.len()]);
                }
            });
        }
    });
    assert!(file.read_at(&mut [0; 2], file.len() - 1).is_err());
    sim.reset();
    sim.fault(&json!({"method": "folder", "kind": "slow", "millis": 60}));
    std::thread::scope(|scope| {
        for thread in 0..12u64 {
            let file = &file;
            scope.spawn(move || file.read_at(&mut [0; 100], thread * 1000).unwrap());
        }
    });
    let peak = sim.peak("folder");
    assert!((2..=4).contains(&peak), "{peak} requests in flight");
    for fault in [
        json!({"kind": "status", "status": 503}),
        json!({"kind": "expire"}),
        json!({"kind": "drop"}),
        json!({"kind": "cut-body"}),
    ] {
        once(&sim, "folder", fault.clone());
        let mut buf = [0; 4096];
        file.read_at(&mut buf, 8192).unwrap_or_else(|err| panic!("{fault}: {err:?}"));
        assert_eq!(buf, content[8192..12288]);
    }
    sim.reset();
    sim.fault(&json!({"method": "folder", "kind": "status", "status": 503}));
    assert!(file.read_at(&mut [0; 16], 0).is_err());
    // A host answers so, again and again, to a disk that is in use.
    for status in [403, 500] {
        sim.reset();
        sim.fault(&json!({"method": "folder", "skip": 1, "kind": "status", "status": status}));
        let refused = open("my vm+é/a&b.vmdk").err().unwrap();
        assert!(refused.is_busy() && refused.to_string().contains("does not give out this file"), "{refused}");
    }
    sim.reset();
    std::fs::write(folder.join("a&b.vmdk"), &content[..1000]).unwrap();
    assert!(file.read_at(&mut [0; 16], 0).is_err(), "a file that has changed its length is not read on");
    assert!(client.vm(&Moref::new("VirtualMachine", "vm-none")).unwrap_err().is_not_found());
}
