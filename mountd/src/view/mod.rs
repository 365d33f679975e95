//! What a mount shows, whatever it is mounted with.
//!
//! A [`View`] is a read-only tree of numbered nodes. [`FileView`] shows the guest's own files, volume by
//! volume; [`FullVmView`] shows the VM as a folder of images. Front ends ([`crate::front`]) translate
//! requests of their platform into calls of this trait and errors into codes of their platform.

mod descriptor;
mod exclude;
mod file;
mod fullvm;
mod guid;
mod hive;
mod letters;
mod link;
mod node;
mod streams;
mod vmx;
pub mod xattr;

#[cfg(test)]
pub(crate) mod testing;

use std::ops::ControlFlow;

use vcb_block::{BlockRef, Result};
use vcb_fs::{Attr, FileType, FsStats, Name, NameBuf, Stream};

pub use exclude::Exclude;
pub use file::{FileOptions, FileView, StreamsAs};
pub use fullvm::{FullVmOptions, FullVmView, ImageType};
pub use node::NodeId;

/// A node and its attributes.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its number in the view.
    pub id: NodeId,
    /// Attributes. The size of a link is the length of its text.
    pub attr: Attr,
}

/// One entry of a folder.
#[derive(Debug)]
pub struct Entry {
    /// The name.
    pub name: NameBuf,
    /// The node.
    pub node: NodeId,
    /// What it is, as far as the entry alone tells.
    pub kind: FileType,
    /// Attributes when they were asked for. An error concerns this entry only: it is listed, and whoever
    /// looks at it meets the error.
    pub attr: Option<Result<Attr>>,
    /// Position after this entry, for [`View::read_dir`]. Below 2^63 - 16.
    pub next: u64,
}

/// A read-only tree that never changes. Called by many threads at once; no lock is held while data is read
/// or a closure runs. Every failure is an [`vcb_block::Error`]: nothing is ever shown as absent, empty or zero
/// because it could not be read.
pub trait View: Send + Sync {
    /// The node called `name` in folder `dir`, byte-exact.
    ///
    /// # Errors
    /// [`vcb_block::Kind::NotFound`] when there is none.
    fn lookup(&self, dir: NodeId, name: &Name) -> Result<Node>;

    /// Attributes.
    fn attr(&self, node: NodeId) -> Result<Attr>;

    /// Calls `each` for the entries of `dir` after position `cookie` (0 is the start) until it breaks or the
    /// folder ends. `.` and `..` are not among them. `with_attr` asks for [`Entry::attr`].
    fn read_dir(
        &self,
        dir: NodeId,
        cookie: u64,
        with_attr: bool,
        each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<()>;

    /// The folder that holds `node`, or one of those that hold a file; the root's parent is the root.
    fn parent(&self, node: NodeId) -> Result<NodeId>;

    /// Opens a file's content.
    ///
    /// # Errors
    /// [`vcb_block::Kind::Unsupported`] for what is known to be unreadable, [`vcb_block::Kind::WrongType`]
    /// for folders.
    fn open(&self, node: NodeId) -> Result<BlockRef>;

    /// The text of a link, `/` between components.
    fn read_link(&self, node: NodeId) -> Result<NameBuf>;

    /// Names of the extended attributes that are listed; [`View::xattr`] may know more.
    fn xattr_names(&self, node: NodeId) -> Result<Vec<NameBuf>>;

    /// The value of an extended attribute, `None` when there is none of that name.
    ///
    /// # Errors
    /// [`vcb_block::Kind::Limit`] for a value longer than [`MAX_XATTR`].
    fn xattr(&self, node: NodeId, name: &Name) -> Result<Option<Vec<u8>>>;

    /// As [`View::lookup`], by the folder's own rules for letter case; for platforms whose programs expect it.
    ///
    /// # Errors
    /// As [`View::lookup`].
    fn lookup_ignore_case(&self, dir: NodeId, name: &Name) -> Result<Node> {
        self.lookup(dir, name)
    }

    /// Named streams of a node, without its content.
    ///
    /// # Errors
    /// Why they cannot be listed.
    fn streams(&self, _node: NodeId) -> Result<Vec<Stream>> {
        Ok(Vec::new())
    }

    /// Opens a named stream.
    ///
    /// # Errors
    /// [`vcb_block::Kind::NotFound`] when there is none of that name.
    fn open_stream(&self, _node: NodeId, _stream: &Name) -> Result<BlockRef> {
        Err(file::not_found())
    }

    /// The guest's security descriptor in self-relative form.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn security(&self, _node: NodeId) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// The guest's reparse tag and data.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn reparse(&self, _node: NodeId) -> Result<Option<(u32, Vec<u8>)>> {
        Ok(None)
    }

    /// Totals of all that is shown.
    fn stats(&self) -> Result<FsStats>;

    /// Path from the view's root, for messages.
    fn path(&self, node: NodeId) -> String;

    /// What a user should know about what is shown: volumes that cannot be read, a dirty log.
    fn notes(&self) -> Vec<Note>;

    /// The volume that this view stands for, when it is one; for platforms whose mounts have a label and a number.
    fn volume(&self) -> Option<VolumeName> {
        None
    }

    /// True when files of this view can be whole files of the host, which the kernel may read by itself.
    fn has_host_files(&self) -> bool;
}

/// Longest value of an extended attribute: Linux's `XATTR_SIZE_MAX`.
pub const MAX_XATTR: u64 = 65536;

/// What a volume calls itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeName {
    /// Its label, which may be empty.
    pub label: NameBuf,
    /// Its serial number as [`vcb_fs::Filesystem::serial`] prints it.
    pub serial: String,
}

/// A condition of what is shown.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Note {
    /// Where: `digits/2`.
    pub place: String,
    /// What.
    pub text: String,
    /// True when data is missing from the mount because of it.
    pub unreadable: bool,
}
