//! Control: calls of the platform's own services, known by their certificates.

use chemxor_core::{ErrorId, WorkerName};
use chemxor_proto::v1;
use chemxor_proto::v1::control_server::Control;
use chemxor_runtime::peer::peer_certificate;
use chemxor_runtime::traces::Side;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::RegistryError;
use crate::auth;
use crate::calls::Call;
use crate::service::{Services, argument, model_ref, version_id, watch};
use crate::store::{Registration, WorkerRow};

/// How often workers announce themselves, seconds.
const HEARTBEAT_S: u32 = 2;

/// A worker speaks for itself only.
fn require_own_name(given: &str, certified: &WorkerName) -> Result<(), RegistryError> {
    if given == certified.as_str() {
        return Ok(());
    }
    let message = "the name in the request is not the one in the certificate";
    Err(RegistryError::refused(ErrorId::CertificateRefused, message))
}

#[tonic::async_trait]
impl Control for Services {
    type FetchBlobStream = BoxStream<'static, Result<v1::FetchBlobResponse, Status>>;
    type WatchPlacementsStream = BoxStream<'static, Result<v1::PlacementView, Status>>;

    async fn watch_placements(
        &self,
        request: Request<v1::WatchPlacementsRequest>,
    ) -> Result<Response<Self::WatchPlacementsStream>, Status> {
        auth::gateway(&self.store, &request).await?;
        let rights = request.get_ref().rights;
        Ok(Response::new(
            watch::views(self.store.clone(), rights, self.stop.clone()).await?,
        ))
    }

    async fn register_worker(
        &self,
        request: Request<v1::RegisterWorkerRequest>,
    ) -> Result<Response<v1::RegisterWorkerResponse>, Status> {
        let name = auth::worker(&self.store, &request).await?;
        let serial = peer_certificate(&request)?.serial.clone();
        let request = request.into_inner();
        require_own_name(&request.name, &name)?;
        let registration = Registration {
            sealing_key: &request.sealing_key,
            endpoint: &request.endpoint,
            organisations: &request.organisations,
            certificate_serial: &serial,
        };
        self.store.register_worker(&name, &registration).await?;
        Ok(Response::new(v1::RegisterWorkerResponse {
            heartbeat_s: HEARTBEAT_S,
        }))
    }

    async fn list_assignments(
        &self,
        request: Request<v1::ListAssignmentsRequest>,
    ) -> Result<Response<v1::ListAssignmentsResponse>, Status> {
        let name = auth::worker(&self.store, &request).await?;
        require_own_name(&request.get_ref().worker, &name)?;
        let assignments = self.store.assignments(&name).await?;
        Ok(Response::new(v1::ListAssignmentsResponse {
            assignments,
            denied_gateways: self.store.denied_gateways().await?,
        }))
    }

    async fn fetch_blob(
        &self,
        request: Request<v1::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        let name = auth::worker(&self.store, &request).await?;
        let call = Call::of(&request);
        let request = request.into_inner();
        let version = version_id(&request.version)?;
        let store = self.store.clone();
        let start = (store, name, 0u64);
        let pieces = stream::try_unfold(start, move |(store, name, at)| {
            let sha256 = request.sha256.clone();
            async move {
                let piece = store
                    .read_piece(name.as_str(), &version, &sha256, at)
                    .await?;
                if piece.is_none() && at == 0 {
                    let message = "this worker is not assigned such a blob";
                    return Err(RegistryError::refused(ErrorId::ModelUnknown, message).into());
                }
                Ok::<_, Status>(piece.map(|content| {
                    let next = at + content.len() as u64;
                    (
                        v1::FetchBlobResponse {
                            chunk: content.into(),
                        },
                        (store, name, next),
                    )
                }))
            }
        });
        let pieces = pieces.inspect_err(move |refusal| call.refused(refusal));
        Ok(Response::new(pieces.boxed()))
    }

    async fn authorize_session(
        &self,
        request: Request<v1::AuthorizeSessionRequest>,
    ) -> Result<Response<v1::AuthorizeSessionResponse>, Status> {
        let parent = self.tracer.remote(request.metadata());
        let mut span = parent.child("authorize", Side::Server);
        let outcome = self.authorize(request).await;
        span.settle(&outcome);
        outcome
    }

    async fn check_session(
        &self,
        request: Request<v1::CheckSessionRequest>,
    ) -> Result<Response<v1::CheckSessionResponse>, Status> {
        let parent = self.tracer.remote(request.metadata());
        let mut span = parent.child("check", Side::Server);
        let outcome = self.check(request).await;
        span.settle(&outcome);
        outcome
    }
}

impl Services {
    async fn authorize(
        &self,
        request: Request<v1::AuthorizeSessionRequest>,
    ) -> Result<Response<v1::AuthorizeSessionResponse>, Status> {
        auth::gateway(&self.store, &request).await?;
        Call::of(&request).is_for(&request.get_ref().certificate_subject);
        let request = request.into_inner();
        let token = zeroize::Zeroizing::new(request.token);
        let model = model_ref(&request.model)?;
        let (subject, serial) = (&request.certificate_subject, &request.certificate_serial);
        self.store.require_client(subject, serial).await?;
        let session = self.store.authorize_session(&token, &model).await?;
        Ok(Response::new(v1::AuthorizeSessionResponse {
            version: session.version.version.to_string(),
            manifest: session.version.manifest.into(),
            placements: session.placements,
            workers: session.workers.iter().map(WorkerRow::to_proto).collect(),
            token_id: session.holder.id.to_string(),
            subject: session.holder.subject,
            organisation: session.holder.organisation,
        }))
    }

    async fn check(
        &self,
        request: Request<v1::CheckSessionRequest>,
    ) -> Result<Response<v1::CheckSessionResponse>, Status> {
        auth::gateway(&self.store, &request).await?;
        let request = request.into_inner();
        let version = version_id(&request.version)?;
        let token: Uuid = request
            .token_id
            .parse()
            .map_err(|_| argument("a token id is a UUID"))?;
        let (subject, serial) = (&request.certificate_subject, &request.certificate_serial);
        let checked = async {
            self.store.require_client(subject, serial).await?;
            self.store.check_session(&version, token).await
        };
        match checked.await {
            Ok(quota_revision) => Ok(Response::new(v1::CheckSessionResponse {
                allowed: true,
                quota_revision,
                ..Default::default()
            })),
            Err(RegistryError::Refused(id, reason)) => {
                Ok(Response::new(v1::CheckSessionResponse {
                    error_id: id.to_string(),
                    reason,
                    ..Default::default()
                }))
            }
            Err(error) => Err(error.into()),
        }
    }
}
