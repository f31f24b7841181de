//! What a level of load was like: its samples, their summary, and whether it passes.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chemxor_client::batch::millis;
use serde::Serialize;

/// One query.
pub(super) struct Sample {
    /// From when it was due (with a rate) or sent, to its prediction.
    pub(super) latency: Duration,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) outcome: Outcome,
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
    pub(super) seconds: f64,
    /// Reported ones: the last windows.
    pub(super) queries: u64,
    pub(super) failed: u64,
    pub(super) wrong: u64,
    /// Those of the windows before, which are in no other number here.
    pub(super) warmup_queries: u64,
    pub(super) warmup_failed: u64,
    pub(super) warmup_wrong: u64,
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

/// Samples of a stretch of time, and its seconds.
pub(super) type Window = (Vec<Sample>, f64);

/// Queries, failed ones, wrong ones.
fn counts(windows: &[Window]) -> (u64, u64, u64) {
    let samples = || windows.iter().flat_map(|(samples, _)| samples);
    let count = |outcome| samples().filter(|s| s.outcome == outcome).count() as u64;
    let queries = samples().count() as u64;
    (queries, count(Outcome::Failed), count(Outcome::Wrong))
}

pub(super) fn summarise(mode: Mode, steady: bool, warmup: &[Window], windows: &[Window]) -> Level {
    let seconds: f64 = windows.iter().map(|(_, seconds)| seconds).sum();
    let samples = || windows.iter().flat_map(|(samples, _)| samples);
    let (queries, failed, wrong) = counts(windows);
    let (warmup_queries, warmup_failed, warmup_wrong) = counts(warmup);
    let answered = (queries - failed).max(1) as f64;
    let mut latencies: Vec<f64> = samples()
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
        queries_per_second: (queries - failed) as f64 / seconds,
        p50_ms: quantile(&latencies, 0.5),
        p95_ms: quantile(&latencies, 0.95),
        p99_ms: quantile(&latencies, 0.99),
        max_ms: latencies.last().copied().unwrap_or(0.0),
        bytes_up_per_query: samples().map(|s| s.bytes_up as f64).sum::<f64>() / answered,
        bytes_down_per_query: samples().map(|s| s.bytes_down as f64).sum::<f64>() / answered,
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
        if queries == 0 {
            bail!("{mode} {at}: no query came to an end; give it a longer --window");
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

    #[test]
    fn failures_and_wrong_answers_are_counted_apart() {
        let sample = |outcome, ms| Sample {
            latency: Duration::from_millis(ms),
            bytes_up: 10,
            bytes_down: 20,
            outcome,
        };
        let mut lost = sample(Outcome::Failed, 999);
        (lost.bytes_up, lost.bytes_down) = (0, 0);
        let window = vec![sample(Outcome::Right, 1), sample(Outcome::Wrong, 3), lost];
        let early = vec![sample(Outcome::Wrong, 1), sample(Outcome::Right, 500)];
        let level = summarise(Mode::Rate(5.0), true, &[(early, 2.0)], &[(window, 2.0)]);
        assert_eq!((level.queries, level.failed, level.wrong), (3, 1, 1));
        assert_eq!((level.warmup_queries, level.warmup_wrong), (2, 1));
        assert_eq!((level.queries_per_second, level.max_ms), (1.0, 3.0));
        assert_eq!(
            (level.bytes_up_per_query, level.bytes_down_per_query),
            (10.0, 20.0)
        );
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
        let sample = |outcome| Sample {
            latency: Duration::from_millis(1),
            bytes_up: 1,
            bytes_down: 1,
            outcome,
        };
        let level = |warmup: Outcome, last: Outcome| {
            let window = |outcome| (vec![sample(outcome), sample(Right)], 1.0);
            let windows = [window(warmup)];
            [summarise(
                Mode::Concurrency(1.0),
                true,
                &windows,
                &[window(last)],
            )]
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
        let none = [summarise(Mode::Rate(1.0), false, &[], &[])];
        assert!(said(&none, 1.0).unwrap_err().contains("--window"));
    }
}
