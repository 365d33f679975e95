//! What a volume holds, told by the magic numbers of its first sectors.
//!
//! A probe names a format, it does not check it: opening does that. Offsets are those of each format's own
//! documentation (Microsoft's NTFS, exFAT and FAT specifications, the superblock layouts in the Linux
//! documentation, LVM2's label; VMFS and Storage Spaces as observed).

use std::fmt;

use vcb_block::bytes::{le16, le32, u8_at};
use vcb_block::{BlockRef, Result, plan};

/// Bytes read at the front of a volume: they end after the btrfs superblock, the deepest of those at the front.
const FRONT: usize = 0x1_1000;
/// Where the VMFS volume manager keeps its header.
const VMFS_HEADER: u64 = 0x10_0000;

/// What a volume holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Content {
    /// NTFS.
    Ntfs,
    /// Encrypted by BitLocker.
    BitLocker,
    /// ReFS.
    Refs,
    /// FAT12, FAT16 or FAT32.
    Fat,
    /// exFAT.
    ExFat,
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// A physical volume of the Linux volume manager.
    Lvm,
    /// Encrypted by LUKS.
    Luks,
    /// VMFS.
    Vmfs,
    /// Part of a Windows dynamic disk. Its volumes are laid out by a database of its own, so that nothing
    /// inside may be read by the partition table.
    Ldm,
    /// Part of a Windows storage pool.
    StorageSpaces,
    /// Linux swap space.
    Swap,
    /// Zeros, as far as was looked.
    Empty,
    /// None of these.
    Unknown,
}

impl Content {
    /// The stable word used in messages and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Content::Ntfs => "ntfs",
            Content::BitLocker => "bitlocker",
            Content::Refs => "refs",
            Content::Fat => "fat",
            Content::ExFat => "exfat",
            Content::Ext => "ext",
            Content::Xfs => "xfs",
            Content::Btrfs => "btrfs",
            Content::Lvm => "lvm",
            Content::Luks => "luks",
            Content::Vmfs => "vmfs",
            Content::Ldm => "ldm",
            Content::StorageSpaces => "storage-spaces",
            Content::Swap => "swap",
            Content::Empty => "empty",
            Content::Unknown => "unknown",
        }
    }

    /// True for everything that has a name of its own.
    #[must_use]
    pub fn is_recognised(self) -> bool {
        !matches!(self, Content::Empty | Content::Unknown)
    }

    /// True for formats whose magic is in the sector that a partition table would need.
    pub(super) fn has_boot_sector(self) -> bool {
        use Content::{BitLocker, ExFat, Fat, Luks, Ntfs, Refs, Xfs};
        matches!(self, Ntfs | BitLocker | Refs | Fat | ExFat | Xfs | Luks)
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Looks at the front of `volume`, and at the VMFS header when that tells nothing.
pub(super) fn probe(volume: &BlockRef) -> Result<Content> {
    let mut front = vec![0; usize::try_from(volume.len()).unwrap_or(FRONT).min(FRONT)];
    plan::read(volume, &mut front, 0)?;
    if let Some(content) = probe_front(&front) {
        return Ok(content);
    }
    let mut header = [0; 4];
    if volume.len() >= VMFS_HEADER + header.len() as u64 {
        plan::read(volume, &mut header, VMFS_HEADER)?;
        if u32::from_le_bytes(header) == 0xC001_D00D {
            return Ok(Content::Vmfs);
        }
    }
    Ok(if front.iter().all(|&byte| byte == 0) { Content::Empty } else { Content::Unknown })
}

/// BitLocker To Go keeps a FAT boot sector and tells itself by this GUID at offset 424.
const TO_GO: [u8; 16] =
    [0x3B, 0xD6, 0x67, 0x49, 0x29, 0x2E, 0xD8, 0x4A, 0x83, 0x99, 0xF6, 0xA3, 0x39, 0xE3, 0xD0, 0x01];

fn probe_front(front: &[u8]) -> Option<Content> {
    let has = |offset: usize, magic: &[u8]| front.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let bootable = has(510, &[0x55, 0xAA]);
    let linux_label = || (0..4).any(|sector| has(sector * 512, b"LABELONE") && has(sector * 512 + 24, b"LVM2 001"));
    // Swap space ends its first page with its magic; pages are 4 KiB to 64 KiB.
    let swap = || {
        [4096, 8192, 16_384, 65_536].iter().any(|page| has(page - 10, b"SWAPSPACE2") || has(page - 10, b"SWAP-SPACE"))
    };
    Some(match () {
        () if has(3, b"-FVE-FS-") || (bootable && has(424, &TO_GO)) => Content::BitLocker,
        () if has(3, b"NTFS    ") => Content::Ntfs,
        () if has(3, b"ReFS\0\0\0\0") => Content::Refs,
        () if has(3, b"EXFAT   ") => Content::ExFat,
        () if has(0, b"XFSB") => Content::Xfs,
        () if has(0, b"LUKS\xBA\xBE") => Content::Luks,
        () if has(0x1_0040, b"_BHRfS_M") => Content::Btrfs,
        () if linux_label() => Content::Lvm,
        () if swap() => Content::Swap,
        () if has(1024 + 56, &[0x53, 0xEF]) && le32(front, 1024 + 24)? <= 6 => Content::Ext,
        () if has(4096, b"SPACEDB ") => Content::StorageSpaces,
        () if bootable && is_fat(front) == Some(true) => Content::Fat,
        () => return None,
    })
}

/// A FAT boot sector has no magic of its own: its parameters have to make sense together (the limits of
/// Microsoft's FAT specification 1.03). An MBR has code where they would be.
fn is_fat(sector: &[u8]) -> Option<bool> {
    let jump = matches!((u8_at(sector, 0)?, u8_at(sector, 2)?), (0xEB, 0x90) | (0xE9, _));
    let bytes = le16(sector, 11)?;
    let cluster = u8_at(sector, 13)?;
    let reserved = le16(sector, 14)?;
    let fats = u8_at(sector, 16)?;
    let media = u8_at(sector, 21)?;
    let (small, large) = (le16(sector, 19)?, le32(sector, 32)?);
    Some(
        jump && matches!(bytes, 512 | 1024 | 2048 | 4096)
            && cluster.is_power_of_two()
            && reserved > 0
            && matches!(fats, 1 | 2)
            && (media == 0xF0 || media >= 0xF8)
            && (small != 0 || large != 0),
    )
}
