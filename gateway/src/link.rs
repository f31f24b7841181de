//! One stream from a client session to one worker: opened once with the public keys, then many
//! steps side by side. A reader hands replies to the waiting steps; when the stream breaks, every
//! waiting step hears it.
//!
//! Invariant: a reply is handed over whole or not at all, and only to the step that asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chemxor_proto::v1::partition_client::PartitionClient;
use chemxor_proto::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_SEALED_STATE_BYTES, v1};
use chemxor_runtime::traces::Parent;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Streaming};
use v1::{worker_reply, worker_request};

use crate::failure::Failure;
use crate::inbox::{At, Inbox};

/// Frames waiting for the worker to read them.
const QUEUE: usize = 16;

/// What a step gave.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) message: Bytes,
    /// Opaque; for the next step only, never for the client.
    pub(crate) sealed_states: Vec<Bytes>,
    /// Microseconds that the worker computed, as it says.
    pub(crate) compute_us: u32,
}

/// Memory that incomplete replies may take; that of each is reserved before its step is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplyBounds {
    /// Incomplete replies of one link.
    pub(crate) partial_messages: usize,
    /// Their bytes.
    pub(crate) partial_bytes: usize,
}

/// Who waits for the reply of a step, and how long it may be.
struct Waiter {
    sender: oneshot::Sender<Result<Reply, Failure>>,
    most: usize,
}

#[derive(Default)]
struct Waiting {
    steps: HashMap<At, Waiter>,
    broken: Option<Failure>,
}

type Shared = Arc<Mutex<Waiting>>;

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open stream to a worker.
pub(crate) struct Link {
    requests: mpsc::Sender<v1::WorkerRequest>,
    waiting: Shared,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Link {
    /// Opens the stream, names the trace it belongs to, and sends the public keys.
    pub(crate) async fn open(
        channel: Channel,
        open: v1::OpenEvaluation,
        bounds: ReplyBounds,
        trace: &Parent,
    ) -> Result<Self, Failure> {
        let broke = |status: tonic::Status| Failure::from_status(&status);
        let (requests, receiver) = mpsc::channel(QUEUE);
        let kind = Some(worker_request::Kind::Open(open));
        // the channel is new and empty
        let _ = requests.try_send(v1::WorkerRequest { kind });
        // a frame, and in the first one of a message the sealed state
        let limit = MAX_MESSAGE_BYTES + MAX_SEALED_STATE_BYTES;
        let mut client = PartitionClient::new(channel)
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit);
        let mut request = Request::new(ReceiverStream::new(receiver));
        trace.inject(request.metadata_mut());
        let replies = client.serve(request).await;
        let mut replies = replies.map_err(broke)?.into_inner();
        let opened = replies.message().await.map_err(broke)?;
        let opened = opened.and_then(|reply| reply.kind);
        if !matches!(opened, Some(worker_reply::Kind::Opened(_))) {
            return Err(Failure::unavailable("the worker did not open the stream"));
        }
        let waiting = Shared::default();
        let reader = Reader {
            inbox: Inbox::new(bounds.partial_messages, bounds.partial_bytes),
            sealed: HashMap::new(),
            compute_us: HashMap::new(),
            waiting: waiting.clone(),
        };
        let reader = tokio::spawn(reader.run(replies));
        Ok(Self {
            requests,
            waiting,
            reader,
        })
    }

    /// Whether the stream has broken; a new link is needed then.
    pub(crate) fn is_broken(&self) -> bool {
        lock(&self.waiting).broken.is_some()
    }

    /// Evaluates one step. Dropping the future gives the reply up.
    pub(crate) async fn evaluate(
        &self,
        (query, step): At,
        message: &Bytes,
        sealed_states: &[Bytes],
        timeout: Duration,
        most: usize,
    ) -> Result<Reply, Failure> {
        let broke = || Failure::unavailable("the stream to the worker broke");
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if let Some(broken) = &waiting.broken {
                return Err(broken.clone());
            }
            waiting.steps.insert((query, step), Waiter { sender, most });
        }
        let mut registered = Registered {
            link: self,
            at: (query, step),
            is_asked: false,
            answered: false,
        };
        let mut sealed_states = sealed_states.to_vec();
        // never before the gateway's own clock: who was too late is for the gateway to say
        let mut timeout_ms = u32::try_from(timeout.as_millis() + 1).unwrap_or(u32::MAX);
        for start in (0..message.len()).step_by(MAX_FRAME_BYTES) {
            let chunk = v1::EvaluationChunk {
                query,
                step,
                total_bytes: message.len() as u32,
                payload: message.slice(start..message.len().min(start + MAX_FRAME_BYTES)),
                sealed_states: std::mem::take(&mut sealed_states),
                timeout_ms: std::mem::take(&mut timeout_ms),
                compute_us: 0,
            };
            let kind = Some(worker_request::Kind::Step(chunk));
            let sent = self.requests.send(v1::WorkerRequest { kind }).await;
            sent.map_err(|_| broke())?;
            registered.is_asked = true;
        }
        let outcome = receiver.await;
        registered.answered = true;
        outcome.map_err(|_| broke())?
    }
}

/// Takes a step out of the map however its future ends, and tells the worker when it was given up.
struct Registered<'a> {
    link: &'a Link,
    at: At,
    /// Whether the worker may have heard of it.
    is_asked: bool,
    answered: bool,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        lock(&self.link.waiting).steps.remove(&self.at);
        if self.is_asked && !self.answered {
            let (query, step) = self.at;
            let cancel = v1::CancelEvaluation { query, step };
            let kind = Some(worker_request::Kind::Cancel(cancel));
            let requests = &self.link.requests;
            let sent = requests.try_send(v1::WorkerRequest { kind });
            let (Err(TrySendError::Full(cancel)), Ok(runtime)) =
                (sent, tokio::runtime::Handle::try_current())
            else {
                return;
            };
            // a worker that is behind must hear of it all the same. Places in the queue are given
            // in turn, so no more of these wait than steps had got in before
            let requests = requests.clone();
            runtime.spawn(async move {
                // an error says that the stream has ended, and with it the evaluation
                let _ = requests.send(cancel).await;
            });
        }
    }
}

struct Reader {
    inbox: Inbox,
    sealed: HashMap<At, Vec<Bytes>>,
    compute_us: HashMap<At, u32>,
    waiting: Shared,
}

impl Reader {
    async fn run(mut self, mut replies: Streaming<v1::WorkerReply>) {
        let broken = loop {
            match replies.message().await {
                Ok(Some(reply)) => {
                    if let Err(failure) = self.take(reply) {
                        break failure;
                    }
                }
                Ok(None) => break Failure::unavailable("the worker ended the stream"),
                Err(status) => break Failure::from_status(&status),
            }
        };
        let mut waiting = lock(&self.waiting);
        for (_, waiter) in waiting.steps.drain() {
            // a step whose future is gone needs no answer
            let _ = waiter.sender.send(Err(broken.clone()));
        }
        waiting.broken = Some(broken);
    }

    fn take(&mut self, reply: v1::WorkerReply) -> Result<(), Failure> {
        match reply.kind {
            Some(worker_reply::Kind::Step(chunk)) => {
                let at = (chunk.query, chunk.step);
                if let Some(reply) = self.assemble(chunk)? {
                    self.hand_over(at, Ok(reply));
                }
            }
            Some(worker_reply::Kind::Failed(failed)) => {
                let at = (failed.query, failed.step);
                self.forget(at);
                self.hand_over(at, Err(Failure::from_worker(&failed)));
            }
            _ => return Err(malformed()),
        }
        Ok(())
    }

    fn assemble(&mut self, chunk: v1::EvaluationChunk) -> Result<Option<Reply>, Failure> {
        let at = (chunk.query, chunk.step);
        let most = lock(&self.waiting).steps.get(&at).map(|waiter| waiter.most);
        let Some(most) = most else {
            // nobody waits any more, or the worker answers what nobody asked
            self.forget(at);
            return Ok(None);
        };
        if chunk.total_bytes as usize > most {
            return Err(malformed());
        }
        if !chunk.sealed_states.is_empty() {
            let bytes: usize = chunk.sealed_states.iter().map(Bytes::len).sum();
            // a worker leaves the state of its own share, as one part
            let one = chunk.sealed_states.len() == 1 && bytes <= MAX_SEALED_STATE_BYTES;
            if self.inbox.has_begun(at) || !one {
                return Err(malformed());
            }
            self.sealed.insert(at, chunk.sealed_states);
        }
        if chunk.compute_us > 0 {
            // as bounded as the messages that it belongs to
            self.compute_us.insert(at, chunk.compute_us);
        }
        let pushed = self.inbox.push(at, chunk.total_bytes, chunk.payload);
        let Some(message) = pushed.map_err(|_| malformed())? else {
            return Ok(None);
        };
        let compute_us = self.compute_us.remove(&at).unwrap_or_default();
        let sealed_states = self.sealed.remove(&at).unwrap_or_default();
        Ok(Some(Reply {
            message,
            sealed_states,
            compute_us,
        }))
    }

    fn forget(&mut self, at: At) {
        self.inbox.forget(at);
        self.sealed.remove(&at);
        self.compute_us.remove(&at);
    }

    fn hand_over(&self, at: At, outcome: Result<Reply, Failure>) {
        let waiter = lock(&self.waiting).steps.remove(&at);
        if let Some(waiter) = waiter {
            // a step whose future is gone needs no answer
            let _ = waiter.sender.send(outcome);
        }
    }
}

fn malformed() -> Failure {
    Failure::unavailable("the worker sent a malformed reply")
}
