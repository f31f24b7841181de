//! `load`: asks a model over and over, with so many queries at the same time or so many a second,
//! and reports throughput, latency and bytes; checks every answer where expectations are given.
//!
//! A level ends for new queries only: those that have begun, or were due, are waited for. Their latency
//! counts, or a slow service would look fast by leaving its slowest answers out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chemxor_client::predictor::Predictor;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::args::{Format, LoadArgs};
use crate::commands::query::predictor;
use crate::home::Home;
use crate::output::{self, Bar};
use level::{
    Level, Mode, Outcome, Pace, STEADY, Sample, fits, pace, summarise, throughput, verdict,
    write_csv,
};

mod level;

/// How long a query that is due may wait until it can be sent; then it counts as failed, so that a level
/// comes to its end also where much more is asked than is ever answered. Those that were sent have the
/// client's own limits.
const UNSENT: Duration = Duration::from_secs(60);

/// When a level ended, once it has.
type End = watch::Receiver<Option<Instant>>;

/// A molecule's features, and what its prediction should be.
struct Molecule {
    features: Vec<u16>,
    /// Of the first outputs; empty where nothing is expected.
    expected: Vec<f64>,
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
    let find = |name: &String| {
        column(name)
            .with_context(|| format!("{} has no column {name:?} with expected values", context()))
    };
    let expected: Vec<usize> = args
        .expect_columns
        .iter()
        .map(find)
        .collect::<Result<_>>()?;
    let outputs = predictor.manifest().outputs.len();
    if expected.len() > outputs {
        bail!(
            "{} columns are expected, but {} has {outputs} outputs",
            expected.len(),
            args.model
        );
    }
    let mut molecules = Vec::new();
    for (line, row) in (2..).zip(reader.records()) {
        let row = row.with_context(context)?;
        let features = predictor.featurise(row.get(smiles).unwrap_or("").trim());
        let value = |at: &usize| row.get(*at).unwrap_or("").trim().parse::<f64>();
        let values: Result<Vec<f64>, _> = expected.iter().map(value).collect();
        let expected = values.with_context(|| {
            format!(
                "{}, line {line}: an expected value is not a number",
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
        let failed = Sample::failed(due);
        match answered {
            Err(error) => {
                tracing::warn!(%error, "query failed");
                failed
            }
            Ok(prediction) => {
                let outcome = match fits(&prediction.values, &molecule.expected, self.tolerance) {
                    true => Outcome::Right,
                    false => Outcome::Wrong,
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
}

/// Keeps `count` queries running until the level ends, and waits for those that run then.
async fn keep_running<F>(
    ask: impl Fn(usize, Instant) -> F + Clone + Send + Sync + 'static,
    count: usize,
    end: End,
    samples: mpsc::Sender<Sample>,
) where
    F: Future<Output = Sample> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for first in 0..count {
        let (ask, end, samples) = (ask.clone(), end.clone(), samples.clone());
        tasks.spawn(async move {
            let mut number = first;
            loop {
                let begun = Instant::now();
                if end.borrow().is_some() {
                    return;
                }
                let sample = ask(number, begun).await;
                if samples.send(sample).await.is_err() {
                    return;
                }
                number += count;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Begins so many queries a second, whatever became of those before; each counts from when it was due,
/// so that a slow service is not asked less often than it should be. All that are due before the level
/// ends are asked, and waited for.
async fn keep_rate<F>(
    ask: impl Fn(usize, Instant) -> F + Send + Sync + 'static,
    begun: Instant,
    rate: f64,
    most: usize,
    mut end: End,
    samples: mpsc::Sender<Sample>,
) where
    F: Future<Output = Sample> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for number in 0.. {
        let due = begun + Duration::from_secs_f64(number as f64 / rate);
        let over = async {
            let _ = end.wait_for(|end| end.is_some_and(|end| end < due)).await;
        };
        // biased, or one that is due after the end could still begin
        tokio::select! {
            biased;
            () = over => break,
            () = tokio::time::sleep_until(due.into()) => {}
        }
        while tasks.len() >= most {
            tasks.join_next().await;
        }
        while tasks.try_join_next().is_some() {}
        if due.elapsed() > UNSENT {
            tracing::warn!("query given up: it could not be sent in time");
            if samples.send(Sample::failed(due)).await.is_err() {
                return;
            }
            continue;
        }
        let (query, samples) = (ask(number, due), samples.clone());
        tasks.spawn(async move {
            // nobody listens when the command was stopped
            let _ = samples.send(query.await).await;
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Runs one level: windows until the last three are steady, then the three are what is reported.
async fn measure(load: &Arc<Load>, args: &LoadArgs, mode: Mode, bar: &mut Bar) -> Level {
    let (sender, mut samples) = mpsc::channel(4096);
    let (ended, end) = watch::channel(None);
    let load = load.clone();
    let ask = move |number: usize, due: Instant| {
        let load = load.clone();
        async move { load.ask(number, due).await }
    };
    // before the first query, so that it lies in a window
    let mut from = Instant::now();
    match mode {
        Mode::Concurrency(count) => tokio::spawn(keep_running(ask, count as usize, end, sender)),
        Mode::Rate(rate) => {
            let most = args.max_in_flight.max(1);
            tokio::spawn(keep_rate(ask, from, rate, most, end, sender))
        }
    };
    let window = Duration::from_secs_f64(args.window);
    // where each window begins, and its throughput
    let (mut begins, mut throughputs) = (Vec::new(), Vec::new());
    let mut all = Vec::new();
    let (found, to) = loop {
        while let Ok(Some(sample)) =
            tokio::time::timeout(window.saturating_sub(from.elapsed()), samples.recv()).await
        {
            all.push(sample);
            bar.set(all.len() as u64, format!("{mode}"));
        }
        let to = Instant::now();
        begins.push(from);
        throughputs.push(throughput(&all, &(from..to)));
        from = to;
        let found = pace(mode, &throughputs, args.stable);
        if found == Pace::Steady || begins.len() >= args.max_windows.max(STEADY) {
            break (found, to);
        }
    };
    ended.send_replace(Some(to));
    while let Some(sample) = samples.recv().await {
        all.push(sample);
        bar.set(all.len() as u64, format!("{mode}"));
    }
    let first = begins[begins.len() - STEADY];
    summarise(mode, found, &all, &(first..to))
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
    for level in done.iter().filter(|level| level.pace == Pace::Behind) {
        let (rate, answered) = (level.level, level.queries_per_second);
        tracing::warn!(rate, answered, "the service does not keep up");
    }
    if let Some(path) = &args.output {
        write_csv(path, &done)?;
    }
    output::print(format, &done, || print(&done))?;
    verdict(&done, args.tolerance, args.max_failed)
}

fn print(levels: &[Level]) {
    let rows: Vec<Vec<String>> = levels
        .iter()
        .map(|level| {
            vec![
                level.label(),
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
    use tokio::sync::Semaphore;

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

    fn answered(due: Instant) -> Sample {
        Sample {
            outcome: Outcome::Right,
            ..Sample::failed(due)
        }
    }

    #[tokio::test]
    async fn queries_that_run_when_a_level_ends_are_waited_for() {
        // each query says that it has begun and then takes one permit
        let gate = Arc::new(Semaphore::new(0));
        let held = gate.clone();
        let (say, mut begun) = mpsc::channel(8);
        let ask = move |number: usize, due: Instant| {
            let (gate, say) = (held.clone(), say.clone());
            async move {
                say.send(number).await.unwrap();
                gate.acquire().await.unwrap().forget();
                answered(due)
            }
        };
        let (ended, end) = watch::channel(None);
        let (sender, mut samples) = mpsc::channel(8);
        tokio::spawn(keep_running(ask, 3, end, sender));
        let mut numbers = Vec::new();
        for _ in 0..3 {
            numbers.push(begun.recv().await.unwrap());
        }
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2]);
        ended.send_replace(Some(Instant::now()));
        gate.add_permits(100);
        for _ in 0..3 {
            assert!(samples.recv().await.is_some());
        }
        assert!(samples.recv().await.is_none(), "none begins after the end");
    }

    /// The samples of a level that began so long ago and lasted for 10.5 ms: of 1,000 queries a second
    /// eleven were due, and only one at a time is sent.
    async fn overdue(ago: Duration) -> Vec<Sample> {
        let begun = Instant::now().checked_sub(ago).unwrap();
        let (_ended, end) = watch::channel(Some(begun + Duration::from_micros(10_500)));
        let (sender, mut samples) = mpsc::channel(16);
        let ask = |_: usize, due: Instant| async move { answered(due) };
        tokio::spawn(keep_rate(ask, begun, 1000.0, 1, end, sender));
        let mut all = Vec::new();
        while let Some(sample) = samples.recv().await {
            assert_eq!(sample.due, begun + Duration::from_millis(all.len() as u64));
            // from when it was due, not from when it could be sent
            assert!(sample.latency + Duration::from_millis(10) >= ago);
            all.push(sample);
        }
        all
    }

    #[tokio::test]
    async fn what_was_due_before_the_end_is_asked_and_counts_from_then() {
        let all = overdue(Duration::from_secs(1)).await;
        assert_eq!(all.len(), 11);
        assert!(all.iter().all(|sample| sample.outcome == Outcome::Right));
        let late = overdue(UNSENT * 2).await;
        assert_eq!(late.len(), 11, "also what is given up is counted");
        assert!(late.iter().all(|sample| sample.outcome == Outcome::Failed));
    }
}
