//! A double of a partition worker. It checks that the sealed state of a step is the one that the
//! step before left in the same session, and answers with what depends on every byte it got.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use chemxor_core::{ErrorId, Reassembler, reply_header};
use chemxor_proto::v1::partition_server::{Partition, PartitionServer};
use chemxor_proto::v1::worker_reply::Kind;
use chemxor_proto::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_STEP_BYTES, v1};
use chemxor_runtime::operations::Operations;
use chemxor_runtime::peer::peer_subject;
use chemxor_runtime::pki::Subject;
use chemxor_runtime::serve::Served;
use chemxor_runtime::tls::TlsFiles;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::client::PATIENCE;
use super::platform::{Model, STEPS};

/// A step as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) worker: String,
    pub(crate) query: u64,
    pub(crate) step: u32,
    pub(crate) sealed_state: Bytes,
    pub(crate) message: Bytes,
}

/// What the worker does with a step.
#[derive(Debug, Clone)]
pub(crate) enum Deed {
    Answer,
    /// Answers once the watched value is true.
    AnswerWhen(watch::Receiver<bool>),
    AnswerWithoutState,
    /// The output ciphertexts from the first on, so many; each is full of its number.
    AnswerShare(u32, u32),
    /// Sends the state with the second frame instead of the first.
    AnswerWithLateState,
    /// Answers with these bytes.
    AnswerRaw(Bytes),
    Fail(ErrorId, bool),
    /// Ends the stream.
    Break,
    /// Ends the stream in the middle of an answer.
    BreakInAnswer,
    Silence,
    /// Announces more than a message may have.
    Oversize,
}

type Script = Arc<dyn Fn(&Job) -> Deed + Send + Sync>;

/// What all workers of a test saw.
pub(crate) struct Journal {
    pub(crate) jobs: watch::Sender<Vec<Job>>,
    /// Names of workers, once for each stream opened.
    pub(crate) opened: Mutex<Vec<String>>,
    /// Streams that are open.
    pub(crate) open: watch::Sender<usize>,
    /// Steps under evaluation, now and at most so far.
    pub(crate) busy: watch::Sender<(usize, usize)>,
    /// Whether workers read what comes.
    pub(crate) reads: watch::Sender<bool>,
    /// Steps that were given up.
    pub(crate) cancelled: watch::Sender<Vec<(u64, u32)>>,
    script: Mutex<Script>,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            jobs: watch::Sender::default(),
            opened: Mutex::default(),
            open: watch::Sender::default(),
            busy: watch::Sender::default(),
            reads: watch::Sender::new(true),
            cancelled: watch::Sender::default(),
            script: Mutex::new(Arc::new(|_| Deed::Answer)),
        }
    }
}

impl Journal {
    pub(crate) fn script(&self, script: impl Fn(&Job) -> Deed + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    /// Waits until as many steps have come.
    pub(crate) async fn wait_for(&self, count: usize) {
        let mut jobs = self.jobs.subscribe();
        let came = jobs.wait_for(|jobs| jobs.len() == count);
        let came = tokio::time::timeout(PATIENCE, came).await;
        came.expect("the steps come").unwrap();
    }

    /// Steps that came, of one query.
    pub(crate) fn of(&self, query: u64) -> Vec<Job> {
        let jobs = self.jobs.borrow();
        jobs.iter()
            .filter(|job| job.query == query)
            .cloned()
            .collect()
    }
}

/// The answer to a step: another value for another query, step or message, as long as a reply of
/// that step is.
pub(crate) fn answer(model: Model, query: u64, step: u32, message: &[u8]) -> Vec<u8> {
    let (count, bytes) = model.reply(step);
    let mut hasher = DefaultHasher::new();
    hasher.write(message);
    let text = format!("answer {query}/{step} to {:016x};", hasher.finish()).into_bytes();
    let length = count as usize * bytes;
    let mut body = text.repeat(length / text.len() + 1);
    body.truncate(length);
    let mut reply = header(step, 0, count);
    reply.extend(body);
    reply
}

fn header(step: u32, first: u32, count: u32) -> Vec<u8> {
    let released = if step + 1 == STEPS { 8 } else { 0 };
    let head = [b'C', b'X', b'R', b'E', 2, 1, 12, released];
    reply_header(head, first, count).to_vec()
}

/// A reply of step 1, or a part of one, that covers these output ciphertexts.
pub(crate) fn part(first: u32, count: u32) -> Vec<u8> {
    let bytes = Model::Plain.reply(1).1;
    let body = (first..first + count).flat_map(|number| vec![number as u8; bytes]);
    header(1, first, count).into_iter().chain(body).collect()
}

/// What a step leaves.
pub(crate) fn sealed(session: &[u8], query: u64, step: u32) -> Vec<u8> {
    let mut state = b"sealed-canary ".to_vec();
    state.extend_from_slice(session);
    state.extend_from_slice(format!(" {query}/{step}").as_bytes());
    state
}

#[derive(Clone)]
struct WorkerDouble {
    name: String,
    model: Model,
    journal: Arc<Journal>,
}

type Replies = mpsc::Sender<Result<v1::WorkerReply, Status>>;

/// Counts a stream as open.
struct Open(Arc<Journal>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

#[tonic::async_trait]
impl Partition for WorkerDouble {
    type ServeStream = ReceiverStream<Result<v1::WorkerReply, Status>>;

    async fn serve(
        &self,
        request: Request<Streaming<v1::WorkerRequest>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        assert_eq!(peer_subject(&request)?, Subject::Gateway);
        let (sender, receiver) = mpsc::channel(4);
        let worker = self.clone();
        self.journal.open.send_modify(|open| *open += 1);
        let open = Open(self.journal.clone());
        tokio::spawn(async move {
            // an error says that the gateway has gone
            let _ = worker.stream(request.into_inner(), sender).await;
            drop(open);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl WorkerDouble {
    async fn stream(
        &self,
        mut requests: Streaming<v1::WorkerRequest>,
        replies: Replies,
    ) -> Result<(), Status> {
        let first = requests.message().await?.and_then(|request| request.kind);
        let Some(v1::worker_request::Kind::Open(open)) = first else {
            return Err(Status::invalid_argument("the first frame opens"));
        };
        assert_eq!(open.public_keys, "public keys canary");
        self.journal.opened.lock().unwrap().push(self.name.clone());
        send(&replies, Kind::Opened(v1::EvaluationOpened {})).await?;
        let mut partial: HashMap<(u64, u32), (Reassembler, Bytes)> = HashMap::new();
        let mut reads = self.journal.reads.subscribe();
        loop {
            // an error says that the test is over
            let _ = reads.wait_for(|reads| *reads).await;
            let request = tokio::select! {
                request = requests.message() => request?,
                () = replies.closed() => return Ok(()),
            };
            let Some(request) = request else {
                return Ok(());
            };
            let chunk = match request.kind {
                Some(v1::worker_request::Kind::Step(chunk)) => chunk,
                Some(v1::worker_request::Kind::Cancel(cancel)) => {
                    let at = (cancel.query, cancel.step);
                    self.journal.cancelled.send_modify(|list| list.push(at));
                    continue;
                }
                _ => return Err(Status::invalid_argument("only steps")),
            };
            assert!(chunk.timeout_ms > 0 || partial.contains_key(&(chunk.query, chunk.step)));
            assert!(chunk.payload.len() <= MAX_FRAME_BYTES);
            let at = (chunk.query, chunk.step);
            let slot = partial.entry(at).or_default();
            if !chunk.sealed_states.is_empty() {
                slot.1 = chunk.sealed_states.concat().into();
            }
            let total = chunk.total_bytes as usize;
            let done = slot.0.push(total, &chunk.payload, MAX_STEP_BYTES).unwrap();
            let Some(message) = done else { continue };
            let sealed_state = partial.remove(&at).unwrap().1;
            let job = Job {
                worker: self.name.clone(),
                query: at.0,
                step: at.1,
                sealed_state,
                message: message.into(),
            };
            self.journal.busy.send_modify(|(now, most)| {
                *now += 1;
                *most = (*most).max(*now);
            });
            let deed = self.journal.script.lock().unwrap().clone()(&job);
            self.journal.jobs.send_modify(|jobs| jobs.push(job.clone()));
            match deed {
                Deed::Break => return Ok(()),
                Deed::BreakInAnswer => {
                    send(&replies, reply(&job, b"half", 8, Bytes::from_static(b"x"))).await?;
                    return Ok(());
                }
                deed => {
                    let (worker, replies) = (self.clone(), replies.clone());
                    let session = open.session_id.clone();
                    tokio::spawn(async move { worker.act(&session, job, deed, &replies).await });
                }
            }
        }
    }

    async fn act(
        &self,
        session: &[u8],
        job: Job,
        deed: Deed,
        replies: &Replies,
    ) -> Result<(), Status> {
        let expected = match job.step {
            0 => Vec::new(),
            step => sealed(session, job.query, step - 1),
        };
        // one part, or the same one of each worker that shared the step before
        let whole = job
            .sealed_state
            .len()
            .checked_rem(expected.len())
            .unwrap_or(job.sealed_state.len())
            == 0;
        let parts = job.sealed_state.chunks(expected.len().max(1));
        if !whole
            || job.sealed_state.is_empty() != expected.is_empty()
            || !parts.into_iter().all(|part| part == expected)
        {
            return send(replies, failed(&job, ErrorId::StateRefused, false)).await;
        }
        let mut state = match job.step + 1 == STEPS {
            true => Bytes::new(),
            false => sealed(session, job.query, job.step).into(),
        };
        let mut message = answer(self.model, job.query, job.step, &job.message);
        match deed {
            Deed::AnswerWhen(mut gate) => {
                // an error says that the test is over
                let _ = gate.wait_for(|open| *open).await;
            }
            Deed::AnswerShare(first, count) => message = part(first, count),
            Deed::AnswerWithoutState => state = Bytes::new(),
            Deed::AnswerWithLateState => {
                let total = message.len() as u32;
                let (first, second) = message.split_at(message.len() / 2);
                send(replies, reply(&job, first, total, Bytes::new())).await?;
                return send(replies, reply(&job, second, total, state)).await;
            }
            Deed::AnswerRaw(raw) => message = raw.to_vec(),
            Deed::Fail(id, retryable) => {
                return send(replies, failed(&job, id, retryable)).await;
            }
            Deed::Silence => return Ok(()),
            Deed::Oversize => {
                let total = MAX_STEP_BYTES as u32 + 1;
                return send(replies, reply(&job, b"long", total, state)).await;
            }
            _ => {}
        }
        // before the gateway can know that it is done
        self.journal.busy.send_modify(|(now, _)| *now -= 1);
        for chunk in message.chunks(MAX_FRAME_BYTES) {
            let state = std::mem::take(&mut state);
            send(replies, reply(&job, chunk, message.len() as u32, state)).await?;
        }
        Ok(())
    }
}

fn reply(job: &Job, payload: &[u8], total_bytes: u32, sealed_state: Bytes) -> Kind {
    let sealed_states = match sealed_state.is_empty() {
        true => Vec::new(),
        false => vec![sealed_state],
    };
    Kind::Step(v1::EvaluationChunk {
        query: job.query,
        step: job.step,
        total_bytes,
        payload: Bytes::copy_from_slice(payload),
        sealed_states,
        timeout_ms: 0,
        compute_us: 1000,
    })
}

fn failed(job: &Job, id: ErrorId, retryable: bool) -> Kind {
    Kind::Failed(v1::EvaluationFailed {
        query: job.query,
        step: job.step,
        error_id: id.to_string(),
        message: "refused by the double".into(),
        retryable,
    })
}

async fn send(replies: &Replies, kind: Kind) -> Result<(), Status> {
    let reply = v1::WorkerReply { kind: Some(kind) };
    let sent = replies.send(Ok(reply)).await;
    sent.map_err(|_| Status::cancelled("the gateway has gone"))
}

/// A worker in a runtime of its own, so that it can be killed with all its connections.
pub(crate) struct RunningWorker {
    pub(crate) name: String,
    pub(crate) port: u16,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for RunningWorker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl RunningWorker {
    /// Starts on this port; 0 takes any free one.
    pub(crate) fn start(
        name: &str,
        port: u16,
        model: Model,
        tls: &TlsFiles,
        journal: &Arc<Journal>,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let double = WorkerDouble {
            name: name.to_owned(),
            model,
            journal: journal.clone(),
        };
        let service = PartitionServer::new(double)
            .max_decoding_message_size(2 * MAX_MESSAGE_BYTES)
            .max_encoding_message_size(2 * MAX_MESSAGE_BYTES);
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = Served::new(tls, Operations::default()).unwrap();
        let router = Server::builder().add_service(service);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            served.run(router, listener, CancellationToken::new()).await
        });
        Self {
            name: name.to_owned(),
            port,
            runtime: Some(runtime),
        }
    }

    /// Ends everything of it at once, connections included.
    pub(crate) async fn kill(&mut self) {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE))
            .await
            .unwrap();
    }
}
