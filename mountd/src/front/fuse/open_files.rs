//! Opened files by node.
//!
//! When the kernel sends no open and close there is nothing to hang an open file on, so the most recently
//! read ones are kept here. What falls out is opened again when it is read again.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{BackingId, ReplyOpen};
use lru::LruCache;
use vcb_block::{BlockRef, Result};

use crate::view::{NodeId, View};

/// Files kept open. An open file costs its run list, a few hundred bytes for most.
const KEPT: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// See the [module](self).
pub(super) struct OpenFiles(Mutex<LruCache<NodeId, BlockRef>>);

impl Default for OpenFiles {
    fn default() -> Self {
        OpenFiles(Mutex::new(LruCache::new(KEPT)))
    }
}

impl OpenFiles {
    fn kept(&self) -> MutexGuard<'_, LruCache<NodeId, BlockRef>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content of `node`.
    pub(super) fn get(&self, view: &dyn View, node: NodeId) -> Result<BlockRef> {
        if let Some(block) = self.kept().get(&node) {
            return Ok(Arc::clone(block));
        }
        // Not under the lock: opening reads. Two threads may do it at once, and one result is kept.
        let block = view.open(node)?;
        self.kept().put(node, Arc::clone(&block));
        Ok(block)
    }
}

/// Host files that the kernel reads by itself.
///
/// The kernel wants the same choice for every open of a node while any is open, so it is made once.
#[derive(Default)]
pub(super) struct HostFiles(Mutex<HashMap<NodeId, Option<Arc<BackingId>>>>);

impl HostFiles {
    /// The kernel's handle for the host file behind `node`, when it is one and the kernel takes it.
    pub(super) fn backing(&self, node: NodeId, block: &BlockRef, reply: &ReplyOpen) -> Option<Arc<BackingId>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let backing = known.entry(node).or_insert_with(|| {
            let file = block.host_file()?;
            // A block device cannot stand in for a regular file.
            let same = file.metadata().is_ok_and(|host| host.is_file() && host.len() == block.len());
            if !same {
                return None;
            }
            match reply.open_backing(file) {
                Ok(backing) => Some(Arc::new(backing)),
                Err(err) => {
                    tracing::debug!(%err, node = node.0, "the kernel does not read this host file by itself");
                    None
                }
            }
        });
        backing.clone()
    }
}
