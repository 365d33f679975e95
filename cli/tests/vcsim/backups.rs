//! `run`, for one VM and for many; hooks; limits; sessions that end in the middle.

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use serde_json::json;

use crate::bench::{Bench, HELLO, VM, data};

#[test]
fn vcsim_many_vms_are_backed_up_at_once() {
    let vms: Vec<String> = (0..20).map(|index| format!("DC0_H0_VM{index}")).collect();
    let names: Vec<&str> = vms.iter().map(String::as_str).collect();
    let Some(bench) = Bench::new(&["-vms", "20"], &names) else { return };
    let out = bench.path("backups");
    std::fs::create_dir(&out).unwrap();
    let script = format!("cp -r \"$VCB_MOUNT/digits/1\" '{}'/\"$VCB_VM_NAME\"", out.display());
    let started = Instant::now();
    let output = bench.run("vcbmount", &["run", "--vm", "powerstate:on", "--jobs", "4", "--", "sh", "-c", &script]);
    let took = started.elapsed();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(text.lines().filter(|line| line.starts_with("done")).count(), 20, "{text}");
    assert!(said.contains("20 of 20 VMs done"), "{said}");
    for (index, vm) in vms.iter().enumerate() {
        assert_eq!(std::fs::read_to_string(out.join(vm).join("hello.txt")).unwrap(), HELLO, "{vm}");
        assert!(std::fs::read(out.join(vm).join("data.bin")).unwrap() == data(index), "{vm} has its own data");
    }
    bench.assert_nothing_left("after 20 VMs");
    let started = Instant::now();
    bench.ok("vcbmount", &["run", "--vm", "powerstate:on", "--jobs", "4", "--", "true"]);
    let (bare, took) = (started.elapsed().as_millis() / 20, took.as_millis() / 20);
    println!("20 VMs, 4 at a time: {bare} ms per VM without a backup, {took} ms with copying");
    bench.sim.vm(&json!({"name": VM, "template": true}));
    let some = bench.run("vcbmount", &["run", "--vm", "any:", "--jobs", "4", "--", "true"]);
    let text = String::from_utf8(some.stdout).unwrap();
    assert_eq!(some.status.code(), Some(3), "{}", String::from_utf8_lossy(&some.stderr));
    assert!(text.lines().any(|line| line.starts_with("FAILED") && line.contains(VM)), "{text}");
    assert_eq!(
        bench.run("vcbmount", &["run", "--vm", "DC0_H0_VM1", "--", "sh", "-c", "exit 7"]).status.code(),
        Some(7)
    );
    bench.assert_nothing_left("after failures");
}

#[test]
fn vcsim_no_more_snapshots_are_made_at_once_than_configured() {
    let vms = ["DC0_H0_VM0", "DC0_H0_VM1", "DC0_H0_VM2", "DC0_H0_VM3"];
    let Some(bench) = Bench::new(&["-vms", "4"], &vms) else { return };
    let store = bench.folder_store("LocalDS_0", &bench.sim.datastore("LocalDS_0"));
    let peak = |limits: &str| {
        bench.configure(&["file"], &store, "");
        let config = std::fs::read_to_string(bench.path("config/vcbmount/config.toml")).unwrap();
        bench.write_config(&format!("{config}[snapshot]\n{limits}"));
        bench.sim.reset();
        for method in ["CreateSnapshotEx_Task", "RemoveSnapshot_Task"] {
            bench.sim.fault(&json!({"method": method, "kind": "slow", "millis": 400}));
        }
        bench.ok("vcbmount", &["run", "--vm", "any:", "--jobs", "4", "--", "true"]);
        bench.assert_nothing_left(limits);
        (bench.sim.peak("CreateSnapshotEx_Task"), bench.sim.peak("RemoveSnapshot_Task"))
    };
    assert_eq!(peak("per_datastore = 1\n"), (1, 1));
    assert_eq!(peak("per_host = 1\n"), (1, 1));
    let (made, removed) = peak("per_datastore = 2\nper_host = 3\n");
    assert!(made <= 2 && removed <= 2, "{made} {removed}");
    assert!(peak("").0 > 1, "without limits they overlap");
}

/// Writes hooks that note what they are told; the last line of each is `then`.
fn hooks(bench: &Bench, events: &[&str], then: &str) {
    for event in events {
        let file = bench.path(&format!("hooks.d/{event}/note"));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let log = bench.path("hooks.log");
        let script = format!(
            "#!/bin/sh\necho \"$VCB_EVENT|$VCB_VM_NAME|$VCB_SNAPSHOT|$VCB_MOUNT|$VCB_ERROR\" >> '{}'\n{then}\n",
            log.display()
        );
        std::fs::write(&file, script).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn noted(bench: &Bench) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(bench.path("hooks.log")).unwrap_or_default();
    let _ = std::fs::remove_file(bench.path("hooks.log"));
    text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

#[test]
fn vcsim_hooks_run_at_their_time_and_are_told_of_failures() {
    let Some(bench) = Bench::one() else { return };
    let all = ["pre-snapshot", "post-snapshot", "pre-backup", "post-backup", "failure"];
    hooks(&bench, &all, "");
    bench.ok("vcbmount", &["run", "--vm", VM, "--", "true"]);
    let seen = noted(&bench);
    let events: Vec<&str> = seen.iter().map(|line| line[0].as_str()).collect();
    assert_eq!(events, all[..4]);
    assert!(seen.iter().all(|line| line[1] == VM), "{seen:?}");
    assert!(seen[..3].iter().all(|line| line[2].starts_with("vcbmount-")), "{seen:?}");
    assert!(seen[0][3].is_empty() && seen[2][3].starts_with(bench.path("mnt").to_str().unwrap()), "{seen:?}");
    // The command fails: the backup is still ended in order.
    assert_eq!(bench.run("vcbmount", &["run", "--vm", VM, "--", "false"]).status.code(), Some(1));
    let seen = noted(&bench);
    let events: Vec<&str> = seen.iter().map(|line| line[0].as_str()).collect();
    assert_eq!(events, ["pre-snapshot", "post-snapshot", "pre-backup", "failure", "post-backup"]);
    assert!(seen[3][4].contains("the command failed"), "{seen:?}");
    bench.assert_nothing_left("after a command that failed");
    // Hooks that fail before something stop it, and nothing stays.
    for event in ["pre-snapshot", "pre-backup"] {
        hooks(&bench, &all, "");
        hooks(&bench, &[event], "exit 1");
        assert!(bench.fails(1, &["mount", "--vm", VM]).contains("E145"), "{event}");
        let seen = noted(&bench);
        let last = seen.last().unwrap();
        assert!(last[0] == "failure" && last[4].contains(event), "{seen:?}");
        bench.assert_nothing_left(event);
    }
    hooks(&bench, &all, "");
    hooks(&bench, &["post-backup"], "exit 1");
    let mount = bench.ok("vcbmount", &["mount", "--vm", VM]);
    bench.ok("vcbmount", &["umount", &mount]);
    bench.assert_nothing_left("after a hook that may fail");
}

#[test]
fn vcsim_a_backup_may_outlast_its_session_at_the_server() {
    let Some(bench) = Bench::one() else { return };
    // Long held, with a session that ends while nothing is asked for.
    bench.sim.idle(800);
    let script = "sleep 2; cat \"$VCB_MOUNT/digits/1/hello.txt\"";
    let text = bench.ok("vcbmount", &["run", "--vm", VM, "--", "sh", "-c", script]);
    assert_eq!(text, HELLO.trim_end());
    assert!(bench.sim.calls("Login") >= 2);
    bench.sim.idle(0);
    bench.assert_nothing_left("after a long backup");
    // The server is started again under a mount.
    let mount = bench.ok("vcbmount", &["mount", "--vm", VM]);
    bench.sim.expire();
    bench.ok("vcbmount", &["umount", &mount]);
    bench.assert_nothing_left("after a restart of the server");
}
