//! VMFS-3, VMFS-5, VMFS-6 and VMFS-L, read-only and beside hosts that are using the volume.
//!
//! ```text
//!  Filesystem: listings, attributes, contents        mod, directory, descriptor, file
//!        │ addresses: items of resource files, blocks
//!        ▼
//!  resource files .pb2.sf → .pbc.sf → .sbc.sf → .fdc.sf     resource, address
//!        │ volume offsets
//!        ▼
//!  logical volume over one or more LUNs               lvm
//! ```
//! Nothing is ever written, locked or reserved. That leaves the hosts free to change anything at any time;
//! what this reader does about it: structures are taken only when two readings agree, files that a live host
//! may be writing are refused ([`Kind::Busy`](vcb_block::Kind::Busy)), and an opened file is compared with the
//! volume while it is read and when [`Vmfs::verify`] is called (see [`VmfsFile`]).
//!
//! The format has no public description: what is known, and how, is in docs/formats/vmfs.md.

mod address;
mod descriptor;
mod directory;
mod discover;
mod error;
mod file;
mod filesystem;
mod geometry;
mod lock;
mod lvm;
mod resource;
mod uuid;
mod volume;

pub use discover::{Candidate, Found, Lun, discover, probe};
pub use error::VmfsError;
pub use file::{VmfsFile, Voided};
pub use geometry::Version;
pub use lock::{Holder, HolderState, LockMode, LockReport};
pub use lvm::{LvmHeader, ScsiId};
pub use uuid::Uuid;
pub use volume::{Options, RawDevice, Vmfs};
