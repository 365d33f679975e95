//! Opens what a plan describes.

use std::sync::Arc;

use vcb_block::{BlockRef, Error, Kind};
use vcb_fs::volume::{self, Content, Volume};
use vcb_fs::{Filesystem, Time, ntfs};
use vcb_vmdk::{Disk, OpenOptions, Resolver};

use super::{DiskPlan, MountPlan, ReadOptions};
use crate::datastore::file_name;
use crate::failure::{Failure, Outcome};
use crate::vm::{OpenDisk, OpenVm, OpenVolume, VmFile};

/// A disk of a plan with its chain, for those who want to look at the chain.
pub struct PlannedDisk {
    /// What the plan says.
    pub plan: DiskPlan,
    /// The open chain.
    pub disk: Disk,
    /// The storage that its files are on.
    pub storage: Arc<dyn Resolver>,
}

impl MountPlan {
    /// Opens the VM: every disk with its chain, and every volume on them.
    ///
    /// # Errors
    /// A disk that cannot be opened fails the whole: a backup without it would look complete. A volume that
    /// cannot be read is told by its [`OpenVolume::fs`].
    pub fn open(&self) -> Outcome<OpenVm> {
        let resolver = self.source.resolver()?;
        let mut disks = Vec::new();
        let mut volumes = 0;
        for (number, planned) in (0..).zip(self.open_disks_in(&resolver)?) {
            disks.push(open_disk(number, planned, &mut volumes, &*resolver, &self.options));
        }
        let files = self.files.iter().map(|name| self.open_file(&*resolver, name)).collect::<Outcome<_>>()?;
        Ok(OpenVm { name: self.vm.name.clone(), files, disks, storage: Some(resolver) })
    }

    /// Opens the chains of all disks, without looking at what is on them.
    ///
    /// # Errors
    /// The first that cannot be opened.
    pub fn open_disks(&self) -> Outcome<Vec<PlannedDisk>> {
        self.open_disks_in(&self.source.resolver()?)
    }

    fn open_disks_in(&self, resolver: &Arc<dyn Resolver>) -> Outcome<Vec<PlannedDisk>> {
        let mut options = self.options.disk_options();
        // One cache for all disks of the VM, so that a VM with many disks keeps to its budget.
        options.cache = Some(vcb_vmdk::Cache::new(self.options.cache_bytes));
        let open = |plan: &DiskPlan| {
            let disk = Disk::open(Arc::clone(resolver), &plan.file, &options)
                .map_err(|err| Failure::reading(format!("cannot open the disk {}", plan.shown()), err))?;
            for warning in disk.warnings() {
                tracing::warn!(disk = plan.file, "{warning}");
            }
            Ok(PlannedDisk { plan: plan.clone(), disk, storage: Arc::clone(resolver) })
        };
        self.disks.iter().map(open).collect()
    }

    fn open_file(&self, resolver: &dyn Resolver, name: &str) -> Outcome<VmFile> {
        let found = resolver.open("", name).map_err(|err| Failure::reading(format!("cannot open {name}"), err))?;
        Ok(VmFile { name: file_name(name).to_owned(), modified: modified(&found.block), block: found.block })
    }
}

impl ReadOptions {
    /// As the options for opening one disk.
    #[must_use]
    pub fn disk_options(&self) -> OpenOptions {
        let mut options = OpenOptions::default();
        options.allow_dirty = self.allow_dirty;
        options.ignore_cid = self.ignore_cid;
        options.cache_bytes = self.cache_bytes;
        options
    }
}

impl DiskPlan {
    /// For messages: `scsi0:0 ([ds] web/web.vmdk)`.
    #[must_use]
    pub fn shown(&self) -> String {
        if self.node.is_empty() { self.file.clone() } else { format!("{} ({})", self.node, self.file) }
    }
}

fn open_disk(
    number: u32,
    planned: PlannedDisk,
    volumes: &mut u32,
    resolver: &dyn Resolver,
    options: &ReadOptions,
) -> OpenDisk {
    let PlannedDisk { plan, disk, .. } = planned;
    let ddb = disk.descriptor().ddb_entries().map(|(key, value)| (key.to_owned(), value.to_owned()));
    OpenDisk {
        number,
        file_name: file_name(&plan.file).to_owned(),
        adapter: disk.ddb("adapterType").unwrap_or("lsilogic").to_owned(),
        uuid: disk.ddb("uuid").map(str::to_owned),
        ddb: ddb.collect(),
        block: Arc::clone(disk.block()),
        modified: newest(&disk, resolver),
        volumes: open_volumes(disk.block(), volumes, options),
        node: plan.node,
    }
}

/// Opens every volume of a disk. `count` is the number of volumes on the disks before.
pub(crate) fn open_volumes(disk: &BlockRef, count: &mut u32, options: &ReadOptions) -> Vec<OpenVolume> {
    let mut next = || {
        *count += 1;
        *count
    };
    let scan = match volume::scan(disk) {
        Ok(scan) => scan,
        // A partition table that cannot be read must not look like a disk without volumes.
        Err(err) => {
            return vec![OpenVolume {
                number: next(),
                partition: 0,
                start: 0,
                len: disk.len(),
                mbr_signature: None,
                gpt_guid: None,
                fs: Err(err),
            }];
        }
    };
    for warning in &scan.warnings {
        tracing::warn!("{warning}");
    }
    let open = |volume: &Volume| OpenVolume {
        number: next(),
        partition: volume.partition,
        start: volume.start,
        len: volume.len,
        mbr_signature: scan.mbr_signature,
        gpt_guid: volume.gpt_guid,
        fs: open_filesystem(volume, options),
    };
    let volumes: Vec<OpenVolume> = scan.volumes.iter().map(open).collect();
    for volume in &volumes {
        if let Some(journal) = volume.fs.as_ref().ok().and_then(|fs| fs.journal()) {
            match journal.notable {
                true => tracing::warn!(volume = volume.number, "{}", journal.text),
                false => tracing::info!(volume = volume.number, "{}", journal.text),
            }
        }
    }
    volumes
}

/// Opens the filesystem of a volume.
///
/// # Errors
/// Why there is none to be had; [`Kind::NotFound`] for a volume whose absence takes nothing of the guest's own
/// files along (docs/decisions/0506-volumes-that-are-not-missed.md).
pub fn open_filesystem(volume: &Volume, options: &ReadOptions) -> vcb_block::Result<Arc<dyn Filesystem>> {
    if volume.content == Content::Ntfs {
        let (metafiles, replay) = (options.metafiles, options.replay);
        let options = ntfs::Options { metafiles, replay, ..ntfs::Options::default() };
        return Ok(ntfs::Ntfs::open(Arc::clone(&volume.block), &options)?);
    }
    let not_missed = match volume.content {
        Content::Swap => Some("the volume is swap space"),
        Content::Empty | Content::Unknown if volume.type_name == "Microsoft reserved" => {
            Some("the volume is reserved by Windows and holds no files")
        }
        Content::Fat if volume.type_name == "EFI system" => Some(
            "the volume is an EFI system partition: it holds the boot loader, in a FAT filesystem, and is in full only \
             in a mount of whole disks (--mode fullvm)",
        ),
        _ => None,
    };
    if let Some(why) = not_missed.filter(|_| volume.problem.is_none()) {
        return Err(Error::new(Kind::NotFound, "volume", why));
    }
    let why = match (&volume.problem, volume.content) {
        (Some(problem), _) => format!("the volume {problem}"),
        (None, Content::BitLocker) => "the volume is encrypted by BitLocker".to_owned(),
        (None, Content::Empty) => "the volume is empty".to_owned(),
        (None, Content::Unknown) => "the volume holds no filesystem that is known".to_owned(),
        (None, content) => format!("the volume holds {content}, which cannot be read yet"),
    };
    Err(Error::unsupported("volume", why))
}

/// The newest write to any file of a chain, or `None` when one of them does not tell.
fn newest(disk: &Disk, resolver: &dyn Resolver) -> Option<Time> {
    let mut newest = Time::default();
    for link in disk.links() {
        newest = newest.max(modified(&resolver.open("", &link.name).ok()?.block)?);
        for file in link.extents.iter().filter_map(|extent| extent.file.as_deref()) {
            // The extent of a disk in a single file may carry a stale name; the disk itself was counted.
            if let Ok(found) = resolver.open(&link.name, file) {
                newest = newest.max(modified(&found.block)?);
            }
        }
    }
    Some(newest)
}

fn modified(block: &BlockRef) -> Option<Time> {
    Time::from_system(block.modified()?)
}
