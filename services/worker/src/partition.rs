//! The gRPC face: lets only the gateway in and starts a session for each stream.

use std::sync::Arc;

use chemxor_core::ErrorId;
use chemxor_proto::v1;
use chemxor_proto::v1::partition_server::Partition;
use chemxor_runtime::peer::peer_subject;
use chemxor_runtime::pki::Subject;
use chemxor_runtime::status::status;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::models::Models;
use crate::session;

/// Replies waiting for the gateway to read them, for each stream.
const QUEUE: usize = 32;

pub(crate) struct PartitionService {
    models: Arc<Models>,
    /// Held while a step is evaluated.
    permits: Arc<Semaphore>,
}

impl PartitionService {
    pub(crate) fn new(models: Arc<Models>, evaluations: usize) -> Self {
        Self {
            models,
            permits: Arc::new(Semaphore::new(evaluations)),
        }
    }
}

#[tonic::async_trait]
impl Partition for PartitionService {
    type ServeStream = ReceiverStream<Result<v1::WorkerReply, Status>>;

    async fn serve(
        &self,
        request: Request<Streaming<v1::WorkerRequest>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        if peer_subject(&request)? != Subject::Gateway {
            return Err(status(
                ErrorId::CertificateRefused,
                "only a gateway may ask a worker",
            ));
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (models, permits) = (self.models.clone(), self.permits.clone());
        let stream = request.into_inner();
        tokio::spawn(async move {
            if let Err(status) = session::run(stream, &sender, models, permits).await {
                // the gateway may be gone, then nobody needs the status
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
