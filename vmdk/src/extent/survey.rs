//! `check` for grain maps: every table, and no byte of the file for two purposes.

use std::ops::Range;

use vcb_block::Result;

use super::Table;
use super::grains::{Format, Grains, TableAt};
use crate::check::{Report, Severity};

/// Sectors of the file that one pass watches, as bits: 64 MiB of memory, 256 GiB of file.
const WINDOW: u64 = 1 << 29;

/// Which sectors of a window are taken.
struct Taken {
    bits: Vec<u64>,
    window: Range<u64>,
}

impl Taken {
    /// Watches sectors from `start` on, of a file of `sectors`.
    fn new(start: u64, sectors: u64) -> Self {
        let end = sectors.min(start + WINDOW).max(start);
        // At most WINDOW bits.
        Taken { bits: vec![0; (end - start).div_ceil(64) as usize], window: start..end }
    }

    /// Takes a range of sectors; gives the first that was taken before.
    fn take(&mut self, range: Range<u64>) -> Option<u64> {
        let start = range.start.max(self.window.start);
        let end = range.end.min(self.window.end);
        let mut twice = None;
        let mut sector = start;
        while sector < end {
            let bit = sector - self.window.start;
            let count = (64 - bit % 64).min(end - sector);
            let mask = (u64::MAX >> (64 - count)) << (bit % 64);
            let word = &mut self.bits[(bit / 64) as usize];
            let hit = *word & mask;
            if hit != 0 && twice.is_none() {
                twice = Some(sector - bit % 64 + u64::from(hit.trailing_zeros()));
            }
            *word |= mask;
            sector += count;
        }
        twice
    }
}

impl<F: Format> Grains<F> {
    /// Reads every table, both copies where there are two, and reports what is wrong with any.
    pub(super) fn check_tables(&self, report: &mut Report) -> Result<()> {
        for index in 0..self.shape().tables() {
            if report.is_full() {
                break;
            }
            let first = self.load_copy(index, false);
            let second = self.shape().redundant.map(|_| self.load_copy(index, true));
            if let (Ok(first), Some(Ok(second))) = (&first, &second)
                && first != second
            {
                let offset = self.table_offset(index);
                report.add(Severity::Error, offset, format!("the two copies of grain table {index} differ"));
            }
            for result in [Some(first), second].into_iter().flatten() {
                match result {
                    Ok(table) => self.check_table(index, &table, report)?,
                    Err(err) => report.error(&err),
                }
            }
        }
        Ok(())
    }

    fn check_table(&self, index: u64, table: &Table, report: &mut Report) -> Result<()> {
        let shape = self.shape();
        for segment in table.segments() {
            let Some(at) = segment.place.offset() else { continue };
            let guest = index * u64::from(shape.entries) + u64::from(segment.start);
            let count = u64::from(segment.end - segment.start);
            if let Some(grain) = self.format().cross_check(self.file(), at, guest, count)? {
                let offset = self.table_offset(index);
                let text = format!("the grain at guest offset {:#x} is stored as another grain", grain * shape.grain);
                report.add(Severity::Warning, offset, text);
            }
        }
        Ok(())
    }

    fn table_offset(&self, index: u64) -> Option<u64> {
        match self.locate(index, false) {
            Ok(TableAt::Offset(offset)) => Some(offset),
            _ => None,
        }
    }

    /// Reports sectors that two structures claim.
    pub(super) fn check_overlaps(&self, report: &mut Report) -> Result<()> {
        let sectors = self.file().len().div_ceil(512);
        let mut start = 0;
        while start < sectors && !report.is_full() {
            self.check_window(&mut Taken::new(start, sectors), report);
            start += WINDOW;
        }
        Ok(())
    }

    fn check_window(&self, taken: &mut Taken, report: &mut Report) {
        let shape = self.shape();
        let span = |start: u64, bytes: u64| start / 512..(start + bytes).div_ceil(512);
        for range in &shape.reserved {
            // Headers and directories were compared with each other when the extent was opened; the last
            // sector of one may be the first of the next.
            taken.take(span(range.start, range.end - range.start));
        }
        for index in 0..shape.tables() {
            let bytes = u64::from(shape.entries) * shape.width as u64;
            for second in [false, true].into_iter().filter(|&second| !second || shape.redundant.is_some()) {
                if let Ok(TableAt::Offset(at)) = self.locate(index, second)
                    && let Some(sector) = taken.take(span(at, bytes.min(self.file().len() - at)))
                {
                    let text = format!("grain table {index} shares sector {sector} with another structure");
                    report.add(Severity::Error, Some(at), text);
                }
            }
        }
        for index in 0..shape.tables() {
            // Damaged tables have been reported.
            let Ok(table) = self.load_copy(index, false) else { continue };
            for segment in table.segments() {
                let Some(at) = segment.place.offset() else { continue };
                let bytes = u64::from(segment.end - segment.start) * shape.grain;
                if let Some(sector) = taken.take(span(at, bytes.min(self.file().len() - at))) {
                    let guest = index * shape.coverage() + u64::from(segment.start) * shape.grain;
                    let text = format!(
                        "a grain at guest offset {guest:#x} or after shares sector {sector} with another structure"
                    );
                    report.add(Severity::Error, Some(sector * 512), text);
                }
            }
            if report.is_full() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_twice_is_found() {
        let mut taken = Taken::new(0, 1000);
        assert_eq!(taken.take(3..200), None);
        assert_eq!(taken.take(200..201), None);
        assert_eq!(taken.take(0..3), None);
        assert_eq!(taken.take(150..400), Some(150));
        assert_eq!(taken.take(199..1000), Some(199));
        assert_eq!(taken.take(1000..2000), None, "outside the window");
    }
}
