//! Links as a mount shows them.
//!
//! A link that stays in its volume becomes a relative link, so it works from `letters/` and `digits/` alike
//! and wherever the tree is copied. Any other keeps the text that the guest has.

use vcb_block::{Error, Kind, Result};
use vcb_fs::{FileId, Filesystem, GuestVolume, LinkTarget, NameBuf};

use super::file::LAYER;
use super::guid;

/// Deepest folder that is walked to the root. NTFS paths have at most 32,767 characters, so no more folders.
const MAX_DEPTH: usize = 16_384;
/// Longest link text: Linux's `PATH_MAX`.
const MAX_TEXT: usize = 4095;

/// By what names the guest knows a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct GuestNames {
    pub(super) letter: Option<char>,
    pub(super) guids: Vec<[u8; 16]>,
}

impl GuestNames {
    fn mean(&self, volume: GuestVolume) -> bool {
        match volume {
            GuestVolume::Letter(letter) => self.letter == Some(letter),
            GuestVolume::Guid(guid) => self.guids.contains(&guid),
        }
    }
}

/// The text of link `id` on a volume that the guest calls by `names`.
pub(super) fn text(fs: &dyn Filesystem, id: FileId, names: &GuestNames) -> Result<NameBuf> {
    let text = match fs.read_link(id)? {
        LinkTarget::Relative(parts) => join(real_names(fs, fs.parent(id)?, parts)),
        LinkTarget::Volume(parts) => from_root(fs, id, parts)?,
        LinkTarget::Guest { volume, path } if names.mean(volume) => from_root(fs, id, path)?,
        LinkTarget::Guest { volume, path } => elsewhere(volume, &path),
        LinkTarget::Foreign(text) => text,
    };
    if text.is_empty() || text.len() > MAX_TEXT || text.contains(&0) {
        return Err(Error::unsupported(LAYER, format!("a link with a text of {} bytes", text.len())));
    }
    Ok(text)
}

fn from_root(fs: &dyn Filesystem, id: FileId, parts: Vec<NameBuf>) -> Result<NameBuf> {
    let up = depth(fs, fs.parent(id)?)?;
    let mut all = vec![b"..".to_vec(); up];
    all.extend(real_names(fs, fs.root(), parts));
    Ok(join(all))
}

fn join(parts: Vec<NameBuf>) -> NameBuf {
    if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') }
}

/// Folders between `dir` and the root.
pub(super) fn depth(fs: &dyn Filesystem, mut dir: FileId) -> Result<usize> {
    let root = fs.root();
    let mut depth = 0;
    while dir != root {
        dir = fs.parent(dir)?;
        depth += 1;
        if depth > MAX_DEPTH {
            return Err(Error::new(Kind::Corrupt, LAYER, "parent folders form a circle"));
        }
    }
    Ok(depth)
}

/// The components as they are spelled on the volume: the guest compares names without regard to case, the
/// host does not. From the first component that is not there on, the text stays as it is.
fn real_names(fs: &dyn Filesystem, mut dir: FileId, mut parts: Vec<NameBuf>) -> Vec<NameBuf> {
    for part in &mut parts {
        let next = match part.as_slice() {
            b"." => Ok(dir),
            b".." => fs.parent(dir),
            name => match fs.child(dir, name) {
                Ok(attr) => Ok(attr.id),
                Err(_) => fs.child_ignore_case(dir, name).map(|(attr, name)| {
                    *part = name;
                    attr.id
                }),
            },
        };
        match next {
            Ok(id) => dir = id,
            Err(_) => break,
        }
    }
    parts
}

/// The text as Windows shows it.
fn elsewhere(volume: GuestVolume, path: &[NameBuf]) -> NameBuf {
    let top = match volume {
        GuestVolume::Letter(letter) => format!("{letter}:\\"),
        GuestVolume::Guid(guid) => format!("\\\\?\\Volume{}\\", guid::format(guid)),
    };
    [top.as_bytes(), &path.join(&b'\\')].concat()
}
