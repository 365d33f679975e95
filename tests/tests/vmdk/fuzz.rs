//! Runs every fuzz target over its seeds and over mutations of them, so that targets never rot and the
//! plainest crashes show without a fuzzer.

#[path = "../../../fuzz/src/vmdk.rs"]
mod targets;

use std::panic::catch_unwind;

use vcb_fixtures::vmdk::{Rng, seeds};

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

/// Flips, replaces, cuts, repeats and inserts, mostly where the metadata is.
fn mutate(input: &[u8], seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut bytes = input.to_vec();
    for _ in 0..=rng.below(4) {
        if bytes.is_empty() {
            bytes = (0..rng.below(2048)).map(|_| rng.next_u64() as u8).collect();
            continue;
        }
        let near = if rng.below(2) == 0 { bytes.len().min(2048) } else { bytes.len() } as u64;
        let at = rng.below(near) as usize;
        match rng.below(7) {
            0 | 1 => bytes[at] ^= 1 << rng.below(8),
            2 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][rng.below(5) as usize],
            3 => {
                let value = [0, 1, u64::MAX, 1 << 32, 1 << 63, rng.next_u64()][rng.below(6) as usize].to_le_bytes();
                let end = bytes.len().min(at + 8);
                bytes[at..end].copy_from_slice(&value[..end - at]);
            }
            4 => bytes.truncate(at),
            5 => {
                let piece = bytes[at..bytes.len().min(at + 512)].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes.insert(at, rng.next_u64() as u8),
        }
    }
    bytes
}
