//! `load`: asks a model over and over, with so many queries at the same time or so many a second,
//! and reports throughput, latency and bytes; checks every answer where expectations are given.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chemxor_client::batch::millis;
use chemxor_client::predictor::Predictor;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::args::{Format, LoadArgs};
use crate::commands::query::predictor;
use crate::home::Home;
use crate::output::{self, Bar};

/// Windows whose throughput must agree before a level counts as steady.
const STEADY: usize = 3;

/// A molecule's features, and what its prediction should be.
struct Molecule {
    features: Vec<u16>,
    expected: Option<f64>,
}

/// One query.
struct Sample {
    /// From when it was due (with a rate) or sent, to its prediction.
    latency: Duration,
    bytes_up: u64,
    bytes_down: u64,
    outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Right,
    Wrong,
    Failed,
}

/// One level of load, as it is printed and written to CSV.
#[derive(Debug, Serialize)]
struct Level {
    /// concurrency or rate.
    mode: &'static str,
    /// Queries at the same time, or queries a second.
    level: f64,
    /// Whether the throughput of three windows agreed before the time was over.
    steady: bool,
    seconds: f64,
    queries: u64,
    failed: u64,
    wrong: u64,
    queries_per_second: f64,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    bytes_up_per_query: f64,
    bytes_down_per_query: f64,
}

/// `low..high` or `low..high..step`, or one number.
fn levels(text: &str) -> Result<Vec<f64>> {
    let number = |part: &str| {
        let value: f64 = part
            .parse()
            .with_context(|| format!("{part:?} in {text:?} is not a number"))?;
        if value.is_finite() && value > 0.0 {
            return Ok(value);
        }
        bail!("{part:?} in {text:?} is not above zero")
    };
    let parts: Vec<f64> = text.split("..").map(number).collect::<Result<_>>()?;
    match parts[..] {
        [one] => Ok(vec![one]),
        [low, high] | [low, high, _] if low <= high => {
            let step = parts.get(2).copied();
            let next = |level: &f64| Some(step.map_or(level * 2.0, |step| level + step));
            let levels = std::iter::successors(Some(low), next);
            Ok(levels.take_while(|level| *level <= high).take(64).collect())
        }
        _ => bail!("write one level, LOW..HIGH (doubling) or LOW..HIGH..STEP; got {text:?}"),
    }
}

fn read(predictor: &Predictor, args: &LoadArgs) -> Result<Vec<Molecule>> {
    let context = || args.input.display().to_string();
    let mut reader = csv::Reader::from_path(&args.input).with_context(context)?;
    let header = reader.headers().with_context(context)?.clone();
    let column = |name: &str| header.iter().position(|column| column == name);
    let smiles = column(&args.smiles_column).with_context(|| {
        let columns: Vec<&str> = header.iter().collect();
        let name = &args.smiles_column;
        format!("{} has no column {name:?}, only {columns:?}", context())
    })?;
    let expected = match &args.expect_column {
        Some(name) => Some(column(name).with_context(|| {
            format!("{} has no column {name:?} with expected values", context())
        })?),
        None => None,
    };
    let mut molecules = Vec::new();
    for (line, row) in (2..).zip(reader.records()) {
        let row = row.with_context(context)?;
        let features = predictor.featurise(row.get(smiles).unwrap_or("").trim());
        let value = expected.map(|at| row.get(at).unwrap_or("").trim().parse::<f64>());
        let expected = value.transpose().with_context(|| {
            format!(
                "{}, line {line}: the expected value is not a number",
                context()
            )
        })?;
        // a molecule that cannot be read is no load
        if let Ok(features) = features {
            molecules.push(Molecule { features, expected });
        }
    }
    if molecules.is_empty() {
        bail!("{} has no molecule that can be read", context());
    }
    Ok(molecules)
}

/// What all queries of a run share.
struct Load {
    sessions: Vec<Predictor>,
    molecules: Vec<Molecule>,
    tolerance: f64,
}

impl Load {
    async fn ask(&self, number: usize, due: Instant) -> Sample {
        let molecule = &self.molecules[number % self.molecules.len()];
        let session = &self.sessions[number % self.sessions.len()];
        let answered = session.predict_features(molecule.features.clone()).await;
        let latency = due.elapsed();
        let failed = Sample {
            latency,
            bytes_up: 0,
            bytes_down: 0,
            outcome: Outcome::Failed,
        };
        match answered {
            Err(error) => {
                tracing::warn!(%error, "query failed");
                failed
            }
            Ok(prediction) => {
                let fits = |expected: f64| {
                    let first = prediction.values.first();
                    first.is_some_and(|value| (value - expected).abs() <= self.tolerance)
                };
                let outcome = match molecule.expected {
                    Some(expected) if !fits(expected) => Outcome::Wrong,
                    _ => Outcome::Right,
                };
                Sample {
                    bytes_up: prediction.bytes_up,
                    bytes_down: prediction.bytes_down,
                    outcome,
                    ..failed
                }
            }
        }
    }

    /// Keeps `count` queries running.
    async fn keep_running(self: Arc<Self>, count: usize, samples: mpsc::Sender<Sample>) {
        let mut tasks = JoinSet::new();
        for first in 0..count {
            let (load, samples) = (self.clone(), samples.clone());
            tasks.spawn(async move {
                let mut number = first;
                loop {
                    let sample = load.ask(number, Instant::now()).await;
                    if samples.send(sample).await.is_err() {
                        return;
                    }
                    number += count;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Begins so many queries a second, whatever became of those before; each counts from when it
    /// was due, so that a slow service is not asked less often than it should be.
    async fn keep_rate(self: Arc<Self>, rate: f64, most: usize, samples: mpsc::Sender<Sample>) {
        let mut tasks = JoinSet::new();
        let begun = Instant::now();
        for number in 0.. {
            let due = begun + Duration::from_secs_f64(number as f64 / rate);
            tokio::time::sleep_until(due.into()).await;
            while tasks.len() >= most {
                tasks.join_next().await;
            }
            while tasks.try_join_next().is_some() {}
            let (load, samples) = (self.clone(), samples.clone());
            tasks.spawn(async move {
                let sample = load.ask(number, due).await;
                // the level is over
                let _ = samples.send(sample).await;
            });
        }
    }
}

/// Runs one level: windows until three in a row agree, then the three are what is reported.
async fn measure(load: &Arc<Load>, args: &LoadArgs, mode: Mode, bar: &mut Bar) -> Level {
    let (sender, mut samples) = mpsc::channel(4096);
    let driver = match mode {
        Mode::Concurrency(count) => tokio::spawn(load.clone().keep_running(count as usize, sender)),
        Mode::Rate(rate) => tokio::spawn(load.clone().keep_rate(rate, args.max_in_flight, sender)),
    };
    let window = Duration::from_secs_f64(args.window);
    let mut windows: Vec<(Vec<Sample>, f64)> = Vec::new();
    let mut total = 0;
    let steady = loop {
        let begun = Instant::now();
        let mut now = Vec::new();
        while let Ok(Some(sample)) =
            tokio::time::timeout(window.saturating_sub(begun.elapsed()), samples.recv()).await
        {
            now.push(sample);
            total += 1;
            bar.set(total, format!("{mode}"));
        }
        windows.push((now, begun.elapsed().as_secs_f64()));
        let rates: Vec<f64> = windows
            .iter()
            .rev()
            .take(STEADY)
            .map(|(samples, seconds)| samples.len() as f64 / seconds)
            .collect();
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        let agree = rates
            .iter()
            .all(|rate| (rate - mean).abs() <= args.stable * mean);
        if rates.len() == STEADY && mean > 0.0 && agree {
            break true;
        }
        if windows.len() >= args.max_windows.max(STEADY) {
            break false;
        }
    };
    driver.abort();
    let last = windows.split_off(windows.len() - STEADY.min(windows.len()));
    summarise(mode, steady, &last)
}

#[derive(Clone, Copy)]
enum Mode {
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

fn summarise(mode: Mode, steady: bool, windows: &[(Vec<Sample>, f64)]) -> Level {
    let seconds: f64 = windows.iter().map(|(_, seconds)| seconds).sum();
    let samples = || windows.iter().flat_map(|(samples, _)| samples);
    let count = |outcome| samples().filter(|s| s.outcome == outcome).count() as u64;
    let (failed, wrong) = (count(Outcome::Failed), count(Outcome::Wrong));
    let queries = samples().count() as u64;
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

fn write_csv(path: &Path, levels: &[Level]) -> Result<()> {
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

pub(crate) async fn run(home: &Home, format: Format, args: &LoadArgs) -> Result<()> {
    let modes: Vec<Mode> = match (&args.concurrency, &args.rate) {
        (_, Some(rate)) => levels(rate)?.into_iter().map(Mode::Rate).collect(),
        (Some(count), None) => levels(count)?
            .into_iter()
            .map(|count| Mode::Concurrency(count.max(1.0).floor()))
            .collect(),
        (None, None) => vec![Mode::Concurrency(8.0)],
    };
    if !(0.05..=3600.0).contains(&args.window) {
        bail!("--window is {} s; 0.05 to 3600 are possible", args.window);
    }
    let mut sessions = Vec::new();
    for _ in 0..args.sessions.max(1) {
        let session = predictor(home, &args.model, &args.key).await?;
        // opened before anything is measured
        session.session().await?;
        sessions.push(session);
    }
    let molecules = read(&sessions[0], args)?;
    let load = Arc::new(Load {
        sessions,
        molecules,
        tolerance: args.tolerance,
    });
    let mut bar = Bar::new("load", None, args.quiet || format == Format::Json);
    let mut done = Vec::new();
    for mode in modes {
        done.push(measure(&load, args, mode, &mut bar).await);
    }
    bar.finish();
    if let Some(path) = &args.output {
        write_csv(path, &done)?;
    }
    output::print(format, &done, || print(&done))?;
    let wrong: u64 = done.iter().map(|level| level.wrong).sum();
    if wrong > 0 {
        let tolerance = args.tolerance;
        bail!("{wrong} predictions differ from what was expected by more than {tolerance}");
    }
    let failed: HashMap<&str, u64> = done
        .iter()
        .filter(|level| level.failed == level.queries)
        .map(|level| (level.mode, level.failed))
        .collect();
    if !failed.is_empty() {
        bail!("no query of a level was answered; look at the log above");
    }
    Ok(())
}

fn print(levels: &[Level]) {
    let rows: Vec<Vec<String>> = levels
        .iter()
        .map(|level| {
            let steady = if level.steady { "" } else { " (not steady)" };
            vec![
                format!("{} {}{steady}", level.mode, level.level),
                format!("{:.1}", level.queries_per_second),
                format!("{:.2}", level.p50_ms),
                format!("{:.2}", level.p95_ms),
                format!("{:.2}", level.p99_ms),
                format!("{:.0}", level.bytes_up_per_query),
                format!("{:.0}", level.bytes_down_per_query),
                level.failed.to_string(),
                level.wrong.to_string(),
            ]
        })
        .collect();
    let header = [
        "level",
        "queries/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "bytes up",
        "bytes down",
        "failed",
        "wrong",
    ];
    output::table(&header, &rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_one_or_a_range() {
        assert_eq!(levels("8").unwrap(), [8.0]);
        assert_eq!(levels("1..8").unwrap(), [1.0, 2.0, 4.0, 8.0]);
        assert_eq!(levels("10..30..10").unwrap(), [10.0, 20.0, 30.0]);
        for bad in ["", "x", "0", "-1", "8..1", "1..2..3..4", "inf"] {
            assert!(levels(bad).is_err(), "{bad}");
        }
    }

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
        let level = summarise(Mode::Rate(5.0), true, &[(window, 2.0)]);
        assert_eq!((level.queries, level.failed, level.wrong), (3, 1, 1));
        assert_eq!((level.queries_per_second, level.max_ms), (1.0, 3.0));
        assert_eq!(
            (level.bytes_up_per_query, level.bytes_down_per_query),
            (10.0, 20.0)
        );
    }
}
