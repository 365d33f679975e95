//! The disk descriptor that stands beside a served image. Its form is VMware's *Virtual Disk Format 5.0*.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use vcb_block::{Error, Kind, Result};

use super::file::LAYER;
use crate::vm::OpenDisk;

const SECTOR: u64 = 512;

/// How the one extent of a served disk is described. Both are the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ImageType {
    /// `createType="vmfs"`: as on an ESX host.
    #[default]
    Vmfs,
    /// `createType="monolithicFlat"`: as of Workstation.
    MonolithicFlat,
}

/// The descriptor of `disk`, whose content is in `flat`.
///
/// # Errors
/// `Unsupported` for a length that is not a number of sectors, or a name that a descriptor cannot hold.
pub(super) fn text(disk: &OpenDisk, flat: &str, image: ImageType) -> Result<String> {
    let len = disk.block.len();
    if !len.is_multiple_of(SECTOR) {
        return Err(Error::unsupported(LAYER, format!("a disk of {len} bytes, which is no number of sectors")));
    }
    if flat.contains(['"', '\n', '\r']) {
        return Err(Error::new(Kind::Unsupported, LAYER, format!("no descriptor can name the file {flat:?}")));
    }
    let sectors = len / SECTOR;
    let (create, extent) = match image {
        ImageType::Vmfs => ("vmfs", format!("RW {sectors} VMFS \"{flat}\"")),
        ImageType::MonolithicFlat => ("monolithicFlat", format!("RW {sectors} FLAT \"{flat}\" 0")),
    };
    let mut text = format!(
        "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={:08x}\nparentCID=ffffffff\n\
         isNativeSnapshot=\"no\"\ncreateType=\"{create}\"\n\n# Extent description\n{extent}\n\n\
         # The Disk Data Base\n#DDB\n\n",
        content_id(disk)
    );
    let adapter = if disk.adapter.is_empty() { "lsilogic" } else { &disk.adapter };
    let mut entries = vec![("ddb.adapterType".to_owned(), adapter.to_owned())];
    entries.extend(disk.uuid.iter().map(|uuid| ("ddb.uuid".to_owned(), uuid.clone())));
    entries.extend(disk.ddb.iter().cloned());
    for (index, (key, value)) in entries.iter().enumerate() {
        let again = entries[..index].iter().any(|(known, _)| known.eq_ignore_ascii_case(key));
        let plain = key.starts_with("ddb.") && !key.contains(['=', '\n', '\r']) && !value.contains(['"', '\n', '\r']);
        if plain && !again {
            writeln!(text, "{key} = \"{value}\"").map_err(|err| Error::new(Kind::Io, LAYER, err))?;
        }
    }
    Ok(text)
}

/// A content id that is the same at every mount: a hash of what names the disk and of its time. All ones
/// would mean "no parent", and all ones but the last is what a fresh disk has.
fn content_id(disk: &OpenDisk) -> u32 {
    // FNV-1a; any hash would do.
    let mut hash = 0x811C_9DC5_u32;
    let time = disk.modified.map_or(0, |time| time.0).to_le_bytes();
    let uuid = disk.uuid.as_deref().unwrap_or_default();
    for byte in disk.file_name.bytes().chain(uuid.bytes()).chain(time) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    hash & 0x7FFF_FFFF
}
