//! What a training run tells: while it runs, for each held-out molecule, and at the end. For the
//! publisher; it is not published.

use std::time::Duration;

use chemxor_core::{Metrics, RingName};
use serde::Serialize;

use crate::dataset::BadRow;
use crate::metrics::Figure;

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
    /// Measured value or class.
    pub measured: f64,
    /// Of the float model: value, or log-odds of class 1.
    pub float_prediction: f64,
    /// Of the integers, rounded as the protocol rounds.
    pub twin_prediction: f64,
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
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainReport {
    /// `linear` or `mlp`.
    pub kind: &'static str,
    /// Usable rows of the file.
    pub rows: usize,
    /// Rows whose SMILES stood in the file before.
    pub repeated_rows: usize,
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
    /// Each step.
    pub plan: Vec<PlanRow>,
    /// Size of the bundle in bytes.
    pub bundle_bytes: usize,
    /// Time of training and quantisation.
    pub seconds: f64,
}
