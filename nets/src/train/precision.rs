//! The search for the cheapest bits of the hidden layers that keep the validation figure.

use chemxor_core::Manifest;
use chemxor_fhe::plan::report::PlanReport;
use chemxor_fhe::twin::{evaluate, stochastic};
use rand::RngExt;
use rayon::prelude::*;

use super::TWIN;
use super::fit::Fit;
use crate::config::TrainConfig;
use crate::dataset::Dataset;
use crate::error::NetsError;
use crate::metrics::{higher_is_better, metric};
use crate::model::Quantised;
use crate::report::SweepRow;
use crate::split::generator;

/// Simulated runs of each candidate; the worst one decides.
const RUNS: usize = 4;
/// Most molecules that a candidate is judged on.
const MOST_ROWS: usize = 400;

pub(super) struct Chosen {
    pub(super) quantised: Quantised,
    /// Every uniform precision that was tried, then the choice.
    pub(super) sweep: Vec<SweepRow>,
}

/// Quantises at the precision that was asked for, or at the cheapest that loses little.
pub(super) fn choose(
    dataset: &Dataset,
    config: &TrainConfig,
    fit: &Fit,
    calibration: &[Vec<u16>],
) -> Result<Chosen, NetsError> {
    let steps = fit.model.hidden_steps();
    let quantise = |bits: &[u8]| fit.model.quantise(calibration, bits, config.output_bits);
    if steps == 0 {
        return Ok(Chosen {
            quantised: quantise(&[])?,
            sweep: Vec::new(),
        });
    }
    if let Some(bits) = config.activation_bits {
        return Ok(Chosen {
            quantised: quantise(&vec![bits; steps])?,
            sweep: Vec::new(),
        });
    }
    let judge = Judge::new(dataset, config, fit);
    let mut sweep = Vec::new();
    let mut best: Option<(f64, Vec<u8>, Quantised)> = None;
    let mut refusal = None;
    for b in (3..=8).rev() {
        let bits = vec![b; steps];
        let quantised = match quantise(&bits) {
            Ok(quantised) => quantised,
            Err(error) => {
                refusal = Some(error);
                continue;
            }
        };
        let row = judge.row(&bits, &quantised)?;
        let fits = row.loss <= config.precision_loss;
        let cost = row.cost;
        sweep.push(row);
        if fits && best.as_ref().is_none_or(|(least, ..)| cost < *least) {
            best = Some((cost, bits, quantised));
        }
    }
    // nothing keeps the figure: the most bits that fit, and the report shows what they lose
    let Some((mut cost, mut bits, mut quantised)) = best else {
        let most = sweep.first().map(|row| row.bits.clone());
        let Some(bits) = most else {
            return Err(refusal.unwrap_or(NetsError::Unquantisable));
        };
        let quantised = quantise(&bits)?;
        return Ok(Chosen { quantised, sweep });
    };
    // then a bit less in one layer after the other, as long as it pays
    if steps > 1 {
        for layer in 0..steps {
            while bits[layer] > 3 {
                let mut fewer = bits.clone();
                fewer[layer] -= 1;
                let Ok(candidate) = quantise(&fewer) else {
                    break;
                };
                let row = judge.row(&fewer, &candidate)?;
                if row.loss > config.precision_loss || row.cost >= cost {
                    break;
                }
                cost = row.cost;
                sweep.push(row);
                (bits, quantised) = (fewer, candidate);
            }
        }
    }
    for row in &mut sweep {
        row.chosen = row.bits == bits;
    }
    Ok(Chosen { quantised, sweep })
}

/// The molecules and what the float model says of them.
struct Judge<'a> {
    dataset: &'a Dataset,
    config: &'a TrainConfig,
    features: Vec<Vec<u16>>,
    measured: Vec<Vec<f64>>,
    float: f64,
}

impl<'a> Judge<'a> {
    fn new(dataset: &'a Dataset, config: &'a TrainConfig, fit: &Fit) -> Self {
        let rows = dataset.rows();
        let of = || {
            fit.validation
                .iter()
                .take(MOST_ROWS)
                .map(|index| &rows[*index])
        };
        let features: Vec<Vec<u16>> = of().map(|row| dataset.dense(row)).collect();
        let measured: Vec<Vec<f64>> = of().map(|row| row.targets.clone()).collect();
        let predicted: Vec<Vec<f64>> = features.par_iter().map(|x| fit.model.predict(x)).collect();
        let float = metric(dataset.task(), &measured, &predicted);
        Self {
            dataset,
            config,
            features,
            measured,
            float,
        }
    }

    fn row(&self, bits: &[u8], quantised: &Quantised) -> Result<SweepRow, NetsError> {
        let task = self.dataset.task();
        let released = self.config.output_bits;
        let run = |run: usize| {
            let predict = |(number, x): (usize, &Vec<u16>)| -> Vec<f64> {
                let stream = (run * self.features.len() + number) as u64;
                let mut rng = generator(self.config.seed ^ TWIN, stream);
                let carry = stochastic(|| rng.random::<f64>());
                evaluate(quantised.graph.steps(), &quantised.weights, x, carry)
                    .iter()
                    .zip(&quantised.outputs)
                    .map(|(code, scaling)| scaling.apply(*code, released))
                    .collect()
            };
            let predicted: Vec<Vec<f64>> =
                self.features.par_iter().enumerate().map(predict).collect();
            metric(task, &self.measured, &predicted)
        };
        let values: Vec<f64> = (0..RUNS).map(run).collect();
        let lost = |value: &f64| {
            let change = (value - self.float) / self.float.abs().max(f64::MIN_POSITIVE);
            if higher_is_better(task) {
                -change
            } else {
                change
            }
        };
        let loss = values.iter().map(lost).fold(f64::NEG_INFINITY, f64::max);
        let plan = PlanReport::of_weights(&quantised.graph, &quantised.weights)?;
        Ok(SweepRow {
            bits: bits.to_vec(),
            float: self.float,
            twin: values.iter().sum::<f64>() / values.len() as f64,
            loss,
            cost: plan.estimated_ms,
            bytes: plan.bytes_up + plan.bytes_down,
            chosen: false,
        })
    }
}

/// Predictions of the integers for a molecule, carries drawn from the stream of that row.
pub(super) fn twin(
    manifest: &Manifest,
    quantised: &Quantised,
    features: &[u16],
    seed: u64,
    row: usize,
) -> Vec<f64> {
    let mut rng = generator(seed ^ (TWIN << 32), row as u64);
    let carry = stochastic(|| rng.random::<f64>());
    crate::twin::predict_twin(manifest, &quantised.weights, features, carry)
}
