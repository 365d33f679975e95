//! A bounded cache for metadata, divided so that threads seldom wait for each other.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// Independent parts. More than the threads that a front end runs is of no use.
const SHARDS: usize = 8;

/// Least-recently-used values of at most a given weight in bytes. Nothing is locked while a value is
/// made: two threads that miss at once both make it, and one of the two is kept.
pub(super) struct Cache<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
    hasher: RandomState,
    /// Bytes that one shard may hold.
    limit: usize,
}

struct Shard<K, V> {
    entries: LruCache<K, (Arc<V>, usize)>,
    weight: usize,
}

impl<K: Hash + Eq, V> Cache<K, V> {
    /// A cache of about `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        Cache {
            shards: std::array::from_fn(|_| Mutex::new(Shard { entries: LruCache::unbounded(), weight: 0 })),
            hasher: RandomState::new(),
            limit: bytes / SHARDS,
        }
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, Shard<K, V>> {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        // A shard is consistent between any two statements, so a panic elsewhere does not spoil it.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value, which becomes the most recently used.
    pub(super) fn get(&self, key: &K) -> Option<Arc<V>> {
        self.shard(key).entries.get(key).map(|(value, _)| Arc::clone(value))
    }

    /// True when the value is there; its age does not change.
    pub(super) fn contains(&self, key: &K) -> bool {
        self.shard(key).entries.contains(key)
    }

    /// Keeps `value`, which occupies `weight` bytes, and drops what has not been used for longest. A value
    /// heavier than a whole shard is not kept.
    pub(super) fn insert(&self, key: K, value: Arc<V>, weight: usize) {
        if weight > self.limit {
            return;
        }
        let mut shard = self.shard(&key);
        shard.weight += weight;
        if let Some((_, old)) = shard.entries.put(key, (value, weight)) {
            shard.weight -= old;
        }
        while shard.weight > self.limit {
            let Some((_, (_, dropped))) = shard.entries.pop_lru() else { break };
            shard.weight -= dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_stays_bounded_and_the_latest_stay() {
        let cache = Cache::new(8 * 1000);
        for key in 0..10_000u32 {
            cache.insert(key, Arc::new(key), 100);
        }
        let held = (0..10_000).filter(|key| cache.contains(key)).count();
        assert!((60..=80).contains(&held), "{held}");
        assert_eq!(cache.get(&9_999).as_deref(), Some(&9_999));
    }

    #[test]
    fn replacing_does_not_count_twice_and_giants_are_not_kept() {
        let cache = Cache::new(8 * 1000);
        for _ in 0..100 {
            cache.insert(1, Arc::new(1), 600);
        }
        assert!(cache.get(&1).is_some());
        cache.insert(2, Arc::new(2), 1001);
        assert!(cache.get(&2).is_none());
    }
}
