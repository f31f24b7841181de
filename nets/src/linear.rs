//! Ridge and logistic regression with an exact solver: Newton's method, its linear systems by
//! conjugate gradients on the sparse matrix. Ridge takes one Newton step. Minimised is
//! `sum loss(y, X w + c) + penalty / 2 * |w|^2`; the intercept `c` is not penalised.

use chemxor_core::Task;
use rayon::prelude::*;

use crate::matrix::Matrix;

/// Weights and intercept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Linear {
    pub(crate) weights: Vec<f64>,
    pub(crate) intercept: f64,
}

/// Penalties that are tried, strongest first.
pub(crate) fn penalties(task: Task) -> &'static [f64] {
    match task {
        Task::Regression => &[1000.0, 300.0, 100.0, 50.0, 30.0, 20.0, 10.0, 5.0, 2.0, 1.0],
        Task::Binary | Task::Multiclass => &[300.0, 100.0, 30.0, 10.0, 5.0, 2.0, 1.0, 0.5],
    }
}

impl Linear {
    /// Fits `targets`, starting from `start`.
    pub(crate) fn fit(
        x: &Matrix,
        targets: &[f64],
        task: Task,
        penalty: f64,
        start: Option<&Self>,
    ) -> Self {
        let mut model = start.cloned().unwrap_or_else(|| Self {
            weights: vec![0.0; x.columns],
            intercept: 0.0,
        });
        let steps = if task == Task::Regression { 1 } else { 25 };
        let mut value = model.objective(x, targets, task, penalty);
        for _ in 0..steps {
            let direction = model.newton(x, targets, task, penalty);
            let mut step = 1.0;
            let (next, next_value) = loop {
                let next = model.moved(&direction, step);
                let next_value = next.objective(x, targets, task, penalty);
                // the objective is convex, so a short enough step always helps, up to rounding
                if next_value <= value || step < 1e-4 {
                    break (next, next_value);
                }
                step /= 2.0;
            };
            let gain = value - next_value;
            if gain < 0.0 {
                break;
            }
            (model, value) = (next, next_value);
            if gain <= 1e-9 * value.abs() {
                break;
            }
        }
        model
    }

    /// `X w + c`: the value, or the log-odds of class 1.
    pub(crate) fn predict(&self, x: &Matrix) -> Vec<f64> {
        x.times(&self.weights)
            .into_iter()
            .map(|z| z + self.intercept)
            .collect()
    }

    fn moved(&self, direction: &Self, step: f64) -> Self {
        let weights = self
            .weights
            .iter()
            .zip(&direction.weights)
            .map(|(w, d)| w + step * d)
            .collect();
        Self {
            weights,
            intercept: self.intercept + step * direction.intercept,
        }
    }

    fn objective(&self, x: &Matrix, targets: &[f64], task: Task, penalty: f64) -> f64 {
        let scores = self.predict(x);
        let norm: f64 = self.weights.iter().map(|w| w * w).sum();
        loss_sum(task, targets, &scores) + penalty / 2.0 * norm
    }

    /// Solves `H d = -gradient` by conjugate gradients with the diagonal as preconditioner.
    fn newton(&self, x: &Matrix, targets: &[f64], task: Task, penalty: f64) -> Self {
        let scores = self.predict(x);
        let (residual, curvature): (Vec<f64>, Vec<f64>) = scores
            .iter()
            .zip(targets)
            .map(|(z, y)| match task {
                Task::Regression => (y - z, 1.0),
                Task::Binary | Task::Multiclass => {
                    let p = sigmoid(*z);
                    // kept away from 0, where the system would have no unique solution
                    (y - p, (p * (1.0 - p)).max(1e-6))
                }
            })
            .unzip();
        let hessian = |v: &Self| {
            let z = v.predict(x);
            let weighted: Vec<f64> = z.iter().zip(&curvature).map(|(z, h)| z * h).collect();
            let mut weights = x.transposed_times(&weighted);
            for (out, w) in weights.iter_mut().zip(&v.weights) {
                *out += penalty * w;
            }
            Self {
                weights,
                intercept: weighted.iter().sum(),
            }
        };
        let mut diagonal = Self {
            weights: vec![penalty; x.columns],
            intercept: 0.0,
        };
        for (row, h) in x.rows.iter().zip(&curvature) {
            diagonal.intercept += h;
            for (column, value) in row {
                diagonal.weights[*column as usize] += h * f64::from(*value).powi(2);
            }
        }
        let mut gradient = x.transposed_times(&residual);
        for (out, w) in gradient.iter_mut().zip(&self.weights) {
            *out -= penalty * w;
        }
        let right = Self {
            weights: gradient,
            intercept: residual.iter().sum(),
        };
        conjugate_gradients(hessian, &diagonal, right)
    }

    fn dot(&self, other: &Self) -> f64 {
        let sum: f64 = self
            .weights
            .iter()
            .zip(&other.weights)
            .map(|(a, b)| a * b)
            .sum();
        sum + self.intercept * other.intercept
    }

    fn over(&self, diagonal: &Self) -> Self {
        let weights = self
            .weights
            .iter()
            .zip(&diagonal.weights)
            .map(|(a, d)| a / d)
            .collect();
        Self {
            weights,
            intercept: self.intercept / diagonal.intercept,
        }
    }
}

fn conjugate_gradients(
    apply: impl Fn(&Linear) -> Linear,
    diagonal: &Linear,
    right: Linear,
) -> Linear {
    let mut solution = Linear {
        weights: vec![0.0; right.weights.len()],
        intercept: 0.0,
    };
    let goal = 1e-18 * right.dot(&right.over(diagonal));
    let mut residual = right;
    let mut scaled = residual.over(diagonal);
    let mut direction = scaled.clone();
    let mut size = residual.dot(&scaled);
    for _ in 0..1000 {
        if size <= goal || size <= f64::MIN_POSITIVE {
            break;
        }
        let image = apply(&direction);
        let step = size / direction.dot(&image);
        solution = solution.moved(&direction, step);
        residual = residual.moved(&image, -step);
        scaled = residual.over(diagonal);
        let next = residual.dot(&scaled);
        direction = scaled.moved(&direction, next / size);
        size = next;
    }
    solution
}

/// Sum of half squared errors, or of logistic losses.
pub(crate) fn loss_sum(task: Task, targets: &[f64], scores: &[f64]) -> f64 {
    let pairs = targets.iter().zip(scores);
    match task {
        Task::Regression => pairs.map(|(y, z)| (y - z).powi(2) / 2.0).sum(),
        // log(1 + e^z) - y z, written so that it cannot overflow
        Task::Binary | Task::Multiclass => pairs
            .map(|(y, z)| z.max(0.0) + (-z.abs()).exp().ln_1p() - y * z)
            .sum(),
    }
}

/// `1 / (1 + e^-z)`.
pub(crate) fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// One part of a cross-validation.
pub(crate) struct Fold {
    pub(crate) train: (Matrix, Vec<f64>),
    pub(crate) test: (Matrix, Vec<f64>),
}

/// Mean held-out loss of each of [`penalties`], over the folds.
pub(crate) fn cross_validate(folds: &[Fold], task: Task) -> Vec<f64> {
    let of_fold = |fold: &Fold| -> Vec<f64> {
        let mut model: Option<Linear> = None;
        penalties(task)
            .iter()
            .map(|penalty| {
                let (x, y) = &fold.train;
                let fitted = Linear::fit(x, y, task, *penalty, model.as_ref());
                let (x, y) = &fold.test;
                let loss = loss_sum(task, y, &fitted.predict(x));
                model = Some(fitted);
                loss
            })
            .collect()
    };
    let losses: Vec<Vec<f64>> = folds.par_iter().map(of_fold).collect();
    let rows: usize = folds.iter().map(|fold| fold.test.1.len()).sum();
    (0..penalties(task).len())
        .map(|at| losses.iter().map(|fold| fold[at]).sum::<f64>() / rows.max(1) as f64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: &[&[f32]]) -> Matrix {
        let sparse = |row: &&[f32]| {
            (0u32..)
                .zip(row.iter().copied())
                .filter(|(_, v)| *v != 0.0)
                .collect()
        };
        Matrix {
            rows: rows.iter().map(sparse).collect(),
            columns: rows[0].len(),
        }
    }

    #[test]
    fn ridge_meets_its_normal_equations() {
        let x = matrix(&[&[1.0, 0.0], &[0.0, 2.0], &[1.0, 1.0], &[3.0, 1.0]]);
        let y = [1.0, 2.0, 0.5, -1.0];
        let model = Linear::fit(&x, &y, Task::Regression, 0.7, None);
        let residual: Vec<f64> = model
            .predict(&x)
            .iter()
            .zip(&y)
            .map(|(p, y)| y - p)
            .collect();
        assert!(residual.iter().sum::<f64>().abs() < 1e-8);
        for (g, w) in x.transposed_times(&residual).iter().zip(&model.weights) {
            assert!((g - 0.7 * w).abs() < 1e-8);
        }
    }

    #[test]
    fn logistic_has_no_gradient_at_the_solution_even_when_classes_separate() {
        let x = matrix(&[
            &[1.0, 0.0],
            &[2.0, 0.0],
            &[0.0, 1.0],
            &[0.0, 3.0],
            &[1.0, 1.0],
        ]);
        let y = [1.0, 1.0, 0.0, 0.0, 1.0];
        let model = Linear::fit(&x, &y, Task::Binary, 0.1, None);
        let residual: Vec<f64> = model
            .predict(&x)
            .iter()
            .zip(&y)
            .map(|(z, y)| y - sigmoid(*z))
            .collect();
        assert!(residual.iter().sum::<f64>().abs() < 1e-4);
        for (g, w) in x.transposed_times(&residual).iter().zip(&model.weights) {
            assert!((g - 0.1 * w).abs() < 1e-4);
        }
    }
}
