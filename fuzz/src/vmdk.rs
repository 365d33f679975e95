//! VMDK targets: each takes any bytes and may refuse them, but may not panic, read wrongly or eat memory.

use std::sync::Arc;

use vcb_block::{BlockRef, Error, Kind, MemBlock, Result, bytes, plan};
use vcb_vmdk::{Descriptor, Disk, OpenOptions, Resolved, Resolver};

/// A target by name.
pub type Target = (&'static str, fn(&[u8]));

/// All targets of this file.
pub const TARGETS: [Target; 9] = [
    ("vmdk_descriptor", descriptor),
    ("vmdk_hosted", hosted),
    ("vmdk_cowd", cowd),
    ("vmdk_sesparse", sesparse),
    ("vmdk_stream", stream),
    ("vmdk_chain", chain),
    ("vmdk_vmx", vmx),
    ("vmdk_vmsd", vmsd),
    ("vmdk_ova", ova),
];

/// Files in memory; paths lead to their last component.
#[derive(Default)]
struct Files(Vec<(String, BlockRef)>);

impl Files {
    fn put(mut self, name: &str, data: &[u8]) -> Self {
        self.0.push((name.to_owned(), Arc::new(MemBlock::new(data.to_vec()))));
        self
    }
}

impl Resolver for Files {
    fn open(&self, _from: &str, name: &str) -> Result<Resolved> {
        let plain = name.rsplit(['/', '\\']).next().unwrap_or(name);
        let found = self.0.iter().find(|(known, _)| known == plain);
        let (name, block) = found.ok_or_else(|| Error::new(Kind::NotFound, "fuzz", "no such file"))?;
        Ok(Resolved { name: name.clone(), block: block.clone() })
    }

    fn siblings(&self, _from: &str) -> Result<Vec<String>> {
        Ok(self.0.iter().map(|(name, _)| name.clone()).collect())
    }
}

/// A text descriptor.
pub fn descriptor(data: &[u8]) {
    let _ = Descriptor::parse(data);
    read(Files::default().put("disk.vmdk", data), "disk.vmdk");
}

/// A hosted sparse extent with a descriptor that agrees about its length.
pub fn hosted(data: &[u8]) {
    extent(data, "SPARSE", bytes::le64(data, 12));
}

/// A COWD extent.
pub fn cowd(data: &[u8]) {
    extent(data, "VMFSSPARSE", bytes::le32(data, 12).map(u64::from));
}

/// An SEsparse extent.
pub fn sesparse(data: &[u8]) {
    extent(data, "SESPARSE", bytes::le64(data, 16));
}

/// A disk in one file: streams, and hosted sparse with its descriptor inside.
pub fn stream(data: &[u8]) {
    read(Files::default().put("disk.vmdk", data), "disk.vmdk");
}

/// Files of a snapshot chain, leaf first: length of the name (u8), name, length of the file (u32), file.
pub fn chain(data: &[u8]) {
    let mut files = Files::default();
    let mut rest = data;
    while files.0.len() < 16
        && let Some((&len, tail)) = rest.split_first()
    {
        let (name, tail) = tail.split_at(tail.len().min(usize::from(len)));
        let Some(len) = bytes::le32(tail, 0) else { break };
        let (file, tail) = tail[4..].split_at((tail.len() - 4).min(len as usize));
        files = files.put(&String::from_utf8_lossy(name), file);
        rest = tail;
    }
    if let Some((leaf, _)) = files.0.first() {
        let leaf = leaf.clone();
        read(files, &leaf);
    }
}

/// A VM's configuration.
pub fn vmx(data: &[u8]) {
    if let Ok(vmx) = vcb_vmdk::vmx::Vmx::parse(data) {
        let _ = (vmx.display_name(), vmx.uuid_bios(), vmx.disks());
    }
}

/// A VM's snapshot list.
pub fn vmsd(data: &[u8]) {
    if let Ok(snapshots) = vcb_vmdk::vmsd::Snapshots::parse(data) {
        let _ = (snapshots.all().len(), snapshots.find("1").is_ok());
    }
}

/// An archive with disks.
pub fn ova(data: &[u8]) {
    let block: BlockRef = Arc::new(MemBlock::new(data.to_vec()));
    let Ok(resolver) = vcb_vmdk::ova::OvaResolver::open(block, "fuzz.ova") else { return };
    let _ = resolver.check();
    for name in resolver.disks().take(4) {
        open(resolver.clone(), name);
    }
}

fn extent(data: &[u8], kind: &str, sectors: Option<u64>) {
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\ncreateType=\"custom\"\n\
         RW {} {kind} \"extent.vmdk\"\n",
        sectors.unwrap_or(0)
    );
    read(Files::default().put("disk.vmdk", text.as_bytes()).put("extent.vmdk", data), "disk.vmdk");
}

fn read(files: Files, leaf: &str) {
    open(Arc::new(files), leaf);
}

/// Opens a disk and reads its start, middle and end both ways a block can be read, which must agree.
fn open(resolver: Arc<dyn Resolver>, leaf: &str) {
    const PIECE: u64 = 128 << 10;
    let _ = vcb_vmdk::check(resolver.clone(), leaf, &OpenOptions::default());
    let Ok(disk) = Disk::open(resolver, leaf, &OpenOptions::default()) else { return };
    let block = disk.block();
    let len = block.len();
    for start in [0, len / 2, len.saturating_sub(PIECE)] {
        let size = PIECE.min(len - start) as usize;
        let (mut mapped, mut direct) = (vec![0xAA; size], vec![0x55; size]);
        if plan::read(block, &mut mapped, start).is_ok() {
            block.read_at(&mut direct, start).expect("what can be read through the map can be read");
            assert!(mapped == direct, "the map of {start:#x} gives other bytes than read_at");
        }
    }
}
