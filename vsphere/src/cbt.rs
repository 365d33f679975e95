//! Changed block tracking.

use std::ops::Range;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::model::Moref;
use crate::soap::Call;

/// Most areas of one disk. A terabyte in alternating 64 KiB blocks has eight million.
const MAX_AREAS: usize = 16 << 20;

/// What has changed on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedAreas {
    /// Length of the disk in bytes.
    pub capacity: u64,
    /// Byte ranges, ascending and apart from each other.
    pub areas: Vec<Range<u64>>,
}

impl Client {
    /// Where disk `device_key` of `snapshot` differs from the state that `change_id` names. May name areas
    /// that have not changed; leaves out none that has. `*` asks for all areas ever written.
    ///
    /// The server answers piece by piece; a piece that does not join the one before it, or makes no
    /// progress, is an error, because areas would be missing without anybody noticing.
    ///
    /// # Errors
    /// `FileFault` when changes were not tracked all the time: everything must be read then.
    pub fn changed_areas(
        &self,
        vm: &Moref,
        snapshot: &Moref,
        device_key: i32,
        change_id: &str,
        capacity: u64,
    ) -> Result<ChangedAreas> {
        const METHOD: &str = "QueryChangedDiskAreas";
        let mut areas: Vec<Range<u64>> = Vec::new();
        let mut position = 0u64;
        while position < capacity {
            let call = Call::new(METHOD, vm)
                .moref("snapshot", snapshot)
                .value("deviceKey", device_key)
                .value("startOffset", position)
                .text("changeId", change_id);
            let answer = self.call(call)?;
            let info = answer.child("returnval").ok_or_else(|| Error::protocol(METHOD, "no result"))?;
            let number = |node: &crate::xml::Node, name: &str| {
                node.number::<u64>(name).ok_or_else(|| Error::protocol(METHOD, format!("no {name}")))
            };
            let start = number(info, "startOffset")?;
            let end = start
                .checked_add(number(info, "length")?)
                .filter(|end| start == position && *end > position)
                .ok_or_else(|| Error::protocol(METHOD, format!("a piece at {start} where {position} was asked for")))?;
            for area in info.all("changedArea") {
                let from = number(area, "start")?;
                let to = from
                    .checked_add(number(area, "length")?)
                    .filter(|to| *to >= from && from >= position && *to <= end)
                    .ok_or_else(|| Error::protocol(METHOD, format!("an area at {from} outside its piece")))?;
                push(&mut areas, from..to.min(capacity))?;
            }
            position = end;
        }
        Ok(ChangedAreas { capacity, areas })
    }
}

fn push(areas: &mut Vec<Range<u64>>, area: Range<u64>) -> Result<()> {
    const METHOD: &str = "QueryChangedDiskAreas";
    if area.is_empty() {
        return Ok(());
    }
    let count = areas.len();
    match areas.last_mut() {
        Some(last) if area.start < last.end => Err(Error::protocol(METHOD, "areas overlap or are out of order")),
        Some(last) if area.start == last.end => {
            last.end = area.end;
            Ok(())
        }
        _ if count >= MAX_AREAS => Err(Error::protocol(METHOD, format!("more than {MAX_AREAS} areas"))),
        _ => {
            areas.push(area);
            Ok(())
        }
    }
}
