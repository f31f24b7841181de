//! Random forests (Breiman 2001): bootstrap samples, a draw of features for each split, the mean over
//! the trees. Classes are fitted as 0 and 1; the mean then stands for a probability, which a straight
//! line through the out-of-bag predictions turns into log-odds (Platt 1999, on the mean of the trees), so that
//! the released score means what it means for every other model.

use chemxor_core::Task;
use rand::rngs::ChaCha20Rng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use super::boosting::{Sample, value};
use super::grow::{Limits, Sums, grow};
use super::{Tree, TreeModel, TreeSettings};

/// Newton steps of the straight line.
const STEPS: usize = 30;

/// A forest for each output; `done` is called after each tree, from any thread.
pub(crate) fn forest(
    task: Task,
    outputs: usize,
    settings: &TreeSettings,
    sample: &Sample,
    learn: &[u32],
    seed: u64,
    done: impl Fn() + Sync,
) -> TreeModel {
    let limits = Limits {
        depth: settings.depth,
        least_leaf: settings.least_leaf as f64,
        penalty: settings.penalty,
        columns: settings.columns,
        columns_by_split: true,
    };
    let mut model = TreeModel {
        trees: Vec::new(),
        base: vec![0.0; outputs],
    };
    for output in 0..outputs {
        let at = |row: u32| row as usize * outputs + output;
        let present: Vec<u32> = learn
            .iter()
            .copied()
            .filter(|row| sample.weights[at(*row)] > 0.0)
            .collect();
        let total: f64 = present.iter().map(|row| sample.weights[at(*row)]).sum();
        let weighted = |row: &u32| sample.weights[at(*row)] * sample.wanted[at(*row)];
        let mean = present.iter().map(weighted).sum::<f64>() / total.max(f64::MIN_POSITIVE);
        let rows = sample.columns.rows.len() as u32;
        let sums: Vec<Sums> = (0..rows)
            .map(|row| Sums {
                gradient: sample.weights[at(row)] * (mean - sample.wanted[at(row)]),
                curvature: sample.weights[at(row)],
                rows: 1.0,
            })
            .collect();
        let drawn = (present.len() as f64 * settings.rows).round().max(1.0) as usize;
        let grown: Vec<(Tree, Vec<bool>)> = (0..settings.trees)
            .into_par_iter()
            .map(|number| {
                let mut rng = ChaCha20Rng::seed_from_u64(seed);
                rng.set_stream((output * settings.trees + number) as u64);
                let mut seen = vec![false; rows as usize];
                let mut bag = Vec::with_capacity(drawn);
                for _ in 0..drawn.min(present.len() * 4) {
                    let row = present[rng.random_range(0..present.len())];
                    seen[row as usize] = true;
                    bag.push(row);
                }
                let leaves = grow(&sample.columns, &sums, bag, &limits, &mut rng);
                done();
                (Tree { output, leaves }, seen)
            })
            .collect();
        let (slope, offset) = match task {
            Task::Regression => (1.0, mean),
            Task::Binary | Task::Multiclass => {
                let out_of_bag = out_of_bag(sample, &grown, &present);
                let classes: Vec<(f64, f64)> = out_of_bag
                    .into_iter()
                    .map(|(row, value)| (value, sample.wanted[at(row)]))
                    .collect();
                straight_line(&classes)
            }
        };
        model.base[output] = offset;
        let share = slope / settings.trees as f64;
        for (mut tree, _) in grown {
            for leaf in &mut tree.leaves {
                leaf.value *= share;
            }
            model.trees.push(tree);
        }
    }
    model
}

/// Mean over the trees that did not see a row, for the rows that some tree did not see.
fn out_of_bag(sample: &Sample, grown: &[(Tree, Vec<bool>)], rows: &[u32]) -> Vec<(u32, f64)> {
    rows.par_iter()
        .filter_map(|row| {
            let entries = &sample.columns.rows[*row as usize];
            let unseen = grown.iter().filter(|(_, seen)| !seen[*row as usize]);
            let values: Vec<f64> = unseen
                .map(|(tree, _)| value(tree, &sample.columns, entries))
                .collect();
            let count = values.len() as f64;
            (count > 0.0).then(|| (*row, values.iter().sum::<f64>() / count))
        })
        .collect()
}

/// Slope and offset of the log-odds over `(value, class)`, by Newton's method with a slight pull to 0.
fn straight_line(classes: &[(f64, f64)]) -> (f64, f64) {
    let (mut slope, mut offset) = (0.0f64, 0.0f64);
    for _ in 0..STEPS {
        let pull = 1e-3;
        let (mut g, mut h) = ([pull * slope, pull * offset], [pull, 0.0, pull]);
        for (x, y) in classes {
            let p = 1.0 / (1.0 + (-(slope * x + offset)).exp());
            let (r, c) = (p - y, (p * (1.0 - p)).max(1e-9));
            g = [g[0] + r * x, g[1] + r];
            h = [h[0] + c * x * x, h[1] + c * x, h[2] + c];
        }
        let determinant = h[0] * h[2] - h[1] * h[1];
        if determinant <= 0.0 {
            break;
        }
        slope -= (h[2] * g[0] - h[1] * g[1]) / determinant;
        offset -= (h[0] * g[1] - h[1] * g[0]) / determinant;
    }
    // a forest that tells nothing still needs a direction
    if slope.is_finite() && offset.is_finite() && slope > 0.0 {
        (slope, offset)
    } else {
        (1.0, 0.0)
    }
}
