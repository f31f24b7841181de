//! Publishing a bundle: encrypt each step's weights, seal the keys to the workers that serve them,
//! sign the manifest, upload, submit. The registry receives ciphertext only.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use chemxor_core::{BlobDigest, Bundle, VersionId, sign_manifest};
use chemxor_fhe::sealing::ModelKey;
use chemxor_proto::v1::publishing_client::PublishingClient;
use chemxor_proto::{MAX_FRAME_BYTES, STATE_KEY_STEP, v1};
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use crate::catalog::{DEADLINE, call, call_within, channel};
use crate::placement::{Spread, place};
use crate::{Access, ClientError};

pub use chemxor_proto::v1::Worker;

/// Bytes a second below which an upload is given up; what has arrived stays, and is not sent again.
const SLOWEST_UPLOAD: u64 = 64 << 10;

/// What was published.
#[derive(Debug, Clone)]
pub struct Published {
    /// `sha256:…`.
    pub version: String,
    /// State after submission.
    pub state: String,
    /// Which worker serves which steps, or which output ciphertexts of a step.
    pub placements: Vec<v1::Placement>,
    /// Bytes of ciphertext uploaded.
    pub uploaded: u64,
}

/// Workers that a publisher may authorise, by name.
pub async fn workers(access: &Access) -> Result<Vec<Worker>, ClientError> {
    let mut client = PublishingClient::new(channel(access).await?);
    let request = access.token.sign(v1::ListWorkersRequest {})?;
    let mut workers = call(access, client.list_workers(request)).await?.workers;
    workers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(workers)
}

/// Publishes and submits a bundle to these workers.
pub async fn publish(
    access: &Access,
    bundle: &Bundle,
    signer: &SigningKey,
    workers: &[Worker],
    spread: Spread,
) -> Result<Published, ClientError> {
    let placements = place(&bundle.manifest().graph, workers, spread)?;
    let by_name: BTreeMap<&str, &Worker> = workers
        .iter()
        .map(|worker| (worker.name.as_str(), worker))
        .collect();
    let version = bundle.version();
    let keys = seal_keys(signer, &version, &placements, &by_name)?;
    let secret = Zeroizing::new(signer.to_bytes());
    let (mut blobs, mut contents) = (Vec::new(), Vec::new());
    for (step, blob) in (0u32..).zip(bundle.blobs()) {
        let data_key = ModelKey::derive(&secret, &version, step);
        let sealed = Bytes::from(data_key.encrypt_blob(blob, &version, step)?);
        let sha256 = Bytes::copy_from_slice(BlobDigest::of(&sealed).as_bytes());
        blobs.push(v1::EncryptedBlob {
            step,
            sha256,
            length: sealed.len() as u64,
        });
        contents.push(sealed);
    }
    let request = v1::BeginVersionRequest {
        manifest: bundle.manifest_bytes().to_vec().into(),
        signature: sign_manifest(signer, bundle.manifest_bytes())
            .to_vec()
            .into(),
        publisher_key: signer.verifying_key().to_bytes().to_vec().into(),
        blobs: blobs.clone(),
        keys,
        placements: placements.clone(),
    };
    let mut client = PublishingClient::new(channel(access).await?);
    let begun = call(access, client.begin_version(access.token.sign(request)?)).await?;
    let mut uploaded = 0;
    for missing in &begun.missing {
        let content = blobs
            .iter()
            .zip(&contents)
            .find(|(blob, _)| blob.sha256 == missing.sha256);
        let Some((_, content)) = content else {
            continue;
        };
        let offset = usize::try_from(missing.offset)
            .unwrap_or(0)
            .min(content.len());
        let left = (content.len() - offset) as u64;
        uploaded += left;
        let header = v1::BlobHeader {
            version: begun.version.clone(),
            sha256: missing.sha256.clone(),
            offset: offset as u64,
        };
        let chunks = chunks(header, content.slice(offset..));
        let request = access.token.sign(tokio_stream::iter(chunks))?;
        let deadline = DEADLINE + Duration::from_secs(left / SLOWEST_UPLOAD);
        call_within(access, deadline, client.upload_blob(request)).await?;
    }
    let submit = v1::SubmitVersionRequest {
        version: begun.version.clone(),
    };
    let submitted = call(access, client.submit_version(access.token.sign(submit)?)).await?;
    Ok(Published {
        version: submitted.version,
        state: submitted.state,
        placements,
        uploaded,
    })
}

/// The keys of a version's steps and its state key, sealed to the workers of these placements.
fn seal_keys(
    signer: &SigningKey,
    version: &VersionId,
    placements: &[v1::Placement],
    workers: &BTreeMap<&str, &Worker>,
) -> Result<Vec<v1::SealedKey>, ClientError> {
    let secret = Zeroizing::new(signer.to_bytes());
    let mut keys = Vec::new();
    for place in placements {
        let unknown = || ClientError::Placement(format!("worker {:?} is not known", place.worker));
        let worker = workers
            .get(place.worker.as_str())
            .copied()
            .ok_or_else(unknown)?;
        for step in (place.first_step..place.end_step).chain([STATE_KEY_STEP]) {
            let key = ModelKey::derive(&secret, version, step);
            let (encapsulated, ciphertext) = key.seal_to(&worker.sealing_key, version, step)?;
            keys.push(v1::SealedKey {
                worker: worker.name.clone(),
                step,
                encapsulated: encapsulated.into(),
                ciphertext: ciphertext.into(),
            });
        }
    }
    Ok(keys)
}

/// Authorises a worker for a version that is published, and tells all placements afterwards. With
/// `replaced` it takes that worker's steps, and that one loses them; else it serves every step.
pub async fn authorize(
    access: &Access,
    bundle: &Bundle,
    signer: &SigningKey,
    worker: &Worker,
    replaced: Option<&str>,
) -> Result<Vec<v1::Placement>, ClientError> {
    let version = bundle.version();
    let place = match replaced {
        Some(old) => {
            let placed = change_workers(access, &version, Vec::new(), Vec::new(), Vec::new());
            let place = placed.await?.into_iter().find(|place| place.worker == old);
            let unplaced =
                || ClientError::Placement(format!("worker {old:?} does not serve this version"));
            v1::Placement {
                worker: worker.name.clone(),
                ..place.ok_or_else(unplaced)?
            }
        }
        None => v1::Placement {
            worker: worker.name.clone(),
            end_step: bundle.manifest().graph.steps().len() as u32,
            ..Default::default()
        },
    };
    let known = BTreeMap::from([(worker.name.as_str(), worker)]);
    let keys = seal_keys(signer, &version, std::slice::from_ref(&place), &known)?;
    let withdrawn = replaced.map(str::to_owned).into_iter().collect();
    change_workers(access, &version, vec![place], keys, withdrawn).await
}

/// Withdraws workers from a version; tells all placements afterwards.
pub async fn withdraw(
    access: &Access,
    version: &VersionId,
    workers: Vec<String>,
) -> Result<Vec<v1::Placement>, ClientError> {
    change_workers(access, version, Vec::new(), Vec::new(), workers).await
}

async fn change_workers(
    access: &Access,
    version: &VersionId,
    placements: Vec<v1::Placement>,
    keys: Vec<v1::SealedKey>,
    withdrawn: Vec<String>,
) -> Result<Vec<v1::Placement>, ClientError> {
    let request = access.token.sign(v1::AuthorizeWorkersRequest {
        version: version.to_string(),
        placements,
        keys,
        withdrawn,
    })?;
    let mut client = PublishingClient::new(channel(access).await?);
    let answer = call(access, client.authorize_workers(request)).await?;
    Ok(answer.placements)
}

fn chunks(
    header: v1::BlobHeader,
    content: Bytes,
) -> impl Iterator<Item = v1::UploadBlobRequest> + Send + 'static {
    use v1::upload_blob_request::Kind;
    let header = std::iter::once(Kind::Header(header));
    let size = MAX_FRAME_BYTES / 2;
    let body = (0..content.len())
        .step_by(size)
        .map(move |start| Kind::Chunk(content.slice(start..content.len().min(start + size))));
    header
        .chain(body)
        .map(|kind| v1::UploadBlobRequest { kind: Some(kind) })
}
