//! File descriptors: VMFS's inodes.
//!
//! ```text
//!             VMFS-3/5                        VMFS-6
//!  lock       0        …                      0        …
//!  metadata   0x200    …                      0x1000   …
//!  resident   0x400    1024 bytes (VMFS-5)    0x1200   3584 bytes
//!  pointers   0x400    256 × u32              0x1600   320 × u64
//! ```
//! Layout: docs/formats/vmfs.md, section "File descriptor".

use vcb_block::bytes::{le32, le64, u8_at};
use vcb_block::{Block, Error, Kind, Result};

use super::error::{LAYER, VmfsError, corrupt, moved, short, unsupported};
use super::geometry::{Geometry, Version};
use super::lock::Lock;

const STRUCTURE: &str = "file descriptor";
/// Signature of VMFS-6 descriptors, "fdmd".
const SIGNATURE: u32 = 0x6664_6D64;
/// Times a structure is read before we say that it does not hold still. Hosts write a descriptor a few
/// times a second at most.
const TRIES: usize = 8;

/// Type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Dir,
    File,
    Symlink,
    System,
    /// A mapping file of a raw device.
    Rdm,
}

impl FileKind {
    pub(super) fn of(raw: u32) -> Option<FileKind> {
        Some(match raw {
            2 => FileKind::Dir,
            3 => FileKind::File,
            4 => FileKind::Symlink,
            5 => FileKind::System,
            6 => FileKind::Rdm,
            _ => return None,
        })
    }
}

/// Where the content is, by the "zero level address" of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// In the descriptor itself.
    Resident,
    /// The descriptor's pointers, over this many levels of pointer blocks.
    Pointers { levels: u32 },
    /// Nowhere: a raw device mapping.
    Device,
}

/// A file descriptor.
#[derive(Debug, Clone)]
pub(super) struct Descriptor {
    pub address: u32,
    pub generation: u32,
    pub links: u32,
    pub kind: FileKind,
    pub mode: u32,
    pub size: u64,
    pub block_size: u64,
    pub blocks: u64,
    pub modified: u32,
    pub created: u32,
    pub accessed: u32,
    pub layout: Layout,
    /// Address of the parent folder's descriptor, 0 when it is not recorded.
    pub parent: u32,
    /// Unit in which blocks can be marked to be zeroed, in bytes; 0 when it is not recorded.
    pub zeroing_unit: u64,
    pub lock: Lock,
    /// Resident bytes, device id or pointers, as they are on disk.
    body: Vec<u8>,
}

impl Descriptor {
    /// Reads the descriptor at `place` of `volume`, which must be that of `address`.
    pub(super) fn read(volume: &dyn Block, place: u64, geometry: &Geometry, address: u32) -> Result<Descriptor> {
        let raw = read_stable(volume, place, geometry.descriptor_len(), STRUCTURE)?;
        Self::parse(&raw, geometry, place, address).map_err(|err| err.at(place))
    }

    fn parse(raw: &[u8], geometry: &Geometry, place: u64, address: u32) -> Result<Descriptor> {
        let end = || short(STRUCTURE);
        let lock = Lock::parse(raw)?;
        if lock.own_offset != place {
            return Err(corrupt("lock block", "own offset", lock.own_offset, format!("{place:#x}")));
        }
        let six = geometry.version == Version::V6;
        let meta = raw.get(geometry.metadata_align() as usize..).ok_or_else(end)?;
        let word = |offset| le32(meta, offset).ok_or_else(end);
        let own = word(0)?;
        if own != address {
            return Err(corrupt(STRUCTURE, "address", own.into(), format!("{address:#x}")));
        }
        if six && word(0x64)? != SIGNATURE {
            return Err(corrupt(STRUCTURE, "signature", word(0x64)?.into(), format!("{SIGNATURE:#x}")));
        }
        let kind = word(0x0C)?;
        let kind = FileKind::of(kind).ok_or_else(|| unsupported(STRUCTURE, "type", kind.into(), "2 to 6"))?;
        let size = le64(meta, 0x14).ok_or_else(end)?;
        let block_size = le64(meta, 0x1C).ok_or_else(end)?;
        let level = word(0x44)?;
        let layout = match (kind, level) {
            (FileKind::Rdm, _) => Layout::Device,
            (_, 1 | 2) => Layout::Pointers { levels: 0 },
            (_, 3 | 5) => Layout::Pointers { levels: 1 },
            (_, 4304) if geometry.version != Version::V3 => Layout::Pointers { levels: 2 },
            (_, 4305) if geometry.version != Version::V3 => Layout::Resident,
            (_, other) => {
                return Err(unsupported(STRUCTURE, "zero level address", other.into(), "1, 2, 3, 5, 4304 or 4305"));
            }
        };
        let sizes = [geometry.file_block, geometry.sub_block, geometry.large_block()];
        if kind != FileKind::Rdm && (block_size == 0 || !sizes.contains(&block_size)) {
            return Err(corrupt(STRUCTURE, "block size", block_size, "that of a file block or a sub-block"));
        }
        let shift = if geometry.version == Version::V3 { 0 } else { u8_at(meta, 0x89).ok_or_else(end)? };
        if shift != 0 && 1u64.checked_shl(shift.into()) != Some(block_size) {
            return Err(corrupt(STRUCTURE, "block shift", shift.into(), format!("that of {block_size} bytes")));
        }
        let body = match (six, layout) {
            (true, Layout::Pointers { .. }) => 0x1600..0x2000,
            (true, _) => 0x1200..0x2000,
            (false, _) => 0x400..0x800,
        };
        let body = raw.get(body).ok_or_else(end)?.to_vec();
        let reach = match layout {
            Layout::Resident => body.len() as u64,
            Layout::Device => u64::MAX,
            Layout::Pointers { levels } => {
                let pointers = (body.len() / geometry.pointer_len()) as u64;
                geometry.pointers_per_block().pow(levels).saturating_mul(pointers).saturating_mul(block_size)
            }
        };
        if size > reach {
            return Err(corrupt(STRUCTURE, "size", size, format!("at most {reach:#x}, the reach of its pointers")));
        }
        let granularity = if geometry.version == Version::V3 { 0 } else { word(0x6C)? };
        Ok(Descriptor {
            address,
            generation: word(4)?,
            links: word(8)?,
            kind,
            mode: word(0x40)?,
            size,
            block_size,
            blocks: le64(meta, 0x24).ok_or_else(end)?,
            modified: word(0x2C)?,
            created: word(0x30)?,
            accessed: word(0x34)?,
            layout,
            parent: if geometry.version == Version::V3 { 0 } else { word(0x70)? },
            zeroing_unit: if granularity == 0 { 0 } else { 1u64.checked_shl(granularity).unwrap_or(0) },
            lock,
            body,
        })
    }

    /// Resident content, or the id of the device of a mapping file.
    pub(super) fn resident(&self) -> &[u8] {
        &self.body
    }

    /// Pointer number `index` of the descriptor; `None` past the last.
    pub(super) fn pointer(&self, index: u64, geometry: &Geometry) -> Option<u64> {
        pointer(&self.body, index, geometry)
    }

    /// Fails when `now`, the same descriptor read later, no longer describes the same content.
    ///
    /// Times are left out: a host may touch them without a change of content.
    pub(super) fn still(&self, now: &Descriptor) -> Result<()> {
        let same = self.generation == now.generation
            && self.kind == now.kind
            && self.size == now.size
            && self.block_size == now.block_size
            && self.blocks == now.blocks
            && self.layout == now.layout
            && self.body == now.body;
        if !same {
            return Err(moved("the file descriptor"));
        }
        if self.lock.version != now.lock.version {
            return Err(moved("the version of the file's lock"));
        }
        Ok(())
    }
}

/// Pointer number `index` of a table of pointers.
pub(super) fn pointer(table: &[u8], index: u64, geometry: &Geometry) -> Option<u64> {
    let at = usize::try_from(index).ok()?.checked_mul(geometry.pointer_len())?;
    if geometry.version == Version::V6 { le64(table, at) } else { le32(table, at).map(u64::from) }
}

/// Reads a structure until two readings one after the other are equal, so that one that a host is just
/// writing is not taken half old and half new.
pub(super) fn read_stable(block: &dyn Block, offset: u64, len: usize, what: &'static str) -> Result<Vec<u8>> {
    let (mut one, mut two) = (vec![0; len], vec![0; len]);
    block.read_at(&mut one, offset)?;
    for _ in 0..TRIES {
        block.read_at(&mut two, offset)?;
        if one == two {
            return Ok(one);
        }
        std::mem::swap(&mut one, &mut two);
    }
    Err(Error::new(Kind::Changed, LAYER, VmfsError::Unstable(what)).at(offset))
}
