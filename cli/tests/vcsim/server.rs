//! Trusting a server, and what `doctor` finds about it.

use serde_json::Value;

use crate::bench::{Bench, VM};

#[test]
fn vcsim_a_certificate_is_trusted_when_a_person_says_so_and_no_other_is() {
    let Some(bench) = Bench::one() else { return };
    let host = bench.sim.host();
    let vcenter = format!(
        "[vcenter]\nhost = {host:?}\nusername = {:?}\npassword_file = {:?}\n",
        bench.sim.user(),
        bench.path("password")
    );
    bench.write_config(&(vcenter + &bench.rest("")));
    assert!(bench.fails(12, &["list"]).contains("E133"));
    // Shown to nobody who could say yes: not trusted.
    let shown = bench.run("vcbmount", &["trust", host]);
    let said = String::from_utf8(shown.stderr).unwrap();
    assert_eq!(shown.status.code(), Some(12), "{said}");
    assert!(said.contains("subject      CN=127.0.0.1") && said.contains("valid        20"), "{said}");
    let fingerprint = String::from_utf8(shown.stdout).unwrap().trim().to_owned();
    assert_eq!(fingerprint.replace(':', "").to_lowercase(), bench.sim.fingerprint());
    assert!(bench.fails(12, &["list"]).contains("E133"));
    let wrong = fingerprint.replace(&fingerprint[..2], if &fingerprint[..2] == "00" { "11" } else { "00" });
    assert!(bench.fails(12, &["trust", host, "--expect", &wrong]).contains("another certificate than expected"));
    assert!(bench.fails(12, &["list"]).contains("E133"));

    let told: Value =
        serde_json::from_str(&bench.ok("vcbmount", &["--json", "trust", host, "--expect", &fingerprint])).unwrap();
    assert_eq!((&told["trusted"], &told["sha256"]), (&Value::Bool(true), &Value::from(fingerprint.as_str())));
    assert!(bench.ok("vcbmount", &["list"]).contains(VM));
    // Known by now: nothing is asked.
    bench.ok("vcbmount", &["trust", host]);

    // The server has another certificate than the one that was accepted.
    let file = bench.path("state/trusted.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&fingerprint, &wrong)).unwrap();
    let said = bench.fails(12, &["list"]);
    assert!(said.contains("E133") && said.contains("not the pinned one") && said.contains(&fingerprint), "{said}");
    assert!(bench.fails(12, &["trust", host]).contains("until now another certificate was trusted"));
    assert!(bench.fails(12, &["list"]).contains("E133"));
    bench.ok("vcbmount", &["trust", host, "--yes"]);
    assert!(bench.ok("vcbmount", &["list"]).contains(VM));
    // What the configuration says goes before it.
    bench.configure(&["file"], "", "");
    std::fs::write(&file, text.replace(&fingerprint, &wrong)).unwrap();
    assert!(bench.ok("vcbmount", &["list"]).contains(VM));
    std::fs::write(&file, "no TOML").unwrap();
    assert!(bench.ok("vcbmount", &["list"]).contains(VM));
    bench.assert_nothing_left("at the end");
}

#[test]
fn vcsim_doctor_names_what_is_missing() {
    let Some(bench) = Bench::one() else { return };
    let look = |code: i32| {
        let output = bench.run("vcbmount", &["doctor"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        text
    };
    let store = bench.folder_store("LocalDS_0", &bench.sim.datastore("LocalDS_0"));
    bench.configure(&["file", "https"], &store, "hold_relocation = true\n");
    let text = look(0);
    for good in ["logged in to", "clocks of", "has the privileges", "datastore LocalDS_0", "configuration: "] {
        assert!(text.lines().any(|line| line.starts_with("ok ") && line.contains(good)), "{good}: {text}");
    }
    bench.sim.deny(&[
        "VirtualMachine.State.RemoveSnapshot",
        "Datastore.FileManagement",
        "Global.DisableMethods",
        "Sessions.TerminateSession",
    ]);
    bench.sim.clock(-4000);
    let text = look(1);
    for (word, parts) in [
        ("BAD", ["lacks VirtualMachine.State.RemoveSnapshot", "on DC0_H0_VM0, DC0_H0_VM1"]),
        ("BAD", ["lacks Datastore.FileManagement", "on LocalDS_0"]),
        ("BAD", ["lacks Global.DisableMethods", "the root folder"]),
        ("limited", ["lacks Sessions.TerminateSession", "the root folder"]),
        ("limited", ["the clock of", "s behind this host's"]),
    ] {
        let line = text.lines().find(|line| line.contains(parts[0])).unwrap_or_else(|| panic!("{parts:?}: {text}"));
        assert!(line.starts_with(word) && line.contains(parts[1]), "{line}");
    }
    assert!(!text.contains("CreateSnapshot"), "{text}");
    // What is not configured needs no privilege.
    bench.sim.deny(&["Datastore.FileManagement", "Global.DisableMethods"]);
    bench.sim.clock(0);
    bench.configure(&["file"], &store, "");
    assert!(!look(0).contains("lacks"));
    // A login that fails, and a datastore that is not there.
    std::fs::write(bench.path("password"), "wrong").unwrap();
    bench.configure(&["file"], &bench.folder_store("LocalDS_0", &bench.path("nowhere")), "");
    let text = look(1);
    let bad = text.lines().filter(|line| line.starts_with("BAD")).collect::<Vec<_>>().join("\n");
    assert!(bad.contains("cannot log in") && bad.contains("datastore LocalDS_0"), "{text}");
    bench.assert_nothing_left("at the end");
}
