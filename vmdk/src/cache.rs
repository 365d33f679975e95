//! The cache of decoded grain tables, directory pages and inflated grains, bounded in bytes and shared by
//! all links of a disk (and by several disks, when they are opened with the same one).

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use crate::extent::Table;

/// Enough for the tables of some hundred GiB of unfragmented SEsparse, or of 6 GiB of the worst shuffled one.
pub(crate) const DEFAULT_BYTES: u64 = 64 << 20;

/// Readers rarely meet on one of so many locks, and each is held for one list operation.
const SHARDS: usize = 16;

/// Bookkeeping of one entry beside its own bytes: hash table, list and reference counts.
const OVERHEAD: usize = 160;

/// What is kept.
pub(crate) enum Cached {
    /// A decoded grain table.
    Table(Table),
    /// Decoded entries of a grain directory.
    Directory(Box<[u64]>),
    /// An inflated grain.
    Grain(Box<[u8]>),
}

impl Cached {
    fn bytes(&self) -> usize {
        OVERHEAD
            + match self {
                Cached::Table(table) => table.bytes(),
                Cached::Directory(entries) => size_of_val(&**entries),
                Cached::Grain(bytes) => bytes.len(),
            }
    }
}

/// Whose entry, and which.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// From [`owner`].
    pub(crate) owner: u64,
    /// Meaning is the owner's.
    pub(crate) index: u64,
}

/// A number for a new user of caches, never given twice.
pub(crate) fn owner() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

struct Shard {
    entries: LruCache<Key, Arc<Cached>>,
    bytes: usize,
}

/// A least-recently-used cache with a budget in bytes.
///
/// What is not in it is read again, so a small budget costs time and never correctness. It can be used by
/// any number of threads; no lock is held while something is being read.
pub struct Cache {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    shard_budget: usize,
}

impl Cache {
    /// At most `bytes` bytes in all.
    #[must_use]
    pub fn new(bytes: u64) -> Arc<Self> {
        let shard = || Mutex::new(Shard { entries: LruCache::unbounded(), bytes: 0 });
        Arc::new(Cache {
            shards: std::array::from_fn(|_| shard()),
            hasher: RandomState::new(),
            shard_budget: usize::try_from(bytes).unwrap_or(usize::MAX) / SHARDS,
        })
    }

    /// Bytes in use.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| lock(shard).bytes as u64).sum()
    }

    fn shard(&self, key: Key) -> &Mutex<Shard> {
        // The remainder of a hash by 16.
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    pub(crate) fn get(&self, key: Key) -> Option<Arc<Cached>> {
        lock(self.shard(key)).entries.get(&key).map(Arc::clone)
    }

    /// Keeps `value` unless it is larger than a shard; gives it back either way.
    pub(crate) fn put(&self, key: Key, value: Cached) -> Arc<Cached> {
        let value = Arc::new(value);
        let bytes = value.bytes();
        if bytes > self.shard_budget {
            return value;
        }
        let mut shard = lock(self.shard(key));
        shard.bytes += bytes;
        if let Some(old) = shard.entries.put(key, Arc::clone(&value)) {
            shard.bytes -= old.bytes();
        }
        while shard.bytes > self.shard_budget {
            let Some((_, old)) = shard.entries.pop_lru() else { break };
            shard.bytes -= old.bytes();
        }
        value
    }
}

fn lock(shard: &Mutex<Shard>) -> std::sync::MutexGuard<'_, Shard> {
    // Nothing between lock and unlock can leave a shard half changed.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_holds_and_the_recent_stay() {
        let cache = Cache::new(1 << 20);
        let owner = owner();
        for index in 0..1000 {
            cache.put(Key { owner, index }, Cached::Directory(vec![0; 512].into()));
            assert!(cache.get(Key { owner, index }).is_some());
        }
        assert!(cache.bytes() <= 1 << 20);
        assert!(cache.bytes() > 1 << 19, "the budget is used");
        cache.put(Key { owner, index: 0 }, Cached::Directory(vec![0; 1 << 17].into()));
        assert!(cache.bytes() <= 1 << 20, "what is larger than a shard is not kept");
    }
}
