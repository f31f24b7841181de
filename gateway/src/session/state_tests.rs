//! Random histories of a session against its invariants.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

const STEPS: u32 = 3;

fn bounds(running: usize) -> Bounds {
    Bounds {
        steps: STEPS,
        running,
        ranges: 64,
        patience: Duration::from_secs(60),
    }
}

#[derive(Debug, Clone)]
enum Operation {
    /// The client sends a step.
    Begin(u64, u32),
    /// The oldest evaluation of the query succeeds.
    Succeed(u64),
    /// The oldest evaluation of the query fails.
    Fail(u64),
    /// The client gives the query up.
    Cancel(u64),
    /// Seconds pass.
    Wait(u64),
}

impl Operation {
    fn query(&self) -> Option<u64> {
        match self {
            Self::Begin(query, _)
            | Self::Succeed(query)
            | Self::Fail(query)
            | Self::Cancel(query) => Some(*query),
            Self::Wait(_) => None,
        }
    }
}

fn operation() -> impl Strategy<Value = Operation> {
    let query = 0u64..5;
    prop_oneof![
        4 => (query.clone(), 0..=STEPS).prop_map(|(q, s)| Operation::Begin(q, s)),
        4 => query.clone().prop_map(Operation::Succeed),
        1 => query.clone().prop_map(Operation::Fail),
        1 => query.prop_map(Operation::Cancel),
        1 => (0u64..50).prop_map(Operation::Wait),
    ]
}

fn history() -> impl Strategy<Value = Vec<Operation>> {
    proptest::collection::vec(operation(), 0..200)
}

/// What the outside saw of one operation.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Began {
        query: u64,
        step: u32,
        state: SealedState,
    },
    Refused(Refusal),
    Settled(Settled),
    Cancelled(bool),
    Nothing,
}

/// A session with its evaluations under way; each success leaves a state that nobody left before.
struct Run {
    session: SessionState,
    under_way: HashMap<u64, Vec<Evaluation>>,
    now: Duration,
}

fn left_by(query: u64, step: u32) -> SealedState {
    vec![format!("left by {query}/{step}").into()]
}

impl Run {
    fn new(running: usize) -> Self {
        Self {
            session: SessionState::new(bounds(running)),
            under_way: HashMap::new(),
            now: Duration::ZERO,
        }
    }

    fn oldest(&mut self, query: u64) -> Option<Evaluation> {
        let list = self.under_way.get_mut(&query)?;
        (!list.is_empty()).then(|| list.remove(0))
    }

    fn apply(&mut self, operation: &Operation) -> Seen {
        match *operation {
            Operation::Begin(query, step) => match self.session.begin(query, step, self.now) {
                Ok(evaluation) => {
                    let state = evaluation.sealed_state().to_vec();
                    self.under_way.entry(query).or_default().push(evaluation);
                    Seen::Began { query, step, state }
                }
                Err(refusal) => Seen::Refused(refusal),
            },
            Operation::Succeed(query) => self.oldest(query).map_or(Seen::Nothing, |evaluation| {
                let state = left_by(query, evaluation.step());
                Seen::Settled(self.session.succeed(evaluation, state, self.now))
            }),
            Operation::Fail(query) => self.oldest(query).map_or(Seen::Nothing, |evaluation| {
                Seen::Settled(self.session.fail(evaluation))
            }),
            Operation::Cancel(query) => Seen::Cancelled(self.session.cancel(query)),
            Operation::Wait(seconds) => {
                self.now += Duration::from_secs(seconds);
                Seen::Nothing
            }
        }
    }
}

proptest! {
    /// Each step is sent at most once, in order, with exactly the state that the step before left;
    /// a state is given out once; nothing of a failed query is told.
    #[test]
    fn a_step_is_never_sent_twice(history in history(), running in 1usize..6) {
        let mut run = Run::new(running);
        let mut sent: HashSet<(u64, u32)> = HashSet::new();
        let mut told: HashSet<(u64, u32)> = HashSet::new();
        let mut over: HashSet<u64> = HashSet::new();
        for operation in &history {
            let step_under_way = operation
                .query()
                .and_then(|query| Some(run.under_way.get(&query)?.first()?.step()));
            match run.apply(operation) {
                Seen::Began { query, step, state } => {
                    prop_assert!(sent.insert((query, step)), "{query}/{step} was sent twice");
                    prop_assert!(!over.contains(&query));
                    if step == 0 {
                        prop_assert!(state.is_empty());
                    } else {
                        prop_assert!(told.contains(&(query, step - 1)));
                        prop_assert_eq!(state, left_by(query, step - 1));
                    }
                }
                Seen::Refused(refusal) => {
                    if let (ErrorId::StepOutOfOrder, Some(query)) =
                        (refusal.error_id(), operation.query())
                    {
                        over.insert(query);
                    }
                }
                Seen::Settled(Settled::Tell) => {
                    let (Some(query), Some(step)) = (operation.query(), step_under_way) else {
                        return Err(TestCaseError::fail("settled what was not under way"));
                    };
                    prop_assert!(!over.contains(&query), "told of {query} after it ended");
                    if matches!(operation, Operation::Fail(_)) || step + 1 == STEPS {
                        over.insert(query);
                    }
                    if matches!(operation, Operation::Succeed(_)) {
                        prop_assert!(told.insert((query, step)));
                    }
                }
                Seen::Settled(Settled::Discard) => {
                    prop_assert!(operation.query().is_some_and(|query| over.contains(&query)));
                }
                Seen::Cancelled(true) => {
                    over.extend(operation.query());
                }
                Seen::Cancelled(false) | Seen::Nothing => {}
            }
            prop_assert!(run.session.running() <= running);
        }
    }

    /// What happens to a query is the same whether or not other queries happen around it.
    #[test]
    fn queries_are_independent(history in history()) {
        let mut together = Run::new(usize::MAX);
        let seen: Vec<Seen> = history.iter().map(|operation| together.apply(operation)).collect();
        for query in 0..5 {
            let mut alone = Run::new(usize::MAX);
            for (operation, seen) in history.iter().zip(&seen) {
                if operation.query().is_none_or(|of| of == query) {
                    prop_assert_eq!(&alone.apply(operation), seen);
                }
            }
        }
    }
}

fn begun(session: &mut SessionState, query: u64, step: u32) -> Evaluation {
    session.begin(query, step, Duration::ZERO).unwrap()
}

#[test]
fn refusals_name_what_is_due_and_end_the_query() {
    let now = Duration::ZERO;
    let mut session = SessionState::new(bounds(8));
    let refused = session.begin(1, 1, now).unwrap_err();
    let expected = Refusal::OutOfOrder {
        query: 1,
        got: 1,
        due: 0,
    };
    assert_eq!(refused, expected);
    assert_eq!(
        session.begin(1, 0, now).unwrap_err(),
        Refusal::NumberReused(1)
    );
    let first = begun(&mut session, 2, 0);
    let busy = session.begin(2, 0, now).unwrap_err();
    assert_eq!(busy, Refusal::Busy { query: 2, step: 0 });
    assert_eq!(
        session.succeed(first, SealedState::new(), now),
        Settled::Discard,
        "the reply of a query that failed meanwhile stays here"
    );
    assert_eq!(
        session.begin(2, 1, now).unwrap_err(),
        Refusal::NotRunning(2)
    );
    assert_eq!(
        session.begin(3, STEPS, now).unwrap_err(),
        Refusal::NoSuchStep {
            query: 3,
            got: STEPS,
            steps: STEPS
        }
    );
}

#[test]
fn a_full_session_refuses_without_using_the_number_up() {
    let mut session = SessionState::new(bounds(1));
    let first = begun(&mut session, 1, 0);
    let full = session.begin(2, 0, Duration::ZERO).unwrap_err();
    assert_eq!(full, Refusal::TooManyRunning(1));
    assert_eq!(full.error_id(), ErrorId::SessionLimit);
    assert_eq!(session.fail(first), Settled::Tell);
    begun(&mut session, 2, 0);
}

#[test]
fn a_query_that_its_client_forgot_makes_room() {
    let mut session = SessionState::new(bounds(1));
    let first = begun(&mut session, 1, 0);
    let settled = session.succeed(first, vec![Bytes::from_static(b"state")], Duration::ZERO);
    assert_eq!(settled, Settled::Tell);
    let refused = session.begin(2, 0, Duration::from_secs(60)).unwrap_err();
    assert_eq!(refused, Refusal::TooManyRunning(1));
    assert!(session.begin(3, 0, Duration::from_secs(61)).is_ok());
    assert_eq!(
        session.begin(1, 1, Duration::from_secs(61)).unwrap_err(),
        Refusal::NotRunning(1)
    );
}
