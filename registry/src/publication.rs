//! What a publisher announces, checked once. A [`Publication`] exists only if its manifest reads,
//! its signature verifies under the announced key, and blobs, keys and placements are exactly what
//! the manifest's steps need. Whether the named workers exist is for the store to say.

use std::collections::BTreeSet;

use chemxor_core::{
    ErrorId, Manifest, VersionId, WorkerName, check_known_answers, check_rings, verify_manifest,
};
use chemxor_proto::{MAX_BLOB_BYTES, MAX_MANIFEST_BYTES, STATE_KEY_STEP, v1};

use crate::RegistryError;

/// Most workers of one version.
const MAX_WORKERS: usize = 256;
/// KEM output of X25519.
const ENCAPSULATED: usize = 32;
/// A 32-byte key and its authentication tag.
const SEALED: usize = 48;

/// A checked announcement of a version.
#[derive(Debug)]
pub struct Publication {
    manifest: Manifest,
    version: VersionId,
    request: v1::BeginVersionRequest,
}

fn argument(message: impl Into<String>) -> RegistryError {
    RegistryError::refused(ErrorId::ArgumentInvalid, message)
}

impl Publication {
    /// Checks everything that the request itself can show.
    pub fn verify(request: v1::BeginVersionRequest) -> Result<Self, RegistryError> {
        if request.manifest.len() > MAX_MANIFEST_BYTES {
            return Err(argument("the manifest is longer than 1 MiB"));
        }
        let (manifest, version) = Manifest::from_bytes(&request.manifest)
            .map_err(|error| RegistryError::refused(ErrorId::ManifestRefused, error.to_string()))?;
        let (key, signature) = (&request.publisher_key, &request.signature);
        verify_manifest(key, &request.manifest, signature).map_err(|error| {
            RegistryError::refused(ErrorId::SignatureRefused, error.to_string())
        })?;
        check_rings(&manifest.graph.rings(), &manifest.rings)
            .and_then(|()| check_known_answers(&manifest))
            .map_err(|error| RegistryError::refused(ErrorId::NotConformant, error.to_string()))?;
        let steps = manifest.graph.steps().len() as u32;
        check_blobs(steps, &request.blobs)?;
        check_placements(steps, &request.placements)?;
        check_keys(&wanted_keys(&request.placements), &request.keys)?;
        Ok(Self {
            manifest,
            version,
            request,
        })
    }

    /// The manifest, read.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The digest of its bytes.
    pub fn version(&self) -> VersionId {
        self.version
    }

    pub(crate) fn request(&self) -> &v1::BeginVersionRequest {
        &self.request
    }

    /// The workers that shall serve it, each once.
    pub(crate) fn workers(&self) -> Vec<&str> {
        let placements = self.request.placements.iter();
        placements.map(|place| place.worker.as_str()).collect()
    }
}

/// One blob for each step, in order, each with its own digest.
fn check_blobs(steps: u32, blobs: &[v1::EncryptedBlob]) -> Result<(), RegistryError> {
    if !blobs.iter().map(|blob| blob.step).eq(0..steps) {
        return Err(argument("announce one blob for each step, in order"));
    }
    let mut digests = BTreeSet::new();
    for blob in blobs {
        let length = 1..=MAX_BLOB_BYTES;
        if blob.sha256.len() != 32 || !length.contains(&blob.length) {
            let message = format!("the blob of step {} has a bad digest or length", blob.step);
            return Err(argument(message));
        }
        if !digests.insert(&blob.sha256) {
            let message = format!("the blob of step {} is announced twice", blob.step);
            return Err(argument(message));
        }
    }
    Ok(())
}

/// A change of the workers of a version, checked: what goes, what comes, and what there is then.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) withdrawn: Vec<String>,
    pub(crate) added: Vec<v1::Placement>,
    pub(crate) after: Vec<v1::Placement>,
}

impl Change {
    /// Checks a change of these placements of a version with so many steps. What holds already is
    /// left out, so that a change may be repeated.
    pub(crate) fn verify(
        steps: u32,
        before: &[v1::Placement],
        request: &v1::AuthorizeWorkersRequest,
    ) -> Result<Self, RegistryError> {
        let lists = [request.placements.len(), request.withdrawn.len()];
        if lists.iter().any(|length| *length > MAX_WORKERS) {
            return Err(argument("a version is placed on at most 256 workers"));
        }
        check_keys(&wanted_keys(&request.placements), &request.keys)?;
        let added: Vec<v1::Placement> = request
            .placements
            .iter()
            .filter(|place| !before.contains(place))
            .cloned()
            .collect();
        let goes = |place: &&v1::Placement| {
            request.withdrawn.contains(&place.worker) && !request.placements.contains(place)
        };
        let withdrawn = before.iter().filter(goes).map(|p| p.worker.clone());
        let withdrawn: Vec<String> = withdrawn.collect();
        let stays = before.iter().filter(|place| !goes(place)).cloned();
        let mut after: Vec<v1::Placement> = stays.chain(added.iter().cloned()).collect();
        after.sort_by(|a, b| (a.first_step, &a.worker).cmp(&(b.first_step, &b.worker)));
        check_placements(steps, &after)?;
        Ok(Self {
            withdrawn,
            added,
            after,
        })
    }
}

/// The keys that placements ask for: each worker's steps, and the state key.
fn wanted_keys(placements: &[v1::Placement]) -> BTreeSet<(&str, u32)> {
    let of = |place: &'_ v1::Placement| (place.first_step..place.end_step).chain([STATE_KEY_STEP]);
    placements
        .iter()
        .flat_map(|place| of(place).map(|step| (place.worker.as_str(), step)))
        .collect()
}

/// Each step is served, each worker has one run of steps.
fn check_placements(steps: u32, placements: &[v1::Placement]) -> Result<(), RegistryError> {
    if placements.len() > MAX_WORKERS {
        return Err(argument("a version is placed on at most 256 workers"));
    }
    let mut names = BTreeSet::new();
    // for each step, the shares of it that are served; (0, 0) is the whole step
    let mut served = vec![BTreeSet::new(); steps as usize];
    for place in placements {
        let (first, end) = (place.first_step, place.end_step);
        place
            .worker
            .parse::<WorkerName>()
            .map_err(|error| argument(error.to_string()))?;
        if first >= end || end > steps {
            let message = format!("worker {:?} is placed on no step", place.worker);
            return Err(argument(message));
        }
        let share = (place.first_group, place.end_group);
        if share != (0, 0) && (share.0 >= share.1 || end - first != 1) {
            let message = format!(
                "worker {:?}: a share is some output ciphertexts of one step",
                place.worker
            );
            return Err(argument(message));
        }
        if !names.insert(place.worker.as_str()) {
            let message = format!("worker {:?} is placed twice", place.worker);
            return Err(argument(message));
        }
        for step in first..end {
            served[step as usize].insert(share);
        }
    }
    match served.iter().position(|shares| !is_covered(shares)) {
        Some(step) => {
            let message = format!("no worker is placed on step {step}, or on a part of it");
            Err(argument(message))
        }
        None => Ok(()),
    }
}

/// Whether there is a worker for the whole step, or shares without gap or overlap from 0 on.
fn is_covered(shares: &BTreeSet<(u32, u32)>) -> bool {
    let tiled = || {
        let mut next = 0;
        shares.iter().all(|(first, end)| {
            let fits = *first == next;
            next = *end;
            fits
        })
    };
    shares.contains(&(0, 0)) || (!shares.is_empty() && tiled())
}

/// Exactly the wanted keys, each of the right size.
fn check_keys(wanted: &BTreeSet<(&str, u32)>, keys: &[v1::SealedKey]) -> Result<(), RegistryError> {
    let given: BTreeSet<(&str, u32)> = keys
        .iter()
        .map(|key| (key.worker.as_str(), key.step))
        .collect();
    if given != *wanted || keys.len() != wanted.len() {
        return Err(argument(
            "seal one key to each worker for each of its steps, and the state key",
        ));
    }
    let sized = |key: &v1::SealedKey| {
        key.encapsulated.len() == ENCAPSULATED && key.ciphertext.len() == SEALED
    };
    if !keys.iter().all(sized) {
        return Err(argument(
            "a sealed key has 32 bytes encapsulated and 48 bytes of ciphertext",
        ));
    }
    Ok(())
}
