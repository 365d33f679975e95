//! Run lists: which clusters of the volume hold a stream.
//!
//! A run is a header byte (low half: bytes of the length, high half: bytes of the cluster delta), a
//! length in clusters and a signed delta to the previous run's first cluster; no delta is a hole. A zero
//! byte ends the list. Source: NTFS documentation of the Linux-NTFS project, "Data Runs".

use super::error::Fault;

/// `lcn` of a hole.
const HOLE: u64 = u64::MAX;

/// Consecutive clusters of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// First cluster in the stream.
    pub(super) vcn: u64,
    /// Clusters.
    pub(super) len: u64,
    lcn: u64,
}

impl Run {
    /// First cluster on the volume; `None` for a hole.
    pub(super) fn lcn(&self) -> Option<u64> {
        (self.lcn != HOLE).then_some(self.lcn)
    }

    fn end(&self) -> u64 {
        self.vcn + self.len
    }
}

/// The runs of a stream from its first cluster on, ascending, gapless, merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RunList(Vec<Run>);

impl RunList {
    /// Clusters described so far.
    pub(super) fn clusters(&self) -> u64 {
        self.0.last().map_or(0, Run::end)
    }

    /// Bytes of memory.
    pub(super) fn weight(&self) -> usize {
        self.0.capacity() * size_of::<Run>()
    }

    /// The runs from the one that holds `vcn` on.
    pub(super) fn from(&self, vcn: u64) -> &[Run] {
        let first = self.0.partition_point(|run| run.end() <= vcn);
        self.0.get(first..).unwrap_or_default()
    }

    /// Appends the runs encoded in `pairs`, which describe exactly `len` clusters of a volume of `clusters`.
    ///
    /// # Errors
    /// Runs that are malformed, lie outside the volume, or describe another number of clusters.
    pub(super) fn append(&mut self, pairs: &[u8], len: u64, clusters: u64) -> Result<(), Fault> {
        let start = self.clusters();
        let end = start.checked_add(len).ok_or(Fault::Runs("passes 2^64 clusters"))?;
        let mut rest = pairs;
        let mut lcn = 0i64;
        loop {
            let (&header, tail) = rest.split_first().ok_or(Fault::Runs("has no end"))?;
            if header == 0 {
                break;
            }
            let (len_bytes, delta_bytes) = (usize::from(header & 0xF), usize::from(header >> 4));
            let (run, tail) = tail.split_at_checked(len_bytes).ok_or(Fault::Runs("is cut off"))?;
            let (delta, tail) = tail.split_at_checked(delta_bytes).ok_or(Fault::Runs("is cut off"))?;
            rest = tail;
            let run = signed(run)
                .and_then(|run| u64::try_from(run).ok())
                .filter(|&run| run > 0)
                .ok_or(Fault::Runs("has a run of impossible length"))?;
            let vcn = self.clusters();
            if run > end - vcn {
                return Err(Fault::Runs("is longer than its attribute says"));
            }
            if delta.is_empty() {
                self.push(Run { vcn, len: run, lcn: HOLE });
                continue;
            }
            lcn = signed(delta)
                .and_then(|delta| lcn.checked_add(delta))
                .ok_or(Fault::Runs("has a cluster number out of range"))?;
            let first = u64::try_from(lcn).map_err(|_| Fault::Runs("has a negative cluster number"))?;
            if first.checked_add(run).is_none_or(|last| last > clusters) {
                return Err(Fault::RunOutside { lcn: first, len: run, clusters });
            }
            self.push(Run { vcn, len: run, lcn: first });
        }
        if self.clusters() != end {
            return Err(Fault::Runs("is shorter than its attribute says"));
        }
        Ok(())
    }

    fn push(&mut self, run: Run) {
        if let Some(last) = self.0.last_mut() {
            let follows = match (last.lcn(), run.lcn()) {
                (Some(a), Some(b)) => a + last.len == b,
                (None, None) => true,
                _ => false,
            };
            if follows {
                last.len += run.len;
                return;
            }
        }
        self.0.push(run);
    }
}

/// A little-endian signed number of up to eight bytes.
fn signed(bytes: &[u8]) -> Option<i64> {
    let sign = bytes.last()? >> 7;
    let mut wide = if sign == 1 { [0xFF; 8] } else { [0; 8] };
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pairs: &[u8], len: u64) -> Result<Vec<(u64, u64, Option<u64>)>, Fault> {
        let mut list = RunList::default();
        list.append(pairs, len, 1 << 20)?;
        Ok(list.0.iter().map(|run| (run.vcn, run.len, run.lcn())).collect())
    }

    #[test]
    fn runs_holes_and_backward_deltas() {
        // 0x18 clusters at 0x5634, a hole of 0x10, 4 clusters 0x34 before the first run.
        let pairs = [0x21, 0x18, 0x34, 0x56, 0x01, 0x10, 0x11, 0x04, 0xCC, 0x00];
        assert_eq!(
            decode(&pairs, 0x2C),
            Ok(vec![(0, 0x18, Some(0x5634)), (0x18, 0x10, None), (0x28, 4, Some(0x5600))])
        );
    }

    #[test]
    fn neighbours_merge_and_parts_append() {
        assert_eq!(decode(&[0x11, 4, 10, 0x11, 4, 4, 0], 8), Ok(vec![(0, 8, Some(10))]));
        let mut list = RunList::default();
        list.append(&[0x11, 4, 10, 0], 4, 100).unwrap();
        list.append(&[0x11, 4, 20, 0], 4, 100).unwrap();
        assert_eq!(list.from(5).first().map(|run| (run.vcn, run.lcn())), Some((4, Some(20))));
        assert_eq!((list.clusters(), list.from(8).len()), (8, 0));
    }

    #[test]
    fn malformed_lists_are_refused() {
        for (pairs, len) in [
            (&[][..], 0),
            (&[0x11, 4], 4),
            (&[0x21, 4, 1], 4),
            (&[0x11, 4, 10], 4),
            (&[0x11, 4, 10, 0], 5),
            (&[0x11, 4, 10, 0], 3),
            (&[0x11, 0, 10, 0], 0),
            (&[0x11, 0xFF, 10, 0], 255),
            (&[0x10, 10, 0], 1),
            (&[0x11, 4, 0xF0, 0], 4),
            (&[0x91, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], 4),
            (&[0x18, 1, 0, 0, 0, 0, 0, 0, 0x7F, 1, 0], 1),
        ] {
            assert!(decode(pairs, len).is_err(), "{pairs:x?}");
        }
        assert!(matches!(decode(&[0x31, 4, 0, 0, 0x10, 0], 4), Err(Fault::RunOutside { .. })));
    }
}
