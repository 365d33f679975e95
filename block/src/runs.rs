//! Where the bytes of a range come from: a list of runs, merged as it is built.

use std::ops::Range;
use std::sync::Arc;

use crate::{BlockRef, Error, Kind, Result};

/// Index of a source within one [`Runs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(u32);

impl SourceId {
    /// Stands for "the block whose `map` is running", until [`Runs::map_child`] knows its reference.
    const OWN: SourceId = SourceId(u32::MAX);
}

/// Where a run's bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// Stored as they are at `offset` of a source.
    Data {
        /// Which source.
        source: SourceId,
        /// Byte offset in it.
        offset: u64,
    },
    /// Zeros, stored nowhere.
    Zero,
    /// Made by a source from something else (compressed, resident): its `read_at` must be asked.
    Opaque {
        /// Which source.
        source: SourceId,
        /// Byte offset in it.
        offset: u64,
    },
}

/// A range of bytes with one place to read it from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Length in bytes, never 0.
    pub len: u64,
    /// Where from.
    pub kind: RunKind,
}

/// Ascending, gapless, merged runs of one mapped range, with the sources they point to.
#[derive(Default, Clone)]
pub struct Runs {
    runs: Vec<Run>,
    sources: Vec<BlockRef>,
    /// Runs below this index belong to an outer layer and are not merged into while an inner `map` runs.
    floor: usize,
    len: u64,
}

impl Runs {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The runs of `range` of `block`.
    ///
    /// # Errors
    /// As the block's `map`.
    pub fn of(block: &BlockRef, range: Range<u64>) -> Result<Self> {
        let mut runs = Self::new();
        runs.map_child(block, range)?;
        Ok(runs)
    }

    /// Empties the list, keeping its memory.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.sources.clear();
        self.floor = 0;
        self.len = 0;
    }

    /// Bytes described so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True when nothing is described.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs.
    #[must_use]
    pub fn as_slice(&self) -> &[Run] {
        &self.runs
    }

    /// The source of a run, or `None` for runs that still point at the mapping block itself.
    #[must_use]
    pub fn source(&self, id: SourceId) -> Option<&BlockRef> {
        self.sources.get(id.0 as usize)
    }

    /// Appends zeros.
    pub fn push_zero(&mut self, len: u64) {
        self.push(Run { len, kind: RunKind::Zero });
    }

    /// Appends bytes stored at `offset` of `source`. For sources that are plain storage; a source with a
    /// `map` of its own is translated with [`Runs::map_child`] instead.
    pub fn push_data(&mut self, source: &BlockRef, offset: u64, len: u64) {
        let source = self.intern(source);
        self.push(Run { len, kind: RunKind::Data { source, offset } });
    }

    /// Appends bytes that are the mapping block's own storage (a file, a LUN, memory).
    pub fn push_own_data(&mut self, len: u64) {
        self.push(Run { len, kind: RunKind::Data { source: SourceId::OWN, offset: self.len } });
    }

    /// Appends bytes that only the mapping block's own `read_at` can make.
    pub fn push_opaque(&mut self, len: u64) {
        self.push(Run { len, kind: RunKind::Opaque { source: SourceId::OWN, offset: self.len } });
    }

    /// Translates `range` of `child` into runs at the end of this list.
    ///
    /// # Errors
    /// As the child's `map`; an implementation that describes more or less than the range is reported
    /// as [`Kind::Corrupt`] rather than believed.
    pub fn map_child(&mut self, child: &BlockRef, range: Range<u64>) -> Result<()> {
        let want = range.end.saturating_sub(range.start);
        crate::check_range(child.len(), range.start, want)?;
        if want == 0 {
            return Ok(());
        }
        let (outer_floor, first, before) = (self.floor, self.runs.len(), self.len);
        self.floor = first;
        let result = child.map(range.clone(), self);
        self.floor = outer_floor;
        result?;
        if self.len - before != want {
            return Err(Error::new(
                Kind::Corrupt,
                "block",
                format!("a map of {want} bytes described {} bytes", self.len - before),
            )
            .at(range.start));
        }
        self.adopt(child, first, range.start);
        self.merge_at(first);
        Ok(())
    }

    /// Points own runs since `first` at `owner`; `start` is the owner's offset of the first of them.
    fn adopt(&mut self, owner: &BlockRef, first: usize, start: u64) {
        let mut position = start;
        let mut id = None;
        for index in first..self.runs.len() {
            let Run { len, kind } = self.runs[index];
            if let RunKind::Data { source: SourceId::OWN, .. } | RunKind::Opaque { source: SourceId::OWN, .. } = kind {
                let source = *id.get_or_insert_with(|| intern(&mut self.sources, owner));
                self.runs[index].kind = match kind {
                    RunKind::Data { .. } => RunKind::Data { source, offset: position },
                    _ => RunKind::Opaque { source, offset: position },
                };
            }
            position += len;
        }
    }

    fn intern(&mut self, source: &BlockRef) -> SourceId {
        intern(&mut self.sources, source)
    }

    fn push(&mut self, run: Run) {
        if run.len == 0 {
            return;
        }
        self.len += run.len;
        if self.runs.len() > self.floor
            && let Some(last) = self.runs.last_mut()
            && follows(last, &run)
        {
            last.len += run.len;
            return;
        }
        self.runs.push(run);
    }

    /// Merges the run at `index` into the one before it, where the outer layer's runs meet the inner ones.
    fn merge_at(&mut self, index: usize) {
        if index <= self.floor || index >= self.runs.len() {
            return;
        }
        let next = self.runs[index];
        if follows(&self.runs[index - 1], &next) {
            self.runs[index - 1].len += next.len;
            self.runs.remove(index);
        }
    }
}

impl std::fmt::Debug for Runs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.runs).finish()
    }
}

fn intern(sources: &mut Vec<BlockRef>, source: &BlockRef) -> SourceId {
    // Lists have one or a few sources, and the one just used is the likeliest.
    let found = sources.iter().rposition(|known| Arc::ptr_eq(known, source));
    let index = found.unwrap_or_else(|| {
        sources.push(Arc::clone(source));
        sources.len() - 1
    });
    SourceId(u32::try_from(index).unwrap_or(u32::MAX - 1))
}

/// True when `next` continues `last`. Own runs keep no offset until they are adopted; two in a row are
/// consecutive by construction.
fn follows(last: &Run, next: &Run) -> bool {
    match (last.kind, next.kind) {
        (RunKind::Zero, RunKind::Zero) => true,
        (RunKind::Data { source: a, offset: x }, RunKind::Data { source: b, offset: y })
        | (RunKind::Opaque { source: a, offset: x }, RunKind::Opaque { source: b, offset: y }) => {
            a == b && (a == SourceId::OWN || x.checked_add(last.len) == Some(y))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemBlock;

    fn mem(bytes: &[u8]) -> BlockRef {
        Arc::new(MemBlock::new(bytes.to_vec()))
    }

    #[test]
    fn neighbours_merge_in_the_builder() {
        let source = mem(&[0; 100]);
        let mut runs = Runs::new();
        runs.push_data(&source, 10, 5);
        runs.push_data(&source, 15, 5);
        runs.push_zero(1);
        runs.push_zero(2);
        runs.push_data(&source, 15, 5);
        let lens: Vec<u64> = runs.as_slice().iter().map(|r| r.len).collect();
        assert_eq!((lens, runs.len()), (vec![10, 3, 5], 18));
    }

    #[test]
    fn a_child_is_attached_to_its_own_runs_and_merges_with_the_outer_layer() {
        let source = mem(&[7; 100]);
        let mut runs = Runs::new();
        runs.map_child(&source, 0..10).unwrap();
        runs.map_child(&source, 10..30).unwrap();
        assert_eq!(runs.as_slice().len(), 1);
        let RunKind::Data { source: id, offset } = runs.as_slice()[0].kind else { panic!("not data") };
        assert_eq!((offset, runs.as_slice()[0].len), (0, 30));
        assert!(Arc::ptr_eq(runs.source(id).unwrap(), &source));
    }

    #[test]
    fn a_map_past_the_end_is_refused_before_the_child_is_asked() {
        let source = mem(&[7; 10]);
        let err = Runs::of(&source, 5..11).unwrap_err();
        assert_eq!(err.kind(), Kind::OutOfRange);
    }

    struct Liar;
    impl crate::Block for Liar {
        fn len(&self) -> u64 {
            100
        }
        fn read_at(&self, _: &mut [u8], _: u64) -> Result<()> {
            Ok(())
        }
        fn map(&self, _: Range<u64>, runs: &mut Runs) -> Result<()> {
            runs.push_zero(3);
            Ok(())
        }
    }

    #[test]
    fn a_map_of_the_wrong_length_is_not_believed() {
        let liar: BlockRef = Arc::new(Liar);
        assert_eq!(Runs::of(&liar, 0..10).unwrap_err().kind(), Kind::Corrupt);
    }
}
