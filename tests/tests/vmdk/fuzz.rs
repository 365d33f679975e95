//! Runs every fuzz target over its seeds and over mutations of them, so that targets never rot and the
//! plainest crashes show without a fuzzer.

#[path = "../../../fuzz/src/vmdk.rs"]
mod targets;

use std::panic::catch_unwind;

use vcb_fixtures::mutate;
use vcb_fixtures::vmdk::seeds;

const ROUNDS: u64 = 400;

#[test]
fn no_target_panics() {
    let torture = std::env::var_os("VCB_TORTURE").is_some();
    let rounds = if torture { 100 * ROUNDS } else { ROUNDS };
    let seeds = seeds().unwrap();
    for (name, run) in targets::TARGETS {
        let mut inputs: Vec<&Vec<u8>> = seeds.iter().filter(|(target, _)| *target == name).map(|(_, b)| b).collect();
        assert!(!inputs.is_empty(), "{name} has no seeds");
        let empty = Vec::new();
        inputs.push(&empty);
        for (number, input) in inputs.into_iter().enumerate() {
            run(input);
            for round in 0..rounds {
                let mutated = mutate(input, round);
                if catch_unwind(|| run(&mutated)).is_err() {
                    panic!("{name}: seed {number} mutated with {round} panics");
                }
            }
        }
    }
}
