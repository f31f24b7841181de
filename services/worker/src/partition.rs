//! The gRPC face: lets only the gateway in and starts a session for each stream.

use std::sync::Arc;

use chemxor_core::ErrorId;
use chemxor_proto::v1;
use chemxor_proto::v1::partition_server::Partition;
use chemxor_runtime::peer::peer_certificate;
use chemxor_runtime::pki::Subject;
use chemxor_runtime::status::status;
use chemxor_runtime::traces::Tracer;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::config::WorkerConfig;
use crate::models::Models;
use crate::session;

/// Replies waiting for the gateway to read them, for each stream.
const QUEUE: usize = 32;

/// What all streams share.
pub(crate) struct Worker {
    pub(crate) models: Arc<Models>,
    /// Held while a step is evaluated: as many as it is heavy.
    pub(crate) permits: Arc<Semaphore>,
    most: u32,
    /// Held by the one step that keeps its model in memory while it waits for permits.
    pub(crate) keeper: Semaphore,
    /// Bytes of messages that one stream may take, incomplete ones and those under evaluation.
    pub(crate) stream_bytes: usize,
    pub(crate) tracer: Tracer,
    pub(crate) stop: CancellationToken,
}

impl Worker {
    /// Permits that a step takes here: a heavy step alone takes them all, and no more.
    pub(crate) fn weigh(&self, permits: u32) -> u32 {
        permits.clamp(1, self.most)
    }
}

pub(crate) struct PartitionService(Arc<Worker>);

impl PartitionService {
    pub(crate) fn new(
        models: Arc<Models>,
        config: &WorkerConfig,
        tracer: Tracer,
        stop: CancellationToken,
    ) -> Self {
        let evaluations = config.threads();
        metrics::gauge!("chemxor_worker_permits").set(evaluations as f64);
        // an alert on its growth must see the first one, too
        metrics::counter!("chemxor_worker_panics_total").increment(0);
        Self(Arc::new(Worker {
            models,
            permits: Arc::new(Semaphore::new(evaluations)),
            most: u32::try_from(evaluations).unwrap_or(u32::MAX),
            keeper: Semaphore::new(1),
            stream_bytes: config.stream_memory(),
            tracer,
            stop,
        }))
    }
}

#[tonic::async_trait]
impl Partition for PartitionService {
    type ServeStream = ReceiverStream<Result<v1::WorkerReply, Status>>;

    async fn serve(
        &self,
        request: Request<Streaming<v1::WorkerRequest>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let peer = peer_certificate(&request)?;
        if peer.subject != Subject::Gateway {
            return Err(status(
                ErrorId::CertificateRefused,
                "only a gateway may ask a worker",
            ));
        }
        self.0.models.denied.require_living(&peer.serial)?;
        if self.0.stop.is_cancelled() {
            return Err(status(ErrorId::WorkerUnavailable, "the worker stops"));
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let worker = self.0.clone();
        let trace = worker.tracer.remote(request.metadata());
        let stream = request.into_inner();
        tokio::spawn(async move {
            if let Err(status) = session::run(stream, &sender, worker, &peer.serial, trace).await {
                // the gateway may be gone, then nobody needs the status
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
