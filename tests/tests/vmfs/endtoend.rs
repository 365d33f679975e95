//! LUN → VMFS → snapshot chain → NTFS → files, with nothing but a LUN configured.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use vcb_block::{BlockRef, Kind};
use vcb_fixtures::vmdk::{Chain, Grain, Model, Snapshot, vmsd, vmx};
use vcb_fixtures::{need_tool, vmfs};
use vcb_fs::vmfs::{Candidate, Version, discover};
use vcb_mountd::config::{Config, DatastoreConfig};
use vcb_mountd::datastore::{Datastore, DsPath, VmfsStore};
use vcb_mountd::plan::{Choice, MountPlan};
use vcb_mountd::spec::Place;
use vcb_mountd::{Code, Failure};

use crate::common::{bytes, devices, find};

const SECTOR: usize = 512;
const DISK: usize = 16 << 20;

/// An NTFS volume of the whole disk with `files` (name, bytes), made and filled by ntfs-3g's tools.
fn ntfs(image: &Path, files: &[(&str, &[u8])]) -> Vec<u8> {
    std::fs::File::create(image).unwrap().set_len(DISK as u64).unwrap();
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(Command::new("mkntfs").args(["-F", "-Q", "-q", "-s", "512", "-p", "0"]).arg(image));
    for (name, content) in files {
        let source = image.with_extension("in");
        std::fs::write(&source, content).unwrap();
        run(Command::new("ntfscp").arg("-q").arg(image).arg(&source).arg(name));
    }
    std::fs::read(image).unwrap()
}

/// Sectors of `new` that differ from `old`, in runs.
fn writes(old: &[u8], new: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    for (number, (a, b)) in (0..).zip(old.chunks(SECTOR).zip(new.chunks(SECTOR))) {
        if a == b {
            continue;
        }
        match runs.last_mut() {
            Some((start, run)) if *start + (run.len() / SECTOR) as u64 == number => run.extend_from_slice(b),
            _ => runs.push((number, b.to_vec())),
        }
    }
    runs
}

/// A datastore `san` with the VM `web01`: a flat base, a frozen SEsparse delta, and one that a live host writes.
fn lun(dir: &Path) -> Option<(Vec<std::path::PathBuf>, Vec<Vec<u8>>)> {
    if !need_tool("mkntfs") || !need_tool("ntfscp") {
        return None;
    }
    let texts: [&[u8]; 3] = [&[b'a'; 70_000], &[b'b'; 90_000], &[b'c'; 5_000]];
    let first = ntfs(&dir.join("ntfs"), &[("old.txt", texts[0])]);
    // The same volume later: ntfscp goes on where the first image ends.
    let image = dir.join("ntfs");
    let mut states = vec![first];
    for (name, text) in [("new.txt", texts[1]), ("live.txt", texts[2])] {
        std::fs::write(dir.join("in"), text).unwrap();
        let status = Command::new("ntfscp").arg("-q").arg(&image).arg(dir.join("in")).arg(name).status().unwrap();
        assert!(status.success());
        states.push(std::fs::read(&image).unwrap());
    }
    let mut chain = Chain::new("web01");
    let sectors = (DISK / SECTOR) as u64;
    let mut base = Model::all(sectors, 128, &Grain::Zero);
    for (grain, part) in base.grains.iter_mut().zip(states[0].chunks(128 * SECTOR)) {
        *grain = Grain::Bytes(part.to_vec());
    }
    chain.push(vcb_fixtures::vmdk::Kind::Vmfs, &base).unwrap();
    for pair in states.windows(2) {
        chain.push_writes(vcb_fixtures::vmdk::Kind::SeSparse, &writes(&pair[0], &pair[1])).unwrap();
    }
    assert!(chain.raw() == states[2], "the chain is what the guest wrote");
    let files = dir.join("files");
    std::fs::create_dir(&files).unwrap();
    chain.folder.save(&files).unwrap();
    std::fs::write(files.join("web01.vmx"), vmx("web01", &[("scsi0:0", "web01-000002.vmdk")])).unwrap();
    let frozen = Snapshot {
        uid: 1,
        parent: None,
        name: "frozen".into(),
        created: 1_700_000_000_000_000,
        disks: vec![("scsi0:0".into(), "web01-000001.vmdk".into())],
    };
    std::fs::write(files.join("web01.vmsd"), vmsd(&[frozen], 1)).unwrap();

    let mut entries = vec![r#"{"path": "/web01", "type": "dir"}"#.to_owned()];
    for entry in std::fs::read_dir(&files).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let host = files.join(&name);
        entries.push(format!(r#"{{"path": "/web01/{name}", "host": {:?}}}"#, host.to_str().unwrap()));
    }
    let manifest = format!(
        r#"{{"version": 6, "label": "san", "extents": 2, "extent_mib": 512, "gpt": true, "entries": [{}],
            "hosts": [{{"slot": 7, "mac": "005056000001", "ip": "192.0.2.7"}}],
            "locks": [{{"path": "/web01/web01-flat.vmdk", "mode": 2, "host": 0}},
                      {{"path": "/web01/web01-000001-sesparse.vmdk", "mode": 2, "host": 0}},
                      {{"path": "/web01/web01-000002-sesparse.vmdk", "mode": 1, "host": 0}}]}}"#,
        entries.join(",\n")
    );
    Some((vmfs::make_text(&manifest, dir)?.devices, texts.map(<[u8]>::to_vec).to_vec()))
}

/// Keeps the heartbeat of host 0 moving on the first device while `work` runs.
fn with_live_host<T>(image: &Path, work: impl FnOnce() -> T) -> T {
    use std::os::unix::fs::FileExt;
    /// Partition, data of the volume, heartbeats, slot 7, stamp.
    const STAMP: u64 = 0x10_0000 + 0x110_0000 + 0x30_0000 + 7 * 4096 + 0x14;
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    let stop = AtomicBool::new(false);
    let file = std::fs::OpenOptions::new().write(true).open(image).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for now in 1u64.. {
                if stop.load(SeqCst) {
                    break;
                }
                file.write_all_at(&now.to_le_bytes(), STAMP).unwrap();
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let _stop = Stop(&stop);
        work()
    })
}

fn plan(config: &Config, choice: &Choice) -> Result<MountPlan, Failure> {
    MountPlan::make(&Place::Datastore(DsPath::new("san", "web01")), choice, config)
}

#[test]
fn a_vm_with_snapshots_is_read_from_nothing_but_its_luns() {
    let dir = tempfile::tempdir().unwrap();
    let Some((luns, texts)) = lun(dir.path()) else { return };
    let store = DatastoreConfig { name: "san".into(), lun: luns.clone(), ..DatastoreConfig::default() };
    let config = Config { datastores: vec![store], ..Config::default() };
    with_live_host(&luns[0], || {
        // The current state is being written by a live host.
        let running = plan(&config, &Choice::default()).unwrap_err();
        assert_eq!(running.code(), Code::Running, "{running:?}");
        assert!(format!("{running:?}").contains("192.0.2.7"), "{running:?}");
        let live = plan(&config, &Choice { live: true, ..Choice::default() }).unwrap();
        assert!(live.open().is_err(), "the delta that a live host writes must be refused");

        // What the snapshot froze is there for reading.
        let choice = Choice { snapshot: Some("frozen".into()), ..Choice::default() };
        let vm = plan(&config, &choice).unwrap().open().unwrap();
        let volume = &vm.disks[0].volumes[0];
        let fs = volume.fs.as_ref().unwrap_or_else(|err| panic!("{err:?}"));
        for (name, text) in [("old.txt", &texts[0]), ("new.txt", &texts[1])] {
            let file = fs.open(find(&**fs, name), None).unwrap();
            assert!(bytes(&file, 0, file.len()) == *text, "{name}");
        }
        assert_eq!(fs.lookup(fs.root(), b"live.txt").unwrap_err().kind(), Kind::NotFound);
        vm.verify().unwrap();
    });
}

#[test]
fn a_datastore_lists_and_opens_what_is_on_the_volume() {
    let dir = tempfile::tempdir().unwrap();
    let Some(volume) = vmfs::make(&vmfs::manifest("v5"), dir.path()) else { return };
    let store = VmfsStore::open("ds", &volume.devices).unwrap();
    let names: Vec<String> = store.list("").unwrap().into_iter().map(|entry| entry.name).collect();
    assert!(names.contains(&"vm1".to_owned()) && !names.contains(&".fbb.sf".to_owned()), "{names:?}");
    // A link is followed, inside only; names that climb out are refused.
    assert_eq!(store.open("link").unwrap().len(), 20);
    assert_eq!(store.open("deep/../vm1/./vm1.vmx").unwrap().len(), 20);
    assert_eq!(store.open("deep/../../x").err().unwrap().kind(), Kind::Forbidden);
    assert_eq!(store.open("none").err().unwrap().kind(), Kind::NotFound);
    assert_eq!(store.open("deep").err().unwrap().kind(), Kind::WrongType);
    let resolver = store.resolver().unwrap();
    let found = resolver.open("deep/er/f", "/vmfs/volumes/elsewhere/er/f").unwrap();
    assert_eq!(found.name, "deep/er/f");
    assert_eq!(store.running("vm1").unwrap(), None);
    assert!(store.describe().contains("vmfs5"), "{}", store.describe());
}

#[test]
fn volumes_are_found_among_devices_and_clones_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let Some(span) = vmfs::make(&vmfs::manifest("v6-span3"), dir.path()) else { return };
    let Some(single) = vmfs::make(&vmfs::manifest("v5"), dir.path()) else { return };
    let other = dir.path().join("other");
    std::fs::write(&other, vec![0; 4 << 20]).unwrap();
    let mut paths = span.devices.clone();
    paths.reverse();
    paths.extend([other, single.devices[0].clone()]);
    let candidates: Vec<Candidate> = paths
        .iter()
        .zip(devices(&paths))
        .map(|(path, block)| Candidate { name: path.display().to_string(), block })
        .collect();
    let (found, failures) = discover(&candidates);
    assert!(failures.is_empty(), "{failures:?}");
    let labels: Vec<(&str, Option<Version>)> = found.iter().map(|one| (one.label.as_str(), one.version)).collect();
    assert_eq!(labels, [("v6s", Some(Version::V6)), ("v5", Some(Version::V5))]);
    assert!(found.iter().all(|one| one.problem.is_none() && one.uuid.is_some()), "{found:?}");
    let order: Vec<&str> = found[0].luns.iter().map(|lun| lun.name.as_str()).collect();
    assert!(span.devices.iter().map(|path| path.to_str().unwrap()).eq(order), "{found:?}");

    // A device is missing; a device is there twice.
    let (found, _) = discover(&candidates[1..]);
    assert!(found[0].problem.as_ref().unwrap().contains("2 of its 3"), "{found:?}");
    let clone: BlockRef = candidates[4].block.clone();
    let twice =
        [Candidate { name: "one".into(), block: clone.clone() }, Candidate { name: "two".into(), block: clone }];
    let (found, _) = discover(&twice);
    assert!(found[0].problem.as_ref().unwrap().contains("'one' and 'two'"), "{found:?}");
    assert_eq!(found[0].label, "v5");
}
