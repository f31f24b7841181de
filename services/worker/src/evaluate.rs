//! One step evaluation: its wait for permits, and its work on the rayon pool.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chemxor_core::{ErrorId, VersionId};
use chemxor_fhe::server::{
    Blinds, PublicKeys, SealError, SeedLog, StateContext, StateKey, StepError,
};
use chemxor_runtime::traces::Parent;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::load::Model;
use crate::models::release;
use crate::partition::Worker;

/// Query and step.
pub(crate) type At = (u64, u32);

/// Why a step whose time is over was not begun.
const WAITED: &str = "the step waited for longer than its time limit";

/// What all evaluations of a stream share.
pub(crate) struct Session {
    pub(crate) id: [u8; 16],
    pub(crate) version: VersionId,
    pub(crate) keys: PublicKeys,
    pub(crate) seeds: SeedLog,
    pub(crate) trace: Parent,
}

/// What one evaluation gave.
pub(crate) struct Outcome {
    pub(crate) reply: Vec<u8>,
    pub(crate) sealed: Vec<u8>,
    /// Microseconds on the cores.
    pub(crate) compute_us: u32,
}

/// Why one evaluation failed.
pub(crate) struct Failure {
    pub(crate) id: ErrorId,
    pub(crate) message: String,
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

fn unavailable(message: &str) -> Failure {
    Failure {
        id: ErrorId::WorkerUnavailable,
        message: message.to_owned(),
    }
}

/// Waits for the permits that the step takes, then evaluates it on the pool. Dropping the future
/// while it waits gives the place up; once begun, a step is evaluated to its end.
pub(crate) async fn evaluate(
    session: Arc<Session>,
    (query, step): At,
    states: Vec<Bytes>,
    message: Vec<u8>,
    worker: Arc<Worker>,
    limit: Duration,
) -> Result<Outcome, Failure> {
    let asked = Instant::now();
    let admitted = tokio::time::timeout(limit, admit(&session, step, &worker));
    let (model, weight, permit) = tokio::select! {
        biased;
        // what waits is asked elsewhere
        () = worker.stop.cancelled() => return Err(unavailable("the worker stops")),
        admitted = admitted => admitted.map_err(|_| unavailable(WAITED))??,
    };
    metrics::histogram!("chemxor_worker_wait_seconds").record(asked.elapsed());
    let busy = Busy::new(weight);
    let (sender, receiver) = oneshot::channel();
    let span = tracing::Span::current();
    rayon::spawn(move || {
        let _entered = span.entered();
        let started = Instant::now();
        // the pool may have been busy; all that is held here is given up
        if sender.is_closed() {
            return;
        }
        if asked.elapsed() > limit {
            drop((model, permit, busy));
            let _ = sender.send(Err(unavailable(WAITED)));
            return;
        }
        let mut outcome = contained((query, step), || {
            evaluate_now(&session, &model, (query, step), &states, &message)
        });
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

/// Waits for the permits of a step; gives them with the model and with how many they are.
///
/// What waits keeps no model in memory, or every version that is asked for would be there, whatever the
/// limit. A version that was pushed out meanwhile is loaded again, without permits: those are for steps
/// that can run. So that versions which push each other out get on, one at a time of the steps that this
/// has happened to keeps its model while it waits.
async fn admit(
    session: &Session,
    step: u32,
    worker: &Worker,
) -> Result<(Arc<Model>, u32, OwnedSemaphorePermit), Failure> {
    let mut pushed_out = false;
    loop {
        // it may have been unloaded since the session began
        let model = worker.models.get(&session.version).await;
        let model =
            model.ok_or_else(|| unavailable("this worker does not hold the version any more"))?;
        let weight = worker.weigh(model.permits(step));
        let keeper = if pushed_out {
            worker.keeper.try_acquire().ok()
        } else {
            None
        };
        let kept = if keeper.is_some() {
            Some(model)
        } else {
            release(model);
            None
        };
        let permit = worker.permits.clone().acquire_many_owned(weight);
        let permit = permit.await.map_err(|_| unavailable("the worker stops"))?;
        let model = kept.or_else(|| worker.models.resident(&session.version));
        // it may hold another part of the step by now, with another weight
        let model = model.filter(|model| worker.weigh(model.permits(step)) == weight);
        if let Some(model) = model {
            return Ok((model, weight, permit));
        }
        pushed_out = true;
    }
}

/// Makes a panic of a step its failure: one that leaves a job of the pool ends the process, and with it
/// the steps of everybody else.
fn contained<T>(
    (query, step): At,
    compute: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    // nothing that the closure changes is used afterwards, but for the log of seeds, which stays whole
    catch_unwind(AssertUnwindSafe(compute)).unwrap_or_else(|_| {
        metrics::counter!("chemxor_worker_panics_total").increment(1);
        // not what the panic says: it may follow from a weight or a ciphertext
        tracing::error!(query, step, "the evaluation of a step panicked");
        Err(Failure {
            id: ErrorId::Internal,
            message: "the evaluation of the step broke off".to_owned(),
        })
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    /// Out of the pool's job such a panic would end this process.
    #[tokio::test]
    async fn a_panic_is_the_failure_of_its_step_and_the_pool_goes_on() {
        let panics = || -> Result<(), Failure> {
            // on several threads, as steps are evaluated
            (0..64).into_par_iter().for_each(|number| {
                assert!(number != 40, "of the test");
            });
            Ok(())
        };
        let (sender, receiver) = oneshot::channel();
        rayon::spawn(move || drop(sender.send(contained((1, 0), panics))));
        let failure = receiver.await.unwrap().err().unwrap();
        assert_eq!(failure.id, ErrorId::Internal);
        assert!(!failure.message.contains("of the test"));
        let (sender, receiver) = oneshot::channel();
        rayon::spawn(move || drop(sender.send(contained((2, 0), || Ok(7)))));
        assert_eq!(receiver.await.unwrap().ok(), Some(7));
    }
}
