//! NTFS attributes as extended attributes, by the names that ntfs-3g gave them.

use vcb_block::{BlockRef, Error, Kind, Result};
use vcb_fs::{Attr, FileId, Filesystem, Name, NameBuf};

use super::MAX_XATTR;
use super::file::LAYER;

/// Named streams appear under this prefix.
const USER: &[u8] = b"user.";
/// Everything else appears under this one.
const SYSTEM: &[u8] = b"system.ntfs_";
/// Longest name of an extended attribute: Linux's `XATTR_NAME_MAX`.
const MAX_NAME: usize = 255;
/// Listed when asked for: what a restore needs to make the file again.
const LISTED: [&str; 3] = ["system.ntfs_acl", "system.ntfs_attrib", "system.ntfs_crtime"];

/// False for names of kinds of attributes that views do not have at all.
#[must_use]
pub fn is_known(name: &Name) -> bool {
    name.starts_with(USER) || name.starts_with(SYSTEM)
}

/// Ends a name that was cut short.
const CUT: &str = "\u{2026}";

/// The attribute that shows `stream`. One whose name is too long for the host is listed by a part of it, and asking
/// for its value fails, so that it is missed; it can be had as a file.
fn shown(stream: &Name) -> NameBuf {
    let mut name = [USER, stream].concat();
    let nul = name.iter().position(|&byte| byte == 0);
    if nul.is_some() || name.len() > MAX_NAME {
        let mut end = nul.unwrap_or(MAX_NAME).min(MAX_NAME - CUT.len());
        while name.get(end).is_some_and(|byte| byte & 0xC0 == 0x80) {
            end -= 1;
        }
        name.truncate(end);
        name.extend_from_slice(CUT.as_bytes());
    }
    name
}

/// Names to list.
pub(super) fn names(fs: &dyn Filesystem, id: FileId, streams: bool, list_acl: bool) -> Result<Vec<NameBuf>> {
    let mut names = Vec::new();
    if streams {
        names.extend(fs.streams(id)?.iter().map(|stream| shown(&stream.name)));
    }
    if list_acl {
        names.extend(LISTED.iter().map(|name| name.as_bytes().to_vec()));
    }
    Ok(names)
}

/// The value called `name`.
pub(super) fn value(fs: &dyn Filesystem, id: FileId, name: &Name, streams: bool) -> Result<Option<Vec<u8>>> {
    if let Some(stream) = name.strip_prefix(USER) {
        return if streams { stream_value(fs, id, stream) } else { Ok(None) };
    }
    let dos = |attr: Attr| attr.dos;
    let created = |attr: Attr| attr.created.0;
    Ok(match name {
        b"system.ntfs_acl" => fs.security(id)?,
        // The plain forms are in the byte order of the host, as ntfs-3g has them.
        b"system.ntfs_attrib" => Some(dos(fs.attr(id)?).to_ne_bytes().to_vec()),
        b"system.ntfs_attrib_be" => Some(dos(fs.attr(id)?).to_be_bytes().to_vec()),
        b"system.ntfs_crtime" => Some(created(fs.attr(id)?).to_ne_bytes().to_vec()),
        b"system.ntfs_crtime_be" => Some(created(fs.attr(id)?).to_be_bytes().to_vec()),
        b"system.ntfs_object_id" => fs.object_id(id)?.map(|id| id.to_vec()),
        b"system.ntfs_ea" => fs.extended_attributes(id)?,
        b"system.ntfs_reparse_data" => reparse(fs, id)?,
        _ => None,
    })
}

fn stream_value(fs: &dyn Filesystem, id: FileId, name: &Name) -> Result<Option<Vec<u8>>> {
    match fs.open(id, Some(name)) {
        Ok(block) => read_all(&block).map(Some),
        Err(err) if err.kind() == Kind::NotFound => {
            let cut = name.ends_with(CUT.as_bytes())
                && fs.streams(id)?.iter().any(|known| &shown(&known.name)[USER.len()..] == name);
            match cut {
                true => Err(Error::new(Kind::Limit, LAYER, "the stream's name is longer than that of an attribute")),
                false => Ok(None),
            }
        }
        Err(err) => Err(err),
    }
}

fn read_all(block: &BlockRef) -> Result<Vec<u8>> {
    if block.len() > MAX_XATTR {
        let text = format!("a stream of {} bytes is longer than the {MAX_XATTR} of an attribute", block.len());
        return Err(Error::new(Kind::Limit, LAYER, text));
    }
    // Bounded just above.
    let mut value = vec![0; block.len() as usize];
    vcb_block::plan::read(block, &mut value, 0)?;
    Ok(value)
}

/// `REPARSE_DATA_BUFFER`: tag, length of the data, two bytes reserved, data (MS-FSCC 2.1.2).
fn reparse(fs: &dyn Filesystem, id: FileId) -> Result<Option<Vec<u8>>> {
    let Some(data) = fs.reparse_data(id)? else { return Ok(None) };
    let len = u16::try_from(data.len()).map_err(|_| Error::corrupt(LAYER, "reparse data longer than 64 KiB"))?;
    let mut value = fs.attr(id)?.reparse_tag.to_le_bytes().to_vec();
    value.extend_from_slice(&len.to_le_bytes());
    value.extend_from_slice(&[0, 0]);
    value.extend_from_slice(&data);
    Ok(Some(value))
}
