//! A lab's client, as plain as the contract.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use chemxor_core::{ErrorId, Reassembler};
use chemxor_proto::v1::client_frame::Kind;
use chemxor_proto::v1::query_client::QueryClient;
use chemxor_proto::v1::server_frame;
use chemxor_proto::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_STEP_BYTES, PROTOCOL_VERSION, v1};
use chemxor_runtime::status::error_id;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::platform::Model;

/// Nothing in these tests takes as long; whoever waits longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a client hears.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Reply {
        query: u64,
        step: u32,
        message: Vec<u8>,
    },
    Failed {
        query: u64,
        id: ErrorId,
        retryable: bool,
    },
    /// The stream ended well.
    End,
    /// The stream ended with this.
    Refused(tonic::Code, Option<ErrorId>),
}

pub(crate) fn refusal(status: &Status) -> Heard {
    Heard::Refused(status.code(), error_id(status))
}

/// An open session.
pub(crate) struct Client {
    frames: Option<mpsc::Sender<v1::ClientFrame>>,
    stream: Streaming<v1::ServerFrame>,
    partial: HashMap<(u64, u32), Reassembler>,
    pub(crate) session_id: Bytes,
    pub(crate) version: String,
    /// Every payload that came, one after the other.
    pub(crate) seen: Vec<u8>,
    /// Length of the longest frame.
    pub(crate) longest: usize,
}

pub(crate) fn open_frame() -> v1::ClientFrame {
    v1::ClientFrame {
        kind: Some(Kind::Open(v1::OpenSession {
            protocol_version: PROTOCOL_VERSION,
            model: "demo".into(),
            public_keys: Bytes::from_static(b"public keys canary"),
        })),
    }
}

impl Client {
    /// Opens a session with this first frame.
    pub(crate) async fn open(
        channel: Channel,
        token: Option<&str>,
        first: v1::ClientFrame,
    ) -> Result<Self, Status> {
        let (frames, receiver) = mpsc::channel(64);
        frames.try_send(first).unwrap();
        let mut request = Request::new(ReceiverStream::new(receiver));
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let mut client = QueryClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(64 << 20);
        let opening = async {
            let mut stream = client.session(request).await?.into_inner();
            let opened = stream.message().await?.unwrap();
            let Some(server_frame::Kind::Opened(opened)) = opened.kind else {
                panic!("the first frame of the gateway says that the session is open");
            };
            Ok(Self {
                frames: Some(frames),
                stream,
                partial: HashMap::new(),
                session_id: opened.session_id,
                version: opened.version,
                seen: Vec::new(),
                longest: 0,
            })
        };
        tokio::time::timeout(PATIENCE, opening).await.unwrap()
    }

    pub(crate) async fn send(&self, kind: Kind) {
        let frames = self.frames.as_ref().unwrap();
        // an error says that the session has ended, which the test hears otherwise
        let _ = frames.send(v1::ClientFrame { kind: Some(kind) }).await;
    }

    pub(crate) async fn chunk(&self, query: u64, step: u32, total: usize, payload: &[u8]) {
        let payload = Bytes::copy_from_slice(payload);
        let total_bytes = total as u32;
        self.send(Kind::Step(v1::StepChunk {
            query,
            step,
            total_bytes,
            payload,
            timeout_ms: 0,
        }))
        .await;
    }

    /// A short step with a time limit of its own.
    pub(crate) async fn hurry(&self, query: u64, step: u32, timeout_ms: u32) {
        self.send(Kind::Step(v1::StepChunk {
            query,
            step,
            total_bytes: 1,
            payload: Bytes::from_static(b"x"),
            timeout_ms,
        }))
        .await;
    }

    pub(crate) async fn step(&self, query: u64, step: u32, message: &[u8]) {
        for chunk in message.chunks(MAX_FRAME_BYTES) {
            self.chunk(query, step, message.len(), chunk).await;
        }
    }

    /// Says that nothing more will come.
    pub(crate) fn finish(&mut self) {
        self.frames = None;
    }

    /// The next whole thing that the gateway says.
    pub(crate) async fn hear(&mut self) -> Heard {
        let heard = tokio::time::timeout(PATIENCE, self.hear_next()).await;
        heard.expect("the gateway says something")
    }

    async fn hear_next(&mut self) -> Heard {
        loop {
            let frame = match self.stream.message().await {
                Ok(Some(frame)) => frame.kind.unwrap(),
                Ok(None) => return Heard::End,
                Err(status) => return refusal(&status),
            };
            match frame {
                server_frame::Kind::Opened(_) => panic!("a session opens once"),
                server_frame::Kind::Failed(failed) => {
                    assert!(!failed.message.is_empty());
                    return Heard::Failed {
                        query: failed.query,
                        id: failed.error_id.parse().unwrap(),
                        retryable: failed.retryable,
                    };
                }
                server_frame::Kind::Step(chunk) => {
                    self.seen.extend_from_slice(&chunk.payload);
                    self.longest = self.longest.max(chunk.payload.len());
                    let (query, step) = (chunk.query, chunk.step);
                    let total = chunk.total_bytes as usize;
                    let slot = self.partial.entry((query, step)).or_default();
                    let done = slot.push(total, &chunk.payload, MAX_STEP_BYTES).unwrap();
                    if let Some(message) = done {
                        return Heard::Reply {
                            query,
                            step,
                            message,
                        };
                    }
                }
            }
        }
    }

    /// Asks one step and expects its answer.
    pub(crate) async fn ask(&mut self, query: u64, step: u32) {
        let message = format!("question {query}/{step}").into_bytes();
        self.step(query, step, &message).await;
        assert_eq!(self.hear().await, answered(query, step, &message));
    }
}

/// The right answer to a message.
pub(crate) fn answered(query: u64, step: u32, message: &[u8]) -> Heard {
    Heard::Reply {
        query,
        step,
        message: super::worker::answer(Model::Plain, query, step, message),
    }
}

/// A query that failed.
pub(crate) fn failed(query: u64, id: ErrorId) -> Heard {
    Heard::Failed {
        query,
        id,
        retryable: id.is_retryable(),
    }
}
