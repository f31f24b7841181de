//! `train`: CSV to bundle.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chemxor_client::files;
use chemxor_nets::{
    Budget, Comparison, Dataset, ForeignModel, Page, PrivacyAudit, Trained, TreeModel, choose,
    read_onnx, state_audit,
};
use serde_json::json;

use crate::args::{DataArgs, Format, ImportArgs, KindArg, TrainArgs};
use crate::output::{self, Bar};

pub(crate) fn run(format: Format, args: &TrainArgs) -> Result<()> {
    let mut config = args.settings.resolve()?;
    let dataset = read(&args.data)?;
    let mut comparison = None;
    if matches!(args.settings.kind, KindArg::Auto) {
        let budget = Budget {
            time: Duration::from_secs(args.settings.time_budget),
            milliseconds: args.settings.latency_budget,
        };
        let (chosen, table) = choose(&dataset, &config, &budget, &mut |kind| {
            eprintln!("auto: {kind} by cross-validation");
        })?;
        config = chosen;
        comparison = Some(table);
    }
    let mut bar = Bar::new(
        "train",
        Some(config.epochs.saturating_mul(config.ensemble) as u64),
        false,
    );
    let trained = chemxor_nets::train(&dataset, &config, &mut |progress| {
        bar.set(
            progress.epoch as u64,
            format!("validation loss {:.4}", progress.validation_loss),
        );
    })?;
    bar.finish();
    finish(format, args, &dataset, trained, comparison.as_ref())
}

/// `import`: a model of another program to a bundle.
pub(crate) fn import(format: Format, args: &ImportArgs) -> Result<()> {
    let train = &args.train;
    let config = train.settings.resolve()?;
    let path = &args.model;
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let dataset = read(&train.data)?;
    let featuriser = dataset.featuriser();
    let refused = || format!("{} cannot be imported", path.display());
    let ending = path.extension().and_then(|ending| ending.to_str());
    let model = match ending {
        Some("onnx") => {
            let onnx = read_onnx(&bytes, featuriser).with_context(refused)?;
            for note in &onnx.notes {
                eprintln!("note: {note}");
            }
            ForeignModel::Onnx(onnx)
        }
        Some("json") => ForeignModel::Trees(
            TreeModel::from_xgboost_json(&bytes, featuriser).with_context(refused)?,
        ),
        Some("txt") => ForeignModel::Trees(
            TreeModel::from_lightgbm_text(&bytes, featuriser).with_context(refused)?,
        ),
        _ => bail!(
            "{}: the ending says what it is; .onnx, .json (XGBoost) and .txt (LightGBM) can be imported",
            path.display()
        ),
    };
    let trained = chemxor_nets::import(&dataset, &config, model)?;
    finish(format, train, &dataset, trained, None)
}

/// Writes the HTML report and says where it is.
fn write_report(args: &TrainArgs, dataset: &Dataset, trained: &Trained) -> Result<PathBuf> {
    let path = args
        .report
        .clone()
        .unwrap_or_else(|| args.output.with_extension("html"));
    let audit = args.audit.as_deref().map(read_audit).transpose()?;
    let page = Page::of_training(trained, dataset.outputs(), audit);
    files::replace(&path, page.html().as_bytes()).context("cannot write the report")?;
    Ok(path)
}

pub(crate) fn read_audit(path: &Path) -> Result<PrivacyAudit> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(PrivacyAudit::from_json(
        &path.display().to_string(),
        &bytes,
    )?)
}

pub(super) fn read(data: &DataArgs) -> Result<Dataset> {
    let dataset = Dataset::read_csv(&data.input, &data.read_options()?)?;
    for row in dataset.bad_rows().iter().take(20) {
        eprintln!("line {} is left out: {}", row.line, row.reason);
    }
    let duplicates = dataset.duplicates();
    if !duplicates.conflicting.is_empty() {
        let (first, later) = duplicates.conflicting[0];
        eprintln!(
            "{} molecules stand more than once with different targets, the first in lines {first} and {later}; all are kept, on one side of the split",
            duplicates.conflicting.len()
        );
    }
    Ok(dataset)
}

fn finish(
    format: Format,
    args: &TrainArgs,
    dataset: &Dataset,
    mut trained: Trained,
    comparison: Option<&Comparison>,
) -> Result<()> {
    if let Some(path) = &args.audit {
        trained.bundle = state_audit(&trained.bundle, &read_audit(path)?)?;
    }
    let trained = &trained;
    files::replace(&args.output, &trained.bundle.to_bytes()).context("cannot write the bundle")?;
    if let Some(path) = &args.holdout {
        let rows = holdout(trained, dataset.outputs())?;
        files::replace(path, &rows).context("cannot write the held-out molecules")?;
    }
    let page = write_report(args, dataset, trained)?;
    let report = &trained.report;
    let value = json!({
        "html": page,
        "bundle": args.output, "version": trained.bundle.version(), "report": report,
        "comparison": comparison,
    });
    output::print(format, &value, || {
        for candidate in comparison.iter().flat_map(|table| &table.candidates) {
            say!(
                "auto       {:8} {} {} estimated {:.1} ms, {} bytes: {}",
                candidate.kind,
                comparison.map_or("", |table| table.metric),
                candidate
                    .value
                    .map_or("-".to_owned(), |value| format!("{value:.4}")),
                candidate.milliseconds,
                candidate.bytes,
                candidate.verdict
            );
        }
        let metrics = &report.metrics;
        say!(
            "bundle     {} ({} bytes)",
            args.output.display(),
            report.bundle_bytes
        );
        say!("report     {}", page.display());
        say!("version    {}", trained.bundle.version());
        say!(
            "data       {} rows used, {} left out, {} for training, {} held out",
            report.rows,
            report.bad_rows.len(),
            report.train_rows,
            report.test_rows
        );
        say!(
            "held out   {} {:.4} in floating point, {:.4} as the integers that run encrypted",
            metrics.metric,
            metrics.float,
            metrics.twin
        );
        for figure in &report.twin_figures {
            let at = figure.interval;
            say!(
                "           {:8} {:.3}, 95 % interval {:.3} to {:.3} (integers) {}",
                figure.name,
                at.value,
                at.low,
                at.high,
                figure.output
            );
        }
        for row in report.sweep.iter().filter(|row| row.chosen) {
            say!(
                "precision  {:?} bits in the hidden layers, the validation figure loses {:.2} %",
                row.bits,
                100.0 * row.loss
            );
        }
        say!(
            "cost       {} rounds, {} bytes up and {} down a molecule",
            report.costs.steps.len(),
            report.costs.bytes_up,
            report.costs.bytes_down
        );
        say!(
            "leakage    at most {} bits about the weights a query",
            trained.bundle.manifest().leakage_bits_per_query
        );
        say!("time       {:.1} s", report.seconds);
    })
}

/// Columns `measured`, `plain` and `twin`; of several outputs each with `:NAME`.
fn holdout(trained: &Trained, outputs: &[String]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let several = outputs.len() > 1;
    let targets = trained.held_out.first().map_or(1, |row| row.measured.len());
    let mut header = vec!["line".to_owned(), "smiles".to_owned()];
    for (column, count) in [
        ("measured", targets),
        ("plain", outputs.len()),
        ("twin", outputs.len()),
    ] {
        for output in outputs.iter().take(count) {
            header.push(if several && count > 1 {
                format!("{column}:{output}")
            } else {
                column.to_owned()
            });
        }
    }
    writer.write_record(&header)?;
    for row in &trained.held_out {
        let values = [&row.measured, &row.float_prediction, &row.twin_prediction];
        let text = |value: &f64| {
            if value.is_nan() {
                String::new()
            } else {
                value.to_string()
            }
        };
        let fields = values.into_iter().flatten().map(text);
        let first = [row.line.to_string(), row.smiles.clone()];
        writer.write_record(first.into_iter().chain(fields))?;
    }
    Ok(writer.into_inner()?)
}
