//! The file system descriptor (FSD) and what follows from it: where things lie and how long they are.
//!
//! Layout: docs/formats/vmfs.md, section "File system descriptor".

use std::fmt;
use std::time::Duration;

use vcb_block::bytes::{array, le16, le32, le64};
use vcb_block::{BlockRef, Result};

use super::error::{corrupt, short, unsupported};
use super::uuid::Uuid;

/// Volume offset of the FSD.
pub(super) const FSD: u64 = 0x20_0000;
const STRUCTURE: &str = "file system descriptor";
const MAGIC: u32 = 0x2FAB_F15E;
/// VMFS-L: the local variant on ESXi boot devices, same layout.
const MAGIC_LOCAL: u32 = 0x2FAB_F15F;
const MIB: u64 = 1 << 20;
/// A host writes its heartbeat every few seconds and loses its locks after this long without (the value
/// that VMFS-6 records; older versions record none).
const LEASE: Duration = Duration::from_secs(16);
/// Bit of the configuration word: sub-block addresses of VMFS-5 carry two more item bits.
const DENSE_SUB_BLOCKS: u32 = 4;

/// Generation of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// VMFS-3.
    V3,
    /// VMFS-5.
    V5,
    /// VMFS-6.
    V6,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::V3 => "VMFS-3",
            Version::V5 => "VMFS-5",
            Version::V6 => "VMFS-6",
        })
    }
}

/// The numbers of a volume.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    pub version: Version,
    pub uuid: Uuid,
    pub label: Vec<u8>,
    pub dense_sub_blocks: bool,
    /// Bytes of a file block.
    pub file_block: u64,
    /// Bytes of a sub-block.
    pub sub_block: u64,
    /// File blocks per large file block, as a shift.
    pub large_block_shift: u32,
    /// Offset of the first group in resource files.
    pub first_group: u64,
    /// Clusters per group of `.fdc.sf`.
    clusters_per_group: u64,
    pub lvm: (Uuid, u32),
    pub lease: Duration,
}

impl Geometry {
    /// True when `volume` has an FSD magic.
    pub(super) fn present(volume: &BlockRef) -> Result<bool> {
        let mut raw = [0; 4];
        if volume.len() < FSD + 512 {
            return Ok(false);
        }
        volume.read_at(&mut raw, FSD)?;
        Ok(matches!(u32::from_le_bytes(raw), MAGIC | MAGIC_LOCAL))
    }

    pub(super) fn read(volume: &BlockRef) -> Result<Geometry> {
        let mut raw = [0; 512];
        volume.read_at(&mut raw, FSD)?;
        Self::parse(&raw).map_err(|err| err.at(FSD))
    }

    fn parse(raw: &[u8]) -> Result<Geometry> {
        let end = || short(STRUCTURE);
        let word = |offset| le32(raw, offset).ok_or_else(end);
        let magic = word(0)?;
        if magic != MAGIC && magic != MAGIC_LOCAL {
            return Err(corrupt(STRUCTURE, "magic", magic.into(), format!("{MAGIC:#x} or {MAGIC_LOCAL:#x}")));
        }
        let version = match word(4)? {
            4..=13 => Version::V3,
            14..=23 => Version::V5,
            24 => Version::V6,
            other => return Err(unsupported(STRUCTURE, "major version", other.into(), "4 to 24")),
        };
        let label = raw.get(0x1D..0x1D + 128).ok_or_else(end)?;
        let label = label.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        let file_block = le64(raw, 0xA1).ok_or_else(end)?;
        let block_fits = match version {
            Version::V3 => [MIB, 2 * MIB, 4 * MIB, 8 * MIB].contains(&file_block),
            Version::V5 => [MIB / 2, MIB, 2 * MIB, 4 * MIB, 8 * MIB].contains(&file_block),
            Version::V6 => file_block == MIB,
        };
        if !block_fits {
            return Err(unsupported(STRUCTURE, "file block size", file_block, "a block size of this version"));
        }
        let sub_block = u64::from(word(0xD9)?);
        if ![8 << 10, 32 << 10, 64 << 10].contains(&sub_block) {
            return Err(unsupported(STRUCTURE, "sub-block size", sub_block, "8, 32 or 64 KiB"));
        }
        let first_group = u64::from(word(0xD1)?);
        if first_group == 0 || first_group > 16 * MIB {
            return Err(corrupt(STRUCTURE, "first group of .fdc.sf", first_group, "within 16 MiB"));
        }
        let clusters_per_group = u64::from(word(0xD5)?);
        if clusters_per_group == 0 || clusters_per_group > 4096 {
            return Err(corrupt(STRUCTURE, "clusters per group", clusters_per_group, "1 to 4096"));
        }
        let (mut large_block_shift, mut lease) = (0, LEASE);
        if version == Version::V6 {
            let align = word(0x134)?;
            if align != 4096 {
                return Err(unsupported(STRUCTURE, "metadata alignment", align.into(), "4096"));
            }
            if sub_block != 64 << 10 {
                return Err(unsupported(STRUCTURE, "sub-block size", sub_block, "64 KiB"));
            }
            large_block_shift = u32::from(le16(raw, 0x138).ok_or_else(end)?);
            if large_block_shift != 9 {
                return Err(unsupported(STRUCTURE, "large block shift", large_block_shift.into(), "9"));
            }
            lease = match word(0x14C)? {
                0 => LEASE,
                millis => Duration::from_millis(millis.into()).min(Duration::from_secs(60)),
            };
        }
        Ok(Geometry {
            version,
            uuid: Uuid(array(raw, 9).ok_or_else(end)?),
            label,
            dense_sub_blocks: version == Version::V5 && word(0x19)? & DENSE_SUB_BLOCKS != 0,
            file_block,
            sub_block,
            large_block_shift,
            first_group,
            clusters_per_group,
            lvm: (Uuid(array(raw, 0xB1).ok_or_else(end)?), word(0xC1)?),
            lease,
        })
    }

    /// Unit of metadata: a lock block is this long.
    pub(super) fn metadata_align(&self) -> u64 {
        if self.version == Version::V6 { 4096 } else { 512 }
    }

    /// Bytes of a file descriptor.
    pub(super) fn descriptor_len(&self) -> usize {
        if self.version == Version::V6 { 8192 } else { 2048 }
    }

    /// Bytes of a pointer on disk.
    pub(super) fn pointer_len(&self) -> usize {
        if self.version == Version::V6 { 8 } else { 4 }
    }

    /// Pointers in a pointer block.
    pub(super) fn pointers_per_block(&self) -> u64 {
        if self.version == Version::V6 { self.sub_block / 8 } else { 1024 }
    }

    /// Bytes of the header of a cluster in a resource file.
    pub(super) fn cluster_header(&self) -> u64 {
        2 * self.metadata_align()
    }

    /// Bytes of a large file block, 0 when the version has none.
    pub(super) fn large_block(&self) -> u64 {
        if self.version == Version::V6 { self.file_block << self.large_block_shift } else { 0 }
    }

    /// Volume offset of file descriptor `number` of cluster 0, where the system files are.
    pub(super) fn system_descriptor(&self, number: u64) -> u64 {
        let base = match self.version {
            Version::V6 => 7 * MIB,
            Version::V3 | Version::V5 => (4 * MIB).next_multiple_of(self.file_block),
        };
        let headers = self.clusters_per_group * self.cluster_header();
        base + self.first_group + headers + number * self.descriptor_len() as u64
    }
}
