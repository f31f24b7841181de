//! A client that speaks to a worker itself, with the gateway's certificate: what a query costs
//! without a gateway.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use chemxor_core::{Manifest, Reassembler, VersionId};
use chemxor_fhe::client::{ClientKey, Progress, Query};
use chemxor_proto::v1::partition_client::PartitionClient;
use chemxor_proto::v1::{worker_reply, worker_request};
use chemxor_proto::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_STEP_BYTES, v1};
use chemxor_runtime::tls::{TlsFiles, connect};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

/// On the same pool as the SDK.
async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = oneshot::channel();
    rayon::spawn(move || drop(sender.send(work())));
    receiver.await.unwrap()
}

type Reply = (Vec<u8>, Vec<Bytes>);
type Waiting = Arc<Mutex<HashMap<(u64, u32), oneshot::Sender<Reply>>>>;

pub(crate) struct Direct {
    requests: mpsc::Sender<v1::WorkerRequest>,
    waiting: Waiting,
    manifest: Arc<Manifest>,
    key: Arc<ClientKey>,
    next: AtomicU64,
}

impl Direct {
    pub(crate) async fn open(
        address: &str,
        tls: &TlsFiles,
        version: VersionId,
        manifest: Arc<Manifest>,
        key: Arc<ClientKey>,
    ) -> Self {
        let channel = connect(address, tls).await.unwrap();
        let (requests, receiver) = mpsc::channel(64);
        let open = v1::OpenEvaluation {
            session_id: vec![7; 16].into(),
            version: version.to_string(),
            public_keys: key.public_keys(&manifest.graph.rings()).unwrap().into(),
        };
        let kind = Some(worker_request::Kind::Open(open));
        requests.send(v1::WorkerRequest { kind }).await.unwrap();
        let mut client = PartitionClient::new(channel)
            .max_decoding_message_size(2 * MAX_MESSAGE_BYTES)
            .max_encoding_message_size(2 * MAX_MESSAGE_BYTES);
        let replies = client.serve(ReceiverStream::new(receiver)).await;
        let mut replies = replies.unwrap().into_inner();
        replies.message().await.unwrap().unwrap();
        let waiting = Waiting::default();
        let shared = waiting.clone();
        tokio::spawn(async move {
            let mut partial: HashMap<(u64, u32), (Reassembler, Vec<Bytes>)> = HashMap::new();
            while let Ok(Some(reply)) = replies.message().await {
                let Some(worker_reply::Kind::Step(chunk)) = reply.kind else {
                    panic!("the worker refused a step: {reply:?}");
                };
                let at = (chunk.query, chunk.step);
                let slot = partial.entry(at).or_default();
                if !chunk.sealed_states.is_empty() {
                    slot.1 = chunk.sealed_states;
                }
                let total = chunk.total_bytes as usize;
                let done = slot.0.push(total, &chunk.payload, MAX_STEP_BYTES).unwrap();
                if let Some(message) = done {
                    let (_, states) = partial.remove(&at).unwrap();
                    let waiter = shared.lock().unwrap().remove(&at).unwrap();
                    let _ = waiter.send((message, states));
                }
            }
        });
        Self {
            requests,
            waiting,
            manifest,
            key,
            next: AtomicU64::new(1),
        }
    }

    async fn step(&self, query: u64, step: u32, message: Bytes, mut states: Vec<Bytes>) -> Reply {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap().insert((query, step), sender);
        for start in (0..message.len()).step_by(MAX_FRAME_BYTES) {
            let chunk = v1::EvaluationChunk {
                query,
                step,
                total_bytes: message.len() as u32,
                payload: message.slice(start..message.len().min(start + MAX_FRAME_BYTES)),
                sealed_states: std::mem::take(&mut states),
                timeout_ms: 0,
                compute_us: 0,
            };
            let kind = Some(worker_request::Kind::Step(chunk));
            self.requests
                .send(v1::WorkerRequest { kind })
                .await
                .unwrap();
        }
        receiver.await.unwrap()
    }

    pub(crate) async fn predict(&self, features: &[u16]) -> Vec<u32> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (key, manifest, features) =
            (self.key.clone(), self.manifest.clone(), features.to_vec());
        let started = move || Query::start(&key, &manifest.graph, &features).unwrap();
        let (mut query, mut message) = compute(started).await;
        let mut states = Vec::new();
        for step in 0.. {
            let (reply, left) = self.step(number, step, message.into(), states).await;
            states = left;
            let received = move || {
                let progress = query.receive(&reply).unwrap();
                (query, progress)
            };
            let (state, progress) = compute(received).await;
            query = state;
            match progress {
                Progress::Next(next) => message = next,
                Progress::Done(codes) => return codes,
            }
        }
        unreachable!("a graph ends")
    }
}
