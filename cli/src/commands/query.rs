//! `query`: one molecule or a CSV.

use std::sync::Arc;

use anyhow::{Result, bail};
use chemxor_client::batch::{self, BatchOptions};
use chemxor_client::predictor::{Patience, Predictor};
use chemxor_client::{catalog, keyring};
use chemxor_core::Task;
use serde_json::json;

use crate::args::{Format, QueryArgs};
use crate::commands::keys::passphrase;
use crate::home::Home;
use crate::output::{self, Bar};

/// Looks the model up, loads the key, and gets ready to predict.
pub(crate) async fn predictor(home: &Home, model: &str, key: &str) -> Result<Predictor> {
    let path = home.key(key)?;
    if !path.exists() {
        bail!(
            "no key {}; make one with `chemxor keys new`",
            path.display()
        );
    }
    let passphrase = passphrase();
    let key = keyring::load_client_key(&path, passphrase.as_ref().map(|text| text.as_str()))?;
    let entry = catalog::get(&home.registry("querier")?, &model.parse()?).await?;
    let gateway = home.gateway()?;
    Ok(Predictor::new(
        gateway,
        entry.version,
        entry.manifest,
        Arc::new(key),
        Patience::default(),
    ))
}

pub(crate) async fn run(home: &Home, format: Format, args: &QueryArgs) -> Result<()> {
    let predictor = predictor(home, &args.model, &args.key).await?;
    match (&args.smiles, &args.input, &args.output) {
        (Some(smiles), _, _) => one(&predictor, format, smiles).await,
        (None, Some(input), Some(output)) => {
            let options = BatchOptions {
                input: input.clone(),
                output: output.clone(),
                smiles_column: args.smiles_column.clone(),
                in_flight: args.in_flight,
            };
            many(&predictor, format, &options, args.quiet).await
        }
        // clap has refused everything else
        _ => bail!("give --smiles, or --input and --output"),
    }
}

async fn one(predictor: &Predictor, format: Format, smiles: &str) -> Result<()> {
    let prediction = predictor.predict(smiles).await?;
    let manifest = predictor.manifest();
    let probability =
        (manifest.task == Task::Binary).then(|| 1.0 / (1.0 + (-prediction.values[0]).exp()));
    let value = json!({
        "model": manifest.name, "endpoint": manifest.endpoint, "unit": manifest.unit,
        "values": prediction.values, "probability": probability,
        "bytes_up": prediction.bytes_up, "bytes_down": prediction.bytes_down,
        "rounds": prediction.rounds, "ms": batch::millis(prediction.elapsed),
    });
    output::print(format, &value, || {
        for value in &prediction.values {
            println!("{}: {value:.4} {}", manifest.endpoint, manifest.unit);
        }
        if let Some(probability) = probability {
            println!("probability of class 1: {probability:.4}");
        }
        println!(
            "{:.1} ms, {} bytes up, {} bytes down, {} rounds",
            batch::millis(prediction.elapsed),
            prediction.bytes_up,
            prediction.bytes_down,
            prediction.rounds
        );
    })
}

async fn many(
    predictor: &Predictor,
    format: Format,
    options: &BatchOptions,
    quiet: bool,
) -> Result<()> {
    let started = std::time::Instant::now();
    let mut bar = Bar::new("query", None, quiet || format == Format::Json);
    let report = batch::run(predictor, options, |rows| bar.set(rows, String::new())).await?;
    bar.finish();
    let seconds = started.elapsed().as_secs_f64();
    let (p50, p95) = batch::percentiles(&report.latencies_ms);
    let value = json!({
        "output": options.output, "rows": report.rows, "predicted": report.predicted,
        "bad_molecules": report.bad_molecules, "bytes_up": report.bytes_up,
        "bytes_down": report.bytes_down, "p50_ms": p50, "p95_ms": p95, "seconds": seconds,
    });
    output::print(format, &value, || {
        println!(
            "{} rows written to {}: {} predicted, {} with a molecule that cannot be read",
            report.rows,
            options.output.display(),
            report.predicted,
            report.bad_molecules
        );
        println!(
            "{seconds:.1} s, {:.1} molecules a second",
            report.rows as f64 / seconds
        );
    })
}
