//! Which versions could not be prepared, and when they may be tried again. What was refused once is
//! refused again until its assignment changes, so that one bad publication does not keep a worker
//! fetching. Pure: the caller brings the clock.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use metrics::Gauge;

/// Pause after the first refusal; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Refused keys, each with what was refused.
#[derive(Debug)]
pub(crate) struct Refusals<K, V> {
    entries: HashMap<K, Refusal<V>>,
    /// Shows how many there are.
    shown: Gauge,
}

#[derive(Debug)]
struct Refusal<V> {
    what: V,
    pause: Duration,
    until: Instant,
}

impl<K: Eq + Hash, V: PartialEq> Refusals<K, V> {
    pub(crate) fn new(shown: Gauge) -> Self {
        shown.set(0.0);
        let entries = HashMap::new();
        Self { entries, shown }
    }

    /// Whether it may be tried: it was not refused, or is another one now, or the pause is over.
    pub(crate) fn allow(&self, key: &K, what: &V, now: Instant) -> bool {
        self.entries
            .get(key)
            .is_none_or(|refusal| refusal.what != *what || refusal.until <= now)
    }

    /// Notes a refusal; gives the pause until the next try.
    pub(crate) fn note(&mut self, key: K, what: V, now: Instant) -> Duration {
        let before = self.entries.get(&key);
        let pause = before
            .filter(|refusal| refusal.what == what)
            .map_or(FIRST_PAUSE, |refusal| refusal.pause * 2)
            .min(LONGEST_PAUSE);
        let until = now + pause;
        self.entries.insert(key, Refusal { what, pause, until });
        self.show();
        pause
    }

    /// Forgets what is not wanted any more, or has been prepared.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&K) -> bool) {
        self.entries.retain(|key, _| wanted(key));
        self.show();
    }

    fn show(&self) {
        self.shown.set(self.entries.len() as f64);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn what_is_refused_is_shown_until_it_is_prepared_or_not_wanted_any_more() {
        let bits = Arc::new(AtomicU64::new(f64::NAN.to_bits()));
        let shown = || f64::from_bits(bits.load(Ordering::Acquire));
        let mut refusals = Refusals::new(Gauge::from_arc(bits.clone()));
        let now = Instant::now();
        assert_eq!(shown(), 0.0);
        refusals.note(1, "bad", now);
        // again, long after the first time: no more, and no less
        let pause = refusals.note(1, "bad", now + FIRST_PAUSE);
        assert!(!refusals.allow(&1, &"bad", now + pause));
        assert_eq!(shown(), 1.0);
        refusals.note(2, "bad", now);
        assert_eq!(shown(), 2.0);
        refusals.retain(|key| *key != 1);
        assert_eq!(shown(), 1.0);
        refusals.retain(|_| false);
        assert_eq!(shown(), 0.0);
    }

    #[test]
    fn pauses_double_up_to_an_hour_and_end() {
        let mut refusals = Refusals::new(Gauge::noop());
        let mut now = Instant::now();
        assert!(refusals.allow(&1, &"bad", now));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let pause = refusals.note(1, "bad", now);
            assert!(!refusals.allow(&1, &"bad", now + pause - Duration::from_millis(1)));
            now += pause;
            assert!(refusals.allow(&1, &"bad", now));
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses[..4], [10, 20, 40, 80]);
        assert_eq!(pauses[11], 3600);
    }

    #[test]
    fn another_assignment_is_tried_at_once_and_begins_anew() {
        let mut refusals = Refusals::new(Gauge::noop());
        let now = Instant::now();
        refusals.note(1, "bad", now);
        refusals.note(1, "bad", now);
        assert!(refusals.allow(&1, &"mended", now) && refusals.allow(&2, &"bad", now));
        assert_eq!(refusals.note(1, "mended", now), FIRST_PAUSE);
        assert!(!refusals.allow(&1, &"mended", now));
        refusals.retain(|_| false);
        assert!(refusals.allow(&1, &"mended", now));
    }
}
