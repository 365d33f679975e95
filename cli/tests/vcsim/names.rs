//! Naming a VM in every way, and what is said of it.

use serde_json::{Value, json};

use crate::bench::{Bench, VM, assert_files};

#[test]
fn vcsim_a_vm_is_mounted_by_each_of_its_names() {
    for (model, vm) in [(&[][..], VM), (&["-esx"], "ha-host_VM0")] {
        let Some(bench) = Bench::new(model, &[vm]) else { return };
        let lines = bench.ok("vcbmount", &["list", &format!("name:{vm}")]);
        let specs: Vec<&str> = lines.lines().filter(|line| !line.starts_with("path:")).collect();
        let kinds: Vec<&str> = specs.iter().map(|spec| spec.split(':').next().unwrap()).collect();
        assert_eq!(kinds, ["moref", "name", "uuid", "ipaddr"], "{lines}");
        let any = format!("any:{vm}");
        for spec in specs.into_iter().chain([any.as_str(), "ipaddr:10.0.0.1", vm]) {
            let mount = bench.ok("vcbmount", &["mount", "--vm", spec, "--mode", "file"]);
            assert_eq!(bench.sim.snapshots(vm).len(), 1, "{spec}");
            assert_files(&mount, spec);
            bench.ok("vcbmount", &["umount", &mount]);
            bench.assert_nothing_left(spec);
            bench.ok("vcbmount", &["umount", &mount]);
        }
        let at = bench.path("image");
        let text =
            bench.ok("vcbmount", &["--json", "mount", "--vm", vm, "--mode", "fullvm", "--at", at.to_str().unwrap()]);
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&told["consistency"], &told["vm"]["name"]), (&json!("quiesced"), &json!(vm)));
        let names: Vec<String> =
            std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().any(|name| name.ends_with(".vmx")), "{names:?}");
        let image = names.iter().find(|name| name.ends_with("-flat.vmdk")).unwrap();
        let frozen = std::fs::read(bench.path(&format!("vms/{vm}/disk-flat.vmdk"))).unwrap();
        assert!(std::fs::read(at.join(image)).unwrap() == frozen, "the image is the disk, byte by byte");
        bench.ok("vcbmount", &["umount", at.to_str().unwrap()]);
        for (spec, code) in [("name:none", 10), ("any:", 10), ("nonsense:x", 2)] {
            bench.fails(code, &["mount", "--vm", spec]);
        }
        bench.assert_nothing_left("at the end");
    }
}

#[test]
fn vcsim_what_cannot_be_backed_up_is_named_with_its_reasons() {
    let Some(bench) = Bench::one() else { return };
    bench.sim.vm(&json!({"name": VM, "disks": [
        {"file": "disk.vmdk", "capacity": bench.capacity},
        {"file": "scratch.vmdk", "capacity": 1 << 20, "kind": "independent"},
        {"file": "raw.vmdk", "capacity": 1 << 20, "kind": "prdm"},
    ]}));
    let output = bench.run("vcbmount", &["list", VM]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("scsi0:1") && said.contains("independent") && said.contains("physical raw"), "{said}");
    let listed: Value = serde_json::from_str(&bench.ok("vcbmount", &["--json", "list", VM])).unwrap();
    assert_eq!(listed["refusals"].as_array().unwrap().len(), 2, "{listed}");
    let said = bench.fails(4, &["mount", "--vm", VM]);
    assert!(said.contains("scsi0:1") && said.contains("scsi0:2"), "{said}");
    // Without those disks it can be.
    let mount = bench.ok("vcbmount", &["mount", "--vm", VM, "--disk", "scsi0:0"]);
    assert_files(&mount, "one disk of three");
    bench.ok("vcbmount", &["umount", &mount]);
    bench.fails(2, &["mount", "--vm", VM, "--disk", "scsi0:9"]);
    bench.assert_nothing_left("at the end");
}

#[test]
fn vcsim_changed_areas_are_printed_to_the_end_or_not_at_all() {
    let Some(bench) = Bench::one() else { return };
    let mount = bench.ok("vcbmount", &["mount", "--vm", VM]);
    let changed = |broken: &str| {
        let areas = json!([[65536, 131_072], [1 << 20, 1 << 20], [bench.capacity - 512, 512]]);
        bench.sim.changed(&json!({"vm": VM, "key": 2000, "areas": areas, "page": 300_000, "broken": broken}));
        bench.run("vcbmount", &["changed", &mount, "--since", "52 aa/1"])
    };
    let output = changed("");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let end = bench.capacity - 512;
    assert_eq!(told["areas"], json!([[65536, 131_072], [1 << 20, 1 << 20], [end, 512]]));
    assert_eq!((&told["disk"], &told["capacity"]), (&json!("scsi0:0"), &json!(bench.capacity)));
    assert!(told["change_id"].as_str().unwrap().contains("/0"), "of the snapshot, not of the running VM: {told}");
    for broken in ["stuck", "gap"] {
        let output = changed(broken);
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{broken}");
    }
    bench.ok("vcbmount", &["umount", &mount]);
    bench.assert_nothing_left("at the end");
}
