//! `distil`: trains on what another model predicts for a list of molecules (Hinton et al. 2015).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chemxor_chem::table::{Column, Table};
use chemxor_chem::{featurise, standardise};
use chemxor_core::{Manifest, Task};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::twin;
use chemxor_nets::HoldOut;

use crate::args::{DistilArgs, Format, TaskArg};
use crate::commands::publish::read_bundle;
use crate::commands::train;
use crate::output::Bar;

/// A model whose predictions are learned from: the integers that would run encrypted, in the clear.
struct Teacher {
    manifest: Manifest,
    weights: Vec<StepWeights>,
}

impl Teacher {
    fn read(path: &Path) -> Result<Self> {
        let bundle = read_bundle(path)?;
        let weights = bundle
            .blobs()
            .iter()
            .map(|blob| StepWeights::from_blob(blob))
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| path.display().to_string())?;
        Ok(Self {
            manifest: bundle.manifest().clone(),
            weights,
        })
    }

    /// Columns of its predictions.
    fn columns(&self) -> Vec<String> {
        match (self.manifest.task, self.manifest.outputs.as_slice()) {
            (Task::Multiclass, _) | (_, [_]) => vec!["target".to_owned()],
            (_, outputs) => outputs.iter().map(|output| output.name.clone()).collect(),
        }
    }

    /// Its prediction as the fields of a training table: numbers, classes 0 and 1, or a label.
    fn label(&self, smiles: &str) -> Result<Vec<String>, String> {
        let standard = standardise(self.manifest.standardisation, smiles);
        let features = standard
            .and_then(|standard| featurise(&self.manifest.featuriser, &standard.smiles))
            .map_err(|error| error.to_string())?;
        let graph = &self.manifest.graph;
        let codes = twin::evaluate(graph.steps(), &self.weights, &features, twin::nearest());
        let outputs = &self.manifest.outputs;
        let values = codes.iter().zip(outputs);
        let values = values.map(|(code, scaling)| scaling.apply(*code, graph.last().output_bits));
        Ok(match self.manifest.task {
            Task::Regression => values.map(|value| value.to_string()).collect(),
            // values of classes are logits
            Task::Binary => values
                .map(|logit| u8::from(logit >= 0.0).to_string())
                .collect(),
            Task::Multiclass => {
                let best = values
                    .zip(outputs)
                    .max_by(|(a, _), (b, _)| a.total_cmp(b))
                    .map(|(_, output)| output.name.clone());
                vec![best.unwrap_or_default()]
            }
        })
    }
}

pub(crate) fn run(format: Format, args: DistilArgs) -> Result<()> {
    let DistilArgs {
        teacher,
        mut train,
        labels,
    } = args;
    let data = &train.data;
    if !data.thresholds.is_empty()
        || data.target_columns != ["target"]
        || matches!(data.split, HoldOut::Column(_))
    {
        bail!(
            "the targets come from the teacher: leave --threshold, --target-column and --split \
             column:NAME away"
        );
    }
    let teacher = Teacher::read(&teacher)?;
    let labels: PathBuf = match labels {
        Some(path) if path.exists() => {
            bail!(
                "{} exists; choose another file for --labels",
                path.display()
            )
        }
        Some(path) => path,
        None => train.output.with_extension("labels.csv"),
    };
    write_labels(
        &teacher,
        &train.data.input,
        &train.data.smiles_column,
        &labels,
    )?;
    train.data.input = labels;
    "smiles".clone_into(&mut train.data.smiles_column);
    train.data.target_columns = teacher.columns();
    train.data.task = match teacher.manifest.task {
        Task::Regression => TaskArg::Regression,
        Task::Binary => TaskArg::Binary,
        Task::Multiclass => TaskArg::Multiclass,
    };
    train::run(format, &train)
}

/// Writes `smiles` and the teacher's predictions; a molecule that the teacher cannot read is told and
/// left out.
fn write_labels(teacher: &Teacher, input: &Path, column: &str, path: &Path) -> Result<()> {
    let place = || format!("cannot write {}", path.display());
    let table = Table::open(input, &Column::parse(column))?;
    let mut writer = csv::Writer::from_path(path).with_context(place)?;
    let header = std::iter::once("smiles".to_owned()).chain(teacher.columns());
    writer.write_record(header).with_context(place)?;
    let mut bar = Bar::new("teacher", None, false);
    let mut refused = 0u64;
    for (number, row) in table.enumerate() {
        let labelled = row
            .smiles
            .and_then(|smiles| Ok((teacher.label(&smiles)?, smiles)));
        match labelled {
            Ok((label, smiles)) => writer
                .write_record(std::iter::once(smiles).chain(label))
                .with_context(place)?,
            Err(reason) => {
                refused += 1;
                if refused <= 20 {
                    eprintln!("line {} is left out: {reason}", row.line);
                }
            }
        }
        bar.set(number as u64 + 1, String::new());
    }
    bar.finish();
    writer.flush().with_context(place)
}
