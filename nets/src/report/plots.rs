//! Plots of the training, the precision, the privacy audit and the applicability domain.

use chemxor_core::Task;

use super::svg::{Axis, Chart, Look, Mark, Point, number};
use super::{SweepRow, TrainReport};
use crate::audit::{Attack, Target};
use crate::config::ModelKind;
use crate::linear::penalties;
use crate::metrics::metric_name;

/// Networks of an ensemble whose curves are shown.
const MOST_CURVES: usize = 5;

/// Losses over the epochs, or over the penalties of a linear model.
pub(super) fn learning(report: &TrainReport, task: Task) -> Option<Chart> {
    let loss = match task {
        Task::Regression => "mean squared error",
        Task::Binary | Task::Multiclass => "cross-entropy",
    };
    if report.kind == ModelKind::Linear.name() {
        return penalty_curve(report, task, loss);
    }
    if report.curves.iter().all(|curve| curve.train.len() < 2) {
        return None;
    }
    let boosted = report.kind == ModelKind::Trees.name();
    let (unit, title) = if boosted {
        ("trees", "Loss over the trees")
    } else {
        ("epoch", "Learning curves")
    };
    let numbered = |losses: &[f64]| -> Vec<(f64, f64)> {
        (1u32..)
            .map(f64::from)
            .zip(losses.iter().copied())
            .collect()
    };
    let mut marks = Vec::new();
    let curves = report.curves.iter().take(MOST_CURVES);
    for (number, curve) in curves.clone().enumerate() {
        let look = Look::of(number);
        for (dashed, losses) in [(false, &curve.train), (true, &curve.validation)] {
            marks.push(Mark::Line {
                look,
                dashed,
                points: numbered(losses),
            });
        }
    }
    let all = || {
        curves
            .clone()
            .flat_map(|c| c.train.iter().chain(&c.validation))
            .copied()
    };
    let longest = curves.clone().map(|curve| curve.train.len()).max()?;
    if let Some(best) = report.best_epoch {
        let top = all().fold(f64::NEG_INFINITY, f64::max);
        marks.push(Mark::Line {
            look: Look::Quiet,
            dashed: true,
            points: vec![(best as f64, 0.0), (best as f64, top * 2.0)],
        });
    }
    let standardised = task == Task::Regression && !boosted;
    Some(Chart {
        title: title.to_owned(),
        description: format!(
            "Loss on what is learned from and on the validation part, {longest} {unit}s"
        ),
        x: Axis::between(unit, 0.0, longest as f64),
        y: Axis::over(
            &format!("{loss}{}", if standardised { ", standardised" } else { "" }),
            all().chain([0.0]),
        ),
        marks,
        legend: vec![
            (Look::One, false, "learned from".to_owned()),
            (Look::One, true, "validation".to_owned()),
            (Look::Quiet, true, "kept".to_owned()),
        ],
    })
}

fn penalty_curve(report: &TrainReport, task: Task, loss: &str) -> Option<Chart> {
    let tried = penalties(task);
    let points: Vec<Point> = tried
        .iter()
        .zip(&report.validation_losses)
        .map(|(penalty, loss)| {
            let text = format!("penalty {}: {}", number(*penalty), number(*loss));
            (penalty.log10(), *loss, text)
        })
        .collect();
    if points.is_empty() {
        return None;
    }
    let (low, high) = (tried.last()?.log10().floor(), tried.first()?.log10().ceil());
    Some(Chart {
        title: "Loss over the penalty".to_owned(),
        description: "Cross-validated loss of each penalty that was tried".to_owned(),
        x: Axis::decades("penalty", low as i32, high as i32),
        y: Axis::over(loss, points.iter().map(|(_, y, _)| *y)),
        marks: vec![
            Mark::Line {
                look: Look::One,
                dashed: false,
                points: points.iter().map(|(x, y, _)| (*x, *y)).collect(),
            },
            Mark::Points {
                look: Look::One,
                open: false,
                points,
            },
        ],
        legend: vec![(Look::One, false, "cross-validation".to_owned())],
    })
}

/// The validation figure over the bits of the hidden layers.
pub(super) fn sweep(rows: &[SweepRow], task: Task) -> Option<Chart> {
    let uniform = |row: &&SweepRow| row.bits.windows(2).all(|pair| pair[0] == pair[1]);
    let rows: Vec<&SweepRow> = rows.iter().filter(uniform).collect();
    let float = rows.first()?.float;
    let mut points: Vec<Point> = rows
        .iter()
        .map(|row| {
            let text = format!(
                "b = {}: {}, worst run loses {} %",
                row.bits[0],
                number(row.twin),
                number(100.0 * row.loss)
            );
            (f64::from(row.bits[0]), row.twin, text)
        })
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let chosen: Vec<Point> = rows
        .iter()
        .zip(&points)
        .filter_map(|(row, _)| {
            let at = points
                .iter()
                .find(|point| point.0 == f64::from(row.bits[0]))?;
            row.chosen
                .then(|| (at.0, at.1, format!("chosen, {}", at.2)))
        })
        .collect();
    let ticks = points
        .iter()
        .map(|(x, ..)| (*x, format!("{x:.0}")))
        .collect();
    let (first, last) = (points.first()?.0, points.last()?.0);
    Some(Chart {
        title: "Precision of the hidden layers".to_owned(),
        description: "Validation figure of the integers over the bits b of every hidden layer"
            .to_owned(),
        x: Axis::steps("b: bits of a hidden pre-activation", ticks),
        y: Axis::over(
            &format!("validation {}", metric_name(task)),
            points.iter().map(|p| p.1).chain([float]),
        ),
        marks: vec![
            Mark::Line {
                look: Look::Quiet,
                dashed: true,
                points: vec![(first - 0.5, float), (last + 0.5, float)],
            },
            Mark::Line {
                look: Look::One,
                dashed: false,
                points: points.iter().map(|(x, y, _)| (*x, *y)).collect(),
            },
            Mark::Points {
                look: Look::One,
                open: false,
                points,
            },
            Mark::Points {
                look: Look::Two,
                open: true,
                points: chosen,
            },
        ],
        legend: vec![
            (Look::One, false, "integers".to_owned()),
            (Look::Quiet, true, "floating point".to_owned()),
            (Look::Two, false, "chosen".to_owned()),
        ],
    })
}

/// True over false positive rate of the attacks, both logarithmic, as Carlini et al. (2022) ask.
pub(super) fn attack(attacks: &[Attack]) -> Option<Chart> {
    let shown: Vec<&Attack> = attacks
        .iter()
        .filter(|attack| attack.group == crate::audit::EVERYBODY)
        .collect();
    if shown.is_empty() {
        return None;
    }
    let mut marks = vec![Mark::Line {
        look: Look::Quiet,
        dashed: false,
        points: vec![(-4.0, -4.0), (0.0, 0.0)],
    }];
    let mut legend = Vec::new();
    for (number, attack) in shown.iter().enumerate().take(4) {
        let floor = |rate: f64| rate.max(1e-5).log10();
        let points = attack
            .roc
            .iter()
            .map(|[fpr, tpr]| (floor(*fpr), floor(*tpr)))
            .collect();
        let dashed = attack.target == Target::Procedure;
        marks.push(Mark::Line {
            look: Look::of(number),
            dashed,
            points,
        });
        let target = match attack.target {
            Target::Published => "model",
            Target::Procedure => "recipe",
        };
        legend.push((
            Look::of(number),
            dashed,
            format!("{target} {}", attack.variant),
        ));
    }
    Some(Chart {
        title: "Membership inference".to_owned(),
        description: "True over false positive rate of the attacks; the grey line is guessing"
            .to_owned(),
        x: Axis::decades("false positive rate", -4, 0),
        y: Axis::decades("true positive rate", -4, 0),
        marks,
        legend,
    })
}

/// Quantiles of the similarity to the nearest other training molecule.
pub(super) fn neighbours(quantiles: &[u16]) -> Option<Chart> {
    let points: Vec<Point> = crate::train::QUANTILES
        .iter()
        .zip(quantiles)
        .map(|(part, similarity)| {
            let similarity = f64::from(*similarity) / 1000.0;
            let percent = 100.0 * part;
            (
                percent,
                similarity,
                format!("{percent:.0} % of the molecules: at most {similarity}"),
            )
        })
        .collect();
    if points.is_empty() {
        return None;
    }
    Some(Chart {
        title: "Nearest training molecule".to_owned(),
        description:
            "Quantiles of the Tanimoto similarity of a training molecule to the nearest other one"
                .to_owned(),
        x: Axis::between("part of the training molecules (%)", 0.0, 100.0),
        y: Axis::between("Tanimoto similarity (ECFP4)", 0.0, 1.02),
        marks: vec![
            Mark::Line {
                look: Look::One,
                dashed: false,
                points: points.iter().map(|(x, y, _)| (*x, *y)).collect(),
            },
            Mark::Points {
                look: Look::One,
                open: false,
                points,
            },
        ],
        legend: vec![(Look::One, false, "quantiles".to_owned())],
    })
}
