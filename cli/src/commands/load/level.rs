//! What a level of load was like: its samples, their summary, and whether it passes.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chemxor_client::batch::millis;
use serde::Serialize;

/// One query.
pub(super) struct Sample {
    /// When it was due (with a rate) or sent.
    pub(super) due: Instant,
    /// From then to its prediction.
    pub(super) latency: Duration,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) outcome: Outcome,
}

impl Sample {
    /// One that is given up now.
    pub(super) fn failed(due: Instant) -> Self {
        Self {
            due,
            latency: due.elapsed(),
            bytes_up: 0,
            bytes_down: 0,
            outcome: Outcome::Failed,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Right,
    Wrong,
    Failed,
}

/// One level of load, as it is printed and written to CSV.
#[derive(Debug, Serialize)]
pub(super) struct Level {
    /// concurrency or rate.
    pub(super) mode: &'static str,
    /// Queries at the same time, or queries a second.
    pub(super) level: f64,
    /// Whether the throughput of three windows agreed before the time was over.
    pub(super) steady: bool,
    /// Of the last windows together.
    pub(super) seconds: f64,
    /// Those that were due or sent in the last windows, also where the answer came later. Failures, wrong
    /// answers, latencies and bytes are theirs.
    pub(super) queries: u64,
    pub(super) failed: u64,
    pub(super) wrong: u64,
    /// Those that were due or sent in the windows before.
    pub(super) warmup_queries: u64,
    pub(super) warmup_failed: u64,
    pub(super) warmup_wrong: u64,
    /// Answers that came in the last windows, whenever their queries began: the throughput is of these.
    pub(super) answers: u64,
    pub(super) queries_per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
    pub(super) bytes_up_per_query: f64,
    pub(super) bytes_down_per_query: f64,
}

/// Whether each expected value is met; a value that is missing or no number is not.
pub(super) fn fits(values: &[f64], expected: &[f64], tolerance: f64) -> bool {
    values.len() >= expected.len()
        && values
            .iter()
            .zip(expected)
            .all(|(value, expected)| (value - expected).abs() <= tolerance)
}

#[derive(Clone, Copy)]
pub(super) enum Mode {
    Concurrency(f64),
    Rate(f64),
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Concurrency(count) => write!(f, "{count} at the same time"),
            Self::Rate(rate) => write!(f, "{rate} a second"),
        }
    }
}

/// Queries, failed ones, wrong ones.
fn counts(samples: &[&Sample]) -> (u64, u64, u64) {
    let count = |outcome| samples.iter().filter(|s| s.outcome == outcome).count() as u64;
    let queries = samples.len() as u64;
    (queries, count(Outcome::Failed), count(Outcome::Wrong))
}

/// `samples` are all of a level, `reported` is the time of its last windows. Latency belongs to the window
/// in which a query was due or sent, and throughput to the one in which its answer came: latencies of the
/// answers in a window alone would leave out the slowest, which come after it.
pub(super) fn summarise(
    mode: Mode,
    steady: bool,
    samples: &[Sample],
    reported: &Range<Instant>,
) -> Level {
    let seconds = (reported.end - reported.start).as_secs_f64();
    let (warmup, last): (Vec<&Sample>, Vec<&Sample>) = samples
        .iter()
        .partition(|sample| sample.due < reported.start);
    let (queries, failed, wrong) = counts(&last);
    let (warmup_queries, warmup_failed, warmup_wrong) = counts(&warmup);
    let answers = samples
        .iter()
        .filter(|sample| sample.outcome != Outcome::Failed)
        .filter(|sample| reported.contains(&(sample.due + sample.latency)))
        .count() as u64;
    let answered = (queries - failed).max(1) as f64;
    let mut latencies: Vec<f64> = last
        .iter()
        .filter(|sample| sample.outcome != Outcome::Failed)
        .map(|sample| millis(sample.latency))
        .collect();
    latencies.sort_by(f64::total_cmp);
    let (mode, level) = match mode {
        Mode::Concurrency(count) => ("concurrency", count),
        Mode::Rate(rate) => ("rate", rate),
    };
    Level {
        mode,
        level,
        steady,
        seconds,
        queries,
        failed,
        wrong,
        warmup_queries,
        warmup_failed,
        warmup_wrong,
        answers,
        queries_per_second: answers as f64 / seconds,
        p50_ms: quantile(&latencies, 0.5),
        p95_ms: quantile(&latencies, 0.95),
        p99_ms: quantile(&latencies, 0.99),
        max_ms: latencies.last().copied().unwrap_or(0.0),
        bytes_up_per_query: last.iter().map(|s| s.bytes_up as f64).sum::<f64>() / answered,
        bytes_down_per_query: last.iter().map(|s| s.bytes_down as f64).sum::<f64>() / answered,
    }
}

/// The smallest value that at least this share of the sorted sample does not exceed.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

pub(super) fn write_csv(path: &Path, levels: &[Level]) -> Result<()> {
    let context = || path.display().to_string();
    let mut file = std::fs::File::create(path).with_context(context)?;
    let mut writer = csv::Writer::from_writer(&mut file);
    for level in levels {
        writer.serialize(level).with_context(context)?;
    }
    writer.flush().with_context(context)?;
    drop(writer);
    file.flush().with_context(context)
}

/// Fails where an answer was wrong, or too many were missing, in a reported window or before.
pub(super) fn verdict(done: &[Level], tolerance: f64, max_failed: f64) -> Result<()> {
    let wrong: u64 = done
        .iter()
        .map(|level| level.wrong + level.warmup_wrong)
        .sum();
    if wrong > 0 {
        bail!("{wrong} predictions differ from what was expected by more than {tolerance}");
    }
    for level in done {
        let failed = level.failed + level.warmup_failed;
        let queries = level.queries + level.warmup_queries;
        let (mode, at) = (level.mode, level.level);
        if level.queries == 0 {
            bail!("{mode} {at}: no query began in the last windows; give it a longer --window");
        }
        if failed as f64 > max_failed * queries as f64 {
            bail!(
                "{mode} {at}: {failed} of {queries} queries failed; the log above says why, and --max-failed how many may"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_of_the_sample() {
        let sample: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&sample, 0.5), 50.0);
        assert_eq!(quantile(&sample, 0.95), 95.0);
        assert_eq!(quantile(&sample, 0.99), 99.0);
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    fn sample(due: Instant, ms: u64, outcome: Outcome) -> Sample {
        let bytes = if outcome == Outcome::Failed { 0 } else { 10 };
        Sample {
            due,
            latency: Duration::from_millis(ms),
            bytes_up: bytes,
            bytes_down: 2 * bytes,
            outcome,
        }
    }

    #[test]
    fn failures_and_wrong_answers_are_counted_apart() {
        use Outcome::{Failed, Right, Wrong};
        let early = Instant::now();
        let begun = early + Duration::from_secs(2);
        let samples = [
            sample(early, 1, Wrong),
            sample(early, 500, Right),
            sample(begun, 1, Right),
            sample(begun, 3, Wrong),
            sample(begun, 999, Failed),
        ];
        let reported = begun..begun + Duration::from_secs(2);
        let level = summarise(Mode::Rate(5.0), true, &samples, &reported);
        assert_eq!((level.queries, level.failed, level.wrong), (3, 1, 1));
        assert_eq!((level.warmup_queries, level.warmup_wrong), (2, 1));
        assert_eq!((level.queries_per_second, level.max_ms), (1.0, 3.0));
        assert_eq!(
            (level.bytes_up_per_query, level.bytes_down_per_query),
            (10.0, 20.0)
        );
    }

    #[test]
    fn latency_belongs_to_where_a_query_began_and_throughput_to_where_it_was_answered() {
        use Outcome::{Failed, Right, Wrong};
        let early = Instant::now();
        let at = |ms| early + Duration::from_millis(ms);
        let samples = [
            // began before the window, answered in it
            sample(at(500), 600, Right),
            sample(at(1000), 100, Right),
            // answered after the window, and given up after it
            sample(at(1500), 2000, Wrong),
            sample(at(1900), 60_000, Failed),
        ];
        let level = summarise(
            Mode::Concurrency(4.0),
            true,
            &samples,
            &(at(1000)..at(2000)),
        );
        assert_eq!((level.queries, level.failed, level.wrong), (3, 1, 1));
        assert_eq!((level.warmup_queries, level.warmup_wrong), (1, 0));
        assert_eq!((level.answers, level.queries_per_second), (2, 2.0));
        assert_eq!((level.p50_ms, level.p99_ms), (100.0, 2000.0));
    }

    #[test]
    fn every_expected_output_counts() {
        assert!(fits(&[1.0, 2.0], &[1.05], 0.1));
        assert!(fits(&[1.0, 2.0], &[1.0, 1.95], 0.1));
        assert!(!fits(&[1.0, 2.0], &[1.0, 1.5], 0.1));
        assert!(!fits(&[1.0], &[1.0, 2.0], 0.1), "an output is missing");
        assert!(!fits(&[f64::NAN], &[1.0], 0.1));
    }

    #[test]
    fn wrong_and_failed_answers_fail_the_command_also_before_it_is_steady() {
        let early = Instant::now();
        let begun = early + Duration::from_secs(1);
        let reported = begun..begun + Duration::from_secs(1);
        let level = |warmup: Outcome, last: Outcome| {
            let samples = [
                (early, warmup),
                (early, Right),
                (begun, last),
                (begun, Right),
            ];
            let samples = samples.map(|(due, outcome)| sample(due, 1, outcome));
            [summarise(Mode::Concurrency(1.0), true, &samples, &reported)]
        };
        let said = |levels: &[Level], share| {
            verdict(levels, 0.1, share).map_err(|error| error.to_string())
        };
        use Outcome::{Failed, Right, Wrong};
        assert_eq!(said(&level(Right, Right), 0.0), Ok(()));
        for wrong in [level(Wrong, Right), level(Right, Wrong)] {
            assert!(said(&wrong, 1.0).unwrap_err().contains("differ"));
        }
        for failed in [level(Failed, Right), level(Right, Failed)] {
            assert!(said(&failed, 0.2).unwrap_err().contains("1 of 4"));
            assert_eq!(said(&failed, 0.25), Ok(()));
        }
        // no query at all, and none in the windows that are reported
        for samples in [vec![], vec![sample(early, 1, Right)]] {
            let none = [summarise(Mode::Rate(1.0), false, &samples, &reported)];
            assert!(said(&none, 1.0).unwrap_err().contains("--window"));
        }
    }
}
