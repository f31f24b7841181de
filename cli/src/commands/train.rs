//! `train`: CSV to bundle.

use anyhow::{Context, Result, bail};
use chemxor_chem::{FEATURISER_NAMES, named};
use chemxor_core::Task;
use chemxor_nets::{Dataset, ModelKind, ReadOptions, TrainConfig, Trained};
use serde_json::json;

use crate::args::{Format, Kind, TaskArg, TrainArgs};
use crate::output::{self, Bar};

pub(crate) fn run(format: Format, args: &TrainArgs) -> Result<()> {
    let Some(featuriser) = named(&args.featuriser) else {
        bail!(
            "no featuriser is called {:?}; there are {}",
            args.featuriser,
            FEATURISER_NAMES.join(", ")
        );
    };
    let options = ReadOptions {
        featuriser,
        smiles_column: args.smiles_column.clone(),
        target_column: args.target_column.clone(),
        task: match args.task {
            TaskArg::Regression => Task::Regression,
            TaskArg::Binary => Task::Binary,
        },
    };
    let dataset = Dataset::read_csv(&args.input, &options)?;
    for row in dataset.bad_rows().iter().take(20) {
        eprintln!("line {} is left out: {}", row.line, row.reason);
    }
    let config = TrainConfig {
        name: args.name.clone(),
        kind: match args.model {
            Kind::Mlp => ModelKind::Mlp {
                hidden: args.hidden,
            },
            Kind::Linear => ModelKind::Linear,
        },
        endpoint: args.endpoint.clone(),
        unit: args.unit.clone(),
        description: args.description.clone(),
        seed: args.seed,
        epochs: args.epochs,
        ensemble: args.ensemble,
        activation_bits: args.activation_bits,
        output_bits: args.output_bits,
        test_fraction: args.test_fraction,
        ..TrainConfig::default()
    };
    let mut bar = Bar::new(
        "train",
        Some(args.epochs.saturating_mul(args.ensemble) as u64),
        false,
    );
    let trained = chemxor_nets::train(&dataset, &config, &mut |progress| {
        bar.set(
            progress.epoch as u64,
            format!("validation loss {:.4}", progress.validation_loss),
        );
    })?;
    bar.finish();
    std::fs::write(&args.output, trained.bundle.to_bytes())
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    if let Some(path) = &args.holdout {
        write_holdout(path, &trained)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let report = &trained.report;
    let value = json!({
        "bundle": args.output, "version": trained.bundle.version(), "report": report,
    });
    output::print(format, &value, || {
        let metrics = &report.metrics;
        println!(
            "bundle     {} ({} bytes)",
            args.output.display(),
            report.bundle_bytes
        );
        println!("version    {}", trained.bundle.version());
        println!(
            "data       {} rows used, {} left out, {} for training, {} held out",
            report.rows,
            report.bad_rows.len(),
            report.train_rows,
            report.test_rows
        );
        println!(
            "held out   {} {:.4} in floating point, {:.4} as the integers that run encrypted",
            metrics.metric, metrics.float, metrics.twin
        );
        for figure in &report.twin_figures {
            let at = figure.interval;
            println!(
                "           {:8} {:.3}, 95 % interval {:.3} to {:.3} (integers)",
                figure.name, at.value, at.low, at.high
            );
        }
        println!(
            "leakage    at most {} bits about the weights a query",
            trained.bundle.manifest().leakage_bits_per_query
        );
        println!("time       {:.1} s", report.seconds);
    })
}

fn write_holdout(path: &std::path::Path, trained: &Trained) -> Result<()> {
    let mut writer = csv::Writer::from_path(path)?;
    writer.write_record(["line", "smiles", "measured", "plain", "twin"])?;
    for row in &trained.held_out {
        writer.write_record([
            row.line.to_string(),
            row.smiles.clone(),
            row.measured.to_string(),
            row.float_prediction.to_string(),
            row.twin_prediction.to_string(),
        ])?;
    }
    Ok(writer.flush()?)
}
