//! Loads that go on, one for each key: whoever asks for the same waits for the same one, and who gives
//! up does not end it. What is withdrawn meanwhile ends without a result.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::models::lock;

/// What a version is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A session that waits for it.
    Now,
    /// Sessions that may come: nothing that is in memory makes room for these.
    Perhaps,
}

/// The loads that go on.
pub(crate) struct Loads<K, V>(Arc<Mutex<Entries<K, V>>>);

type Entries<K, V> = HashMap<K, Entry<V>>;

struct Entry<V> {
    load: Arc<Load<V>>,
    asked: Asked,
}

/// One load, for those who wait for it.
pub(crate) struct Load<V> {
    withdrawn: CancellationToken,
    /// What it gave, once it has ended.
    outcome: watch::Sender<Option<Option<Arc<V>>>>,
}

/// The same load, for whoever carries it out. It ends when this is dropped, so that nobody waits for
/// one that broke off.
pub(crate) struct Begun<K: Copy + Eq + Hash, V> {
    entries: Arc<Mutex<Entries<K, V>>>,
    key: K,
    load: Arc<Load<V>>,
    given: Option<Arc<V>>,
}

impl<K, V> Default for Loads<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Copy + Eq + Hash, V> Loads<K, V> {
    /// The load of this key. One that begins now is given with it, for the caller to carry out.
    pub(crate) fn join(&self, key: K, asked: Asked) -> (Arc<Load<V>>, Option<Begun<K, V>>) {
        let mut entries = lock(&self.0);
        if let Some(entry) = entries.get_mut(&key) {
            if asked == Asked::Now {
                entry.asked = Asked::Now;
            }
            return (entry.load.clone(), None);
        }
        let load = Arc::new(Load {
            withdrawn: CancellationToken::new(),
            outcome: watch::Sender::new(None),
        });
        let entry = Entry {
            load: load.clone(),
            asked,
        };
        entries.insert(key, entry);
        let begun = Begun {
            entries: self.0.clone(),
            key,
            load: load.clone(),
            given: None,
        };
        (load, Some(begun))
    }

    /// Withdraws what is not wanted any more; who asks for it again begins another load.
    pub(crate) fn retain(&self, wanted: impl Fn(&K) -> bool) {
        lock(&self.0).retain(|key, entry| {
            let stays = wanted(key);
            if !stays {
                entry.load.withdrawn.cancel();
            }
            stays
        });
    }
}

impl<V> Load<V> {
    /// Waits for its end; none when it gave nothing.
    pub(crate) async fn outcome(&self) -> Option<Arc<V>> {
        let mut outcome = self.outcome.subscribe();
        // the sender lives as long as `self`, so an error cannot come
        let ended = outcome.wait_for(Option::is_some).await;
        ended.ok().and_then(|given| given.clone().flatten())
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.is_cancelled()
    }
}

impl<K: Copy + Eq + Hash, V> Begun<K, V> {
    pub(crate) fn key(&self) -> K {
        self.key
    }

    /// Waits until it is withdrawn.
    pub(crate) async fn withdrawn(&self) {
        self.load.withdrawn.cancelled().await;
    }

    /// Takes it off the list unless a session waits for it; afterwards none can.
    pub(crate) fn leave(&self) -> bool {
        let mut entries = lock(&self.entries);
        let entry = entries.get(&self.key);
        let own = entry.filter(|entry| Arc::ptr_eq(&entry.load, &self.load));
        // no longer there when it was withdrawn
        let asked = own.map(|entry| entry.asked);
        if asked == Some(Asked::Now) {
            return false;
        }
        if asked.is_some() {
            entries.remove(&self.key);
        }
        true
    }

    pub(crate) fn finish(mut self, given: Option<Arc<V>>) {
        self.given = given;
    }
}

impl<K: Copy + Eq + Hash, V> Drop for Begun<K, V> {
    fn drop(&mut self) {
        {
            let mut entries = lock(&self.entries);
            let entry = entries.get(&self.key);
            // another one may have begun since this one was withdrawn
            if entry.is_some_and(|entry| Arc::ptr_eq(&entry.load, &self.load)) {
                entries.remove(&self.key);
            }
        }
        self.load.outcome.send_replace(Some(self.given.take()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Words = Loads<u8, &'static str>;

    #[tokio::test]
    async fn who_asks_for_the_same_waits_for_the_same_and_may_give_up() {
        let loads = Words::default();
        let (first, begun) = loads.join(1, Asked::Perhaps);
        let (second, again) = loads.join(1, Asked::Now);
        assert!(again.is_none());
        assert!(loads.join(2, Asked::Now).1.is_some(), "another key");
        drop(first);
        begun.unwrap().finish(Some(Arc::new("loaded")));
        assert_eq!(second.outcome().await.as_deref(), Some(&"loaded"));
        assert_eq!(second.outcome().await.as_deref(), Some(&"loaded"));
        assert!(loads.join(1, Asked::Now).1.is_some(), "the first has ended");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_load_that_broke_off() {
        let loads = Words::default();
        let (load, begun) = loads.join(1, Asked::Now);
        drop(begun);
        assert!(load.outcome().await.is_none());
        assert!(!load.is_withdrawn());
        assert!(loads.join(1, Asked::Now).1.is_some());
    }

    #[tokio::test]
    async fn a_load_that_a_session_waits_for_cannot_leave() {
        let loads = Words::default();
        let (_, ahead) = loads.join(1, Asked::Perhaps);
        let ahead = ahead.unwrap();
        assert!(ahead.leave());
        // who comes now begins another one, which stays whatever the first one does
        let (load, begun) = loads.join(1, Asked::Perhaps);
        drop(ahead);
        let (_, shared) = loads.join(1, Asked::Now);
        assert!(shared.is_none());
        let begun = begun.unwrap();
        assert!(!begun.leave());
        begun.finish(Some(Arc::new("loaded")));
        assert!(load.outcome().await.is_some());
    }

    #[tokio::test]
    async fn what_is_withdrawn_ends_and_can_begin_again() {
        let loads = Words::default();
        let (old, begun) = loads.join(1, Asked::Now);
        let (_, other) = loads.join(2, Asked::Now);
        loads.retain(|key| *key == 2);
        let begun = begun.unwrap();
        begun.withdrawn().await;
        assert!(old.is_withdrawn());
        let (new, again) = loads.join(1, Asked::Now);
        begun.finish(None);
        assert!(old.outcome().await.is_none());
        again.unwrap().finish(Some(Arc::new("again")));
        assert_eq!(new.outcome().await.as_deref(), Some(&"again"));
        assert!(!other.unwrap().leave(), "nobody withdrew it");
    }
}
