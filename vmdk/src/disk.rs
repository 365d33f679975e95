//! Opens a virtual disk: from its leaf down to its base, then all extents.

use std::collections::BTreeMap;
use std::sync::Arc;

use vcb_block::{BlockRef, Error, Kind, Result};

use crate::cache::{Cache, DEFAULT_BYTES};
use crate::chain::{Chain, Layer};
use crate::descriptor::{Descriptor, ExtentInfo};
use crate::link::{Found, extents, find};
use crate::resolve::{Resolved, Resolver, candidates, worse};

const LAYER: &str = "vmdk-chain";

/// Most links in a chain. VMware allows 32 snapshots; linked clones of clones add a few chains to that.
const MAX_LINKS: usize = 256;

/// Enough for a few requests of the largest size that mounts send; more gained nothing when measured.
const DEFAULT_READ_AHEAD: u64 = 4 << 20;

/// How to open a disk.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Read disks whose metadata says that a write was interrupted, or whose flat files are longer than their
    /// descriptor says, with a warning.
    pub allow_dirty: bool,
    /// Accept a parent that changed after its child was made. The bytes of such a disk mix two states.
    pub ignore_cid: bool,
    /// Bytes for cached metadata; 0 stands for 64 MiB.
    pub cache_bytes: u64,
    /// A cache to share with other disks, instead of one of `cache_bytes`.
    pub cache: Option<Arc<Cache>>,
    /// Bytes to inflate ahead of a sequential reader of a stream, on threads of their own; `None` stands for
    /// 4 MiB, 0 turns it off. Each open stream may keep so much beside the cache.
    pub read_ahead: Option<u64>,
    /// Devices and LUNs that raw extents and mapping files may refer to, by the names they have there.
    pub devices: BTreeMap<String, BlockRef>,
}

impl OpenOptions {
    /// Bytes for a cache of the disk's own.
    pub(crate) fn cache_budget(&self) -> u64 {
        if self.cache_bytes == 0 { DEFAULT_BYTES } else { self.cache_bytes }
    }

    /// Bytes to keep ready ahead of a reader.
    pub(crate) fn read_ahead_budget(&self) -> u64 {
        self.read_ahead.unwrap_or(DEFAULT_READ_AHEAD)
    }
}

/// Why a chain cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The parent was written to after the child was made.
    #[error(
        "the parent virtual disk '{parent}' has been modified since the child '{child}' was created: \
         its content ID is {found:08x}, the child expects {expected:08x}"
    )]
    CidMismatch {
        /// The child's name.
        child: String,
        /// The parent's name.
        parent: String,
        /// The child's `parentCID`.
        expected: u32,
        /// The parent's `CID`.
        found: u32,
    },
    /// A link is its own ancestor.
    #[error("the chain comes back to '{0}'")]
    Cycle(String),
    /// Longer than any real chain.
    #[error("the chain has more than {MAX_LINKS} links")]
    TooDeep,
    /// No file fits the hint.
    #[error("'{child}' stands on '{hint}', which cannot be opened")]
    MissingParent {
        /// The child's name.
        child: String,
        /// Its `parentFileNameHint`.
        hint: String,
        /// Why the last of the places it may be at did not do.
        #[source]
        cause: Error,
    },
}

/// One link of an open disk.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Link {
    /// Canonical name of its descriptor within the resolver.
    pub name: String,
    /// `createType` as written.
    pub create_type: String,
    /// Content ID.
    pub cid: u32,
    /// The parent's content ID when this link was made; `ffffffff` for the base.
    pub parent_cid: u32,
    /// `parentFileNameHint`.
    pub parent_hint: Option<String>,
    /// Extents in disk order.
    pub extents: Vec<ExtentInfo>,
}

/// A virtual disk, open for reading.
pub struct Disk {
    block: BlockRef,
    links: Vec<Link>,
    descriptors: Vec<Descriptor>,
    warnings: Vec<String>,
}

impl Disk {
    /// Opens `name`, a descriptor or a disk in a single file, with all links below it.
    ///
    /// # Errors
    /// Kinds as of [`vcb_block::Kind`], with causes [`ChainError`] and [`crate::DescriptorError`] among others.
    /// A disk opens whole or not at all.
    pub fn open(resolver: Arc<dyn Resolver>, name: &str, options: &OpenOptions) -> Result<Self> {
        let (chain, broken) = chain(&*resolver, name, options);
        if let Some(err) = broken {
            return Err(err);
        }
        let cache = options.cache.clone().unwrap_or_else(|| Cache::new(options.cache_budget()));
        let mut warnings = Vec::new();
        let mut layers = Vec::with_capacity(chain.len());
        for found in &chain {
            layers.push(Layer::new(extents(&*resolver, found, options, &cache, &mut warnings)?));
        }
        Ok(Disk {
            block: Arc::new(Chain::new(layers)),
            links: chain.iter().map(link).collect(),
            descriptors: chain.into_iter().map(|found| found.descriptor).collect(),
            warnings,
        })
    }

    /// The disk's bytes as the guest sees them.
    #[must_use]
    pub fn block(&self) -> &BlockRef {
        &self.block
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.block.len()
    }

    /// True for a disk without a sector.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The links, leaf first.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// What is not as it should be, though it did not keep the disk from being opened.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The leaf's descriptor.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptors[0]
    }

    /// An entry of the disk database, without the prefix `ddb.`. It is looked up from the base upwards, as
    /// the technote prescribes, because children repeat little of it.
    #[must_use]
    pub fn ddb(&self, key: &str) -> Option<&str> {
        self.descriptors.iter().rev().find_map(|descriptor| descriptor.ddb(key))
    }
}

/// Reads the descriptors of `name` and of everything it stands on, leaf first, as far as that goes, and
/// says why it goes no further.
pub(crate) fn chain(resolver: &dyn Resolver, name: &str, options: &OpenOptions) -> (Vec<Found>, Option<Error>) {
    let mut chain: Vec<Found> = Vec::new();
    let mut next = resolver.open("", name).and_then(find);
    loop {
        match next {
            Ok(found) => chain.push(found),
            Err(err) => return (chain, Some(err)),
        }
        let Some(hint) = chain[chain.len() - 1].descriptor.parent_hint.clone() else { return (chain, None) };
        if chain.len() == MAX_LINKS {
            let err = Error::new(Kind::Limit, LAYER, ChainError::TooDeep).path(&chain[0].resolved.name);
            return (chain, Some(err));
        }
        next = find_parent(resolver, &chain, &hint, options);
    }
}

fn link(found: &Found) -> Link {
    let descriptor = &found.descriptor;
    Link {
        name: found.resolved.name.clone(),
        create_type: descriptor.create_type.clone(),
        cid: descriptor.cid,
        parent_cid: descriptor.parent_cid,
        parent_hint: descriptor.parent_hint.clone(),
        extents: descriptor.extents.clone(),
    }
}

/// Finds the parent of the last link of `chain`: the first of the places that `hint` may stand for whose
/// content ID is the one the child was made on.
fn find_parent(resolver: &dyn Resolver, chain: &[Found], hint: &str, options: &OpenOptions) -> Result<Found> {
    let child = &chain[chain.len() - 1];
    let own = &child.resolved.name;
    let mut failure: Option<Error> = None;
    let mut mismatch = None;
    let mut tried: Vec<String> = Vec::new();
    for name in candidates(hint) {
        let resolved = match resolver.open(own, &name) {
            Ok(resolved) => resolved,
            Err(err) => {
                failure = Some(worse(failure, err));
                continue;
            }
        };
        if tried.contains(&resolved.name) {
            continue;
        }
        tried.push(resolved.name.clone());
        match accept(chain, resolved, options) {
            Ok(found) => return Ok(found),
            Err(err) if matches!(err.cause(), Some(ChainError::CidMismatch { .. })) => {
                mismatch.get_or_insert(err);
            }
            Err(err) => failure = Some(worse(failure, err)),
        }
    }
    if let Some(mismatch) = mismatch {
        return Err(mismatch);
    }
    let cause = failure.unwrap_or_else(|| Error::new(Kind::NotFound, LAYER, "the hint names no file"));
    if matches!(cause.cause(), Some(ChainError::Cycle(_))) {
        return Err(cause);
    }
    let kind = cause.kind();
    Err(Error::new(kind, LAYER, ChainError::MissingParent { child: own.clone(), hint: hint.to_owned(), cause })
        .path(own))
}

fn accept(chain: &[Found], resolved: Resolved, options: &OpenOptions) -> Result<Found> {
    if chain.iter().any(|link| link.resolved.name == resolved.name) {
        return Err(Error::corrupt(LAYER, ChainError::Cycle(resolved.name.clone())).path(&resolved.name));
    }
    let found = find(resolved)?;
    let child = &chain[chain.len() - 1];
    let (expected, cid) = (child.descriptor.parent_cid, found.descriptor.cid);
    if expected != cid && !options.ignore_cid {
        let error = ChainError::CidMismatch {
            child: child.resolved.name.clone(),
            parent: found.resolved.name.clone(),
            expected,
            found: cid,
        };
        return Err(Error::new(Kind::Corrupt, LAYER, error).path(&child.resolved.name));
    }
    Ok(found)
}
