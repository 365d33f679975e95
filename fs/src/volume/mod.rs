//! Volumes of a disk: partition tables, and what lies in each partition.
//!
//! ```text
//!   sector 0 ──► a filesystem's boot sector        superfloppy: the whole disk is one volume
//!            ──► 55AA with a 0xEE entry            GPT: header at sector 1, backup in the last sector
//!            ──► 55AA with other entries           MBR: four slots, extended ones chain to logical ones
//! ```
//!
//! Structures are read as UEFI 2.10 section 5 (GPT, protective MBR) and the Windows and Linux practice for
//! MBR disks describe them. A partition that a table describes wrongly (past the end of the disk, over
//! another one) stays in the list with its [`Problem`]; only a disk whose table as a whole cannot be
//! trusted fails.

mod content;
mod gpt;
mod mbr;

use std::fmt;
use std::sync::Arc;

use vcb_block::{BlockRef, Result, Window};

pub use content::Content;

/// Layer name in errors.
const LAYER: &str = "volume";

/// How a disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Nothing that we recognise.
    None,
    /// A master boot record.
    Mbr,
    /// A GUID partition table.
    Gpt,
    /// One filesystem from the first sector on, without a table.
    Superfloppy,
}

impl Scheme {
    /// The stable word used in messages and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::None => "none",
            Scheme::Mbr => "mbr",
            Scheme::Gpt => "gpt",
            Scheme::Superfloppy => "superfloppy",
        }
    }
}

/// Why a volume is not what its table says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// It ends (or lies wholly) past the end of the disk. The block ends where the disk ends.
    PastEnd {
        /// Where the disk ends, in bytes.
        disk: u64,
    },
    /// It shares bytes with another partition.
    Overlap {
        /// Number of the other one.
        partition: u32,
    },
    /// A logical partition that leaves the extended partition it belongs to.
    OutsideExtended,
    /// A GPT entry whose last sector is before its first.
    Inverted,
    /// Its first sectors could not be read, so its content is not known.
    Unread(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::PastEnd { disk } => write!(f, "passes the end of the disk at {disk:#x}"),
            Problem::Overlap { partition } => write!(f, "overlaps partition {partition}"),
            Problem::OutsideExtended => f.write_str("leaves its extended partition"),
            Problem::Inverted => f.write_str("ends before it starts"),
            Problem::Unread(why) => write!(f, "cannot be read: {why}"),
        }
    }
}

/// One partition, or the whole disk of a superfloppy.
#[derive(Clone)]
pub struct Volume {
    /// Number as Linux counts: GPT entry or MBR slot from 1, logical partitions from 5; 0 for a superfloppy.
    pub partition: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes, as the table says.
    pub len: u64,
    /// Its bytes; shorter than `len` only with [`Problem::PastEnd`].
    pub block: BlockRef,
    /// What the table calls it: the partition type in words, or its number.
    pub type_name: String,
    /// Name from a GPT entry.
    pub name: Option<String>,
    /// Unique GUID from a GPT entry, as stored (the form of MountedDevices' `DMIO:ID:` values).
    pub gpt_guid: Option<[u8; 16]>,
    /// What its first sectors say it holds.
    pub content: Content,
    /// What is wrong with it, the gravest first found.
    pub problem: Option<Problem>,
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume")
            .field("partition", &self.partition)
            .field("start", &self.start)
            .field("len", &self.len)
            .field("type_name", &self.type_name)
            .field("name", &self.name)
            .field("content", &self.content)
            .field("problem", &self.problem)
            .finish_non_exhaustive()
    }
}

/// What a disk holds.
#[derive(Debug, Clone)]
pub struct Scan {
    /// How it is divided.
    pub scheme: Scheme,
    /// Disk signature at offset 440 of an MBR (MountedDevices names MBR volumes by it and their start).
    pub mbr_signature: Option<u32>,
    /// The volumes in the order of the table.
    pub volumes: Vec<Volume>,
    /// Conditions that a user should know: a damaged primary table, a hybrid one, a broken chain.
    pub warnings: Vec<String>,
}

/// A partition as a table describes it, before anything of it is read.
struct Entry {
    partition: u32,
    start: u64,
    len: u64,
    type_name: String,
    name: Option<String>,
    guid: Option<[u8; 16]>,
    /// What the type alone says, where that outweighs the first sectors.
    content: Option<Content>,
    problem: Option<Problem>,
}

/// Finds the volumes of `disk`. A disk with no recognisable table and no recognisable filesystem is
/// [`Scheme::None`] without volumes.
///
/// # Errors
/// Read errors of the first sectors and of the tables; [`vcb_block::Kind::Corrupt`] when the disk says it
/// is GPT and neither header can be trusted; [`vcb_block::Kind::Limit`] for a table larger than any that
/// is made.
pub fn scan(disk: &BlockRef) -> Result<Scan> {
    let whole = content::probe(disk)?;
    let sector = mbr::Sector::read(disk)?.filter(mbr::Sector::has_table);
    match sector {
        // Of the boot sectors only a FAT one leaves room for a table beside it: then the table counts.
        Some(sector) if !whole.has_boot_sector() || whole == Content::Fat => by_table(disk, &sector),
        _ if whole.is_recognised() => Ok(superfloppy(disk, whole)),
        _ => bare(disk),
    }
}

/// A disk with a partition table in its first sector.
fn by_table(disk: &BlockRef, sector: &mbr::Sector) -> Result<Scan> {
    let mut warnings = Vec::new();
    let signature = Some(sector.signature());
    if sector.is_protective() {
        let entries = gpt::read(disk, &mut warnings)?;
        if sector.is_hybrid() {
            warnings.push("hybrid MBR: the GUID partition table is used".to_owned());
        }
        return finish(disk, Scheme::Gpt, signature, entries, warnings);
    }
    let entries = mbr::read(disk, sector, 512, &mut warnings)?;
    let mut scan = finish(disk, Scheme::Mbr, signature, entries, warnings)?;
    let recognised = |scan: &Scan| scan.volumes.iter().any(|volume| volume.content.is_recognised());
    if !recognised(&scan) {
        // Nothing in an MBR tells the sector size: where 512 leads nowhere and 4096 does, it was 4096.
        let mut warnings = vec!["the partition table counts sectors of 4096 bytes".to_owned()];
        let entries = mbr::read(disk, sector, 4096, &mut warnings)?;
        let large = finish(disk, Scheme::Mbr, signature, entries, warnings)?;
        if recognised(&large) {
            scan = large;
        }
    }
    if gpt::leftover(disk)? {
        scan.warnings.push("a GUID partition table is present but not named by the MBR: ignored".to_owned());
    }
    Ok(scan)
}

/// A disk whose first sector tells nothing: a GPT without its protective MBR is still its only description.
fn bare(disk: &BlockRef) -> Result<Scan> {
    let mut warnings = Vec::new();
    match gpt::without_protective_mbr(disk, &mut warnings)? {
        Some(entries) => finish(disk, Scheme::Gpt, None, entries, warnings),
        None => Ok(Scan { scheme: Scheme::None, mbr_signature: None, volumes: Vec::new(), warnings }),
    }
}

fn superfloppy(disk: &BlockRef, content: Content) -> Scan {
    let volume = Volume {
        partition: 0,
        start: 0,
        len: disk.len(),
        block: Arc::clone(disk),
        type_name: "whole disk".to_owned(),
        name: None,
        gpt_guid: None,
        content,
        problem: None,
    };
    Scan { scheme: Scheme::Superfloppy, mbr_signature: None, volumes: vec![volume], warnings: Vec::new() }
}

/// Turns entries into volumes: cuts them to the disk, finds overlaps, probes contents.
fn finish(
    disk: &BlockRef,
    scheme: Scheme,
    mbr_signature: Option<u32>,
    mut entries: Vec<Entry>,
    warnings: Vec<String>,
) -> Result<Scan> {
    mark_overlaps(&mut entries);
    let volumes = entries.into_iter().map(|entry| volume(disk, entry)).collect::<Result<_>>()?;
    Ok(Scan { scheme, mbr_signature, volumes, warnings })
}

/// Marks every entry that shares bytes with another. After sorting by start it is enough to compare with
/// the entry that reaches furthest so far.
fn mark_overlaps(entries: &mut [Entry]) {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&index| entries[index].start);
    let mut furthest: Option<(usize, u64)> = None;
    for index in order {
        let (start, len) = (entries[index].start, entries[index].len);
        let end = start.saturating_add(len);
        if let Some((other, reach)) = furthest
            && start < reach
            && len > 0
        {
            let (a, b) = (entries[index].partition, entries[other].partition);
            entries[index].problem.get_or_insert(Problem::Overlap { partition: b });
            entries[other].problem.get_or_insert(Problem::Overlap { partition: a });
        }
        if furthest.is_none_or(|(_, reach)| end > reach) {
            furthest = Some((index, end));
        }
    }
}

fn volume(disk: &BlockRef, entry: Entry) -> Result<Volume> {
    let Entry { partition, start, len, type_name, name, guid, content, mut problem } = entry;
    let inside = disk.len().saturating_sub(start).min(len);
    if inside < len {
        problem = Some(Problem::PastEnd { disk: disk.len() });
    }
    let block: BlockRef = Arc::new(Window::new(Arc::clone(disk), start.min(disk.len()), inside)?);
    let content = content.unwrap_or_else(|| {
        content::probe(&block).unwrap_or_else(|err| {
            problem.get_or_insert_with(|| Problem::Unread(err.report()));
            Content::Unknown
        })
    });
    Ok(Volume { partition, start, len, block, type_name, name, gpt_guid: guid, content, problem })
}

#[cfg(test)]
mod tests;
