//! Publishing: announcing a version, uploading its encrypted weights, handing it in for review.

use std::time::Duration;

use chemxor_core::{Action, Event, Reach};
use chemxor_proto::v1::publishing_server::Publishing;
use chemxor_proto::{MAX_FRAME_BYTES, v1};
use tonic::{Request, Response, Status, Streaming};

use crate::auth;
use crate::publication::Publication;
use crate::service::{Services, argument, version_id};
use crate::store::WorkerRow;

/// How long the next message of an upload may take.
const NEXT_PART: Duration = Duration::from_secs(30);

#[tonic::async_trait]
impl Publishing for Services {
    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let caller = auth::person(&self.store, &request, Action::ListWorkers).await?;
        // who reaches the whole platform sees every worker
        let all = caller.roles.reach(Action::ListWorkers) == Reach::Platform;
        let own = (!all).then_some(caller.organisation.as_str());
        let workers = self.store.list_workers(own).await?;
        self.store
            .audit_far_read(&caller, "worker.list", "workers")
            .await?;
        let workers = workers.iter().map(WorkerRow::to_proto).collect();
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn begin_version(
        &self,
        request: Request<v1::BeginVersionRequest>,
    ) -> Result<Response<v1::BeginVersionResponse>, Status> {
        let caller = auth::person(&self.store, &request, Action::Publish).await?;
        let publication = Publication::verify(request.into_inner())?;
        let version = publication.version();
        self.store.begin_version(&caller, &publication).await?;
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
        let (caller, shown) = auth::lasting(&self.store, &request, Action::Publish).await?;
        let mut stream = request.into_inner();
        let Some(Kind::Header(header)) = next_part(&mut stream).await?.and_then(|part| part.kind)
        else {
            return Err(argument("the first message of an upload names the blob"));
        };
        let version = version_id(&header.version)?;
        let mut stored = header.offset;
        while let Some(part) = next_part(&mut stream).await? {
            let Some(Kind::Chunk(chunk)) = part.kind else {
                return Err(argument("after the first message only chunks may come"));
            };
            if chunk.len() > MAX_FRAME_BYTES {
                return Err(argument("a chunk has at most 1 MiB"));
            }
            shown.require(&self.store).await?;
            stored = self
                .store
                .append_piece(&caller, &version, &header.sha256, stored, &chunk)
                .await?;
        }
        Ok(Response::new(v1::UploadBlobResponse {
            stored_bytes: stored,
        }))
    }

    async fn record_conformance(
        &self,
        request: Request<v1::RecordConformanceRequest>,
    ) -> Result<Response<v1::RecordConformanceResponse>, Status> {
        let caller = auth::person(&self.store, &request, Action::Publish).await?;
        let request = request.into_inner();
        let version = version_id(&request.version)?;
        let (report, signature) = (&request.report, &request.signature);
        self.store
            .record_conformance(&caller, &version, report, signature)
            .await?;
        Ok(Response::new(v1::RecordConformanceResponse {}))
    }

    async fn authorize_workers(
        &self,
        request: Request<v1::AuthorizeWorkersRequest>,
    ) -> Result<Response<v1::AuthorizeWorkersResponse>, Status> {
        let caller = auth::person(&self.store, &request, Action::Publish).await?;
        let request = request.into_inner();
        let version = version_id(&request.version)?;
        let placements = self
            .store
            .authorize_workers(&caller, &version, &request)
            .await?;
        Ok(Response::new(v1::AuthorizeWorkersResponse { placements }))
    }

    async fn submit_version(
        &self,
        request: Request<v1::SubmitVersionRequest>,
    ) -> Result<Response<v1::ModelVersion>, Status> {
        let caller = auth::person(&self.store, &request, Action::Publish).await?;
        let version = version_id(&request.into_inner().version)?;
        let row = self
            .store
            .transition(&caller, &version, Event::Submit, "", None)
            .await?;
        Ok(Response::new(row.to_proto()))
    }
}

/// The next message of an upload; a publisher that falls silent loses the call, not the bytes.
async fn next_part(
    stream: &mut Streaming<v1::UploadBlobRequest>,
) -> Result<Option<v1::UploadBlobRequest>, Status> {
    tokio::time::timeout(NEXT_PART, stream.message())
        .await
        .map_err(|_| argument("the upload was silent for 30 seconds; resume it"))?
}
