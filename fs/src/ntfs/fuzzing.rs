//! Ways for fuzz targets into parsers that nothing outside calls by themselves. Each takes any bytes, and panics
//! only where a parser has let through what it promises to refuse.

use std::cmp::Ordering;
use std::sync::Arc;

use vcb_block::MemBlock;

use super::attr::Standard;
use super::boot::Geometry;
use super::cache::Cache;
use super::dir::FileName;
use super::file;
use super::index::Index;
use super::record::{Form, Record, kind};
use super::reparse;
use super::runlist::RunList;

/// Entries of one index that are looked at: order, which ends a walk elsewhere, is not checked here.
const ENTRIES: usize = 2000;
/// Clusters of the volume that run lists are checked against.
const CLUSTERS: u64 = 1 << 20;

/// A boot sector.
pub fn boot(bytes: &[u8]) {
    let Ok(found) = Geometry::parse(bytes, 1 << 30) else { return };
    assert!(found.sector.is_power_of_two() && found.cluster.is_power_of_two() && found.record.is_power_of_two());
    assert!(found.sector <= found.cluster && found.clusters <= (1 << 30) / u64::from(found.cluster));
}

/// An MFT record whose update sequence was undone, and the run lists in it.
pub fn record(bytes: &[u8]) {
    let number = u64::from(vcb_block::bytes::le32(bytes, 0x2C).unwrap_or(0));
    let Ok(record) = Record::new(number, Arc::from(bytes), 0, bytes.len()) else { return };
    let _ = (record.in_use(), record.is_dir(), record.is_own(), record.reference(), record.base());
    for attribute in record.attributes().flatten() {
        let _ = (attribute.name.to_wtf8(), attribute.size(), attribute.occupied(), attribute.lowest());
        if let Form::NonResident(part) = attribute.form {
            runs(part.pairs, part.clusters);
        }
        if let (kind::FILE_NAME, Ok(value)) = (attribute.kind, attribute.resident()) {
            let _ = FileName::parse(value).map(|name| name.name.to_wtf8());
        }
    }
}

/// The value of an attribute; the first byte chooses which.
pub fn attribute(bytes: &[u8]) {
    let Some((which, value)) = bytes.split_first() else { return };
    match which % 4 {
        0 => drop(file::parse_list(value)),
        1 => drop(FileName::parse(value).map(|name| (name.name.to_wtf8(), name.is_dos()))),
        2 => drop(Standard::parse(value)),
        _ => {
            let Ok((tag, data)) = reparse::split(value) else { return };
            let _ = (reparse::target(tag, data), reparse::wof(data));
        }
    }
}

/// Length of an index root in two bytes, the root, index blocks: walked, and every entry found again.
pub fn index(bytes: &[u8]) {
    let Some((len, bytes)) = bytes.split_at_checked(2) else { return };
    let Some((root, blocks)) = bytes.split_at_checked(usize::from(len[0]) | usize::from(len[1]) << 8) else { return };
    let Ok(index) = Index::of(root.to_vec(), Arc::new(MemBlock::new(blocks.to_vec()))) else { return };
    let nodes = Cache::new(1 << 20);
    let mut found = Vec::new();
    if let Ok(mut cursor) = index.first(&nodes) {
        while let Ok(Some(entry)) = cursor.next() {
            found.push((entry.position, entry.key.to_vec()));
            if found.len() == ENTRIES {
                break;
            }
        }
    }
    for (position, key) in found.iter().take(50) {
        assert_eq!(index.key_at(&nodes, *position).ok().flatten().as_ref(), Some(key));
    }
    let _ = index.check_whole(&nodes);
    let _ = index.seek(&nodes, |key| Ok(if key.first() > Some(&0x80) { Ordering::Greater } else { Ordering::Less }));
}

/// The number of clusters described in one byte, and a run list.
pub fn run_list(bytes: &[u8]) {
    if let Some((&clusters, pairs)) = bytes.split_first() {
        runs(pairs, clusters.into());
    }
}

fn runs(pairs: &[u8], clusters: u64) {
    let mut list = RunList::default();
    if list.append(pairs, clusters, CLUSTERS).is_err() {
        return;
    }
    assert_eq!(list.clusters(), clusters);
    let mut next = 0;
    for run in list.from(0) {
        assert!(run.vcn == next && run.len > 0);
        assert!(run.lcn().is_none_or(|lcn| lcn + run.len <= CLUSTERS));
        next += run.len;
    }
    assert_eq!(next, clusters);
}
