//! A file: its base record, and the records that its attribute list names.
//!
//! Attributes are found by type, name and lowest VCN. Instance numbers are unique within one record only
//! and say nothing about which parts belong together.

use std::ops::Range;
use std::sync::Arc;

use vcb_block::bytes::{le16, le32, le64, u8_at};
use vcb_block::{BlockRef, Error, MemBlock, Result};

use super::codec::{self, Allocation, Compressed, UnitCache};
use super::error::{Fault, LAYER};
use super::mft::Mft;
use super::name::Utf16;
use super::record::{Attribute, COMPRESSED, ENCRYPTED, Form, NUMBER, Record, kind};
use super::runlist::RunList;
use super::stream::StreamBlock;

/// Longest attribute list: Windows keeps it in one cache view of 256 KiB and makes none longer.
const MAX_LIST: u64 = 256 << 10;

/// An entry of an attribute list.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listed {
    kind: u32,
    name: Box<[u8]>,
    lowest: u64,
    record: u64,
}

/// A file and its attributes.
pub(super) struct File<'m> {
    mft: &'m Mft,
    /// The record that its reference names.
    pub(super) base: Record,
    /// Sorted, without repetitions; `None` when the base record holds everything.
    list: Option<Vec<Listed>>,
}

/// The content of an attribute.
pub(super) enum Content {
    /// Bytes kept in the record.
    Resident(Vec<u8>),
    /// Clusters.
    Clusters(Clusters),
}

/// A whole non-resident attribute.
pub(super) struct Clusters {
    /// Of the first part.
    pub(super) flags: u16,
    /// Log2 of the clusters in a compression unit.
    pub(super) unit: u8,
    /// Length in bytes.
    pub(super) size: u64,
    /// Bytes ever written.
    pub(super) initialized: u64,
    /// Where they are.
    pub(super) runs: Arc<RunList>,
}

impl<'m> File<'m> {
    /// The file that `reference` names.
    pub(super) fn open(mft: &'m Mft, reference: u64) -> Result<Self> {
        Self::new(mft, mft.referenced(reference)?)
    }

    /// The file whose base record is `base`.
    pub(super) fn new(mft: &'m Mft, base: Record) -> Result<Self> {
        if base.base() != 0 {
            return Err(Fault::Base { found: base.base(), expected: 0 }.in_record(base.number));
        }
        let mut file = File { mft, base, list: None };
        file.list = file.read_list()?;
        Ok(file)
    }

    fn read_list(&self) -> Result<Option<Vec<Listed>>> {
        let in_base = |fault: Fault| fault.in_record(self.base.number);
        for attribute in self.base.attributes() {
            let attribute = attribute.map_err(in_base)?;
            if attribute.kind != kind::ATTRIBUTE_LIST {
                continue;
            }
            let size = attribute.size();
            if size > MAX_LIST {
                return Err(in_base(Fault::Limit {
                    what: "length of the attribute list",
                    value: size,
                    limit: MAX_LIST,
                }));
            }
            let bytes = match attribute.form {
                Form::Resident(value) => value.to_vec(),
                Form::NonResident(_) => {
                    let mut whole = Parts::new(self.mft);
                    whole.add(&attribute).map_err(in_base)?;
                    let content = whole.finish(kind::ATTRIBUTE_LIST).map_err(in_base)?;
                    self.read_all(content, kind::ATTRIBUTE_LIST, MAX_LIST)?
                }
            };
            let mut list = parse_list(&bytes).map_err(in_base)?;
            list.sort_unstable();
            list.dedup();
            return Ok(Some(list));
        }
        Ok(None)
    }

    /// Number of the base record.
    pub(super) fn number(&self) -> u64 {
        self.base.number
    }

    /// Calls `each` for every attribute part that `want` accepts by type, name and lowest VCN, parts of one
    /// attribute in ascending order. Records that hold none of them are not read.
    ///
    /// # Errors
    /// Damage of the records read, an attribute that is listed and missing, whatever `each` returns.
    pub(super) fn visit(
        &self,
        want: impl Fn(u32, Utf16<'_>, u64) -> bool,
        mut each: impl FnMut(&Attribute<'_>) -> Result<(), Fault>,
    ) -> Result<()> {
        let Some(list) = &self.list else {
            for attribute in self.base.attributes() {
                attribute
                    .and_then(|found| match want(found.kind, found.name, found.lowest()) {
                        true => each(&found),
                        false => Ok(()),
                    })
                    .map_err(|fault| fault.in_record(self.base.number))?;
            }
            return Ok(());
        };
        for listed in list.iter().filter(|listed| want(listed.kind, Utf16(&listed.name), listed.lowest)) {
            let record = self.record(listed)?;
            let mut there = false;
            for attribute in record.attributes() {
                let attribute = attribute.map_err(|fault| fault.in_record(record.number))?;
                // Several $FILE_NAMEs share one key; the list was rid of repetitions.
                if attribute.kind == listed.kind
                    && attribute.name.0 == &*listed.name
                    && attribute.lowest() == listed.lowest
                {
                    there = true;
                    each(&attribute).map_err(|fault| fault.in_record(record.number))?;
                }
            }
            if !there {
                let fault = Fault::Unlisted { kind: listed.kind, vcn: listed.lowest, record: record.number };
                return Err(fault.in_record(self.base.number));
            }
        }
        Ok(())
    }

    fn record(&self, listed: &Listed) -> Result<Record> {
        if listed.record & NUMBER == self.base.number {
            return Ok(self.base.clone());
        }
        let record = self.mft.referenced(listed.record)?;
        let (found, expected) = (record.base(), self.base.reference());
        if found != expected {
            return Err(Fault::Base { found, expected }.in_record(record.number));
        }
        Ok(record)
    }

    /// The whole attribute of that type and name, `None` when the file has none.
    pub(super) fn content(&self, kind: u32, name: Utf16<'_>) -> Result<Option<Content>> {
        let mut parts = Parts::new(self.mft);
        self.visit(|k, n, _| k == kind && n == name, |attribute| parts.add(attribute))?;
        if parts.is_empty() {
            return Ok(None);
        }
        parts.finish(kind).map(Some).map_err(|fault| fault.in_record(self.base.number))
    }

    /// Appends to `runs` the next part of the unnamed attribute of that type, which must exist.
    pub(super) fn append_part(&self, kind: u32, runs: &mut RunList) -> Result<()> {
        let next = runs.clusters();
        let clusters = self.mft.geometry.clusters;
        self.visit(
            |k, name, lowest| k == kind && name.0.is_empty() && lowest == next,
            |attribute| match attribute.form {
                Form::NonResident(part) if part.clusters > 0 && runs.clusters() == next => {
                    runs.append(part.pairs, part.clusters, clusters)
                }
                _ => Err(Fault::Gap { kind, vcn: next }),
            },
        )?;
        if runs.clusters() == next {
            return Err(Fault::Gap { kind, vcn: next }.in_record(self.base.number));
        }
        Ok(())
    }

    /// The content as a block, when it is stored plainly.
    pub(super) fn plain(&self, content: Content, kind: u32) -> Result<BlockRef> {
        let clusters = match content {
            Content::Resident(bytes) => return Ok(Arc::new(MemBlock::new(bytes))),
            Content::Clusters(clusters) => clusters,
        };
        if clusters.flags & (COMPRESSED | ENCRYPTED) != 0 {
            let text = format!("attribute {kind:#x} is compressed or encrypted, and metadata never is");
            return Err(Fault::Unsupported(text).in_record(self.base.number));
        }
        Ok(Arc::new(clusters.block(self.mft)))
    }

    /// All bytes of plainly stored content of at most `limit`.
    pub(super) fn read_all(&self, content: Content, kind: u32, limit: u64) -> Result<Vec<u8>> {
        let block = match content {
            Content::Resident(bytes) => return Ok(bytes),
            Content::Clusters(_) => self.plain(content, kind)?,
        };
        if block.len() > limit {
            let fault = Fault::Limit { what: "length of an attribute", value: block.len(), limit };
            return Err(fault.in_record(self.base.number));
        }
        let mut bytes = vec![0; block.len() as usize];
        block.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// All bytes of an unnamed attribute of at most `limit`, `None` when the file has none.
    pub(super) fn bytes(&self, kind: u32, limit: u64) -> Result<Option<Vec<u8>>> {
        match self.content(kind, Utf16::default())? {
            Some(content) => self.read_all(content, kind, limit).map(Some),
            None => Ok(None),
        }
    }
}

impl Clusters {
    /// The stream as it reads: `size` bytes, zeros where nothing was written.
    pub(super) fn block(&self, mft: &Mft) -> StreamBlock {
        let shift = mft.geometry.cluster_shift();
        StreamBlock::new(mft.volume.clone(), self.runs.clone(), shift, self.size, self.initialized)
    }

    /// The content of a stream stored in compression units.
    pub(super) fn compressed(&self, mft: &Mft, cache: &Arc<UnitCache>) -> Result<BlockRef> {
        let shift = mft.geometry.cluster_shift();
        let stored = self.runs.clusters() << shift;
        let unit = mft.geometry.cluster.checked_shl(self.unit.into()).unwrap_or(0);
        let raw = StreamBlock::new(mft.volume.clone(), self.runs.clone(), shift, stored, stored);
        let allocation = Arc::new(Allocated { runs: self.runs.clone(), shift });
        let valid = self.initialized.min(self.size);
        codec::open_compressed(Compressed { raw: Arc::new(raw), allocation, size: self.size, valid, unit }, cache)
    }
}

/// What a run list says about compression units.
struct Allocated {
    runs: Arc<RunList>,
    shift: u32,
}

impl Allocation for Allocated {
    fn stored(&self, range: Range<u64>) -> Result<u64> {
        let (mut position, mut stored, mut hole) = (range.start, 0, false);
        for run in self.runs.from(range.start >> self.shift) {
            if position >= range.end {
                break;
            }
            let stop = ((run.vcn + run.len) << self.shift).min(range.end);
            match run.lcn() {
                Some(_) if hole => {
                    let text = "a compression unit has clusters behind a hole";
                    return Err(Error::corrupt(LAYER, text).at(position));
                }
                Some(_) => stored += stop - position,
                None => hole = true,
            }
            position = stop;
        }
        Ok(stored)
    }
}

/// Puts the parts of one attribute together.
struct Parts<'m> {
    mft: &'m Mft,
    resident: Option<Vec<u8>>,
    /// Flags, unit, size and initialized size, which the part at VCN 0 has.
    first: Option<(u16, u8, u64, u64)>,
    runs: RunList,
}

impl<'m> Parts<'m> {
    fn new(mft: &'m Mft) -> Self {
        Parts { mft, resident: None, first: None, runs: RunList::default() }
    }

    fn is_empty(&self) -> bool {
        self.resident.is_none() && self.first.is_none()
    }

    fn add(&mut self, attribute: &Attribute<'_>) -> Result<(), Fault> {
        let part = match attribute.form {
            Form::Resident(_) if !self.is_empty() => return Err(Fault::Twice("attribute of one type and name")),
            // On a folder's index the flag only says that new files are to be encrypted.
            Form::Resident(_) if attribute.kind == kind::DATA && attribute.flags & ENCRYPTED != 0 => {
                return Err(Fault::Unsupported("encrypted, yet in its record".to_owned()));
            }
            Form::Resident(value) => {
                self.resident = Some(value.to_vec());
                return Ok(());
            }
            Form::NonResident(part) => part,
        };
        let vcn = self.runs.clusters();
        if part.lowest < vcn || self.resident.is_some() || (part.lowest == 0 && self.first.is_some()) {
            return Err(Fault::Twice("attribute of one type and name"));
        }
        if part.lowest > vcn {
            return Err(Fault::Gap { kind: attribute.kind, vcn });
        }
        if self.first.is_none() {
            self.first = Some((attribute.flags, part.unit, part.size, part.initialized));
        }
        let geometry = &self.mft.geometry;
        let end = part.lowest.saturating_add(part.clusters);
        // Byte offsets are signed 64-bit numbers everywhere in Windows.
        if end > i64::MAX as u64 >> geometry.cluster_shift() {
            return Err(Fault::Field { field: "highest VCN", value: end });
        }
        self.runs.append(part.pairs, part.clusters, geometry.clusters)
    }

    fn finish(self, kind: u32) -> Result<Content, Fault> {
        if let Some(value) = self.resident {
            return Ok(Content::Resident(value));
        }
        let Some((flags, unit, size, initialized)) = self.first else {
            return Err(Fault::Gap { kind, vcn: 0 });
        };
        let allocated = self.runs.clusters() << self.mft.geometry.cluster_shift();
        if size > allocated {
            return Err(Fault::Unallocated { kind, size, allocated });
        }
        Ok(Content::Clusters(Clusters { flags, unit, size, initialized, runs: Arc::new(self.runs) }))
    }
}

/// ```text
/// 0x00 type  0x04 length  0x06 name length, offset  0x08 lowest VCN  0x10 record  0x18 instance  name
/// ```
pub(super) fn parse_list(mut bytes: &[u8]) -> Result<Vec<Listed>, Fault> {
    const SHORT: Fault = Fault::Short("attribute list entry");
    let mut list = Vec::new();
    while !bytes.is_empty() {
        let len = usize::from(le16(bytes, 4).ok_or(SHORT)?);
        if len < 0x1A || len > bytes.len() {
            return Err(Fault::Field { field: "length of an attribute list entry", value: len as u64 });
        }
        let (entry, rest) = bytes.split_at(len);
        let name_len = 2 * usize::from(u8_at(entry, 6).ok_or(SHORT)?);
        let name_at = usize::from(u8_at(entry, 7).ok_or(SHORT)?);
        let name = match name_len {
            0 => &[][..],
            _ => entry.get(name_at..name_at + name_len).ok_or(Fault::Short("attribute list name"))?,
        };
        list.push(Listed {
            kind: le32(entry, 0).ok_or(SHORT)?,
            name: name.into(),
            lowest: le64(entry, 8).ok_or(SHORT)?,
            record: le64(entry, 0x10).ok_or(SHORT)?,
        });
        bytes = rest;
    }
    Ok(list)
}
