//! Which query stands where: a pure state machine, no I/O, no clock.
//!
//! * A query number begins once and is never used again.
//! * Steps come in order; a step that succeeded is never evaluated again.
//! * The sealed state that a step left is given out for the next step only, and stays here (not at
//!   the client) until then. While a step is evaluated it may be handed to another replica after a
//!   failure, because no reply of that step has left yet.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

/// Why a step is not evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The number was used before in this session.
    #[error("query {0} was begun before; every query takes a new number")]
    NumberReused(u64),
    /// The query does not exist (any more).
    #[error("query {0} is not running")]
    NotRunning(u64),
    /// Another step is due.
    #[error("query {query}: step {got} came, step {due} is due")]
    OutOfOrder {
        /// Which query.
        query: u64,
        /// The step that came.
        got: u32,
        /// The step that is due.
        due: u32,
    },
    /// The step is being evaluated.
    #[error("query {query}: step {step} is under evaluation")]
    Busy {
        /// Which query.
        query: u64,
        /// Which step.
        step: u32,
    },
    /// The model has no such step.
    #[error("query {query}: the model has no step {step}")]
    NoSuchStep {
        /// Which query.
        query: u64,
        /// Which step.
        step: u32,
    },
    /// The session has asked enough.
    #[error("the session has reached its limit of {0} queries; open a new one")]
    TooManyQueries(usize),
}

#[derive(Debug)]
struct Standing {
    due: u32,
    busy: bool,
    state: Bytes,
}

/// The queries of one session.
#[derive(Debug)]
pub struct Ledger {
    steps: u32,
    limit: usize,
    used: HashSet<u64>,
    running: HashMap<u64, Standing>,
}

impl Ledger {
    /// For a model of `steps` steps, and at most `limit` queries.
    pub fn new(steps: u32, limit: usize) -> Self {
        Self { steps, limit, used: HashSet::new(), running: HashMap::new() }
    }

    /// Begins the evaluation of a step; gives the sealed state it needs (empty for step 0).
    pub fn begin(&mut self, query: u64, step: u32) -> Result<Bytes, LedgerError> {
        if step >= self.steps {
            return Err(LedgerError::NoSuchStep { query, step });
        }
        if let Some(standing) = self.running.get_mut(&query) {
            if standing.busy {
                return Err(LedgerError::Busy { query, step: standing.due });
            }
            if standing.due != step {
                return Err(LedgerError::OutOfOrder { query, got: step, due: standing.due });
            }
            standing.busy = true;
            return Ok(std::mem::take(&mut standing.state));
        }
        if self.used.contains(&query) {
            let error = if step == 0 { LedgerError::NumberReused(query) } else { LedgerError::NotRunning(query) };
            return Err(error);
        }
        if step != 0 {
            return Err(LedgerError::OutOfOrder { query, got: step, due: 0 });
        }
        if self.used.len() >= self.limit {
            return Err(LedgerError::TooManyQueries(self.limit));
        }
        self.used.insert(query);
        self.running.insert(query, Standing { due: 0, busy: true, state: Bytes::new() });
        Ok(Bytes::new())
    }

    /// The step under evaluation succeeded and left `state`; after the last step the query ends.
    pub fn succeed(&mut self, query: u64, state: Bytes) {
        let Some(standing) = self.running.get_mut(&query).filter(|standing| standing.busy) else {
            return;
        };
        standing.due += 1;
        standing.busy = false;
        standing.state = state;
        if standing.due == self.steps {
            self.running.remove(&query);
        }
    }

    /// The query failed for good; its number stays used.
    pub fn fail(&mut self, query: u64) {
        self.running.remove(&query);
    }

    /// Queries begun.
    pub fn begun(&self) -> usize {
        self.used.len()
    }

    /// Queries that are running.
    pub fn running(&self) -> usize {
        self.running.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Debug, Clone)]
    enum Operation {
        Begin(u64, u32),
        Succeed(u64),
        Fail(u64),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            (0u64..5, 0u32..4).prop_map(|(q, s)| Operation::Begin(q, s)),
            (0u64..5).prop_map(Operation::Succeed),
            (0u64..5).prop_map(Operation::Fail),
        ]
    }

    proptest! {
        /// Whatever comes: a step that succeeded is never begun again, steps are in order, and the
        /// state given out is the one that the previous step of the same query left.
        #[test]
        fn a_step_succeeds_at_most_once(operations in proptest::collection::vec(operation(), 0..200)) {
            let mut ledger = Ledger::new(3, 100);
            let mut done: HashMap<u64, u32> = HashMap::new();
            let mut busy: HashMap<u64, u32> = HashMap::new();
            let mut dead: HashSet<u64> = HashSet::new();
            let label = |query: u64, step: u32| Bytes::from(format!("{query}/{step}"));
            for operation in operations {
                match operation {
                    Operation::Begin(query, step) => {
                        if let Ok(state) = ledger.begin(query, step) {
                            prop_assert!(!dead.contains(&query));
                            prop_assert!(!busy.contains_key(&query));
                            prop_assert_eq!(step, done.get(&query).copied().unwrap_or(0));
                            let expected = if step == 0 { Bytes::new() } else { label(query, step - 1) };
                            prop_assert_eq!(state, expected);
                            busy.insert(query, step);
                        }
                    }
                    Operation::Succeed(query) => {
                        if let Some(step) = busy.remove(&query) {
                            ledger.succeed(query, label(query, step));
                            done.insert(query, step + 1);
                            if step == 2 { dead.insert(query); }
                        } else {
                            ledger.succeed(query, Bytes::from_static(b"forged"));
                        }
                    }
                    Operation::Fail(query) => {
                        ledger.fail(query);
                        if busy.remove(&query).is_some() || done.contains_key(&query) {
                            dead.insert(query);
                        }
                    }
                }
            }
            prop_assert!(ledger.running() <= ledger.begun());
        }
    }

    #[test]
    fn refusals_name_what_is_due() {
        let mut ledger = Ledger::new(2, 2);
        assert_eq!(ledger.begin(1, 1), Err(LedgerError::OutOfOrder { query: 1, got: 1, due: 0 }));
        assert_eq!(ledger.begin(1, 2), Err(LedgerError::NoSuchStep { query: 1, step: 2 }));
        ledger.begin(1, 0).unwrap();
        assert_eq!(ledger.begin(1, 0), Err(LedgerError::Busy { query: 1, step: 0 }));
        ledger.succeed(1, Bytes::from_static(b"s"));
        assert_eq!(ledger.begin(1, 0), Err(LedgerError::OutOfOrder { query: 1, got: 0, due: 1 }));
        assert_eq!(ledger.begin(1, 1).unwrap(), "s");
        ledger.succeed(1, Bytes::new());
        assert_eq!(ledger.begin(1, 0), Err(LedgerError::NumberReused(1)));
        assert_eq!(ledger.begin(1, 1), Err(LedgerError::NotRunning(1)));
        ledger.begin(2, 0).unwrap();
        assert_eq!(ledger.begin(3, 0), Err(LedgerError::TooManyQueries(2)));
    }
}
