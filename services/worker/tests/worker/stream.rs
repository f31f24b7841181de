//! The gateway's end of a stream to a worker.

use std::collections::HashMap;
use std::ops::Deref;

use bytes::Bytes;
use chemxor_core::{ErrorId, Reassembler};
use chemxor_fhe::client::{Progress, Query};
use chemxor_proto::v1::partition_client::PartitionClient;
use chemxor_proto::v1::worker_reply::Kind as Reply;
use chemxor_proto::v1::worker_request::Kind;
use chemxor_proto::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_STEP_BYTES, v1};
use chemxor_runtime::status::error_id;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::model::Model;
use super::platform::PATIENCE;

type At = (u64, u32);

/// What a worker says.
#[derive(Debug)]
pub(crate) enum Heard {
    Answer(At, Vec<u8>, Vec<Bytes>),
    Failed(At, String, bool),
    Refused(Code, Option<ErrorId>),
    End,
}

/// The side of a stream that asks.
#[derive(Clone)]
pub(crate) struct Requests(mpsc::Sender<v1::WorkerRequest>);

pub(crate) struct Stream {
    requests: Requests,
    replies: Streaming<v1::WorkerReply>,
    partial: HashMap<At, (Reassembler, Vec<Bytes>)>,
}

pub(crate) fn open_frame(model: &Model) -> v1::OpenEvaluation {
    let rings = model.manifest.graph.rings();
    v1::OpenEvaluation {
        session_id: vec![7; 16].into(),
        version: model.version.to_string(),
        public_keys: model.key.public_keys(&rings).unwrap().into(),
    }
}

impl Requests {
    pub(crate) async fn send(&self, kind: Kind) {
        let request = v1::WorkerRequest { kind: Some(kind) };
        // an error says that the stream has ended, which the test hears otherwise
        let _ = self.0.send(request).await;
    }

    pub(crate) async fn chunk(&self, (query, step): At, total: usize, payload: Bytes) {
        self.send(Kind::Step(v1::EvaluationChunk {
            query,
            step,
            total_bytes: total as u32,
            payload,
            ..Default::default()
        }))
        .await;
    }

    pub(crate) async fn step(&self, at: At, message: &[u8], states: Vec<Bytes>, timeout_ms: u32) {
        let mut states = states;
        for part in message.chunks(MAX_FRAME_BYTES) {
            self.send(Kind::Step(v1::EvaluationChunk {
                query: at.0,
                step: at.1,
                total_bytes: message.len() as u32,
                payload: Bytes::copy_from_slice(part),
                sealed_states: std::mem::take(&mut states),
                timeout_ms,
                compute_us: 0,
            }))
            .await;
        }
    }
}

impl Deref for Stream {
    type Target = Requests;

    fn deref(&self) -> &Requests {
        &self.requests
    }
}

impl Stream {
    /// A stream on which only this was sent.
    pub(crate) async fn begin(channel: Channel, first: Kind) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(512);
        let first = v1::WorkerRequest { kind: Some(first) };
        requests.try_send(first).unwrap();
        let mut client = PartitionClient::new(channel)
            .max_decoding_message_size(2 * MAX_MESSAGE_BYTES)
            .max_encoding_message_size(2 * MAX_MESSAGE_BYTES);
        let replies = client.serve(ReceiverStream::new(receiver)).await?;
        Ok(Self {
            requests: Requests(requests),
            replies: replies.into_inner(),
            partial: HashMap::new(),
        })
    }

    pub(crate) async fn open(channel: Channel, model: &Model) -> Result<Self, Status> {
        let mut stream = Self::begin(channel, Kind::Open(open_frame(model))).await?;
        let opened = tokio::time::timeout(PATIENCE, stream.replies.message());
        let opened = opened
            .await
            .expect("a stream opens or is refused")?
            .unwrap();
        assert!(matches!(opened.kind, Some(Reply::Opened(_))), "{opened:?}");
        Ok(stream)
    }

    pub(crate) fn requests(&self) -> Requests {
        self.requests.clone()
    }

    /// Sends step 0 of a query.
    pub(crate) async fn first_step(&self, model: &Model, query: u64) {
        self.step((query, 0), &message(model), Vec::new(), 0).await;
    }

    pub(crate) async fn cancel(&self, (query, step): At) {
        self.send(Kind::Cancel(v1::CancelEvaluation { query, step }))
            .await;
    }

    pub(crate) async fn hear(&mut self) -> Heard {
        loop {
            let reply = tokio::time::timeout(PATIENCE, self.replies.message());
            let reply = match reply.await.expect("the worker says something") {
                Ok(Some(reply)) => reply,
                Ok(None) => return Heard::End,
                Err(status) => return Heard::Refused(status.code(), error_id(&status)),
            };
            let chunk = match reply.kind.unwrap() {
                Reply::Step(chunk) => chunk,
                Reply::Failed(failed) => {
                    let at = (failed.query, failed.step);
                    return Heard::Failed(at, failed.error_id, failed.retryable);
                }
                Reply::Opened(_) => panic!("a stream opens once"),
            };
            let at = (chunk.query, chunk.step);
            let slot = self.partial.entry(at).or_default();
            if !chunk.sealed_states.is_empty() {
                slot.1 = chunk.sealed_states;
            }
            let total = chunk.total_bytes as usize;
            let done = slot.0.push(total, &chunk.payload, MAX_STEP_BYTES).unwrap();
            if let Some(message) = done {
                let (_, states) = self.partial.remove(&at).unwrap();
                return Heard::Answer(at, message, states);
            }
        }
    }

    pub(crate) async fn answer(&mut self) -> (At, Vec<u8>, Vec<Bytes>) {
        match self.hear().await {
            Heard::Answer(at, reply, states) => (at, reply, states),
            other => panic!("a step is answered, got {other:?}"),
        }
    }

    /// A query to its end, checked against the clear twin.
    pub(crate) async fn ask(&mut self, model: &Model, query: u64) {
        let started = Query::start(&model.key, &model.manifest.graph, &model.features());
        let (mut state, mut message) = started.unwrap();
        let mut states = Vec::new();
        for step in 0.. {
            self.step((query, step), &message, states, 0).await;
            let (at, reply, left) = self.answer().await;
            assert_eq!(at, (query, step));
            states = left;
            match state.receive(&reply).unwrap() {
                Progress::Next(next) => message = next,
                Progress::Done(codes) => return model.check(&codes),
            }
        }
    }
}

/// A fresh message for step 0.
pub(crate) fn message(model: &Model) -> Vec<u8> {
    let (_, message) = Query::start(&model.key, &model.manifest.graph, &model.features()).unwrap();
    message
}
