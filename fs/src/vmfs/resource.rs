//! Resource files: the pools of file descriptors, sub-blocks and pointer blocks.
//!
//! ```text
//!  file offset 0: header │ first group: cluster headers │ items … │ next group …
//! ```
//! Layout: docs/formats/vmfs.md, section "Resource files".

use std::sync::Arc;

use vcb_block::bytes::le32;
use vcb_block::{Block, Result};

use super::address::Item;
use super::error::{corrupt, short};
use super::file::VmfsFile;
use super::geometry::{Geometry, Version};

const STRUCTURE: &str = "resource file header";
/// Signature of VMFS-6 resource files, "rfmd".
const SIGNATURE: u32 = 0x7266_6D64;

/// The numbers in the header of a resource file.
#[derive(Debug, Clone)]
pub(super) struct ResourceHeader {
    pub items_per_cluster: u64,
    clusters_per_group: u64,
    first_group: u64,
    item_len: u64,
    group_len: u64,
}

impl ResourceHeader {
    pub(super) fn parse(raw: &[u8], geometry: &Geometry) -> Result<ResourceHeader> {
        let end = || short(STRUCTURE);
        let word = |offset| le32(raw, offset).map(u64::from).ok_or_else(end);
        if geometry.version == Version::V6 && word(0x20)? != u64::from(SIGNATURE) {
            return Err(corrupt(STRUCTURE, "signature", word(0x20)?, format!("{SIGNATURE:#x}")));
        }
        Ok(ResourceHeader {
            items_per_cluster: word(0)?,
            clusters_per_group: word(4)?,
            first_group: word(8)?,
            item_len: word(0x0C)?,
            group_len: word(0x10)?,
        })
    }

    /// Checks the numbers against each other, so that one that is wrong cannot move items unnoticed.
    fn check(&self, geometry: &Geometry) -> Result<()> {
        if self.first_group != geometry.first_group {
            let expected = format!("{:#x}, as in the file system descriptor", geometry.first_group);
            return Err(corrupt(STRUCTURE, "first group", self.first_group, expected));
        }
        let headers = self.clusters_per_group * geometry.cluster_header();
        // Products of two 32-bit numbers fit; the third factor may not.
        let items = (self.clusters_per_group * self.items_per_cluster).checked_mul(self.item_len);
        let whole = items.and_then(|items| items.checked_add(headers));
        if self.clusters_per_group == 0 || whole != Some(self.group_len) {
            return Err(corrupt(STRUCTURE, "group length", self.group_len, "that of its headers and items"));
        }
        Ok(())
    }

    fn position(&self, item: Item, geometry: &Geometry) -> Option<u64> {
        let (group, cluster) = (item.cluster / self.clusters_per_group, item.cluster % self.clusters_per_group);
        let start = self.first_group.checked_add(group.checked_mul(self.group_len)?)?;
        let headers = self.clusters_per_group * geometry.cluster_header();
        let number = cluster * self.items_per_cluster + item.item;
        start.checked_add(headers)?.checked_add(number.checked_mul(self.item_len)?)
    }
}

/// An opened resource file.
#[derive(Clone)]
pub(super) struct Resource {
    pub file: Arc<VmfsFile>,
    header: ResourceHeader,
}

impl Resource {
    /// Reads the header of `file`, whose items must be `item_len` bytes.
    pub(super) fn open(file: VmfsFile, geometry: &Geometry, item_len: u64) -> Result<Resource> {
        let mut raw = [0; 64];
        if file.len() < raw.len() as u64 {
            return Err(short(STRUCTURE));
        }
        file.read_at(&mut raw, 0)?;
        let header = ResourceHeader::parse(&raw, geometry)?;
        // .pbc.sf of VMFS-6 has a header and nothing in it.
        if header.items_per_cluster != 0 {
            header.check(geometry)?;
            if header.item_len != item_len {
                return Err(corrupt(STRUCTURE, "item length", header.item_len, item_len.to_string()));
            }
        }
        Ok(Resource { file: Arc::new(file), header })
    }

    /// Offset of `item` within the file.
    pub(super) fn locate(&self, item: Item, geometry: &Geometry) -> Result<u64> {
        if item.item >= self.header.items_per_cluster {
            let expected = format!("below {}, the items of a cluster", self.header.items_per_cluster);
            return Err(corrupt("address", "item", item.item, expected));
        }
        let position = self.header.position(item, geometry);
        match position.filter(|at| at.checked_add(self.header.item_len).is_some_and(|end| end <= self.file.len())) {
            Some(position) => Ok(position),
            None => {
                let expected = format!("an item within the {} bytes of its resource file", self.file.len());
                Err(corrupt("address", "cluster", item.cluster, expected))
            }
        }
    }

    /// Volume offset of `item`, which must lie in one piece.
    pub(super) fn place(&self, item: Item, geometry: &Geometry) -> Result<u64> {
        let at = self.locate(item, geometry)?;
        self.file.volume_offset(at..at + self.header.item_len)
    }
}
