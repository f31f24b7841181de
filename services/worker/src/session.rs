//! One stream from the gateway: the public keys of a client session, then its step evaluations.
//!
//! Steps of different queries run side by side on the rayon pool, each under as many permits as it
//! is heavy. When the stream ends, or a step is cancelled or its time is over, an evaluation that
//! has not begun is dropped; so a stop reaches the pool within one step.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chemxor_core::{ErrorId, Reassembler, VersionId};
use chemxor_fhe::server::{
    Blinds, PublicKeys, SealError, SeedLog, StateContext, StateKey, StepError,
};
use chemxor_proto::{
    MAX_FRAME_BYTES, MAX_PUBLIC_KEYS_BYTES, MAX_SEALED_STATE_BYTES, MAX_SHARES, MAX_STEP_BYTES, v1,
};
use chemxor_runtime::status::status;
use chemxor_runtime::traces::{Parent, Side};
use data_encoding::HEXLOWER;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};
use tracing::Instrument;

use crate::models::{Model, Models};
use crate::partition::Worker;

/// Messages of one stream that may be incomplete at the same time.
const MAX_PARTIAL: usize = 128;
/// Evaluations of one stream that wait or run at the same time; more are not read.
const MAX_PENDING: usize = 256;
/// Time limit of a step whose request names none.
const NO_LIMIT: Duration = Duration::from_secs(600);

/// Query and step.
type At = (u64, u32);

type Sender = mpsc::Sender<Result<v1::WorkerReply, Status>>;

/// What all evaluations of a stream share.
struct Session {
    id: [u8; 16],
    version: VersionId,
    keys: PublicKeys,
    seeds: SeedLog,
    trace: Parent,
}

#[derive(Default)]
struct Partial {
    frames: Reassembler,
    states: Vec<Bytes>,
    timeout_ms: u32,
}

pub(crate) async fn run(
    mut stream: Streaming<v1::WorkerRequest>,
    replies: &Sender,
    worker: Arc<Worker>,
    trace: Parent,
) -> Result<(), Status> {
    let first = stream.message().await?.and_then(|request| request.kind);
    let Some(v1::worker_request::Kind::Open(open)) = first else {
        return Err(malformed("the first frame of a stream must open it"));
    };
    let session = Arc::new(prepare(open, &worker.models, trace).await?);
    let id = HEXLOWER.encode(&session.id);
    let span = tracing::info_span!("session", id, version = %session.version);
    let opened = v1::worker_reply::Kind::Opened(v1::EvaluationOpened {});
    send(replies, opened).await?;
    serve(stream, replies, &worker, session)
        .instrument(span)
        .await
}

async fn serve(
    mut stream: Streaming<v1::WorkerRequest>,
    replies: &Sender,
    worker: &Arc<Worker>,
    session: Arc<Session>,
) -> Result<(), Status> {
    let mut partial: HashMap<At, Partial> = HashMap::new();
    let mut running: HashMap<At, CancellationToken> = HashMap::new();
    let slots = Arc::new(Semaphore::new(MAX_PENDING));
    let tasks = TaskTracker::new();
    loop {
        let request = tokio::select! {
            request = stream.message() => request?,
            () = replies.closed() => return Ok(()),
            () = worker.stop.cancelled() => {
                // what has begun ends; the gateway asks the rest elsewhere
                tasks.close();
                tasks.wait().await;
                return Err(status(ErrorId::WorkerUnavailable, "the worker stops"));
            }
        };
        let Some(request) = request else {
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
            _ => return Err(malformed("after the first frame only steps may come")),
        };
        let at = (chunk.query, chunk.step);
        let Some((message, slot)) = assemble(&mut partial, chunk)? else {
            continue;
        };
        // waiting here stops reading, and so the gateway
        let Ok(pending) = slots.clone().acquire_owned().await else {
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
            drop(pending);
            if let Some(outcome) = outcome {
                let result = if outcome.is_ok() { "ok" } else { "failed" };
                metrics::counter!("chemxor_worker_steps_total", "outcome" => result).increment(1);
                // an error here means that the gateway has gone
                let _ = answer(&replies, at, outcome).await;
            } else {
                metrics::counter!("chemxor_worker_steps_total", "outcome" => "cancelled")
                    .increment(1);
            }
        };
        tasks.spawn(task.in_current_span());
    }
}

fn malformed(message: &str) -> Status {
    status(ErrorId::FrameMalformed, message)
}

/// Adds a chunk; gives the message when it is complete.
fn assemble(
    partial: &mut HashMap<At, Partial>,
    chunk: v1::EvaluationChunk,
) -> Result<Option<(Vec<u8>, Partial)>, Status> {
    let at = (chunk.query, chunk.step);
    if partial.len() >= MAX_PARTIAL && !partial.contains_key(&at) {
        return Err(status(
            ErrorId::FrameTooLarge,
            "too many incomplete messages",
        ));
    }
    let slot = partial.entry(at).or_default();
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
        .map_err(|error| malformed(&error.to_string()))?;
    Ok(done.and_then(|message| Some((message, partial.remove(&at)?))))
}

async fn prepare(
    open: v1::OpenEvaluation,
    models: &Models,
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

/// What one evaluation gave.
struct Outcome {
    reply: Vec<u8>,
    sealed: Vec<u8>,
    /// Microseconds on the cores.
    compute_us: u32,
}

/// Why one evaluation failed.
struct Failure {
    id: ErrorId,
    message: String,
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        let id = match error {
            StepError::Seed(_) => ErrorId::SeedReused,
            StepError::State => ErrorId::StateRefused,
            StepError::Wire(_) => ErrorId::CiphertextRefused,
            _ => ErrorId::Internal,
        };
        Self {
            id,
            message: error.to_string(),
        }
    }
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        Self {
            id: ErrorId::StateRefused,
            message: error.to_string(),
        }
    }
}

/// Waits for the permits that the step takes, then evaluates it on the pool. Dropping the future
/// while it waits gives the place up; once begun, a step is evaluated to its end.
async fn evaluate(
    session: Arc<Session>,
    (query, step): At,
    states: Vec<Bytes>,
    message: Vec<u8>,
    worker: Arc<Worker>,
    limit: Duration,
) -> Result<Outcome, Failure> {
    let unavailable = |message: &str| Failure {
        id: ErrorId::WorkerUnavailable,
        message: message.to_owned(),
    };
    let asked = Instant::now();
    // it may have been unloaded since the session began
    let model = worker.models.get(&session.version).await;
    let model =
        model.ok_or_else(|| unavailable("this worker does not hold the version any more"))?;
    let weight = model
        .permits
        .get(step as usize)
        .map_or(1, |p| worker.weigh(*p));
    let permits = worker.permits.clone().acquire_many_owned(weight);
    let left = limit.saturating_sub(asked.elapsed());
    let permit = tokio::time::timeout(left, permits)
        .await
        .map_err(|_| unavailable("the step waited for longer than its time limit"))?
        .map_err(|_| unavailable("the worker stops"))?;
    metrics::histogram!("chemxor_worker_wait_seconds").record(asked.elapsed());
    let busy = Busy::new(weight);
    let (sender, receiver) = oneshot::channel();
    let span = tracing::Span::current();
    rayon::spawn(move || {
        let _entered = span.entered();
        let started = Instant::now();
        let mut outcome = evaluate_now(&session, &model, (query, step), &states, &message);
        let bytes = outcome.as_ref().map_or(0, |outcome| outcome.reply.len());
        let us = started.elapsed().as_micros() as u64;
        if let Ok(outcome) = &mut outcome {
            outcome.compute_us = u32::try_from(us).unwrap_or(u32::MAX);
        }
        tracing::debug!(
            query,
            step,
            us,
            bytes_in = message.len(),
            bytes_out = bytes,
            "step"
        );
        metrics::histogram!("chemxor_worker_step_seconds").record(started.elapsed());
        // weights that were unloaded meanwhile are wiped here, not on a thread that serves streams
        drop(model);
        // the permits are held until the work has ended, even when nobody waits for it
        drop((permit, busy));
        let _ = sender.send(outcome);
    });
    receiver.await.map_err(|_| Failure {
        id: ErrorId::Internal,
        message: "the evaluation ended without a result".to_owned(),
    })?
}

/// Counts permits as busy until dropped.
struct Busy(u32);

impl Busy {
    fn new(permits: u32) -> Self {
        metrics::gauge!("chemxor_worker_permits_busy").increment(f64::from(permits));
        Self(permits)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        metrics::gauge!("chemxor_worker_permits_busy").decrement(f64::from(self.0));
    }
}

fn evaluate_now(
    session: &Session,
    model: &Model,
    (query, step): At,
    states: &[Bytes],
    message: &[u8],
) -> Result<Outcome, Failure> {
    let prepared = model.steps.get(&step).ok_or_else(|| Failure {
        id: ErrorId::WorkerUnavailable,
        message: format!("this worker does not hold step {step}"),
    })?;
    let context = |step| StateContext {
        version: model.version,
        session: session.id,
        query,
        step,
    };
    let blinds = match step.checked_sub(1) {
        None if states.is_empty() => None,
        Some(previous) => Some(open_states(&model.state_key, states, &context(previous))?),
        None => return Err(StepError::State.into()),
    };
    let done = prepared.evaluate(&session.keys, blinds.as_ref(), message, &session.seeds)?;
    let sealed = match &done.blinds {
        Some(blinds) => model.state_key.seal(blinds, &context(step))?,
        None => Vec::new(),
    };
    Ok(Outcome {
        reply: done.reply,
        sealed,
        compute_us: 0,
    })
}

/// Opens what the workers that shared the step before have left, and joins it.
fn open_states(
    key: &StateKey,
    states: &[Bytes],
    context: &StateContext,
) -> Result<Blinds, Failure> {
    let parts: Vec<Blinds> = states
        .iter()
        .map(|state| key.open(state, context))
        .collect::<Result<_, _>>()?;
    let joined = Blinds::join(&parts).ok_or(StepError::State)?;
    Ok(joined)
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
