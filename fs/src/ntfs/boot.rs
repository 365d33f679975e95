//! The boot sector: sizes, and where the $MFT is.
//!
//! Layout: "BPB and extended BPB fields on NTFS volumes", Windows Server documentation. Sectors per
//! cluster above 0x80 are a negative power of two (observed on volumes with clusters of 256 KiB to 2 MiB).

use vcb_block::bytes::{array, le16, le64, u8_at};
use vcb_block::{BlockRef, Result};

use super::error::{Fault, Place};

/// Longest sector: 4 KiB, "4K native" disks.
const MAX_SECTOR: u64 = 4096;
/// Longest cluster: Windows makes none beyond 2 MiB.
const MAX_CLUSTER: u64 = 2 << 20;
/// Longest MFT record: Windows makes 1 KiB, and 4 KiB on 4K native disks.
const MAX_RECORD: u64 = 4096;
/// Bytes of the boot sector that hold fields.
const BOOT_BYTES: usize = 512;

/// Sizes and places of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes per sector.
    pub sector: u32,
    /// Bytes per cluster.
    pub cluster: u32,
    /// Whole clusters that both the boot sector and the block under it have.
    pub clusters: u64,
    /// Bytes per MFT record.
    pub record: u32,
    /// First cluster of the $MFT.
    pub mft: u64,
    /// First cluster of $MFTMirr, the copy of the first records.
    pub mirror: u64,
    /// Volume serial number.
    pub serial: u64,
    /// True when the block ends before the volume does.
    pub truncated: bool,
}

impl Geometry {
    /// Reads and checks the boot sector of `volume`.
    pub(super) fn read(volume: &BlockRef) -> Result<Self> {
        let mut boot = [0; BOOT_BYTES];
        if volume.len() < BOOT_BYTES as u64 {
            return Err(Fault::Short("boot sector").at(Place::Boot));
        }
        volume.read_at(&mut boot, 0)?;
        Self::parse(&boot, volume.len()).map_err(|fault| fault.at(Place::Boot).at(0))
    }

    pub(super) fn parse(boot: &[u8], volume_len: u64) -> Result<Self, Fault> {
        if boot.get(3..11) != Some(b"NTFS    ") {
            return Err(Fault::Signature { found: array(boot, 3).unwrap_or_default(), expected: "NTFS" });
        }
        let short = || Fault::Short("boot sector fields");
        let sector = u64::from(le16(boot, 0x0B).ok_or_else(short)?);
        if !(512..=MAX_SECTOR).contains(&sector) || !sector.is_power_of_two() {
            return Err(Fault::Field { field: "bytes per sector", value: sector });
        }
        let factor = u8_at(boot, 0x0D).ok_or_else(short)?;
        let cluster = match factor {
            0..=0x80 => sector * u64::from(factor),
            _ => 1u64.checked_shl(256 - u32::from(factor)).unwrap_or(0).saturating_mul(sector),
        };
        if !(sector..=MAX_CLUSTER).contains(&cluster) || !cluster.is_power_of_two() {
            return Err(Fault::Field { field: "sectors per cluster", value: u64::from(factor) });
        }
        let code = u8_at(boot, 0x40).ok_or_else(short)?;
        let record = match code {
            0..=0x7F => cluster.saturating_mul(u64::from(code)),
            _ => 1u64.checked_shl(256 - u32::from(code)).unwrap_or(0),
        };
        if !(512..=MAX_RECORD).contains(&record) || !record.is_power_of_two() {
            return Err(Fault::Field { field: "clusters per MFT record", value: u64::from(code) });
        }
        let sectors = le64(boot, 0x28).ok_or_else(short)?;
        let bytes = sectors
            .checked_mul(sector)
            .filter(|&bytes| bytes >= cluster)
            .ok_or(Fault::Field { field: "total sectors", value: sectors })?;
        let clusters = bytes.min(volume_len) / cluster;
        let place = |offset, field| {
            let lcn = le64(boot, offset).ok_or_else(short)?;
            if lcn == 0 || lcn >= bytes / cluster {
                return Err(Fault::Field { field, value: lcn });
            }
            Ok(lcn)
        };
        Ok(Geometry {
            sector: sector as u32,
            cluster: cluster as u32,
            clusters,
            record: record as u32,
            mft: place(0x30, "cluster of the $MFT")?,
            mirror: place(0x38, "cluster of $MFTMirr")?,
            serial: le64(boot, 0x48).ok_or_else(short)?,
            truncated: bytes > volume_len,
        })
    }

    /// Log2 of the cluster size.
    pub(super) fn cluster_shift(&self) -> u32 {
        self.cluster.trailing_zeros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(sector: u16, factor: u8, record: u8) -> Vec<u8> {
        let mut boot = vec![0; 512];
        boot[3..11].copy_from_slice(b"NTFS    ");
        boot[0x0B..0x0D].copy_from_slice(&sector.to_le_bytes());
        boot[0x0D] = factor;
        boot[0x28..0x30].copy_from_slice(&(1u64 << 20).to_le_bytes());
        boot[0x30] = 4;
        boot[0x38] = 2;
        boot[0x40] = record;
        boot
    }

    fn sizes(sector: u16, factor: u8, record: u8) -> Option<(u32, u32)> {
        let boot = boot(sector, factor, record);
        Geometry::parse(&boot, 1 << 40).ok().map(|geometry| (geometry.cluster, geometry.record))
    }

    #[test]
    fn sizes_of_every_kind_of_volume() {
        assert_eq!(sizes(512, 1, 2), Some((512, 1024)));
        assert_eq!(sizes(512, 8, 0xF6), Some((4096, 1024)));
        assert_eq!(sizes(512, 128, 0xF6), Some((65536, 1024)));
        assert_eq!(sizes(512, 0xF4, 0xF6), Some((2 << 20, 1024)));
        assert_eq!(sizes(4096, 1, 0xF4), Some((4096, 4096)));
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for (sector, factor, record) in [
            (0, 8, 0xF6),
            (520, 8, 0xF6),
            (512, 0, 0xF6),
            (512, 3, 0xF6),
            (512, 0xF3, 0xF6),
            (512, 8, 0),
            (512, 8, 0x80),
        ] {
            assert_eq!(sizes(sector, factor, record), None, "{sector} {factor} {record}");
        }
        let mut wild = boot(512, 8, 0xF6);
        wild[0x28..0x30].fill(0xFF);
        assert!(matches!(Geometry::parse(&wild, 1 << 40), Err(Fault::Field { field: "total sectors", .. })));
    }
}
