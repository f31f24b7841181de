//! The partitions this worker serves: which are assigned, which of them are in memory, and which are on
//! their way there. What the registry says holds at once; loading goes on in the background.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chemxor_core::{VersionId, WorkerName};
use chemxor_fhe::sealing::SealingKeyPair;
use chemxor_proto::v1;
use chemxor_proto::v1::control_client::ControlClient;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::denied::DeniedGateways;
use crate::load::{LoadError, Loader, Model};
use crate::loads::{Asked, Begun, Load, Loads};
use crate::refusals::Refusals;
use crate::shelf::{Shelf, Taken};

/// Longest list of assignments: each carries its manifest, so this is some hundred versions and more.
pub(crate) const MAX_ASSIGNMENTS_BYTES: usize = 64 << 20;

/// How long listing assignments may take.
const LIST_DEADLINE: Duration = Duration::from_secs(10);

/// Pause between questions to the registry for versions that are not known.
const ASK_PAUSE: Duration = Duration::from_millis(200);

/// What is assigned, the newest last.
type Assigned = Vec<(VersionId, v1::Assignment)>;

fn find<'a>(
    assigned: &'a [(VersionId, v1::Assignment)],
    version: &VersionId,
) -> Option<&'a v1::Assignment> {
    let found = assigned.iter().rev().find(|(other, _)| other == version);
    found.map(|(_, assignment)| assignment)
}

/// Whether both name the same part of a version; another part is prepared anew.
fn same_part(one: &v1::Assignment, other: &v1::Assignment) -> bool {
    let part = |a: &v1::Assignment| (a.first_step, a.end_step, a.first_group, a.end_group);
    part(one) == part(other)
}

/// The versions that this worker serves. Locks are taken in the order of the fields, and none is held
/// while something is waited for, but for the asynchronous one.
pub(crate) struct Models {
    name: WorkerName,
    registry: ControlClient<Channel>,
    loader: Loader,
    /// Gateways that this worker serves no more.
    pub(crate) denied: DeniedGateways,
    stop: CancellationToken,
    /// Lists that were taken in.
    lists: watch::Sender<u64>,
    /// One list at a time, so that an older one never replaces a newer one.
    listing: tokio::sync::Mutex<()>,
    /// When the registry was asked for an unknown version.
    asked: Mutex<Option<Instant>>,
    assigned: Mutex<Assigned>,
    /// Bytes that versions took when they were prepared, so that one which does not fit is not
    /// prepared again and again.
    sizes: Mutex<HashMap<VersionId, usize>>,
    shelf: Mutex<Shelf<VersionId, Model>>,
    /// What cannot be prepared.
    refused: Mutex<Refusals<VersionId, v1::Assignment>>,
    loads: Loads<VersionId, Model>,
}

impl Models {
    pub(crate) fn new(
        name: WorkerName,
        keys: SealingKeyPair,
        registry: ControlClient<Channel>,
        memory: usize,
        stop: CancellationToken,
    ) -> Self {
        Self {
            name,
            loader: Loader::new(keys, registry.clone()),
            registry,
            denied: DeniedGateways::default(),
            stop,
            lists: watch::Sender::new(0),
            listing: tokio::sync::Mutex::default(),
            asked: Mutex::default(),
            assigned: Mutex::default(),
            sizes: Mutex::default(),
            shelf: Mutex::new(Shelf::new(memory)),
            refused: Mutex::new(Refusals::new(metrics::gauge!(
                "chemxor_worker_versions_refused"
            ))),
            loads: Loads::default(),
        }
    }

    /// The version, ready to evaluate. Loaded when it is assigned but not in memory; the registry is
    /// asked once when it is not known at all.
    pub(crate) async fn get(self: &Arc<Self>, version: &VersionId) -> Option<Arc<Model>> {
        if let Some(model) = self.find(version) {
            return Some(model);
        }
        self.look_for(version).await;
        while self.is_assigned(version) && !self.stop.is_cancelled() {
            let load = self.join(*version, Asked::Now);
            let model = load.outcome().await;
            // another part of it may have been assigned meanwhile
            if model.is_some() || !load.is_withdrawn() {
                return model;
            }
        }
        None
    }

    /// The version, if it is on the shelf.
    fn find(&self, version: &VersionId) -> Option<Arc<Model>> {
        lock(&self.shelf).get(version)
    }

    /// The version, if it is in memory or was pushed out but is still evaluated with.
    pub(crate) fn resident(&self, version: &VersionId) -> Option<Arc<Model>> {
        let mut shelf = lock(&self.shelf);
        shelf.get(version).or_else(|| shelf.lent(version))
    }

    fn is_assigned(&self, version: &VersionId) -> bool {
        find(&lock(&self.assigned), version).is_some()
    }

    /// Asks the registry for a version that is not known, once a list that is on its way has come.
    async fn look_for(&self, version: &VersionId) {
        if self.is_assigned(version) {
            return;
        }
        let _one_at_a_time = self.listing.lock().await;
        if !self.is_assigned(version)
            && self.may_ask()
            && let Err(error) = self.list().await
        {
            tracing::warn!(%error, "cannot look for the version");
        }
    }

    /// Whether the registry may be asked again, for the sake of a version that is not known.
    fn may_ask(&self) -> bool {
        let mut asked = lock(&self.asked);
        let may = asked.is_none_or(|at| at.elapsed() > ASK_PAUSE);
        if may {
            *asked = Some(Instant::now());
        }
        may
    }

    /// Learns what is assigned and who is denied. What is not assigned any more is served no more when
    /// this returns; what is new is loaded later.
    pub(crate) async fn learn(&self) -> Result<(), LoadError> {
        let _one_at_a_time = self.listing.lock().await;
        self.list().await
    }

    async fn list(&self) -> Result<(), LoadError> {
        let mut registry = self.registry.clone();
        let request = v1::ListAssignmentsRequest {
            worker: self.name.to_string(),
        };
        let listed = tokio::time::timeout(LIST_DEADLINE, registry.list_assignments(request))
            .await
            .map_err(|_| LoadError::Deadline)?
            .map_err(|status| match status.code() {
                // what the decoder says of a message over its limit
                tonic::Code::OutOfRange => LoadError::TooMany,
                _ => status.into(),
            })?
            .into_inner();
        self.denied.replace(listed.denied_gateways);
        let mut wanted = Vec::new();
        for assignment in listed.assignments {
            match assignment.version.parse::<VersionId>() {
                Ok(version) => wanted.push((version, assignment)),
                Err(error) => tracing::warn!(%error, "assignment with a malformed version"),
            }
        }
        self.assign(wanted);
        self.lists.send_modify(|lists| *lists += 1);
        Ok(())
    }

    /// Takes a list in place of the last one, and unloads what is not in it.
    fn assign(&self, wanted: Assigned) {
        let gone = {
            // held to the end: nothing of the last list is put on the shelf after this
            let mut assigned = lock(&self.assigned);
            let before = std::mem::replace(&mut *assigned, wanted);
            let now = |version: &VersionId| find(&assigned, version);
            let stays = |version: &VersionId| {
                let old = find(&before, version);
                now(version).is_some_and(|now| old.is_none_or(|old| same_part(old, now)))
            };
            lock(&self.sizes).retain(|version, _| stays(version));
            let gone = lock(&self.shelf).retain(stays);
            lock(&self.refused).retain(|version| now(version).is_some());
            self.loads.retain(stays);
            gone
        };
        for (version, _) in &gone {
            tracing::info!(%version, "partition unloaded");
        }
        self.let_go(gone);
    }

    /// Loads what is assigned and fits, after each list, until the worker stops. The first time that is
    /// done, the worker is ready.
    pub(crate) async fn keep_loaded(self: &Arc<Self>, ready: &watch::Sender<bool>) {
        let mut lists = self.lists.subscribe();
        let mut done = 0;
        loop {
            let news = async {
                let listed = lists.wait_for(|listed| *listed != done).await;
                listed.map(|listed| *listed)
            };
            let Some(Ok(listed)) = self.stop.run_until_cancelled(news).await else {
                return;
            };
            done = listed;
            let loaded = self.stop.run_until_cancelled(self.load_ahead()).await;
            if loaded.is_none() {
                return;
            }
            // once ready it stays so: the registry may be away for a while. A worker that stops does not
            // become ready.
            ready.send_if_modified(|ready| {
                let becomes = !*ready && !self.stop.is_cancelled();
                *ready |= becomes;
                becomes
            });
        }
    }

    /// Loads one version after the other, each once, whatever lists come meanwhile.
    async fn load_ahead(self: &Arc<Self>) {
        let mut tried = HashSet::new();
        while let Some(version) = self.next(&tried) {
            tried.insert(version);
            self.join(version, Asked::Perhaps).outcome().await;
        }
    }

    /// The newest version that has room: it is the most likely to be asked for.
    fn next(&self, tried: &HashSet<VersionId>) -> Option<VersionId> {
        let assigned = lock(&self.assigned);
        let (sizes, shelf) = (lock(&self.sizes), lock(&self.shelf));
        let loadable = |version: &VersionId, assignment: &v1::Assignment| {
            // ciphertext is about as large as what is prepared from it, or smaller
            let sealed: u64 = assignment.blobs.iter().map(|blob| blob.length).sum();
            let bytes = sizes.get(version).copied().unwrap_or(sealed as usize);
            !tried.contains(version) && !shelf.contains(version) && shelf.has_room(bytes)
        };
        let found = assigned.iter().rev().find(|(v, a)| loadable(v, a));
        found.map(|(version, _)| *version)
    }

    /// The load of a version. Who waits for it may give up: it goes on.
    fn join(self: &Arc<Self>, version: VersionId, asked: Asked) -> Arc<Load<Model>> {
        let (load, begun) = self.loads.join(version, asked);
        if let Some(begun) = begun {
            let models = self.clone();
            tokio::spawn(async move {
                let model = tokio::select! {
                    biased;
                    () = models.stop.cancelled() => None,
                    () = begun.withdrawn() => None,
                    model = models.load(&begun) => model,
                };
                begun.finish(model);
            });
        }
        load
    }

    /// Loads a version and puts it on the shelf. One bad version must not keep the others from being
    /// served, so what was refused waits for its next try.
    async fn load(&self, begun: &Begun<VersionId, Model>) -> Option<Arc<Model>> {
        let version = begun.key();
        // the load before this one may have ended a moment ago
        if let Some(model) = self.find(&version) {
            return Some(model);
        }
        let assignment = find(&lock(&self.assigned), &version).cloned()?;
        // steps are still evaluated with it: a second one would only take memory
        let lent = lock(&self.shelf).lent(&version);
        if let Some(model) = lent {
            let bytes = model.bytes();
            return self.keep(begun, &assignment, model, bytes);
        }
        let started = Instant::now();
        if !lock(&self.refused).allow(&version, &assignment, started) {
            return None;
        }
        let loaded = self.loader.load(version, &assignment).await;
        let outcome = outcome(&loaded);
        metrics::counter!("chemxor_worker_loads_total", "outcome" => outcome).increment(1);
        // the place is kept until the end of this
        let (model, _place) = match loaded {
            Ok((model, place)) => (Arc::new(model), place),
            Err(error @ LoadError::Refused { .. }) => {
                let pause = lock(&self.refused).note(version, assignment, Instant::now());
                let again_in_s = pause.as_secs();
                tracing::error!(%version, %error, again_in_s, "partition refused");
                return None;
            }
            // the registry's fault: after the next list it is tried again
            Err(error) => {
                tracing::error!(%version, %error, "partition not fetched");
                return None;
            }
        };
        lock(&self.refused).retain(|refused| *refused != version);
        let bytes = model.bytes();
        let steps: Vec<u32> = model.steps.keys().copied().collect();
        let ms = started.elapsed().as_millis() as u64;
        tracing::info!(%version, ?steps, bytes, ms, "partition ready");
        self.keep(begun, &assignment, model, bytes)
    }

    /// Puts a version on the shelf, if it is still assigned; others make room if a session waits for it.
    fn keep(
        &self,
        begun: &Begun<VersionId, Model>,
        assignment: &v1::Assignment,
        model: Arc<Model>,
        bytes: usize,
    ) -> Option<Arc<Model>> {
        let version = begun.key();
        // a list that comes now waits, and then finds it on the shelf
        let assigned = lock(&self.assigned);
        let now = find(&assigned, &version);
        if now.is_none_or(|now| !same_part(now, assignment)) {
            drop(assigned);
            self.let_go(vec![(version, model)]);
            return None;
        }
        lock(&self.sizes).insert(version, bytes);
        let mut shelf = lock(&self.shelf);
        let fits = shelf.has_room(bytes) || shelf.len() == 0;
        if !fits && begun.leave() {
            drop((shelf, assigned));
            tracing::info!(%version, bytes, "no room now; prepared when asked for");
            self.let_go(vec![(version, model)]);
            return None;
        }
        let evicted = shelf.put(version, model.clone(), bytes);
        let alone = !shelf.could_hold(bytes);
        drop((shelf, assigned));
        if alone {
            tracing::warn!(%version, bytes, "larger than memory_limit_mib alone; raise it");
        }
        for (version, _) in &evicted {
            tracing::info!(%version, "partition unloaded to make room");
        }
        metrics::counter!("chemxor_worker_evictions_total").increment(evicted.len() as u64);
        self.let_go(evicted);
        Some(model)
    }

    /// Drops what was taken off the shelf, and shows how many are left. Wiping takes its time, so it is
    /// done neither under a lock nor on a thread that serves streams.
    fn let_go(&self, taken: Taken<VersionId, Model>) {
        {
            // under the lock, so that an older state is never shown after a newer one
            let shelf = lock(&self.shelf);
            metrics::gauge!("chemxor_worker_models").set(shelf.len() as f64);
        }
        if !taken.is_empty() {
            tokio::task::spawn_blocking(move || drop(taken));
        }
    }
}

/// Lets go of a model on a thread that serves streams: if nobody else has it, it is wiped elsewhere.
pub(crate) fn release(model: Arc<Model>) {
    // not taken out of its place, which would leave a copy of the key there
    if Arc::strong_count(&model) == 1 {
        tokio::task::spawn_blocking(move || drop(model));
    }
}

/// How a load counts. What the registry did not give is not refused: it is tried again.
fn outcome<T>(loaded: &Result<T, LoadError>) -> &'static str {
    match loaded {
        Ok(_) => "ok",
        Err(LoadError::Refused { .. }) => "refused",
        Err(_) => "not_fetched",
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_registry_did_not_give_does_not_count_as_refused() {
        let refused = LoadError::Refused {
            version: "of a test".to_owned(),
            reason: "the blob has another digest".to_owned(),
        };
        let away = tonic::Status::unavailable("the registry does not answer");
        assert_eq!(outcome(&Ok(())), "ok");
        assert_eq!(outcome::<()>(&Err(refused)), "refused");
        assert_eq!(outcome::<()>(&Err(LoadError::Deadline)), "not_fetched");
        assert_eq!(outcome::<()>(&Err(away.into())), "not_fetched");
    }
}
