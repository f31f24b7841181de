//! The partitions this worker serves: fetched from the registry, opened with the worker's key,
//! checked against the signed manifest's commitments, prepared in the Fourier domain.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chemxor_core::{BlobDigest, Manifest, RingName, StepSpec, VersionId, WorkerName};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::sealing::SealingKeyPair;
use chemxor_fhe::server::{PreparedStep, StateKey};
use chemxor_proto::v1::control_client::ControlClient;
use chemxor_proto::{MAX_BLOB_BYTES, STATE_KEY_STEP, v1};
use tonic::transport::Channel;

use crate::denied::DeniedGateways;
use crate::refusals::Refusals;
use crate::shelf::{Shelf, Taken};

/// Longest list of assignments: each carries its manifest, so this is some hundred versions and more.
pub(crate) const MAX_ASSIGNMENTS_BYTES: usize = 64 << 20;

/// How long fetching one blob may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(120);
/// How long listing assignments may take.
const LIST_DEADLINE: Duration = Duration::from_secs(10);

/// Pause between questions to the registry for versions that are not known.
const ASK_PAUSE: Duration = Duration::from_millis(200);

/// One model version with the steps that this worker holds.
pub(crate) struct Model {
    pub(crate) version: VersionId,
    pub(crate) rings: Vec<RingName>,
    pub(crate) steps: BTreeMap<u32, PreparedStep>,
    /// Permits that each step of the graph takes.
    pub(crate) permits: Vec<u32>,
    pub(crate) state_key: StateKey,
}

/// What a version is prepared for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// A session that waits for it.
    Now,
    /// Sessions that may come: nothing that is in memory makes room for these.
    Perhaps,
}

/// Why a partition could not be prepared. Holds no weight and no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LoadError {
    #[error("the registry does not answer in time")]
    Deadline,
    #[error("the registry said: {0}")]
    Registry(String),
    #[error(
        "the list of assignments is longer than {} MiB: withdraw versions from this worker, or \
         spread them over several",
        MAX_ASSIGNMENTS_BYTES >> 20
    )]
    TooMany,
    #[error("version {version}: {reason}")]
    Refused { version: String, reason: String },
}

impl From<tonic::Status> for LoadError {
    fn from(status: tonic::Status) -> Self {
        Self::Registry(format!("{:?}: {}", status.code(), status.message()))
    }
}

/// The versions that this worker serves: which are assigned, and which of them are prepared.
pub(crate) struct Models {
    name: WorkerName,
    keys: SealingKeyPair,
    registry: ControlClient<Channel>,
    /// Gateways that this worker serves no more.
    pub(crate) denied: DeniedGateways,
    assigned: Mutex<HashMap<VersionId, v1::Assignment>>,
    shelf: Mutex<Shelf<VersionId, Model>>,
    /// When the registry was asked for an unknown version.
    asked: Mutex<Option<Instant>>,
    /// Bytes that versions took when they were prepared, so that one which does not fit is not
    /// prepared again and again.
    sizes: Mutex<HashMap<VersionId, usize>>,
    /// What cannot be prepared.
    refused: Mutex<Refusals<VersionId, v1::Assignment>>,
    /// One synchronisation or preparation at a time, so that memory grows by one model at most.
    busy: tokio::sync::Mutex<()>,
}

impl Models {
    pub(crate) fn new(
        name: WorkerName,
        keys: SealingKeyPair,
        registry: ControlClient<Channel>,
        memory: usize,
    ) -> Self {
        Self {
            name,
            keys,
            registry,
            denied: DeniedGateways::default(),
            assigned: Mutex::default(),
            shelf: Mutex::new(Shelf::new(memory)),
            asked: Mutex::default(),
            sizes: Mutex::default(),
            refused: Mutex::default(),
            busy: tokio::sync::Mutex::default(),
        }
    }

    /// The version, ready to evaluate. Prepared now when it is assigned but not in memory; the
    /// registry is asked once when it is not known at all.
    pub(crate) async fn get(&self, version: &VersionId) -> Option<Arc<Model>> {
        if let Some(model) = self.find(version) {
            return Some(model);
        }
        if !lock(&self.assigned).contains_key(version)
            && self.may_ask()
            && let Err(error) = self.synchronise().await
        {
            tracing::warn!(%error, "cannot look for the version");
        }
        let _one_at_a_time = self.busy.lock().await;
        if let Some(model) = self.find(version) {
            return Some(model);
        }
        let assignment = lock(&self.assigned).get(version).cloned()?;
        self.prepare(*version, assignment, Asked::Now).await
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

    /// The version, if it is in memory.
    pub(crate) fn find(&self, version: &VersionId) -> Option<Arc<Model>> {
        lock(&self.shelf).get(version)
    }

    /// Learns what is assigned, unloads what is not any more, and prepares what fits.
    pub(crate) async fn synchronise(&self) -> Result<(), LoadError> {
        let _one_at_a_time = self.busy.lock().await;
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
        let before =
            std::mem::replace(&mut *lock(&self.assigned), wanted.iter().cloned().collect());
        // a version whose steps have changed is prepared again
        let same = |version: &VersionId, now: &v1::Assignment| {
            let part = |a: &v1::Assignment| (a.first_step, a.end_step, a.first_group, a.end_group);
            before.get(version).is_none_or(|old| part(old) == part(now))
        };
        let gone = lock(&self.shelf).retain(|kept| {
            wanted
                .iter()
                .any(|(version, now)| version == kept && same(version, now))
        });
        for (version, _) in &gone {
            tracing::info!(%version, "partition unloaded");
        }
        lock(&self.sizes).retain(|version, _| {
            let unloaded = gone.iter().any(|(gone, _)| gone == version);
            !unloaded && wanted.iter().any(|(wanted, _)| wanted == version)
        });
        self.let_go(gone);
        lock(&self.refused).retain(|kept| wanted.iter().any(|(version, _)| version == kept));
        // the newest first: they are most likely to be asked for, and what is old may not fit
        for (version, assignment) in wanted.into_iter().rev() {
            // ciphertext is about as large as what is prepared from it, or smaller
            let sealed: u64 = assignment.blobs.iter().map(|blob| blob.length).sum();
            let known = lock(&self.sizes).get(&version).copied();
            let bytes = known.unwrap_or(sealed as usize);
            let room = {
                let shelf = lock(&self.shelf);
                !shelf.contains(&version) && shelf.has_room(bytes)
            };
            if room {
                self.prepare(version, assignment, Asked::Perhaps).await;
            }
        }
        Ok(())
    }

    /// Prepares a version and puts it on the shelf; others make room if it is asked for. One bad version
    /// must not keep the others from being served, so what was refused waits for its next try.
    async fn prepare(
        &self,
        version: VersionId,
        assignment: v1::Assignment,
        asked: Asked,
    ) -> Option<Arc<Model>> {
        let started = Instant::now();
        if !lock(&self.refused).allow(&version, &assignment, started) {
            return None;
        }
        let loaded = self.load(version, &assignment).await;
        let outcome = if loaded.is_ok() { "ok" } else { "refused" };
        metrics::counter!("chemxor_worker_loads_total", "outcome" => outcome).increment(1);
        let model = match loaded {
            Ok(model) => Arc::new(model),
            Err(error @ LoadError::Refused { .. }) => {
                let pause = lock(&self.refused).note(version, assignment, Instant::now());
                let again_in_s = pause.as_secs();
                tracing::error!(%version, %error, again_in_s, "partition refused");
                return None;
            }
            // the registry's fault: the next heartbeat tries again
            Err(error) => {
                tracing::error!(%version, %error, "partition not fetched");
                return None;
            }
        };
        lock(&self.refused).retain(|refused| *refused != version);
        let bytes: usize = model.steps.values().map(PreparedStep::bytes).sum();
        let steps: Vec<u32> = model.steps.keys().copied().collect();
        let ms = started.elapsed().as_millis() as u64;
        tracing::info!(%version, ?steps, bytes, ms, "partition ready");
        lock(&self.sizes).insert(version, bytes);
        let fits = {
            let shelf = lock(&self.shelf);
            shelf.has_room(bytes) || shelf.len() == 0
        };
        if asked == Asked::Perhaps && !fits {
            tracing::info!(%version, bytes, "no room now; prepared when asked for");
            self.let_go(vec![(version, model)]);
            return None;
        }
        let (evicted, alone) = {
            let mut shelf = lock(&self.shelf);
            let evicted = shelf.put(version, model.clone(), bytes);
            (evicted, !shelf.could_hold(bytes))
        };
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

    /// Drops what was taken off the shelf, and shows what is left. Wiping takes its time, so it is
    /// done neither under a lock nor on a thread that serves streams.
    fn let_go(&self, taken: Taken<VersionId, Model>) {
        let (held, count) = {
            let shelf = lock(&self.shelf);
            (shelf.bytes(), shelf.len())
        };
        metrics::gauge!("chemxor_worker_weights_bytes").set(held as f64);
        metrics::gauge!("chemxor_worker_models").set(count as f64);
        if !taken.is_empty() {
            tokio::task::spawn_blocking(move || drop(taken));
        }
    }

    async fn load(
        &self,
        version: VersionId,
        assignment: &v1::Assignment,
    ) -> Result<Model, LoadError> {
        let refuse = |reason: String| LoadError::Refused {
            version: version.to_string(),
            reason,
        };
        let (manifest, digest) = Manifest::from_bytes(&assignment.manifest)
            .map_err(|error| refuse(error.to_string()))?;
        if digest != version {
            return Err(refuse("the manifest has another digest".to_owned()));
        }
        let state_key = assignment
            .state_key
            .as_ref()
            .ok_or_else(|| refuse("the state key is missing".to_owned()))?;
        let state_key = self
            .keys
            .open(
                &state_key.encapsulated,
                &state_key.ciphertext,
                &version,
                STATE_KEY_STEP,
            )
            .map_err(|error| refuse(format!("state key: {error}")))?;
        let share = (assignment.first_group, assignment.end_group);
        let groups = (share != (0, 0)).then_some(share.0 as usize..share.1 as usize);
        let manifest = Arc::new(manifest);
        let mut steps = BTreeMap::new();
        for step in assignment.first_step..assignment.end_step {
            let blob = assignment.blobs.iter().find(|blob| blob.step == step);
            let key = assignment.keys.iter().find(|key| key.step == step);
            let (Some(blob), Some(key)) = (blob, key) else {
                return Err(refuse(format!("step {step}: its blob or key is missing")));
            };
            let sealed = self.fetch(&assignment.version, blob).await?;
            let key = self
                .keys
                .open(&key.encapsulated, &key.ciphertext, &version, step)
                .map_err(|error| refuse(format!("step {step}: {error}")))?;
            let groups = groups.clone();
            let shared = manifest.clone();
            // heavy: not on a thread that serves streams
            let prepared = tokio::task::spawn_blocking(move || {
                prepare(&shared, &version, step, &key, &sealed, groups)
            })
            .await
            .map_err(|error| refuse(format!("step {step}: {error}")))?
            .map_err(|reason| refuse(format!("step {step}: {reason}")))?;
            steps.insert(step, prepared);
        }
        let permits = manifest
            .graph
            .steps()
            .iter()
            .map(StepSpec::permits)
            .collect();
        Ok(Model {
            version,
            rings: manifest.graph.rings(),
            permits,
            steps,
            state_key: StateKey::new(*state_key.expose()),
        })
    }

    async fn fetch(&self, version: &str, blob: &v1::EncryptedBlob) -> Result<Vec<u8>, LoadError> {
        let refuse = |reason: &str| LoadError::Refused {
            version: version.to_owned(),
            reason: format!("step {}: {reason}", blob.step),
        };
        if blob.length > MAX_BLOB_BYTES {
            return Err(refuse("the blob is too large"));
        }
        let mut registry = self.registry.clone();
        let request = v1::FetchBlobRequest {
            version: version.to_owned(),
            sha256: blob.sha256.clone(),
        };
        let fetch = async move {
            let mut stream = registry.fetch_blob(request).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(part) = stream.message().await? {
                if bytes.len() as u64 + part.chunk.len() as u64 > blob.length {
                    return Err(refuse("the blob is longer than announced"));
                }
                bytes.extend_from_slice(&part.chunk);
            }
            Ok(bytes)
        };
        let bytes = tokio::time::timeout(FETCH_DEADLINE, fetch)
            .await
            .map_err(|_| LoadError::Deadline)??;
        if BlobDigest::of(&bytes).as_bytes() != blob.sha256.as_ref() {
            return Err(refuse("the blob has another digest"));
        }
        Ok(bytes)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens, checks and prepares one step. Heavy, but only when a version is new.
fn prepare(
    manifest: &Manifest,
    version: &VersionId,
    step: u32,
    key: &chemxor_fhe::sealing::ModelKey,
    sealed: &[u8],
    groups: Option<Range<usize>>,
) -> Result<PreparedStep, String> {
    let index = step as usize;
    let (Some(spec), Some(blob)) = (manifest.graph.steps().get(index), manifest.blobs.get(index))
    else {
        return Err("the graph has no such step".to_owned());
    };
    chemxor_fhe::ring::check_statements(&manifest.graph.rings(), &manifest.rings)
        .map_err(|error| error.to_string())?;
    let plain = key
        .decrypt_blob(sealed, version, step)
        .map_err(|error| error.to_string())?;
    if BlobDigest::of(&plain) != blob.digest {
        return Err("the weights are not those of the signed manifest".to_owned());
    }
    let weights = StepWeights::from_blob(&plain).map_err(|error| error.to_string())?;
    let is_last = index + 1 == manifest.graph.steps().len();
    let prepared = match groups {
        None => PreparedStep::new(spec, is_last, weights),
        Some(groups) => PreparedStep::for_groups(spec, is_last, weights, groups),
    };
    prepared.map_err(|error| error.to_string())
}
