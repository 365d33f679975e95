//! Security descriptors, kept once per volume in $Secure.
//!
//! $SII maps a security id to a place in $SDS, where a header repeats the id and the hash. $SDS holds
//! everything twice: blocks of 256 KiB alternate with their copies. Source: NTFS documentation of the
//! Linux-NTFS project, "$Secure".

use vcb_block::bytes::{le32, le64};
use vcb_block::{BlockRef, Result, plan};

use super::error::{Fault, Place};
use super::file::File;
use super::index::{Index, Pieces};
use super::mft::Mft;
use super::name::Utf16;
use super::record::kind;

/// Record number of $Secure.
const SECURE: u64 = 9;
/// Distance from a block of $SDS to its copy; also bounds a descriptor.
const BLOCK: u64 = 256 << 10;
/// Bytes before a descriptor in $SDS: hash, id, offset, length.
const HEADER: u64 = 20;

const SII: Utf16<'static> = Utf16(b"$\0S\0I\0I\0");
const SDS: Utf16<'static> = Utf16(b"$\0S\0D\0S\0");

/// The open $Secure file.
pub(super) struct Secure {
    index: Index,
    data: BlockRef,
}

impl Secure {
    pub(super) fn open(mft: &Mft) -> Result<Self> {
        let file = File::new(mft, mft.record(SECURE)?)?;
        let Some(content) = file.content(kind::DATA, SDS)? else {
            return Err(Fault::Missing("$SDS stream").in_record(SECURE));
        };
        Ok(Secure { index: Index::open(mft, &file, SII)?, data: file.plain(content, kind::DATA)? })
    }

    /// The descriptor with that id, checked against its hash.
    pub(super) fn descriptor(&self, nodes: &Pieces, id: u32) -> Result<Vec<u8>> {
        let place = Place::Security(id);
        let key = |key: &[u8]| le32(key, 0).ok_or(Fault::Short("security id"));
        let mut cursor = self.index.seek(nodes, |bytes| Ok(key(bytes)?.cmp(&id)))?;
        let Some(entry) = cursor.next()? else { return Err(Fault::Missing("entry in $SII").at(place)) };
        if key(entry.key).map_err(|fault| fault.at(entry.place))? != id {
            return Err(Fault::Missing("entry in $SII").at(place));
        }
        const SHORT: Fault = Fault::Short("entry of $SII");
        let hash = le32(entry.data, 0).ok_or_else(|| SHORT.at(place))?;
        let offset = le64(entry.data, 8).ok_or_else(|| SHORT.at(place))?;
        let len = u64::from(le32(entry.data, 16).ok_or_else(|| SHORT.at(place))?);
        if !(HEADER..=BLOCK).contains(&len) {
            return Err(Fault::Field { field: "length of the descriptor", value: len }.at(place));
        }
        self.read(place, id, hash, offset, len)
            .or_else(|err| self.read(place, id, hash, offset.saturating_add(BLOCK), len).map_err(|_| err))
    }

    fn read(&self, place: Place, id: u32, hash: u32, offset: u64, len: u64) -> Result<Vec<u8>> {
        if offset.checked_add(len).is_none_or(|end| end > self.data.len()) {
            return Err(Fault::Field { field: "offset in $SDS", value: offset }.at(place));
        }
        let mut bytes = vec![0; len as usize];
        plan::read(&self.data, &mut bytes, offset)?;
        if le32(&bytes, 0) != Some(hash) || le32(&bytes, 4) != Some(id) {
            return Err(Fault::Mismatch("the header in $SDS").at(place));
        }
        let descriptor = bytes.split_off(HEADER as usize);
        if checksum(&descriptor) != hash {
            return Err(Fault::Mismatch("the hash of the security descriptor").at(place));
        }
        Ok(descriptor)
    }
}

/// The hash that $SDH sorts by: rotate left by three, add the next 32 bits.
fn checksum(descriptor: &[u8]) -> u32 {
    descriptor
        .chunks_exact(4)
        .filter_map(|word| le32(word, 0))
        .fold(0, |hash: u32, word| hash.rotate_left(3).wrapping_add(word))
}
