//! One stream to the gateway, many queries in flight.
//!
//! A reader task hands each frame to the query it belongs to; queries are independent futures.
//! When the stream ends, every waiting query ends with the reason. Nothing decrypted decides
//! whether or when something is sent (docs/protocol.md, trap 8).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chemxor_core::{ErrorId, Manifest, Reassembler, VersionId};
use chemxor_fhe::client::{ClientKey, Progress, Query};
use chemxor_proto::v1::query_client::QueryClient;
use chemxor_proto::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_STEP_BYTES, PROTOCOL_VERSION, v1};
use chemxor_runtime::tls;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::error::{REQUEST_ID, told, traceable};
use crate::{Access, ClientError};

/// How long opening a session may take.
const OPEN_DEADLINE: Duration = Duration::from_secs(20);
/// How long one step may take before the query gives up.
const STEP_DEADLINE: Duration = Duration::from_secs(60);
/// Frames waiting to be sent.
const QUEUE: usize = 64;

/// A prediction and what it cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// In the endpoint's unit, one for each output.
    pub values: Vec<f64>,
    /// The released integers.
    pub codes: Vec<u32>,
    /// Bytes of step messages sent.
    pub bytes_up: u64,
    /// Bytes of step messages received.
    pub bytes_down: u64,
    /// Rounds.
    pub rounds: u32,
    /// From encryption to decryption.
    pub elapsed: Duration,
}

/// What a waiting query hears.
enum Event {
    Step {
        step: u32,
        total: usize,
        payload: Bytes,
    },
    Failed(v1::QueryFailed),
}

#[derive(Default)]
struct Waiting {
    queries: HashMap<u64, mpsc::Sender<Event>>,
    /// Set once, when the stream has ended.
    ended: Option<Ended>,
}

#[derive(Clone)]
struct Ended {
    id: Option<ErrorId>,
    message: String,
    retryable: bool,
}

/// An open session.
pub struct Session {
    endpoint: String,
    manifest: Arc<Manifest>,
    version: VersionId,
    key: Arc<ClientKey>,
    outgoing: mpsc::Sender<v1::ClientFrame>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU64,
    public_key_bytes: usize,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Session {
    /// Opens a session for `model`. The manifest must be that of the version (it comes from the
    /// registry, [`crate::catalog`]); the gateway must serve exactly that version.
    pub async fn open(
        access: &Access,
        version: VersionId,
        manifest: Arc<Manifest>,
        key: Arc<ClientKey>,
    ) -> Result<Self, ClientError> {
        let endpoint = access.endpoint.clone();
        let public_keys = key.public_keys(&manifest.graph.rings())?;
        let public_key_bytes = public_keys.len();
        let (outgoing, frames) = mpsc::channel(QUEUE);
        let open = v1::OpenSession {
            protocol_version: PROTOCOL_VERSION,
            model: format!("{}@{version}", manifest.name),
            public_keys: public_keys.into(),
        };
        let first = v1::ClientFrame {
            kind: Some(v1::client_frame::Kind::Open(open)),
        };
        // the channel is new and empty
        let _ = outgoing.try_send(first);
        let opening = async {
            let channel = tls::connect(&access.endpoint, &access.tls).await?;
            let mut client = QueryClient::new(channel)
                .max_decoding_message_size(2 * MAX_MESSAGE_BYTES)
                .max_encoding_message_size(2 * MAX_MESSAGE_BYTES);
            let request = access.token.sign(ReceiverStream::new(frames))?;
            let refused = |status: tonic::Status| ClientError::from_status(&endpoint, &status);
            let answer = client.session(request).await.map_err(refused)?;
            let name = answer.metadata().get(REQUEST_ID);
            let name = name.and_then(|name| Some(name.to_str().ok()?.to_owned()));
            let mut stream = answer.into_inner();
            let opened = stream.message().await.map_err(refused)?;
            Ok::<_, ClientError>((stream, name, opened.and_then(|frame| frame.kind)))
        };
        let (stream, name, opened) = tokio::time::timeout(OPEN_DEADLINE, opening)
            .await
            .map_err(|_| ClientError::Deadline("the gateway"))??;
        let opened = match opened {
            Some(v1::server_frame::Kind::Opened(opened)) => opened,
            // it stops, or somebody between closes what is new
            None => {
                return Err(ClientError::Connection {
                    endpoint,
                    reason: "the gateway ended the session before it opened it".to_owned(),
                });
            }
            Some(_) => return Err(protocol_error("the gateway did not open the session")),
        };
        if opened.version != version.to_string() {
            return Err(protocol_error(
                "the gateway serves another version than asked for",
            ));
        }
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let reader = tokio::spawn(read(stream, name, waiting.clone()));
        Ok(Self {
            endpoint: access.endpoint.clone(),
            manifest,
            version,
            key,
            outgoing,
            waiting,
            next: AtomicU64::new(1),
            public_key_bytes,
            reader,
        })
    }

    /// The version that answers.
    pub fn version(&self) -> &VersionId {
        &self.version
    }

    /// Bytes of the public keys that opened the session.
    pub fn public_key_bytes(&self) -> usize {
        self.public_key_bytes
    }

    /// Whether the stream has ended; a new session is needed then.
    pub fn has_ended(&self) -> bool {
        self.waiting().ended.is_some()
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evaluates the model on features, encrypted.
    pub async fn predict(&self, features: Vec<u16>) -> Result<Prediction, ClientError> {
        self.predict_observed(features, |_| ()).await
    }

    /// The same; `round` hears the number of rounds done.
    pub async fn predict_observed(
        &self,
        features: Vec<u16>,
        mut round: impl FnMut(u32),
    ) -> Result<Prediction, ClientError> {
        let started = Instant::now();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut events = self.register(number)?;
        let mut registered = Registered {
            waiting: self.waiting.clone(),
            outgoing: self.outgoing.clone(),
            number,
            done: false,
        };
        let (key, graph) = (self.key.clone(), self.manifest.clone());
        let (mut query, mut message) =
            compute(move || Query::start(&key, &graph.graph, &features)).await??;
        let (mut up, mut down, mut step) = (0, 0, 0u32);
        loop {
            up += message.len() as u64;
            self.send(number, step, message).await?;
            let reply = tokio::time::timeout(STEP_DEADLINE, self.reply(&mut events, step))
                .await
                .map_err(|_| ClientError::Deadline("the gateway"))??;
            down += reply.len() as u64;
            let (state, progress) = compute(move || {
                let progress = query.receive(&reply);
                (query, progress)
            })
            .await?;
            query = state;
            round(step + 1);
            match progress? {
                Progress::Next(next) => message = next,
                Progress::Done(codes) => {
                    registered.done = true;
                    let bits = self.manifest.graph.last().output_bits;
                    let scale = |(code, scaling): (&u32, &chemxor_core::OutputScaling)| {
                        scaling.apply(*code, bits)
                    };
                    return Ok(Prediction {
                        values: codes
                            .iter()
                            .zip(&self.manifest.outputs)
                            .map(scale)
                            .collect(),
                        codes,
                        bytes_up: up,
                        bytes_down: down,
                        rounds: step + 1,
                        elapsed: started.elapsed(),
                    });
                }
            }
            step += 1;
        }
    }

    fn register(&self, number: u64) -> Result<mpsc::Receiver<Event>, ClientError> {
        let mut waiting = self.waiting();
        if let Some(ended) = &waiting.ended {
            return Err(self.ended_error(ended));
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        waiting.queries.insert(number, sender);
        Ok(receiver)
    }

    fn ended_error(&self, ended: &Ended) -> ClientError {
        let message = ended.message.clone();
        match ended.id {
            Some(id) => ClientError::Service {
                id,
                message,
                retryable: ended.retryable,
            },
            None => ClientError::Connection {
                endpoint: self.endpoint.clone(),
                reason: message,
            },
        }
    }

    async fn send(&self, query: u64, step: u32, message: Vec<u8>) -> Result<(), ClientError> {
        let message = Bytes::from(message);
        for start in (0..message.len()).step_by(MAX_FRAME_BYTES) {
            let payload = message.slice(start..message.len().min(start + MAX_FRAME_BYTES));
            let total_bytes = message.len() as u32;
            let chunk = v1::StepChunk {
                query,
                step,
                total_bytes,
                payload,
                timeout_ms: STEP_DEADLINE.as_millis() as u32,
            };
            let frame = v1::ClientFrame {
                kind: Some(v1::client_frame::Kind::Step(chunk)),
            };
            if self.outgoing.send(frame).await.is_err() {
                return Err(self.end_reason());
            }
        }
        Ok(())
    }

    fn end_reason(&self) -> ClientError {
        match &self.waiting().ended {
            Some(ended) => self.ended_error(ended),
            None => ClientError::Connection {
                endpoint: self.endpoint.clone(),
                reason: "the stream has closed".to_owned(),
            },
        }
    }

    async fn reply(
        &self,
        events: &mut mpsc::Receiver<Event>,
        awaited: u32,
    ) -> Result<Vec<u8>, ClientError> {
        let mut frames = Reassembler::default();
        loop {
            match events.recv().await {
                None => return Err(self.end_reason()),
                Some(Event::Failed(failed)) => {
                    let id = failed.error_id.parse().unwrap_or(ErrorId::Internal);
                    return Err(ClientError::Service {
                        id,
                        message: failed.message,
                        retryable: failed.retryable,
                    });
                }
                Some(Event::Step { step, .. }) if step != awaited => {
                    return Err(protocol_error("the gateway answered another step"));
                }
                Some(Event::Step { total, payload, .. }) => {
                    let done = frames
                        .push(total, &payload, MAX_STEP_BYTES)
                        .map_err(|error| protocol_error(&error.to_string()))?;
                    if let Some(reply) = done {
                        return Ok(reply);
                    }
                }
            }
        }
    }
}

/// Takes a query out of the map when its future ends or is dropped; one that was given up is
/// cancelled at the gateway.
struct Registered {
    waiting: Arc<Mutex<Waiting>>,
    outgoing: mpsc::Sender<v1::ClientFrame>,
    number: u64,
    done: bool,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let gave_up = waiting.queries.remove(&self.number).is_some();
        if gave_up && !self.done {
            let cancel = v1::CancelQuery { query: self.number };
            let kind = Some(v1::client_frame::Kind::Cancel(cancel));
            // where the queue is full, the step's own time limit ends it
            let _ = self.outgoing.try_send(v1::ClientFrame { kind });
        }
    }
}

fn protocol_error(message: &str) -> ClientError {
    let id = ErrorId::FrameMalformed;
    ClientError::Service {
        id,
        message: message.to_owned(),
        retryable: false,
    }
}

/// Runs heavy work on the rayon pool.
async fn compute<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ClientError> {
    let (sender, receiver) = oneshot::channel();
    rayon::spawn(move || {
        // nobody listens when the query was dropped
        let _ = sender.send(work());
    });
    receiver.await.map_err(|_| ClientError::Computation)
}

/// Hands frames to their queries until the stream ends.
async fn read(
    mut stream: Streaming<v1::ServerFrame>,
    name: Option<String>,
    waiting: Arc<Mutex<Waiting>>,
) {
    let lock = || waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let ended = loop {
        let frame = match stream.message().await {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                break Ended {
                    id: None,
                    message: "the gateway ended the session".into(),
                    retryable: true,
                };
            }
            Err(status) => {
                let id = chemxor_runtime::status::error_id(&status);
                let (message, retryable) = match id {
                    Some(id) => {
                        let (message, retryable) = told(id, &status);
                        (traceable(id, &message, name.as_deref()), retryable)
                    }
                    None => (status.message().to_owned(), true),
                };
                break Ended {
                    id,
                    message,
                    retryable,
                };
            }
        };
        let (number, event) = match frame.kind {
            Some(v1::server_frame::Kind::Step(chunk)) => {
                let (step, total) = (chunk.step, chunk.total_bytes as usize);
                (
                    chunk.query,
                    Event::Step {
                        step,
                        total,
                        payload: chunk.payload,
                    },
                )
            }
            Some(v1::server_frame::Kind::Failed(failed)) => (failed.query, Event::Failed(failed)),
            _ => continue,
        };
        let sender = lock().queries.get(&number).cloned();
        if let Some(sender) = sender {
            // a query that is gone needs no frame
            let _ = sender.send(event).await;
        }
    };
    let mut waiting = lock();
    waiting.ended = Some(ended);
    waiting.queries.clear();
}
