//! Folders: entries in index order, and looking up names.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use vcb_block::bytes::{le32, le64, u8_at};
use vcb_block::{Error, Kind, Result};

use super::attr::Standard;
use super::error::{Fault, LAYER};
use super::file::File;
use super::index::Index;
use super::name::{self, Utf16};
use super::node::Entry;
use super::record::{NUMBER, kind};
use super::volume::Ntfs;
use super::{ROOT, reparse};
use crate::{DirEntry, FileId, FileType, Name, NameBuf};

/// Records 0 to 15 are NTFS's own files; among them is the root.
const FIRST_USER: u64 = 16;

/// `$I30`, the name of folder indexes, as stored.
pub(super) const I30: Utf16<'static> = Utf16(b"$\0I\x003\x000\0");

/// FILE_ATTRIBUTE_REPARSE_POINT.
const REPARSE: u32 = 0x400;
/// Set in $FILE_NAME for folders.
const FOLDER: u32 = 0x1000_0000;
/// Namespace of names made up for DOS.
const DOS: u8 = 2;

/// An open folder.
pub(super) struct Folder {
    index: Index,
    case_sensitive: bool,
    /// The index was found to be whole and in order.
    sound: OnceLock<()>,
}

/// A $FILE_NAME: an attribute of the file and the key of its folder's index.
///
/// ```text
/// 0x00 folder  0x08 times  0x28 sizes  0x38 attributes  0x3C reparse tag  0x40 length  0x41 namespace  0x42 name
/// ```
pub(super) struct FileName<'a> {
    /// Reference of the folder.
    pub(super) folder: u64,
    /// The name.
    pub(super) name: Utf16<'a>,
    attributes: u32,
    tag: u32,
    namespace: u8,
}

impl<'a> FileName<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        const SHORT: Fault = Fault::Short("file name");
        let len = 2 * usize::from(u8_at(bytes, 0x40).ok_or(SHORT)?);
        Ok(FileName {
            folder: le64(bytes, 0).ok_or(SHORT)?,
            name: Utf16(bytes.get(0x42..0x42 + len).ok_or(SHORT)?),
            attributes: le32(bytes, 0x38).ok_or(SHORT)?,
            tag: le32(bytes, 0x3C).ok_or(SHORT)?,
            namespace: u8_at(bytes, 0x41).ok_or(SHORT)?,
        })
    }

    /// The key of a folder's entry.
    fn of(entry: &'a Entry<'_>) -> Result<Self> {
        let name = FileName::parse(entry.key).map_err(|fault| fault.at(entry.place))?;
        if entry.key.len() != 0x42 + name.name.0.len() {
            return Err(entry.fault("has a name of another length than its key"));
        }
        Ok(name)
    }

    /// True for a short name that stands beside a real one.
    pub(super) fn is_dos(&self) -> bool {
        self.namespace == DOS
    }

    fn file_type(&self) -> FileType {
        let dir = self.attributes & FOLDER != 0;
        let tag = if self.attributes & REPARSE != 0 { self.tag } else { 0 };
        reparse::file_type(tag, dir)
    }
}

impl Ntfs {
    /// An open folder, from the cache.
    fn folder(&self, dir: FileId) -> Result<Arc<Folder>> {
        if let Some(folder) = self.folders.get(&dir.0) {
            return Ok(folder);
        }
        let file = File::open(&self.mft, dir.0)?;
        if !file.base.is_dir() {
            return Err(Error::new(Kind::WrongType, LAYER, format!("MFT record {} is not a folder", file.number())));
        }
        let index = Index::open(&self.mft, &file, I30)?;
        let weight = index.weight();
        let case_sensitive = Standard::of(&file)?.case_sensitive;
        let folder = Arc::new(Folder { index, case_sensitive, sound: OnceLock::new() });
        self.folders.insert(dir.0, Arc::clone(&folder), weight);
        Ok(folder)
    }

    /// NTFS's own files, and the root's entry for itself. The files must agree, so that a damaged reference does not
    /// hide another one.
    fn is_hidden(&self, dir: FileId, found: &FileName<'_>, entry: u64) -> bool {
        dir.0 & NUMBER == ROOT
            && match entry & NUMBER {
                ROOT => found.name.is("."),
                0..FIRST_USER if !self.options.metafiles => {
                    matches!(self.own_name(dir, entry, |own| own == found.name), Ok(Some(_)))
                }
                _ => false,
            }
    }

    /// Whether a file says that `dir` has a name for it that `is_it` accepts, and then whether that is for DOS only.
    fn own_name(&self, dir: FileId, file: u64, is_it: impl Fn(Utf16<'_>) -> bool) -> Result<Option<bool>> {
        let mut own_name = None;
        let wanted = |k, _: Utf16<'_>, _| k == kind::FILE_NAME;
        File::open(&self.mft, file)?.visit(wanted, |attribute| {
            let own = FileName::parse(attribute.resident()?)?;
            if own.folder & NUMBER == dir.0 & NUMBER && is_it(own.name) {
                own_name = Some(own_name.unwrap_or(false) || own.is_dos());
            }
            Ok(())
        })?;
        Ok(own_name)
    }

    /// True when the file agrees that the folder has its name for DOS only: it stands beside a real one, and is left
    /// out. A file that cannot be read does not contradict; its other name tells.
    fn is_for_dos(&self, dir: FileId, found: &FileName<'_>, entry: u64) -> bool {
        self.own_name(dir, entry, |own| own == found.name).map_or(true, |own| own == Some(true))
    }

    fn is_left_out(&self, dir: FileId, found: &FileName<'_>, entry: u64) -> bool {
        self.is_hidden(dir, found, entry) || (found.is_dos() && self.is_for_dos(dir, found, entry))
    }

    pub(super) fn walk(
        &self,
        dir: FileId,
        cookie: u64,
        each: &mut dyn FnMut(DirEntry) -> ControlFlow<()>,
    ) -> Result<()> {
        let folder = self.folder(dir)?;
        let index = &folder.index;
        let mut resumed = cookie == 0;
        let mut last: Vec<u8> = Vec::new();
        let mut cursor = match cookie {
            0 => index.first(&self.nodes)?,
            _ => {
                let Some(key) = index.key_at(&self.nodes, cookie)? else {
                    let text = format!("no entry of MFT record {} is at position {cookie:#x}", dir.0 & NUMBER);
                    return Err(Error::new(Kind::OutOfRange, LAYER, text));
                };
                let target = FileName::parse(&key).map_err(|fault| fault.in_record(dir.0 & NUMBER))?;
                let cursor = index.seek(&self.nodes, |key| self.compare(key, target.name))?;
                last.extend_from_slice(target.name.0);
                cursor
            }
        };
        while let Some(entry) = cursor.next()? {
            let found = FileName::of(&entry)?;
            if !resumed {
                if self.upcase.compare(Utf16(&last).units(), found.name.units()).is_ne() {
                    return Err(entry.fault("comes before the entry that its own key leads to"));
                }
                resumed = entry.position == cookie;
                continue;
            }
            self.check_follows(&last, &entry, &found)?;
            last.clear();
            last.extend_from_slice(found.name.0);
            if self.is_left_out(dir, &found, entry.reference) {
                continue;
            }
            if found.folder & NUMBER != dir.0 & NUMBER {
                return Err(entry.fault("belongs to another folder"));
            }
            if found.name.0.is_empty() || found.name.units().any(|unit| unit == 0 || unit == u16::from(b'/')) {
                return Err(entry.fault("has a name that no file can have"));
            }
            let entry = DirEntry {
                name: found.name.to_wtf8(),
                id: FileId(entry.reference),
                kind: found.file_type(),
                next: entry.position,
            };
            if each(entry).is_break() {
                return Ok(());
            }
        }
        if !resumed {
            return Err(Fault::Mismatch("the position of an index entry").in_record(dir.0 & NUMBER));
        }
        // In order, as entries were compared; with all there are when it began with the first.
        if folder.sound.get().is_none() {
            index.check_whole(&self.nodes)?;
            if cookie == 0 {
                let _ = folder.sound.set(());
            }
        }
        Ok(())
    }

    /// That an entry comes after the one called `last`. Order is what lookups rely on, and what keeps a tree that contains
    /// itself from being endless.
    fn check_follows(&self, last: &[u8], entry: &Entry<'_>, found: &FileName<'_>) -> Result<()> {
        if self.upcase.compare(Utf16(last).units(), found.name.units()).is_gt() {
            return Err(entry.fault("is out of order"));
        }
        // Then one of the two is damaged, and its own name missing.
        if last == found.name.0 {
            return Err(entry.fault("has the name of the one before it"));
        }
        Ok(())
    }

    /// Before a name is said not to be there: finds damage that could have led past it, or made another name of it.
    fn check_missing(&self, dir: FileId, folder: &Folder, name: Utf16<'_>, ignore_case: bool) -> Result<()> {
        self.check_order(folder)?;
        let is_it =
            |own: Utf16<'_>| own == name || (ignore_case && self.upcase.compare(own.units(), name.units()).is_eq());
        // A file that cannot be read says nothing; that it has this name would be a second damage.
        let check = |entry: &Entry<'_>| match self.own_name(dir, entry.reference, is_it) {
            Ok(Some(false)) => Err(entry.fault("has another name than its file")),
            Ok(_) | Err(_) => Ok(()),
        };
        let mut cursor = folder.index.seek(&self.nodes, |key| self.compare(key, name))?;
        // In an index in order, an entry whose name was damaged is still beside the place of its right one.
        if let Some(before) = cursor.before()? {
            check(&before)?;
        }
        while let Some(entry) = cursor.next()? {
            check(&entry)?;
            if self.compare(entry.key, name).map_err(|fault| fault.at(entry.place))?.is_ne() {
                break;
            }
        }
        Ok(())
    }

    /// Lookups rely on the order of the whole index, which is looked through once.
    fn check_order(&self, folder: &Folder) -> Result<()> {
        if folder.sound.get().is_some() {
            return Ok(());
        }
        let mut cursor = folder.index.first(&self.nodes)?;
        let mut last: Vec<u8> = Vec::new();
        while let Some(entry) = cursor.next()? {
            let found = FileName::of(&entry)?;
            self.check_follows(&last, &entry, &found)?;
            last.clear();
            last.extend_from_slice(found.name.0);
        }
        folder.index.check_whole(&self.nodes)?;
        let _ = folder.sound.set(());
        Ok(())
    }

    /// How an index key compares with `name`, whatever the case.
    fn compare(&self, key: &[u8], name: Utf16<'_>) -> Result<Ordering, Fault> {
        Ok(self.upcase.compare(FileName::parse(key)?.name.units(), name.units()))
    }

    /// The file called `name`, and how the folder spells that.
    pub(super) fn find(&self, dir: FileId, name: &Name, ignore_case: bool) -> Result<(FileId, NameBuf)> {
        let missing = || Error::new(Kind::NotFound, LAYER, format!("no {:?}", String::from_utf8_lossy(name)));
        let folder = self.folder(dir)?;
        let ignore_case = ignore_case && !folder.case_sensitive;
        let units = name::units(name).ok_or_else(missing)?;
        let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let wanted = Utf16(&bytes);
        let mut cursor = folder.index.seek(&self.nodes, |key| self.compare(key, wanted))?;
        let (mut other_case, mut left_out) = (None, false);
        // Names that differ in case only are neighbours; which of them comes first does not matter here.
        while let Some(entry) = cursor.next()? {
            let found = FileName::of(&entry)?;
            if self.upcase.compare(found.name.units(), wanted.units()).is_ne() {
                break;
            }
            if self.is_left_out(dir, &found, entry.reference) {
                left_out = true;
                continue;
            }
            if found.name == wanted {
                return Ok((FileId(entry.reference), name.to_vec()));
            }
            other_case.get_or_insert_with(|| (FileId(entry.reference), found.name.to_wtf8()));
        }
        match other_case.filter(|_| ignore_case) {
            Some(found) => Ok(found),
            None if left_out => Err(missing()),
            None => {
                self.check_missing(dir, &folder, wanted, ignore_case).map_err(|err| self.log.explain(err))?;
                Err(missing())
            }
        }
    }
}
