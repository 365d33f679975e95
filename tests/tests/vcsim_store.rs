//! A datastore read through the server: what is fetched, when, and how often.

#![allow(clippy::unwrap_used)]

use serde_json::json;
use vcb_block::BlockRef;
use vcb_mountd::config::{ServerStore, Transport, VCenter};
use vcb_mountd::datastore::{Datastore, Server};
use vcb_tests::vcsim::Vcsim;

const MIB: usize = 1 << 20;

/// A simulator with a file of `content` on its datastore, and the store as a mount has it.
fn store(content: &[u8], folder: &tempfile::TempDir) -> Option<(Vcsim, Server)> {
    let sim = Vcsim::start(&[])?;
    std::fs::write(sim.datastore("LocalDS_0").join("disk-flat.vmdk"), content).unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, sim.password()).unwrap();
    std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let server = VCenter {
        host: sim.host().to_owned(),
        username: sim.user().to_owned(),
        password_file: Some(password),
        ca_file: None,
        fingerprint: Some(sim.fingerprint().to_owned()),
        transports: vec![Transport::Https],
        hold_relocation: false,
    };
    let store = Server::open("LocalDS_0", &ServerStore { server, datacenter: "DC0".to_owned() }).unwrap();
    Some((sim, store))
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 4093) as u8).collect()
}

fn read(file: &BlockRef, content: &[u8], at: usize, len: usize) {
    let mut buf = vec![0; len];
    file.read_at(&mut buf, at as u64).unwrap();
    assert!(buf == content[at..at + len], "{len} bytes at {at}");
}

#[test]
fn vcsim_a_sequential_reader_is_run_ahead_of_and_nothing_is_fetched_twice() {
    let folder = tempfile::tempdir().unwrap();
    // The last chunk is short.
    let content = content(24 * MIB + 12_345);
    let Some((sim, store)) = store(&content, &folder) else { return };
    let file = store.open("disk-flat.vmdk").unwrap();
    sim.reset();
    sim.fault(&json!({"method": "folder", "kind": "slow", "millis": 40}));
    for at in (0..content.len()).step_by(64 << 10) {
        read(&file, &content, at, (64 << 10).min(content.len() - at));
    }
    assert_eq!(sim.calls("folder"), 25, "chunks of 1 MiB");
    let peak = sim.peak("folder");
    assert!((2..=4).contains(&peak), "{peak} requests in flight");
}

#[test]
fn vcsim_scattered_reads_fetch_what_they_need_alone() {
    let folder = tempfile::tempdir().unwrap();
    let content = content(24 * MIB);
    let Some((sim, store)) = store(&content, &folder) else { return };
    let file = store.open("disk-flat.vmdk").unwrap();
    sim.reset();
    for step in 0..24 {
        read(&file, &content, (step * 7 % 24) * MIB + 4096 * step, 4096);
    }
    assert_eq!(sim.calls("folder"), 24);
}

#[test]
fn vcsim_readers_at_once_get_the_right_bytes_from_a_server_that_fails_at_times() {
    let folder = tempfile::tempdir().unwrap();
    let content = content(12 * MIB + 1);
    let Some((sim, store)) = store(&content, &folder) else { return };
    let file = store.open("disk-flat.vmdk").unwrap();
    sim.reset();
    for kind in ["drop", "cut-body", "expire"] {
        sim.fault(&json!({"method": "folder", "kind": kind, "skip": 2, "count": 1}));
    }
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let (file, content) = (&file, &content);
            scope.spawn(move || {
                for at in (reader * 300_000..content.len()).step_by(300_000) {
                    read(file, content, at, 300_000.min(content.len() - at));
                }
            });
        }
    });
    // A server that gives nothing any more fails its readers, also where something was to be made ready for them.
    let fresh = store.open("disk-flat.vmdk").unwrap();
    for at in (0..4 * MIB).step_by(MIB) {
        read(&fresh, &content, at, MIB);
    }
    sim.fault(&json!({"method": "folder", "kind": "status", "status": 404}));
    let mut failed = 0;
    for at in (0..12 * MIB).step_by(MIB) {
        let mut buf = vec![0; MIB];
        match fresh.read_at(&mut buf, at as u64) {
            Ok(()) => assert!(buf == content[at..at + MIB], "{at}"),
            Err(_) => failed += 1,
        }
    }
    assert!(failed > 0);
}
