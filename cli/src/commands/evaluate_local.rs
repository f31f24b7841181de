//! `evaluate --encrypted-local`: plain predictions, clear integers and encrypted runs of a bundle side
//! by side, in one process.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use chemxor_chem::{featurise, standardise};
use chemxor_client::batch::{millis, percentiles};
use chemxor_core::{Bundle, Manifest, Task};
use chemxor_fhe::local::LocalModel;
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::plan::report::PlanReport;
use chemxor_fhe::twin;
use chemxor_nets::{Page, Series};
use serde_json::json;

use crate::args::{EvaluateArgs, Format};
use crate::commands::train::read_audit;
use crate::output::{self, Bar};

/// What is read of the CSV.
struct Table {
    /// Lines of the file.
    lines: Vec<u64>,
    smiles: Vec<String>,
    measured: Vec<Vec<f64>>,
    /// Of the float model; empty where the file has none.
    plain: Vec<Vec<f64>>,
}

/// One molecule.
struct Done {
    encrypted: Vec<f64>,
    twin: Vec<f64>,
    exact: bool,
    ms: f64,
}

pub(crate) fn run(format: Format, args: &EvaluateArgs) -> Result<()> {
    let path = Path::new(&args.model);
    let bytes = std::fs::read(path).with_context(|| {
        format!(
            "cannot read {}; with --encrypted-local give the file of a bundle",
            path.display()
        )
    })?;
    let bundle = Bundle::from_bytes(&bytes).with_context(|| path.display().to_string())?;
    let manifest = bundle.manifest();
    let weights = bundle
        .blobs()
        .iter()
        .map(|blob| StepWeights::from_blob(blob))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| path.display().to_string())?;
    let outputs = names(manifest);
    let table = Table::read(&args.holdout, manifest, &outputs, args.rows)?;
    let costs = PlanReport::of_weights(&manifest.graph, &weights)?;
    let local = LocalModel::new(manifest.graph.clone(), weights.clone())?;
    let mut bar = Bar::new("evaluate", Some(table.smiles.len() as u64), false);
    let (mut kept, mut done) = (Vec::new(), Vec::new());
    for (number, smiles) in table.smiles.iter().enumerate() {
        match molecule(&local, manifest, &weights, smiles)? {
            Ok(one) => {
                kept.push(number);
                done.push(one);
            }
            Err(reason) => eprintln!("line {} is left out: {reason}", table.lines[number]),
        }
        bar.set(number as u64 + 1, String::new());
    }
    bar.finish();
    if done.is_empty() {
        bail!("{}: no molecule could be evaluated", args.holdout.display());
    }
    let measured: Vec<Vec<f64>> = kept.iter().map(|at| table.measured[*at].clone()).collect();
    let series =
        |name: &str, predictions| Series::new(name, manifest, &outputs, &measured, predictions);
    let mut all = Vec::new();
    if !table.plain.is_empty() {
        let plain = kept.iter().map(|at| table.plain[*at].clone()).collect();
        all.push(series("floating point", plain));
    }
    all.push(series(
        "integers",
        done.iter().map(|one| one.twin.clone()).collect(),
    ));
    all.push(series(
        "encrypted",
        done.iter().map(|one| one.encrypted.clone()).collect(),
    ));
    let exact = done.iter().filter(|one| one.exact).count();
    let latencies: Vec<f64> = done.iter().map(|one| one.ms).collect();
    let (p50, p95) = percentiles(&latencies);
    let page = Page {
        manifest: manifest.clone(),
        version: bundle.version().to_string(),
        outputs,
        lines: kept.iter().map(|at| table.lines[*at]).collect(),
        measured: measured.clone(),
        series: all,
        costs,
        training: None,
        audit: args.audit.as_deref().map(read_audit).transpose()?,
    };
    if let Some(path) = &args.report {
        chemxor_client::files::replace(path, page.html().as_bytes())
            .context("cannot write the report")?;
    }
    let figures: Vec<_> = page
        .series
        .iter()
        .map(|series| json!({ "name": series.name, "figures": series.figures }))
        .collect();
    let molecules: Vec<_> = kept
        .iter()
        .zip(&done)
        .map(|(at, one)| {
            json!({
                "line": table.lines[*at], "smiles": table.smiles[*at], "measured": table.measured[*at],
                "plain": table.plain.get(*at), "twin": one.twin, "encrypted": one.encrypted,
                "exact": one.exact, "ms": one.ms,
            })
        })
        .collect();
    let value = json!({
        "version": page.version, "count": done.len(), "exact": exact, "p50_ms": p50, "p95_ms": p95,
        "evaluations": figures, "molecules": molecules, "html": args.report,
    });
    output::print(format, &value, || {
        let mut header = vec!["figure"];
        header.extend(page.series.iter().map(|series| series.name.as_str()));
        let first = &page.series[0].figures;
        let rows: Vec<Vec<String>> = first
            .iter()
            .enumerate()
            .map(|(at, figure)| {
                let value = |series: &Series| {
                    let at = series.figures[at].interval;
                    format!("{:.4} ({:.4} to {:.4})", at.value, at.low, at.high)
                };
                let name = format!("{} {}", figure.name, figure.output);
                let name = name.trim_end().to_owned();
                std::iter::once(name)
                    .chain(page.series.iter().map(value))
                    .collect()
            })
            .collect();
        output::table(&header, &rows);
        say!();
        say!(
            "{exact} of {} encrypted runs equal the clear integers with the carries of the run, bit for bit",
            done.len()
        );
        say!("time a molecule in one process: p50 {p50:.1} ms, p95 {p95:.1} ms");
    })?;
    if exact < done.len() {
        bail!(
            "{} encrypted runs differ from the clear integers; please report it with the bundle's version {}",
            done.len() - exact,
            page.version
        );
    }
    Ok(())
}

/// Names of the outputs, `y` where there is one.
fn names(manifest: &Manifest) -> Vec<String> {
    let named = manifest.outputs.iter().enumerate().map(|(at, output)| {
        if output.name.is_empty() && manifest.outputs.len() > 1 {
            format!("output {}", at + 1)
        } else {
            output.name.clone()
        }
    });
    named.collect()
}

/// The inner error is of the molecule.
fn molecule(
    local: &LocalModel,
    manifest: &Manifest,
    weights: &[StepWeights],
    smiles: &str,
) -> Result<Result<Done, String>> {
    let features = standardise(manifest.standardisation, smiles)
        .and_then(|standard| featurise(&manifest.featuriser, &standard.smiles));
    let features = match features {
        Ok(features) => features,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let begin = Instant::now();
    let mut query = local.query(&features)?;
    let mut steps = Vec::new();
    let codes = loop {
        let mut step = query.advance()?;
        let codes = step.codes.take();
        steps.push(step);
        if let Some(codes) = codes {
            break codes;
        }
    };
    let ms = millis(begin.elapsed());
    let mut rounded = steps
        .iter()
        .map(|step| step.rounded(local))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(last) = rounded.last_mut() {
        last.clone_from(&codes);
    }
    // the carries of the run: what was rounded, less the floor
    let clear = twin::evaluate(manifest.graph.steps(), weights, &features, |rounding| {
        let turn = 1i64 << rounding.bits;
        let t = i64::from(rounded[rounding.step][rounding.output]);
        let carry = (t - i64::from(rounding.floor) + turn / 2).rem_euclid(turn) - turn / 2;
        // a carry that no run of the protocol has is an error, and then the codes differ
        let from_exact = carry as f64 - rounding.fraction;
        if from_exact.abs() < 2.0 { carry } else { 0 }
    });
    let bits = manifest.graph.last().output_bits;
    let values = |codes: &[u32]| -> Vec<f64> {
        let pairs = codes.iter().zip(&manifest.outputs);
        pairs
            .map(|(code, scaling)| scaling.apply(*code, bits))
            .collect()
    };
    let nearest = twin::evaluate(manifest.graph.steps(), weights, &features, twin::nearest());
    Ok(Ok(Done {
        encrypted: values(&codes),
        twin: values(&nearest),
        exact: clear == codes,
        ms,
    }))
}

impl Table {
    fn read(
        path: &Path,
        manifest: &Manifest,
        outputs: &[String],
        rows: Option<usize>,
    ) -> Result<Self> {
        let shown = || path.display().to_string();
        let mut reader = csv::Reader::from_path(path).with_context(shown)?;
        let header = reader.headers().with_context(shown)?.clone();
        let find = |name: &str| header.iter().position(|column| column == name);
        let Some(smiles_at) = find("smiles") else {
            bail!(
                "{}: no column smiles; write such a file with `chemxor train --holdout`",
                shown()
            );
        };
        let several = outputs.len() > 1;
        // of several classes one column holds the number of the class
        let targets = if several && manifest.task != Task::Multiclass {
            outputs.len()
        } else {
            1
        };
        let columns = |what: &str, count: usize| -> Option<Vec<usize>> {
            if count == 1 {
                return find(what).map(|at| vec![at]);
            }
            let named = outputs
                .iter()
                .map(|output| find(&format!("{what}:{output}")));
            named.collect()
        };
        let Some(measured_at) = columns("measured", targets) else {
            bail!(
                "{}: no column measured for each output; write such a file with `chemxor train --holdout`",
                shown()
            );
        };
        let plain_at = columns("plain", outputs.len());
        let mut table = Self {
            lines: Vec::new(),
            smiles: Vec::new(),
            measured: Vec::new(),
            plain: Vec::new(),
        };
        let lines_at = find("line");
        for record in reader.records().take(rows.unwrap_or(usize::MAX)) {
            let record = record.with_context(shown)?;
            let line = record.position().map_or(0, csv::Position::line);
            let numbers = |columns: &[usize]| -> Result<Vec<f64>> {
                let number = |at: &usize| match record.get(*at).map(str::trim) {
                    None | Some("") => Ok(f64::NAN),
                    Some(text) => text.parse().with_context(|| {
                        format!("{}, line {line}: {text:?} is no number", shown())
                    }),
                };
                columns.iter().map(number).collect()
            };
            let own = lines_at.and_then(|at| record.get(at)?.parse().ok());
            table.lines.push(own.unwrap_or(line));
            table
                .smiles
                .push(record.get(smiles_at).unwrap_or_default().to_owned());
            table.measured.push(numbers(&measured_at)?);
            if let Some(plain_at) = &plain_at {
                table.plain.push(numbers(plain_at)?);
            }
        }
        if table.smiles.is_empty() {
            bail!(
                "{}: no rows; write one with `chemxor train --holdout`",
                shown()
            );
        }
        Ok(table)
    }
}
