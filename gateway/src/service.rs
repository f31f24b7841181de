//! The gRPC face: lets clients in, has their sessions authorised and starts them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chemxor_core::ErrorId;
use chemxor_proto::v1::control_client::ControlClient;
use chemxor_proto::v1::metering_client::MeteringClient;
use chemxor_proto::v1::query_server::Query;
use chemxor_proto::{MAX_PUBLIC_KEYS_BYTES, PROTOCOL_VERSION, v1};
use chemxor_runtime::peer::peer_certificate;
use chemxor_runtime::pki::Subject;
use chemxor_runtime::status::{bearer_token, status};
use chemxor_runtime::traces::{Span, Tracer};
use data_encoding::HEXLOWER;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use tower::retry::budget::TpsBudget;

use crate::authorise::{Recheck, authorise};
use crate::config::Limits;
use crate::counts::Counts;
use crate::memory::Memory;
use crate::meter::Meter;
use crate::routes::Routes;
use crate::session::Session;

/// Frames waiting for a client to read them.
const QUEUE: usize = 8;
/// Steps of this long are what retries are counted against.
const RETRY_WINDOW: Duration = Duration::from_secs(10);
/// Retries a second that are always allowed.
const RETRIES_PER_SECOND: u32 = 10;
/// Metadata key of the id under which a session stands in the logs.
const REQUEST_ID: &str = "x-request-id";

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) budget: Arc<TpsBudget>,
    pub(crate) memory: Memory,
}

pub(crate) struct QueryService {
    registry: ControlClient<Channel>,
    metering: MeteringClient<Channel>,
    routes: Arc<Routes>,
    shared: Shared,
    /// How many sessions are open.
    open: Arc<watch::Sender<usize>>,
    /// Open sessions of each organisation.
    organisations: Counts,
    /// Sessions that each certificate is opening.
    openings: Counts,
    tracer: Tracer,
    stop: CancellationToken,
}

/// Counts a session as open until dropped.
struct Counted(Arc<watch::Sender<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
        metrics::gauge!("chemxor_gateway_sessions").decrement(1.0);
    }
}

impl QueryService {
    pub(crate) fn new(
        limits: Limits,
        routes: Arc<Routes>,
        (registry, metering): (ControlClient<Channel>, MeteringClient<Channel>),
        tracer: Tracer,
        stop: CancellationToken,
    ) -> Self {
        let share = limits.retry_percent as f32 / 100.0;
        let budget = TpsBudget::new(RETRY_WINDOW, RETRIES_PER_SECOND, share);
        let budget = Arc::new(budget);
        Self {
            registry,
            metering,
            routes,
            shared: Shared {
                limits,
                budget,
                memory: Memory::new(limits.memory_mib),
            },
            organisations: Counts::default(),
            openings: Counts::default(),
            open: Arc::new(watch::Sender::new(0)),
            tracer,
            stop,
        }
    }

    /// How many sessions are open, as it changes.
    pub(crate) fn sessions(&self) -> watch::Receiver<usize> {
        self.open.subscribe()
    }

    fn admit(&self) -> Result<Counted, Status> {
        if self.stop.is_cancelled() {
            let message = "the gateway stops; open the session elsewhere";
            return Err(status(ErrorId::WorkerUnavailable, message));
        }
        let limit = self.shared.limits.sessions;
        let admitted = self.open.send_if_modified(|open| {
            let room = *open < limit;
            *open += usize::from(room);
            room
        });
        if admitted {
            metrics::gauge!("chemxor_gateway_sessions").increment(1.0);
            return Ok(Counted(self.open.clone()));
        }
        let message = format!("{limit} sessions are open here");
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
        // a slow network, not another protocol
        .map_err(|_| {
            let message = "no frame opened the session in time; open it again";
            status(ErrorId::SessionLimit, message)
        })?
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
        let older = if theirs < PROTOCOL_VERSION {
            "the client"
        } else {
            "this gateway"
        };
        let message = format!(
            "the client speaks protocol {theirs}, this gateway speaks {PROTOCOL_VERSION}: upgrade {older}"
        );
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
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|_| status(ErrorId::Internal, "the system gives no randomness"))?;
        let request_id = HEXLOWER.encode(&id);
        // ends with the session, or here when it is refused
        let mut trace = self.tracer.session(request.metadata());
        trace.text("chemxor.session.id", &request_id);
        let opened = self.open(id, request, &mut trace).await;
        trace.settle(&opened);
        let outcome = if opened.is_ok() { "opened" } else { "refused" };
        metrics::counter!("chemxor_gateway_sessions_total", "outcome" => outcome).increment(1);
        // the id that stands in the logs of gateway and workers goes to the client either way
        let header = MetadataValue::try_from(request_id.as_str()).ok();
        match (opened, header) {
            (Ok(receiver), header) => {
                let mut response = Response::new(ReceiverStream::new(receiver));
                if let Some(header) = header {
                    response.metadata_mut().insert(REQUEST_ID, header);
                }
                Ok(response)
            }
            (Err(mut refusal), header) => {
                let reason = refusal.message();
                tracing::info!(id = request_id, reason, "session refused");
                if let Some(header) = header {
                    refusal.metadata_mut().insert(REQUEST_ID, header);
                }
                Err(refusal)
            }
        }
    }
}

impl QueryService {
    async fn open(
        &self,
        id: [u8; 16],
        request: Request<Streaming<v1::ClientFrame>>,
        trace: &mut Span,
    ) -> Result<mpsc::Receiver<Result<v1::ServerFrame, Status>>, Status> {
        let peer = peer_certificate(&request)?;
        if !matches!(peer.subject, Subject::Client(_)) {
            let message = "only a client's certificate may open a session";
            return Err(status(ErrorId::CertificateRefused, message));
        }
        let token = bearer_token(request.metadata())?;
        let limits = self.shared.limits;
        let subject = peer.subject.to_string();
        let most = limits.openings_per_certificate;
        let opens = self.openings.admit(&subject, most).map_err(|count| {
            let message = format!("{count} sessions of {subject} are opening; {most} may be");
            status(ErrorId::SessionLimit, message)
        })?;
        let mut frames = request.into_inner();
        let (model, public_keys) = opening(&mut frames, &limits).await?;
        // who says nothing takes no session from others
        let counted = self.admit()?;
        let registry = self.registry.clone();
        let parent = trace.parent();
        let asked = authorise(
            registry.clone(),
            &self.routes,
            &limits,
            &token,
            &peer,
            model,
            &parent,
        );
        let grant = asked.await?;
        trace.text("chemxor.model.name", &grant.model);
        trace.text("chemxor.model.version", &grant.version.to_string());
        let most = limits.sessions_per_organisation;
        let member = self.organisations.admit(&grant.organisation, most);
        let member = member.map_err(|count| {
            let name = &grant.organisation;
            let message = format!("{count} sessions of {name} are open here; {most} may be");
            status(ErrorId::SessionLimit, message)
        })?;
        let recheck = Recheck::new(registry, &grant, limits, trace.parent());
        let (sender, receiver) = mpsc::channel(QUEUE);
        let meter = Meter::open(self.metering.clone(), id, &grant, &limits).await?;
        drop(opens);
        let trace = std::mem::take(trace);
        let (shared, parent) = (&self.shared, trace.parent());
        let session = Session::new(id, grant, meter, public_keys, shared, sender, parent);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            session.run(frames, recheck, stop, trace).await;
            drop((member, counted));
        });
        Ok(receiver)
    }
}
