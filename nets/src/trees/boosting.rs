//! Gradient boosting (Friedman 2001) with Newton steps: squared error, logistic loss, or softmax
//! with a tree for each class.

use chemxor_core::Task;
use rand::RngExt;
use rand::rngs::ChaCha20Rng;
use rayon::prelude::*;

use super::grow::{Columns, Limits, Sums, grow};
use super::{Tree, TreeModel, TreeSettings};

/// Rows, what is wanted and how much each counts, both `[rows][outputs]`; weight 0 where a target is
/// missing.
pub(crate) struct Sample {
    pub(crate) columns: Columns,
    pub(crate) wanted: Vec<f64>,
    pub(crate) weights: Vec<f64>,
}

/// What boosting needs to know.
pub(crate) struct Boosting<'a> {
    pub(crate) task: Task,
    pub(crate) outputs: usize,
    pub(crate) settings: &'a TreeSettings,
}

impl Boosting<'_> {
    /// Trains on the rows of `sample` in `learn`; those in `check` end it. `progress` is given the
    /// number of the round with both losses. Gives the model and the losses.
    pub(crate) fn fit(
        &self,
        sample: &Sample,
        learn: &[u32],
        check: &[u32],
        rng: &mut ChaCha20Rng,
        mut progress: impl FnMut(usize, f64, f64),
    ) -> (TreeModel, Vec<(f64, f64)>) {
        let outputs = self.outputs;
        let base = self.base(sample, learn);
        let mut scores: Vec<f64> = base
            .iter()
            .copied()
            .cycle()
            .take(sample.wanted.len())
            .collect();
        let limits = Limits {
            depth: self.settings.depth,
            least_leaf: self.settings.least_leaf as f64,
            penalty: self.settings.penalty,
            columns: self.settings.columns,
            columns_by_split: false,
        };
        let mut trees: Vec<Tree> = Vec::new();
        let mut losses: Vec<(f64, f64)> = Vec::new();
        let mut best = (self.loss(sample, &scores, check), 0, 0);
        for round in 1..=self.settings.trees {
            let rows: Vec<u32> = learn
                .iter()
                .copied()
                .filter(|_| rng.random_bool(self.settings.rows))
                .collect();
            let gradients = self.gradients(sample, &scores);
            for (output, sums) in gradients.iter().enumerate() {
                let rows = rows
                    .iter()
                    .copied()
                    .filter(|row| sums[*row as usize].rows > 0.0)
                    .collect();
                let mut leaves = grow(&sample.columns, sums, rows, &limits, rng);
                for leaf in &mut leaves {
                    leaf.value *= self.settings.rate;
                }
                let tree = Tree { output, leaves };
                let values: Vec<f64> = sample
                    .columns
                    .rows
                    .par_iter()
                    .map(|row| value(&tree, &sample.columns, row))
                    .collect();
                for (scores, value) in scores.chunks_mut(outputs).zip(values) {
                    scores[output] += value;
                }
                trees.push(tree);
            }
            let pair = (
                self.loss(sample, &scores, learn),
                self.loss(sample, &scores, check),
            );
            losses.push(pair);
            progress(round, pair.0, pair.1);
            if pair.1 < best.0 || check.is_empty() {
                best = (pair.1, round, trees.len());
            } else if round >= best.1 + self.settings.patience {
                break;
            }
        }
        trees.truncate(best.2);
        (TreeModel { trees, base }, losses)
    }

    /// The constant that fits best.
    fn base(&self, sample: &Sample, learn: &[u32]) -> Vec<f64> {
        let mean = |output: usize| {
            let (mut sum, mut weight) = (0.0, 0.0);
            for row in learn {
                let at = *row as usize * self.outputs + output;
                if sample.weights[at] > 0.0 {
                    sum += sample.weights[at] * sample.wanted[at];
                    weight += sample.weights[at];
                }
            }
            sum / f64::max(weight, f64::MIN_POSITIVE)
        };
        let constant = |output| {
            let mean = mean(output);
            match self.task {
                Task::Regression => mean,
                Task::Binary => logit(mean),
                Task::Multiclass => mean.clamp(1e-6, 1.0).ln(),
            }
        };
        (0..self.outputs).map(constant).collect()
    }

    /// Gradient and curvature of each row, for each output.
    fn gradients(&self, sample: &Sample, scores: &[f64]) -> Vec<Vec<Sums>> {
        let outputs = self.outputs;
        let mut all = vec![Vec::with_capacity(scores.len() / outputs); outputs];
        let rows = scores
            .chunks(outputs)
            .zip(sample.wanted.chunks(outputs))
            .zip(sample.weights.chunks(outputs));
        for ((scores, wanted), weights) in rows {
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
            for output in 0..outputs {
                let (score, y, weight) = (scores[output], wanted[output], weights[output]);
                let (gradient, curvature) = match self.task {
                    Task::Regression => (score - y, 1.0),
                    Task::Binary => {
                        let p = 1.0 / (1.0 + (-score).exp());
                        (p - y, (p * (1.0 - p)).max(1e-6))
                    }
                    Task::Multiclass => {
                        let p = (score - largest).exp() / sum;
                        (p - y, (2.0 * p * (1.0 - p)).max(1e-6))
                    }
                };
                all[output].push(if weight > 0.0 {
                    Sums {
                        gradient: weight * gradient,
                        curvature: weight * curvature,
                        rows: 1.0,
                    }
                } else {
                    Sums::default()
                });
            }
        }
        all
    }

    fn loss(&self, sample: &Sample, scores: &[f64], of: &[u32]) -> f64 {
        let outputs = self.outputs;
        let (mut sum, mut weight) = (0.0, 0.0);
        for row in of {
            let at = *row as usize * outputs..(*row as usize + 1) * outputs;
            let scores = &scores[at.clone()];
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let shifted: f64 = scores.iter().map(|z| (z - largest).exp()).sum();
            let wanted = sample.wanted[at.clone()].iter().zip(&sample.weights[at]);
            for (number, (z, (y, w))) in scores.iter().zip(wanted).enumerate() {
                if *w <= 0.0 {
                    continue;
                }
                sum += w * match self.task {
                    Task::Regression => (z - y).powi(2),
                    Task::Binary => z.max(0.0) + (-z.abs()).exp().ln_1p() - y * z,
                    Task::Multiclass => -y * (z - largest - shifted.ln()),
                };
                if self.task != Task::Multiclass || number == 0 {
                    weight += w;
                }
            }
        }
        sum / f64::max(weight, f64::MIN_POSITIVE)
    }
}

/// Of a row over columns.
pub(super) fn value(tree: &Tree, columns: &Columns, row: &[(u32, u16)]) -> f64 {
    let holds = |leaf: &&super::Leaf| {
        leaf.conditions.iter().all(|condition| {
            let level = columns
                .features
                .binary_search(&condition.feature)
                .ok()
                .and_then(|column| row.binary_search_by_key(&(column as u32), |(c, _)| *c).ok())
                .map_or(0, |at| row[at].1);
            (level > condition.threshold) == condition.greater
        })
    };
    tree.leaves
        .iter()
        .find(holds)
        .map_or(0.0, |leaf| leaf.value)
}

pub(super) fn logit(p: f64) -> f64 {
    let p = p.clamp(1e-6, 1.0 - 1e-6);
    (p / (1.0 - p)).ln()
}
