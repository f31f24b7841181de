//! Held-out molecules, intervals and the report.

use std::time::Instant;

use chemxor_core::{Manifest, Metrics, OutputScaling, Task};
use chemxor_fhe::plan::report::PlanReport;
use rayon::prelude::*;

use super::fit::Fit;
use super::precision::twin;
use crate::config::TrainConfig;
use crate::dataset::Dataset;
use crate::error::NetsError;
use crate::metrics::{Bootstrap, figures, metric, metric_name};
use crate::model::{FloatModel, Quantised};
use crate::report::{Curve, HeldOut, PlanRow, SweepRow, TrainReport};

/// Part of the molecules that an interval should hold.
const COVERAGE: f64 = 0.9;
/// Fewest residuals for an interval.
const LEAST_RESIDUALS: usize = 20;

/// Names of several outputs, and intervals from the molecules that only stopped the training.
pub(super) fn name_outputs(dataset: &Dataset, fit: &Fit, outputs: &mut [OutputScaling]) {
    let several = outputs.len() > 1;
    let rows = dataset.rows();
    let residuals: Vec<Vec<f64>> = if dataset.task() == Task::Regression {
        fit.validation
            .par_iter()
            .map(|index| {
                let row = &rows[*index];
                let predicted = fit.model.predict(&dataset.dense(row));
                let pairs = predicted.iter().zip(&row.targets);
                pairs.map(|(p, y)| (p - y).abs()).collect()
            })
            .collect()
    } else {
        Vec::new()
    };
    for (output, scaling) in outputs.iter_mut().enumerate() {
        if several {
            let name = &dataset.outputs()[output];
            scaling.name = name.chars().filter(|c| !c.is_control()).take(200).collect();
        }
        let mut of_output: Vec<f64> = residuals
            .iter()
            .map(|row| row[output])
            .filter(|residual| residual.is_finite())
            .collect();
        scaling.interval90 = half_width(&mut of_output);
    }
}

/// The residual at rank `ceil(0.9 (n + 1))`: split conformal prediction.
fn half_width(residuals: &mut [f64]) -> Option<f64> {
    if residuals.len() < LEAST_RESIDUALS {
        return None;
    }
    residuals.sort_by(f64::total_cmp);
    let rank = (COVERAGE * (residuals.len() + 1) as f64).ceil() as usize;
    residuals.get(rank.saturating_sub(1)).copied()
}

pub(super) fn no_metrics(metric: &str) -> Metrics {
    Metrics {
        metric: metric.to_owned(),
        float: 0.0,
        twin: 0.0,
    }
}

pub(super) fn judge(
    dataset: &Dataset,
    test: &[usize],
    model: &FloatModel,
    manifest: &Manifest,
    quantised: &Quantised,
    seed: u64,
) -> Vec<HeldOut> {
    test.par_iter()
        .map(|index| {
            let row = &dataset.rows()[*index];
            let features = dataset.dense(row);
            HeldOut {
                line: row.line,
                smiles: row.smiles.clone(),
                measured: row.targets.clone(),
                float_prediction: model.predict(&features),
                twin_prediction: twin(manifest, quantised, &features, seed, *index),
            }
        })
        .collect()
}

type Column = fn(&HeldOut) -> &Vec<f64>;

fn column(held_out: &[HeldOut], of: Column) -> Vec<Vec<f64>> {
    held_out.iter().map(|row| of(row).clone()).collect()
}

pub(super) fn metrics(task: Task, held_out: &[HeldOut]) -> Metrics {
    let measured = column(held_out, |row| &row.measured);
    let value = |of: Column| metric(task, &measured, &column(held_out, of));
    Metrics {
        metric: metric_name(task).to_owned(),
        float: finite(value(|row| &row.float_prediction)),
        twin: finite(value(|row| &row.twin_prediction)),
    }
}

/// JSON has no NaN; a figure that the rows do not define is 0.
fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// What a report is made of.
pub(super) struct Facts<'a> {
    pub(super) dataset: &'a Dataset,
    pub(super) config: &'a TrainConfig,
    pub(super) fit: &'a Fit,
    pub(super) quantised: &'a Quantised,
    pub(super) held_out: &'a [HeldOut],
    pub(super) manifest: &'a Manifest,
    pub(super) sweep: Vec<SweepRow>,
    pub(super) train_rows: usize,
    pub(super) active_features: usize,
    pub(super) bundle_bytes: usize,
    pub(super) test: &'a [usize],
}

impl Facts<'_> {
    pub(super) fn report(self, started: Instant) -> Result<TrainReport, NetsError> {
        let Self {
            dataset,
            config,
            fit,
            quantised,
            held_out,
            manifest,
            ..
        } = self;
        let differences: Vec<f64> = held_out
            .iter()
            .flat_map(|row| row.twin_prediction.iter().zip(&row.float_prediction))
            .map(|(twin, float)| (twin - float).abs())
            .collect();
        let bootstrap = Bootstrap {
            seed: config.seed,
            ..Bootstrap::default()
        };
        let measured = column(held_out, |row| &row.measured);
        let of = |of: Column| {
            let predicted = column(held_out, of);
            figures(
                manifest.task,
                dataset.outputs(),
                &measured,
                &predicted,
                &bootstrap,
            )
        };
        let plan = quantised
            .graph
            .steps()
            .iter()
            .zip(&quantised.weights)
            .map(|(spec, weights)| PlanRow {
                ring: spec.ring,
                accumulator_bits: spec.accumulator_bits,
                output_bits: spec.output_bits,
                row_norm_log2: weights.max_row_norm_squared().max(1.0).log2() / 2.0,
            })
            .collect();
        let curve = |epochs: &Vec<crate::net::Epoch>| Curve {
            train: epochs.iter().map(|epoch| epoch.train_loss).collect(),
            validation: epochs.iter().map(|epoch| epoch.validation_loss).collect(),
        };
        let wraps = |index: &&usize| {
            let features = dataset.dense(&dataset.rows()[**index]);
            fit.model.wraps(quantised, &features)
        };
        Ok(TrainReport {
            kind: config.kind.name(),
            rows: dataset.rows().len(),
            duplicates: dataset.duplicates().clone(),
            standardised_rows: dataset.standardised(),
            bad_rows: dataset.bad_rows().to_vec(),
            train_rows: self.train_rows,
            test_rows: held_out.len(),
            active_features: self.active_features,
            epochs_run: fit.epochs_run,
            best_epoch: fit.best_epoch,
            penalty: fit.penalty,
            validation_losses: fit.validation_losses.clone(),
            curves: fit.curves.iter().map(curve).collect(),
            metrics: manifest.metrics.clone(),
            float_figures: of(|row| &row.float_prediction),
            twin_figures: of(|row| &row.twin_prediction),
            twin_mean_difference: differences.iter().sum::<f64>() / differences.len().max(1) as f64,
            twin_largest_difference: differences.iter().copied().fold(0.0, f64::max),
            outside_range: self.test.par_iter().filter(wraps).count(),
            sweep: self.sweep,
            plan,
            costs: PlanReport::of_weights(&quantised.graph, &quantised.weights)?,
            bundle_bytes: self.bundle_bytes,
            seconds: started.elapsed().as_secs_f64(),
            settings: TrainConfig {
                checkpoints: None,
                ..config.clone()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_the_conformal_rank() {
        let mut residuals: Vec<f64> = (1..=99).map(f64::from).collect();
        assert_eq!(half_width(&mut residuals), Some(90.0));
        assert_eq!(half_width(&mut [1.0; 5]), None);
    }
}
