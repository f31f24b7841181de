//! Lifecycle of a model version: draft → submitted → approved → deprecated → revoked.
//!
//! The transition function is total; what is not listed is refused with both states named.

use std::fmt;
use std::str::FromStr;

/// Where a version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Being uploaded; nobody but its publisher sees it.
    Draft,
    /// Complete, waits for approval.
    Submitted,
    /// May be queried.
    Approved,
    /// May still be queried, until its sunset date.
    Deprecated,
    /// May never be queried again.
    Revoked,
}

/// What somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The publisher says that the upload is complete.
    Submit,
    /// Another person approves it.
    Approve,
    /// A successor is there.
    Deprecate,
    /// It must stop at once.
    Revoke,
}

/// A transition that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {event} a version that is {from}")]
pub struct LifecycleError {
    /// State it is in.
    pub from: State,
    /// What was asked for.
    pub event: Event,
}

impl State {
    /// All states, in order of life.
    pub const ALL: [Self; 5] = [
        Self::Draft,
        Self::Submitted,
        Self::Approved,
        Self::Deprecated,
        Self::Revoked,
    ];

    /// The state after `event`.
    pub fn apply(self, event: Event) -> Result<Self, LifecycleError> {
        match (self, event) {
            (Self::Draft, Event::Submit) => Ok(Self::Submitted),
            (Self::Submitted, Event::Approve) => Ok(Self::Approved),
            (Self::Approved, Event::Deprecate) => Ok(Self::Deprecated),
            (Self::Submitted | Self::Approved | Self::Deprecated, Event::Revoke) => {
                Ok(Self::Revoked)
            }
            (from, event) => Err(LifecycleError { from, event }),
        }
    }

    /// Whether sessions may use the version.
    pub fn is_servable(self) -> bool {
        matches!(self, Self::Approved | Self::Deprecated)
    }

    /// The stored name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Submitted => "submitted",
            Self::Approved => "approved",
            Self::Deprecated => "deprecated",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Submit => "submit",
            Self::Approve => "approve",
            Self::Deprecate => "deprecate",
            Self::Revoke => "revoke",
        })
    }
}

/// A stored state that this build does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown lifecycle state {0:?}")]
pub struct UnknownState(String);

impl FromStr for State {
    type Err = UnknownState;
    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVENTS: [Event; 4] = [
        Event::Submit,
        Event::Approve,
        Event::Deprecate,
        Event::Revoke,
    ];

    /// The whole table, written out: what is here and nothing else.
    #[test]
    fn every_state_answers_every_event_as_written_here() {
        use State::{Approved, Deprecated, Draft, Revoked, Submitted};
        let table = [
            (Draft, [Some(Submitted), None, None, None]),
            (Submitted, [None, Some(Approved), None, Some(Revoked)]),
            (Approved, [None, None, Some(Deprecated), Some(Revoked)]),
            (Deprecated, [None, None, None, Some(Revoked)]),
            (Revoked, [None, None, None, None]),
        ];
        assert_eq!(table.map(|(from, _)| from), State::ALL);
        for (from, row) in table {
            for (event, to) in EVENTS.into_iter().zip(row) {
                let expected = to.ok_or(LifecycleError { from, event });
                assert_eq!(from.apply(event), expected, "{event} of {from}");
            }
        }
        let refused = Draft.apply(Event::Approve).unwrap_err().to_string();
        assert_eq!(refused, "cannot approve a version that is draft");
    }

    proptest! {
        #[test]
        fn a_version_never_returns_and_revoked_is_final(steps in proptest::collection::vec(0usize..4, 0..20)) {
            let mut state = State::Draft;
            let mut approved = false;
            for step in steps {
                let rank = |s: State| State::ALL.iter().position(|x| *x == s);
                if let Ok(next) = state.apply(EVENTS[step]) {
                    prop_assert!(rank(next) > rank(state));
                    prop_assert_ne!(state, State::Revoked);
                    approved |= next == State::Approved;
                    state = next;
                }
                prop_assert!(!state.is_servable() || approved);
            }
        }
    }

    #[test]
    fn names_round_trip() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse::<State>().unwrap(), state);
        }
        assert!("live".parse::<State>().is_err());
    }
}
