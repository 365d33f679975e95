//! What is frozen and what is refused, by every policy, and whose snapshots stay.

use std::time::Duration;

use serde_json::json;
use vcb_mountd::config::{DatastoreConfig, Preexisting, Quiesce, SnapshotPolicy, Transport};
use vcb_mountd::orchestrate::{Cleaned, Journal, Options, Reached, Step};
use vcb_mountd::spec::Spec;
use vcb_mountd::{Code, Failure};
use vcb_vsphere::{Find, Quiesce as Ask, SnapshotSpec, Wait};

use crate::bench::{Bench, CONTENT, VM, name, options, read};

#[test]
fn vcsim_a_lease_freezes_a_vm_and_gives_it_back() {
    for model in [&[][..], &["-esx"]] {
        // A host by itself knows no promise against moving, and needs none.
        let Some(bench) = Bench::new(model) else { return };
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
    // Used again: the snapshot stays the one it was, and goes with its new holder.
    bench.config.snapshot.preexisting = Preexisting::Reuse;
    let dead = bench.acquire().unwrap();
    let (id, name_of_dead) = (dead.journal.lease.id.clone(), dead.journal.lease.snapshot_name.clone());
    drop(dead);
    let held = bench.acquire().unwrap();
    assert_eq!((held.reached, &held.journal.lease.id), (Reached::Existing, &id));
    assert_eq!(bench.sim.snapshots(VM), [made.as_str(), &name_of_dead]);
    assert!(bench.cleanup().iter().all(|cleaned| *cleaned == Cleaned::InUse));
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    assert_eq!(bench.sim.snapshots(VM), [made.as_str()]);
    // One that is there already, and stays.
    bench.config.snapshot.policy = SnapshotPolicy::Manual;
    let held = bench.acquire().unwrap();
    assert_eq!((held.reached, held.journal.lease.snapshot_name.as_str()), (Reached::Existing, made.as_str()));
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    assert_eq!(bench.sim.snapshots(VM), [made.as_str()]);
    bench.config.snapshot.policy = SnapshotPolicy::Automatic;
    let read_it = Options { existing: Some(made.clone()), ..options() };
    let held = bench.with(|orchestrator| orchestrator.acquire(&name(), &read_it)).unwrap();
    assert_eq!(held.reached, Reached::Existing);
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    assert_eq!(bench.sim.snapshots(VM), [made.as_str()]);
    bench.config.snapshot.policy = SnapshotPolicy::DeleteOnly;
    let held = bench.acquire().unwrap();
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    bench.assert_nothing_left("after deleteonly");
    // What another backup holds now is not for these policies.
    bench.config.snapshot.policy = SnapshotPolicy::Automatic;
    let held = bench.acquire().unwrap();
    bench.config.snapshot.policy = SnapshotPolicy::DeleteOnly;
    assert_eq!(bench.acquire().err().unwrap().code(), Code::SnapshotNotFound);
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    bench.assert_nothing_left("at the end");
}

#[test]
fn vcsim_snapshots_of_others_stay_whatever_they_are_called() {
    let Some(mut bench) = Bench::new(&[]) else { return };
    bench.config.snapshot.preexisting = Preexisting::Delete;
    let make = |name: &str| {
        bench.with(|orchestrator| {
            let vm = orchestrator.client.find_vms(Find::Name(VM)).unwrap().remove(0).moref;
            let spec = SnapshotSpec { name: name.to_owned(), description: String::new(), quiesce: Ask::No };
            let wait = Wait::at_most(Duration::from_secs(5));
            orchestrator.client.create_snapshot(&vm, &spec, &wait).unwrap()
        })
    };
    let others = ["before an update", "_VCB-BACKUP_", "vcbmount-0123456789abcdef", "vcbmount-"];
    for name in others {
        make(name);
    }
    let held = bench.acquire().unwrap();
    let ours = held.journal.lease.snapshot_name.clone();
    // One above ours, and one that is called just like ours.
    make("after ours");
    make(&ours);
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    let mut expected: Vec<&str> = others.to_vec();
    expected.extend(["after ours", &ours]);
    assert_eq!(bench.sim.snapshots(VM), expected);
    assert!(bench.cleanup().is_empty());
    // The name is all that is known, and two bear it: none is touched, and the lease is not forgotten.
    let mut held = bench.acquire().unwrap();
    make(&held.journal.lease.snapshot_name);
    held.journal.step(Step::AskingForSnapshot, |lease| (lease.snapshot, lease.task) = (None, None)).unwrap();
    let (count, id) = (bench.sim.snapshots(VM).len(), held.journal.lease.id.clone());
    drop(held);
    assert!(matches!(bench.cleanup().as_slice(), [Cleaned::Failed(why)] if why.contains("several snapshots")));
    assert_eq!((bench.sim.snapshots(VM).len(), Journal::all(&bench.state()).unwrap()[0].id.clone()), (count, id));
}

#[test]
fn vcsim_windows_guests_are_quiesced_as_a_copy_backup() {
    let Some(mut bench) = Bench::new(&[]) else { return };
    bench.config.snapshot.quiesce_minutes = 7;
    let asked = |bench: &Bench| {
        let held = bench.acquire().unwrap();
        assert_eq!(held.reached, Reached::Quiesced);
        bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
        bench.assert_nothing_left("after quiescing");
        bench.sim.state()["quiesce"].as_str().unwrap().to_owned()
    };
    let spec = asked(&bench);
    for part in [
        "xsi:type=\"VirtualMachineWindowsQuiesceSpec\"",
        "<timeout>7</timeout>",
        "<vssBackupType>5</vssBackupType>",
        "<vssBackupContext>ctx_auto</vssBackupContext>",
    ] {
        assert!(spec.contains(part), "{part}: {spec}");
    }
    // A server that does not know the newer call is asked with the older one.
    bench.sim.fault(&json!({"method": "CreateSnapshotEx_Task", "kind": "fault", "fault": "MethodNotFound"}));
    assert_eq!(asked(&bench), "<quiesce>true</quiesce>");
    bench.sim.reset();
    bench.sim.vm(&json!({"name": VM, "guest": "linuxGuest"}));
    assert_eq!(asked(&bench), "<quiesce>true</quiesce>");
    assert_eq!(bench.sim.calls("CreateSnapshotEx_Task"), 0);
}

#[test]
fn vcsim_moving_is_forbidden_by_one_backup_at_a_time() {
    let Some(bench) = Bench::new(&[]) else { return };
    let vm = bench.with(|orchestrator| {
        let vm = orchestrator.client.find_vms(Find::Name(VM)).unwrap().remove(0).moref;
        orchestrator.client.disable_relocation(&vm, "another product").unwrap();
        vm
    });
    let failure = bench.acquire().err().unwrap();
    assert_eq!(failure.code(), Code::Busy, "{failure:?}");
    let state = bench.sim.state();
    assert_eq!(
        (&state["vms"][VM]["snapshots"], &state["disabled"][&vm.value]),
        (&json!([]), &json!("another product"))
    );
    bench.with(|orchestrator| orchestrator.client.enable_relocation(&vm, "another product").unwrap());
    let held = bench.acquire().unwrap();
    assert_eq!(bench.sim.state()["disabled"][&vm.value], held.journal.lease.holder().as_str());
    bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
    bench.assert_nothing_left("after moving was forbidden");
}

#[test]
fn vcsim_datastores_are_matched_by_what_they_are_and_transports_tried_in_turn() {
    let Some(mut bench) = Bench::new(&[]) else { return };
    let transports = |bench: &mut Bench, list: &[Transport]| {
        bench.config.vcenter.as_mut().unwrap().transports = list.to_vec();
    };
    let way = |bench: &Bench| {
        let held = bench.acquire()?;
        assert!(read(&held).iter().all(|byte| *byte == CONTENT));
        let https = held.plan.server().is_some();
        bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
        bench.assert_nothing_left("after a way was found");
        Ok::<_, Failure>(if https { "https" } else { "file" })
    };
    // No LUN, a folder: the folder.
    transports(&mut bench, &[Transport::San, Transport::File, Transport::Https]);
    assert_eq!(way(&bench).unwrap(), "file");
    // A folder of that name that holds nothing, as when the share is not mounted: the next one.
    let empty = bench.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let real = bench.config.datastores[0].path.replace(empty);
    assert_eq!(way(&bench).unwrap(), "https");
    transports(&mut bench, &[Transport::Https, Transport::File]);
    assert_eq!(way(&bench).unwrap(), "https");
    // Every way is named with its reason when none leads there.
    transports(&mut bench, &[Transport::San, Transport::File]);
    let failure = way(&bench).unwrap_err();
    let text = format!("{failure:?}");
    assert_eq!(failure.code(), Code::DatastoreNotFound);
    assert!(text.contains("san: no [[datastore]]") && text.contains("web.vmdk"), "{text}");
    // A LUN that is not there, though it bears the name.
    bench.config.datastores[0].path = real;
    let lun = vec![bench.dir.path().join("no-such-device")];
    bench.config.datastores.push(DatastoreConfig { name: "elsewhere".into(), lun, ..DatastoreConfig::default() });
    bench.sim.describe(&json!({"name": "LocalDS_0", "vmfs_uuid": "65f00000-12345678-9abc-0123456789ab"}));
    assert_eq!(way(&bench).unwrap(), "file");
    // A host that does not give out the disk: told when the disk is opened, and nothing is left.
    transports(&mut bench, &[Transport::Https]);
    bench.sim.fault(&json!({"method": "folder", "path": "web.vmdk", "kind": "status", "status": 403}));
    let text = format!("{:?}", way(&bench).unwrap_err());
    assert!(text.contains("does not give out this file"), "{text}");
    bench.assert_nothing_left("after a disk that was refused");
    // Faults on the way are overcome.
    for fault in [
        json!({"kind": "status", "status": 503, "count": 2}),
        json!({"kind": "expire", "count": 1}),
        json!({"kind": "cut-body", "count": 1}),
    ] {
        bench.sim.reset();
        let mut rule = fault.clone();
        (rule["method"], rule["path"]) = (json!("folder"), json!("web-flat.vmdk"));
        bench.sim.fault(&rule);
        assert_eq!(way(&bench).unwrap(), "https", "{fault}");
    }
}
