//! VCB's own commands, with VCB's options and nothing of ours.

use serde_json::json;

use crate::bench::{Bench, VM, assert_files};

#[test]
fn vcsim_vcb_s_own_commands_do_what_they_did() {
    for (model, vm, pool) in [
        (&[][..], VM, "/Datacenters/DC0/host/DC0_H0/Resources"),
        (&["-esx"], "ha-host_VM0", "/ha-folder-root/ha-datacenter/host/localhost.localdomain/Resources"),
    ] {
        let Some(bench) = Bench::new(model, &[vm]) else { return };
        let lines = bench.ok("vcbVmName", &["-sAny:", "-L", "0"]);
        let moref = lines.lines().find(|line| line.starts_with("moref:")).unwrap();
        assert!(lines.contains(&format!("name:{vm}")) && lines.contains("ipaddr:vm0.example"), "{lines}");
        let at = bench.path("vcb mount");
        let at = at.to_str().unwrap();
        for spec in lines.lines().take(4) {
            bench.ok("vcbMounter", &["-a", spec, "-r", at, "-t", "file", "-m", "san", "-L", "6"]);
            assert_files(at, spec);
            bench.ok("vcbMounter", &["-U", at]);
            bench.assert_nothing_left(spec);
        }
        // Without -t it is the whole VM.
        bench.ok("vcbMounter", &["-a", moref, "-r", at, "-M", "1", "-F", "1"]);
        assert!(std::path::Path::new(at).join("catalog").exists());
        bench.ok("vcbMounter", &["-U", at]);
        let id = bench.ok("vcbSnapshot", &["-c", moref, "my snapshot", "a text"]);
        assert!(id.starts_with("SsId:"), "{id}");
        assert_eq!(bench.ok("vcbSnapshot", &["-f", moref, "my snapshot"]), id);
        assert!(bench.ok("vcbSnapshot", &["-l", moref]).contains("name:my snapshot"));
        bench.ok("vcbSnapshot", &["-d", moref, &id]);
        assert!(!bench.run("vcbSnapshot", &["-d", moref, &id]).status.success());
        assert!(bench.ok("vcbUtil", &["-c", "ping"]).contains("VMware"));
        assert!(bench.ok("vcbUtil", &["-c", "resourcepools"]).lines().any(|line| line == pool));
        let folders = bench.ok("vcbUtil", &["-c", "vmfolders"]);
        assert!(folders.lines().all(|line| line.contains("/vm")) && !folders.is_empty(), "{folders}");
        assert_eq!(bench.run("vcbUtil", &["-c", "nonsense"]).status.code(), Some(1));
        bench.ok("pre-command", &["/opt/vcb", vm, "file"]);
        assert_files(bench.path(&format!("mnt/{vm}-file")), "pre-command");
        bench.ok("post-command", &["/opt/vcb", vm, "file"]);
        bench.ok("vcbCleanup", &["-y"]);
        bench.assert_nothing_left("at the end");
    }
}

#[test]
fn vcsim_server_user_and_password_come_from_vcb_s_options() {
    let Some(bench) = Bench::new(&["-password", "0n-the-line"], &[VM]) else { return };
    let (host, user) = (bench.sim.host(), bench.sim.user());
    let account = ["-h", host, "-u", user, "-p", "0n-the-line"];
    // Nothing is configured but what a person has accepted.
    bench.write_config("");
    let at = bench.path("m");
    let at = at.to_str().unwrap();
    let mounter = |mode: &str| {
        let args = [&account[..], &["-a", "name:DC0_H0_VM0", "-r", at, "-t", "file", "-m", mode]].concat();
        bench.run("vcbMounter", &args)
    };
    let unknown = mounter("nbd");
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("E133"), "{unknown:?}");
    bench.ok("vcbmount", &["trust", host, "--yes"]);
    let mounted = mounter("nbd");
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    // The password has reached the process that reads through the server, though no file has it.
    assert_files(at, "nbd");
    assert!(bench.run("vcbMounter", &[&account[..], &["-U", at]].concat()).status.success());
    bench.assert_nothing_left("after vcbMounter -U");
    let wrong = bench.run("vcbVmName", &["-h", host, "-u", "nobody", "-p", "wrong", "-s", "any:"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("E131"), "{wrong:?}");
}

#[test]
fn vcsim_all_vms_are_mounted_at_once_and_failures_told() {
    let Some(bench) = Bench::one() else { return };
    let all = bench.path("all");
    bench.sim.vm(&json!({"name": "DC0_H0_VM1", "template": true}));
    let some = bench.run("vcbSnapAll", &["-a", "powerstate:on", "-r", all.to_str().unwrap(), "-M", "1"]);
    assert_eq!(some.status.code(), Some(1), "a template is among them");
    assert!(String::from_utf8_lossy(&some.stderr).contains("template"));
    assert!(all.join(VM).join("catalog").exists());
    bench.ok("vcbMounter", &["-U", all.join(VM).to_str().unwrap()]);
    bench.assert_nothing_left("at the end");
}
