//! One step: on one of its workers, on another one when that fails, and the outcome to the client.
//!
//! Invariant: the sealed state stays inside the [`Evaluation`] while replicas are tried, and no
//! reply has left by then, so the client sees at most one answer to a step.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chemxor_core::{ErrorId, ReplyShape, join_replies};
use chemxor_proto::{MAX_SEALED_STATE_BYTES, v1};
use chemxor_runtime::traces::{Parent, Side};
use tower::retry::budget::Budget;

use super::Session;
use super::outbox::ClientGone;
use super::state::{Evaluation, Settled};
use crate::failure::{Blame, Failure};
use crate::link::{Link, Reply, ReplyBounds};
use crate::pool::{Attempt, Tried, Worker, choose};
use crate::routes::{Share, jittered, random};

/// Pause before the same worker is asked again; doubles each time.
const BACKOFF: Duration = Duration::from_millis(50);

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Link>>>>;

/// The streams of one session, one for each worker that it has needed.
pub(super) struct Links {
    open: v1::OpenEvaluation,
    bounds: ReplyBounds,
    trace: Parent,
    slots: Mutex<HashMap<String, Slot>>,
}

impl Links {
    pub(super) fn new(open: v1::OpenEvaluation, bounds: ReplyBounds, trace: Parent) -> Self {
        Self {
            open,
            bounds,
            trace,
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
        let (open, bounds) = (self.open.clone(), self.bounds);
        let opening = Link::open(worker.channel(), open, bounds, &self.trace);
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
        asked: Option<Duration>,
    ) -> Result<(), ClientGone> {
        let started = Instant::now();
        let (query, step) = (evaluation.query(), evaluation.step());
        let mut span = self.trace.child("step", Side::Internal);
        span.number("chemxor.query", query);
        span.number("chemxor.step", step.into());
        let below = span.parent();
        let outcome = self.evaluate(&evaluation, message, asked, &below).await;
        match &outcome {
            Ok(reply) => {
                span.number("chemxor.compute_us", reply.compute_us.into());
                span.succeed();
            }
            Err(failure) => span.fail(failure.id),
        }
        span.end();
        let us = started.elapsed().as_micros() as u64;
        let up = message.len();
        let result = if outcome.is_ok() { "ok" } else { "failed" };
        metrics::counter!("chemxor_gateway_steps_total", "outcome" => result).increment(1);
        metrics::histogram!("chemxor_gateway_step_seconds").record(started.elapsed());
        match outcome {
            Ok(reply) => {
                let down = reply.message.len();
                let sealed = reply.sealed_states.iter().map(Bytes::len).sum();
                tracing::debug!(query, step, us, up, down, sealed, "step");
                self.tally.step(sealed);
                self.meter.add_compute(reply.compute_us);
                let state = reply.sealed_states.clone();
                // from here on the step counts as evaluated, whatever happens to the client
                let settled = self.state().succeed(evaluation, state, self.age());
                if settled == Settled::Tell && step + 1 == self.grant.steps() {
                    self.meter.release();
                }
                self.meter.add_bytes(down);
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

    /// The reply of the whole step: from one worker, or joined from those that share it.
    async fn evaluate(
        &self,
        evaluation: &Evaluation,
        message: &Bytes,
        asked: Option<Duration>,
        trace: &Parent,
    ) -> Result<Answer, Failure> {
        let route = self.grant.route();
        let deadline = Deadline::new(self.limits.step_timeout(), asked);
        let step = evaluation.step();
        match route.step(step) {
            [] => Err(cannot(step, "no worker is placed there")),
            [whole] => {
                let reply = self.share(evaluation, message, whole, deadline, trace);
                let reply = reply.await?;
                Ok(Answer {
                    message: reply.message,
                    sealed_states: reply.sealed_states,
                    compute_us: reply.compute_us,
                })
            }
            shares => {
                let all = shares
                    .iter()
                    .map(|share| self.share(evaluation, message, share, deadline, trace));
                // the first share that fails for good ends the others
                let joined = join(&futures::future::try_join_all(all).await?)?;
                let shape = self.grant.replies.get(step as usize);
                let fits = shape.map_or(Ok(()), |shape| shape.check(&joined.message, None));
                fits.map_err(|reason| cannot(step, reason))?;
                Ok(joined)
            }
        }
    }

    /// The reply of one share: from one of its replicas, another one when that fails.
    async fn share(
        &self,
        evaluation: &Evaluation,
        message: &Bytes,
        share: &Share,
        deadline: Deadline,
        trace: &Parent,
    ) -> Result<Reply, Failure> {
        let (query, step) = (evaluation.query(), evaluation.step());
        let mut tried = Tried::default();
        let mut failed = Failure::unavailable("no worker is placed there");
        // a worker that blames the client, until another one says the same or answers
        let mut accusation: Option<(Failure, Attempt<'_>)> = None;
        self.budget.deposit();
        for attempt in 0..self.limits.attempts {
            if deadline.is_missed_by_client() {
                return Err(too_short(step));
            }
            let Some((worker, begun)) = choose(&share.replicas, &tried, random()) else {
                break;
            };
            if attempt > 0 && !self.budget.withdraw() {
                metrics::counter!("chemxor_gateway_retries_refused_total").increment(1);
                failed.message += "; too many steps of late were tried again";
                break;
            }
            let is_again = tried.contains(worker);
            if is_again {
                tokio::time::sleep(jittered(BACKOFF * (1 << attempt.min(6)))).await;
            }
            let left = deadline.left();
            let others = share
                .replicas
                .iter()
                .any(|other| other.name() != worker.name() && !tried.contains(other));
            let limit = if others && attempt + 1 < self.limits.attempts {
                left.min(self.limits.attempt_timeout())
            } else {
                left
            };
            let mut span = trace.child("attempt", Side::Client);
            span.number("chemxor.query", query);
            span.number("chemxor.step", step.into());
            span.number("chemxor.attempt", attempt.into());
            span.text("chemxor.worker.name", worker.name());
            let ask = self.ask(worker, evaluation, message, share, limit);
            let outcome = tokio::time::timeout(limit, ask).await;
            match &outcome {
                Ok(Ok(_)) => span.succeed(),
                Ok(Err(failure)) => span.fail(failure.id),
                Err(_) => span.fail(ErrorId::WorkerUnavailable),
            }
            span.end();
            failed = match outcome {
                Ok(Ok(reply)) => {
                    begun.succeeded();
                    if let Some((wrong, by)) = accusation {
                        count_failed((query, step), by.worker().name(), &wrong.message);
                        by.failed();
                    }
                    return Ok(reply);
                }
                Ok(Err(failure)) if failure.blame() == Blame::ClientForGood => {
                    if !is_again {
                        return Err(failure);
                    }
                    // seen twice because it was asked twice: what it said first stands
                    begun.failed();
                    break;
                }
                Ok(Err(failure)) if failure.blame() == Blame::Client => {
                    if !others || accusation.is_some() {
                        return Err(failure);
                    }
                    tried.failed(worker);
                    accusation = Some((failure.clone(), begun));
                    failed = failure;
                    continue;
                }
                // says nothing about the worker, and there is no time for another one
                _ if deadline.is_missed_by_client() => return Err(too_short(step)),
                Ok(Err(failure)) => {
                    tried.failed(worker);
                    failure
                }
                Err(_) => {
                    tried.silent(worker);
                    Failure::unavailable("the worker did not answer in time")
                }
            };
            begun.failed();
            count_failed((query, step), worker.name(), &failed.message);
        }
        // nobody has contradicted it
        if let Some((failure, _)) = accusation {
            return Err(failure);
        }
        Err(match failed.id {
            ErrorId::WorkerUnavailable => cannot(step, &failed.message),
            _ => failed,
        })
    }

    async fn ask(
        &self,
        worker: &Worker,
        evaluation: &Evaluation,
        message: &Bytes,
        share: &Share,
        limit: Duration,
    ) -> Result<Reply, Failure> {
        let at = (evaluation.query(), evaluation.step());
        let shape = self.grant.replies.get(at.1 as usize);
        let permits = self.grant.permits.get(at.1 as usize).copied().unwrap_or(1);
        // a part of the step is a part of its work
        let permits = match (&share.groups, shape) {
            (Some(groups), Some(shape)) => (u64::from(permits) * groups.len() as u64)
                .div_ceil(shape.groups().max(1) as u64)
                .clamp(1, permits.into()) as u32,
            _ => permits,
        };
        let _in_flight = worker.begin(permits);
        let link = self.links.to(worker).await?;
        let most = shape.map_or(0, ReplyShape::bytes);
        let reply = link.evaluate(at, message, evaluation.sealed_state(), limit, most);
        let reply = reply.await?;
        let is_last = at.1 + 1 == self.grant.steps();
        if !is_last && reply.sealed_states.is_empty() {
            return Err(Failure::unavailable("the worker left no state"));
        }
        let fits = shape.map_or(Ok(()), |shape| {
            shape.check(&reply.message, share.groups.as_ref())
        });
        fits.map_err(Failure::unavailable)?;
        Ok(reply)
    }
}

/// An attempt that another replica must make good.
fn count_failed((query, step): (u64, u32), worker: &str, reason: &str) {
    metrics::counter!("chemxor_gateway_attempts_failed_total", "worker" => worker.to_owned())
        .increment(1);
    tracing::warn!(query, step, worker, reason, "attempt failed");
}

/// When a step must be answered.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    end: Instant,
    /// Whether the client set it, earlier than the gateway would.
    is_clients: bool,
}

impl Deadline {
    fn new(own: Duration, asked: Option<Duration>) -> Self {
        let asked = asked.filter(|asked| *asked < own);
        Self {
            end: Instant::now() + asked.unwrap_or(own),
            is_clients: asked.is_some(),
        }
    }

    fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Whether the time that the client gave is over: nobody else's fault.
    fn is_missed_by_client(self) -> bool {
        self.is_clients && self.left().is_zero()
    }
}

fn too_short(step: u32) -> Failure {
    let message = format!(
        "step {step} was not answered in the time that the client gave it; give it more time"
    );
    Failure::unavailable(message)
}

fn cannot(step: u32, reason: &str) -> Failure {
    Failure::unavailable(format!(
        "step {step} cannot be evaluated now: {reason}; ask again in a moment"
    ))
}

/// What a step gave.
struct Answer {
    message: Bytes,
    sealed_states: Vec<Bytes>,
    /// Microseconds of all workers together.
    compute_us: u32,
}

/// Puts the replies of shares together, in their order.
fn join(replies: &[Reply]) -> Result<Answer, Failure> {
    let parts: Vec<&Bytes> = replies.iter().map(|reply| &reply.message).collect();
    let message = join_replies(&parts)
        .map_err(|error| Failure::unavailable(format!("the shares do not join: {error}")))?;
    let states = replies
        .iter()
        .flat_map(|reply| reply.sealed_states.iter().cloned());
    let sealed_states: Vec<Bytes> = states.collect();
    if sealed_states.iter().map(Bytes::len).sum::<usize>() > MAX_SEALED_STATE_BYTES {
        return Err(Failure::unavailable("the shares left too much state"));
    }
    let compute_us = replies
        .iter()
        .fold(0, |sum: u32, reply| sum.saturating_add(reply.compute_us));
    Ok(Answer {
        message: message.into(),
        sealed_states,
        compute_us,
    })
}
