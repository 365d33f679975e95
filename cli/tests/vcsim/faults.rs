//! Whatever is killed and whatever request fails: nothing stays behind, and no secret shows.
//!
//! `VCB_TORTURE=1` goes through every point and every request; without it some are left out.

use std::os::unix::process::ExitStatusExt;
use std::process::Output;

use serde_json::json;

use crate::bench::{Bench, VM, assert_files};

fn thorough() -> bool {
    std::env::var_os("VCB_TORTURE").is_some()
}

/// Runs `command` with `variable` = 1, 2, … as far as it is killed, cleans up after each, and gives how often it
/// was killed. `committed` is asked about runs that were killed: where it says yes the work was done.
fn sweep(bench: &Bench, variable: &str, command: &[&str], mut committed: impl FnMut(&str) -> bool) -> (usize, usize) {
    let step = if thorough() { 1 } else { 9 };
    let trace = bench.path("trace");
    let (mut killed, mut snapshots) = (0, 0);
    for number in (1..).step_by(step) {
        bench.sim.reset();
        let _ = std::fs::remove_file(&trace);
        let output = bench
            .command("vcbmount")
            .args(command)
            .env(variable, number.to_string())
            .env("VCB_FAULT_TRACE", &trace)
            .output()
            .unwrap();
        let passed = std::fs::read_to_string(&trace).unwrap_or_default();
        let server = passed.lines().filter(|line| line.starts_with("server: ")).count();
        let own = passed.lines().count() - server;
        let at = passed.lines().last().unwrap_or("the start").to_owned();
        let when = format!("{command:?} killed by {variable}={number} {at}");
        if variable == "VCB_FAULT_POINT" {
            if own < number {
                assert!(output.status.success(), "{when}: {}", String::from_utf8_lossy(&output.stderr));
                committed("the end");
                break;
            }
            assert_eq!(output.status.signal(), Some(9), "{when}");
        } else if server < number {
            committed("the end");
            break;
        }
        killed += 1;
        snapshots += bench.sim.snapshots(VM).len();
        if committed(&at) {
            continue;
        }
        bench.ok("vcbmount", &["cleanup"]);
        bench.assert_nothing_left(&when);
    }
    (killed, snapshots)
}

#[test]
fn vcsim_a_killed_mount_leaves_nothing_after_cleanup() {
    let Some(bench) = Bench::one() else { return };
    let at = bench.path("m");
    let at = at.to_str().unwrap();
    // The last thing a mount does is to note that it is to stay: then it stays.
    let (killed, snapshots) = sweep(&bench, "VCB_FAULT_POINT", &["mount", "--vm", VM, "--at", at], |point| {
        let stays = point == "after journal Mounted" || point == "the end";
        if stays {
            assert_files(at, point);
            bench.ok("vcbmount", &["cleanup"]);
            assert_files(at, point);
            bench.ok("vcbmount", &["umount", at]);
            bench.assert_nothing_left(point);
        }
        stays
    });
    println!("mount: killed at {killed} points, {snapshots} snapshots left and all removed");
    assert!(killed > 3 && snapshots > 1, "{killed} {snapshots}");
}

#[test]
fn vcsim_a_killed_run_leaves_nothing_after_cleanup() {
    let Some(bench) = Bench::one() else { return };
    let (killed, snapshots) = sweep(&bench, "VCB_FAULT_POINT", &["run", "--vm", VM, "--", "true"], |_| false);
    println!("run: killed at {killed} points, {snapshots} snapshots left and all removed");
    assert!(killed > 5 && snapshots > 1, "{killed} {snapshots}");
    bench.assert_nothing_left("at the end");
    // And while its command is at work, which the next backup finds out as well as `cleanup`.
    for then in [&["cleanup"][..], &["run", "--vm", VM, "--", "true"]] {
        let ready = bench.path("ready");
        let script = format!("touch '{}'; exec sleep 60", ready.display());
        let mut child = bench.command("vcbmount").args(["run", "--vm", VM, "--", "sh", "-c", &script]).spawn().unwrap();
        while !ready.exists() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        bench.ok("vcbmount", &["cleanup"]);
        assert_eq!(bench.sim.snapshots(VM).len(), 1, "it is at work");
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_file(ready).unwrap();
        bench.ok("vcbmount", then);
        bench.assert_nothing_left(&format!("killed while its command ran, then {then:?}"));
    }
}

#[test]
fn vcsim_a_killed_umount_leaves_nothing_after_cleanup() {
    let Some(bench) = Bench::one() else { return };
    let at = bench.path("m");
    let at = at.to_str().unwrap();
    let step = if thorough() { 1 } else { 9 };
    let mut killed = 0;
    for number in (1..).step_by(step) {
        bench.sim.reset();
        bench.ok("vcbmount", &["mount", "--vm", VM, "--at", at]);
        let output = bench.command("vcbmount").args(["umount", at]).env("VCB_FAULT_POINT", number.to_string()).output();
        let was_killed = output.unwrap().status.signal() == Some(9);
        killed += usize::from(was_killed);
        bench.ok("vcbmount", &["cleanup"]);
        // Where it was killed before it had unmounted, the mount is still somebody's.
        bench.ok("vcbmount", &["umount", at]);
        bench.assert_nothing_left(&format!("umount killed at point {number}"));
        if !was_killed {
            break;
        }
    }
    println!("umount: killed at {killed} points");
    assert!(killed > 2, "{killed}");
}

#[test]
fn vcsim_a_killed_server_of_a_mount_leaves_nothing_after_cleanup() {
    let Some(bench) = Bench::one() else { return };
    let store = bench.folder_store("LocalDS_0", &bench.sim.datastore("LocalDS_0"));
    for transport in ["file", "https"] {
        bench.configure(&[transport], &store, "");
        let (killed, _) = sweep(&bench, "VCB_FAULT_SERVER", &["run", "--vm", VM, "--", "true"], |_| false);
        println!("server of a mount over {transport}: killed at {killed} points");
        assert!(killed > 0, "{killed}");
        bench.assert_nothing_left(transport);
        // The server, and its watcher before it, while the mount is in use.
        let mount = bench.ok("vcbmount", &["mount", "--vm", VM]);
        for word in ["__watch", "__serve"] {
            kill_background(&bench, word);
        }
        bench.ok("vcbmount", &["cleanup"]);
        bench.assert_nothing_left("both killed");
        bench.ok("vcbmount", &["umount", &mount]);
    }
}

/// Kills the processes of this test's mounts whose arguments end in `word`.
fn kill_background(bench: &Bench, word: &str) {
    let state = format!("VCBMOUNT_STATE={}", bench.path("state").display());
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let (args, environment) = (read("cmdline"), read("environ"));
        let last = args.split(|byte| *byte == 0).rfind(|arg| !arg.is_empty());
        if last == Some(word.as_bytes()) && environment.split(|byte| *byte == 0).any(|entry| entry == state.as_bytes())
        {
            assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        }
    }
}

#[test]
fn vcsim_whatever_request_of_a_run_fails_nothing_stays_behind() {
    let Some(bench) = Bench::one() else { return };
    bench.configure(&["https"], "", "hold_relocation = true\n");
    let run = || -> Output { bench.run("vcbmount", &["run", "--vm", VM, "--", "true"]) };
    bench.sim.reset();
    assert!(run().status.success());
    let requests = bench.sim.state()["requests"].as_array().unwrap().len();
    let kinds = [
        (json!({"kind": "status", "status": 503}), &[0, 1][..]),
        (json!({"kind": "drop"}), &[0, 1]),
        (json!({"kind": "drop-after"}), &[0, 1]),
        (json!({"kind": "expire"}), &[0, 1]),
        (json!({"kind": "cut-body"}), &[0, 1]),
        (json!({"kind": "slow-body", "millis": 100}), &[0]),
        // Of a read: the volume is named as unreadable, and the rest is done.
        (json!({"kind": "garbage"}), &[0, 1, 3, 10]),
        (json!({"kind": "fault", "fault": "HostCommunication"}), &[0, 1, 3, 10]),
        (json!({"kind": "fault", "fault": "NoPermission"}), &[0, 1, 3, 10, 12]),
        (json!({"kind": "task-fail", "fault": "FileLocked"}), &[0, 11]),
    ];
    let (mut succeeded, mut failed) = (0, 0);
    for number in 0..requests {
        for (index, (kind, allowed)) in kinds.iter().enumerate() {
            if !thorough() && (number * 3 + index) % 31 != 0 {
                continue;
            }
            let mut rule = kind.clone();
            // A task that fails is an answer to calls that start one; to others it would be a lie.
            let method = if kind["kind"] == "task-fail" { "*_Task" } else { "*" };
            (rule["method"], rule["skip"], rule["count"]) = (json!(method), json!(number), json!(1));
            bench.sim.reset();
            bench.sim.fault(&rule);
            let output = run();
            let when = format!("request {number}: {kind}");
            bench.sim.reset();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let code = output.status.code().unwrap();
            assert!(allowed.contains(&code), "{when}: exit {code}: {text}");
            if code == 0 {
                succeeded += 1;
            } else {
                let named = if code == 3 { "vcbmount: unreadable: " } else { "vcbmount: E" };
                assert!(text.contains(named), "{when}: {text}");
                failed += 1;
            }
            // A logout that got no answer: the session is still there, and its process is not.
            bench.ok("vcbmount", &["cleanup"]);
            bench.assert_nothing_left(&when);
        }
    }
    println!("{requests} requests of a run: {succeeded} succeeded in spite of a fault, {failed} failed cleanly");
    assert!(succeeded > 0 && failed > 0);
}

#[test]
fn vcsim_secrets_show_nowhere() {
    // A password that is in the arguments of no test and of no simulator.
    let Some(bench) = Bench::new(&["-password", "random"], &[VM]) else { return };
    for transport in ["file", "https"] {
        let store = bench.folder_store("LocalDS_0", &bench.sim.datastore("LocalDS_0"));
        bench.configure(&[transport], &store, "");
        let hook = bench.path("hooks.d/pre-backup/env");
        std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
        std::fs::write(&hook, "#!/bin/sh\nenv\n").unwrap();
        std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        // The password comes from the environment: from there it must go nowhere.
        let config = std::fs::read_to_string(bench.path("config/vcbmount/config.toml")).unwrap();
        let config: Vec<&str> = config.lines().filter(|line| !line.starts_with("password_file")).collect();
        bench.write_config(&config.join("\n"));
        for (level, format) in [("-q", "text"), ("-v", "text"), ("-vv", "json"), ("-vvv", "text"), ("-vvv", "json")] {
            let log = bench.path("log");
            // In a file, so that only those processes have these words in their arguments that are meant.
            let script = bench.path("look.sh");
            let text = "env\ncat /proc/[0-9]*/cmdline | tr '\\0' ' '\ngrep -r . \"$VCBMOUNT_STATE\"\n\
                        for p in /proc/[0-9]*; do case $(tr '\\0' ' ' < $p/cmdline) in\n\
                        *__serve*|*__watch*) tr '\\0' '\\n' < $p/environ;; esac; done\ntrue\n";
            std::fs::write(&script, text).unwrap();
            let output = bench
                .command("vcbmount")
                .args([level, "--log-format", format, "--log-file", log.to_str().unwrap()])
                .args(["run", "--vm", VM, "--", "sh", script.to_str().unwrap()])
                .env("VCBMOUNT_PASSWORD", bench.sim.password())
                .output()
                .unwrap();
            let mut all = String::from_utf8_lossy(&output.stdout).into_owned();
            all.push_str(&String::from_utf8_lossy(&output.stderr));
            all.push_str(&std::fs::read_to_string(&log).unwrap());
            assert!(output.status.success(), "{all}");
            assert!(
                all.contains("snapshot_name") && all.contains("__serve"),
                "the journal and the processes were seen"
            );
            if level == "-vvv" {
                assert!(
                    all.contains("CreateSnapshot") && all.contains("VCB_EVENT=pre-backup"),
                    "the log is a full one"
                );
            }
            assert!(!all.contains(bench.sim.password()), "{transport} {level}: the password shows");
            assert!(!all.contains("vmware_soap_session"), "{transport} {level}: the cookie shows");
            std::fs::remove_file(&log).unwrap();
        }
        bench.assert_nothing_left(transport);
    }
}
