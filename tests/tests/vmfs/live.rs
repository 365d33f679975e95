//! Beside hosts that use the volume: locks, heartbeats, and changes in the middle of reading.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use vcb_block::{BlockRef, Kind};
use vcb_fixtures::vmdk::Rng;
use vcb_fixtures::vmfs;
use vcb_fs::Filesystem;
use vcb_fs::vmfs::{HolderState, LockMode, Options, Vmfs};

use crate::common::find;
use crate::image::{Changing, DATA, Layout, V5, V6, device};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 2 * MIB + 70_001;

fn volume(version: u32, dir: &std::path::Path) -> Option<Arc<Changing>> {
    let manifest = format!(
        r#"{{"version": {version}, "label": "live", "extent_mib": 512, "entries": [
            {{"path": "/f.bin", "random": {{"size": {SIZE}, "seed": 3}}}},
            {{"path": "/frozen-flat.vmdk", "text": "base", "size": 5001, "layout": "sb"}},
            {{"path": "/delta.vmdk", "text": "delta", "size": 5002, "layout": "sb"}},
            {{"path": "/stale.vmdk", "text": "stale", "size": 5003, "layout": "sb"}},
            {{"path": "/old.vmdk", "text": "old", "size": 5004, "layout": "sb"}}],
          "hosts": [{{"slot": 64, "mac": "005056000001", "ip": "192.0.2.7"}},
                    {{"slot": 65, "mac": "005056000002"}},
                    {{"slot": 66, "mac": "005056000003", "active": false}}],
          "locks": [{{"path": "/delta.vmdk", "mode": 1, "host": 0}},
                    {{"path": "/frozen-flat.vmdk", "mode": 2, "host": 0}},
                    {{"path": "/stale.vmdk", "mode": 1, "host": 1}},
                    {{"path": "/old.vmdk", "mode": 3, "host": 2}}]}}"#
    );
    let made = vmfs::make_text(&manifest, dir)?;
    Some(Changing::new(&made.devices[0]))
}

fn options() -> Options {
    Options { recheck: Duration::ZERO, lease: Some(Duration::from_millis(1500)), ..Options::default() }
}

#[test]
fn live_writers_are_refused_and_stale_locks_are_not() {
    for (version, layout) in [(5, V5), (6, V6)] {
        let dir = tempfile::tempdir().unwrap();
        let Some(image) = volume(version, dir.path()) else { return };
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Host 0 is alive: its stamp moves. Host 1 died with its slot active. Host 2 went in order.
            scope.spawn(|| {
                let stamp = DATA + layout.heartbeats + 64 * layout.heartbeat + 0x14;
                for now in 1u64.. {
                    if stop.load(SeqCst) {
                        break;
                    }
                    image.write(stamp, &now.to_le_bytes());
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let fs = Vmfs::open(vec![device(&image)], &options()).unwrap();
                let err = fs.open(find(&*fs, "/delta.vmdk"), None).err().unwrap();
                assert_eq!(err.kind(), Kind::Busy, "{err:?}");
                let text = err.report();
                assert!(text.contains("00:50:56:00:00:01") && text.contains("192.0.2.7"), "{text}");
                fs.open(find(&*fs, "/frozen-flat.vmdk"), None).unwrap();
                fs.open(find(&*fs, "/stale.vmdk"), None).unwrap();
                fs.open(find(&*fs, "/old.vmdk"), None).unwrap();
                assert!(fs.notes().iter().any(|note| note.contains("00:50:56:00:00:02")), "{:?}", fs.notes());
                let report = fs.lock(find(&*fs, "/frozen-flat.vmdk"), true).unwrap();
                assert_eq!((report.mode, report.holders[0].state), (LockMode::ReadOnly, HolderState::Live));
                let report = fs.lock(find(&*fs, "/stale.vmdk"), true).unwrap();
                assert_eq!((report.mode, report.holders[0].state), (LockMode::Exclusive, HolderState::Stale));
                fs.verify().unwrap();
                let forced = Options { allow_locked: true, ..options() };
                let fs = Vmfs::open(vec![device(&image)], &forced).unwrap();
                fs.open(find(&*fs, "/delta.vmdk"), None).unwrap();
            }));
            stop.store(true, SeqCst);
            if let Err(panic) = checked {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

/// What a host does to the file with the descriptor `at` while it is read, as writes in the order of a host.
fn change(image: &Changing, layout: &Layout, at: u64, seed: u64) -> Vec<(u64, Vec<u8>)> {
    let version = u64::from_le_bytes(image.peek(at + 0x1C, 8).try_into().unwrap()) + 1;
    let version = (at + 0x1C, version.to_le_bytes().to_vec());
    let pointers = at + layout.pointers;
    let old: Vec<u64> =
        (0..3).map(|n| layout.block(&image.peek(pointers + n * layout.pointer_len(), layout.pointer_len()))).collect();
    let garbage = |n: usize| (DATA + old[n] * MIB, vec![0xEE; 64 << 10]);
    let mut writes = Vec::new();
    match seed % 4 {
        // Moved: copied elsewhere, pointed there, old blocks reused by another file.
        0 => {
            for n in 0..3u64 {
                writes.push((DATA + (400 + n) * MIB, image.peek(DATA + old[n as usize] * MIB, 64 << 10)));
            }
            let moved: Vec<u8> = (400..403).flat_map(|block| layout.pointer(block)).collect();
            writes.extend([version, (pointers, moved), garbage(0), garbage(1), garbage(2)]);
        }
        // Deleted: the descriptor belongs to another file now, and so do the blocks.
        1 => {
            let generation = at + layout.meta + 4;
            let next = u32::from_le_bytes(image.peek(generation, 4).try_into().unwrap()) + 1;
            writes.extend([(generation, next.to_le_bytes().to_vec()), version, garbage(0), garbage(2)]);
        }
        // Taken over: a host locks it and writes in place.
        2 => writes.extend([(at + 0x24, 1u32.to_le_bytes().to_vec()), version, garbage(1), garbage(0)]),
        // Cut short: the size goes first, then the last block is reused.
        _ => writes.extend([(at + layout.meta + 0x14, MIB.to_le_bytes().to_vec()), version, garbage(2), garbage(1)]),
    }
    writes
}

#[test]
fn a_change_in_the_middle_ends_in_old_bytes_or_an_error() {
    let rounds = if std::env::var_os("VCB_TORTURE").is_some() { 10_000 } else { 1_000 };
    let (mut right, mut failed) = (0, 0);
    for (version, layout) in [(5, V5), (6, V6)] {
        let dir = tempfile::tempdir().unwrap();
        let Some(image) = volume(version, dir.path()) else { return };
        let fs = Vmfs::open(vec![device(&image)], &options()).unwrap();
        let whole = fs.open(find(&*fs, "/f.bin"), None).unwrap();
        let mut old = vec![0; SIZE as usize];
        whole.read_at(&mut old, 0).unwrap();
        let descriptor = image.descriptor_of(&layout, SIZE);
        for seed in 0..rounds / 2 {
            image.reset();
            let mut random = Rng::new(seed * 2 + u64::from(version));
            // The reads of one round number about a hundred; some changes come after the last.
            let mut before = random.below(60);
            for (at, bytes) in change(&image, &layout, descriptor, seed) {
                image.write_before(before, at, &bytes);
                before += random.below(12);
            }
            // Either every use is checked at once, or only the end is.
            let strict = random.below(2) == 0;
            let recheck = if strict { Duration::ZERO } else { Duration::from_secs(3600) };
            match round(&image, &Options { recheck, ..options() }, &mut random, &old, strict) {
                Ok(()) => right += 1,
                Err(err) => {
                    assert!(
                        matches!(err.kind(), Kind::Changed | Kind::Busy | Kind::Corrupt | Kind::OutOfRange),
                        "seed {seed} of VMFS-{version}: {err:?}"
                    );
                    failed += 1;
                }
            }
        }
    }
    // Both ends must have been seen, or the test tests nothing.
    assert!(right > 50 && failed > 200, "{right} right, {failed} failed");
}

/// Opens and reads; the bytes of a round that succeeds are the old ones.
fn round(
    image: &Arc<Changing>,
    options: &Options,
    random: &mut Rng,
    old: &[u8],
    strict: bool,
) -> vcb_block::Result<()> {
    let fs = Vmfs::open(vec![device(image)], options)?;
    let id = fs.lookup(fs.root(), b"f.bin")?;
    let file: BlockRef = fs.open(id, None)?;
    let mut pieces = Vec::new();
    for _ in 0..12 {
        // Starts of blocks, where the garbage is, and anywhere.
        let at = random.below(3) * MIB + random.below(40 << 10);
        let len = (1 + random.below(20_000)).min((old.len() as u64).saturating_sub(at));
        let mut buf = vec![0; len as usize];
        file.read_at(&mut buf, at)?;
        if strict {
            assert!(buf == old[at as usize..at as usize + buf.len()], "{len} foreign bytes at {at:#x}");
        }
        pieces.push((at as usize, buf));
    }
    fs.verify()?;
    for (at, buf) in pieces {
        assert!(buf == old[at..at + buf.len()], "foreign bytes at {at:#x} passed the verification");
    }
    Ok(())
}

#[test]
fn a_voided_file_stays_void() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = volume(6, dir.path()) else { return };
    let fs = Vmfs::open(vec![device(&image)], &Options { recheck: Duration::from_secs(3600), ..options() }).unwrap();
    let file = fs.open(find(&*fs, "/f.bin"), None).unwrap();
    let version = image.descriptor_of(&V6, SIZE) + 0x1C;
    image.write(version, &77u64.to_le_bytes());
    assert_eq!(fs.verify().unwrap_err().kind(), Kind::Changed);
    image.reset();
    assert_eq!(file.read_at(&mut [0; 10], 0).unwrap_err().kind(), Kind::Changed);
    assert_eq!(fs.verify().unwrap_err().kind(), Kind::Changed);
    drop(file);
    fs.verify().unwrap();
}
