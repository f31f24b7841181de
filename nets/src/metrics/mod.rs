//! Figures of merit, for measured values or classes against predictions.
//!
//! | module | what it holds |
//! |---|---|
//! | `regression` | RMSE, MAE, R², Spearman |
//! | `classification` | ROC-AUC, PR-AUC, MCC, and the calibration of probabilities: Brier, ECE |
//! | `bootstrap` | confidence intervals of any of them |
//!
//! Invariant: a figure that the rows do not define (one class only, no spread, no row) is NaN or
//! the value its documentation names, never a panic.

mod bootstrap;
mod classification;
mod regression;

use chemxor_core::Task;
use serde::Serialize;

pub use bootstrap::{Bootstrap, Interval};
pub use classification::{brier, expected_calibration_error, mcc, pr_auc, probability, roc_auc};
pub use regression::{mae, r2, rmse, spearman};

/// The figure for that task: `rmse` or `roc-auc`.
pub fn metric_name(task: Task) -> &'static str {
    match task {
        Task::Regression => "rmse",
        Task::Binary | Task::Multiclass => "roc-auc",
    }
}

/// The figure of that task.
pub(crate) fn metric(task: Task, measured: &[f64], predicted: &[f64]) -> f64 {
    match task {
        Task::Regression => rmse(measured, predicted),
        Task::Binary | Task::Multiclass => roc_auc(measured, predicted),
    }
}

/// One figure with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    /// Its name, e.g. `rmse`.
    pub name: &'static str,
    /// Value on all rows, and where it lies with the stated confidence.
    #[serde(flatten)]
    pub interval: Interval,
}

/// Every figure of a task, the leading one first. Predictions are values, or log-odds of class 1;
/// where a figure needs a decision, log-odds above 0 are class 1.
pub fn figures(
    task: Task,
    measured: &[f64],
    predicted: &[f64],
    bootstrap: &Bootstrap,
) -> Vec<Figure> {
    type Of = fn(&[f64], &[f64]) -> f64;
    let list: &[(&'static str, Of)] = match task {
        Task::Regression => &[
            ("rmse", rmse),
            ("mae", mae),
            ("r2", r2),
            ("spearman", spearman),
        ],
        Task::Binary | Task::Multiclass => &[
            ("roc-auc", roc_auc),
            ("pr-auc", pr_auc),
            ("mcc", |classes, scores| mcc(classes, scores, 0.0)),
            ("brier", |classes, scores| {
                brier(classes, &probabilities(scores))
            }),
            ("ece", |classes, scores| {
                expected_calibration_error(classes, &probabilities(scores))
            }),
        ],
    };
    list.iter()
        .map(|(name, of)| Figure {
            name,
            interval: bootstrap.interval(measured, predicted, of),
        })
        .collect()
}

fn probabilities(log_odds: &[f64]) -> Vec<f64> {
    log_odds.iter().copied().map(probability).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_has_its_figures_and_leads_with_the_manifests() {
        let bootstrap = Bootstrap::default();
        for (task, count) in [(Task::Regression, 4), (Task::Binary, 5)] {
            let measured = [0.0, 1.0, 0.0, 1.0, 1.0, 0.0];
            let predicted = [-1.0, 2.0, 0.5, 0.25, 1.0, -3.0];
            let figures = figures(task, &measured, &predicted, &bootstrap);
            assert_eq!(figures.len(), count);
            assert_eq!(figures[0].name, metric_name(task));
            assert_eq!(
                figures[0].interval.value,
                metric(task, &measured, &predicted)
            );
        }
    }
}
