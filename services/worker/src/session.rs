//! One stream from the gateway: the public keys of a client session, then its step evaluations.
//!
//! Steps of different queries run side by side on the rayon pool, each under a permit. When the
//! stream ends, evaluations not yet begun are dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use chemxor_core::{ErrorId, Reassembler, VersionId};
use chemxor_fhe::server::{PublicKeys, SealError, SeedLog, StateContext, StepError};
use chemxor_proto::{
    MAX_FRAME_BYTES, MAX_PUBLIC_KEYS_BYTES, MAX_SEALED_STATE_BYTES, MAX_STEP_BYTES, v1,
};
use chemxor_runtime::status::status;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::{Status, Streaming};

use crate::models::{Model, Models};

/// Messages of one stream that may be incomplete at the same time.
const MAX_PARTIAL: usize = 128;

type Sender = mpsc::Sender<Result<v1::WorkerReply, Status>>;

/// What all evaluations of a stream share.
struct Session {
    id: [u8; 16],
    model: Arc<Model>,
    keys: PublicKeys,
    seeds: SeedLog,
}

#[derive(Default)]
struct Partial {
    frames: Reassembler,
    state: Bytes,
}

pub(crate) async fn run(
    mut stream: Streaming<v1::WorkerRequest>,
    replies: &Sender,
    models: Arc<Models>,
    permits: Arc<Semaphore>,
) -> Result<(), Status> {
    let malformed = |message: &str| status(ErrorId::FrameMalformed, message);
    let first = stream.message().await?.and_then(|request| request.kind);
    let Some(v1::worker_request::Kind::Open(open)) = first else {
        return Err(malformed("the first frame of a stream must open it"));
    };
    let session = Arc::new(prepare(open, &models).await?);
    let opened = v1::worker_reply::Kind::Opened(v1::EvaluationOpened {});
    send(replies, opened).await?;
    let mut partial: HashMap<(u64, u32), Partial> = HashMap::new();
    loop {
        let request = tokio::select! {
            request = stream.message() => request?,
            () = replies.closed() => return Ok(()),
        };
        let Some(request) = request else {
            return Ok(());
        };
        let Some(v1::worker_request::Kind::Step(chunk)) = request.kind else {
            return Err(malformed("after the first frame only step chunks may come"));
        };
        let at = (chunk.query, chunk.step);
        if partial.len() >= MAX_PARTIAL && !partial.contains_key(&at) {
            return Err(status(
                ErrorId::FrameTooLarge,
                "too many incomplete messages",
            ));
        }
        let slot = partial.entry(at).or_default();
        if !chunk.sealed_state.is_empty() {
            if chunk.sealed_state.len() > MAX_SEALED_STATE_BYTES || slot.frames.is_partial() {
                return Err(malformed(
                    "sealed state too long, or not in the first chunk",
                ));
            }
            slot.state = chunk.sealed_state;
        }
        let done = slot
            .frames
            .push(chunk.total_bytes as usize, &chunk.payload, MAX_STEP_BYTES)
            .map_err(|error| malformed(&error.to_string()))?;
        if let Some(message) = done {
            let state = partial
                .remove(&at)
                .map(|slot| slot.state)
                .unwrap_or_default();
            let work = evaluate(session.clone(), at, state, message, permits.clone());
            let replies = replies.clone();
            tokio::spawn(async move {
                let outcome = tokio::select! {
                    outcome = work => outcome,
                    () = replies.closed() => return,
                };
                // an error here means that the gateway has gone
                let _ = answer(&replies, at, outcome).await;
            });
        }
    }
}

async fn prepare(open: v1::OpenEvaluation, models: &Models) -> Result<Session, Status> {
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
        model,
        keys,
        seeds,
    })
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

async fn evaluate(
    session: Arc<Session>,
    (query, step): (u64, u32),
    state: Bytes,
    message: Vec<u8>,
    permits: Arc<Semaphore>,
) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let gone = || Failure {
        id: ErrorId::WorkerUnavailable,
        message: "worker stops".to_owned(),
    };
    let permit = permits.acquire_owned().await.map_err(|_| gone())?;
    let (sender, receiver) = oneshot::channel();
    rayon::spawn(move || {
        let started = Instant::now();
        let outcome = evaluate_now(&session, query, step, &state, &message);
        let bytes = outcome.as_ref().map_or(0, |(reply, _)| reply.len());
        let us = started.elapsed().as_micros() as u64;
        tracing::debug!(
            query,
            step,
            us,
            bytes_in = message.len(),
            bytes_out = bytes,
            "step"
        );
        // the permit is held until the work has ended, even when nobody waits for it
        drop(permit);
        let _ = sender.send(outcome);
    });
    receiver.await.map_err(|_| Failure {
        id: ErrorId::Internal,
        message: "the evaluation ended without a result".to_owned(),
    })?
}

fn evaluate_now(
    session: &Session,
    query: u64,
    step: u32,
    state: &[u8],
    message: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let model = &session.model;
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
        None if state.is_empty() => None,
        Some(previous) => Some(model.state_key.open(state, &context(previous))?),
        None => return Err(StepError::State.into()),
    };
    let done = prepared.evaluate(&session.keys, blinds.as_ref(), message, &session.seeds)?;
    let sealed = match &done.blinds {
        Some(blinds) => model.state_key.seal(blinds, &context(step))?,
        None => Vec::new(),
    };
    Ok((done.reply, sealed))
}

async fn answer(
    replies: &Sender,
    (query, step): (u64, u32),
    outcome: Result<(Vec<u8>, Vec<u8>), Failure>,
) -> Result<(), Status> {
    let (reply, sealed) = match outcome {
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
    let mut sealed = Bytes::from(sealed);
    for start in (0..reply.len()).step_by(MAX_FRAME_BYTES) {
        let payload = reply.slice(start..reply.len().min(start + MAX_FRAME_BYTES));
        let chunk = v1::EvaluationChunk {
            query,
            step,
            total_bytes: reply.len() as u32,
            payload,
            sealed_state: std::mem::take(&mut sealed),
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
