//! Block addresses: 32 bits in VMFS-3 and 5, 64 bits in VMFS-6; the low three bits say what is addressed.
//!
//! ```text
//!              VMFS-3/5 (u32)                           VMFS-6 (u64)
//!  1 FB        zeroed b5, block b6–31                   zeroed b7–14, cluster b15–45, item b51–63
//!  7 LFB       –                                        zeroed b7–14, number b15–45
//!  2 SB        cluster b6–27, item b28–31 (+ b3–4)      cluster b6–41, item b56–63
//!  3 PB, 5 PB2 cluster b6–27, item b28–31               cluster b6–41, item b56–63
//!  4 FD        cluster b6–21, item b22–31               the same 32 bits
//! ```
//! "Zeroed" (to be zeroed) blocks are allocated but were never written: the disk holds whatever was there
//! before, and the file reads as zeros. Source: docs/formats/vmfs.md, section "Addresses".

use vcb_block::Result;

use super::error::{corrupt, unsupported};
use super::geometry::{Geometry, Version};

/// File blocks per cluster of the VMFS-6 block bitmap; checked against `.fbb.sf` when a volume is opened.
pub(super) const BLOCKS_PER_CLUSTER: u64 = 512;

/// An item of a resource file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Item {
    pub cluster: u64,
    pub item: u64,
}

/// What a pointer points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Address {
    Hole,
    /// A file block, by number.
    File {
        block: u64,
        zeroed: u8,
    },
    /// A large file block, by number.
    Large {
        number: u64,
        zeroed: u8,
    },
    SubBlock(Item),
    PointerBlock(Item),
    /// A pointer block of the second kind, which maps system files.
    PointerBlock2(Item),
}

fn bits(value: u64, low: u32, count: u32) -> u64 {
    value >> low & ((1 << count) - 1)
}

/// Bits of an address of this type that we have no use for: reserved ones, and the copy-on-write mark.
fn unknown_bits(kind: u64, six: bool, dense: bool) -> u64 {
    const fn field(low: u32, high: u32) -> u64 {
        u64::MAX >> (63 - (high - low)) << low
    }
    match (kind, six) {
        (1, true) => field(3, 6) | field(46, 50),
        (7, true) => field(3, 6) | field(46, 63),
        (_, true) => field(3, 5) | field(42, 55),
        (1, false) => field(3, 4) | field(32, 63),
        (2, false) if dense => field(5, 5) | field(32, 63),
        (_, false) => field(3, 5) | field(32, 63),
    }
}

impl Address {
    /// Decodes a pointer of a file or of a pointer block.
    pub(super) fn decode(raw: u64, geometry: &Geometry) -> Result<Address> {
        // A zero pointer is a hole; anything else must say what it is.
        if raw == 0 {
            return Ok(Address::Hole);
        }
        let six = geometry.version == Version::V6;
        let unknown = raw & unknown_bits(raw & 7, six, geometry.dense_sub_blocks);
        if unknown != 0 {
            return Err(unsupported("block pointer", "copy-on-write mark or reserved bits", unknown, "0"));
        }
        let item = if six {
            Item { cluster: bits(raw, 6, 36), item: bits(raw, 56, 8) }
        } else {
            Item { cluster: bits(raw, 6, 22), item: bits(raw, 28, 4) }
        };
        Ok(match raw & 7 {
            1 if six => {
                let block = bits(raw, 15, 31) * BLOCKS_PER_CLUSTER + bits(raw, 51, 13);
                if bits(raw, 51, 13) >= BLOCKS_PER_CLUSTER {
                    return Err(corrupt("block pointer", "item", bits(raw, 51, 13), "below 512"));
                }
                Address::File { block, zeroed: bits(raw, 7, 8) as u8 }
            }
            1 => Address::File { block: bits(raw, 6, 26), zeroed: bits(raw, 5, 1) as u8 },
            7 if six => Address::Large { number: bits(raw, 15, 31), zeroed: bits(raw, 7, 8) as u8 },
            2 if geometry.dense_sub_blocks => {
                Address::SubBlock(Item { item: item.item | bits(raw, 3, 2) << 4, ..item })
            }
            2 => Address::SubBlock(item),
            3 => Address::PointerBlock(item),
            5 => Address::PointerBlock2(item),
            other => return Err(unsupported("block pointer", "type", other, "1, 2, 3, 5 or 7")),
        })
    }
}

/// The item of `.fdc.sf` that a file descriptor address names; `None` when it is the address of something
/// else.
pub(super) fn descriptor_item(address: u32) -> Option<Item> {
    let raw = u64::from(address);
    (raw & 7 == 4).then(|| Item { cluster: bits(raw, 6, 16), item: bits(raw, 22, 10) })
}

/// The address of file descriptor `number` of cluster 0.
pub(super) fn system_address(number: u32) -> u32 {
    4 | number << 22
}
