//! The VM as a self-contained folder: configuration, catalog, and each disk as a descriptor with one flat
//! image. Nothing is copied; the image is the open disk.

use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vcb_block::{BlockRef, Error, Kind, MemBlock, Result};
use vcb_fs::{Attr, FileType, FsStats, Name, NameBuf, Time};

pub use super::descriptor::ImageType;
use super::file::{LAYER, not_found, plain_attr, wrong_type};
use super::{Entry, Node, NodeId, Note, View, descriptor, vmx};
use crate::vm::{OpenDisk, OpenVm, VmFile};

/// First number after the root.
const FIRST: u64 = 2;
/// Unit of the totals.
const UNIT: u32 = 4096;
/// Largest `.vmx` that is rewritten in memory. Real ones have a few kilobytes.
const MAX_VMX: u64 = 4 << 20;

/// How a VM's folder is shown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FullVmOptions {
    /// How descriptors call the images.
    pub image: ImageType,
}

struct Item {
    name: String,
    block: BlockRef,
    modified: Time,
}

/// See the [module](self).
pub struct FullVmView {
    items: Vec<Item>,
    host_files: bool,
}

impl FullVmView {
    /// The folder of `vm`.
    ///
    /// # Errors
    /// When a descriptor cannot be written for a disk, or the `.vmx` cannot be read.
    pub fn new(vm: &OpenVm, options: &FullVmOptions) -> Result<Self> {
        let mut folder = Folder::default();
        let mut disks = Vec::new();
        for disk in &vm.disks {
            let stem = folder.free_stem(&disk_stem(disk));
            let modified = time_of(disk.modified);
            let flat = format!("{stem}-flat.vmdk");
            let text = descriptor::text(disk, &flat, options.image)?;
            folder.add_text(&format!("{stem}.vmdk"), text.into_bytes(), modified);
            folder.add(flat, Arc::clone(&disk.block), modified);
            disks.push((disk, format!("{stem}.vmdk")));
        }
        let with_extension = |file: &&VmFile, extension: &str| has_extension(&file.name, extension);
        let nvram = vm.files.iter().find(|file| with_extension(file, "nvram"));
        let nvram = nvram.map(|file| (file, folder.free(&plain(&file.name))));
        let named: Vec<(String, String)> = disks.iter().map(|(disk, name)| (disk.node.clone(), name.clone())).collect();
        let mut config = None;
        let mut bios = None;
        if let Some(file) = vm.files.iter().find(|file| with_extension(file, "vmx")) {
            let text = read_small(file)?;
            let nvram = nvram.as_ref().map(|(_, name)| name.as_str());
            let name = folder.free(&format!("{}.vmx", plain(&vm.name)));
            folder.add_text(&name, vmx::rewrite(&text, &named, nvram), time_of(file.modified));
            bios = vmx::get(&text, "uuid.bios");
            config = Some(name);
        }
        if let Some((file, name)) = nvram {
            folder.add(name, Arc::clone(&file.block), time_of(file.modified));
        }
        let newest = folder.items.iter().map(|item| item.modified).max().unwrap_or_default();
        folder.add_text("catalog", catalog(vm, &disks, config.as_deref(), bios.as_deref()), newest);
        let host_files = folder.items.iter().any(|item| item.block.host_file().is_some());
        Ok(FullVmView { items: folder.items, host_files })
    }

    fn item(&self, node: NodeId) -> Result<&Item> {
        if node == NodeId::ROOT {
            return Err(wrong_type("a folder has no content"));
        }
        let index = node.0.checked_sub(FIRST).and_then(|index| usize::try_from(index).ok());
        let item = index.and_then(|index| self.items.get(index));
        item.ok_or_else(|| Error::new(Kind::NotFound, LAYER, format!("no node {:#x}", node.0)))
    }

    fn id(index: usize) -> NodeId {
        NodeId(FIRST + index as u64)
    }

    fn root_only(dir: NodeId) -> Result<()> {
        if dir == NodeId::ROOT { Ok(()) } else { Err(wrong_type("a file where a folder was needed")) }
    }
}

impl View for FullVmView {
    fn lookup(&self, dir: NodeId, name: &Name) -> Result<Node> {
        Self::root_only(dir)?;
        let index = self.items.iter().position(|item| item.name.as_bytes() == name).ok_or_else(not_found)?;
        Ok(Node { id: Self::id(index), attr: self.attr(Self::id(index))? })
    }

    fn attr(&self, node: NodeId) -> Result<Attr> {
        if node == NodeId::ROOT {
            return Ok(plain_attr(node, FileType::Dir, 0));
        }
        let item = self.item(node)?;
        let attr = plain_attr(node, FileType::File, item.block.len());
        Ok(Attr { modified: item.modified, changed: item.modified, ..attr })
    }

    fn read_dir(
        &self,
        dir: NodeId,
        cookie: u64,
        with_attr: bool,
        each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<()> {
        Self::root_only(dir)?;
        for (index, item) in self.items.iter().enumerate().skip(usize::try_from(cookie).unwrap_or(usize::MAX)) {
            let (node, next) = (Self::id(index), index as u64 + 1);
            let attr = with_attr.then(|| self.attr(node));
            let name = item.name.clone().into_bytes();
            if each(Entry { name, node, kind: FileType::File, attr, next }).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn parent(&self, _dir: NodeId) -> Result<NodeId> {
        Ok(NodeId::ROOT)
    }

    fn open(&self, node: NodeId) -> Result<BlockRef> {
        Ok(Arc::clone(&self.item(node)?.block))
    }

    fn read_link(&self, _node: NodeId) -> Result<NameBuf> {
        Err(wrong_type("not a link"))
    }

    fn xattr_names(&self, _node: NodeId) -> Result<Vec<NameBuf>> {
        Ok(Vec::new())
    }

    fn xattr(&self, _node: NodeId, _name: &Name) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn stats(&self) -> Result<FsStats> {
        let clusters = self.items.iter().map(|item| item.block.len().div_ceil(u64::from(UNIT))).sum();
        Ok(FsStats { cluster_size: UNIT, clusters, free_clusters: 0, files: self.items.len() as u64 })
    }

    fn path(&self, node: NodeId) -> String {
        self.item(node).map_or_else(|_| format!("node {:#x}", node.0), |item| item.name.clone())
    }

    fn notes(&self) -> Vec<Note> {
        Vec::new()
    }

    fn has_host_files(&self) -> bool {
        self.host_files
    }
}

/// The folder while it is being filled. Names come from descriptors and a display name, so they are made
/// plain, and unique without regard to case, so that the folder can be copied anywhere.
#[derive(Default)]
struct Folder {
    items: Vec<Item>,
}

impl Folder {
    fn taken(&self, name: &str) -> bool {
        name.eq_ignore_ascii_case("catalog") || self.items.iter().any(|item| item.name.eq_ignore_ascii_case(name))
    }

    /// `stem`, or `stem_2`, `stem_3`…, such that neither of a disk's files is taken.
    fn free_stem(&self, stem: &str) -> String {
        let free = |stem: &str| !self.taken(&format!("{stem}.vmdk")) && !self.taken(&format!("{stem}-flat.vmdk"));
        numbered(stem, free)
    }

    fn free(&self, name: &str) -> String {
        let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        numbered(stem, |stem| !self.taken(&format!("{stem}.{extension}"))) + "." + extension
    }

    fn add(&mut self, name: String, block: BlockRef, modified: Time) {
        self.items.push(Item { name, block, modified });
    }

    fn add_text(&mut self, name: &str, text: Vec<u8>, modified: Time) {
        self.add(name.to_owned(), Arc::new(MemBlock::new(text)), modified);
    }
}

fn numbered(stem: &str, free: impl Fn(&str) -> bool) -> String {
    let others = (2..).map(|number| format!("{stem}_{number}"));
    std::iter::once(stem.to_owned()).chain(others).find(|stem| free(stem)).unwrap_or_default()
}

/// A time that is not known must look new at every mount: backup software skips what seems unchanged.
fn time_of(known: Option<Time>) -> Time {
    known.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Time::from_unix(now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX)))
    })
}

fn read_small(file: &VmFile) -> Result<Vec<u8>> {
    let len = file.block.len();
    if len > MAX_VMX {
        return Err(Error::new(Kind::Limit, LAYER, format!("{} has {len} bytes", file.name)));
    }
    let mut text = vec![0; len as usize];
    file.block.read_at(&mut text, 0)?;
    Ok(text)
}

fn has_extension(name: &str, extension: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, found)| found.eq_ignore_ascii_case(extension))
}

/// The last component of a path in any notation, without what a file name or a descriptor cannot hold.
fn plain(name: &str) -> String {
    let last = name.rsplit(['/', '\\', ']']).find(|part| !part.trim().is_empty()).unwrap_or_default();
    let kept: String = last.chars().map(|c| if c.is_control() || c == '"' { '_' } else { c }).collect();
    let kept = kept.trim().trim_start_matches('.');
    // Leaves room for suffixes within the 255 bytes of a file name.
    let end = kept.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|&end| end <= 200).last();
    let kept = &kept[..end.unwrap_or(0)];
    if kept.is_empty() { "vm".to_owned() } else { kept.to_owned() }
}

/// The disk's name without extension and without the number of its snapshot: `web01-000002.vmdk` is `web01`.
fn disk_stem(disk: &OpenDisk) -> String {
    let name = plain(&disk.file_name);
    let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
    let base = stem
        .rsplit_once('-')
        .filter(|(base, number)| !base.is_empty() && number.len() == 6 && number.bytes().all(|b| b.is_ascii_digit()));
    base.map_or(stem, |(base, _)| base).to_owned()
}

/// VCB's catalog: `key= "value"` lines.
fn catalog(vm: &OpenVm, disks: &[(&OpenDisk, String)], config: Option<&str>, uuid: Option<&str>) -> Vec<u8> {
    let mut lines = vec![("version".to_owned(), "vcbmount".to_owned()), ("display_name".to_owned(), vm.name.clone())];
    lines.extend(uuid.map(|uuid| ("uuid".to_owned(), uuid.to_owned())));
    lines.extend(config.map(|name| ("config.vmx".to_owned(), name.to_owned())));
    for (disk, name) in disks {
        let node = if disk.node.is_empty() { format!("disk{}", disk.number) } else { disk.node.clone() };
        lines.push((format!("disk.{node}.filename"), disk.file_name.clone()));
        lines.push((format!("disk.{node}.diskname"), name.clone()));
    }
    let clean = |text: &str| text.replace(['"', '\n', '\r'], "_");
    let lines = lines.iter().map(|(key, value)| format!("{}= \"{}\"\n", clean(key), clean(value)));
    lines.collect::<String>().into_bytes()
}

#[cfg(test)]
#[path = "fullvm_tests.rs"]
mod tests;
