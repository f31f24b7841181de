//! Whether a worker that failed may be asked again: not for a while, which doubles with each
//! failure in a row, and then by one step at a time until one is answered.
//!
//! Pure; times are counted from any one moment.

use std::time::Duration;

/// How long a worker is passed over after its first failure, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));

/// What is thought of a worker.
#[derive(Debug, Default)]
pub(crate) struct Suspicion {
    /// In a row; those of steps that ran side by side count once.
    failures: u32,
    raised: Duration,
    until: Duration,
    /// A step finds out whether it answers again.
    probed: bool,
}

impl Suspicion {
    /// Whether the worker is passed over where there are others.
    pub(crate) fn is_suspect(&self, now: Duration) -> bool {
        self.failures > 0 && (now < self.until || self.probed)
    }

    /// A step is given to the worker; says whether it is the one that finds out.
    pub(crate) fn enter(&mut self, now: Duration) -> bool {
        let probes = self.failures > 0 && !self.is_suspect(now);
        self.probed |= probes;
        probes
    }

    /// The step that should find out was given up.
    pub(crate) fn give_up(&mut self) {
        self.probed = false;
    }

    /// An attempt that began at `begun` has failed.
    pub(crate) fn fail(&mut self, begun: Duration, now: Duration) {
        if self.failures > 0 && begun < self.raised {
            // it ran beside the one that is counted
            return;
        }
        let pause = PAUSES.0.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.raised = now;
        self.until = now + pause.min(PAUSES.1);
        self.probed = false;
    }

    /// The worker has answered.
    pub(crate) fn trust(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_failure_in_a_row_doubles_the_pause_up_to_a_minute() {
        let mut worker = Suspicion::default();
        let mut now = at(10);
        assert!(!worker.is_suspect(now));
        for pause in [3, 6, 12, 24, 48, 60, 60] {
            worker.fail(now, now);
            let almost = now + at(pause) - Duration::from_millis(1);
            assert!(worker.is_suspect(almost), "after {pause} s");
            now += at(pause);
            assert!(!worker.is_suspect(now), "after {pause} s");
        }
        worker.trust();
        worker.fail(now, now);
        assert!(
            !worker.is_suspect(now + at(3)),
            "an answer resets the pause"
        );
    }

    #[test]
    fn one_step_at_a_time_finds_out() {
        let mut worker = Suspicion::default();
        assert!(
            !worker.enter(at(0)),
            "nothing to find out of a worker that answers"
        );
        worker.fail(at(0), at(1));
        assert!(
            !worker.enter(at(2)),
            "a step that has no other choice finds nothing out"
        );
        assert!(worker.enter(at(4)));
        assert!(worker.is_suspect(at(4)));
        assert!(!worker.enter(at(4)));
        worker.give_up();
        assert!(worker.enter(at(5)), "the next one finds out");
        worker.trust();
        assert!(!worker.is_suspect(at(5)));
    }

    #[test]
    fn failures_side_by_side_count_once() {
        let mut worker = Suspicion::default();
        for _ in 0..64 {
            worker.fail(at(0), at(12));
        }
        // one more that began before and ends after the pause
        worker.fail(at(11), at(20));
        assert!(!worker.is_suspect(at(15)));
        worker.fail(at(16), at(20));
        assert!(worker.is_suspect(at(25)) && !worker.is_suspect(at(26)));
    }
}
