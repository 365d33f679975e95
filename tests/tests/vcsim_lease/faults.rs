//! Whatever dies or fails, `cleanup` puts it right.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use vcb_mountd::Code;
use vcb_mountd::config::Config;
use vcb_mountd::orchestrate::{Cleaned, Journal, Step};

use crate::bench::{Bench, VM, name, options, with};

#[test]
fn vcsim_a_lost_answer_is_looked_up_before_anything_is_asked_again() {
    let Some(bench) = Bench::new(&[]) else { return };
    for (kind, asked) in [("drop-after", 1), ("drop", 2)] {
        bench.sim.reset();
        bench.sim.fault(&json!({"method": "CreateSnapshotEx_Task", "count": 1, "kind": kind}));
        let held = bench.acquire().unwrap();
        assert_eq!(bench.sim.calls("CreateSnapshotEx_Task"), asked, "{kind}");
        assert_eq!(bench.sim.snapshots(VM), [held.journal.lease.snapshot_name.as_str()], "{kind}");
        let seen = bench.sim.state()["requests"].as_array().unwrap().clone();
        let first = seen.iter().position(|method| method == "CreateSnapshotEx_Task").unwrap();
        assert_eq!(seen[first + 1], "RetrievePropertiesEx", "{kind}: the VM is looked at next");
        bench.with(|orchestrator| orchestrator.release(held.journal)).unwrap();
        bench.assert_nothing_left(kind);
    }
}

#[test]
fn vcsim_a_lease_outlives_the_session_it_was_taken_in() {
    let Some(bench) = Bench::new(&[]) else { return };
    bench.with(|orchestrator| {
        let held = orchestrator.acquire(&name(), &options()).unwrap();
        bench.sim.expire();
        assert!(bench.sim.sessions().is_empty());
        orchestrator.release(held.journal).unwrap();
        assert_eq!(bench.sim.calls("Login"), 2);
    });
    bench.assert_nothing_left("after a session that ended in between");
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
        held.journal.step(Step::Mounted, |_| {}).unwrap();
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
        command.args(["faults::vcsim_worker", "--exact", "--nocapture"]).env("VCB_TEST_JOB", bench.dir.path());
        match kill_at {
            Some(number) => command.env("VCB_FAULT_POINT", number.to_string()),
            None => command.env("VCB_FAULT_TRACE", &trace),
        };
        command.output().unwrap()
    };
    let whole = run(None);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let points: Vec<String> = std::fs::read_to_string(&trace).unwrap().lines().map(str::to_owned).collect();
    for call in ["Login", "CreateSnapshotEx_Task", "RemoveSnapshot_Task", "DisableMethods", "EnableMethods", "Logout"] {
        for when in ["before", "after"] {
            assert!(points.contains(&format!("{when} {call}")), "{when} {call}: {points:?}");
        }
    }
    bench.assert_nothing_left("after the whole run");
    let (mut killed, mut snapshots, mut held) = (0, 0, 0);
    let step = if std::env::var_os("VCB_TORTURE").is_some() { 1 } else { 4 };
    // How often a task is looked at differs from run to run, so the end is where nothing was killed.
    for number in (1..).step_by(step) {
        bench.sim.reset();
        let run = run(Some(number));
        if run.status.success() {
            break;
        }
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(run.status.signal(), Some(9), "{}", String::from_utf8_lossy(&run.stderr));
        killed += 1;
        let state = bench.sim.state();
        snapshots += state["vms"][VM]["snapshots"].as_array().unwrap().len();
        held += state["disabled"].as_object().unwrap().len();
        for cleaned in bench.cleanup() {
            assert_eq!(cleaned, Cleaned::Released, "killed at point {number}");
        }
        bench.assert_nothing_left(&format!("killed at point {number}"));
    }
    println!("killed at {killed} of {} points: {snapshots} snapshots and {held} holds left, all removed", points.len());
    assert!(killed >= points.len() / step - 4 && snapshots > 2 && held > 2, "{killed} {snapshots} {held}");
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
    let mut codes = std::collections::BTreeMap::<u16, usize>::new();
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
                    let expected = match kind["fault"].as_str() {
                        _ if failure.code() == Code::LeftBehind => Code::LeftBehind,
                        Some("NoPermission") if failure.what().starts_with("cannot log in") => Code::Login,
                        Some("NoPermission") => Code::Privilege,
                        _ if failure.code() == Code::Unreachable => Code::Unreachable,
                        _ => Code::Server,
                    };
                    assert_eq!(failure.code(), expected, "{when}: {failure:?}");
                    *codes.entry(failure.code().number()).or_default() += 1;
                    failed += 1;
                }
            }
            for cleaned in bench.cleanup() {
                assert_eq!(cleaned, Cleaned::Released, "{when}");
            }
            bench.assert_nothing_left(&when);
        }
    }
    println!("{requests} requests: {succeeded} runs succeeded in spite of a fault, {failed} failed cleanly: {codes:?}");
    assert!(succeeded > 0 && failed > 0);
}
