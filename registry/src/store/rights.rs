//! What is asked again and again, remembered: that a session may go on, that a certificate is not
//! denied, whose token it is.
//!
//! Invariant: an answer is remembered only while nothing that it rests on has changed. A change by
//! this registry counts before its call returns; a change by another registry, or by a hand on the
//! database, is told by the database's triggers within milliseconds. While the database cannot tell,
//! nothing is remembered. Refusals are never remembered.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chemxor_core::VersionId;
use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::store::Caller;
use crate::store::tokens::LiveToken;

/// What the triggers of `0051_rights_changed.sql` call.
const CHANNEL: &str = "chemxor_rights";
/// Longest time for which an answer is remembered.
const LIFETIME: Duration = Duration::from_secs(30);
/// Most answers of a kind.
const MOST: usize = 100_000;
/// Before the database is asked again to tell of changes.
const PAUSE: Duration = Duration::from_millis(500);
/// How long it may take to begin.
const BEGIN: Duration = Duration::from_secs(10);
/// A connection that says nothing for so long is asked whether it is there, and given as long to answer:
/// one that a firewall has cut would say nothing for ever.
const SILENCE: Duration = Duration::from_secs(1);

/// Answers of one kind.
struct Answers<K, V>(Mutex<HashMap<K, (u64, Instant, V)>>);

impl<K, V> Default for Answers<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Answers<K, V> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, (u64, Instant, V)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &K, generation: u64) -> Option<V> {
        let answers = self.lock();
        let (of, until, value) = answers.get(key)?;
        (*of == generation && Instant::now() < *until).then(|| value.clone())
    }

    fn put(&self, key: K, generation: u64, lifetime: Duration, value: V) {
        let mut answers = self.lock();
        if answers.len() >= MOST {
            answers.clear();
        }
        answers.insert(key, (generation, Instant::now() + lifetime, value));
    }
}

/// Answers that hold.
#[derive(Default)]
pub(crate) struct Rights {
    /// Grows with every change of a right.
    generation: watch::Sender<u64>,
    /// Whether the database tells of changes.
    hears: AtomicBool,
    /// Revision of the limits, of sessions that may go on.
    sessions: Answers<(VersionId, Uuid), i64>,
    /// Subject and serial number of certificates that are not denied.
    certificates: Answers<(String, String), ()>,
    /// Holders of tokens, by the digest that is stored.
    tokens: Answers<[u8; 32], Caller>,
}

/// The moment at which an answer was asked for: what changes later makes it void.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked(Option<u64>);

impl Rights {
    /// A right has changed.
    pub(crate) fn changed(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Tells of changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Before the database is asked.
    pub(crate) fn ask(&self) -> Asked {
        let hears = self.hears.load(Ordering::SeqCst);
        Asked(hears.then(|| *self.generation.borrow()))
    }

    pub(crate) fn session(&self, asked: Asked, key: (VersionId, Uuid)) -> Option<i64> {
        self.sessions.get(&key, asked.0?)
    }

    /// Remembers what the database said; `lifetime` bounds what time alone can change.
    pub(crate) fn put_session(
        &self,
        asked: Asked,
        key: (VersionId, Uuid),
        lifetime: Duration,
        revision: i64,
    ) {
        if let Some(generation) = asked.0 {
            let lifetime = lifetime.min(LIFETIME);
            self.sessions.put(key, generation, lifetime, revision);
        }
    }

    pub(crate) fn holder(&self, asked: Asked, digest: &[u8; 32]) -> Option<Caller> {
        self.tokens.get(digest, asked.0?)
    }

    /// Remembers whose token it is, until it expires at the latest.
    pub(crate) fn put_holder(&self, asked: Asked, digest: [u8; 32], holder: &LiveToken) {
        if let Some(generation) = asked.0 {
            let lifetime = holder.left.min(LIFETIME);
            let caller = holder.caller.clone();
            self.tokens.put(digest, generation, lifetime, caller);
        }
    }

    pub(crate) fn is_living(&self, asked: Asked, key: &(String, String)) -> bool {
        asked
            .0
            .is_some_and(|generation| self.certificates.get(key, generation).is_some())
    }

    pub(crate) fn put_living(&self, asked: Asked, key: (String, String)) {
        if let Some(generation) = asked.0 {
            self.certificates.put(key, generation, LIFETIME, ());
        }
    }

    /// Listens to the database's triggers until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, pool: PgPool, stop: CancellationToken) {
        let listen = async {
            while !pool.is_closed() {
                let ended = self.listen(&pool).await;
                self.hears.store(false, Ordering::SeqCst);
                if let Err(error) = ended {
                    tracing::warn!(%error, "changes of rights are not heard of; nothing is remembered");
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = listen => {}
            () = stop.cancelled() => self.hears.store(false, Ordering::SeqCst),
        }
    }

    async fn listen(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        // a pool of its own: what is cut off while it listens is said goodbye to without a time limit, and
        // would hold a place among those of calls
        let options = (*pool.connect_options()).clone();
        let own = PgPoolOptions::new().max_connections(1);
        let own = own.connect_lazy_with(options);
        let begin = async {
            let mut listener = PgListener::connect_with(&own).await?;
            listener.listen(CHANNEL).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        let begun = timeout(BEGIN, begin).await;
        let mut listener = begun.map_err(|_| sqlx::Error::PoolTimedOut)??;
        // what changed while nobody listened
        self.changed();
        self.hears.store(true, Ordering::SeqCst);
        loop {
            match timeout(SILENCE, listener.try_recv()).await {
                Ok(Ok(Some(_))) => self.changed(),
                // the connection broke
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    let asked = sqlx::query("select 1").execute(&mut listener);
                    let answered = timeout(SILENCE, asked).await;
                    answered.map_err(|_| sqlx::Error::PoolTimedOut)??;
                }
            }
        }
    }
}
