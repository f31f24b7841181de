//! One step: on one of its workers, on another one when that fails, and the outcome to the client.
//!
//! Invariant: the sealed state stays inside the [`Evaluation`] while replicas are tried, and no
//! reply has left by then, so the client sees at most one answer to a step.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chemxor_proto::v1;

use super::Session;
use super::outbox::ClientGone;
use super::state::{Evaluation, Settled};
use crate::failure::Failure;
use crate::link::{Link, Reply, ReplyBounds};
use crate::pool::{Tried, Worker, choose};

/// Pause before the same worker is asked again; doubles each time.
const BACKOFF: Duration = Duration::from_millis(50);

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Link>>>>;

/// The streams of one session, one for each worker that it has needed.
pub(super) struct Links {
    open: v1::OpenEvaluation,
    bounds: ReplyBounds,
    slots: Mutex<HashMap<String, Slot>>,
}

impl Links {
    pub(super) fn new(open: v1::OpenEvaluation, bounds: ReplyBounds) -> Self {
        Self {
            open,
            bounds,
            slots: Mutex::default(),
        }
    }

    /// The open stream to a worker, or a new one.
    async fn to(&self, worker: &Worker) -> Result<Arc<Link>, Failure> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry(worker.name().to_owned()).or_default().clone()
        };
        // steps that come meanwhile wait for this opening instead of opening more streams
        let mut slot = slot.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| !link.is_broken()) {
            return Ok(link.clone());
        }
        let opening = Link::open(worker.channel(), self.open.clone(), self.bounds.clone());
        let link = Arc::new(opening.await?);
        *slot = Some(link.clone());
        Ok(link)
    }
}

impl Session {
    /// Evaluates a step and tells the client the outcome.
    pub(super) async fn step(
        &self,
        evaluation: Evaluation,
        message: &Bytes,
    ) -> Result<(), ClientGone> {
        let started = Instant::now();
        let (query, step) = (evaluation.query(), evaluation.step());
        let outcome = self.evaluate(&evaluation, message).await;
        let us = started.elapsed().as_micros() as u64;
        let up = message.len();
        match outcome {
            Ok((reply, worker)) => {
                let (down, sealed) = (reply.message.len(), reply.sealed_state.len());
                tracing::debug!(query, step, us, up, down, sealed, worker, "step");
                self.tally.step(sealed);
                let state = reply.sealed_state.clone();
                // from here on the step counts as evaluated, whatever happens to the client
                let settled = self.state().succeed(evaluation, state, self.age());
                match settled {
                    Settled::Tell => self.outbox.deliver(query, step, &reply.message).await,
                    Settled::Discard => Ok(()),
                }
            }
            Err(failure) => {
                let (id, reason) = (failure.id, failure.message.as_str());
                tracing::warn!(query, step, us, up, %id, reason, "step failed");
                let settled = self.state().fail(evaluation);
                match settled {
                    Settled::Tell => self.report(query, failure.id, failure.message).await,
                    Settled::Discard => Ok(()),
                }
            }
        }
    }

    async fn evaluate<'a>(
        &'a self,
        evaluation: &Evaluation,
        message: &Bytes,
    ) -> Result<(Reply, &'a str), Failure> {
        let (query, step) = (evaluation.query(), evaluation.step());
        // the state machine lets no step through that the model lacks
        let candidates = self.grant.steps.get(step as usize).map_or(&[][..], |c| c);
        let started = Instant::now();
        let mut tried = Tried::default();
        let mut reason = "no worker is placed there".to_owned();
        for attempt in 0..self.limits.attempts {
            let Some(worker) = choose(candidates, &tried, random()) else {
                break;
            };
            if tried.contains(worker) {
                tokio::time::sleep(BACKOFF * (1 << attempt.min(6))).await;
            }
            let left = self.limits.step_timeout().saturating_sub(started.elapsed());
            let others = candidates
                .iter()
                .any(|other| other.name() != worker.name() && !tried.contains(other));
            let limit = if others && attempt + 1 < self.limits.attempts {
                left.min(self.limits.attempt_timeout())
            } else {
                left
            };
            let ask = self.ask(worker, evaluation, message);
            reason = match tokio::time::timeout(limit, ask).await {
                Ok(Ok(reply)) => {
                    worker.trust();
                    return Ok((reply, worker.name()));
                }
                Ok(Err(failure)) if !failure.elsewhere => return Err(failure),
                Ok(Err(failure)) => {
                    tried.failed(worker);
                    failure.message
                }
                Err(_) => {
                    tried.silent(worker);
                    "the worker did not answer in time".to_owned()
                }
            };
            worker.suspect();
            tracing::warn!(
                query,
                step,
                attempt,
                worker = worker.name(),
                reason,
                "attempt failed"
            );
        }
        Err(Failure::unavailable(format!(
            "step {step} cannot be evaluated now: {reason}; ask again in a moment"
        )))
    }

    async fn ask(
        &self,
        worker: &Worker,
        evaluation: &Evaluation,
        message: &Bytes,
    ) -> Result<Reply, Failure> {
        let _in_flight = worker.begin();
        let at = (evaluation.query(), evaluation.step());
        let link = self.links.to(worker).await?;
        let reply = link.evaluate(at, message, evaluation.sealed_state());
        let reply = reply.await?;
        let is_last = at.1 as usize + 1 == self.grant.steps.len();
        if !is_last && reply.sealed_state.is_empty() {
            return Err(Failure::unavailable("the worker left no state"));
        }
        Ok(reply)
    }
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // without randomness the first worker is as good as any
    let _ = getrandom::fill(&mut bytes);
    u32::from_le_bytes(bytes)
}
