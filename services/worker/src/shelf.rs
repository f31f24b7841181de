//! Which models are kept in memory: the least recently used ones make room under a limit on bytes.
//! Pure; what is taken off the shelf is given to the caller, who drops it, and with it wipes it, where
//! that may take its time. It stays in memory while somebody evaluates with it, beyond the limit.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

/// Values with their sizes, in the order of their last use.
#[derive(Debug)]
pub(crate) struct Shelf<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// What made room for others, for as long as somebody still has it.
    lent: HashMap<K, Weak<V>>,
    /// Counts uses; larger is more recent.
    clock: u64,
    bytes: usize,
    limit: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    bytes: usize,
    used: u64,
}

/// What was taken off the shelf, by key. Dropping it may take as long as wiping memory takes.
pub(crate) type Taken<K, V> = Vec<(K, Arc<V>)>;

impl<K: Copy + Eq + Hash + Ord, V> Shelf<K, V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            entries: HashMap::new(),
            lent: HashMap::new(),
            clock: 0,
            bytes: 0,
            limit,
        }
    }

    /// The value, now the most recently used one.
    pub(crate) fn get(&mut self, key: &K) -> Option<Arc<V>> {
        let entry = self.entries.get_mut(key)?;
        self.clock += 1;
        entry.used = self.clock;
        Some(entry.value.clone())
    }

    /// A value that made room for others while somebody still has it.
    pub(crate) fn lent(&self, key: &K) -> Option<Arc<V>> {
        self.lent.get(key)?.upgrade()
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether so many bytes more would fit as it is.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.bytes.saturating_add(bytes) <= self.limit
    }

    /// Whether a value of this size can be kept at all.
    pub(crate) fn could_hold(&self, bytes: usize) -> bool {
        bytes <= self.limit
    }

    /// Puts a value on the shelf; gives what made room for it, least recently used first, after what
    /// it replaces. A value larger than the limit is put there alone: it was asked for.
    pub(crate) fn put(&mut self, key: K, value: Arc<V>, bytes: usize) -> Taken<K, V> {
        let mut made_room: Taken<K, V> = self.remove(&key).into_iter().collect();
        while !self.has_room(bytes) {
            let oldest = self
                .entries
                .iter()
                .min_by_key(|(key, entry)| (entry.used, **key));
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                break;
            };
            if let Some((oldest, value)) = self.remove(&oldest) {
                self.lent.insert(oldest, Arc::downgrade(&value));
                made_room.push((oldest, value));
            }
        }
        self.lent.remove(&key);
        self.clock += 1;
        let used = self.clock;
        self.bytes += bytes;
        self.entries.insert(key, Entry { value, bytes, used });
        made_room
    }

    /// Takes a value off the shelf.
    fn remove(&mut self, key: &K) -> Option<(K, Arc<V>)> {
        let removed = self.entries.remove(key)?;
        self.bytes -= removed.bytes;
        Some((*key, removed.value))
    }

    /// Takes everything off that is not wanted. What was lent of it is not given out any more.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&K) -> bool) -> Taken<K, V> {
        let mut gone: Vec<K> = self
            .entries
            .keys()
            .copied()
            .filter(|key| !wanted(key))
            .collect();
        gone.sort_unstable();
        self.lent
            .retain(|key, value| wanted(key) && value.strong_count() > 0);
        gone.iter().filter_map(|key| self.remove(key)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys<V>(taken: Taken<i32, V>) -> Vec<i32> {
        taken.into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn the_least_recently_used_makes_room_and_is_dropped() {
        let mut shelf = Shelf::new(100);
        let first = Arc::new("first");
        let gone = Arc::downgrade(&first);
        assert!(shelf.put(1, first, 50).is_empty());
        assert!(shelf.put(2, Arc::new("second"), 40).is_empty());
        assert!(!shelf.has_room(11) && shelf.has_room(10));
        let in_use = shelf.get(&1).unwrap();
        let third = shelf.put(3, Arc::new("third"), 30);
        assert_eq!(keys(third), [2], "1 was used since");
        assert_eq!(keys(shelf.put(4, Arc::new("fourth"), 100)), [1, 3]);
        assert!(gone.upgrade().is_some(), "an evaluation still has it");
        drop(in_use);
        assert!(gone.upgrade().is_none());
        assert_eq!(keys(shelf.put(5, Arc::new("large"), 500)), [4]);
        assert!(!shelf.could_hold(500));
        assert_eq!(keys(shelf.put(5, Arc::new("again"), 500)), [5]);
        assert_eq!(keys(shelf.retain(|_| false)), [5]);
        assert_eq!((shelf.bytes, shelf.len()), (0, 0));
    }

    #[test]
    fn what_made_room_is_known_while_somebody_has_it_and_it_is_wanted() {
        let mut shelf = Shelf::new(100);
        shelf.put(1, Arc::new("first"), 60);
        let in_use = shelf.get(&1).unwrap();
        assert!(shelf.lent(&1).is_none(), "it is on the shelf");
        shelf.put(2, Arc::new("second"), 60);
        assert!(shelf.get(&1).is_none());
        let lent = shelf.lent(&1).unwrap();
        assert!(Arc::ptr_eq(&lent, &in_use));
        // it goes back, and the other one, which nobody has, is no more
        shelf.put(1, lent, 60);
        assert!(shelf.lent(&1).is_none() && shelf.lent(&2).is_none());
        shelf.put(3, Arc::new("third"), 60);
        assert!(shelf.lent(&1).is_some());
        shelf.retain(|key| *key != 1);
        assert!(shelf.lent(&1).is_none(), "it is not wanted any more");
        drop(in_use);
    }

    proptest! {
        /// The bytes are those of what is there, and over the limit only with a single value.
        #[test]
        fn the_limit_holds(puts in proptest::collection::vec((0u8..8, 0usize..150, any::<bool>()), 0..60)) {
            let mut shelf = Shelf::new(100);
            let mut sizes = HashMap::new();
            for (key, bytes, look) in puts {
                if look {
                    prop_assert_eq!(shelf.get(&key).is_some(), shelf.contains(&key));
                    continue;
                }
                sizes.insert(key, bytes);
                for (evicted, _) in shelf.put(key, Arc::new(()), bytes) {
                    prop_assert!(evicted == key || !shelf.contains(&evicted));
                    if evicted != key {
                        sizes.remove(&evicted);
                    }
                }
                prop_assert_eq!(shelf.len(), sizes.len());
                prop_assert_eq!(shelf.bytes, sizes.values().sum::<usize>());
                prop_assert!(shelf.bytes <= 100 || shelf.len() == 1);
            }
        }
    }
}
