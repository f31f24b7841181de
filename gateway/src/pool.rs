//! Workers of a version and how busy each is: power of two choices on steps in flight.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chemxor_proto::v1;
use chemxor_runtime::tls::{self, TlsFiles};
use tonic::transport::Channel;

/// One worker, shared by all sessions.
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) channel: Channel,
    in_flight: AtomicUsize,
}

/// Counts one step as in flight until dropped.
pub(crate) struct InFlight(Arc<Worker>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }
}

/// Channels to workers, by name and endpoint; a channel connects again by itself after a break.
pub(crate) struct Pool {
    tls: TlsFiles,
    workers: Mutex<HashMap<(String, String), Arc<Worker>>>,
}

impl Pool {
    pub(crate) fn new(tls: TlsFiles) -> Self {
        Self { tls, workers: Mutex::default() }
    }

    /// The worker that registered this name and endpoint.
    pub(crate) fn get(&self, worker: &v1::Worker) -> Result<Arc<Worker>, chemxor_runtime::RuntimeError> {
        let key = (worker.name.clone(), worker.endpoint.clone());
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = workers.get(&key) {
            return Ok(known.clone());
        }
        let channel = tls::connect_lazy(&worker.endpoint, &self.tls)?;
        let made =
            Arc::new(Worker { name: worker.name.clone(), channel, in_flight: AtomicUsize::new(0) });
        // an older endpoint of the same worker serves nobody any more
        workers.retain(|(name, _), _| *name != worker.name);
        workers.insert(key, made.clone());
        Ok(made)
    }
}

/// The less busy of two workers taken at random, without those that failed already (unless all
/// did, then any).
pub(crate) fn choose(candidates: &[Arc<Worker>], failed: &[String], random: u32) -> Option<Arc<Worker>> {
    let fresh: Vec<&Arc<Worker>> =
        candidates.iter().filter(|worker| !failed.contains(&worker.name)).collect();
    let from = if fresh.is_empty() { candidates.iter().collect() } else { fresh };
    let first = from.get(random as usize % from.len().max(1))?;
    let second = from[(random >> 16) as usize % from.len()];
    let load = |worker: &Arc<Worker>| worker.in_flight.load(Ordering::Relaxed);
    Some(if load(second) < load(first) { second.clone() } else { (*first).clone() })
}
