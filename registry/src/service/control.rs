//! Control: calls of the platform's own services, known by their certificates.

use chemxor_core::{Action, ErrorId, State};
use chemxor_proto::v1;
use chemxor_proto::v1::control_server::Control;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::RegistryError;
use crate::auth;
use crate::service::{Services, argument, model_ref, version_id};
use crate::store::{VersionRow, WorkerRow};

/// How often workers announce themselves, seconds.
const HEARTBEAT_S: u32 = 2;

/// Why a version may not be served, if so.
fn refusal(row: &VersionRow) -> Option<(ErrorId, String)> {
    match row.state {
        State::Approved | State::Deprecated => None,
        State::Revoked => Some((
            ErrorId::VersionRevoked,
            format!("{}@{} was revoked", row.name, row.version),
        )),
        state => Some((
            ErrorId::NotApproved,
            format!("{}@{} is {state}", row.name, row.version),
        )),
    }
}

#[tonic::async_trait]
impl Control for Services {
    type FetchBlobStream = BoxStream<'static, Result<v1::FetchBlobResponse, Status>>;

    async fn register_worker(
        &self,
        request: Request<v1::RegisterWorkerRequest>,
    ) -> Result<Response<v1::RegisterWorkerResponse>, Status> {
        let name = auth::worker(&request)?;
        let request = request.into_inner();
        if request.name != name.as_str() {
            let message = "the name in the request is not the one in the certificate";
            return Err(RegistryError::refused(ErrorId::CertificateRefused, message).into());
        }
        self.store
            .register_worker(&name, &request.sealing_key, &request.endpoint)
            .await?;
        Ok(Response::new(v1::RegisterWorkerResponse {
            heartbeat_s: HEARTBEAT_S,
        }))
    }

    async fn list_assignments(
        &self,
        request: Request<v1::ListAssignmentsRequest>,
    ) -> Result<Response<v1::ListAssignmentsResponse>, Status> {
        // the certificate decides, not the request
        let name = auth::worker(&request)?;
        let assignments = self.store.assignments(&name).await?;
        Ok(Response::new(v1::ListAssignmentsResponse { assignments }))
    }

    async fn fetch_blob(
        &self,
        request: Request<v1::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        let name = auth::worker(&request)?;
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
        Ok(Response::new(pieces.boxed()))
    }

    async fn authorize_session(
        &self,
        request: Request<v1::AuthorizeSessionRequest>,
    ) -> Result<Response<v1::AuthorizeSessionResponse>, Status> {
        auth::gateway(&request)?;
        let request = request.into_inner();
        let token = zeroize::Zeroizing::new(request.token);
        let holder = self.store.find_token(&token).await?;
        if !holder.roles.allows(Action::Query) {
            let message = format!("the token of {} may not query", holder.subject);
            return Err(RegistryError::refused(ErrorId::RoleMissing, message).into());
        }
        let row = self.store.find_version(&model_ref(&request.model)?).await?;
        if let Some((id, message)) = refusal(&row) {
            return Err(RegistryError::refused(id, message).into());
        }
        let workers = self.store.workers_of(&row.version).await?;
        Ok(Response::new(v1::AuthorizeSessionResponse {
            version: row.version.to_string(),
            manifest: row.manifest.clone().into(),
            placements: self.store.placements(&row.version).await?,
            workers: workers.iter().map(WorkerRow::to_proto).collect(),
            token_id: holder.id.to_string(),
            subject: holder.subject,
        }))
    }

    async fn check_session(
        &self,
        request: Request<v1::CheckSessionRequest>,
    ) -> Result<Response<v1::CheckSessionResponse>, Status> {
        auth::gateway(&request)?;
        let request = request.into_inner();
        let version = version_id(&request.version)?;
        let token: Uuid = request
            .token_id
            .parse()
            .map_err(|_| argument("a token id is a UUID"))?;
        let answer = |refused: Option<(ErrorId, String)>| {
            let allowed = refused.is_none();
            let (error_id, reason) = refused
                .map(|(id, reason)| (id.to_string(), reason))
                .unwrap_or_default();
            Ok(Response::new(v1::CheckSessionResponse {
                allowed,
                error_id,
                reason,
            }))
        };
        if !self.store.token_is_live(token).await? {
            let reason = "the token has expired or was revoked".to_owned();
            return answer(Some((ErrorId::TokenRefused, reason)));
        }
        let row = self.store.version_by_digest(&version).await?;
        answer(refusal(&row))
    }
}
