//! One version on its way into memory: opened with the worker's key, fetched from the registry, checked
//! against the signed manifest's commitments, prepared in the Fourier domain.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use chemxor_core::{BlobDigest, Manifest, RingName, VersionId};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::ring::check_statements;
use chemxor_fhe::sealing::{ModelKey, SealingKeyPair};
use chemxor_fhe::server::{PreparedStep, StateKey};
use chemxor_proto::v1::control_client::ControlClient;
use chemxor_proto::{MAX_BLOB_BYTES, STATE_KEY_STEP, v1};
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};
use tonic::transport::Channel;

use crate::models::MAX_ASSIGNMENTS_BYTES;

/// How long fetching one blob may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(120);
/// Bytes of blobs that may be on their way together. A version with more than half of it counts as
/// half: so one that is loaded ahead never takes the room of one that a session waits for.
const FETCHED_BYTES: u32 = 64 << 20;

/// One model version with the steps that this worker holds.
pub(crate) struct Model {
    pub(crate) version: VersionId,
    pub(crate) rings: Vec<RingName>,
    pub(crate) steps: BTreeMap<u32, PreparedStep>,
    pub(crate) state_key: StateKey,
    /// The last field, dropped when the weights have been.
    resident: Resident,
}

/// Shows the memory that weights take for as long as they are there, on the shelf or only evaluated with.
struct Resident(usize);

impl Resident {
    fn new(bytes: usize) -> Self {
        metrics::gauge!("chemxor_worker_weights_bytes").increment(bytes as f64);
        Self(bytes)
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        metrics::gauge!("chemxor_worker_weights_bytes").decrement(self.0 as f64);
    }
}

impl Model {
    /// Memory that its weights take.
    pub(crate) fn bytes(&self) -> usize {
        self.resident.0
    }

    /// Permits that an evaluation of a step takes here.
    pub(crate) fn permits(&self, step: u32) -> u32 {
        self.steps.get(&step).map_or(1, permits)
    }
}

/// Permits of the whole step, for the part of its output ciphertexts that this worker computes.
fn permits(step: &PreparedStep) -> u32 {
    let shape = step.shape();
    let (whole, part) = (shape.layout.output_count(), step.groups().len());
    let permits = u64::from(shape.spec.permits()).saturating_mul(part as u64);
    let permits = permits.div_ceil(whole.max(1) as u64).max(1);
    u32::try_from(permits).unwrap_or(u32::MAX)
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

impl LoadError {
    fn refused(version: &VersionId, reason: impl Into<String>) -> Self {
        Self::Refused {
            version: version.to_string(),
            reason: reason.into(),
        }
    }
}

impl From<tonic::Status> for LoadError {
    fn from(status: tonic::Status) -> Self {
        Self::Registry(format!("{:?}: {}", status.code(), status.message()))
    }
}

/// The one place for a version that is being prepared.
pub(crate) type Place = OwnedMutexGuard<()>;

/// Loads versions: several are fetched side by side, one at a time is prepared.
pub(crate) struct Loader {
    keys: SealingKeyPair,
    registry: ControlClient<Channel>,
    room: Arc<Semaphore>,
    place: Arc<Mutex<()>>,
}

/// What an assignment says, opened and checked as far as that goes without the blobs.
struct Opened {
    version: VersionId,
    manifest: Manifest,
    state_key: StateKey,
    /// Numbers of the steps, their keys, and what is to be fetched.
    steps: Vec<(u32, ModelKey, v1::EncryptedBlob)>,
    groups: Option<Range<usize>>,
}

impl Loader {
    pub(crate) fn new(keys: SealingKeyPair, registry: ControlClient<Channel>) -> Self {
        Self {
            keys,
            registry,
            room: Arc::new(Semaphore::new(FETCHED_BYTES as usize)),
            place: Arc::default(),
        }
    }

    /// Fetches and prepares a version. Memory grows by one version at a time: the place comes with it,
    /// for the caller to keep until it is known where the version stays.
    pub(crate) async fn load(
        &self,
        version: VersionId,
        assignment: &v1::Assignment,
    ) -> Result<(Model, Place), LoadError> {
        let opened = self.open(version, assignment)?;
        let lengths = opened.steps.iter().map(|(.., blob)| blob.length);
        let bytes = lengths.fold(1, u64::saturating_add);
        let counted = bytes.min(u64::from(FETCHED_BYTES / 2)) as u32;
        // closed by nobody
        let room = self.room.clone().acquire_many_owned(counted).await;
        let mut sealed = Vec::with_capacity(opened.steps.len());
        for (.., blob) in &opened.steps {
            sealed.push(self.fetch(&version, blob).await?);
        }
        let place = self.place.clone().lock_owned().await;
        // heavy: not on a thread that serves streams. It goes on to its end when nobody waits for it any
        // more, so it has the place and the room itself.
        let prepared = tokio::task::spawn_blocking(move || {
            let prepared = prepare(opened, sealed);
            drop(room);
            prepared.map(|model| (model, place))
        });
        // what a panic says may follow from a weight
        prepared
            .await
            .map_err(|_| LoadError::refused(&version, "its preparation broke off"))?
    }

    fn open(&self, version: VersionId, assignment: &v1::Assignment) -> Result<Opened, LoadError> {
        let refuse = |reason: String| LoadError::refused(&version, reason);
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
        let mut steps = Vec::new();
        for step in assignment.first_step..assignment.end_step {
            let blob = assignment.blobs.iter().find(|blob| blob.step == step);
            let key = assignment.keys.iter().find(|key| key.step == step);
            let (Some(blob), Some(key)) = (blob, key) else {
                return Err(refuse(format!("step {step}: its blob or key is missing")));
            };
            if blob.length > MAX_BLOB_BYTES {
                return Err(refuse(format!("step {step}: the blob is too large")));
            }
            let key = self
                .keys
                .open(&key.encapsulated, &key.ciphertext, &version, step)
                .map_err(|error| refuse(format!("step {step}: {error}")))?;
            steps.push((step, key, blob.clone()));
        }
        let share = (assignment.first_group, assignment.end_group);
        Ok(Opened {
            version,
            manifest,
            state_key: StateKey::new(*state_key.expose()),
            steps,
            groups: (share != (0, 0)).then_some(share.0 as usize..share.1 as usize),
        })
    }

    async fn fetch(
        &self,
        version: &VersionId,
        blob: &v1::EncryptedBlob,
    ) -> Result<Vec<u8>, LoadError> {
        let refuse =
            |reason: &str| LoadError::refused(version, format!("step {}: {reason}", blob.step));
        let mut registry = self.registry.clone();
        let request = v1::FetchBlobRequest {
            version: version.to_string(),
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

/// Decrypts, checks and prepares all steps. Heavy, but only when a version is new.
fn prepare(opened: Opened, sealed: Vec<Vec<u8>>) -> Result<Model, LoadError> {
    let Opened {
        version,
        manifest,
        state_key,
        steps: keys,
        groups,
    } = opened;
    let rings = manifest.graph.rings();
    check_statements(&rings, &manifest.rings)
        .map_err(|error| LoadError::refused(&version, error.to_string()))?;
    let mut steps = BTreeMap::new();
    for ((step, key, _), sealed) in keys.into_iter().zip(sealed) {
        let prepared = prepare_step(&manifest, &version, (step, &key), &sealed, groups.clone());
        let prepared = prepared
            .map_err(|reason| LoadError::refused(&version, format!("step {step}: {reason}")))?;
        steps.insert(step, prepared);
    }
    let resident = Resident::new(steps.values().map(PreparedStep::bytes).sum());
    Ok(Model {
        version,
        rings,
        steps,
        state_key,
        resident,
    })
}

fn prepare_step(
    manifest: &Manifest,
    version: &VersionId,
    (step, key): (u32, &ModelKey),
    sealed: &[u8],
    groups: Option<Range<usize>>,
) -> Result<PreparedStep, String> {
    let index = step as usize;
    let (Some(spec), Some(blob)) = (manifest.graph.steps().get(index), manifest.blobs.get(index))
    else {
        return Err("the graph has no such step".to_owned());
    };
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
