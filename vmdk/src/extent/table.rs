//! A grain table, decoded to merged segments.
//!
//! The map of a whole table is decoded once and kept as runs, not entries: an unfragmented table of 4096
//! entries becomes one segment, and mapping a megabyte of it is one step instead of two thousand.

use vcb_block::{Error, Result};

/// Where a grain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u64);

impl Place {
    /// Not allocated: the parent's, or zeros.
    pub(crate) const HOLE: Place = Place(0);
    /// Zeros.
    pub(crate) const ZERO: Place = Place(1);

    /// Stored at a byte offset of the extent's file; at 0 and 1 there are headers.
    pub(crate) fn stored(offset: u64) -> Self {
        debug_assert!(offset > 1);
        Place(offset)
    }

    /// The byte offset, when it is stored.
    pub(crate) fn offset(self) -> Option<u64> {
        (self.0 > 1).then_some(self.0)
    }
}

/// Segments of a table in guest order. Two arrays, because the search touches only the first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// First grain of each segment within the table.
    starts: Box<[u16]>,
    /// Where that first grain is; the segment's others follow it.
    places: Box<[Place]>,
    /// Grains in the table.
    grains: u32,
}

/// One segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    /// First grain.
    pub(crate) start: u32,
    /// Grain after the last.
    pub(crate) end: u32,
    /// Where the first grain is.
    pub(crate) place: Place,
}

impl Table {
    /// Most entries that a table of any format may have; also the reason for 16 bits in `starts`.
    pub(crate) const MAX_ENTRIES: u32 = 4096;

    /// A table with all its `grains` in one place.
    pub(crate) fn uniform(place: Place, grains: u32) -> Self {
        Table { starts: Box::new([0]), places: Box::new([place]), grains }
    }

    /// Memory in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.places)
    }

    /// The segment with number `index`.
    pub(crate) fn segment(&self, index: usize) -> Option<Segment> {
        let start = u32::from(*self.starts.get(index)?);
        let end = self.starts.get(index + 1).map_or(self.grains, |&next| u32::from(next));
        Some(Segment { start, end, place: self.places[index] })
    }

    /// The number of the segment that holds `grain`, likely `hint` or the one after it.
    pub(crate) fn find(&self, grain: u32, hint: usize) -> usize {
        for index in [hint, hint + 1] {
            if self.segment(index).is_some_and(|s| (s.start..s.end).contains(&grain)) {
                return index;
            }
        }
        self.starts.partition_point(|&start| u32::from(start) <= grain).saturating_sub(1)
    }

    /// All segments.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> {
        (0..self.starts.len()).filter_map(|index| self.segment(index))
    }

    /// Refuses a table that stores two grains in the same bytes, as `unit` bytes each: one of them would be
    /// read wrong. Overlaps with other tables are for `check`, which sees them all.
    pub(crate) fn check_overlap(&self, layer: &'static str, unit: u64) -> Result<()> {
        let stored = |s: Segment| s.place.offset().map(|offset| (offset, offset + u64::from(s.end - s.start) * unit));
        let mut ranges: Vec<(u64, u64)> = self.segments().filter_map(stored).collect();
        if !ranges.is_sorted() {
            ranges.sort_unstable();
        }
        for pair in ranges.windows(2) {
            if pair[1].0 < pair[0].1 {
                return Err(Error::corrupt(layer, format!("two grains share the bytes at {:#x}", pair[1].0)));
            }
        }
        Ok(())
    }
}

/// Builds a table from entries in order, merging as it goes.
pub(crate) struct TableBuilder {
    starts: Vec<u16>,
    places: Vec<Place>,
    /// Bytes from one grain to the next of a segment; 0 when stored grains never merge (compressed).
    stride: u64,
    grains: u32,
    /// Where the next grain would have to be to extend the last segment.
    next: Place,
}

impl TableBuilder {
    /// For stored grains of `stride` bytes.
    pub(crate) fn new(stride: u64) -> Self {
        TableBuilder { starts: Vec::new(), places: Vec::new(), stride, grains: 0, next: Place(u64::MAX) }
    }

    /// Appends one grain.
    pub(crate) fn push(&mut self, place: Place) {
        if place != self.next {
            // Tables are bounded by MAX_ENTRIES, so the number fits.
            self.starts.push(self.grains as u16);
            self.places.push(place);
        }
        self.grains += 1;
        self.next = match place.offset() {
            None => place,
            Some(_) if self.stride == 0 => Place(u64::MAX),
            Some(offset) => Place(offset + self.stride),
        };
    }

    pub(crate) fn finish(self) -> Table {
        Table { starts: self.starts.into(), places: self.places.into(), grains: self.grains }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_become_merged_segments() {
        let mut builder = TableBuilder::new(512);
        for place in [0, 0, 1, 1024, 1536, 2048, 4096, 0].map(Place) {
            builder.push(place);
        }
        let table = builder.finish();
        let segments: Vec<_> = table.segments().map(|s| (s.start, s.end, s.place.0)).collect();
        assert_eq!(segments, [(0, 2, 0), (2, 3, 1), (3, 6, 1024), (6, 7, 4096), (7, 8, 0)]);
        for grain in 0..8 {
            for hint in 0..6 {
                let found = table.segment(table.find(grain, hint)).unwrap();
                assert!((found.start..found.end).contains(&grain), "{grain} with hint {hint}");
            }
        }
        assert!(table.check_overlap("t", 512).is_ok());
        assert!(table.check_overlap("t", 4096).is_err());
    }

    #[test]
    fn compressed_grains_stay_apart() {
        let mut builder = TableBuilder::new(0);
        [1024, 1536, 0, 0].map(Place).into_iter().for_each(|place| builder.push(place));
        assert_eq!(builder.finish().segments().count(), 3);
    }
}
