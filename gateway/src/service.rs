//! The gRPC face: lets clients in, has their sessions authorised and starts them.

use std::sync::Arc;

use bytes::Bytes;
use chemxor_core::ErrorId;
use chemxor_proto::v1::control_client::ControlClient;
use chemxor_proto::v1::query_server::Query;
use chemxor_proto::{MAX_PUBLIC_KEYS_BYTES, PROTOCOL_VERSION, v1};
use chemxor_runtime::peer::peer_subject;
use chemxor_runtime::pki::Subject;
use chemxor_runtime::status::{bearer_token, status};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::authorise::{Recheck, authorise};
use crate::config::{GatewayConfig, Limits};
use crate::pool::Pool;
use crate::session::Session;

/// Frames waiting for a client to read them.
const QUEUE: usize = 8;

pub(crate) struct QueryService {
    registry: ControlClient<Channel>,
    pool: Pool,
    limits: Limits,
    /// How many sessions are open.
    open: Arc<watch::Sender<usize>>,
    stop: CancellationToken,
}

/// Counts a session as open until dropped.
struct Counted(Arc<watch::Sender<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

impl QueryService {
    pub(crate) fn new(
        config: GatewayConfig,
        registry: ControlClient<Channel>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            registry,
            pool: Pool::new(config.tls),
            limits: config.limits,
            open: Arc::new(watch::Sender::new(0)),
            stop,
        }
    }

    /// How many sessions are open, as it changes.
    pub(crate) fn sessions(&self) -> watch::Receiver<usize> {
        self.open.subscribe()
    }

    fn admit(&self) -> Result<Counted, Status> {
        let admitted = self.open.send_if_modified(|open| {
            let room = *open < self.limits.sessions;
            *open += usize::from(room);
            room
        });
        if admitted {
            return Ok(Counted(self.open.clone()));
        }
        let message = format!("{} sessions are open here", self.limits.sessions);
        Err(status(ErrorId::SessionLimit, message))
    }
}

/// The first frame of a client.
async fn opening(
    frames: &mut Streaming<v1::ClientFrame>,
    limits: &Limits,
) -> Result<(String, Bytes), Status> {
    let malformed = |message: &str| status(ErrorId::FrameMalformed, message);
    let first = tokio::time::timeout(limits.registry_timeout(), frames.message())
        .await
        .map_err(|_| malformed("no frame opened the session in time"))?
        .map_err(|error| match error.code() {
            tonic::Code::OutOfRange => {
                status(ErrorId::FrameTooLarge, "the first frame is too long")
            }
            _ => malformed("the first frame cannot be read"),
        })?;
    let Some(v1::client_frame::Kind::Open(open)) = first.and_then(|frame| frame.kind) else {
        return Err(malformed("the first frame must open the session"));
    };
    if open.protocol_version != PROTOCOL_VERSION {
        let theirs = open.protocol_version;
        let message =
            format!("the client speaks protocol {theirs}, this gateway speaks {PROTOCOL_VERSION}");
        return Err(status(ErrorId::ProtocolVersion, message));
    }
    if open.public_keys.len() > MAX_PUBLIC_KEYS_BYTES {
        let message = "the public keys are longer than 1 MiB";
        return Err(status(ErrorId::FrameTooLarge, message));
    }
    Ok((open.model, open.public_keys))
}

#[tonic::async_trait]
impl Query for QueryService {
    type SessionStream = ReceiverStream<Result<v1::ServerFrame, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::ClientFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let Subject::Client(_) = peer_subject(&request)? else {
            let message = "only a client's certificate may open a session";
            return Err(status(ErrorId::CertificateRefused, message));
        };
        let token = bearer_token(request.metadata())?;
        let counted = self.admit()?;
        let mut frames = request.into_inner();
        let (model, public_keys) = opening(&mut frames, &self.limits).await?;
        let registry = self.registry.clone();
        let grant = authorise(registry.clone(), &self.pool, &self.limits, &token, model).await?;
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|_| status(ErrorId::Internal, "the system gives no randomness"))?;
        let recheck = Recheck::new(registry, &grant, self.limits);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let session = Session::new(id, grant, public_keys, self.limits, sender);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            session.run(frames, recheck, stop).await;
            drop(counted);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
