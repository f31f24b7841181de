//! Which query of a session stands where: a pure state machine, no I/O, no clock.
//!
//! * A query number begins once and is never used again in the session.
//! * Steps come in order; each is begun at most once, whatever became of it. Trying another replica
//!   happens inside one [`Evaluation`], before any reply of that step has left.
//! * The sealed state that a step left goes into the evaluation of the next step of the same query
//!   and nowhere else; an evaluation cannot be copied, and settling uses it up.
//! * Once a query has failed nothing of it is delivered any more.
//! * Queries do not touch each other, except through the bound on how many run.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use chemxor_core::ErrorId;

use super::numbers::{Insertion, NumberSet};

/// What a step left, opaque: one part for each worker that shared it.
pub(crate) type SealedState = Vec<Bytes>;

/// Why a step is not evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The number was used before in this session.
    #[error("query {0} was begun before; give every query a new number")]
    NumberReused(u64),
    /// The query has ended.
    #[error("query {0} is not running any more; start a new one")]
    NotRunning(u64),
    /// Another step is due.
    #[error("query {query}: step {got} came, step {due} is due; start a new query")]
    OutOfOrder { query: u64, got: u32, due: u32 },
    /// The step is being evaluated.
    #[error("query {query}: step {step} is under evaluation; start a new query")]
    Busy { query: u64, step: u32 },
    /// The model has no such step.
    #[error("query {query}: the model has {steps} steps, there is no step {got}")]
    NoSuchStep { query: u64, got: u32, steps: u32 },
    /// As many queries run as may.
    #[error("{0} queries of this session are running; wait for one to end")]
    TooManyRunning(usize),
    /// The numbers used are in too many pieces to be remembered.
    #[error("the query numbers of this session are too scattered; count upwards from 1")]
    TooScattered,
}

impl Refusal {
    /// The error that the client is told.
    pub(crate) fn error_id(self) -> ErrorId {
        match self {
            Self::TooManyRunning(_) | Self::TooScattered => ErrorId::SessionLimit,
            _ => ErrorId::StepOutOfOrder,
        }
    }
}

/// A step that may be evaluated now: the only holder of the sealed state it needs.
#[derive(Debug)]
pub(crate) struct Evaluation {
    query: u64,
    step: u32,
    sealed_state: SealedState,
}

impl Evaluation {
    pub(crate) fn query(&self) -> u64 {
        self.query
    }

    pub(crate) fn step(&self) -> u32 {
        self.step
    }

    /// What the previous step left; empty for step 0.
    pub(crate) fn sealed_state(&self) -> &[Bytes] {
        &self.sealed_state
    }
}

/// What to do with the outcome of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Settled {
    /// Tell the client.
    Tell,
    /// The query has failed in the meantime and the client knows; say nothing.
    Discard,
}

/// Bounds of one session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Steps of the model.
    pub(crate) steps: u32,
    /// Queries that may run at the same time.
    pub(crate) running: usize,
    /// Ranges of used numbers that are remembered.
    pub(crate) ranges: usize,
    /// A query that waits for its client longer than this makes room for a new one.
    pub(crate) patience: Duration,
}

#[derive(Debug)]
enum Standing {
    /// The client's message for `step` is awaited since `since`.
    Due {
        step: u32,
        sealed_state: SealedState,
        since: Duration,
    },
    /// `step` is under evaluation.
    Evaluating { step: u32 },
}

/// The queries of one session. Times are counted from its beginning.
#[derive(Debug)]
pub(crate) struct SessionState {
    bounds: Bounds,
    used: NumberSet,
    running: HashMap<u64, Standing>,
}

impl SessionState {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            used: NumberSet::new(bounds.ranges),
            running: HashMap::new(),
        }
    }

    /// Begins the evaluation of a step. A refusal ends the query, except where the session is full.
    pub(crate) fn begin(
        &mut self,
        query: u64,
        step: u32,
        now: Duration,
    ) -> Result<Evaluation, Refusal> {
        let steps = self.bounds.steps;
        let outcome = match self.running.remove(&query) {
            _ if step >= steps => Err(Refusal::NoSuchStep {
                query,
                got: step,
                steps,
            }),
            Some(Standing::Evaluating { step }) => Err(Refusal::Busy { query, step }),
            Some(Standing::Due { step: due, .. }) if due != step => Err(Refusal::OutOfOrder {
                query,
                got: step,
                due,
            }),
            Some(Standing::Due { sealed_state, .. }) => Ok(sealed_state),
            None if self.used.contains(query) && step == 0 => Err(Refusal::NumberReused(query)),
            None if self.used.contains(query) => Err(Refusal::NotRunning(query)),
            None if step != 0 => Err(Refusal::OutOfOrder {
                query,
                got: step,
                due: 0,
            }),
            None => {
                self.make_room(now)?;
                Ok(SealedState::new())
            }
        };
        let remembered = self.used.insert(query);
        let sealed_state = outcome?;
        if remembered == Insertion::Full {
            return Err(Refusal::TooScattered);
        }
        self.running.insert(query, Standing::Evaluating { step });
        Ok(Evaluation {
            query,
            step,
            sealed_state,
        })
    }

    fn make_room(&mut self, now: Duration) -> Result<(), Refusal> {
        let Bounds {
            running, patience, ..
        } = self.bounds;
        if self.running.len() >= running {
            self.running.retain(|_, standing| match standing {
                Standing::Due { since, .. } => now.saturating_sub(*since) <= patience,
                Standing::Evaluating { .. } => true,
            });
        }
        if self.running.len() < running {
            Ok(())
        } else {
            Err(Refusal::TooManyRunning(running))
        }
    }

    /// The step succeeded and left `sealed_state`; after the last step the query ends.
    pub(crate) fn succeed(
        &mut self,
        done: Evaluation,
        sealed_state: SealedState,
        now: Duration,
    ) -> Settled {
        let Evaluation { query, step, .. } = done;
        if self.fail(done) == Settled::Discard {
            return Settled::Discard;
        }
        let next = step + 1;
        if next < self.bounds.steps {
            let due = Standing::Due {
                step: next,
                sealed_state,
                since: now,
            };
            self.running.insert(query, due);
        }
        Settled::Tell
    }

    /// The step failed for good, and with it the query.
    #[allow(clippy::needless_pass_by_value)] // settling uses the evaluation up
    pub(crate) fn fail(&mut self, failed: Evaluation) -> Settled {
        match self.running.remove(&failed.query) {
            Some(_) => Settled::Tell,
            None => Settled::Discard,
        }
    }

    /// The client gives a query up; says whether it was running. Its number stays used.
    pub(crate) fn cancel(&mut self, query: u64) -> bool {
        self.running.remove(&query).is_some()
    }

    /// Whether a message for this step would be evaluated.
    pub(crate) fn awaits(&self, query: u64, step: u32) -> bool {
        match self.running.get(&query) {
            Some(Standing::Due { step: due, .. }) => *due == step,
            Some(Standing::Evaluating { .. }) => false,
            None => step == 0 && !self.used.contains(query),
        }
    }

    /// Queries whose numbers are used up.
    pub(crate) fn begun(&self) -> u64 {
        self.used.count()
    }

    /// Queries that are running.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
