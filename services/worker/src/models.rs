//! The partitions this worker serves: fetched from the registry, opened with the worker's key,
//! checked against the signed manifest's commitments, prepared in the Fourier domain.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chemxor_core::{BlobDigest, Manifest, RingName, VersionId, WorkerName};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::sealing::SealingKeyPair;
use chemxor_fhe::server::{PreparedStep, StateKey};
use chemxor_proto::v1::control_client::ControlClient;
use chemxor_proto::{MAX_BLOB_BYTES, STATE_KEY_STEP, v1};
use tonic::transport::Channel;

/// How long fetching one blob may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(120);
/// How long listing assignments may take.
const LIST_DEADLINE: Duration = Duration::from_secs(10);

/// One model version with the steps that this worker holds.
pub(crate) struct Model {
    pub(crate) version: VersionId,
    pub(crate) rings: Vec<RingName>,
    pub(crate) steps: BTreeMap<u32, PreparedStep>,
    pub(crate) state_key: StateKey,
}

/// Why a partition could not be prepared. Holds no weight and no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LoadError {
    #[error("the registry does not answer in time")]
    Deadline,
    #[error("the registry said: {0}")]
    Registry(String),
    #[error("version {version}: {reason}")]
    Refused { version: String, reason: String },
}

impl From<tonic::Status> for LoadError {
    fn from(status: tonic::Status) -> Self {
        Self::Registry(format!("{:?}: {}", status.code(), status.message()))
    }
}

/// All versions that are ready.
pub(crate) struct Models {
    name: WorkerName,
    keys: SealingKeyPair,
    registry: ControlClient<Channel>,
    ready: RwLock<HashMap<VersionId, Arc<Model>>>,
    /// One synchronisation at a time.
    busy: tokio::sync::Mutex<()>,
}

impl Models {
    pub(crate) fn new(
        name: WorkerName,
        keys: SealingKeyPair,
        registry: ControlClient<Channel>,
    ) -> Self {
        Self {
            name,
            keys,
            registry,
            ready: RwLock::default(),
            busy: tokio::sync::Mutex::default(),
        }
    }

    /// The version, if it is ready; asks the registry once when it is not.
    pub(crate) async fn get(&self, version: &VersionId) -> Option<Arc<Model>> {
        if let Some(model) = self.find(version) {
            return Some(model);
        }
        if let Err(error) = self.synchronise().await {
            tracing::warn!(%error, "cannot look for the version");
        }
        self.find(version)
    }

    fn find(&self, version: &VersionId) -> Option<Arc<Model>> {
        self.ready
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(version)
            .cloned()
    }

    /// Prepares what is newly assigned, unloads what is not assigned any more.
    pub(crate) async fn synchronise(&self) -> Result<(), LoadError> {
        let _one_at_a_time = self.busy.lock().await;
        let mut registry = self.registry.clone();
        let request = v1::ListAssignmentsRequest {
            worker: self.name.to_string(),
        };
        let listed = tokio::time::timeout(LIST_DEADLINE, registry.list_assignments(request))
            .await
            .map_err(|_| LoadError::Deadline)??
            .into_inner();
        let mut wanted = Vec::new();
        for assignment in listed.assignments {
            let version: VersionId = match assignment.version.parse() {
                Ok(version) => version,
                Err(error) => {
                    tracing::warn!(%error, "assignment with a malformed version");
                    continue;
                }
            };
            wanted.push(version);
            if self.find(&version).is_some() {
                continue;
            }
            // one bad version must not keep the others from being served
            match self.load(version, assignment).await {
                Ok(model) => {
                    let bytes: usize = model.steps.values().map(PreparedStep::bytes).sum();
                    let steps: Vec<u32> = model.steps.keys().copied().collect();
                    tracing::info!(%version, ?steps, bytes, "partition ready");
                    let mut ready = self.ready.write().unwrap_or_else(PoisonError::into_inner);
                    ready.insert(version, Arc::new(model));
                }
                Err(error) => tracing::error!(%version, %error, "partition refused"),
            }
        }
        let mut ready = self.ready.write().unwrap_or_else(PoisonError::into_inner);
        ready.retain(|version, _| {
            let keep = wanted.contains(version);
            if !keep {
                tracing::info!(%version, "partition unloaded");
            }
            keep
        });
        Ok(())
    }

    async fn load(
        &self,
        version: VersionId,
        assignment: v1::Assignment,
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
            let prepared = prepare(&manifest, &version, step, &key, &sealed)
                .map_err(|reason| refuse(format!("step {step}: {reason}")))?;
            steps.insert(step, prepared);
        }
        Ok(Model {
            version,
            rings: manifest.graph.rings(),
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

/// Opens, checks and prepares one step. Heavy, but only when a version is new.
fn prepare(
    manifest: &Manifest,
    version: &VersionId,
    step: u32,
    key: &chemxor_fhe::sealing::ModelKey,
    sealed: &[u8],
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
    PreparedStep::new(spec, is_last, weights).map_err(|error| error.to_string())
}
