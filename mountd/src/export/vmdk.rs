//! What both written VMDK formats share: the sparse header and the descriptor.
//!
//! Source: "Virtual Disk Format 5.0", VMware technical note, sections on hosted sparse extents and
//! stream-optimized compressed disks.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use super::GRAIN;

/// Bytes of a sector.
pub(super) const SECTOR: u64 = 512;
/// Sectors of a grain.
pub(super) const GRAIN_SECTORS: u64 = GRAIN as u64 / SECTOR;
/// Entries of a grain table, fixed by the format.
pub(super) const TABLE_ENTRIES: u64 = 512;
/// Sectors of a grain table.
pub(super) const TABLE_SECTORS: u64 = TABLE_ENTRIES * 4 / SECTOR;
/// Sectors kept for the descriptor, as VMware's own tools keep them.
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;
/// In place of the grain directory's sector: it is named by the footer.
pub(super) const DIRECTORY_AT_END: u64 = u64::MAX;

/// Flags: newline test valid, redundant grain directory in use.
pub(super) const FLAGS_SPARSE: u32 = 0x3;
/// Flags: newline test valid, grains compressed, markers in use.
pub(super) const FLAGS_STREAM: u32 = 0x3_0001;

/// The fields of a sparse header that differ.
pub(super) struct Header {
    pub version: u32,
    pub flags: u32,
    /// Sectors of the disk.
    pub capacity: u64,
    /// First sector of the redundant grain directory, 0 when there is none.
    pub redundant_directory: u64,
    /// First sector of the grain directory.
    pub directory: u64,
    /// Sectors before the first grain.
    pub overhead: u64,
    /// 0 for none, 1 for deflate.
    pub compression: u16,
}

impl Header {
    pub fn bytes(&self) -> [u8; SECTOR as usize] {
        let mut bytes = [0; SECTOR as usize];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, b"KDMV");
        put(4, &self.version.to_le_bytes());
        put(8, &self.flags.to_le_bytes());
        put(12, &self.capacity.to_le_bytes());
        put(20, &GRAIN_SECTORS.to_le_bytes());
        put(28, &1u64.to_le_bytes()); // The descriptor follows the header.
        put(36, &DESCRIPTOR_SECTORS.to_le_bytes());
        put(44, &(TABLE_ENTRIES as u32).to_le_bytes());
        put(48, &self.redundant_directory.to_le_bytes());
        put(56, &self.directory.to_le_bytes());
        put(64, &self.overhead.to_le_bytes());
        put(73, b"\n \r\n"); // Shows whether a transfer as text has damaged the file.
        put(77, &self.compression.to_le_bytes());
        bytes
    }
}

/// The descriptor inside the file, padded to its place.
pub(super) fn descriptor(create_type: &str, file_name: &str, sectors: u64, adapter: &str) -> Vec<u8> {
    // A content id only has to differ from that of the disk's next state.
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos() ^ time.as_secs() as u32);
    let cid = now & 0x7fff_ffff;
    let heads = if adapter == "ide" { 16 } else { 255 };
    let mut text = String::new();
    let _ = write!(
        text,
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n\n\
         # Extent description\nRW {sectors} SPARSE \"{file_name}\"\n\n\
         # The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"{}\"\n\
         ddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"{adapter}\"\n",
        sectors / (heads * 63)
    );
    let mut bytes = text.into_bytes();
    bytes.resize((DESCRIPTOR_SECTORS * SECTOR) as usize, 0);
    bytes
}

/// Grain table entries or grain directory entries as bytes.
pub(super) fn entries(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
