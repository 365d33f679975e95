//! Chunks made by libwim (see `fixtures/ntfs/mkvectors.py`), streams written bit by bit, and damaged ones.

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use vcb_block::bytes::le32;
use vcb_block::{BlockRef, Fault, FaultBlock, Kind, MemBlock, Result, conformance};

use super::*;

struct Vector {
    algorithm: WofAlgorithm,
    len: usize,
    hash: Vec<u8>,
    stored: Vec<u8>,
}

fn vectors(mut file: &[u8]) -> Vec<Vector> {
    let mut vectors = Vec::new();
    while !file.is_empty() {
        let algorithm = WofAlgorithm::from_number(u32::from(file[0])).unwrap();
        let (len, stored) = (le32(file, 1).unwrap() as usize, le32(file, 5).unwrap() as usize);
        let hash = file[9..41].to_vec();
        vectors.push(Vector { algorithm, len, hash, stored: file[41..41 + stored].to_vec() });
        file = &file[41 + stored..];
    }
    vectors
}

fn committed() -> Vec<Vector> {
    vectors(include_bytes!("chunks.bin"))
}

fn decoded(vector: &Vector) -> Result<Vec<u8>, Damage> {
    let mut out = vec![0xAA; vector.len];
    decode_wof(vector.algorithm, &vector.stored, &mut out).map(|()| out)
}

fn full() -> bool {
    std::env::var_os("VCB_TORTURE").is_some()
}

fn check(vectors: &[Vector]) {
    for (index, vector) in vectors.iter().enumerate() {
        let out = decoded(vector).unwrap_or_else(|damage| panic!("{index} {:?}: {damage}", vector.algorithm));
        assert_eq!(Sha256::digest(&out).to_vec(), vector.hash, "{index} {:?}", vector.algorithm);
    }
}

#[test]
fn chunks_of_libwim_decode_to_their_content() {
    let vectors = committed();
    assert!(vectors.len() > 50);
    check(&vectors);
}

#[test]
fn fresh_chunks_of_libwim_decode_too() {
    if !vcb_fixtures::need_tool("python3") {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/ntfs/mkvectors.py");
    let (seed, count) = if full() { ("77", "6000") } else { ("76", "300") };
    let made = std::process::Command::new("python3").args([script, seed, count]).output().unwrap();
    if !made.status.success() {
        vcb_fixtures::skip(&format!("mkvectors.py: {}", String::from_utf8_lossy(&made.stderr)));
        return;
    }
    check(&vectors(&made.stdout));
}

#[test]
fn damaged_chunks_never_panic_and_cut_ones_never_pass() {
    let step = if full() { 1 } else { 97 };
    for vector in committed() {
        for len in (0..vector.stored.len()).step_by(step) {
            let mut out = vec![0; vector.len];
            let result = decode_wof(vector.algorithm, &vector.stored[..len], &mut out);
            // The last words may be padding.
            assert!(result.is_err() || Sha256::digest(&out).to_vec() == vector.hash, "cut at {len}");
        }
        for bit in (0..vector.stored.len() * 8).step_by(step * 17) {
            let mut stored = vector.stored.clone();
            stored[bit / 8] ^= 1 << (bit % 8);
            let mut out = vec![0; vector.len];
            // A flipped literal cannot be noticed; what counts is that nothing else happens.
            let _ = decode_wof(vector.algorithm, &stored, &mut out);
        }
    }
}

/// Writes 16-bit words, most significant bit first.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    word: u32,
    used: u32,
}

impl BitWriter {
    fn put(&mut self, value: u32, count: u32) {
        for bit in (0..count).rev() {
            self.word = self.word << 1 | (value >> bit & 1);
            self.used += 1;
            if self.used == 16 {
                self.bytes.extend_from_slice(&(self.word as u16).to_le_bytes());
                (self.word, self.used) = (0, 0);
            }
        }
    }

    fn align(&mut self) {
        self.put(0, 16 - self.used);
    }
}

/// An LZX block that is stored as it is, as \[MS-PATCH\] 2.4.3 lays it out.
fn stored_block(out: &mut BitWriter, recent: [u32; 3], content: &[u8]) {
    out.put(3, 3);
    out.put(0, 1);
    out.put(content.len() as u32, 16);
    out.align();
    for distance in recent {
        out.bytes.extend_from_slice(&distance.to_le_bytes());
    }
    out.bytes.extend_from_slice(content);
    if content.len() % 2 == 1 {
        out.bytes.push(0);
    }
}

#[test]
fn stored_lzx_blocks_keep_words_aligned_and_set_recent_distances() {
    let mut out = BitWriter::default();
    stored_block(&mut out, [7, 2, 9], b"odd");
    stored_block(&mut out, [3, 2, 1], b"even");
    // A verbatim block: one match with recent distance 1 (that is 2) and length 2 + 7 + 1.
    out.put(1, 3);
    out.put(0, 1);
    out.put(11, 16);
    let pretree = |out: &mut BitWriter, lengths: &[(usize, u32)]| {
        for symbol in 0..20 {
            out.put(lengths.iter().find(|entry| entry.0 == symbol).map_or(0, |entry| entry.1), 4);
        }
    };
    // Literals: '!' has length 1. Pretree: 0 (no change) is 0, 16 (length 1) is 10, 18 (zeros) is 11.
    let sparse: &[(usize, u32)] = &[(0, 1), (16, 2), (18, 2)];
    let zeros = |out: &mut BitWriter, mut count: u32| {
        while count >= 20 {
            let run = count.min(51);
            out.put(0b11, 2);
            out.put(run - 20, 5);
            count -= run;
        }
        out.put(0, count);
    };
    pretree(&mut out, sparse);
    zeros(&mut out, 33);
    out.put(0b10, 2);
    zeros(&mut out, 222);
    // Matches: slot 1 with a longer length (8 + 7) has length 1.
    pretree(&mut out, sparse);
    zeros(&mut out, 15);
    out.put(0b10, 2);
    zeros(&mut out, 224);
    // Lengths: 0 and 1 have length 1.
    pretree(&mut out, sparse);
    out.put(0b1010, 4);
    zeros(&mut out, 247);
    // '!' is 0, the match 1; length symbol 1 is 1.
    out.put(0b0, 1);
    out.put(0b11, 2);
    out.align();
    let mut content = [0; 18];
    super::lzx::decode(&out.bytes, &mut content).unwrap();
    assert_eq!(&content, b"oddeven!n!n!n!n!n!");
    let mut longer = [0; 19];
    assert!(super::lzx::decode(&out.bytes, &mut longer).is_err());
}

/// A WOF stream: what `mkvectors.py` makes, one chunk after the other behind a table.
fn wof_stream(algorithm: WofAlgorithm) -> (Vec<u8>, Vec<u8>) {
    let chunk = algorithm.chunk() as usize;
    let all = committed();
    let mut of_chunk: Vec<_> = all.iter().filter(|v| v.algorithm == algorithm && v.len == chunk).collect();
    let short = all.iter().find(|v| v.algorithm == algorithm && v.len < chunk);
    of_chunk.extend(short);
    let (mut content, mut stored, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for (index, vector) in of_chunk.iter().enumerate() {
        if index == 1 {
            // One chunk that did not compress.
            let raw: Vec<u8> = (0..chunk).map(|i| (i * i / 8) as u8).collect();
            content.extend_from_slice(&raw);
            stored.extend_from_slice(&raw);
            ends.push(stored.len() as u32);
        }
        content.extend_from_slice(&decoded(vector).unwrap());
        stored.extend_from_slice(&vector.stored);
        ends.push(stored.len() as u32);
    }
    ends.pop();
    let mut stream: Vec<u8> = ends.iter().flat_map(|end| end.to_le_bytes()).collect();
    stream.extend_from_slice(&stored);
    (stream, content)
}

const ALL: [WofAlgorithm; 4] =
    [WofAlgorithm::Xpress4K, WofAlgorithm::Xpress8K, WofAlgorithm::Xpress16K, WofAlgorithm::Lzx32K];

fn mem(bytes: Vec<u8>) -> BlockRef {
    Arc::new(MemBlock::new(bytes))
}

#[test]
fn wof_files_keep_the_contract_of_a_block() {
    for algorithm in ALL {
        let (stream, content) = wof_stream(algorithm);
        for cache in [UnitCache::new(1 << 20), UnitCache::new(0)] {
            let file = open_wof(mem(stream.clone()), content.len() as u64, algorithm, &cache).unwrap();
            conformance::check(&file, 3);
            conformance::same_bytes(&file, &content, 3);
        }
    }
    let empty = open_wof(mem(Vec::new()), 0, WofAlgorithm::Lzx32K, &UnitCache::new(0)).unwrap();
    conformance::check(&empty, 1);
}

#[test]
fn a_wof_read_in_the_middle_reads_only_its_chunks() {
    let (stream, content) = wof_stream(WofAlgorithm::Xpress8K);
    let stats = Arc::new(vcb_block::Stats::default());
    let stored: BlockRef = Arc::new(vcb_block::StatsBlock::new(mem(stream), Arc::clone(&stats)));
    let file = open_wof(stored, content.len() as u64, WofAlgorithm::Xpress8K, &UnitCache::new(1 << 20)).unwrap();
    let mut byte = [0];
    for offset in [30_000, 30_001, 30_002] {
        file.read_at(&mut byte, offset).unwrap();
        assert_eq!(byte[0], content[offset as usize]);
    }
    assert_eq!(stats.reads(), 2, "one page of the table, one chunk");
    assert!(stats.bytes() < 12_288);
}

#[test]
fn a_wof_table_that_does_not_ascend_is_corrupt() {
    let (stream, content) = wof_stream(WofAlgorithm::Xpress4K);
    for (at, value) in [(0, 0), (0, 5000), (4, 0), (4, u32::MAX), (0, u32::MAX)] {
        let mut bad = stream.clone();
        bad[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        let file = open_wof(mem(bad), content.len() as u64, WofAlgorithm::Xpress4K, &UnitCache::new(0)).unwrap();
        let mut out = vec![0; content.len()];
        assert_eq!(file.read_at(&mut out, 0).unwrap_err().kind(), Kind::Corrupt);
        // Chunks that the damage does not touch are still there.
        let tail = content.len() - 100;
        file.read_at(&mut out[tail..], tail as u64).unwrap();
        assert_eq!(out[tail..], content[tail..]);
    }
    let cut = open_wof(mem(stream[..20].to_vec()), 1 << 20, WofAlgorithm::Xpress4K, &UnitCache::new(0));
    assert_eq!(cut.err().unwrap().kind(), Kind::Corrupt);
}

/// LZNT1 as \[MS-XCA\] 2.5 tells it, one byte at a time; `None` for what cannot be decoded.
fn plainly(mut input: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    while content.len() < len {
        let header = u16::from_le_bytes(*input.first_chunk()?);
        let (stored, rest) = input[2..].split_at_checked(usize::from(header & 0xFFF) + 1)?;
        if header & 0x7000 != 0x3000 {
            return None;
        }
        let mut chunk = Vec::new();
        let mut data = stored.iter().copied();
        while let Some(flags) = data.next().filter(|_| header & 0x8000 != 0) {
            for item in 0..8 {
                let Some(byte) = data.next() else { break };
                if flags >> item & 1 == 0 {
                    chunk.push(byte);
                    continue;
                }
                let copy = u16::from_le_bytes([byte, data.next()?]);
                let mut length_bits = 12;
                while (chunk.len().checked_sub(1)?) >> (16 - length_bits) > 0 {
                    length_bits -= 1;
                }
                let from = chunk.len().checked_sub(usize::from(copy >> length_bits) + 1)?;
                for at in from..from + usize::from(copy & ((1 << length_bits) - 1)) + 3 {
                    chunk.push(chunk[at]);
                }
            }
        }
        if header & 0x8000 == 0 {
            chunk = stored.to_vec();
        }
        let wanted = (len - content.len()).min(4096);
        if chunk.len() < wanted || chunk.len() > 4096 {
            return None;
        }
        content.extend_from_slice(&chunk[..wanted]);
        input = rest;
    }
    Some(content)
}

fn lznt1(input: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut out = vec![0xAA; len];
    decode_lznt1(input, &mut out).ok().map(|()| out)
}

proptest::proptest! {
    #[test]
    fn lznt1_chunks_of_any_bytes_decode_as_the_standard_says(
        data in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..600),
        flags in proptest::option::of(0u8..=255),
        len in 1usize..4096,
    ) {
        // Bytes at random hold few copies that lead anywhere; with flags put in there are more.
        let mut data = data;
        if let Some(flags) = flags {
            data.iter_mut().step_by(9).for_each(|byte| *byte = flags);
            data[0] = 0;
        }
        let mut input = (0xB000 | (data.len() - 1) as u16).to_le_bytes().to_vec();
        input.extend_from_slice(&data);
        proptest::prop_assert_eq!(lznt1(&input, len), plainly(&input, len));
    }

    #[test]
    fn lznt1_content_comes_back_and_damage_is_damage_to_both(
        period in 1usize..40,
        len in 1usize..20_000,
        noise in 1usize..200,
        flip in proptest::prelude::any::<proptest::sample::Index>(),
    ) {
        let content: Vec<u8> = (0..len).map(|i| (i % period + i / noise * i / 977) as u8).collect();
        let mut stored = Vec::new();
        ::lznt1::compress(&content, &mut stored);
        proptest::prop_assert!(lznt1(&stored, len) == Some(content));
        let bit = flip.index(stored.len() * 8);
        stored[bit / 8] ^= 1 << (bit % 8);
        proptest::prop_assert_eq!(lznt1(&stored, len), plainly(&stored, len));
    }
}

struct Stored(Vec<u64>);

impl Allocation for Stored {
    fn stored(&self, range: Range<u64>) -> Result<u64> {
        Ok(self.0.get((range.start / UNIT as u64) as usize).copied().unwrap_or(0))
    }
}

const UNIT: usize = 65_536;

/// An attribute of four units: compressed, hole, as it is, compressed; the last one ends early.
fn compressed(size: u64, valid: u64) -> (Compressed, Vec<u8>) {
    let text: Vec<u8> = (0..UNIT).map(|i| b"a compression unit "[i * i / 977 % 19]).collect();
    let noise: Vec<u8> = (0..UNIT as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 53) as u8).collect();
    let (mut raw, mut stored) = (Vec::new(), Vec::new());
    for content in [Some(&text), None, Some(&noise), Some(&text)] {
        let mut unit = Vec::new();
        match content {
            Some(content) if content == &noise => unit.clone_from(content),
            Some(content) => ::lznt1::compress(content, &mut unit),
            None => {}
        }
        stored.push(unit.len().next_multiple_of(4096) as u64);
        unit.resize(UNIT, 0);
        raw.extend_from_slice(&unit);
    }
    assert!(stored[0] < UNIT as u64);
    let mut content = [text.as_slice(), &[0; UNIT], &noise, &text].concat();
    content[valid as usize..].fill(0);
    content.truncate(size as usize);
    (Compressed { raw: mem(raw), allocation: Arc::new(Stored(stored)), size, valid, unit: UNIT as u32 }, content)
}

#[test]
fn compressed_attributes_keep_the_contract_of_a_block() {
    for (size, valid) in [(262_144, 262_144), (262_001, 262_001), (250_000, 200_001), (131_072, 70_000), (5000, 0)] {
        for cache in [UnitCache::new(4 << 20), UnitCache::new(0)] {
            let (attribute, content) = compressed(size, valid);
            let file = open_compressed(attribute, &cache).unwrap();
            conformance::check(&file, size);
            conformance::same_bytes(&file, &content, size);
        }
    }
}

#[test]
fn units_that_do_not_decode_are_corrupt_and_the_others_readable() {
    let (attribute, content) = compressed(262_144, 262_144);
    let mut raw = vec![0; 4 * UNIT];
    attribute.raw.read_at(&mut raw, 0).unwrap();
    let stored = attribute.allocation.stored(0..1).unwrap() as usize;
    let step = if full() { 1 } else { 997 };
    for bit in (0..stored * 8).step_by(step) {
        let mut bad = raw.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let (attribute, _) = compressed(262_144, 262_144);
        let file = open_compressed(Compressed { raw: mem(bad), ..attribute }, &UnitCache::new(0)).unwrap();
        let mut out = vec![0; UNIT];
        if let Err(err) = file.read_at(&mut out, 0) {
            assert_eq!(err.kind(), Kind::Corrupt);
        }
        file.read_at(&mut out, 2 * UNIT as u64).unwrap();
        assert_eq!(out, content[2 * UNIT..3 * UNIT]);
    }
    // The sign of a chunk that was never written.
    raw[..2].fill(0);
    let file = open_compressed(Compressed { raw: mem(raw), ..attribute }, &UnitCache::new(0)).unwrap();
    assert_eq!(file.read_at(&mut [0; 10], 0).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn a_unit_outside_the_attribute_is_corrupt() {
    let (mut attribute, _) = compressed(262_144, 262_144);
    attribute.raw = mem(vec![0; 3 * UNIT]);
    let file = open_compressed(attribute, &UnitCache::new(0)).unwrap();
    assert_eq!(file.read_at(&mut [0; 10], 3 * UNIT as u64).unwrap_err().kind(), Kind::Corrupt);
    assert!(vcb_block::Runs::of(&file, 3 * UNIT as u64..3 * UNIT as u64 + 1).is_err());
}

#[test]
fn a_read_fault_below_is_passed_on_and_not_cached() {
    let (attribute, content) = compressed(262_144, 262_144);
    let raw: BlockRef = Arc::new(FaultBlock::at(Arc::clone(&attribute.raw), 1, Fault::Eio));
    let file = open_compressed(Compressed { raw, ..attribute }, &UnitCache::new(1 << 20)).unwrap();
    let mut out = vec![0; 1000];
    assert_eq!(file.read_at(&mut out, 100).unwrap_err().kind(), Kind::Io);
    file.read_at(&mut out, 100).unwrap();
    assert_eq!(out, content[100..1100]);
}
