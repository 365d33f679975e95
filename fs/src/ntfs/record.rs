//! MFT records and the attributes in them, as they are stored.
//!
//! ```text
//! record     0x00 "FILE"  0x04 update sequence offset, count  0x10 sequence  0x14 first attribute
//!            0x16 flags   0x18 bytes in use                   0x20 base record  0x2C own number
//! attribute  0x00 type    0x04 length   0x08 non-resident     0x09 name length, offset  0x0C flags
//!   resident       0x10 value length  0x14 value offset
//!   non-resident   0x10 lowest VCN    0x18 highest VCN  0x20 run list offset  0x22 compression unit
//!                  0x28 allocated     0x30 size         0x38 initialized      0x40 stored (compressed)
//! ```
//! Attributes are sorted by type, and a resident value fills its attribute but for less than 8 bytes: so it is in every
//! record of the corpus, by whomever it was written.
//! Source: "Master File Table" structures in the Windows driver documentation (FILE_RECORD_SEGMENT_HEADER,
//! ATTRIBUTE_RECORD_HEADER); flag values as observed.

use std::sync::Arc;

use vcb_block::bytes::{le16, le32, le64, u8_at};

use super::error::Fault;
use super::name::Utf16;

/// Attribute types.
pub(super) mod kind {
    pub const STANDARD_INFORMATION: u32 = 0x10;
    pub const ATTRIBUTE_LIST: u32 = 0x20;
    pub const FILE_NAME: u32 = 0x30;
    pub const OBJECT_ID: u32 = 0x40;
    pub const SECURITY_DESCRIPTOR: u32 = 0x50;
    pub const VOLUME_NAME: u32 = 0x60;
    pub const VOLUME_INFORMATION: u32 = 0x70;
    pub const DATA: u32 = 0x80;
    pub const INDEX_ROOT: u32 = 0x90;
    pub const INDEX_ALLOCATION: u32 = 0xA0;
    pub const BITMAP: u32 = 0xB0;
    pub const REPARSE_POINT: u32 = 0xC0;
    pub const EA: u32 = 0xE0;
    /// Ends a record.
    pub const END: u32 = 0xFFFF_FFFF;
}

/// True for the types that $AttrDef of any version has: up to LOGGED_UTILITY_STREAM.
fn is_known(kind: u32) -> bool {
    kind.is_multiple_of(0x10) && (0x10..=0x100).contains(&kind)
}

/// True for the types of which a file may have several, by name.
fn is_named(kind: u32) -> bool {
    matches!(kind, kind::DATA | kind::INDEX_ROOT | kind::INDEX_ALLOCATION | kind::BITMAP | 0xF0..)
}

/// Attribute flag: stored in compression units. The low byte is the algorithm.
pub(super) const COMPRESSED: u16 = 0x00FF;
/// The only algorithm of [`COMPRESSED`] that exists.
pub(super) const LZNT1: u16 = 1;
/// Attribute flag: encrypted by EFS.
pub(super) const ENCRYPTED: u16 = 0x4000;
/// Attribute flag: may have holes.
pub(super) const SPARSE: u16 = 0x8000;

/// Record flag: the record is a file's.
const IN_USE: u16 = 1;
/// Record flag: the file is a folder.
const DIRECTORY: u16 = 2;
/// Record flags: the file is in $Extend; it has indexes other than a folder's. Both are NTFS's own files only.
const EXTEND: u16 = 4;
const VIEW_INDEX: u16 = 8;

/// The low 48 bits of a file reference: the record number. The sequence number is above.
pub(super) const NUMBER: u64 = (1 << 48) - 1;

/// Bytes of a record's fixed header.
const HEADER: usize = 0x2A;

/// A file record whose update sequence has been applied and whose header has been checked.
#[derive(Clone)]
pub(super) struct Record {
    /// Its number.
    pub(super) number: u64,
    piece: Arc<[u8]>,
    start: usize,
    len: usize,
}

impl Record {
    /// Record `number`, which is the `len` bytes from `start` of `piece`.
    ///
    /// # Errors
    /// A header that contradicts itself.
    pub(super) fn new(number: u64, piece: Arc<[u8]>, start: usize, len: usize) -> Result<Self, Fault> {
        let record = Record { number, piece, start, len };
        let bytes = record.bytes();
        let used = le32(bytes, 0x18).ok_or(Fault::Short("header"))?;
        if !(HEADER..=len).contains(&(used as usize)) {
            return Err(Fault::Field { field: "bytes in use", value: u64::from(used) });
        }
        // Records of NTFS 3.1 know their number; in older ones the update sequence lies there.
        if le16(bytes, 4).is_some_and(|offset| offset >= 0x30)
            && let Some(own) = le32(bytes, 0x2C)
            && own != number as u32
        {
            return Err(Fault::Field { field: "own record number", value: u64::from(own) });
        }
        Ok(record)
    }

    fn bytes(&self) -> &[u8] {
        self.piece.get(self.start..self.start + self.len).unwrap_or_default()
    }

    fn flags(&self) -> u16 {
        le16(self.bytes(), 0x16).unwrap_or(0)
    }

    /// True when a file or an extension of one uses the record.
    pub(super) fn in_use(&self) -> bool {
        self.flags() & IN_USE != 0
    }

    /// True for a folder's base record.
    pub(super) fn is_dir(&self) -> bool {
        self.flags() & DIRECTORY != 0
    }

    /// True for files of NTFS's own in $Extend, and indexes: some of them have no content.
    pub(super) fn is_own(&self) -> bool {
        self.flags() & (EXTEND | VIEW_INDEX) != 0
    }

    /// Sequence number: how often the record has been reused.
    pub(super) fn sequence(&self) -> u16 {
        le16(self.bytes(), 0x10).unwrap_or(0)
    }

    /// Number and sequence in one.
    pub(super) fn reference(&self) -> u64 {
        self.number | u64::from(self.sequence()) << 48
    }

    /// The file that this record extends; 0 for a base record.
    pub(super) fn base(&self) -> u64 {
        le64(self.bytes(), 0x20).unwrap_or(0)
    }

    /// The attributes, in order.
    pub(super) fn attributes(&self) -> Attributes<'_> {
        let bytes = self.bytes();
        let used = le32(bytes, 0x18).unwrap_or(0) as usize;
        let first = usize::from(le16(bytes, 0x14).unwrap_or(0));
        Attributes { bytes: bytes.get(..used).unwrap_or_default(), at: first.max(HEADER), last: 0, done: false }
    }
}

/// Iterates over the attributes of a record; ends after the first malformed one.
pub(super) struct Attributes<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Type of the attribute before: they are sorted.
    last: u32,
    done: bool,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        match le32(self.bytes, self.at) {
            Some(kind::END) => {
                self.done = true;
                None
            }
            None => {
                self.done = true;
                Some(Err(Fault::Short("end of attributes")))
            }
            Some(kind) => {
                let attribute = match kind < self.last {
                    true => Err(Fault::Attribute { offset: self.at, what: "is out of order" }),
                    false => Attribute::parse(self.bytes, self.at, kind),
                };
                self.last = kind;
                match &attribute {
                    Ok(attribute) => self.at += attribute.len,
                    Err(_) => self.done = true,
                }
                Some(attribute)
            }
        }
    }
}

/// An attribute, or one part of a long one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attribute<'a> {
    /// Type.
    pub(super) kind: u32,
    /// Name, mostly empty.
    pub(super) name: Utf16<'a>,
    /// [`COMPRESSED`], [`ENCRYPTED`], [`SPARSE`].
    pub(super) flags: u16,
    /// Where its bytes are.
    pub(super) form: Form<'a>,
    len: usize,
}

/// Where an attribute's bytes are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form<'a> {
    /// In the record.
    Resident(&'a [u8]),
    /// In clusters.
    NonResident(Part<'a>),
}

/// One part of a non-resident attribute. The sizes are valid in the part at VCN 0 only.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    /// First cluster of the stream that this part describes.
    pub(super) lowest: u64,
    /// Clusters that it describes.
    pub(super) clusters: u64,
    /// Encoded runs.
    pub(super) pairs: &'a [u8],
    /// Log2 of the clusters in a compression unit, 0 when there are none.
    pub(super) unit: u8,
    /// Bytes set aside, holes included.
    pub(super) allocated: u64,
    /// Length in bytes.
    pub(super) size: u64,
    /// Bytes ever written: the rest are zeros.
    pub(super) initialized: u64,
    /// Bytes occupied, holes not included, of a sparse or compressed stream.
    pub(super) stored: Option<u64>,
}

impl<'a> Attribute<'a> {
    fn parse(record: &'a [u8], offset: usize, kind: u32) -> Result<Self, Fault> {
        let fault = |what| Fault::Attribute { offset, what };
        let len = le32(record, offset + 4).ok_or_else(|| fault("has no length"))? as usize;
        if len < 0x18 || !len.is_multiple_of(8) {
            return Err(fault("impossible length"));
        }
        let bytes = offset
            .checked_add(len)
            .and_then(|end| record.get(offset..end))
            .ok_or_else(|| fault("passes the end of the record"))?;
        let short = || fault("is cut off");
        let name_len = 2 * usize::from(u8_at(bytes, 9).ok_or_else(short)?);
        let name_at = usize::from(le16(bytes, 0x0A).ok_or_else(short)?);
        let name = match name_len {
            0 => &[][..],
            _ => bytes.get(name_at..name_at + name_len).ok_or_else(|| fault("its name passes its end"))?,
        };
        if !is_known(kind) || (name_len > 0 && !is_named(kind)) {
            return Err(fault("no attribute has this type, or this type a name"));
        }
        let flags = le16(bytes, 0x0C).ok_or_else(short)?;
        let form = match u8_at(bytes, 8) {
            Some(0) => {
                let size = le32(bytes, 0x10).ok_or_else(short)? as usize;
                let at = usize::from(le16(bytes, 0x14).ok_or_else(short)?);
                let value = bytes.get(at..at + size).ok_or_else(|| fault("its value passes its end"))?;
                // What was shortened or moved by damage leaves a gap that no writer leaves.
                if !at.is_multiple_of(8) || (at + size).next_multiple_of(8) != len {
                    return Err(fault("its value does not fill it"));
                }
                Form::Resident(value)
            }
            Some(1) => Form::NonResident(Part::parse(bytes, flags).map_err(fault)?),
            _ => return Err(fault("is neither resident nor non-resident")),
        };
        Ok(Attribute { kind, name: Utf16(name), flags, form, len })
    }

    /// First cluster of the stream that this part describes; 0 for a resident attribute.
    pub(super) fn lowest(&self) -> u64 {
        match self.form {
            Form::Resident(_) => 0,
            Form::NonResident(part) => part.lowest,
        }
    }

    /// The value of an attribute that NTFS always keeps in the record.
    pub(super) fn resident(&self) -> Result<&'a [u8], Fault> {
        match self.form {
            Form::Resident(value) => Ok(value),
            Form::NonResident(_) => Err(Fault::Field { field: "non-resident attribute", value: u64::from(self.kind) }),
        }
    }

    /// Length in bytes; of the whole attribute when this is its first part.
    pub(super) fn size(&self) -> u64 {
        match self.form {
            Form::Resident(value) => value.len() as u64,
            Form::NonResident(part) => part.size,
        }
    }

    /// Bytes of clusters occupied.
    pub(super) fn occupied(&self) -> u64 {
        match self.form {
            Form::Resident(_) => 0,
            Form::NonResident(part) => part.stored.unwrap_or(part.allocated),
        }
    }
}

impl<'a> Part<'a> {
    fn parse(bytes: &'a [u8], flags: u16) -> Result<Self, &'static str> {
        const SHORT: &str = "is cut off";
        let lowest = le64(bytes, 0x10).ok_or(SHORT)?;
        let highest = le64(bytes, 0x18).ok_or(SHORT)?;
        // An attribute without clusters ends at -1.
        let clusters = highest.wrapping_add(1).checked_sub(lowest).ok_or("ends before it begins")?;
        let pairs_at = usize::from(le16(bytes, 0x20).ok_or(SHORT)?);
        if pairs_at < 0x40 {
            return Err("its run list lies in its header");
        }
        let pairs = bytes.get(pairs_at..).ok_or("its run list passes its end")?;
        let has_stored = flags & (COMPRESSED | SPARSE) != 0 && lowest == 0 && pairs_at >= 0x48;
        Ok(Part {
            lowest,
            clusters,
            pairs,
            unit: u8_at(bytes, 0x22).ok_or(SHORT)?,
            allocated: le64(bytes, 0x28).ok_or(SHORT)?,
            size: le64(bytes, 0x30).ok_or(SHORT)?,
            initialized: le64(bytes, 0x38).ok_or(SHORT)?,
            stored: if has_stored { le64(bytes, 0x40) } else { None },
        })
    }
}
