//! Reparse points: what a tag means, and where links lead.
//!
//! Source: [MS-FSCC] 2.1.2 "Reparse Point Data Structures"; the WSL symbolic link as observed.

use vcb_block::bytes::{array, le16, le32};

use super::error::Fault;
use super::name::Utf16;
use crate::{FileType, GuestVolume, LinkTarget, NameBuf, Unreadable};

const MOUNT_POINT: u32 = 0xA000_0003;
const SYMLINK: u32 = 0xA000_000C;
const LX_SYMLINK: u32 = 0xA000_001D;
const AF_UNIX: u32 = 0x8000_0023;
const LX_FIFO: u32 = 0x8000_0024;
const LX_CHR: u32 = 0x8000_0025;
const LX_BLK: u32 = 0x8000_0026;
/// An app's command alias: an empty file, all of it is in the reparse data.
const APP_EXEC_LINK: u32 = 0x8000_001B;
const DEDUP: u32 = 0x8000_0013;
/// Compressed by the Windows Overlay Filter ("Compact OS").
pub(super) const WOF: u32 = 0x8000_0017;
/// IO_REPARSE_TAG_CLOUD; bits 12 to 15 tell the provider.
const CLOUD: u32 = 0x9000_001A;
const CLOUD_MASK: u32 = 0xFFFF_0FFF;
/// IO_REPARSE_TAG_ONEDRIVE of early Windows 10.
const ONEDRIVE: u32 = 0x8000_0021;

/// In a symbolic link: the target is relative to the link's folder.
const RELATIVE: u32 = 1;

/// What a file with that tag (0: none) is.
pub(super) fn file_type(tag: u32, dir: bool) -> FileType {
    match tag {
        MOUNT_POINT | SYMLINK | LX_SYMLINK => FileType::Symlink,
        AF_UNIX | LX_FIFO | LX_CHR | LX_BLK => FileType::Other,
        _ if dir => FileType::Dir,
        _ => FileType::File,
    }
}

/// Why a regular file with that tag cannot be read, if so. `partial` is false when all of the content lies on
/// the volume, going by the file's attributes.
pub(super) fn unreadable(tag: u32, partial: bool) -> Option<Unreadable> {
    match tag {
        0 | WOF | APP_EXEC_LINK => None,
        DEDUP => Some(Unreadable::Deduplicated),
        _ if tag == ONEDRIVE || tag & CLOUD_MASK == CLOUD => partial.then_some(Unreadable::CloudPlaceholder { tag }),
        _ => Some(Unreadable::UnknownReparse { tag }),
    }
}

/// How the content of a file with the tag [`WOF`] is compressed.
///
/// ```text
/// 0x00 version 1  0x04 provider (1: a WIM archive, 2: the file itself)  0x08 version 1  0x0C algorithm
/// ```
/// Source: WOF_EXTERNAL_INFO and FILE_PROVIDER_EXTERNAL_INFO_V1, Windows driver documentation.
pub(super) fn wof(data: &[u8]) -> Result<u32, Fault> {
    let field = |offset| le32(data, offset).ok_or(Fault::Short("overlay data"));
    match (field(0)?, field(4)?) {
        (1, 2) if field(8)? == 1 => field(12),
        (version, provider) => {
            Err(Fault::Unsupported(format!("Windows Overlay Filter provider {provider} of version {version}")))
        }
    }
}

/// A $REPARSE_POINT: tag, and data after the header.
pub(super) fn split(bytes: &[u8]) -> Result<(u32, &[u8]), Fault> {
    const SHORT: Fault = Fault::Short("reparse data");
    let tag = le32(bytes, 0).ok_or(SHORT)?;
    let len = usize::from(le16(bytes, 4).ok_or(SHORT)?);
    // Tags that are not Microsoft's carry a GUID before the data.
    let start = if tag & 0x8000_0000 == 0 { 24 } else { 8 };
    Ok((tag, bytes.get(start..start + len).ok_or(SHORT)?))
}

/// Where a link leads; `None` when the tag is not a link's.
pub(super) fn target(tag: u32, data: &[u8]) -> Result<Option<LinkTarget>, Fault> {
    const SHORT: Fault = Fault::Short("link target");
    let header = match tag {
        MOUNT_POINT => 8,
        SYMLINK => 12,
        LX_SYMLINK => return wsl(data).map(Some),
        _ => return Ok(None),
    };
    let path = |offset_at: usize| {
        let start = header + usize::from(le16(data, offset_at)?);
        data.get(start..start + usize::from(le16(data, offset_at + 2)?)).map(Utf16)
    };
    let substitute = path(0).ok_or(SHORT)?.to_wtf8();
    let relative = tag == SYMLINK && le32(data, 8).ok_or(SHORT)? & RELATIVE != 0;
    if relative {
        return Ok(Some(match substitute.strip_prefix(b"\\") {
            Some(rest) => LinkTarget::Volume(components(rest)),
            None => LinkTarget::Relative(components(&substitute)),
        }));
    }
    if let Some(target) = absolute(&substitute) {
        return Ok(Some(target));
    }
    // The print name is the text that the guest's user sees; links made by tools may lack it.
    let print = path(4).ok_or(SHORT)?.to_wtf8();
    Ok(Some(LinkTarget::Foreign(if print.is_empty() { substitute } else { print })))
}

/// `\??\C:\folder` and `\??\Volume{guid}\folder`.
fn absolute(substitute: &[u8]) -> Option<LinkTarget> {
    let path = substitute.strip_prefix(b"\\??\\").or_else(|| substitute.strip_prefix(b"\\\\?\\")).unwrap_or(substitute);
    let (volume, rest) = match path {
        [letter, b':', rest @ ..] if letter.is_ascii_alphabetic() => {
            (GuestVolume::Letter(letter.to_ascii_uppercase() as char), rest)
        }
        _ => {
            let rest = path.strip_prefix(b"Volume{")?;
            let end = rest.iter().position(|&byte| byte == b'}')?;
            (GuestVolume::Guid(guid(rest.get(..end)?)?), rest.get(end + 1..)?)
        }
    };
    match rest {
        [] => Some(LinkTarget::Guest { volume, path: Vec::new() }),
        [b'\\', rest @ ..] => Some(LinkTarget::Guest { volume, path: components(rest) }),
        _ => None,
    }
}

/// `01234567-89ab-cdef-0123-456789abcdef` in the byte order of GPT entries.
fn guid(text: &[u8]) -> Option<[u8; 16]> {
    let dashes = [8, 13, 18, 23];
    if text.len() != 36 || dashes.iter().any(|&at| text.get(at) != Some(&b'-')) {
        return None;
    }
    let digits: Vec<u8> = text.iter().filter(|&&byte| byte != b'-').copied().collect();
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    // The first three fields are little-endian numbers.
    for field in [0..4, 4..6, 6..8] {
        bytes.get_mut(field)?.reverse();
    }
    (digits.len() == 32).then_some(bytes)
}

fn components(path: &[u8]) -> Vec<NameBuf> {
    path.split(|&byte| byte == b'\\').filter(|part| !part.is_empty() && part != b".").map(<[u8]>::to_vec).collect()
}

/// A link made by the Windows Subsystem for Linux: version 2, then the target in UTF-8.
fn wsl(data: &[u8]) -> Result<LinkTarget, Fault> {
    let version = array(data, 0).map(u32::from_le_bytes).ok_or(Fault::Short("link target"))?;
    let target = match data.get(4..) {
        Some(target) if version == 2 => target,
        _ => return Err(Fault::Unsupported(format!("WSL link of version {version}"))),
    };
    if target.starts_with(b"/") {
        return Ok(LinkTarget::Foreign(target.to_vec()));
    }
    let parts = target.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && part != b".");
    Ok(LinkTarget::Relative(parts.map(<[u8]>::to_vec).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    fn link(tag: u32, flags: u32, substitute: &str, print: &str) -> LinkTarget {
        let (substitute, print) = (utf16(substitute), utf16(print));
        let mut data = Vec::new();
        for number in [0, substitute.len(), substitute.len(), print.len()] {
            data.extend_from_slice(&(number as u16).to_le_bytes());
        }
        if tag == SYMLINK {
            data.extend_from_slice(&flags.to_le_bytes());
        }
        data.extend_from_slice(&substitute);
        data.extend_from_slice(&print);
        target(tag, &data).unwrap().unwrap()
    }

    fn names(names: &[&str]) -> Vec<NameBuf> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn links_of_every_sort() {
        assert_eq!(link(SYMLINK, 1, "..\\a\\.\\b", ""), LinkTarget::Relative(names(&["..", "a", "b"])));
        assert_eq!(link(SYMLINK, 1, "\\a\\b", ""), LinkTarget::Volume(names(&["a", "b"])));
        let c = GuestVolume::Letter('C');
        assert_eq!(
            link(SYMLINK, 0, "\\??\\c:\\Users\\All", "C:\\Users\\All"),
            LinkTarget::Guest { volume: c, path: names(&["Users", "All"]) }
        );
        assert_eq!(link(MOUNT_POINT, 0, "\\??\\C:\\", "C:\\"), LinkTarget::Guest { volume: c, path: vec![] });
        let volume = "\\??\\Volume{01234567-89ab-cdef-0123-456789abcdef}\\x";
        let guid = [0x67, 0x45, 0x23, 0x01, 0xAB, 0x89, 0xEF, 0xCD, 0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF];
        assert_eq!(
            link(MOUNT_POINT, 0, volume, ""),
            LinkTarget::Guest { volume: GuestVolume::Guid(guid), path: names(&["x"]) }
        );
        assert_eq!(
            link(SYMLINK, 0, "\\??\\UNC\\server\\share", "\\\\server\\share"),
            LinkTarget::Foreign(b"\\\\server\\share".to_vec())
        );
        assert_eq!(target(LX_SYMLINK, b"\x02\0\0\0../x").unwrap(), Some(LinkTarget::Relative(names(&["..", "x"]))));
        assert_eq!(target(LX_SYMLINK, b"\x02\0\0\0/etc/x").unwrap(), Some(LinkTarget::Foreign(b"/etc/x".to_vec())));
    }

    #[test]
    fn truncated_links_are_refused() {
        for len in 0..12 {
            assert!(target(SYMLINK, &[0xFF; 12][..len]).is_err(), "{len}");
        }
        assert!(target(SYMLINK, &[0xFF; 12]).is_err());
        assert!(target(LX_SYMLINK, &[1, 0, 0, 0]).is_err());
        assert!(split(&[0x17, 0, 0, 0x80, 9, 0, 0, 0, 1]).is_err());
    }

    #[test]
    fn only_data_that_is_here_is_called_readable() {
        assert_eq!(unreadable(0x9000_701A, true), Some(Unreadable::CloudPlaceholder { tag: 0x9000_701A }));
        assert_eq!(unreadable(0x9000_701A, false), None);
        assert_eq!(unreadable(0x8000_0013, false), Some(Unreadable::Deduplicated));
        assert_eq!(unreadable(0x1234, false), Some(Unreadable::UnknownReparse { tag: 0x1234 }));
        assert_eq!(unreadable(WOF, true), None);
    }

    #[test]
    fn only_files_that_hold_their_own_data_are_decoded() {
        let data = |numbers: [u32; 4]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(wof(&data([1, 2, 1, 3])), Ok(3));
        for other in [[2, 2, 1, 3], [1, 1, 1, 3], [1, 2, 2, 3]] {
            assert!(matches!(wof(&data(other)), Err(Fault::Unsupported(_))), "{other:?}");
        }
        assert!(wof(&data([1, 2, 1, 3])[..15]).is_err());
    }
}
