//! A VM opened for reading: what planning hands to views.

use std::sync::Arc;

use vcb_block::{BlockRef, Error, Trouble};
use vcb_fs::{Filesystem, Time};
use vcb_vmdk::Resolver;

/// One VM with its disks open at the chosen, frozen point.
pub struct OpenVm {
    /// Display name.
    pub name: String,
    /// The VM's small files that a `fullvm` mount shows beside the disks: .vmx, .nvram, .vmsd.
    pub files: Vec<VmFile>,
    /// Disks, in controller order.
    pub disks: Vec<OpenDisk>,
    /// The storage that the files are on, where it can change under a reader.
    pub storage: Option<Arc<dyn Resolver>>,
}

impl OpenVm {
    /// Compares the open files with the storage they are on. A session calls it now and then and once after
    /// the last read: what was read before was right when it succeeds.
    ///
    /// # Errors
    /// [`vcb_block::Kind::Changed`] when a file was moved, rewritten or taken over by a host meanwhile.
    pub fn verify(&self) -> Result<(), Error> {
        self.storage.as_ref().map_or(Ok(()), |storage| storage.verify())
    }

    /// What is wrong with that storage at present. Reads nothing.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.storage.as_ref()?.trouble()
    }
}

/// A small file of the VM folder.
pub struct VmFile {
    /// Name without path.
    pub name: String,
    /// Its bytes.
    pub block: BlockRef,
    /// Last write, when the datastore tells.
    pub modified: Option<Time>,
}

/// A virtual disk as the guest sees it.
pub struct OpenDisk {
    /// From 0, in controller order.
    pub number: u32,
    /// Where it is attached: `scsi0:0`; empty when only a disk was given.
    pub node: String,
    /// Name of the disk's descriptor as the VM's configuration has it.
    pub file_name: String,
    /// `ddb.adapterType`.
    pub adapter: String,
    /// `ddb.uuid`, when there is one.
    pub uuid: Option<String>,
    /// Other `ddb.` entries that a served descriptor repeats (geometry, hardware version).
    pub ddb: Vec<(String, String)>,
    /// The content.
    pub block: BlockRef,
    /// Newest write to any file of the disk's chain, when the datastore tells. Backup software takes an
    /// image with unchanged times for an unchanged image, so this must not be guessed.
    pub modified: Option<Time>,
    /// Volumes found on it, in partition order.
    pub volumes: Vec<OpenVolume>,
}

/// A volume of a disk.
pub struct OpenVolume {
    /// From 1, counted over all disks in order: the name under `digits/`.
    pub number: u32,
    /// Partition number on its disk, from 1; 0 when the disk has no partition table.
    pub partition: u32,
    /// Byte offset on the disk.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// Disk signature of the MBR the partition is in, when it is in one.
    pub mbr_signature: Option<u32>,
    /// Partition GUID in on-disk byte order, when the disk has a GPT.
    pub gpt_guid: Option<[u8; 16]>,
    /// The filesystem, or why it cannot be shown; [`vcb_block::Kind::NotFound`] when nobody misses it.
    pub fs: Result<Arc<dyn Filesystem>, Error>,
}
