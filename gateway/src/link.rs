//! One stream from a client session to one worker: opened once with the public keys, then many
//! steps side by side. A reader hands replies to the waiting steps; when the stream breaks, every
//! waiting step hears it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chemxor_core::{ErrorId, Reassembler};
use chemxor_proto::v1::partition_client::PartitionClient;
use chemxor_proto::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_SEALED_STATE_BYTES, MAX_STEP_BYTES, v1};
use chemxor_runtime::status::error_id;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::pool::Worker;

const QUEUE: usize = 16;

/// What a step gave.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) message: Bytes,
    pub(crate) sealed_state: Bytes,
}

/// Why a step gave nothing.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) id: ErrorId,
    pub(crate) message: String,
    /// Whether another replica, or the same later, may succeed.
    pub(crate) retryable: bool,
}

impl Failure {
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self { id: ErrorId::WorkerUnavailable, message: message.into(), retryable: true }
    }

    fn from_status(status: &tonic::Status) -> Self {
        match error_id(status) {
            Some(id) => Self {
                id,
                message: status.message().to_owned(),
                // a worker that does not hold the version yet is not the only one
                retryable: id.is_retryable() || id == ErrorId::ModelUnknown,
            },
            None => Self::unavailable("the worker cannot be reached"),
        }
    }
}

type Waiter = oneshot::Sender<Result<Reply, Failure>>;

#[derive(Default)]
struct Waiting {
    steps: HashMap<(u64, u32), Waiter>,
    broken: Option<Failure>,
}

/// An open stream to a worker.
pub(crate) struct Link {
    requests: mpsc::Sender<v1::WorkerRequest>,
    waiting: Arc<Mutex<Waiting>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn lock(waiting: &Mutex<Waiting>) -> std::sync::MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Opens the stream and sends the public keys.
    pub(crate) async fn open(worker: &Worker, open: v1::OpenEvaluation) -> Result<Self, Failure> {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let first = v1::WorkerRequest { kind: Some(v1::worker_request::Kind::Open(open)) };
        // the channel is new and empty
        let _ = requests.try_send(first);
        let mut client = PartitionClient::new(worker.channel.clone())
            .max_decoding_message_size(2 * MAX_MESSAGE_BYTES)
            .max_encoding_message_size(2 * MAX_MESSAGE_BYTES);
        let stream = client.serve(ReceiverStream::new(receiver)).await;
        let mut stream = stream.map_err(|status| Failure::from_status(&status))?.into_inner();
        let opened = stream.message().await.map_err(|status| Failure::from_status(&status))?;
        if !matches!(opened.and_then(|reply| reply.kind), Some(v1::worker_reply::Kind::Opened(_))) {
            return Err(Failure::unavailable("the worker did not open the stream"));
        }
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let reader = tokio::spawn(read(stream, waiting.clone()));
        Ok(Self { requests, waiting, reader })
    }

    /// Whether the stream has broken; a new link is needed then.
    pub(crate) fn is_broken(&self) -> bool {
        lock(&self.waiting).broken.is_some()
    }

    /// Evaluates one step.
    pub(crate) async fn evaluate(
        &self,
        query: u64,
        step: u32,
        message: &Bytes,
        sealed_state: Bytes,
    ) -> Result<Reply, Failure> {
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if let Some(broken) = &waiting.broken {
                return Err(broken.clone());
            }
            waiting.steps.insert((query, step), sender);
        }
        let _registered = Registered { waiting: self.waiting.clone(), at: (query, step) };
        let mut sealed_state = sealed_state;
        for start in (0..message.len()).step_by(MAX_FRAME_BYTES) {
            let chunk = v1::EvaluationChunk {
                query,
                step,
                total_bytes: message.len() as u32,
                payload: message.slice(start..message.len().min(start + MAX_FRAME_BYTES)),
                sealed_state: std::mem::take(&mut sealed_state),
            };
            let request = v1::WorkerRequest { kind: Some(v1::worker_request::Kind::Step(chunk)) };
            if self.requests.send(request).await.is_err() {
                return Err(Failure::unavailable("the stream to the worker broke"));
            }
        }
        let broke = || Failure::unavailable("the stream to the worker broke");
        receiver.await.map_err(|_| broke())?
    }
}

/// Takes a step out of the map however its future ends.
struct Registered {
    waiting: Arc<Mutex<Waiting>>,
    at: (u64, u32),
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.waiting).steps.remove(&self.at);
    }
}

async fn read(mut stream: Streaming<v1::WorkerReply>, waiting: Arc<Mutex<Waiting>>) {
    let broken = match read_all(&mut stream, &waiting).await {
        Ok(()) => Failure::unavailable("the worker ended the stream"),
        Err(failure) => failure,
    };
    let mut waiting = lock(&waiting);
    for (_, waiter) in waiting.steps.drain() {
        // a step whose future is gone needs no answer
        let _ = waiter.send(Err(broken.clone()));
    }
    waiting.broken = Some(broken);
}

#[derive(Default)]
struct Partial {
    frames: Reassembler,
    sealed_state: Bytes,
}

async fn read_all(
    stream: &mut Streaming<v1::WorkerReply>,
    waiting: &Mutex<Waiting>,
) -> Result<(), Failure> {
    let mut partial: HashMap<(u64, u32), Partial> = HashMap::new();
    loop {
        let next = stream.message().await.map_err(|status| Failure::from_status(&status))?;
        let Some(reply) = next else { return Ok(()) };
        let (at, outcome) = match reply.kind {
            Some(v1::worker_reply::Kind::Step(chunk)) => {
                let at = (chunk.query, chunk.step);
                if !lock(waiting).steps.contains_key(&at) {
                    // nobody waits any more, or a worker that answers what nobody asked
                    partial.remove(&at);
                    continue;
                }
                let slot = partial.entry(at).or_default();
                if chunk.sealed_state.len() > MAX_SEALED_STATE_BYTES {
                    return Err(Failure::unavailable("the worker sent a malformed reply"));
                }
                if !chunk.sealed_state.is_empty() {
                    slot.sealed_state = chunk.sealed_state;
                }
                let total = chunk.total_bytes as usize;
                match slot.frames.push(total, &chunk.payload, MAX_STEP_BYTES) {
                    Ok(None) => continue,
                    Ok(Some(message)) => {
                        let sealed_state =
                            partial.remove(&at).map(|slot| slot.sealed_state).unwrap_or_default();
                        (at, Ok(Reply { message: message.into(), sealed_state }))
                    }
                    Err(_) => return Err(Failure::unavailable("the worker sent a malformed reply")),
                }
            }
            Some(v1::worker_reply::Kind::Failed(failed)) => {
                let id = failed.error_id.parse().unwrap_or(ErrorId::Internal);
                let failure = Failure { id, message: failed.message, retryable: failed.retryable };
                ((failed.query, failed.step), Err(failure))
            }
            _ => continue,
        };
        let waiter = lock(waiting).steps.remove(&at);
        if let Some(waiter) = waiter {
            // a step whose future is gone needs no answer
            let _ = waiter.send(outcome);
        }
    }
}
