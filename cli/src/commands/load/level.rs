//! What a level of load was like: its samples, their summary, and whether it passes.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chemxor_client::batch::millis;
use serde::{Serialize, Serializer};

/// Windows whose throughput must agree before a level counts as steady.
pub(super) const STEADY: usize = 3;

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
    /// Whether the last windows were steady before the time was over.
    #[serde(rename = "steady", serialize_with = "is_steady")]
    pub(super) pace: Pace,
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
    /// Within which this share of the queries was answered; see `latencies` for those that failed.
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
    pub(super) bytes_up_per_query: f64,
    pub(super) bytes_down_per_query: f64,
}

impl Level {
    /// What it is called in the table.
    pub(super) fn label(&self) -> String {
        let note = match self.pace {
            Pace::Steady => "",
            Pace::Unsteady => " (not steady)",
            Pace::Behind => " (not steady: does not keep up)",
        };
        format!("{} {}{note}", self.mode, self.level)
    }
}

fn is_steady<S: Serializer>(pace: &Pace, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(*pace == Pace::Steady)
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

/// How the throughput of the last windows is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// The windows agree, and with a rate it is what was asked.
    Steady,
    /// The windows differ, or what had piled up before is answered now.
    Unsteady,
    /// Less is answered than is asked: what waits becomes more and more.
    Behind,
}

/// Judges the throughputs of all windows so far; `stable` is how far those of the last may be from their
/// mean, and the mean from the rate that was asked, as a share.
pub(super) fn pace(mode: Mode, throughputs: &[f64], stable: f64) -> Pace {
    let Some(last) = throughputs.last_chunk::<STEADY>() else {
        return Pace::Unsteady;
    };
    let mean = last.iter().sum::<f64>() / STEADY as f64;
    let near = |value: f64, wanted: f64| (value - wanted).abs() <= stable * wanted;
    let agree = mean > 0.0 && last.iter().all(|window| near(*window, mean));
    match mode {
        Mode::Rate(rate) if !near(mean, rate) && mean < rate => Pace::Behind,
        Mode::Rate(rate) if !near(mean, rate) => Pace::Unsteady,
        _ if agree => Pace::Steady,
        _ => Pace::Unsteady,
    }
}

/// Answers that came in this time, whenever their queries began. A failure is none.
fn answers(samples: &[Sample], time: &Range<Instant>) -> u64 {
    samples
        .iter()
        .filter(|sample| sample.outcome != Outcome::Failed)
        .filter(|sample| time.contains(&(sample.due + sample.latency)))
        .count() as u64
}

/// Answers a second.
pub(super) fn throughput(samples: &[Sample], time: &Range<Instant>) -> f64 {
    answers(samples, time) as f64 / (time.end - time.start).as_secs_f64()
}

/// Milliseconds of each query, sorted. One that failed had no answer when it was given up, and counts
/// as long as the slowest answer at least: a service that refuses at once is not fast.
fn latencies(samples: &[&Sample]) -> Vec<f64> {
    let answered = samples.iter().filter(|s| s.outcome != Outcome::Failed);
    let slowest = answered.map(|s| s.latency).max().unwrap_or_default();
    let took = |sample: &&Sample| match sample.outcome {
        Outcome::Failed => sample.latency.max(slowest),
        Outcome::Right | Outcome::Wrong => sample.latency,
    };
    let mut all: Vec<f64> = samples.iter().map(took).map(millis).collect();
    all.sort_by(f64::total_cmp);
    all
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
    pace: Pace,
    samples: &[Sample],
    reported: &Range<Instant>,
) -> Level {
    let seconds = (reported.end - reported.start).as_secs_f64();
    let (warmup, last): (Vec<&Sample>, Vec<&Sample>) = samples
        .iter()
        .partition(|sample| sample.due < reported.start);
    let (queries, failed, wrong) = counts(&last);
    let (warmup_queries, warmup_failed, warmup_wrong) = counts(&warmup);
    let answered = (queries - failed).max(1) as f64;
    let latencies = latencies(&last);
    let (mode, level) = match mode {
        Mode::Concurrency(count) => ("concurrency", count),
        Mode::Rate(rate) => ("rate", rate),
    };
    Level {
        mode,
        level,
        pace,
        seconds,
        queries,
        failed,
        wrong,
        warmup_queries,
        warmup_failed,
        warmup_wrong,
        answers: answers(samples, reported),
        queries_per_second: throughput(samples, reported),
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
        let level = summarise(Mode::Rate(5.0), Pace::Steady, &samples, &reported);
        assert_eq!((level.queries, level.failed, level.wrong), (3, 1, 1));
        assert_eq!((level.warmup_queries, level.warmup_wrong), (2, 1));
        assert_eq!((level.queries_per_second, level.max_ms), (1.0, 999.0));
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
            Pace::Steady,
            &samples,
            &(at(1000)..at(2000)),
        );
        assert_eq!((level.queries, level.failed, level.wrong), (3, 1, 1));
        assert_eq!((level.warmup_queries, level.warmup_wrong), (1, 0));
        assert_eq!((level.answers, level.queries_per_second), (2, 2.0));
        assert_eq!((level.p50_ms, level.p99_ms), (2000.0, 60_000.0));
    }

    #[test]
    fn windows_that_agree_are_steady_only_where_a_rate_is_kept() {
        use Pace::{Behind, Steady, Unsteady};
        let (count, rate) = (Mode::Concurrency(8.0), Mode::Rate(100.0));
        let found = |mode, windows: &[f64]| pace(mode, windows, 0.1);
        assert_eq!(found(count, &[60.0, 60.0, 65.0]), Steady);
        assert_eq!(found(count, &[60.0, 60.0, 80.0]), Unsteady);
        assert_eq!(found(count, &[60.0, 60.0]), Unsteady);
        assert_eq!(found(count, &[0.0, 0.0, 0.0]), Unsteady);
        assert_eq!(found(rate, &[20.0, 95.0, 100.0, 101.0]), Steady);
        assert_eq!(found(rate, &[91.0, 91.0, 91.0]), Steady);
        assert_eq!(found(rate, &[50.0, 150.0, 100.0]), Unsteady);
        // overloaded: the windows agree all the same
        assert_eq!(found(rate, &[60.0, 60.0, 60.0]), Behind);
        assert_eq!(found(rate, &[89.0, 89.0, 89.0]), Behind);
        assert_eq!(found(rate, &[0.0, 0.0, 0.0]), Behind);
        // after it was overloaded
        assert_eq!(found(rate, &[130.0, 130.0, 130.0]), Unsteady);
    }

    #[test]
    fn a_level_says_whether_it_was_steady_and_whether_the_service_keeps_up() {
        let begun = Instant::now();
        let reported = begun..begun + Duration::from_secs(1);
        let said = |pace| {
            let level = summarise(Mode::Rate(100.0), pace, &[], &reported);
            let json = serde_json::to_value(&level).unwrap();
            (level.label(), json["steady"].as_bool().unwrap())
        };
        assert_eq!(said(Pace::Steady), ("rate 100".to_owned(), true));
        assert_eq!(
            said(Pace::Unsteady),
            ("rate 100 (not steady)".to_owned(), false)
        );
        let (label, steady) = said(Pace::Behind);
        assert!(label.contains("does not keep up") && !steady, "{label}");
    }

    #[test]
    fn a_failure_is_no_throughput() {
        use Outcome::{Failed, Right, Wrong};
        let begun = Instant::now();
        let window = begun..begun + Duration::from_secs(2);
        let samples = [Right, Failed, Wrong, Failed, Failed].map(|how| sample(begun, 5, how));
        assert_eq!(throughput(&samples, &window), 1.0);
        // that of a window in which every query fails
        assert_eq!(throughput(&samples[3..], &window), 0.0);
    }

    #[test]
    fn failures_make_no_percentile_look_fast() {
        let begun = Instant::now();
        let reported = begun..begun + Duration::from_secs(2);
        let with_failures_after = |ms| {
            let fast = (0..48).map(|_| sample(begun, 10, Outcome::Right));
            let slow = (0..48).map(|_| sample(begun, 20, Outcome::Right));
            let failed = (0..4).map(|_| sample(begun, ms, Outcome::Failed));
            let samples: Vec<Sample> = fast.chain(slow).chain(failed).collect();
            let mode = Mode::Concurrency(4.0);
            let level = summarise(mode, Pace::Steady, &samples, &reported);
            [level.p50_ms, level.p95_ms, level.p99_ms, level.max_ms]
        };
        // given up late
        assert_eq!(with_failures_after(900), [20.0, 20.0, 900.0, 900.0]);
        // refused at once; as fast answers they would bring the median down to 10
        assert_eq!(with_failures_after(1), [20.0, 20.0, 20.0, 20.0]);
        // without an answer there is only their own time
        let failed = [&sample(begun, 7, Outcome::Failed)];
        assert_eq!(latencies(&failed), [7.0]);
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
            let mode = Mode::Concurrency(1.0);
            [summarise(mode, Pace::Steady, &samples, &reported)]
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
            let mode = Mode::Rate(1.0);
            let none = [summarise(mode, Pace::Behind, &samples, &reported)];
            assert!(said(&none, 1.0).unwrap_err().contains("--window"));
        }
    }
}
