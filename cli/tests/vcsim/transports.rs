//! From the server's names to the storage: LUNs by the volume's UUID, shares by their server, HTTPS.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use vcb_fixtures::{need_tool, skip, vmfs};

use crate::bench::{Bench, HELLO, VM, assert_files, data};

fn mount_and_compare(bench: &Bench, when: &str) {
    let mount = bench.ok("vcbmount", &["mount", "--vm", "name:DC0_H0_VM0"]);
    assert_eq!(bench.sim.snapshots(VM).len(), 1, "{when}");
    assert_files(&mount, when);
    bench.ok("vcbmount", &["umount", &mount]);
    bench.assert_nothing_left(when);
}

#[test]
fn vcsim_a_lun_is_found_by_the_uuid_of_its_volume_and_read() {
    let Some(bench) = Bench::one() else { return };
    if !need_tool("python3") {
        return;
    }
    // The VM's files lie on the LUN alone; the server has a descriptor and a disk full of zeros.
    let vm = bench.path("vms").join(VM);
    let entry = |name: &str| format!(r#"{{"path": "/{VM}/{name}", "host": {:?}}}"#, vm.join(name));
    let manifest = format!(
        r#"{{"version": 6, "label": "san", "extents": 2, "extent_mib": 512, "gpt": true, "entries": [
            {{"path": "/{VM}", "type": "dir"}}, {}, {}]}}"#,
        entry("disk.vmdk"),
        entry("disk-flat.vmdk")
    );
    let Some(volume) = vmfs::make_text(&manifest, bench.dir.path()) else { return };
    let zeros = bench.path("zeros");
    std::fs::write(&zeros, vec![0; usize::try_from(bench.capacity).unwrap()]).unwrap();
    bench.sim.vm(&json!({"name": VM, "files": {"disk-flat.vmdk": zeros}}));
    let uuid = volume_uuid("san");
    bench.sim.describe(&json!({"name": "LocalDS_0", "vmfs_uuid": uuid}));
    let lun = |name: &str, devices: &[PathBuf]| format!("[[datastore]]\nname = {name:?}\nlun = {devices:?}\n");
    bench.configure(&["san"], &lun("what we call it", &volume.devices), "");
    mount_and_compare(&bench, "matched by UUID");
    // The LUN first, although the server could be asked too.
    bench.configure(&["san", "https"], &lun("what we call it", &volume.devices), "");
    mount_and_compare(&bench, "the first of two");
    // A LUN of that name with another volume on it is not it.
    bench.sim.describe(&json!({"name": "LocalDS_0", "vmfs_uuid": "65000000-11111111-2222-005056000000"}));
    bench.configure(&["san"], &lun("LocalDS_0", &volume.devices), "");
    let said = bench.fails(10, &["mount", "--vm", VM]);
    assert!(said.contains("E112") && said.contains(&uuid), "{said}");
    bench.assert_nothing_left("after a LUN with another volume");
}

/// The UUID of the file system that the writer of volumes makes, by the writer's own words.
fn volume_uuid(label: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/vmfs");
    let code = format!("import mkvmfs; print(mkvmfs.uuid_text(mkvmfs.vmfs_uuid('fs' + {label:?})))");
    let output =
        Command::new("python3").args(["-c", &code]).current_dir(folder).env("PYTHONDONTWRITEBYTECODE", "1").output();
    String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn vcsim_a_share_is_found_by_its_server_and_path() {
    let Some(bench) = Bench::one() else { return };
    let at = bench.path("share 1");
    std::fs::create_dir_all(&at).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "nas1.example:/vol/vms"]).arg(&at).output().unwrap();
    if !mounted.status.success() {
        return skip("a test mount needs root");
    }
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = vcb_fixtures::unmount(self.0);
        }
    }
    let unmount = Unmount(&at);
    std::fs::create_dir(at.join(VM)).unwrap();
    for name in ["disk.vmdk", "disk-flat.vmdk"] {
        std::fs::copy(bench.path("vms").join(VM).join(name), at.join(VM).join(name)).unwrap();
    }
    bench.configure(&["file"], &bench.folder_store("nas", &at), "");
    bench.sim.describe(&json!({"name": "LocalDS_0", "nas_host": "nas1.example", "nas_path": "/vol/other"}));
    assert!(bench.fails(10, &["mount", "--vm", VM]).contains("E112"));
    bench.sim.describe(&json!({"name": "LocalDS_0", "nas_host": "nas1.example", "nas_path": "/vol/vms/"}));
    let mount = bench.ok("vcbmount", &["mount", "--vm", VM]);
    assert_files(&mount, "through the share");
    bench.ok("vcbmount", &["umount", &mount]);
    drop(unmount);
    bench.assert_nothing_left("after the share");
}

#[test]
fn vcsim_disks_are_read_through_the_server_whatever_it_does() {
    for (model, vm) in [(&[][..], VM), (&["-esx"], "ha-host_VM0")] {
        let Some(bench) = Bench::new(model, &[vm]) else { return };
        bench.configure(&["https"], "", "");
        let at = bench.path("m");
        let at = at.to_str().unwrap();
        bench.sim.fault(&json!({"method": "folder", "kind": "slow", "millis": 5}));
        bench.ok("vcbmount", &["mount", "--vm", vm, "--mode", "fullvm", "--at", at]);
        let image = std::fs::read_dir(at).unwrap().flatten().map(|entry| entry.path());
        let image = image.into_iter().find(|path| path.to_str().unwrap().ends_with("-flat.vmdk")).unwrap();
        // Each answer may be lost, refused, late or cut off: the bytes are right, or there are none.
        for fault in [
            json!({"kind": "status", "status": 503, "count": 2}),
            json!({"kind": "expire", "count": 1}),
            json!({"kind": "drop", "count": 1}),
            json!({"kind": "cut-body", "count": 1}),
            json!({"kind": "slow-body", "millis": 50, "count": 2}),
        ] {
            let mut rule = fault;
            rule["method"] = json!("folder");
            bench.sim.fault(&rule);
        }
        // Everybody is thrown out between mounting and reading.
        bench.sim.expire();
        let frozen = std::fs::read(bench.path(&format!("vms/{vm}/disk-flat.vmdk"))).unwrap();
        assert!(std::fs::read(&image).unwrap() == frozen, "the image is the disk, byte by byte");
        let peak = bench.sim.peak("folder");
        assert!((1..=4).contains(&peak), "{peak} requests at once");
        bench.sim.reset();
        bench.ok("vcbmount", &["umount", at]);
        bench.assert_nothing_left("after reading through the server");
        // A host that gives out the descriptor, and not what is written to: told before the backup begins.
        for status in [403, 500] {
            bench.sim.fault(&json!({"method": "folder", "path": "*-flat.vmdk", "kind": "status", "status": status}));
            let said = bench.fails(11, &["mount", "--vm", vm]);
            assert!(said.contains("E121") && said.contains("does not give out this file"), "{said}");
            bench.sim.reset();
            bench.assert_nothing_left("after a disk that is not given out");
        }
    }
}

#[test]
fn vcsim_transports_are_tried_in_their_order() {
    let Some(bench) = Bench::one() else { return };
    let empty = bench.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let no_lun = format!("[[datastore]]\nname = \"gone\"\nlun = [{:?}]\n", bench.path("no-such-device"));
    let stores = no_lun + &bench.folder_store("LocalDS_0", &empty);
    bench.sim.describe(&json!({"name": "LocalDS_0", "vmfs_uuid": "65000000-11111111-2222-005056000000"}));
    bench.configure(&["san", "file", "https"], &stores, "");
    bench.sim.reset();
    mount_and_compare(&bench, "through the last of three");
    assert!(bench.sim.calls("folder") > 0);
    bench.configure(&["san", "file"], &stores, "");
    let said = bench.fails(10, &["mount", "--vm", VM]);
    assert!(said.contains("san: ") && said.contains("file: "), "{said}");
    bench.assert_nothing_left("when no way leads there");
    let real = bench.folder_store("LocalDS_0", &bench.sim.datastore("LocalDS_0"));
    bench.configure(&["san", "file", "https"], &real, "");
    bench.sim.reset();
    mount_and_compare(&bench, "through the second of three");
    assert_eq!(bench.sim.calls("folder"), 0, "{} {}", HELLO.len(), data(0).len());
}
