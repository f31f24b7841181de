//! Which kind of model serves a data set: every candidate by cross-validation, within a time and a
//! latency budget.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::{Fold, ModelKind, TrainConfig};
use crate::dataset::Dataset;
use crate::error::NetsError;
use crate::metrics::{higher_is_better, metric_name};
use crate::train::train;

/// Folds of the comparison.
const FOLDS: usize = 3;
/// A cheaper candidate is taken when it is worse by less than this part.
const WORTH: f64 = 0.01;

/// One candidate.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    /// Kind of model.
    pub kind: &'static str,
    /// Figure of the integers, mean over the folds; none where it was not tried.
    pub value: Option<f64>,
    /// Estimated time of an encrypted query on one thread, in ms.
    pub milliseconds: f64,
    /// Bytes of a query, both ways.
    pub bytes: usize,
    /// Why it was taken or not.
    pub verdict: String,
}

/// The comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Name of the figure.
    pub metric: &'static str,
    /// What was taken.
    pub chosen: &'static str,
    /// Every candidate, in the order in which they were tried.
    pub candidates: Vec<Candidate>,
}

/// What may be spent.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// No further candidate is begun after this.
    pub time: Duration,
    /// Largest estimated time of an encrypted query, in ms.
    pub milliseconds: f64,
}

impl Default for Budget {
    /// Ten minutes, and 100 ms a query.
    fn default() -> Self {
        Self {
            time: Duration::from_secs(600),
            milliseconds: 100.0,
        }
    }
}

/// Compares linear models, trees, networks and a forest on the rows that a training would learn
/// from and judge by itself, and gives the settings of the best. `progress` is told what begins.
pub fn choose(
    dataset: &Dataset,
    base: &TrainConfig,
    budget: &Budget,
    progress: &mut dyn FnMut(&str),
) -> Result<(TrainConfig, Comparison), NetsError> {
    let started = Instant::now();
    let task = dataset.task();
    let kinds = [
        ModelKind::Linear,
        ModelKind::Trees,
        ModelKind::Mlp,
        ModelKind::Forest,
    ];
    let mut tried: Vec<(TrainConfig, Candidate)> = Vec::new();
    for kind in kinds {
        let config = TrainConfig {
            name: base.name.clone(),
            endpoint: base.endpoint.clone(),
            unit: base.unit.clone(),
            description: base.description.clone(),
            seed: base.seed,
            class_weights: base.class_weights,
            output_bits: base.output_bits,
            test_fraction: base.test_fraction,
            ..TrainConfig::preset(kind)
        };
        let mut candidate = Candidate {
            kind: kind.name(),
            value: None,
            milliseconds: 0.0,
            bytes: 0,
            verdict: "not tried: the time is over".to_owned(),
        };
        if tried.is_empty() || started.elapsed() < budget.time {
            progress(kind.name());
            let mut sum = 0.0;
            for index in 0..FOLDS {
                let fold = Some(Fold { of: FOLDS, index });
                let of_fold = TrainConfig {
                    fold,
                    ..config.clone()
                };
                let trained = train(dataset, &of_fold, &mut |_| {})?;
                sum += trained.report.metrics.twin / FOLDS as f64;
                candidate.milliseconds = trained.report.costs.estimated_ms;
                candidate.bytes = trained.report.costs.bytes_up + trained.report.costs.bytes_down;
            }
            candidate.value = Some(sum);
            candidate.verdict = if candidate.milliseconds > budget.milliseconds {
                format!("takes more than {} ms a query", budget.milliseconds)
            } else {
                String::new()
            };
        }
        tried.push((config, candidate));
    }
    let better = |a: f64, b: f64| if higher_is_better(task) { a > b } else { a < b };
    let allowed: Vec<usize> = (0..tried.len())
        .filter(|at| tried[*at].1.verdict.is_empty())
        .collect();
    let value = |at: usize| tried[at].1.value.unwrap_or(f64::NAN);
    let best = allowed
        .iter()
        .copied()
        .reduce(|a, b| if better(value(b), value(a)) { b } else { a })
        .ok_or(NetsError::Config {
            what: "the latency budget",
            value: format!("{} ms", budget.milliseconds),
            allowed: "more: no candidate keeps it",
        })?;
    // a cheaper one that is hardly worse
    let close = |at: &usize| (value(*at) - value(best)).abs() <= WORTH * value(best).abs();
    let cost = |at: &usize| tried[*at].1.milliseconds;
    let chosen = allowed
        .iter()
        .copied()
        .filter(close)
        .min_by(|a, b| cost(a).total_cmp(&cost(b)))
        .unwrap_or(best);
    for at in allowed {
        tried[at].1.verdict = if at == chosen && at == best {
            "the best".to_owned()
        } else if at == chosen {
            "taken: the cheapest within 1 % of the best".to_owned()
        } else {
            "worse, or dearer without being better".to_owned()
        };
    }
    let config = tried[chosen].0.clone();
    let comparison = Comparison {
        metric: metric_name(task),
        chosen: config.kind.name(),
        candidates: tried.into_iter().map(|(_, candidate)| candidate).collect(),
    };
    Ok((config, comparison))
}
