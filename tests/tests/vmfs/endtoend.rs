//! LUN → VMFS → snapshot chain → NTFS → files, with nothing but a LUN configured.

use std::collections::BTreeMap;

use vcb_block::{BlockRef, Kind};
use vcb_fixtures::san::{self, San, Shape};
use vcb_fixtures::vmfs;
use vcb_fs::vmfs::{Candidate, Version, discover};
use vcb_mountd::config::{Config, DatastoreConfig};
use vcb_mountd::datastore::{Datastore, DsPath, VmfsStore};
use vcb_mountd::plan::{Choice, MountPlan};
use vcb_mountd::spec::Place;
use vcb_mountd::{Code, Failure};

use crate::common::{bytes, devices, find};

fn plan(config: &Config, choice: &Choice) -> Result<MountPlan, Failure> {
    MountPlan::make(&Place::Datastore(DsPath::new("san", "web01")), choice, config)
}

#[test]
fn a_vm_with_snapshots_is_read_from_nothing_but_its_luns() {
    let dir = tempfile::tempdir().unwrap();
    let shape = Shape { label: "san", devices: 2, gpt: true, locked: true };
    let Some(San { devices: luns, texts }) = san::make(dir.path(), &shape) else { return };
    let store = DatastoreConfig { name: "san".into(), lun: luns.clone(), ..DatastoreConfig::default() };
    let config = Config { datastores: vec![store], ..Config::default() };
    san::with_live_host(&luns[0], || {
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
    let store = VmfsStore::open("ds", &volume.devices, &BTreeMap::new()).unwrap();
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
