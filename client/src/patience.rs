//! How often and how long a molecule is asked again.

use std::time::{Duration, Instant};

use crate::ClientError;

/// Longest pause between two attempts.
const LONGEST: Duration = Duration::from_secs(2);

/// How often and how patiently to ask again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Attempts for one molecule, the first included.
    pub attempts: u32,
    /// Pause after the first failure; doubles each time, up to two seconds.
    pub pause: Duration,
    /// For so long a molecule is asked again while the platform is away: nobody answers, a service says
    /// that its own peers do not, or a session that broke off still counts among those allowed. Attempts
    /// that find it so are not among `attempts`.
    pub outage: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 8,
            pause: Duration::from_millis(100),
            outage: Duration::ZERO,
        }
    }
}

/// What is done after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Again {
    /// Number of the attempt that failed, from 1.
    pub(crate) attempt: u32,
    /// Before the next one.
    pub(crate) pause: Duration,
    /// Whether the platform was found away and is waited for.
    pub(crate) is_away: bool,
}

/// The attempts at one molecule.
#[derive(Debug)]
pub(crate) struct Attempts {
    patience: Patience,
    started: Instant,
    made: u32,
    /// Of these, those that did not find the platform away.
    counted: u32,
    pause: Duration,
}

impl Attempts {
    pub(crate) fn begin(patience: Patience) -> Self {
        Self {
            patience,
            started: Instant::now(),
            made: 0,
            counted: 0,
            pause: patience.pause,
        }
    }

    /// An attempt has failed so; none when it was the last one.
    pub(crate) fn failed(&mut self, error: &ClientError) -> Option<Again> {
        if !error.is_retryable() {
            return None;
        }
        let Patience {
            attempts, outage, ..
        } = self.patience;
        let is_over = self.started.elapsed() >= outage;
        if error.is_outage() && is_over && !outage.is_zero() {
            // it was waited for long enough, in many attempts or in one that nobody answered
            return None;
        }
        let is_away = error.is_outage() && !is_over;
        self.made += 1;
        // what a platform answers that has come back is not judged by how long it was away
        self.counted += u32::from(!is_away);
        if self.counted >= attempts && !is_away {
            return None;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST);
        Some(Again {
            attempt: self.made,
            pause,
            is_away,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chemxor_core::ErrorId;

    fn service(id: ErrorId) -> ClientError {
        ClientError::Service {
            id,
            message: String::new(),
            retryable: id.is_retryable(),
        }
    }

    fn away() -> ClientError {
        ClientError::Connection {
            endpoint: "localhost:1".into(),
            reason: "connection refused".into(),
        }
    }

    /// How often a molecule is asked when every attempt fails so.
    fn asked(patience: Patience, error: &ClientError) -> u32 {
        let mut attempts = Attempts::begin(patience);
        let again = std::iter::from_fn(|| attempts.failed(error));
        1 + again.take(1000).count() as u32
    }

    #[test]
    fn attempts_are_bounded_unless_the_platform_is_away_and_waited_for() {
        let patient = Patience {
            outage: Duration::from_secs(3600),
            ..Patience::default()
        };
        for patience in [Patience::default(), patient] {
            assert_eq!(asked(patience, &service(ErrorId::StateRefused)), 8);
            assert_eq!(asked(patience, &service(ErrorId::VersionRevoked)), 1);
        }
        for error in [
            away(),
            service(ErrorId::WorkerUnavailable),
            service(ErrorId::SessionLimit),
            service(ErrorId::QuotaExhausted),
        ] {
            assert_eq!(asked(Patience::default(), &error), 8);
            assert_eq!(asked(patient, &error), 1001, "it goes on");
        }
    }

    #[test]
    fn an_outage_that_lasts_too_long_ends_with_the_next_attempt() {
        let patience = Patience {
            outage: Duration::from_nanos(1),
            ..Patience::default()
        };
        assert_eq!(asked(patience, &away()), 1);
        assert_eq!(asked(patience, &service(ErrorId::StateRefused)), 8);
    }

    #[test]
    fn a_platform_that_comes_back_is_asked_as_often_as_one_that_was_there() {
        let patience = Patience {
            outage: Duration::from_secs(3600),
            ..Patience::default()
        };
        let mut attempts = Attempts::begin(patience);
        for attempt in 1..=20 {
            let again = attempts.failed(&away()).unwrap();
            assert_eq!((again.attempt, again.is_away), (attempt, true));
        }
        for attempt in 21..=27 {
            let again = attempts.failed(&service(ErrorId::StateRefused)).unwrap();
            assert_eq!((again.attempt, again.is_away), (attempt, false));
        }
        assert_eq!(attempts.failed(&service(ErrorId::StateRefused)), None);
    }

    #[test]
    fn pauses_double_up_to_two_seconds() {
        let mut attempts = Attempts::begin(Patience::default());
        let pauses = std::iter::from_fn(|| attempts.failed(&away()));
        let ms: Vec<u128> = pauses.map(|again| again.pause.as_millis()).collect();
        assert_eq!(ms, [100, 200, 400, 800, 1600, 2000, 2000]);
    }
}
