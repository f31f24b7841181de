//! Plots of one output on the held-out molecules.

use chemxor_core::Task;

use super::svg::{Axis, Chart, Look, Mark, Point, number};
use super::{Page, Series};
use crate::metrics::{cumulative, margin, probability};

/// Most points of a curve.
const MOST_POINTS: usize = 400;
/// Bins of a histogram and of a calibration curve.
const BINS: usize = 10;

/// What is shown of one output.
pub(super) struct Output<'a> {
    pub(super) page: &'a Page,
    /// Its number.
    pub(super) at: usize,
    /// Its name where there are several, else empty.
    pub(super) name: String,
}

impl Output<'_> {
    /// Line, measured value or class of this output, and prediction, of the rows that have one.
    fn rows(&self, series: &Series) -> Vec<(u64, f64, f64)> {
        let page = self.page;
        let measured = |row: &Vec<f64>| match page.manifest.task {
            Task::Regression | Task::Binary => row[self.at],
            Task::Multiclass => f64::from(u8::from(row[0] == self.at as f64)),
        };
        let prediction = |row: &Vec<f64>| match page.manifest.task {
            Task::Regression | Task::Binary => row[self.at],
            Task::Multiclass => margin(row, self.at),
        };
        page.lines
            .iter()
            .zip(&page.measured)
            .zip(&series.predictions)
            .map(|((line, m), p)| (*line, measured(m), prediction(p)))
            .filter(|(_, m, p)| m.is_finite() && p.is_finite())
            .collect()
    }

    fn titled(&self, title: &str) -> String {
        if self.name.is_empty() {
            title.to_owned()
        } else {
            format!("{title}: {}", self.name)
        }
    }

    fn with_unit(&self, what: &str) -> String {
        let unit = &self.page.manifest.unit;
        if unit.is_empty() {
            what.to_owned()
        } else {
            format!("{what} ({unit})")
        }
    }

    pub(super) fn charts(&self) -> Vec<Chart> {
        // the last series is the one that is published
        let Some(published) = self.page.series.last() else {
            return Vec::new();
        };
        let rows = self.rows(published);
        if rows.is_empty() {
            return Vec::new();
        }
        match self.page.manifest.task {
            Task::Regression => vec![
                self.scatter(published, &rows),
                self.residuals(published, &rows),
                self.residual_histogram(published, &rows),
            ],
            Task::Binary | Task::Multiclass => {
                let mut charts = vec![self.curve(true), self.curve(false), self.calibration()];
                if self.page.manifest.task == Task::Binary {
                    charts.push(self.scores(published, &rows));
                }
                charts
            }
        }
    }

    fn scatter(&self, series: &Series, rows: &[(u64, f64, f64)]) -> Chart {
        let all = || rows.iter().flat_map(|(_, m, p)| [*m, *p]);
        let x = Axis::over(&self.with_unit("measured"), all());
        let y = Axis::over(&self.with_unit("predicted"), all());
        let (low, high) = (
            all().fold(f64::INFINITY, f64::min),
            all().fold(f64::NEG_INFINITY, f64::max),
        );
        let half = self
            .page
            .manifest
            .outputs
            .get(self.at)
            .and_then(|o| o.interval90);
        let mut marks = vec![Mark::Line {
            look: Look::Quiet,
            dashed: false,
            points: vec![(low, low), (high, high)],
        }];
        let mut legend = vec![
            (Look::One, false, series.name.clone()),
            (Look::Quiet, false, "equal".to_owned()),
        ];
        if let Some(half) = half {
            for offset in [-half, half] {
                marks.push(Mark::Line {
                    look: Look::Quiet,
                    dashed: true,
                    points: vec![(low, low + offset), (high, high + offset)],
                });
            }
            legend.push((Look::Quiet, true, "90 % interval".to_owned()));
        }
        marks.push(Mark::Points {
            look: Look::One,
            open: false,
            points: rows
                .iter()
                .map(|(line, m, p)| (*m, *p, said(*line, *m, *p)))
                .collect(),
        });
        Chart {
            title: self.titled("Predicted against measured"),
            description: format!("{} held-out molecules", rows.len()),
            x,
            y,
            marks,
            legend,
        }
    }

    fn residuals(&self, series: &Series, rows: &[(u64, f64, f64)]) -> Chart {
        let points: Vec<Point> = rows
            .iter()
            .map(|(line, m, p)| (*p, p - m, said(*line, *m, *p)))
            .collect();
        let x = Axis::over(
            &self.with_unit("predicted"),
            points.iter().map(|(x, ..)| *x),
        );
        let ends = (
            points
                .iter()
                .map(|(x, ..)| *x)
                .fold(f64::INFINITY, f64::min),
            points
                .iter()
                .map(|(x, ..)| *x)
                .fold(f64::NEG_INFINITY, f64::max),
        );
        Chart {
            title: self.titled("Residuals"),
            description: "Predicted less measured, over the prediction".to_owned(),
            x,
            y: Axis::over(
                &self.with_unit("predicted − measured"),
                points.iter().map(|(_, y, _)| *y),
            ),
            marks: vec![
                Mark::Line {
                    look: Look::Quiet,
                    dashed: false,
                    points: vec![(ends.0, 0.0), (ends.1, 0.0)],
                },
                Mark::Points {
                    look: Look::One,
                    open: false,
                    points,
                },
            ],
            legend: vec![(Look::One, false, series.name.clone())],
        }
    }

    fn residual_histogram(&self, series: &Series, rows: &[(u64, f64, f64)]) -> Chart {
        let residuals: Vec<f64> = rows.iter().map(|(_, m, p)| p - m).collect();
        let bars = histogram(&residuals, 2 * BINS);
        Chart {
            title: self.titled("Distribution of the residuals"),
            description: "Number of molecules by predicted less measured".to_owned(),
            x: Axis::over(&self.with_unit("predicted − measured"), residuals),
            y: Axis::over("molecules", bars.iter().map(|bar| bar.2).chain([0.0]))
                .standing_on_zero(),
            marks: vec![Mark::Bars {
                look: Look::One,
                bars,
            }],
            legend: vec![(Look::One, false, series.name.clone())],
        }
    }

    /// Receiver operating characteristic, or precision over recall.
    fn curve(&self, roc: bool) -> Chart {
        let mut marks = Vec::new();
        let mut legend = Vec::new();
        let mut rate = 0.0;
        for (number, series) in self.page.series.iter().enumerate() {
            let rows = self.rows(series);
            let positives = rows.iter().filter(|(_, class, _)| *class > 0.5).count();
            rate = positives as f64 / rows.len().max(1) as f64;
            let pairs = rows.iter().map(|(_, class, score)| (*class > 0.5, *score));
            let counts = cumulative(pairs);
            let negatives = rows.len() - positives;
            let points = counts.iter().map(|(right, wrong)| {
                let recall = *right as f64 / positives.max(1) as f64;
                if roc {
                    (*wrong as f64 / negatives.max(1) as f64, recall)
                } else {
                    (recall, *right as f64 / (right + wrong).max(1) as f64)
                }
            });
            // precision has no value before the first molecule
            let points = points.skip(usize::from(!roc)).collect();
            let dashed = number % 2 == 1;
            marks.push(Mark::Line {
                look: Look::of(number),
                dashed,
                points: thin(points),
            });
            legend.push((Look::of(number), dashed, series.name.clone()));
        }
        let chance = if roc {
            vec![(0.0, 0.0), (1.0, 1.0)]
        } else {
            vec![(0.0, rate), (1.0, rate)]
        };
        marks.insert(
            0,
            Mark::Line {
                look: Look::Quiet,
                dashed: false,
                points: chance,
            },
        );
        let (title, x, y) = if roc {
            ("ROC", "false positive rate", "true positive rate")
        } else {
            ("Precision and recall", "recall", "precision")
        };
        Chart {
            title: self.titled(title),
            description: format!("{y} over {x}; the grey line is chance"),
            x: Axis::between(x, 0.0, 1.0),
            y: Axis::between(y, 0.0, 1.02),
            marks,
            legend,
        }
    }

    /// Observed frequency over predicted probability, in bins of equal width.
    fn calibration(&self) -> Chart {
        let mut marks = vec![Mark::Line {
            look: Look::Quiet,
            dashed: false,
            points: vec![(0.0, 0.0), (1.0, 1.0)],
        }];
        let mut legend = Vec::new();
        for (which, series) in self.page.series.iter().enumerate() {
            let mut bins = [(0usize, 0.0, 0.0); BINS];
            for (_, class, score) in self.rows(series) {
                let p = probability(score);
                let bin = &mut bins[((p * BINS as f64) as usize).min(BINS - 1)];
                *bin = (bin.0 + 1, bin.1 + p, bin.2 + class);
            }
            let points: Vec<Point> = bins
                .iter()
                .filter(|(count, ..)| *count > 0)
                .map(|(count, p, class)| {
                    let (p, class) = (p / *count as f64, class / *count as f64);
                    let text = format!(
                        "{count} molecules, said {}, observed {}",
                        number(p),
                        number(class)
                    );
                    (p, class, text)
                })
                .collect();
            let dashed = which % 2 == 1;
            marks.push(Mark::Line {
                look: Look::of(which),
                dashed,
                points: points.iter().map(|(x, y, _)| (*x, *y)).collect(),
            });
            marks.push(Mark::Points {
                look: Look::of(which),
                open: dashed,
                points,
            });
            legend.push((Look::of(which), dashed, series.name.clone()));
        }
        Chart {
            title: self.titled("Calibration"),
            description: "Observed part of class 1 over the predicted probability, ten bins"
                .to_owned(),
            x: Axis::between("predicted probability", 0.0, 1.0),
            y: Axis::between("observed part", 0.0, 1.02),
            marks,
            legend,
        }
    }

    /// Scores of both classes.
    fn scores(&self, series: &Series, rows: &[(u64, f64, f64)]) -> Chart {
        let scores: Vec<f64> = rows
            .iter()
            .map(|(_, _, score)| probability(*score))
            .collect();
        let of = |class: f64| -> Vec<(f64, f64)> {
            let mut counts = [0.0; 2 * BINS];
            let mut all = 0.0;
            for ((_, measured, _), p) in rows.iter().zip(&scores) {
                if *measured == class {
                    counts[((p * 20.0) as usize).min(2 * BINS - 1)] += 1.0;
                    all += 1.0;
                }
            }
            let middle = |at: usize| (at as f64 + 0.5) / 20.0;
            let part =
                |(at, count): (usize, &f64)| (middle(at), 100.0 * count / f64::max(all, 1.0));
            counts.iter().enumerate().map(part).collect()
        };
        let (zero, one) = (of(0.0), of(1.0));
        Chart {
            title: self.titled("Scores of both classes"),
            description: "Part of the molecules of each class by predicted probability".to_owned(),
            x: Axis::between("predicted probability", 0.0, 1.0),
            y: Axis::over(
                "molecules of the class (%)",
                zero.iter().chain(&one).map(|(_, y)| *y),
            )
            .standing_on_zero(),
            marks: vec![
                Mark::Line {
                    look: Look::One,
                    dashed: false,
                    points: zero,
                },
                Mark::Line {
                    look: Look::Two,
                    dashed: true,
                    points: one,
                },
            ],
            legend: vec![
                (Look::One, false, "class 0".to_owned()),
                (Look::Two, true, "class 1".to_owned()),
                (Look::Quiet, false, series.name.clone()),
            ],
        }
    }
}

fn said(line: u64, measured: f64, predicted: f64) -> String {
    format!(
        "line {line}: measured {}, predicted {}",
        number(measured),
        number(predicted)
    )
}

/// At most so many points, the last one among them.
fn thin(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let step = points.len().div_ceil(MOST_POINTS).max(1);
    let last = points.len().saturating_sub(1);
    let kept = points.into_iter().enumerate();
    kept.filter(|(at, _)| at % step == 0 || *at == last)
        .map(|(_, point)| point)
        .collect()
}

fn histogram(values: &[f64], bins: usize) -> Vec<(f64, f64, f64, String)> {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let width = ((high - low) / bins as f64).max(f64::MIN_POSITIVE);
    let mut counts = vec![0u32; bins];
    for value in values {
        counts[(((value - low) / width) as usize).min(bins - 1)] += 1;
    }
    let bar = |(at, count): (usize, &u32)| {
        let left = low + at as f64 * width;
        let text = format!(
            "{count} molecules from {} to {}",
            number(left),
            number(left + width)
        );
        (left, left + width, f64::from(*count), text)
    };
    counts.iter().enumerate().map(bar).collect()
}
