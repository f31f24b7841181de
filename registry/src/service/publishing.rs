//! Publishing: what a publisher announces is checked here before the store sees it.

use std::collections::BTreeSet;

use chemxor_core::{Action, ErrorId, Event, Manifest, verify_manifest};
use chemxor_proto::v1::publishing_server::Publishing;
use chemxor_proto::{MAX_BLOB_BYTES, MAX_FRAME_BYTES, MAX_MANIFEST_BYTES, STATE_KEY_STEP, v1};
use tonic::{Request, Response, Status, Streaming};

use crate::RegistryError;
use crate::auth;
use crate::service::{Services, argument, version_id};
use crate::store::{Draft, WorkerRow};

#[tonic::async_trait]
impl Publishing for Services {
    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        auth::person(&self.store, &request, Action::ListWorkers).await?;
        let workers = self.store.list_workers().await?;
        let workers = workers.iter().map(WorkerRow::to_proto).collect();
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn begin_version(
        &self,
        request: Request<v1::BeginVersionRequest>,
    ) -> Result<Response<v1::BeginVersionResponse>, Status> {
        let caller = auth::person(&self.store, &request, Action::Publish).await?;
        let request = request.into_inner();
        if request.manifest.len() > MAX_MANIFEST_BYTES {
            return Err(argument("the manifest is longer than 1 MiB"));
        }
        let (manifest, version) = Manifest::from_bytes(&request.manifest).map_err(|error| {
            Status::from(RegistryError::refused(
                ErrorId::ManifestRefused,
                error.to_string(),
            ))
        })?;
        verify_manifest(
            &request.publisher_key,
            &request.manifest,
            &request.signature,
        )
        .map_err(|error| RegistryError::refused(ErrorId::SignatureRefused, error.to_string()))?;
        check_parts(&manifest, &request)?;
        let known: BTreeSet<String> = self
            .store
            .list_workers()
            .await?
            .into_iter()
            .map(|worker| worker.name)
            .collect();
        for placement in &request.placements {
            if !known.contains(&placement.worker) {
                let message = format!("worker {:?} is not registered", placement.worker);
                return Err(RegistryError::refused(ErrorId::WorkerUnknown, message).into());
            }
        }
        let draft = Draft {
            manifest: &manifest,
            version,
            request: &request,
            publisher: &caller.actor,
        };
        self.store.begin_version(&draft).await?;
        let missing = self.store.missing_blobs(&version).await?;
        let missing = missing
            .into_iter()
            .map(|blob| v1::MissingBlob {
                sha256: blob.sha256.into(),
                offset: blob.offset,
            })
            .collect();
        Ok(Response::new(v1::BeginVersionResponse {
            version: version.to_string(),
            missing,
        }))
    }

    async fn upload_blob(
        &self,
        request: Request<Streaming<v1::UploadBlobRequest>>,
    ) -> Result<Response<v1::UploadBlobResponse>, Status> {
        use v1::upload_blob_request::Kind;
        let caller = auth::person(&self.store, &request, Action::Publish).await?;
        let mut stream = request.into_inner();
        let Some(Kind::Header(header)) = stream.message().await?.and_then(|part| part.kind) else {
            return Err(argument("the first message of an upload names the blob"));
        };
        let version = version_id(&header.version)?;
        let mut stored = header.offset;
        while let Some(part) = stream.message().await? {
            let Some(Kind::Chunk(chunk)) = part.kind else {
                return Err(argument("after the first message only chunks may come"));
            };
            if chunk.len() > MAX_FRAME_BYTES {
                return Err(argument("a chunk has at most 1 MiB"));
            }
            stored = self
                .store
                .append_piece(&caller.actor, &version, &header.sha256, stored, &chunk)
                .await?;
        }
        Ok(Response::new(v1::UploadBlobResponse {
            stored_bytes: stored,
        }))
    }

    async fn submit_version(
        &self,
        request: Request<v1::SubmitVersionRequest>,
    ) -> Result<Response<v1::ModelVersion>, Status> {
        let caller = auth::person(&self.store, &request, Action::Publish).await?;
        let version = version_id(&request.into_inner().version)?;
        let row = self
            .store
            .transition(&caller.actor, &version, Event::Submit, "")
            .await?;
        Ok(Response::new(row.to_proto()))
    }
}

/// Blobs, keys and placements must be exactly what the manifest's steps need.
fn check_parts(manifest: &Manifest, request: &v1::BeginVersionRequest) -> Result<(), Status> {
    let steps = manifest.graph.steps().len() as u32;
    let announced: Vec<u32> = request.blobs.iter().map(|blob| blob.step).collect();
    if announced != (0..steps).collect::<Vec<_>>() {
        return Err(argument("announce one blob for each step, in order"));
    }
    for blob in &request.blobs {
        if blob.sha256.len() != 32 || blob.length == 0 || blob.length > MAX_BLOB_BYTES {
            return Err(argument(format!(
                "the blob of step {} has a bad digest or length",
                blob.step
            )));
        }
    }
    let mut wanted = BTreeSet::new();
    let mut served = vec![false; steps as usize];
    for placement in &request.placements {
        let (first, end) = (placement.first_step, placement.end_step);
        if first >= end || end > steps {
            return Err(argument(format!(
                "worker {:?} is placed on no step",
                placement.worker
            )));
        }
        for step in first..end {
            served[step as usize] = true;
            wanted.insert((placement.worker.as_str(), step));
        }
        wanted.insert((placement.worker.as_str(), STATE_KEY_STEP));
    }
    if let Some(step) = served.iter().position(|served| !served) {
        return Err(argument(format!("no worker is placed on step {step}")));
    }
    let given: BTreeSet<(&str, u32)> = request
        .keys
        .iter()
        .map(|key| (key.worker.as_str(), key.step))
        .collect();
    if given != wanted || request.keys.len() != wanted.len() {
        return Err(argument(
            "seal one key to each worker for each of its steps, and the state key",
        ));
    }
    let sizes = |key: &v1::SealedKey| key.encapsulated.len() == 32 && key.ciphertext.len() == 48;
    if !request.keys.iter().all(sizes) {
        return Err(argument(
            "a sealed key has 32 bytes encapsulated and 48 bytes of ciphertext",
        ));
    }
    Ok(())
}
