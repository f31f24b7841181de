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
pub(crate) use classification::cumulative;
pub use classification::{
    accuracy, balanced_accuracy, brier, expected_calibration_error, mcc, pr_auc, probability,
    roc_auc,
};
pub use regression::{mae, r2, rmse, spearman};

/// The figure for that task: `rmse`, `roc-auc` or `balanced-accuracy`.
pub fn metric_name(task: Task) -> &'static str {
    match task {
        Task::Regression => "rmse",
        Task::Binary => "roc-auc",
        Task::Multiclass => "balanced-accuracy",
    }
}

/// Whether a larger figure is a better one.
pub fn higher_is_better(task: Task) -> bool {
    task != Task::Regression
}

/// The figure of that task; the mean over the outputs where there are several. `measured` is
/// `[rows][targets]` with NaN for missing ones, `predicted` is `[rows][outputs]`.
pub fn metric(task: Task, measured: &[Vec<f64>], predicted: &[Vec<f64>]) -> f64 {
    let outputs = predicted.first().map_or(0, Vec::len);
    match task {
        Task::Multiclass => {
            let (classes, guesses) = decided(measured, predicted);
            balanced_accuracy(&classes, &guesses)
        }
        Task::Regression | Task::Binary => {
            let of_output = |output| {
                let (measured, predicted) = present(measured, predicted, output);
                match task {
                    Task::Regression => rmse(&measured, &predicted),
                    Task::Binary | Task::Multiclass => roc_auc(&measured, &predicted),
                }
            };
            let values: Vec<f64> = (0..outputs)
                .map(of_output)
                .filter(|value| value.is_finite())
                .collect();
            values.iter().sum::<f64>() / values.len() as f64
        }
    }
}

/// The rows where that output was measured.
fn present(measured: &[Vec<f64>], predicted: &[Vec<f64>], output: usize) -> (Vec<f64>, Vec<f64>) {
    measured
        .iter()
        .zip(predicted)
        .map(|(measured, predicted)| (measured[output], predicted[output]))
        .filter(|(measured, _)| !measured.is_nan())
        .unzip()
}

/// Number of the class, and of the one with the largest score.
fn decided(measured: &[Vec<f64>], predicted: &[Vec<f64>]) -> (Vec<f64>, Vec<f64>) {
    let largest = |scores: &Vec<f64>| {
        let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        best.unwrap_or(0) as f64
    };
    let classes = measured.iter().map(|row| row[0]).collect();
    (classes, predicted.iter().map(largest).collect())
}

/// One figure with its interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Its name, e.g. `rmse`.
    pub name: &'static str,
    /// The output or class that it is of; empty for the whole model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// Value on all rows, and where it lies with the stated confidence.
    #[serde(flatten)]
    pub interval: Interval,
}

type Of = fn(&[f64], &[f64]) -> f64;

fn list(task: Task) -> &'static [(&'static str, Of)] {
    match task {
        Task::Regression => &[
            ("rmse", rmse),
            ("mae", mae),
            ("r2", r2),
            ("spearman", spearman),
        ],
        Task::Binary => &[
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
        Task::Multiclass => &[
            ("balanced-accuracy", balanced_accuracy),
            ("accuracy", accuracy),
        ],
    }
}

/// Every figure of a task, the leading one first, for each output in turn. Predictions are values,
/// log-odds of class 1 or scores of the classes; where a figure needs a decision, log-odds above 0
/// are class 1, and of several classes the one with the largest score is taken. `measured` is
/// `[rows][targets]` with NaN for missing ones, `predicted` is `[rows][outputs]`.
pub fn figures(
    task: Task,
    outputs: &[String],
    measured: &[Vec<f64>],
    predicted: &[Vec<f64>],
    bootstrap: &Bootstrap,
) -> Vec<Figure> {
    let all = |task: Task, output: &str, measured: &[f64], predicted: &[f64]| -> Vec<Figure> {
        list(task)
            .iter()
            .map(|(name, of)| Figure {
                name,
                output: output.to_owned(),
                interval: bootstrap.interval(measured, predicted, of),
            })
            .collect()
    };
    match task {
        Task::Multiclass => {
            let (classes, guesses) = decided(measured, predicted);
            let mut figures = all(task, "", &classes, &guesses);
            for (class, name) in outputs.iter().enumerate() {
                let own = |value: &f64| f64::from(u8::from(*value == class as f64));
                let own: Vec<f64> = classes.iter().map(own).collect();
                let scores: Vec<f64> = predicted.iter().map(|row| margin(row, class)).collect();
                figures.push(Figure {
                    name: "roc-auc",
                    output: name.clone(),
                    interval: bootstrap.interval(&own, &scores, roc_auc),
                });
            }
            figures
        }
        Task::Regression | Task::Binary => {
            let several = outputs.len() > 1;
            let of_output = |(output, name): (usize, &String)| {
                let (measured, predicted) = present(measured, predicted, output);
                all(task, if several { name } else { "" }, &measured, &predicted)
            };
            outputs.iter().enumerate().flat_map(of_output).collect()
        }
    }
}

/// Score of a class above the log-sum-exp of the others: the log-odds of the class.
pub(crate) fn margin(scores: &[f64], class: usize) -> f64 {
    let others = || {
        let all = scores.iter().enumerate();
        all.filter(|(at, _)| *at != class).map(|(_, score)| *score)
    };
    let largest = others().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = others().map(|score| (score - largest).exp()).sum();
    scores[class] - largest - sum.ln()
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
        let rows = |values: &[f64]| -> Vec<Vec<f64>> { values.iter().map(|v| vec![*v]).collect() };
        let measured = rows(&[0.0, 1.0, 0.0, 1.0, 1.0, 0.0]);
        let predicted = rows(&[-1.0, 2.0, 0.5, 0.25, 1.0, -3.0]);
        for (task, count) in [(Task::Regression, 4), (Task::Binary, 5)] {
            let names = ["y".to_owned()];
            let figures = figures(task, &names, &measured, &predicted, &bootstrap);
            assert_eq!(figures.len(), count);
            assert_eq!(figures[0].name, metric_name(task));
            assert_eq!(
                figures[0].interval.value,
                metric(task, &measured, &predicted)
            );
        }
    }

    #[test]
    fn classes_are_judged_by_their_largest_score() {
        let measured = vec![vec![0.0], vec![1.0], vec![2.0], vec![2.0]];
        let predicted = [
            [3.0, 1.0, 0.0],
            [0.0, 2.0, 1.0],
            [0.0, 1.0, 5.0],
            [2.0, 0.0, 1.0],
        ];
        let predicted: Vec<Vec<f64>> = predicted.iter().map(|row| row.to_vec()).collect();
        let value = metric(Task::Multiclass, &measured, &predicted);
        assert!((value - (1.0 + 1.0 + 0.5) / 3.0).abs() < 1e-12);
        let names = ["a", "b", "c"].map(str::to_owned);
        let figures = figures(
            Task::Multiclass,
            &names,
            &measured,
            &predicted,
            &Bootstrap::default(),
        );
        assert_eq!(figures[0].interval.value, value);
        assert_eq!(figures[1].interval.value, 0.75);
        assert_eq!((figures.len(), figures[4].output.as_str()), (5, "c"));
    }

    #[test]
    fn missing_values_do_not_count() {
        let measured = vec![vec![1.0, f64::NAN], vec![f64::NAN, 4.0]];
        let predicted = vec![vec![2.0, 100.0], vec![100.0, 1.0]];
        assert_eq!(metric(Task::Regression, &measured, &predicted), 2.0);
    }
}
