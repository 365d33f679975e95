//! Restart pages: the state of the log, twice.
//!
//! ```text
//!   page  0  "RSTR"                      restart area   0  current LSN u64
//!         4  update sequence                            8  clients u16   12  first in use u16
//!        16  system page size u32                      14  flags u16: 2 = clean
//!        20  log page size u32                         16  sequence number bits u32
//!        24  offset of the restart area u16            22  offset of the clients u16
//!        26  minor, 28 major version u16               24  log size u64
//!   client of 160 bytes: 8  restart LSN u64            36  record header length u16
//!         (the checkpoint)                             38  offset of the data in a page u16
//! ```

use vcb_block::bytes::{le16, le32, le64};
use vcb_block::{BlockRef, Result, plan};

use super::pages::RECORD_HEADER;
use crate::ntfs::fixup;

const NO_CLIENT: u16 = 0xFFFF;
const CLIENT: usize = 160;
const CLEAN: u16 = 2;
/// Where the second page is looked for when the first cannot be read: the page size of x86.
const USUAL_PAGE: u64 = 4096;
/// Longest page of any system that runs Windows.
const LONGEST_PAGE: u64 = 65_536;

/// What the front of a log holds.
pub(super) enum Found {
    /// All FF.
    Empty,
    /// The newer of the readable restart pages.
    Restart(Restart),
    /// Neither page can be used.
    Unknown(&'static str),
}

/// A restart page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Restart {
    /// Last LSN when the page was written.
    current: u64,
    /// Major and minor version of the log format.
    pub(super) version: (u16, u16),
    /// The log was closed in order, or nobody has it open.
    pub(super) clean: bool,
    /// Upper bits of an LSN that count the laps through the log.
    pub(super) sequence_bits: u32,
    /// Length of a restart page in bytes.
    pub(super) system_page: u64,
    /// Length of a record page in bytes.
    pub(super) page: u64,
    /// Where the data of a record page starts.
    pub(super) data: usize,
    /// LSN of the last checkpoint.
    pub(super) checkpoint: Option<u64>,
}

/// Reads both pages and takes the newer one.
pub(super) fn read(log: &BlockRef) -> Result<Found> {
    let Some(first) = page(log, 0, USUAL_PAGE)? else { return Ok(Found::Unknown("the log is too short")) };
    if first.iter().all(|&byte| byte == 0xFF) {
        return Ok(Found::Empty);
    }
    let size = le32(&first, 16).map(u64::from).filter(|&size| is_page_size(size)).unwrap_or(USUAL_PAGE);
    let mut newest: Option<Restart> = None;
    for offset in [0, size] {
        let Some(mut page) = page(log, offset, size)? else { continue };
        if page.starts_with(b"CHKD") {
            return Ok(Found::Unknown("the volume was checked, and the log not used since"));
        }
        if let Some(restart) = parse(&mut page, log)
            && newest.is_none_or(|other| restart.current > other.current)
        {
            newest = Some(restart);
        }
    }
    Ok(newest.map_or(Found::Unknown("neither restart page can be read"), Found::Restart))
}

fn is_page_size(size: u64) -> bool {
    size.is_power_of_two() && (512..=LONGEST_PAGE).contains(&size)
}

fn page(log: &BlockRef, offset: u64, len: u64) -> Result<Option<Vec<u8>>> {
    if offset + len > log.len() {
        return Ok(None);
    }
    let mut bytes = vec![0; len as usize];
    plan::read(log, &mut bytes, offset)?;
    Ok(Some(bytes))
}

/// `None` for a page that is torn, cut off or contradicts itself.
fn parse(page: &mut [u8], log: &BlockRef) -> Option<Restart> {
    fixup::apply(page, "RSTR").ok()?;
    let system_page = u64::from(le32(page, 16)?);
    let record_page = u64::from(le32(page, 20)?);
    let area = page.get(usize::from(le16(page, 24)?)..)?;
    let (clients, in_use) = (le16(area, 8)?, le16(area, 12)?);
    let checkpoint = match in_use {
        NO_CLIENT => None,
        _ if in_use >= clients => return None,
        _ => Some(le64(area, usize::from(le16(area, 22)?) + usize::from(in_use) * CLIENT + 8)?),
    };
    let sequence_bits = le32(area, 16)?;
    let data = usize::from(le16(area, 38)?);
    let sound = is_page_size(record_page)
        && system_page == page.len() as u64
        // They are equal wherever Windows runs; record pages have to start at a multiple of their length.
        && system_page.is_multiple_of(record_page)
        && (4..64).contains(&sequence_bits)
        && (0x28..record_page as usize - RECORD_HEADER).contains(&data)
        && data.is_multiple_of(8)
        && usize::from(le16(area, 36)?) == RECORD_HEADER
        && le64(area, 24)? <= log.len();
    sound.then_some(Restart {
        current: le64(area, 0)?,
        version: (le16(page, 28)?, le16(page, 26)?),
        clean: checkpoint.is_none() || le16(area, 14)? & CLEAN != 0,
        sequence_bits,
        system_page,
        page: record_page,
        data,
        checkpoint,
    })
}
