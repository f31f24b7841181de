//! The workers of the platform as the gateway knows them, and which one to ask: power of two
//! choices on permits in flight, without those that failed a moment ago.
//!
//! Workers are shared by all sessions. One that has moved is reached at its new endpoint by running
//! sessions too, as soon as any new session has learned of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chemxor_proto::v1;
use chemxor_runtime::RuntimeError;
use chemxor_runtime::tls::{self, Identity};
use tonic::transport::Channel;

use crate::suspicion::Suspicion;

/// One worker, shared by all sessions.
#[derive(Debug)]
pub(crate) struct Worker {
    name: String,
    address: Mutex<(String, Channel)>,
    in_flight: AtomicUsize,
    born: Instant,
    /// Times count from `born`.
    suspicion: Mutex<Suspicion>,
}

/// Counts the permits of one step as in flight until dropped.
pub(crate) struct InFlight<'a>(&'a AtomicUsize, usize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Worker {
    fn new(name: &str, endpoint: &str, channel: Channel) -> Self {
        Self {
            name: name.to_owned(),
            address: Mutex::new((endpoint.to_owned(), channel)),
            in_flight: AtomicUsize::new(0),
            born: Instant::now(),
            suspicion: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The channel to where the worker is now; it connects again by itself after a break.
    pub(crate) fn channel(&self) -> Channel {
        self.address().1.clone()
    }

    fn address(&self) -> MutexGuard<'_, (String, Channel)> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, permits: u32) -> InFlight<'_> {
        let permits = permits as usize;
        self.in_flight.fetch_add(permits, Ordering::Relaxed);
        InFlight(&self.in_flight, permits)
    }

    fn suspicion(&self) -> MutexGuard<'_, Suspicion> {
        let suspicion = self.suspicion.lock();
        suspicion.unwrap_or_else(PoisonError::into_inner)
    }

    fn age(&self) -> Duration {
        self.born.elapsed()
    }

    fn is_suspect(&self) -> bool {
        self.suspicion().is_suspect(self.age())
    }

    /// An attempt at a step begins; none when only one that is trusted will do and another step has
    /// just begun to find out whether this one is.
    fn attempt(&self, only_trusted: bool) -> Option<Attempt<'_>> {
        let begun = self.age();
        let mut suspicion = self.suspicion();
        if only_trusted && suspicion.is_suspect(begun) {
            return None;
        }
        Some(Attempt {
            worker: self,
            begun,
            probes: suspicion.enter(begun),
        })
    }
}

/// An attempt at a step; dropped without an outcome it says nothing about the worker.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    worker: &'a Worker,
    begun: Duration,
    /// Whether it finds out if the worker answers again.
    probes: bool,
}

impl Attempt<'_> {
    /// Who is asked.
    pub(crate) fn worker(&self) -> &Worker {
        self.worker
    }

    /// The worker has answered.
    pub(crate) fn succeeded(mut self) {
        self.probes = false;
        self.worker.suspicion().trust();
    }

    /// Passes the worker over for a while, where there are others.
    pub(crate) fn failed(mut self) {
        self.probes = false;
        let now = self.worker.age();
        self.worker.suspicion().fail(self.begun, now);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.probes {
            self.worker.suspicion().give_up();
        }
    }
}

/// All workers, by name.
pub(crate) struct Pool {
    identity: Arc<Identity>,
    workers: Mutex<HashMap<String, Arc<Worker>>>,
}

impl Pool {
    pub(crate) fn new(identity: Arc<Identity>) -> Self {
        Self {
            identity,
            workers: Mutex::default(),
        }
    }

    /// The worker of this name, from now on at this endpoint.
    pub(crate) fn learn(&self, worker: &v1::Worker) -> Result<Arc<Worker>, RuntimeError> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = workers.get(&worker.name) {
            let mut address = known.address();
            if address.0 != worker.endpoint {
                let channel = tls::connect_lazy(&worker.endpoint, &self.identity)?;
                *address = (worker.endpoint.clone(), channel);
                known.suspicion().trust();
            }
            drop(address);
            return Ok(known.clone());
        }
        let channel = tls::connect_lazy(&worker.endpoint, &self.identity)?;
        let made = Arc::new(Worker::new(&worker.name, &worker.endpoint, channel));
        workers.insert(worker.name.clone(), made.clone());
        Ok(made)
    }
}

/// Which workers have been tried for a step.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    /// Failed; asked again when nobody else is left.
    failed: Vec<String>,
    /// Never answered; may still be evaluating, so not asked again.
    silent: Vec<String>,
}

impl Tried {
    pub(crate) fn failed(&mut self, worker: &Worker) {
        self.failed.push(worker.name.clone());
    }

    pub(crate) fn silent(&mut self, worker: &Worker) {
        self.silent.push(worker.name.clone());
    }

    /// Whether this worker was asked before.
    pub(crate) fn contains(&self, worker: &Worker) -> bool {
        self.failed.contains(&worker.name) || self.silent.contains(&worker.name)
    }
}

/// The less busy of two workers taken at random from the best there are: not tried and not
/// suspect, else not tried, else those that failed but answered.
pub(crate) fn choose<'a>(
    candidates: &'a [Arc<Worker>],
    tried: &Tried,
    random: u32,
) -> Option<(&'a Arc<Worker>, Attempt<'a>)> {
    loop {
        let (worker, is_trusted) = best(candidates, tried, random)?;
        // where another step was faster to find out about it, the choice is made again
        if let Some(attempt) = worker.attempt(is_trusted) {
            return Some((worker, attempt));
        }
    }
}

fn best<'a>(
    candidates: &'a [Arc<Worker>],
    tried: &Tried,
    random: u32,
) -> Option<(&'a Arc<Worker>, bool)> {
    let of = |test: &dyn Fn(&Worker) -> bool| -> Vec<&'a Arc<Worker>> {
        candidates.iter().filter(|worker| test(worker)).collect()
    };
    let tiers: [&dyn Fn(&Worker) -> bool; 3] = [
        &|worker| !tried.contains(worker) && !worker.is_suspect(),
        &|worker| !tried.contains(worker),
        &|worker| !tried.silent.contains(&worker.name),
    ];
    let mut best = tiers.iter().map(|tier| of(tier)).enumerate();
    let (tier, from) = best.find(|(_, workers)| !workers.is_empty())?;
    let first = random as usize % from.len();
    // any other than the first
    let step = 1 + (random >> 16) as usize % (from.len() - 1).max(1);
    let second = (first + step) % from.len();
    let load = |at: usize| from[at].in_flight.load(Ordering::Relaxed);
    let best = if load(second) < load(first) {
        second
    } else {
        first
    };
    Some((from[best], tier == 0))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use tonic::transport::Endpoint;

    pub(crate) fn workers(count: usize) -> Vec<Arc<Worker>> {
        let channel = Endpoint::from_static("http://localhost:1").connect_lazy();
        (0..count)
            .map(|i| {
                Arc::new(Worker::new(
                    &format!("w{i}"),
                    "localhost:1",
                    channel.clone(),
                ))
            })
            .collect()
    }

    #[tokio::test]
    async fn of_two_the_less_busy_is_asked() {
        let workers = workers(2);
        let _busy = workers[0].begin(3);
        for random in [0, 1, 0x1_0000, 0x1_0001, u32::MAX] {
            let (chosen, _) = choose(&workers, &Tried::default(), random).unwrap();
            assert_eq!(chosen.name(), "w1");
        }
        drop(_busy);
        assert_eq!(workers[0].in_flight.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn the_best_tier_comes_first_and_the_silent_are_not_asked_again() {
        let workers = workers(3);
        let mut tried = Tried::default();
        workers[2].attempt(true).unwrap().failed();
        let name = |tried: &Tried| choose(&workers, tried, 7).unwrap().0.name().to_owned();
        tried.failed(&workers[0]);
        assert_eq!(name(&tried), "w1");
        tried.silent(&workers[1]);
        assert_eq!(name(&tried), "w2");
        tried.silent(&workers[2]);
        assert_eq!(name(&tried), "w0");
        tried.silent(&workers[0]);
        assert!(choose(&workers, &tried, 7).is_none());
        assert!(choose(&[], &tried, 7).is_none());
    }

    proptest! {
        #[test]
        fn a_busiest_worker_is_never_taken_of_several(loads in proptest::collection::vec(0usize..3, 2..6), random: u32) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _entered = runtime.enter();
            let workers = workers(loads.len());
            for (worker, load) in workers.iter().zip(&loads) {
                worker.in_flight.store(*load, Ordering::Relaxed);
            }
            let (chosen, _) = choose(&workers, &Tried::default(), random).unwrap();
            let load = chosen.in_flight.load(Ordering::Relaxed);
            let busier = loads.iter().filter(|l| **l >= load).count();
            prop_assert!(busier >= 2, "took {load} of {loads:?}");
        }
    }
}
