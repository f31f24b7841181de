//! `query`: one molecule or a table.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use chemxor_client::batch::{self, BatchOptions, BatchReport, Existing, RunRecord};
use chemxor_client::catalog;
use chemxor_client::estimate::{Estimate, ProbeLimits, QueryCost, probe};
use chemxor_client::interpret::{Output, Outside};
use chemxor_client::keyring::{ManagedKey, ROTATE_AFTER};
use chemxor_client::predictor::{Patience, Predictor};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::args::{Format, QueryArgs};
use crate::commands::estimate;
use crate::commands::keys::passphrase_of;
use crate::home::Home;
use crate::output::{self, Bar, Ended};

/// The lab's key that is made when it is absent.
const DEFAULT_KEY: &str = "default";

/// Looks the model up, opens the key, and gets ready to predict.
pub(crate) async fn predictor(home: &Home, model: &str, key: &str) -> Result<Predictor> {
    let ring = home.keyring()?;
    let path = ring.path(key)?;
    if !path.exists() {
        if key != DEFAULT_KEY {
            bail!(
                "no key {}; make one with `chemxor keys new --name {key}`",
                path.display()
            );
        }
        ring.create_query_key(key, None, ROTATE_AFTER)?;
        eprintln!(
            "made a secret key for your queries: {} (encrypt it with `chemxor keys passphrase`)",
            path.display()
        );
    }
    let passphrase = passphrase_of(&ring, key)?;
    let key = ManagedKey::open(ring, key, passphrase)?;
    let entry = catalog::get(&home.registry("querier")?, &model.parse()?).await?;
    let gateway = home.gateway()?;
    Ok(Predictor::new(
        gateway,
        entry.version,
        entry.manifest,
        key,
        Patience::default(),
    ))
}

pub(crate) async fn run(home: &Home, format: Format, args: &QueryArgs) -> Result<()> {
    let started = std::time::Instant::now();
    let (home, model) = home.serving(&args.model)?;
    if let Some(smiles) = args.molecule.as_ref().or(args.smiles.as_ref()) {
        let predictor = predictor(&home, &model, &args.key).await?;
        return one(&predictor, format, smiles, args.quiet, started).await;
    }
    let Some(input) = &args.input else {
        bail!("give --smiles, or --input and --output");
    };
    let model = match (&args.output, args.resume) {
        // an alias may have moved since: the version that began the run goes on
        (Some(output), true) => RunRecord::read(output)?.map_or(model, |run| run.model),
        _ => model,
    };
    let patience = Patience {
        outage: Duration::from_secs(args.patience.into()),
        ..Patience::default()
    };
    let predictor = predictor(&home, &model, &args.key).await?;
    let predictor = predictor.with_patience(patience);
    match &args.output {
        Some(output) if !args.estimate => many(&predictor, format, args, input, output).await,
        _ => {
            let model = predictor.model().parse()?;
            let allowance = catalog::allowance(&home.registry("querier")?, &model).await?;
            estimate::run(&predictor, format, args, input, &allowance).await
        }
    }
}

async fn one(
    predictor: &Predictor,
    format: Format,
    smiles: &str,
    quiet: bool,
    started: std::time::Instant,
) -> Result<()> {
    let features = predictor.featurise(smiles)?;
    let outside = predictor.outside(smiles)?;
    let manifest = predictor.manifest();
    let rounds = manifest.graph.steps().len() as u64;
    let mut bar = Bar::new("round", Some(rounds), quiet || format == Format::Json);
    let prediction = predictor
        .predict_observed(features, |done| bar.set(u64::from(done), String::new()))
        .await?;
    bar.finish();
    let outputs = predictor.interpret(&prediction);
    let value = json!({
        "model": predictor.model(), "endpoint": manifest.endpoint, "smiles": smiles,
        "outputs": outputs, "values": prediction.values,
        "domain": outside.as_ref().map(|outside| json!({ "within": outside.is_empty(), "outside": outside })),
        "bytes_up": prediction.bytes_up, "bytes_down": prediction.bytes_down,
        "rounds": prediction.rounds, "ms": batch::millis(prediction.elapsed),
        // registry, key, connection and session included
        "total_ms": batch::millis(started.elapsed()),
    });
    output::print(format, &value, || {
        for output in &outputs {
            print_output(&manifest.endpoint, output);
        }
        print_domain(outside.as_deref());
        say!(
            "{:.1} ms, {} bytes up, {} bytes down, {} rounds",
            batch::millis(prediction.elapsed),
            prediction.bytes_up,
            prediction.bytes_down,
            prediction.rounds
        );
    })
}

fn print_output(endpoint: &str, output: &Output) {
    let titled = |name: &str| {
        if name.is_empty() {
            endpoint.to_owned()
        } else {
            format!("{endpoint}, {name}")
        }
    };
    match output {
        Output::Value {
            name,
            value,
            unit,
            interval90,
        } => {
            say!(
                "{}",
                format!("{}: {value:.4} {unit}", titled(name)).trim_end()
            );
            if let Some([low, high]) = interval90 {
                say!(
                    "{}",
                    format!("90 % interval: {low:.4} to {high:.4} {unit}").trim_end()
                );
            }
        }
        Output::Class {
            name,
            probability,
            class,
        } => {
            say!(
                "{}: class {class}, probability of class 1: {probability:.4}",
                titled(name)
            );
        }
        Output::Choice {
            class,
            probability,
            classes,
        } => {
            say!("{endpoint}: {class}, probability {probability:.4}");
            for (class, probability) in classes {
                say!("  {class}: {probability:.4}");
            }
        }
    }
}

fn print_domain(outside: Option<&[Outside]>) {
    match outside {
        None => {}
        Some([]) => say!("applicability domain: within the ranges of the training molecules"),
        Some(found) => {
            for outside in found {
                let [low, high] = outside.range;
                say!(
                    "applicability domain: OUTSIDE, {} is {:.3}, training molecules {low:.3} to {high:.3}",
                    outside.descriptor,
                    outside.value
                );
            }
        }
    }
}

fn options(predictor: &Predictor, args: &QueryArgs, input: &Path, output: &Path) -> BatchOptions {
    BatchOptions {
        model: predictor.model(),
        input: input.to_owned(),
        output: output.to_owned(),
        smiles_column: args.smiles_column.clone(),
        in_flight: usize::from(args.in_flight),
        dedupe: args.dedupe,
        existing: match (args.resume, args.overwrite) {
            (true, _) => Existing::Resume,
            (_, true) => Existing::Overwrite,
            _ => Existing::Refuse,
        },
    }
}

async fn many(
    predictor: &Predictor,
    format: Format,
    args: &QueryArgs,
    input: &Path,
    output: &Path,
) -> Result<()> {
    let mut options = options(predictor, args, input, output);
    let total = batch::count_rows(input, &args.smiles_column)?;
    let started = std::time::Instant::now();
    let interrupted = stop_signals();
    let mut watch = (!args.yes).then(|| estimate::Watch::new(total, args.ask_above * 60.0));
    let report = loop {
        let bar = Bar::new("query", Some(total), args.quiet || format == Format::Json);
        let pass = once(predictor, &options, bar, &interrupted, watch.as_mut()).await;
        let report = pass.map_err(|error| stopped(error, &options))?;
        // the first rows were the probe: they are kept whatever the answer is
        match watch.take().and_then(|watch| watch.too_long()) {
            Some(left) if !report.complete && !interrupted.is_cancelled() => {
                estimate::ask(left, args.ask_above, &resume_command())?;
                options.existing = Existing::Resume;
            }
            _ => break report,
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    print_report(format, &options, &report, seconds, predictor)?;
    if report.complete {
        return Ok(());
    }
    eprintln!(
        "stopped after {} of {total} rows; go on with:\n  {}",
        report.rows,
        resume_command()
    );
    Err(Ended(130).into())
}

async fn once(
    predictor: &Predictor,
    options: &BatchOptions,
    mut bar: Bar,
    interrupted: &CancellationToken,
    mut watch: Option<&mut estimate::Watch>,
) -> Result<BatchReport> {
    let stop = interrupted.child_token();
    let halt = stop.clone();
    let report = batch::run(predictor, options, &stop, |heard| {
        bar.set_from(heard.resumed, heard.rows, || match heard.without {
            0 => String::new(),
            without => format!("{without} without a prediction"),
        });
        if let Some(watch) = watch.as_deref_mut()
            && watch.hears(heard.rows, predictor.outages())
        {
            halt.cancel();
        }
    })
    .await?;
    bar.finish();
    Ok(report)
}

/// An error of the service, and what of the run is kept.
fn stopped(error: anyhow::Error, options: &BatchOptions) -> anyhow::Error {
    let partial = batch::partial_path(&options.output);
    if !partial.exists()
        || options.existing == Existing::Refuse && !batch::run_path(&options.output).exists()
    {
        return error;
    }
    error.context(format!(
        "the rows so far are in {}; go on with `{}`",
        partial.display(),
        resume_command()
    ))
}

/// Cancelled by Ctrl-C or SIGTERM; a second one ends the process at once.
fn stop_signals() -> CancellationToken {
    let token = chemxor_runtime::shutdown::signalled();
    let first = token.clone();
    tokio::spawn(async move {
        first.cancelled().await;
        eprintln!(
            "stopping: the molecules under way are finished; press Ctrl-C again to end at once"
        );
        chemxor_runtime::shutdown::signalled().cancelled().await;
        std::process::exit(130);
    });
    token
}

/// The command of this run, with --resume.
fn resume_command() -> String {
    let quoted = |word: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@,+%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            return word;
        }
        format!("'{}'", word.replace('\'', r"'\''"))
    };
    let words = std::env::args()
        .enumerate()
        .filter(|(_, word)| word != "--overwrite" && word != "--resume");
    let words = words.map(|(at, word)| {
        if at == 0 {
            "chemxor".to_owned()
        } else {
            quoted(word)
        }
    });
    words
        .chain(["--resume".to_owned()])
        .collect::<Vec<_>>()
        .join(" ")
}

fn print_report(
    format: Format,
    options: &BatchOptions,
    report: &BatchReport,
    seconds: f64,
    predictor: &Predictor,
) -> Result<()> {
    let mut value: Value = serde_json::to_value(report)?;
    let here = (report.rows - report.resumed) as f64;
    let more = json!({
        "model": predictor.model(), "output": options.output, "seconds": seconds,
        "molecules_per_second": here / seconds,
        "p50_ms": report.latencies.quantile_ms(0.5), "p95_ms": report.latencies.quantile_ms(0.95),
    });
    if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
        value.extend(more);
    }
    output::print(format, &value, || {
        let place = if report.complete {
            options.output.clone()
        } else {
            batch::partial_path(&options.output)
        };
        say!(
            "{} rows written to {}: {} predicted",
            report.rows,
            place.display(),
            report.predicted
        );
        for (count, what) in [
            (report.resumed, "taken over from an earlier run"),
            (report.repeated, "answered as an equal molecule"),
            (report.bad_molecules, "with a molecule that cannot be read"),
            (report.bad_rows, "with a damaged row"),
            (report.failed, "with a molecule that cannot be encoded"),
        ] {
            if count > 0 {
                say!("{count} {what}");
            }
        }
        say!("{seconds:.1} s, {:.1} molecules a second", here / seconds);
    })
}

/// Probes with the first molecules of the input.
pub(crate) async fn probed(
    predictor: &Predictor,
    args: &QueryArgs,
    input: &Path,
    queries_left: Option<u64>,
) -> Result<(Estimate, QueryCost, Value)> {
    let total = batch::count_rows(input, &args.smiles_column)?;
    let molecules = batch::first_molecules(input, &args.smiles_column, 2000)?;
    let cost = QueryCost::of(predictor.manifest())?;
    // the probe may not cost more than the run, nor more than a tenth of what is left
    let most = queries_left.map_or(u64::MAX, |left| left / 10);
    let limits = ProbeLimits {
        queries: ProbeLimits::default().queries.min(total).min(most),
        ..ProbeLimits::default()
    };
    let in_flight = usize::from(args.in_flight);
    let in_flight = in_flight.min(usize::try_from(most / 2).unwrap_or(usize::MAX));
    let probe = match in_flight {
        0 => None,
        _ => probe(predictor, &molecules, in_flight, limits).await?,
    };
    let estimate = Estimate::new(&cost, total, probe.map(|probe| probe.rate));
    Ok((estimate, cost, json!(probe)))
}
