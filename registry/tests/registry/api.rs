//! The registry as its callers see it, twice: the store, and gRPC over mutual TLS.

use chemxor_core::{ErrorId, Event, VersionId};
use chemxor_proto::v1;
use chemxor_registry::RegistryError;
use chemxor_registry::publication::Publication;
use chemxor_runtime::pki::Subject;
use tonic::Status;

use crate::model::conformance;
use crate::platform::{Platform, id, upload_parts};

/// Version and, for each blob that is not complete, digest and offset.
pub(crate) type Begun = (String, Vec<(Vec<u8>, u64)>);

/// Everything that the suite asks. People are named as in `platform`.
pub(crate) type Placed = Result<Vec<v1::Placement>, ErrorId>;

pub(crate) trait Api {
    async fn register(&self, worker: &str, key: &[u8]) -> Result<(), ErrorId>;
    async fn begin(&self, by: &str, request: &v1::BeginVersionRequest) -> Result<Begun, ErrorId>;
    async fn upload(
        &self,
        by: &str,
        version: &str,
        sha256: &[u8],
        offset: u64,
        content: &[u8],
    ) -> Result<u64, ErrorId>;
    /// These give the state afterwards.
    async fn submit(&self, by: &str, version: &str) -> Result<String, ErrorId>;
    async fn approve(&self, by: &str, model: &str) -> Result<String, ErrorId>;
    async fn revoke(&self, by: &str, model: &str) -> Result<String, ErrorId>;
    /// Gives the placements afterwards.
    async fn change_workers(&self, by: &str, change: &v1::AuthorizeWorkersRequest) -> Placed;
    async fn assignments(&self, worker: &str) -> Result<Vec<v1::Assignment>, ErrorId>;
    async fn fetch(&self, worker: &str, version: &str, sha256: &[u8]) -> Result<Vec<u8>, ErrorId>;
    async fn authorize(
        &self,
        token: &str,
        model: &str,
    ) -> Result<v1::AuthorizeSessionResponse, ErrorId>;
    async fn check(&self, version: &str, token_id: &str) -> Result<(), ErrorId>;
}

/// The store, without services.
pub(crate) struct Direct<'a>(pub(crate) &'a Platform);

/// The services.
pub(crate) struct Remote<'a>(pub(crate) &'a Platform);

#[allow(clippy::needless_pass_by_value)] // used as a function of `map_err`
fn refusal(error: RegistryError) -> ErrorId {
    error.id()
}

fn version(text: &str) -> VersionId {
    text.parse().unwrap()
}

impl Api for Direct<'_> {
    async fn register(&self, worker: &str, key: &[u8]) -> Result<(), ErrorId> {
        self.0
            .store()
            .register_worker(&worker.parse().unwrap(), key, "localhost:1")
            .await
            .map_err(refusal)
    }

    async fn begin(&self, by: &str, request: &v1::BeginVersionRequest) -> Result<Begun, ErrorId> {
        let publication = Publication::verify(request.clone()).map_err(refusal)?;
        let (store, version) = (self.0.store(), publication.version());
        store
            .begin_version(&self.0.caller(by), &publication)
            .await
            .map_err(refusal)?;
        let missing = store.missing_blobs(&version).await.map_err(refusal)?;
        let missing = missing.into_iter().map(|blob| (blob.sha256, blob.offset));
        Ok((version.to_string(), missing.collect()))
    }

    async fn upload(
        &self,
        by: &str,
        of: &str,
        sha256: &[u8],
        mut offset: u64,
        content: &[u8],
    ) -> Result<u64, ErrorId> {
        for piece in content.chunks(100_000) {
            let store = self.0.store();
            offset = store
                .append_piece(&self.0.caller(by), &version(of), sha256, offset, piece)
                .await
                .map_err(refusal)?;
        }
        Ok(offset)
    }

    async fn submit(&self, by: &str, of: &str) -> Result<String, ErrorId> {
        let store = self.0.store();
        let row = store
            .transition(&self.0.caller(by), &version(of), Event::Submit, "", None)
            .await;
        if row.is_ok() {
            // as the publisher's command goes on
            let (report, signature) = conformance(of);
            let (caller, of) = (self.0.caller(by), version(of));
            let recorded = store.record_conformance(&caller, &of, &report, &signature);
            recorded.await.unwrap();
        }
        row.map(|row| row.state.to_string()).map_err(refusal)
    }

    async fn approve(&self, by: &str, model: &str) -> Result<String, ErrorId> {
        let store = self.0.store();
        let found = store
            .find_submitted(&self.0.caller(by), &model.parse().unwrap())
            .await;
        let of = found.map_err(refusal)?.version;
        let row = store
            .transition(&self.0.caller(by), &of, Event::Approve, "", None)
            .await;
        row.map(|row| row.state.to_string()).map_err(refusal)
    }

    async fn revoke(&self, by: &str, model: &str) -> Result<String, ErrorId> {
        let store = self.0.store();
        let found = store
            .find_version(&self.0.caller(by), &model.parse().unwrap())
            .await;
        let of = found.map_err(refusal)?.version;
        let row = store
            .transition(&self.0.caller(by), &of, Event::Revoke, "", None)
            .await;
        row.map(|row| row.state.to_string()).map_err(refusal)
    }

    async fn change_workers(&self, by: &str, change: &v1::AuthorizeWorkersRequest) -> Placed {
        let (caller, of) = (self.0.caller(by), version(&change.version));
        let changed = self.0.store().authorize_workers(&caller, &of, change).await;
        changed.map_err(refusal)
    }

    async fn assignments(&self, worker: &str) -> Result<Vec<v1::Assignment>, ErrorId> {
        let store = self.0.store();
        store
            .assignments(&worker.parse().unwrap())
            .await
            .map_err(refusal)
    }

    async fn fetch(&self, worker: &str, of: &str, sha256: &[u8]) -> Result<Vec<u8>, ErrorId> {
        let mut content = Vec::new();
        loop {
            let start = content.len() as u64;
            let store = self.0.store();
            let piece = store.read_piece(worker, &version(of), sha256, start).await;
            match piece.map_err(refusal)? {
                Some(piece) => content.extend(piece),
                None if content.is_empty() => return Err(ErrorId::ModelUnknown),
                None => return Ok(content),
            }
        }
    }

    async fn authorize(
        &self,
        token: &str,
        model: &str,
    ) -> Result<v1::AuthorizeSessionResponse, ErrorId> {
        let store = self.0.store();
        let session = store
            .authorize_session(token, &model.parse().unwrap())
            .await;
        let session = session.map_err(refusal)?;
        Ok(v1::AuthorizeSessionResponse {
            organisation: session.holder.organisation,
            version: session.version.version.to_string(),
            manifest: session.version.manifest.into(),
            placements: session.placements,
            workers: session
                .workers
                .into_iter()
                .map(|worker| v1::Worker {
                    name: worker.name,
                    ..Default::default()
                })
                .collect(),
            token_id: session.holder.id.to_string(),
            subject: session.holder.subject,
        })
    }

    async fn check(&self, of: &str, token_id: &str) -> Result<(), ErrorId> {
        let store = self.0.store();
        store
            .check_session(&version(of), token_id.parse().unwrap())
            .await
            .map(drop)
            .map_err(refusal)
    }
}

#[allow(clippy::needless_pass_by_value)] // used as a function of `map_err`
fn grpc_refusal(status: Status) -> ErrorId {
    id(&status)
}

fn worker(name: &str) -> Subject {
    Subject::Worker(name.parse().unwrap())
}

impl Api for Remote<'_> {
    async fn register(&self, name: &str, key: &[u8]) -> Result<(), ErrorId> {
        let request = v1::RegisterWorkerRequest {
            name: name.to_owned(),
            sealing_key: key.to_vec().into(),
            endpoint: "localhost:1".to_owned(),
        };
        let mut control = self.0.control(&worker(name)).await;
        let answer = control.register_worker(request).await;
        answer.map(drop).map_err(grpc_refusal)
    }

    async fn begin(&self, by: &str, request: &v1::BeginVersionRequest) -> Result<Begun, ErrorId> {
        let request = self.0.by(by, request.clone());
        let answer = self.0.publishing().begin_version(request).await;
        let answer = answer.map_err(grpc_refusal)?.into_inner();
        let missing = answer.missing.into_iter();
        let missing = missing.map(|blob| (blob.sha256.to_vec(), blob.offset));
        Ok((answer.version, missing.collect()))
    }

    async fn upload(
        &self,
        by: &str,
        of: &str,
        sha256: &[u8],
        offset: u64,
        content: &[u8],
    ) -> Result<u64, ErrorId> {
        let parts = tokio_stream::iter(upload_parts(of, sha256, offset, content));
        let answer = self.0.publishing().upload_blob(self.0.by(by, parts)).await;
        answer
            .map(|answer| answer.into_inner().stored_bytes)
            .map_err(grpc_refusal)
    }

    async fn submit(&self, by: &str, version: &str) -> Result<String, ErrorId> {
        let of = version.to_owned();
        let request = self.0.by(by, v1::SubmitVersionRequest { version: of });
        let answer = self.0.publishing().submit_version(request).await;
        if answer.is_ok() {
            let (report, signature) = conformance(version);
            let request = v1::RecordConformanceRequest {
                version: version.to_owned(),
                report: report.into(),
                signature: signature.into(),
            };
            let request = self.0.by(by, request);
            let recorded = self.0.publishing().record_conformance(request).await;
            recorded.unwrap();
        }
        answer
            .map(|answer| answer.into_inner().state)
            .map_err(grpc_refusal)
    }

    async fn approve(&self, by: &str, model: &str) -> Result<String, ErrorId> {
        let (model, note) = (model.to_owned(), "looks right".to_owned());
        let request = self.0.by(by, v1::ApproveVersionRequest { model, note });
        let answer = self.0.admin().approve_version(request).await;
        answer
            .map(|answer| answer.into_inner().state)
            .map_err(grpc_refusal)
    }

    async fn revoke(&self, by: &str, model: &str) -> Result<String, ErrorId> {
        let (model, reason) = (model.to_owned(), "wrong assay".to_owned());
        let request = self.0.by(by, v1::RevokeVersionRequest { model, reason });
        let answer = self.0.admin().revoke_version(request).await;
        answer
            .map(|answer| answer.into_inner().state)
            .map_err(grpc_refusal)
    }

    async fn change_workers(&self, by: &str, change: &v1::AuthorizeWorkersRequest) -> Placed {
        let request = self.0.by(by, change.clone());
        let answer = self.0.publishing().authorize_workers(request).await;
        answer
            .map(|answer| answer.into_inner().placements)
            .map_err(grpc_refusal)
    }

    async fn assignments(&self, name: &str) -> Result<Vec<v1::Assignment>, ErrorId> {
        let mut control = self.0.control(&worker(name)).await;
        let request = v1::ListAssignmentsRequest {
            worker: name.to_owned(),
        };
        let answer = control.list_assignments(request).await;
        answer
            .map(|answer| answer.into_inner().assignments)
            .map_err(grpc_refusal)
    }

    async fn fetch(&self, name: &str, version: &str, sha256: &[u8]) -> Result<Vec<u8>, ErrorId> {
        let mut control = self.0.control(&worker(name)).await;
        let request = v1::FetchBlobRequest {
            version: version.to_owned(),
            sha256: sha256.to_vec().into(),
        };
        let answer = control.fetch_blob(request).await.map_err(grpc_refusal)?;
        let mut stream = answer.into_inner();
        let mut content = Vec::new();
        while let Some(part) = stream.message().await.map_err(grpc_refusal)? {
            content.extend_from_slice(&part.chunk);
        }
        Ok(content)
    }

    async fn authorize(
        &self,
        token: &str,
        model: &str,
    ) -> Result<v1::AuthorizeSessionResponse, ErrorId> {
        let mut control = self.0.control(&Subject::Gateway).await;
        let request = v1::AuthorizeSessionRequest {
            token: token.to_owned(),
            model: model.to_owned(),
            ..Default::default()
        };
        let answer = control.authorize_session(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(grpc_refusal)
    }

    async fn check(&self, version: &str, token_id: &str) -> Result<(), ErrorId> {
        let mut control = self.0.control(&Subject::Gateway).await;
        let request = v1::CheckSessionRequest {
            version: version.to_owned(),
            token_id: token_id.to_owned(),
            ..Default::default()
        };
        let answer = control.check_session(request).await;
        let answer = answer.map_err(grpc_refusal)?.into_inner();
        match answer.allowed {
            true => Ok(()),
            false => Err(answer.error_id.parse().unwrap()),
        }
    }
}
