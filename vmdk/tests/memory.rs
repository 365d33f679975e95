//! A large disk must not need memory in proportion to its metadata.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::Memory;
use vcb_block::{Block, Result, Runs, check_range};
use vcb_vmdk::{Cache, Disk, OpenOptions};

const TIB: u64 = 1 << 40;
const SECTORS: u64 = 2 * TIB / 512;
const GRAINS: u64 = SECTORS / 8;
const TABLES: u64 = GRAINS / 4096;
/// First sectors of the regions.
const DIRECTORY: u64 = 2048;
const TABLE_REGION: u64 = DIRECTORY + TABLES / 64;
const DATA: u64 = TABLE_REGION + TABLES * 64;

/// An SEsparse extent of 2 TiB, every grain stored, no two neighbours together. It is computed as it is read.
struct Shuffled;

fn entry(grain: u64) -> u64 {
    let place = grain.wrapping_mul(0x9E37_79B1) % GRAINS;
    3 << 60 | (place & 0xFFF) << 48 | place >> 12
}

/// The 64 bits at index `word` of the file.
fn word(word: u64) -> u64 {
    let sector = word / 64;
    let header = [0xCAFE_BABE, 0x2_0000_0001, SECTORS, 8, 64, 0, 0, 0, 0, 0, 1, 1, 2, 2, 4, 4, DIRECTORY, TABLES / 64];
    let rest = [TABLE_REGION, TABLES * 64, 0, 0, 0, 0, DATA, SECTORS];
    match sector {
        0 => header.iter().chain(&rest).copied().nth(word as usize).unwrap_or(0),
        1 if word == 64 => 0xCAFE_CAFE,
        DIRECTORY..TABLE_REGION => 1 << 60 | (word - DIRECTORY * 64),
        TABLE_REGION..DATA => entry(word - TABLE_REGION * 64),
        _ => 0,
    }
}

impl Block for Shuffled {
    fn len(&self) -> u64 {
        (DATA + SECTORS) * 512
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.len(), offset, buf.len() as u64)?;
        assert_eq!(offset % 8, 0, "metadata is read in whole entries");
        for (index, bytes) in (offset / 8..).zip(buf.chunks_mut(8)) {
            bytes.copy_from_slice(&word(index).to_le_bytes()[..bytes.len()]);
        }
        Ok(())
    }
}

#[test]
fn two_tib_of_shuffled_grains_stay_within_the_cache() {
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"seSparse\"\n\
         RW {SECTORS} SESPARSE \"x-sesparse.vmdk\"\n"
    );
    let files = Memory::new([("x.vmdk".to_owned(), text.into_bytes())]).with("x-sesparse.vmdk", Arc::new(Shuffled));
    let budget = 4 << 20;
    let cache = Cache::new(budget);
    let mut options = OpenOptions::default();
    options.cache = Some(cache.clone());
    let disk = Disk::open(Arc::new(files), "x.vmdk", &options).unwrap();
    assert_eq!(disk.len(), 2 * TIB);
    for table in 0..2000 {
        let at = table * 7919 % TABLES * (16 << 20) + 12_345;
        let runs = Runs::of(disk.block(), at..at + 65_536).unwrap();
        assert!(runs.as_slice().len() >= 16, "shuffled");
        assert!(cache.bytes() <= budget, "{} bytes cached", cache.bytes());
    }
    assert!(cache.bytes() > budget / 2, "the cache was used");
}
