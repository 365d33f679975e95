//! One link: finding its descriptor, wherever it is kept, and opening its extents.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use vcb_block::{BlockRef, Error, Kind, Result};

use crate::cache::Cache;
use crate::descriptor::{Access, Descriptor, ExtentInfo, ExtentKind, MAX_BYTES};
use crate::disk::OpenOptions;
use crate::extent::cowd::{self, CowdHeader};
use crate::extent::sesparse::{self, DirtyJournal, SeSparseHeader};
use crate::extent::{Extent, Flat, HOSTED_MAGIC, HostedHeader, NoAccess, Zeros, footer, hosted, stream};
use crate::resolve::{Resolved, Resolver};

const LAYER: &str = "vmdk";

/// A link whose descriptor was read.
pub(crate) struct Found {
    pub(crate) resolved: Resolved,
    pub(crate) descriptor: Descriptor,
    /// True when the file with the descriptor is also its only extent.
    pub(crate) single: bool,
}

/// Reads the descriptor of `resolved`: the file itself, or embedded in a sparse extent.
pub(crate) fn find(resolved: Resolved) -> Result<Found> {
    let name = resolved.name.clone();
    find_in(resolved).map_err(|err| err.path(&name))
}

fn find_in(resolved: Resolved) -> Result<Found> {
    let block = &resolved.block;
    let head = head(block, hosted::HEADER as u64)?;
    match head.get(..4) {
        Some(magic) if magic.eq_ignore_ascii_case(HOSTED_MAGIC) => {}
        Some(magic) if magic == cowd::MAGIC || magic == sesparse::MAGIC => return Err(bare()),
        Some([0x1F, 0x8B, ..]) => return Err(Error::unsupported(LAYER, "the file is compressed with gzip")),
        _ => {
            if block.len() > MAX_BYTES {
                return Err(Error::corrupt(LAYER, "neither a descriptor nor a sparse disk"));
            }
            let descriptor = Descriptor::parse(&read(block, 0, block.len())?)?;
            return Ok(Found { resolved, descriptor, single: false });
        }
    }
    let header = HostedHeader::parse(&head)?;
    let Some((offset, size)) = header.descriptor(block.len())? else { return Err(bare()) };
    if size > MAX_BYTES {
        return Err(Error::new(Kind::Limit, LAYER, format!("a descriptor of {size} bytes")).at(36));
    }
    let descriptor = Descriptor::parse(&read(block, offset, size)?).map_err(|err| err.at(offset))?;
    // A file without a map only carries the text.
    let single = header.capacity != 0 || header.gd == hosted::GD_AT_END;
    if single && descriptor.extents.len() != 1 {
        let text = format!("a descriptor of {} extents inside an extent", descriptor.extents.len());
        return Err(Error::corrupt(LAYER, text).at(offset));
    }
    Ok(Found { resolved, descriptor, single })
}

/// Holes of a lone extent could be its parent's bytes; only a descriptor knows.
fn bare() -> Error {
    Error::unsupported(LAYER, "this file is an extent without a descriptor; open the descriptor that names it")
}

fn read(block: &BlockRef, offset: u64, len: u64) -> Result<Vec<u8>> {
    // Bounded by the callers.
    let mut bytes = vec![0; len as usize];
    block.read_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Opens all extents of a link.
pub(crate) fn extents(
    resolver: &dyn Resolver,
    found: &Found,
    options: &OpenOptions,
    cache: &Arc<Cache>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Box<dyn Extent>>> {
    let mut opener = Opener::new(resolver, found, options, cache, warnings);
    let extents = found.descriptor.extents.iter().map(|info| opener.open(info)).collect::<Result<_>>()?;
    opener.finish()?;
    Ok(extents)
}

/// Opens the extents of one link, in order.
pub(crate) struct Opener<'a> {
    resolver: &'a dyn Resolver,
    found: &'a Found,
    options: &'a OpenOptions,
    cache: &'a Arc<Cache>,
    warnings: &'a mut Vec<String>,
    /// Files, and the bytes of them that extents have used.
    used: HashMap<String, Used>,
}

/// A file and the ranges of it that extents have used.
struct Used {
    len: u64,
    ranges: Vec<Range<u64>>,
}

impl<'a> Opener<'a> {
    pub(crate) fn new(
        resolver: &'a dyn Resolver,
        found: &'a Found,
        options: &'a OpenOptions,
        cache: &'a Arc<Cache>,
        warnings: &'a mut Vec<String>,
    ) -> Self {
        Opener { resolver, found, options, cache, warnings, used: HashMap::new() }
    }

    pub(crate) fn open(&mut self, info: &ExtentInfo) -> Result<Box<dyn Extent>> {
        // The descriptor has bounded the sum of all extents.
        let len = info.sectors * 512;
        if info.access == Access::None {
            return Ok(Box::new(NoAccess::new(len)));
        }
        let own = &self.found.resolved;
        match info.kind {
            ExtentKind::Zero => Ok(Box::new(Zeros { len })),
            // The name in an embedded descriptor is often stale; the file at hand is meant.
            ExtentKind::Sparse if self.found.single => {
                let file = own.block.clone();
                self.sparse(file, &own.name, info)
            }
            _ if self.found.single => {
                let text = format!("an extent of type {} in a hosted sparse file", info.kind.as_str());
                Err(Error::corrupt(LAYER, text).path(&own.name))
            }
            ExtentKind::VmfsRdm | ExtentKind::VmfsRaw => self.device(info, len),
            ExtentKind::VsanSparse => {
                let text = "vSAN deltas can be read only inside their vSAN";
                Err(Error::unsupported(LAYER, text).path(&own.name))
            }
            ExtentKind::Flat | ExtentKind::Vmfs if self.is_device(info) => self.device(info, len),
            kind => {
                let file = self.resolver.open(&own.name, info.file.as_deref().unwrap_or_default())?;
                self.file(kind, file, info, len)
            }
        }
    }

    /// Notes that an extent uses `range` of `file`. No two extents share bytes; two that seem to are one
    /// name with a damaged letter.
    fn take(&mut self, file: &Resolved, range: Range<u64>) -> Result<()> {
        let fresh = || Used { len: file.block.len(), ranges: Vec::new() };
        let used = self.used.entry(file.name.clone()).or_insert_with(fresh);
        if used.ranges.iter().any(|other| range.start < other.end && other.start < range.end) {
            return Err(Error::corrupt(LAYER, "two extents of the disk share bytes of this file").path(&file.name));
        }
        used.ranges.push(range);
        Ok(())
    }

    /// Looks for files that go on after their last extent. A digit lost from the descriptor, or a resize that
    /// was interrupted, would take the end of the disk away without a word.
    ///
    /// # Errors
    /// When whole sectors belong to no extent, unless such disks are to be read.
    pub(crate) fn finish(self) -> Result<()> {
        for (name, used) in self.used {
            let end = used.ranges.iter().map(|range| range.end).max().unwrap_or(0);
            let rest = used.len.saturating_sub(end);
            if rest == 0 {
                continue;
            }
            let text = format!("{rest} bytes at the end belong to no extent");
            if rest >= 512 && !self.options.allow_dirty {
                return Err(Error::corrupt(LAYER, text).path(&name).at(end));
            }
            self.warnings.push(format!("{name}: {text}"));
        }
        Ok(())
    }

    fn file(&mut self, kind: ExtentKind, file: Resolved, info: &ExtentInfo, len: u64) -> Result<Box<dyn Extent>> {
        let start = sectors(info.offset)?;
        let flat = matches!(kind, ExtentKind::Flat | ExtentKind::Vmfs);
        self.take(&file, if flat { start..start.saturating_add(len) } else { 0..u64::MAX })?;
        match kind {
            ExtentKind::Sparse => self.sparse(file.block, &file.name, info),
            ExtentKind::Flat | ExtentKind::Vmfs => {
                Ok(Box::new(Flat::new(file.block, start, len).map_err(|err| err.path(&file.name))?))
            }
            ExtentKind::VmfsSparse => self.cowd(file.block, &file.name, info).map_err(|err| err.path(&file.name)),
            ExtentKind::SeSparse => self.sesparse(file.block, &file.name, info).map_err(|err| err.path(&file.name)),
            kind => Err(Error::unsupported(LAYER, format!("extents of type {}", kind.as_str())).path(&file.name)),
        }
    }

    /// True for a name that stands for a device of the host rather than for a file beside the descriptor.
    fn is_device(&self, info: &ExtentInfo) -> bool {
        let name = info.file.as_deref().unwrap_or_default();
        self.options.devices.contains_key(name) || name.starts_with("/dev/") || name.starts_with("\\\\.\\")
    }

    fn device(&self, info: &ExtentInfo, len: u64) -> Result<Box<dyn Extent>> {
        let name = info.file.as_deref().unwrap_or_default();
        let own = &self.found.resolved.name;
        let device = match self.options.devices.get(name) {
            Some(device) => Some(device.clone()),
            None => self.resolver.device(own, name)?,
        };
        let Some(device) = device else {
            let text = format!("the extent is the raw device '{name}', and no device is configured under this name");
            return Err(Error::unsupported(LAYER, text).path(own));
        };
        Ok(Box::new(Flat::new(device, sectors(info.offset)?, len).map_err(|err| err.path(name))?))
    }

    fn sparse(&mut self, file: BlockRef, name: &str, info: &ExtentInfo) -> Result<Box<dyn Extent>> {
        self.hosted(file, name, info).map_err(|err| err.path(name))
    }

    fn hosted(&mut self, file: BlockRef, name: &str, info: &ExtentInfo) -> Result<Box<dyn Extent>> {
        let header = HostedHeader::parse(&head(&file, hosted::HEADER as u64)?)?;
        let mut header = footer::effective_header(&header, &file)?;
        header.capacity = self.capacity(header.capacity, header.grain, info).map_err(|err| err.at(12))?;
        let (cache, dirty) = (self.cache.clone(), self.options.allow_dirty);
        // Streams are written once, front to back, and leave the mark of an open file in their header.
        let unclean = (header.unclean && !header.is_compressed()).then(|| UNCLEAN.to_owned());
        let (extent, warnings): (Box<dyn Extent>, _) = if header.is_compressed() {
            let (extent, warnings) = stream::open(&header, file, cache, self.options)?;
            (Box::new(extent), warnings)
        } else {
            let (extent, warnings) = hosted::open(&header, file, cache, dirty)?;
            (Box::new(extent), warnings)
        };
        self.warnings.extend(unclean.into_iter().chain(warnings).map(|text| format!("{name}: {text}")));
        Ok(extent)
    }

    fn capacity(&self, header: u64, grain: u64, info: &ExtentInfo) -> Result<u64> {
        let last = self.found.descriptor.extents.last().is_some_and(|last| std::ptr::eq(last, info));
        capacity(header, grain, info.sectors, last)
    }

    fn cowd(&mut self, file: BlockRef, name: &str, info: &ExtentInfo) -> Result<Box<dyn Extent>> {
        let mut header = CowdHeader::parse(&head(&file, cowd::HEADER)?)?;
        header.capacity = self.capacity(header.capacity, header.grain, info).map_err(|err| err.at(12))?;
        if header.unclean {
            self.warnings.push(format!("{name}: {UNCLEAN}"));
        }
        Ok(Box::new(cowd::open(&header, file, self.cache.clone())?))
    }

    fn sesparse(&mut self, file: BlockRef, name: &str, info: &ExtentInfo) -> Result<Box<dyn Extent>> {
        let mut header = SeSparseHeader::parse(&head(&file, sesparse::HEADER as u64)?)?;
        header.capacity = self.capacity(header.capacity, sesparse::GRAIN, info).map_err(|err| err.at(16))?;
        if header.is_dirty(&file)? {
            if !self.options.allow_dirty {
                return Err(Error::unsupported("vmdk-sesparse", DirtyJournal).at(header.volatile() + 24));
            }
            self.warnings.push(format!("{name}: {DirtyJournal}; what it holds is not read"));
        }
        Ok(Box::new(sesparse::open(&header, file, self.cache.clone())?))
    }
}

const UNCLEAN: &str = "was not closed cleanly by the program that wrote it";

/// The first `len` bytes, or all of a shorter file.
fn head(file: &BlockRef, len: u64) -> Result<Vec<u8>> {
    read(file, 0, file.len().min(len))
}

/// The sectors to use of a sparse extent: as many as the descriptor says. The header says the same, or in the
/// last extent the same rounded up to whole grains; in others that would move all that follows.
pub(crate) fn capacity(header: u64, grain: u64, descriptor: u64, last: bool) -> Result<u64> {
    let rounded = descriptor.checked_next_multiple_of(grain.max(1));
    if header == descriptor || (last && rounded == Some(header)) {
        return Ok(descriptor);
    }
    let text = format!("the header says {header} sectors, the descriptor {descriptor}");
    Err(Error::corrupt(LAYER, text))
}

fn sectors(count: u64) -> Result<u64> {
    let bytes = count.checked_mul(512).filter(|&bytes| bytes <= i64::MAX as u64);
    bytes.ok_or_else(|| Error::corrupt(LAYER, format!("an extent at sector {count}")))
}
