//! Runs the NTFS and partition fuzz targets over small valid inputs and mutations of them.

#![allow(clippy::unwrap_used)]

#[path = "../../fuzz/src/ntfs.rs"]
mod targets;

use std::panic::catch_unwind;

use vcb_fixtures::{mutate, ntfs_seeds};

/// Mutations of all seeds of a target together.
const ROUNDS: u64 = 300;

#[test]
fn no_target_panics() {
    let torture = std::env::var_os("VCB_TORTURE").is_some();
    let seeds = ntfs_seeds::seeds();
    for (name, run) in targets::TARGETS {
        let seeds: Vec<&[u8]> = seeds.iter().filter(|(target, _)| *target == name).map(|(_, seed)| &seed[..]).collect();
        assert!(!seeds.is_empty(), "no seeds for {name}");
        let rounds = if torture { 100 * ROUNDS } else { ROUNDS };
        for (number, seed) in seeds.iter().enumerate() {
            run(seed);
            for round in 0..rounds.div_ceil(seeds.len() as u64) {
                let mutated = mutate(seed, round);
                if catch_unwind(|| run(&mutated)).is_err() {
                    panic!("{name}: seed {number} mutated with {round} panics");
                }
            }
        }
    }
}

/// The volume that fuzzing starts from has what it is to have, and all of it can be read.
#[test]
fn the_tiny_volume_is_whole() {
    let files = targets::survey(ntfs_seeds::tiny());
    assert!(files.len() > 55, "{}", files.len());
    for (path, content) in &files {
        assert!(content.is_ok(), "{path}: {content:?}");
    }
    let sizes = |path: &str| files.iter().find(|(known, _)| known == path).map(|(_, content)| content.clone().unwrap());
    assert_eq!(sizes("/large:stream"), Some(8));
    assert_eq!(sizes("/packed/text"), Some(14_700));
    assert_eq!(sizes("/overlay"), Some(15));
}
