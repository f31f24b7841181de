//! The gRPC face: authorises a session with the registry and starts it.

use std::sync::Arc;

use chemxor_core::{ErrorId, Manifest, VersionId};
use chemxor_proto::v1::control_client::ControlClient;
use chemxor_proto::v1::query_server::Query;
use chemxor_proto::{MAX_PUBLIC_KEYS_BYTES, PROTOCOL_VERSION, v1};
use chemxor_runtime::peer::peer_subject;
use chemxor_runtime::status::{bearer_token, error_id, status};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::config::{GatewayConfig, Limits};
use crate::pool::Pool;
use crate::session::{Grant, Session};

/// Frames waiting for a client to read them.
const QUEUE: usize = 32;

pub(crate) struct QueryService {
    registry: ControlClient<Channel>,
    pool: Arc<Pool>,
    limits: Limits,
    stop: CancellationToken,
}

impl QueryService {
    pub(crate) fn new(
        config: GatewayConfig,
        registry: ControlClient<Channel>,
        stop: CancellationToken,
    ) -> Self {
        let pool = Arc::new(Pool::new(config.tls));
        Self { registry, pool, limits: config.limits, stop }
    }

    async fn grant(&self, token: &str, open: v1::OpenSession) -> Result<Grant, Status> {
        if open.protocol_version != PROTOCOL_VERSION {
            let message = format!(
                "the client speaks protocol {}, this gateway speaks {PROTOCOL_VERSION}",
                open.protocol_version
            );
            return Err(status(ErrorId::ProtocolVersion, message));
        }
        if open.public_keys.len() > MAX_PUBLIC_KEYS_BYTES {
            return Err(status(ErrorId::FrameTooLarge, "the public keys are too long"));
        }
        let request =
            v1::AuthorizeSessionRequest { token: token.to_owned(), model: open.model.clone() };
        let mut registry = self.registry.clone();
        let call = registry.authorize_session(request);
        let grant = tokio::time::timeout(self.limits.registry_timeout(), call)
            .await
            .map_err(|_| unavailable())?
            .map_err(|refusal| forward(&refusal))?
            .into_inner();
        let (manifest, version) = Manifest::from_bytes(&grant.manifest)
            .map_err(|_| status(ErrorId::Internal, "the registry gave a malformed manifest"))?;
        let mut steps = Vec::new();
        for step in 0..manifest.graph.steps().len() as u32 {
            let serves = |p: &&v1::Placement| (p.first_step..p.end_step).contains(&step);
            let mut candidates = Vec::new();
            for placement in grant.placements.iter().filter(serves) {
                let worker = grant.workers.iter().find(|w| w.name == placement.worker);
                if let Some(worker) = worker.and_then(|worker| self.pool.get(worker).ok()) {
                    candidates.push(worker);
                }
            }
            steps.push(candidates);
        }
        Ok(Grant {
            version: check_version(&grant.version, version)?,
            token_id: grant.token_id,
            subject: grant.subject,
            public_keys: open.public_keys,
            steps,
        })
    }
}

fn check_version(named: &str, computed: VersionId) -> Result<VersionId, Status> {
    if named == computed.to_string() {
        return Ok(computed);
    }
    Err(status(ErrorId::Internal, "the registry gave a manifest with another digest"))
}

pub(crate) fn unavailable() -> Status {
    status(ErrorId::StorageUnavailable, "the registry does not answer")
}

/// A refusal of the registry keeps its id; anything else is the registry being away.
pub(crate) fn forward(refusal: &Status) -> Status {
    match error_id(refusal) {
        Some(id) => status(id, refusal.message()),
        None => unavailable(),
    }
}

#[tonic::async_trait]
impl Query for QueryService {
    type SessionStream = ReceiverStream<Result<v1::ServerFrame, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::ClientFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        peer_subject(&request)?;
        let token = bearer_token(request.metadata())?;
        let mut frames = request.into_inner();
        let first = tokio::time::timeout(self.limits.registry_timeout(), frames.message());
        let first = first
            .await
            .map_err(|_| status(ErrorId::FrameMalformed, "no frame opened the session in time"))??;
        let Some(v1::client_frame::Kind::Open(open)) = first.and_then(|frame| frame.kind) else {
            return Err(status(ErrorId::FrameMalformed, "the first frame must open the session"));
        };
        let grant = self.grant(&token, open).await?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| status(ErrorId::Internal, "no randomness"))?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let session = Session::new(id, grant, self.limits, self.registry.clone(), sender);
        let stop = self.stop.clone();
        tokio::spawn(async move { session.run(frames, stop).await });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
