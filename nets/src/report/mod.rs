//! What a training run tells: while it runs, for each held-out molecule, and at the end. For the
//! publisher; it is not published.
//!
//! | module | what it holds |
//! |---|---|
//! | `page` | the report as one HTML file |
//! | `outputs` | plots of one output |
//! | `plots` | the other plots |
//! | `svg` | axes, marks and legends |

mod outputs;
mod page;
mod plots;
mod svg;

use std::time::Duration;

use chemxor_core::{Manifest, Metrics, RingName};
use chemxor_fhe::plan::report::PlanReport;
use serde::Serialize;

use crate::audit::PrivacyAudit;
use crate::config::TrainConfig;
use crate::dataset::{BadRow, Duplicates};
use crate::metrics::{Bootstrap, Figure, figures};
use crate::train::Trained;

/// One step of a running training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Epochs done (MLP), or penalties tried (linear).
    pub epoch: usize,
    /// At most so many.
    pub epochs: usize,
    /// Mean loss on what is learned from.
    pub train_loss: f64,
    /// Mean loss on the validation part.
    pub validation_loss: f64,
    /// Since the start of training.
    pub elapsed: Duration,
    /// Estimate of what remains, if no early stopping comes.
    pub remaining: Duration,
}

/// One molecule that the model never learned from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeldOut {
    /// Line of the file, from 1, the header included.
    pub line: u64,
    /// As written in the file.
    pub smiles: String,
    /// For each target column the measured value or class, NaN where it is missing.
    pub measured: Vec<f64>,
    /// Of the float model, for each output: value, log-odds of class 1, or score of the class.
    pub float_prediction: Vec<f64>,
    /// Of the integers, rounded as the protocol rounds.
    pub twin_prediction: Vec<f64>,
}

/// Losses of each epoch of one network.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// On what is learned from, with simulated rounding.
    pub train: Vec<f64>,
    /// On the validation part.
    pub validation: Vec<f64>,
}

/// A precision that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SweepRow {
    /// b of each hidden step.
    pub bits: Vec<u8>,
    /// Figure of the float model on the validation part.
    pub float: f64,
    /// Mean figure of the integers over simulated runs.
    pub twin: f64,
    /// Relative loss of the worst of these runs.
    pub loss: f64,
    /// Estimated time of all steps on one thread and of the bytes, in ms.
    pub cost: f64,
    /// Bytes up and down.
    pub bytes: usize,
    /// Whether the bundle has it.
    pub chosen: bool,
}

/// Precision and plan of one step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanRow {
    /// Ring of its ciphertexts.
    pub ring: RingName,
    /// l.
    pub accumulator_bits: u8,
    /// b or B.
    pub output_bits: u8,
    /// log2 of the largest row norm of the integer matrix.
    pub row_norm_log2: f64,
}

/// Summary of a training run.
#[derive(Debug, Clone, Serialize)]
pub struct TrainReport {
    /// Name of the kind of model.
    pub kind: &'static str,
    /// Usable rows of the file.
    pub rows: usize,
    /// Molecules that stand in the file more than once.
    pub duplicates: Duplicates,
    /// Rows that standardisation changed.
    pub standardised_rows: usize,
    /// Rows that could not be used.
    pub bad_rows: Vec<BadRow>,
    /// Learned from, validation included.
    pub train_rows: usize,
    /// Held out.
    pub test_rows: usize,
    /// Features that vary among the rows learned from.
    pub active_features: usize,
    /// Epochs run (MLP), or penalties tried (linear).
    pub epochs_run: usize,
    /// The epoch that was kept (MLP).
    pub best_epoch: Option<usize>,
    /// The penalty that was kept (linear).
    pub penalty: Option<f64>,
    /// Validation loss of each epoch or penalty.
    pub validation_losses: Vec<f64>,
    /// Learning curves, one for each network.
    pub curves: Vec<Curve>,
    /// Held-out quality of the float model and of the twin.
    pub metrics: Metrics,
    /// Every figure of the float model on the held-out rows, with 95 % bootstrap intervals.
    pub float_figures: Vec<Figure>,
    /// The same for the twin.
    pub twin_figures: Vec<Figure>,
    /// Mean absolute difference between twin and float model, held out, in the endpoint's unit.
    pub twin_mean_difference: f64,
    /// Largest such difference.
    pub twin_largest_difference: f64,
    /// Held-out molecules with a pre-activation outside the calibrated range, where it wraps.
    pub outside_range: usize,
    /// Precisions that were tried; empty where one was asked for or none can be chosen.
    pub sweep: Vec<SweepRow>,
    /// Each step.
    pub plan: Vec<PlanRow>,
    /// What an encrypted query costs.
    pub costs: PlanReport,
    /// Size of the bundle in bytes.
    pub bundle_bytes: usize,
    /// Time of training and quantisation.
    pub seconds: f64,
    /// What it was trained with, without the folder of the checkpoints.
    pub settings: TrainConfig,
}

/// Predictions of one way to evaluate a model.
#[derive(Debug, Clone)]
pub struct Series {
    /// What it is called.
    pub name: String,
    /// `[rows][outputs]`: values, log-odds of class 1, or scores of the classes.
    pub predictions: Vec<Vec<f64>>,
    /// Every figure with its interval.
    pub figures: Vec<Figure>,
}

/// A report: of a training run, or of an evaluation of a bundle.
#[derive(Debug, Clone)]
pub struct Page {
    /// Of the model.
    pub manifest: Manifest,
    /// The version that the manifest names.
    pub version: String,
    /// Names of the outputs.
    pub outputs: Vec<String>,
    /// Lines of the molecules in their file.
    pub lines: Vec<u64>,
    /// `[rows][targets]`, NaN where missing.
    pub measured: Vec<Vec<f64>>,
    /// The last one is what a lab gets, and the one whose predictions are plotted.
    pub series: Vec<Series>,
    /// What an encrypted query costs.
    pub costs: PlanReport,
    /// The training run, where it is known.
    pub training: Option<TrainReport>,
    /// A privacy audit, where there is one.
    pub audit: Option<PrivacyAudit>,
}

impl Series {
    /// With every figure of the task.
    pub fn new(
        name: &str,
        manifest: &Manifest,
        outputs: &[String],
        measured: &[Vec<f64>],
        predictions: Vec<Vec<f64>>,
    ) -> Self {
        let bootstrap = Bootstrap {
            seed: manifest.seed,
            ..Bootstrap::default()
        };
        Self {
            name: name.to_owned(),
            figures: figures(manifest.task, outputs, measured, &predictions, &bootstrap),
            predictions,
        }
    }
}

impl Page {
    /// The report of a training run.
    pub fn of_training(trained: &Trained, outputs: &[String], audit: Option<PrivacyAudit>) -> Self {
        let rows = &trained.held_out;
        let report = &trained.report;
        let series = |name: &str, figures: &[Figure], predictions| Series {
            name: name.to_owned(),
            predictions,
            figures: figures.to_vec(),
        };
        Self {
            manifest: trained.bundle.manifest().clone(),
            version: trained.bundle.version().to_string(),
            outputs: outputs.to_vec(),
            lines: rows.iter().map(|row| row.line).collect(),
            measured: rows.iter().map(|row| row.measured.clone()).collect(),
            series: vec![
                series(
                    "floating point",
                    &report.float_figures,
                    rows.iter()
                        .map(|row| row.float_prediction.clone())
                        .collect(),
                ),
                series(
                    "integers",
                    &report.twin_figures,
                    rows.iter().map(|row| row.twin_prediction.clone()).collect(),
                ),
            ],
            costs: report.costs.clone(),
            training: Some(report.clone()),
            audit,
        }
    }

    /// One self-contained HTML file: it loads nothing and names no molecule.
    pub fn html(&self) -> String {
        page::html(self)
    }
}

#[cfg(test)]
mod tests;
