//! Values of one key of a registry hive, read in place.
//!
//! The cells are parsed by the crate `winreg-format`; the way through them is ours, because a hive is as
//! hostile as the rest of a guest's disk: every step reads one bounded cell, nothing recurses, and a circle
//! runs into a limit. Layout: <https://github.com/msuhanov/regf/blob/master/Windows%20registry%20file%20format%20specification.md>.

use vcb_block::{BlockRef, Error, Kind, Result, bytes};
use winreg_format::cells::{CellHeader, CellOffset, RawKeyNode, RawKeyValue, SubkeyIndex};
use winreg_format::header::BaseBlock;

const LAYER: &str = "registry";
/// Largest cell that is read: an index leaf has at most 65,535 entries of 8 bytes.
const MAX_CELL: u32 = 1 << 20;
/// Subkeys looked at while searching one. The root of SYSTEM has about a dozen.
const MAX_SUBKEYS: usize = 4096;
/// Values returned of one key. `MountedDevices` has one or two for each volume ever seen.
const MAX_VALUES: u32 = 4096;
/// Longest data of a value that is returned.
const MAX_DATA: u32 = 16 << 10;

/// A registry hive.
pub(super) struct Hive<'a> {
    file: &'a BlockRef,
    root: CellOffset,
}

/// Name and data of a value.
pub(super) type Value = (String, Vec<u8>);

impl<'a> Hive<'a> {
    /// Reads the base block.
    pub(super) fn open(file: &'a BlockRef) -> Result<Self> {
        let mut base = [0; 512];
        file.read_at(&mut base, 0)?;
        if !base.starts_with(b"regf") || !BaseBlock::validate_checksum(&base) {
            return Err(Error::corrupt(LAYER, "not a registry hive, or its base block is damaged").at(0));
        }
        let root = bytes::le32(&base, 0x24).ok_or_else(|| Error::corrupt(LAYER, "short base block"))?;
        Ok(Hive { file, root: CellOffset(root) })
    }

    /// Values of the key `name` directly below the root.
    pub(super) fn values(&self, name: &str) -> Result<Vec<Value>> {
        let root = self.key(self.root)?;
        let key = self.subkey(&root, name)?;
        let mut values = Vec::new();
        if key.value_count == 0 {
            return Ok(values);
        }
        let list = self.cell(key.values_list_offset)?;
        for index in 0..key.value_count.min(MAX_VALUES) as usize {
            let Some(offset) = bytes::le32(&list, index * 4) else { break };
            values.push(self.value(CellOffset(offset))?);
        }
        Ok(values)
    }

    fn subkey(&self, key: &RawKeyNode, name: &str) -> Result<RawKeyNode> {
        let missing = || Error::new(Kind::NotFound, LAYER, format!("no key '{name}'"));
        if key.subkey_count == 0 {
            return Err(missing());
        }
        let mut leaves = vec![key.subkeys_list_offset];
        let mut seen = 0;
        let mut top = true;
        while let Some(leaf) = leaves.pop() {
            let children: Vec<CellOffset> = match self.index(leaf)? {
                SubkeyIndex::FastLeaf(list) => list.iter().map(|entry| entry.key_offset).collect(),
                SubkeyIndex::HashLeaf(list) => list.iter().map(|entry| entry.key_offset).collect(),
                SubkeyIndex::IndexLeaf(list) => list,
                // An index of indices is only ever the top.
                SubkeyIndex::RootIndex(list) if top => {
                    leaves = list.into_iter().take(MAX_SUBKEYS).collect();
                    Vec::new()
                }
                SubkeyIndex::RootIndex(_) => return Err(corrupt("an index of indices below another", leaf)),
            };
            top = false;
            for child in children {
                let child = self.key(child)?;
                if child.key_name().eq_ignore_ascii_case(name) {
                    return Ok(child);
                }
                seen += 1;
                if seen > MAX_SUBKEYS {
                    return Err(Error::new(Kind::Limit, LAYER, format!("more than {MAX_SUBKEYS} subkeys")));
                }
            }
        }
        Err(missing())
    }

    fn index(&self, offset: CellOffset) -> Result<SubkeyIndex> {
        let cell = self.cell(offset)?;
        let index = match cell.split_first_chunk::<2>() {
            Some((b"lf", list)) => SubkeyIndex::parse_lf(list),
            Some((b"lh", list)) => SubkeyIndex::parse_lh(list),
            Some((b"li", list)) => SubkeyIndex::parse_li(list),
            Some((b"ri", list)) => SubkeyIndex::parse_ri(list),
            _ => None,
        };
        index.ok_or_else(|| corrupt("not a list of subkeys", offset))
    }

    fn key(&self, offset: CellOffset) -> Result<RawKeyNode> {
        let cell = self.cell(offset)?;
        let key = cell.strip_prefix(b"nk").and_then(RawKeyNode::parse);
        key.ok_or_else(|| corrupt("not a key", offset))
    }

    fn value(&self, offset: CellOffset) -> Result<Value> {
        let cell = self.cell(offset)?;
        let value = cell.strip_prefix(b"vk").and_then(RawKeyValue::parse);
        let value = value.ok_or_else(|| corrupt("not a value", offset))?;
        if value.is_resident() {
            return Ok((value.value_name(), value.inline_data()));
        }
        // Longer data is of no use here and would be spread over segments.
        let size = value.data_size();
        let mut data = if size == 0 || size > MAX_DATA { Vec::new() } else { self.cell(value.data_offset())? };
        data.truncate(size as usize);
        Ok((value.value_name(), data))
    }

    /// The content of an allocated cell.
    fn cell(&self, offset: CellOffset) -> Result<Vec<u8>> {
        let at = offset.file_offset();
        let mut header = [0; 4];
        self.file.read_at(&mut header, at).map_err(|_| corrupt("a cell outside the hive", offset))?;
        let header = CellHeader::from_bytes(&header);
        let size = header.size();
        if !header.is_allocated() || !(8..=MAX_CELL).contains(&size) {
            return Err(corrupt("a free cell, or one of impossible size", offset));
        }
        vcb_block::check_range(self.file.len(), at, u64::from(size)).map_err(|err| err.at(at))?;
        let mut cell = vec![0; size as usize - 4];
        self.file.read_at(&mut cell, at + 4)?;
        Ok(cell)
    }
}

fn corrupt(what: &str, offset: CellOffset) -> Error {
    Error::corrupt(LAYER, what.to_owned()).at(offset.file_offset())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vcb_block::{FaultBlock, MemBlock};

    use super::super::testing::hive;
    use super::*;

    fn open(bytes: Vec<u8>) -> Result<Vec<Value>> {
        let file: BlockRef = Arc::new(MemBlock::new(bytes));
        Hive::open(&file)?.values("MountedDevices")
    }

    #[test]
    fn values_are_read_as_another_crate_wrote_them() {
        let written = [("\\DosDevices\\C:", vec![1; 12]), ("\\DosDevices\\D:", vec![2; 24]), ("#x", vec![3; 4])];
        let mut values = open(hive(&written)).unwrap();
        values.sort();
        let mut expected: Vec<Value> = written.iter().map(|(name, data)| ((*name).to_owned(), data.clone())).collect();
        expected.sort();
        assert_eq!(values, expected);
    }

    #[test]
    fn a_missing_key_is_not_found() {
        let file: BlockRef = Arc::new(MemBlock::new(hive(&[])));
        assert_eq!(Hive::open(&file).unwrap().values("Select").unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn no_flipped_bit_and_no_cut_breaks_the_reader() {
        let good = hive(&[("\\DosDevices\\C:", vec![1; 12])]);
        for at in (0..good.len()).step_by(3) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            drop(open(bad));
        }
        for len in (0..good.len()).step_by(97) {
            drop(open(good[..len].to_vec()));
        }
        let file: BlockRef = Arc::new(FaultBlock::at(Arc::new(MemBlock::new(good)), 3, vcb_block::Fault::Eio));
        assert!(Hive::open(&file).unwrap().values("MountedDevices").is_err());
    }
}
