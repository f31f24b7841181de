//! One stream from the gateway: the public keys of a client session, then its step evaluations.
//!
//! Steps of different queries run side by side on the rayon pool, each under as many permits as it
//! is heavy. When the stream ends, or a step is cancelled or its time is over, an evaluation that
//! has not begun is dropped; so a stop reaches the pool within one step. When the worker stops, what
//! has not begun is refused, for the gateway to ask elsewhere, and so is what comes until the rest has
//! ended.
//!
//! Memory of a stream is bounded: its messages, incomplete ones and those under evaluation, take at
//! most `stream_memory_mib`, and a finished step keeps its place until its reply is queued.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chemxor_core::{ErrorId, FrameError, Reassembler, VersionId};
use chemxor_fhe::server::{PublicKeys, SeedLog};
use chemxor_proto::{
    MAX_FRAME_BYTES, MAX_PUBLIC_KEYS_BYTES, MAX_SEALED_STATE_BYTES, MAX_SHARES, MAX_STEP_BYTES, v1,
};
use chemxor_runtime::status::status;
use chemxor_runtime::traces::{Parent, Side};
use data_encoding::HEXLOWER;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};
use tracing::Instrument;

use crate::evaluate::{At, Failure, Outcome, Session, evaluate};
use crate::models::Models;
use crate::partition::Worker;

/// Messages of one stream that may be incomplete at the same time.
const MAX_PARTIAL: usize = 128;
/// Evaluations of one stream that wait or run at the same time; more are not read.
const MAX_PENDING: usize = 256;
/// Time limit of a step whose request names none.
const NO_LIMIT: Duration = Duration::from_secs(600);

type Sender = mpsc::Sender<Result<v1::WorkerReply, Status>>;

#[derive(Default)]
struct Partial {
    frames: Reassembler,
    states: Vec<Bytes>,
    timeout_ms: u32,
    /// Room in the stream's memory.
    held: Option<OwnedSemaphorePermit>,
}

impl Partial {
    fn bytes(&self) -> usize {
        self.held
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits)
    }
}

/// How reading a stream ends, when it does not with its last request.
enum End {
    /// The gateway does not listen any more.
    Gone,
    /// The worker stops, and nothing is left to answer.
    Stops,
    Refused(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

pub(crate) async fn run(
    mut stream: Streaming<v1::WorkerRequest>,
    replies: &Sender,
    worker: Arc<Worker>,
    serial: &str,
    trace: Parent,
) -> Result<(), Status> {
    let first = stream.message().await?.and_then(|request| request.kind);
    let Some(v1::worker_request::Kind::Open(open)) = first else {
        return Err(malformed("the first frame of a stream must open it"));
    };
    let life = Life {
        replies,
        worker: &worker,
        serial,
    };
    // its version may have to be loaded first
    let prepared = prepare(open, &worker.models, trace);
    let prepared = life.unless_over(worker.stop.cancelled(), prepared);
    let session = match prepared.await {
        Ok(session) => Arc::new(session?),
        Err(End::Gone) => return Ok(()),
        Err(End::Stops) => return Err(stops()),
        Err(End::Refused(status)) => return Err(status),
    };
    let id = HEXLOWER.encode(&session.id);
    let span = tracing::info_span!("session", id, version = %session.version);
    let opened = v1::worker_reply::Kind::Opened(v1::EvaluationOpened {});
    send(replies, opened).await?;
    serve(stream, &life, session).instrument(span).await
}

async fn serve(
    stream: Streaming<v1::WorkerRequest>,
    life: &Life<'_>,
    session: Arc<Session>,
) -> Result<(), Status> {
    let tasks = TaskTracker::new();
    let mut running = HashMap::new();
    match read(stream, life, &session, &tasks, &mut running).await {
        Ok(()) | Err(End::Gone) => Ok(()),
        Err(End::Refused(status)) => {
            // whoever is refused gets no answer any more
            running.values().for_each(CancellationToken::cancel);
            Err(status)
        }
        Err(End::Stops) => Err(stops()),
    }
}

/// What may end a stream before its last request.
struct Life<'a> {
    replies: &'a Sender,
    worker: &'a Arc<Worker>,
    /// Of the gateway's certificate.
    serial: &'a str,
}

impl Life<'_> {
    /// Waits for something, unless the stream ends before; `stopped` is when the worker's stop ends it.
    async fn unless_over<T>(
        &self,
        stopped: impl Future<Output = ()>,
        work: impl Future<Output = T>,
    ) -> Result<T, End> {
        tokio::select! {
            biased;
            () = self.replies.closed() => Err(End::Gone),
            () = stopped => Err(End::Stops),
            refused = self.worker.models.denied.until_refused(self.serial) => Err(refused.into()),
            done = work => Ok(done),
        }
    }
}

async fn read(
    mut stream: Streaming<v1::WorkerRequest>,
    life: &Life<'_>,
    session: &Arc<Session>,
    tasks: &TaskTracker,
    running: &mut HashMap<At, CancellationToken>,
) -> Result<(), End> {
    let Life {
        replies, worker, ..
    } = *life;
    let mut partial: HashMap<At, Partial> = HashMap::new();
    let slots = Arc::new(Semaphore::new(MAX_PENDING));
    let memory = Arc::new(Semaphore::new(worker.stream_bytes));
    // reading goes on until what has begun has ended: the evaluation of a step that comes sees the stop,
    // so the step is refused at once and does not lie here unread
    let stopped = async {
        worker.stop.cancelled().await;
        tasks.close();
        tasks.wait().await;
    };
    tokio::pin!(stopped);
    loop {
        let request = life.unless_over(stopped.as_mut(), stream.message());
        let Some(request) = request.await?? else {
            return Ok(());
        };
        let chunk = match request.kind {
            Some(v1::worker_request::Kind::Step(chunk)) => chunk,
            Some(v1::worker_request::Kind::Cancel(cancel)) => {
                let at = (cancel.query, cancel.step);
                partial.remove(&at);
                if let Some(token) = running.remove(&at) {
                    token.cancel();
                }
                continue;
            }
            _ => return Err(malformed("after the first frame only steps may come").into()),
        };
        let at = (chunk.query, chunk.step);
        let bytes = length(&chunk);
        let incomplete: usize = partial.values().map(Partial::bytes).sum();
        if incomplete.saturating_add(bytes) > worker.stream_bytes {
            let message = "incomplete messages take more memory than a stream may have";
            return Err(status(ErrorId::FrameTooLarge, message).into());
        }
        // waiting stops reading, and so the gateway; what is under evaluation gives its room back
        let room = memory.clone().acquire_many_owned(bytes as u32);
        let Ok(held) = life.unless_over(stopped.as_mut(), room).await? else {
            return Ok(());
        };
        let Some((message, slot)) = assemble(&mut partial, chunk, held)? else {
            continue;
        };
        let slots = slots.clone().acquire_owned();
        let Ok(pending) = life.unless_over(stopped.as_mut(), slots).await? else {
            return Ok(());
        };
        running.retain(|_, token| !token.is_cancelled());
        let over = CancellationToken::new();
        running.insert(at, over.clone());
        let limit = match slot.timeout_ms {
            0 => NO_LIMIT,
            ms => Duration::from_millis(ms.into()),
        };
        let mut span = session.trace.child("evaluate", Side::Server);
        span.number("chemxor.query", at.0);
        span.number("chemxor.step", at.1.into());
        let work = evaluate(
            session.clone(),
            at,
            slot.states,
            message,
            worker.clone(),
            limit,
        );
        let replies = replies.clone();
        let task = async move {
            let outcome = tokio::select! {
                outcome = work => Some(outcome),
                () = over.cancelled() => None,
                () = replies.closed() => None,
            };
            match &outcome {
                Some(Ok(done)) => {
                    span.number("chemxor.compute_us", done.compute_us.into());
                    span.succeed();
                }
                Some(Err(failure)) => span.fail(failure.id),
                // dropped so, it counts as cancelled
                None => {}
            }
            span.end();
            // marks it as over for the list of what runs
            over.cancel();
            if let Some(outcome) = outcome {
                let result = if outcome.is_ok() { "ok" } else { "failed" };
                metrics::counter!("chemxor_worker_steps_total", "outcome" => result).increment(1);
                // an error here means that the gateway has gone
                let _ = answer(&replies, at, outcome).await;
            } else {
                metrics::counter!("chemxor_worker_steps_total", "outcome" => "cancelled")
                    .increment(1);
            }
            // not before the reply is queued: who does not read is not read from
            drop((pending, slot.held));
        };
        tasks.spawn(task.in_current_span());
    }
}

fn stops() -> Status {
    status(ErrorId::WorkerUnavailable, "the worker stops")
}

fn malformed(message: &str) -> Status {
    status(ErrorId::FrameMalformed, message)
}

/// Bytes that a chunk takes until its step is answered.
fn length(chunk: &v1::EvaluationChunk) -> usize {
    let states: usize = chunk.sealed_states.iter().map(Bytes::len).sum();
    chunk.payload.len() + states
}

/// Adds a chunk with the room it has; gives the message when it is complete.
fn assemble(
    partial: &mut HashMap<At, Partial>,
    chunk: v1::EvaluationChunk,
    held: OwnedSemaphorePermit,
) -> Result<Option<(Vec<u8>, Partial)>, Status> {
    let at = (chunk.query, chunk.step);
    if partial.len() >= MAX_PARTIAL && !partial.contains_key(&at) {
        return Err(status(
            ErrorId::FrameTooLarge,
            "too many incomplete messages",
        ));
    }
    let slot = partial.entry(at).or_default();
    match &mut slot.held {
        None => slot.held = Some(held),
        Some(before) => before.merge(held),
    }
    if !slot.frames.is_partial() {
        slot.timeout_ms = chunk.timeout_ms;
    }
    if !chunk.sealed_states.is_empty() {
        let bytes: usize = chunk.sealed_states.iter().map(Bytes::len).sum();
        let bounded = bytes <= MAX_SEALED_STATE_BYTES && chunk.sealed_states.len() <= MAX_SHARES;
        if !bounded || slot.frames.is_partial() {
            return Err(malformed(
                "sealed state too long, or not in the first chunk",
            ));
        }
        slot.states = chunk.sealed_states;
    }
    let done = slot
        .frames
        .push(chunk.total_bytes as usize, &chunk.payload, MAX_STEP_BYTES)
        .map_err(|error| {
            let id = match error {
                FrameError::TooLarge { .. } => ErrorId::FrameTooLarge,
                _ => ErrorId::FrameMalformed,
            };
            status(id, error.to_string())
        })?;
    Ok(done.and_then(|message| Some((message, partial.remove(&at)?))))
}

async fn prepare(
    open: v1::OpenEvaluation,
    models: &Arc<Models>,
    trace: Parent,
) -> Result<Session, Status> {
    let argument = |message: &str| status(ErrorId::ArgumentInvalid, message);
    let version: VersionId = open
        .version
        .parse()
        .map_err(|_| argument("the version is not a digest"))?;
    let id = <[u8; 16]>::try_from(open.session_id.as_ref())
        .map_err(|_| argument("a session id has 16 bytes"))?;
    if open.public_keys.len() > MAX_PUBLIC_KEYS_BYTES {
        return Err(status(
            ErrorId::FrameTooLarge,
            "the public keys are too long",
        ));
    }
    let model = models.get(&version).await.ok_or_else(|| {
        status(
            ErrorId::ModelUnknown,
            "this worker does not hold the version",
        )
    })?;
    let seeds = SeedLog::default();
    let keys = PublicKeys::from_bytes(&open.public_keys, &model.rings, &seeds)
        .map_err(|error| status(ErrorId::CiphertextRefused, error.to_string()))?;
    Ok(Session {
        id,
        version,
        keys,
        seeds,
        trace,
    })
}

async fn answer(
    replies: &Sender,
    (query, step): (u64, u32),
    outcome: Result<Outcome, Failure>,
) -> Result<(), Status> {
    let Outcome {
        reply,
        sealed,
        mut compute_us,
    } = match outcome {
        Ok(done) => done,
        Err(failure) => {
            let retryable = failure.id == ErrorId::WorkerUnavailable;
            return send(
                replies,
                v1::worker_reply::Kind::Failed(v1::EvaluationFailed {
                    query,
                    step,
                    error_id: failure.id.to_string(),
                    message: failure.message,
                    retryable,
                }),
            )
            .await;
        }
    };
    let reply = Bytes::from(reply);
    let mut sealed = match sealed.is_empty() {
        true => Vec::new(),
        false => vec![Bytes::from(sealed)],
    };
    for start in (0..reply.len()).step_by(MAX_FRAME_BYTES) {
        let payload = reply.slice(start..reply.len().min(start + MAX_FRAME_BYTES));
        let chunk = v1::EvaluationChunk {
            query,
            step,
            total_bytes: reply.len() as u32,
            payload,
            sealed_states: std::mem::take(&mut sealed),
            timeout_ms: 0,
            compute_us: std::mem::take(&mut compute_us),
        };
        send(replies, v1::worker_reply::Kind::Step(chunk)).await?;
    }
    Ok(())
}

async fn send(replies: &Sender, kind: v1::worker_reply::Kind) -> Result<(), Status> {
    let reply = v1::WorkerReply { kind: Some(kind) };
    replies
        .send(Ok(reply))
        .await
        .map_err(|_| Status::cancelled("the gateway has gone"))
}
