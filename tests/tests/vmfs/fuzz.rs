//! Runs the fuzz target over written volumes and mutations of them.

#[path = "../../../fuzz/src/vmfs.rs"]
mod target;

use std::panic::catch_unwind;

use vcb_fixtures::{mutate, vmfs};

#[test]
fn the_volume_target_does_not_panic() {
    let rounds = if std::env::var_os("VCB_TORTURE").is_some() { 5_000 } else { 60 };
    let dir = tempfile::tempdir().unwrap();
    for version in [3, 5, 6] {
        let Some(seed) = vmfs::seed(version, dir.path()) else { return };
        target::volume(&seed);
        for round in 0..rounds {
            let mutated = mutate(&seed, round);
            assert!(catch_unwind(|| target::volume(&mutated)).is_ok(), "VMFS-{version} mutated with {round} panics");
        }
    }
}
