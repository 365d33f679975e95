//! The end of a stream: its footer, or how far it goes when that is missing.
//!
//! ```text
//!   header | descriptor | marked grains and tables … | footer marker | footer | end-of-stream marker
//! ```

use vcb_block::bytes::{le32, le64};
use vcb_block::{BlockRef, Error, Result};

use super::hosted::{GD_AT_END, HEADER, HostedHeader};

const LAYER: &str = "vmdk-stream";

/// Types of markers (open-vmdk; 4 is PROGRESS, seen in vSphere exports).
const MARKER_EOS: u32 = 0;
const MARKER_GT: u32 = 1;
const MARKER_GD: u32 = 2;
const MARKER_FOOTER: u32 = 3;
const MARKER_PROGRESS: u32 = 4;

/// A stream that ends before its end.
#[derive(Debug, thiserror::Error)]
#[error(
    "the stream is cut short: {why}; it is whole up to {whole} of {len} guest bytes, which end at file offset {file:#x}"
)]
pub struct CutShort {
    /// What is missing.
    pub why: String,
    /// Guest bytes whose grains are all there.
    pub whole: u64,
    /// Guest bytes in all.
    pub len: u64,
    /// File offset after the last whole grain.
    pub file: u64,
}

/// The header with the directory's position: the header itself, or the footer that overrides it.
pub(crate) fn effective_header(header: &HostedHeader, file: &BlockRef) -> Result<HostedHeader> {
    if header.gd != GD_AT_END {
        return Ok(header.clone());
    }
    footer(file).map_err(|why| match why {
        Footer::Failed(err) => err,
        Footer::Missing(why) => cut_short(header, file, why),
    })
}

enum Footer {
    Missing(String),
    Failed(Error),
}

/// Reads the last three sectors: footer marker, footer, end-of-stream marker.
fn footer(file: &BlockRef) -> Result<HostedHeader, Footer> {
    let missing = |why: &str| Footer::Missing(why.to_owned());
    let at = file.len().checked_sub(1536).ok_or_else(|| missing("there is no footer"))?;
    let mut raw = [0; 1536];
    file.read_at(&mut raw, at).map_err(Footer::Failed)?;
    let marker = Marker::parse(&raw).filter(|marker| marker.size == 0 && marker.kind == MARKER_FOOTER);
    if marker.is_none() || raw[1024..].iter().any(|&byte| byte != 0) {
        return Err(missing("there is no footer at its end"));
    }
    let footer = HostedHeader::parse(&raw[512..1024]).map_err(|err| Footer::Failed(err.at(at + 512)))?;
    if footer.gd == GD_AT_END {
        return Err(missing("the footer does not say where the directory is"));
    }
    Ok(footer)
}

/// The error for a stream that ends before its end, with how far it is whole.
pub(super) fn cut_short(header: &HostedHeader, file: &BlockRef, why: String) -> Error {
    match walk(header.overhead, header, file) {
        Ok(Walk { whole, end, .. }) => {
            Error::corrupt(LAYER, CutShort { why, whole, len: header.capacity * 512, file: end }).at(end)
        }
        Err(err) => err,
    }
}

/// What a walk over a stream from its first grain saw.
pub(super) struct Walk {
    /// Guest bytes up to the end of the last whole grain.
    pub(super) whole: u64,
    /// File offset where that ends.
    pub(super) end: u64,
    /// Whole grains.
    pub(super) grains: u64,
}

/// Walks a stream from sector `first` on, by grains and markers.
pub(super) fn walk(first: u64, header: &HostedHeader, file: &BlockRef) -> Result<Walk> {
    let mut at = first.saturating_mul(512).max(HEADER as u64);
    let mut seen = Walk { whole: 0, end: at.min(file.len()), grains: 0 };
    if !header.has_markers() {
        return Ok(seen);
    }
    let mut raw = [0; 512];
    while at.checked_add(512).is_some_and(|end| end <= file.len()) {
        file.read_at(&mut raw, at)?;
        let Some(marker) = Marker::parse(&raw) else { break };
        let next = if marker.size > 0 {
            at.checked_add(12 + u64::from(marker.size)).and_then(|end| end.checked_next_multiple_of(512))
        } else if matches!(marker.kind, MARKER_GT | MARKER_GD | MARKER_FOOTER | MARKER_PROGRESS) {
            marker.value.checked_mul(512).and_then(|bytes| bytes.checked_add(at + 512))
        } else {
            debug_assert!(marker.kind == MARKER_EOS || marker.kind > MARKER_PROGRESS);
            None
        };
        let Some(next) = next.filter(|&next| next <= file.len()) else { break };
        if marker.size > 0 {
            seen.grains += 1;
            seen.whole = marker.value.saturating_mul(512).saturating_add(header.grain * 512).min(header.capacity * 512);
        }
        at = next;
        seen.end = next;
    }
    Ok(seen)
}

/// The first 16 bytes of a grain or of a marker.
struct Marker {
    /// A grain's guest sector, or the sectors that follow a marker.
    value: u64,
    /// Compressed bytes; 0 in a marker.
    size: u32,
    /// Type of a marker; the first compressed bytes of a grain.
    kind: u32,
}

impl Marker {
    fn parse(raw: &[u8]) -> Option<Self> {
        Some(Marker { value: le64(raw, 0)?, size: le32(raw, 8)?, kind: le32(raw, 12)? })
    }
}
