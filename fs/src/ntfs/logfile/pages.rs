//! Record pages and the records in them.
//!
//! ```text
//!   log 1.1: restart pages 0 1 | tail copies 2 3    | record area from page 4
//!   log 2.0: restart pages 0 1 | tail copies 2 … 33 | record area from page 34
//!
//!   page  0  "RCRD"   4 update sequence            record  0  LSN u64
//!         8  last LSN u64 (tail copy of 1.1:              16  next LSN to undo u64
//!            offset of the page it copies)                24  length of the data u32
//!        16  flags u32: 1 = a record ends here            32  type u32: 1 client, 2 checkpoint
//!        24  offset after the last record u16             36  transaction u32
//!        32  LSN of the last record ending u64            40  flags u16
//!                                                         48  data, on to the next pages
//! ```
//!
//! An LSN is the place of its record in units of 8 bytes, below a count of laps. When a record page is
//! written again before it is full, a copy goes to the tail first; the newest valid copy counts.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use vcb_block::bytes::{le16, le32, le64};
use vcb_block::{BlockRef, Result, plan};

use super::refusal::{Refusal, refuse};
use super::restart::Restart;
use crate::ntfs::fixup;

/// Length of a record's header.
pub(super) const RECORD_HEADER: usize = 48;
/// Largest log read: Windows makes 64 MiB unless told otherwise.
const MAX_LOG: u64 = 1 << 30;
/// Longest record: a table dumped at a checkpoint.
const MAX_RECORD: usize = 16 << 20;
/// Bytes of the log looked through at a time: every page counts, and a log is 64 MiB.
const SCAN: u64 = 1 << 20;
/// A record ends on this page.
const RECORD_END: u32 = 1;

/// A valid copy of a record page.
struct Copy {
    /// Where it lies in the log.
    offset: u64,
    /// How new it is.
    last: u64,
}

/// The record pages of a log.
pub(super) struct Log {
    log: BlockRef,
    page: u64,
    data: usize,
    sequence_bits: u32,
    /// First page of the record area.
    first: u64,
    /// Where the last whole page ends.
    end: u64,
    /// By the offset of the page in the record area.
    copies: BTreeMap<u64, Vec<Copy>>,
    /// LSN of the last record.
    pub(super) newest: u64,
    /// The page read last, which is mostly the one read next.
    recent: RefCell<Option<(u64, Rc<[u8]>)>>,
}

/// One record as it lies in the log.
pub(super) struct Raw {
    pub(super) lsn: u64,
    pub(super) header: [u8; RECORD_HEADER],
    pub(super) data: Vec<u8>,
    /// LSN that the record after it has.
    pub(super) next: u64,
}

/// Header of a page found while looking for all of them.
struct Seen {
    offset: u64,
    last: u64,
    /// LSN of the last record that ends on it.
    ended: Option<u64>,
    /// Offset after the last record.
    free: u64,
}

/// Undoes the fixups of the page at `offset` and reads its header; `None` when it is torn or no record page.
fn seen(page: &mut [u8], offset: u64) -> Option<Seen> {
    fixup::apply(page, "RCRD").ok()?;
    let ended = (le32(page, 16)? & RECORD_END != 0).then(|| le64(page, 32)).flatten();
    Some(Seen { offset, last: le64(page, 8)?, ended, free: u64::from(le16(page, 24)?) })
}

impl Log {
    /// Finds all valid pages of `log`.
    pub(super) fn open(log: &BlockRef, restart: &Restart) -> Result<Self> {
        if log.len() > MAX_LOG {
            return Err(Refusal::Limit { what: "the log", limit: MAX_LOG }.into());
        }
        let page = restart.page;
        // Restart pages are as long as record pages wherever Windows runs today.
        let tail_pages = match restart.version.0 {
            1 => 2,
            2 => 32,
            _ => return Err(Refusal::Log("the version of the log format is not known").into()),
        };
        let tail = 2 * restart.system_page;
        let mut found = Log {
            log: log.clone(),
            page,
            data: restart.data,
            sequence_bits: restart.sequence_bits,
            first: tail + tail_pages * page,
            end: log.len() - log.len() % page,
            copies: BTreeMap::new(),
            newest: 0,
            recent: RefCell::new(None),
        };
        let mut tails = Vec::new();
        let mut bytes = vec![0; (SCAN - SCAN % page).min(found.end.saturating_sub(tail)) as usize];
        let mut offset = tail;
        while offset < found.end {
            let len = (bytes.len() as u64).min(found.end - offset) as usize;
            plan::read(log, &mut bytes[..len], offset)?;
            for page in bytes[..len].chunks_exact_mut(page as usize) {
                if let Some(seen) = seen(page, offset) {
                    found.newest = found.newest.max(seen.ended.unwrap_or(0));
                    if offset < found.first {
                        tails.push(seen);
                    } else {
                        found.copies.entry(offset).or_default().push(Copy { offset, last: seen.last });
                    }
                }
                offset += page.len() as u64;
            }
        }
        found.place_tails(&tails, restart.version.0)?;
        Ok(found)
    }

    /// Finds out which page each tail copy is of.
    fn place_tails(&mut self, tails: &[Seen], major: u16) -> Result<()> {
        let mut spanning = Vec::new();
        for seen in tails {
            if major == 1 {
                // The field that tells how new a page is tells its home instead.
                let Some(last) = seen.ended else { continue };
                self.add(seen.last, Copy { offset: seen.offset, last });
                continue;
            }
            let start = self.offset(seen.last);
            let home = start - start % self.page;
            // A record that ends before where it starts has started on an earlier page.
            if seen.ended == Some(seen.last) && seen.free <= start % self.page {
                spanning.push((home, seen));
            } else {
                self.add(home, Copy { offset: seen.offset, last: seen.last });
            }
        }
        for (start, seen) in spanning {
            // Without its first page the record cannot be read, nor the end of the log: that is found later.
            let Ok(page) = self.page(start, seen.last) else { continue };
            let within = (self.offset(seen.last) % self.page) as usize;
            let Some(len) = le32(&page, within + 24) else { continue };
            let on_first = self.page - within as u64 - RECORD_HEADER as u64;
            let pages = u64::from(len).saturating_sub(on_first).div_ceil(self.page - self.data as u64).max(1);
            let area = (self.end - self.first) / self.page;
            let home = self.first + ((start - self.first) / self.page + pages) % area * self.page;
            self.add(home, Copy { offset: seen.offset, last: seen.last });
        }
        Ok(())
    }

    fn add(&mut self, home: u64, copy: Copy) {
        if home >= self.first && home < self.end && home.is_multiple_of(self.page) {
            self.copies.entry(home).or_default().push(copy);
        }
    }

    /// Where the record `lsn` starts in the log.
    fn offset(&self, lsn: u64) -> u64 {
        (lsn << self.sequence_bits) >> (self.sequence_bits - 3)
    }

    fn lap(&self, lsn: u64) -> u64 {
        lsn >> (64 - self.sequence_bits)
    }

    /// The newest copy of the page at `home` that was written with, or after, record `lsn`.
    fn page(&self, home: u64, lsn: u64) -> Result<Rc<[u8]>> {
        let copies = self.copies.get(&home).map_or(&[][..], Vec::as_slice);
        // Of copies equally new the one at home counts, which comes first: they are the same.
        let best = copies.iter().filter(|copy| copy.last >= lsn).rev().max_by_key(|copy| copy.last);
        let best = best.ok_or(Refusal::Page { offset: home, lsn })?;
        if let Some((offset, bytes)) = &*self.recent.borrow()
            && *offset == best.offset
        {
            return Ok(Rc::clone(bytes));
        }
        let mut bytes = vec![0; self.page as usize];
        plan::read(&self.log, &mut bytes, best.offset)?;
        seen(&mut bytes, best.offset).ok_or(Refusal::Page { offset: home, lsn })?;
        let bytes: Rc<[u8]> = bytes.into();
        *self.recent.borrow_mut() = Some((best.offset, Rc::clone(&bytes)));
        Ok(bytes)
    }

    /// The record `lsn`.
    pub(super) fn record(&self, lsn: u64) -> Result<Raw> {
        let start = self.offset(lsn);
        let (mut home, within) = (start - start % self.page, (start % self.page) as usize);
        let mut bytes = self.page(home, lsn)?;
        let header = bytes.get(within..).and_then(|rest| rest.first_chunk::<RECORD_HEADER>());
        let header =
            *header.filter(|header| le64(*header, 0) == Some(lsn)).ok_or(refuse(lsn, "is not where it says"))?;
        let len = le32(&header, 24).unwrap_or(0) as usize;
        if len > MAX_RECORD {
            return Err(Refusal::Limit { what: "a log record", limit: MAX_RECORD as u64 }.into());
        }
        let mut data = Vec::with_capacity(len);
        let (mut at, mut lap) = (within + RECORD_HEADER, self.lap(lsn));
        loop {
            let take = (len - data.len()).min(bytes.len() - at);
            data.extend_from_slice(&bytes[at..at + take]);
            at += take;
            if data.len() == len {
                break;
            }
            (home, lap) = self.following(home, lap);
            bytes = self.page(home, lsn)?;
            at = self.data;
        }
        // The next record starts at a multiple of 8, and on the next page when its header has no room on this one.
        at = at.next_multiple_of(8);
        if bytes.len().saturating_sub(at) < RECORD_HEADER {
            (home, lap) = self.following(home, lap);
            at = self.data;
        }
        let next = lap << (64 - self.sequence_bits) | (home + at as u64) >> 3;
        Ok(Raw { lsn, header, data, next })
    }

    /// The page after `home`; behind the last one a new lap starts.
    fn following(&self, home: u64, lap: u64) -> (u64, u64) {
        let next = home + self.page;
        if next < self.end { (next, lap) } else { (self.first, lap.wrapping_add(1)) }
    }
}
