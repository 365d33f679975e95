//! What is known about a file, gathered in one pass over its attributes.

use vcb_block::bytes::{le32, le64};
use vcb_block::{BlockRef, Error, Kind, Result};

use super::codec::{self, WofAlgorithm};
use super::dir::FileName;
use super::error::{Fault, LAYER};
use super::file::{Content, File};
use super::name::{self, Utf16};
use super::record::{COMPRESSED, ENCRYPTED, Form, LZNT1, NUMBER, SPARSE, kind};
use super::reparse;
use super::volume::Ntfs;
use crate::{Attr, FileId, FileType, Name, Stream, Time, Unreadable};

/// FILE_ATTRIBUTE_DIRECTORY, which $STANDARD_INFORMATION leaves out.
const DOS_DIRECTORY: u32 = 0x10;
/// SPARSE_FILE, OFFLINE, RECALL_ON_OPEN and RECALL_ON_DATA_ACCESS: a cloud file with none of them, and whose
/// data attribute is not sparse, has all of its content on the volume (observed with OneDrive).
const PARTIAL: u32 = 0x200 | 0x1000 | 0x4_0000 | 0x40_0000;
/// Longest reparse data: MAXIMUM_REPARSE_DATA_BUFFER_SIZE of [MS-FSCC], and the header.
const MAX_REPARSE: u64 = (16 << 10) + 24;
/// Records below this one are NTFS's own; some of them have no content.
const FIRST_USER: u64 = 24;

/// The stream that holds a file compressed by the Windows Overlay Filter.
const WOF_STREAM: &str = "WofCompressedData";

/// $STANDARD_INFORMATION.
///
/// ```text
/// 0x00 created  0x08 written  0x10 changed  0x18 read  0x20 attributes  0x24 versions kept  0x28 version
/// 0x34 security id (NTFS 3)
/// ```
/// A folder with version 1 and no versions kept compares names case-sensitively (observed, Windows 10).
pub(super) struct Standard {
    times: [Time; 4],
    attributes: u32,
    /// Names in the folder that differ in case only are different names.
    pub(super) case_sensitive: bool,
    /// Key of $Secure:$SII, 0 when the descriptor is an attribute.
    pub(super) security: u32,
}

impl Standard {
    /// That of `file`, which every file has.
    pub(super) fn of(file: &File<'_>) -> Result<Self> {
        let mut standard = None;
        let wanted = |k, _: Utf16<'_>, _| k == kind::STANDARD_INFORMATION;
        file.visit(wanted, |attribute| {
            standard = Some(Standard::parse(attribute.resident()?)?);
            Ok(())
        })?;
        standard.ok_or_else(|| Fault::Missing("$STANDARD_INFORMATION").in_record(file.number()))
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        const SHORT: Fault = Fault::Short("standard information");
        let mut times = [Time::default(); 4];
        for (index, time) in times.iter_mut().enumerate() {
            *time = Time(le64(bytes, 8 * index).ok_or(SHORT)?);
        }
        Ok(Standard {
            times,
            attributes: le32(bytes, 0x20).ok_or(SHORT)?,
            case_sensitive: le32(bytes, 0x24) == Some(0) && le32(bytes, 0x28) == Some(1),
            security: le32(bytes, 0x34).unwrap_or(0),
        })
    }
}

/// What a pass over the attributes collects.
#[derive(Default)]
struct Found {
    standard: Option<Standard>,
    links: u32,
    data: Option<(u64, u64, u16)>,
    compressed: u64,
    index: u64,
    tag: Option<u32>,
    long_reparse: bool,
    named: bool,
}

impl Ntfs {
    /// Attributes of a file; with a folder and a name, only when that is one of the file's names.
    pub(super) fn attributes(&self, id: FileId, known_as: Option<(FileId, &Name)>) -> Result<Attr> {
        let file = File::open(&self.mft, id.0)?;
        let known_as = known_as.map(|(dir, name)| (dir.0, name::units(name).unwrap_or_default()));
        let mut found = Found::default();
        let wanted = |k, _: Utf16<'_>, lowest| {
            lowest == 0
                && matches!(
                    k,
                    kind::STANDARD_INFORMATION
                        | kind::FILE_NAME
                        | kind::DATA
                        | kind::INDEX_ALLOCATION
                        | kind::REPARSE_POINT
                )
        };
        file.visit(wanted, |attribute| {
            match (attribute.kind, attribute.form) {
                (kind::STANDARD_INFORMATION, _) => found.standard = Some(Standard::parse(attribute.resident()?)?),
                (kind::FILE_NAME, _) => {
                    let name = FileName::parse(attribute.resident()?)?;
                    found.links += u32::from(!name.is_dos());
                    found.named |= !name.is_dos()
                        && known_as.as_ref().is_some_and(|(dir, units)| {
                            name.folder & NUMBER == dir & NUMBER && name.name.units().eq(units.iter().copied())
                        });
                }
                (kind::DATA, _) if attribute.name.0.is_empty() => {
                    found.data = Some((attribute.size(), attribute.occupied(), attribute.flags));
                }
                (kind::DATA, _) if attribute.name.is(WOF_STREAM) => found.compressed = attribute.occupied(),
                (kind::INDEX_ALLOCATION, _) => found.index = attribute.size(),
                (kind::REPARSE_POINT, Form::Resident(value)) => found.tag = Some(reparse::split(value)?.0),
                (kind::REPARSE_POINT, Form::NonResident(_)) => found.long_reparse = true,
                _ => {}
            }
            Ok(())
        })?;
        if known_as.is_some() && !found.named {
            return Err(Fault::Mismatch("the name that its folder has for it").in_record(file.number()));
        }
        if found.long_reparse {
            found.tag = self.reparse(&file)?.map(|(tag, _)| tag);
        }
        self.summary(&file, found)
    }

    fn summary(&self, file: &File<'_>, found: Found) -> Result<Attr> {
        let Some(standard) = found.standard else {
            return Err(Fault::Missing("$STANDARD_INFORMATION").in_record(file.number()));
        };
        let dir = file.base.is_dir();
        let tag = found.tag.unwrap_or(0);
        let kind = reparse::file_type(tag, dir);
        let (size, stored, flags) = found.data.unwrap_or_default();
        let allocated = if tag == reparse::WOF { found.compressed } else { stored };
        let partial = standard.attributes & PARTIAL != 0 || flags & SPARSE != 0;
        let unreadable = match kind {
            FileType::File if flags & ENCRYPTED != 0 => Some(Unreadable::Encrypted),
            FileType::File => reparse::unreadable(tag, partial).or_else(|| {
                let lost = found.data.is_none() && file.number() >= FIRST_USER && !file.base.is_own();
                lost.then(|| Unreadable::Other("the file has no data attribute".to_owned()))
            }),
            _ => None,
        };
        let [created, modified, changed, accessed] = standard.times;
        Ok(Attr {
            id: FileId(file.base.reference()),
            kind,
            size: if dir { found.index } else { size },
            allocated: if dir { found.index } else { allocated },
            links: found.links,
            modified,
            changed,
            accessed,
            created,
            dos: standard.attributes | if dir { DOS_DIRECTORY } else { 0 },
            reparse_tag: tag,
            case_sensitive: dir && standard.case_sensitive,
            unreadable,
        })
    }

    /// Reparse tag and data, when the file has any.
    pub(super) fn reparse(&self, file: &File<'_>) -> Result<Option<(u32, Vec<u8>)>> {
        let Some(bytes) = file.bytes(kind::REPARSE_POINT, MAX_REPARSE)? else { return Ok(None) };
        let (tag, data) = reparse::split(&bytes).map_err(|fault| fault.in_record(file.number()))?;
        Ok(Some((tag, data.to_vec())))
    }

    pub(super) fn open_data(&self, id: FileId, stream: Option<&Name>) -> Result<BlockRef> {
        let file = File::open(&self.mft, id.0)?;
        match stream {
            None => self.content(&file, &self.attributes(id, None)?),
            Some(stream) => self.named(&file, stream),
        }
    }

    fn content(&self, file: &File<'_>, attr: &Attr) -> Result<BlockRef> {
        if let Some(why) = &attr.unreadable {
            return Err(Fault::Unsupported(why.to_string()).in_record(file.number()));
        }
        match attr.kind {
            FileType::File if attr.reparse_tag == reparse::WOF => return self.overlay(file, attr.size),
            FileType::File | FileType::Other => {}
            FileType::Dir | FileType::Symlink => {
                let text = format!("MFT record {} is a folder or a link", file.number());
                return Err(Error::new(Kind::WrongType, LAYER, text));
            }
        }
        match file.content(kind::DATA, Utf16::default())? {
            Some(content) => self.block(file, content),
            // Files that are an index, and the devices and sockets of subsystems.
            None => file.plain(Content::Resident(Vec::new()), kind::DATA),
        }
    }

    fn named(&self, file: &File<'_>, stream: &Name) -> Result<BlockRef> {
        let missing = || Error::new(Kind::NotFound, LAYER, format!("no stream {:?}", String::from_utf8_lossy(stream)));
        let units = name::units(stream).filter(|units| !units.is_empty()).ok_or_else(missing)?;
        let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        match file.content(kind::DATA, Utf16(&bytes))? {
            Some(content) => self.block(file, content),
            None => Err(missing()),
        }
    }

    /// The content, of length `size`, of a file compressed by the Windows Overlay Filter.
    fn overlay(&self, file: &File<'_>, size: u64) -> Result<BlockRef> {
        let in_file = |fault: Fault| fault.in_record(file.number());
        let data = self.reparse(file)?.map(|(_, data)| data).unwrap_or_default();
        let algorithm = WofAlgorithm::from_number(reparse::wof(&data).map_err(in_file)?)?;
        let name: Vec<u8> = WOF_STREAM.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let stored = file.content(kind::DATA, Utf16(&name))?.ok_or_else(|| in_file(Fault::Missing(WOF_STREAM)))?;
        codec::open_wof(self.block(file, stored)?, size, algorithm, &self.units)
    }

    /// The content of a data attribute, decoded.
    fn block(&self, file: &File<'_>, content: Content) -> Result<BlockRef> {
        let unsupported = |text: String| Err(Fault::Unsupported(text).in_record(file.number()));
        match &content {
            Content::Clusters(clusters) if clusters.flags & ENCRYPTED != 0 => {
                unsupported(Unreadable::Encrypted.to_string())
            }
            Content::Clusters(clusters) => match clusters.flags & COMPRESSED {
                0 => file.plain(content, kind::DATA),
                LZNT1 => clusters.compressed(&self.mft, &self.units),
                other => unsupported(format!("compressed with algorithm {other}")),
            },
            Content::Resident(_) => file.plain(content, kind::DATA),
        }
    }

    pub(super) fn named_streams(&self, id: FileId) -> Result<Vec<Stream>> {
        let file = File::open(&self.mft, id.0)?;
        let mut streams = Vec::new();
        let wanted = |k, name: Utf16<'_>, lowest| k == kind::DATA && lowest == 0 && !name.0.is_empty();
        file.visit(wanted, |attribute| {
            streams.push(Stream { name: attribute.name.to_wtf8(), size: attribute.size() });
            Ok(())
        })?;
        // What the filter driver hides from Windows programs is the file's content in another form.
        if streams.iter().any(|stream| stream.name == WOF_STREAM.as_bytes())
            && self.reparse(&file)?.is_some_and(|(tag, _)| tag == reparse::WOF)
        {
            streams.retain(|stream| stream.name != WOF_STREAM.as_bytes());
        }
        Ok(streams)
    }
}
