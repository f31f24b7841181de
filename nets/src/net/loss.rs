//! Losses, masked where a target is missing and weighted by class.

use burn::tensor::Tensor;
use burn::tensor::activation::{log_softmax, relu};
use chemxor_core::Task;

/// Mean loss of a batch; all are `[batch][outputs]`, `weights` being 0 where there is no target.
pub(super) fn batch_loss(
    task: Task,
    out: Tensor<2>,
    wanted: Tensor<2>,
    weights: Tensor<2>,
    total: f32,
) -> Tensor<1> {
    let terms = match task {
        Task::Regression => (out - wanted).square(),
        Task::Binary => relu(out.clone()) - out.clone() * wanted + (-out.abs()).exp().log1p(),
        Task::Multiclass => -log_softmax(out, 1) * wanted,
    };
    (terms * weights).sum() / total.max(f32::MIN_POSITIVE)
}

/// Sum of the weights that a batch's loss is divided by.
pub(super) fn total_weight(task: Task, weights: &[f32], outputs: usize) -> f32 {
    match task {
        Task::Regression | Task::Binary => weights.iter().sum(),
        // all outputs of a molecule have its one weight
        Task::Multiclass => weights.iter().step_by(outputs.max(1)).sum(),
    }
}

/// The same in double precision for whole sets, all `[rows][outputs]`.
pub(super) fn mean_loss(
    task: Task,
    outputs: usize,
    out: &[f64],
    wanted: &[f32],
    weights: &[f32],
) -> f64 {
    let mut sum = 0.0;
    let rows = out
        .chunks(outputs)
        .zip(wanted.chunks(outputs))
        .zip(weights.chunks(outputs));
    for ((out, wanted), weights) in rows {
        let largest = out.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shifted: f64 = out.iter().map(|z| (z - largest).exp()).sum();
        for ((z, y), w) in out.iter().zip(wanted).zip(weights) {
            let (y, w) = (f64::from(*y), f64::from(*w));
            let term = match task {
                Task::Regression => (z - y).powi(2),
                // log(1 + e^z) - y z, written so that it cannot overflow
                Task::Binary => z.max(0.0) + (-z.abs()).exp().ln_1p() - y * z,
                Task::Multiclass => -y * (z - largest - shifted.ln()),
            };
            // a missing target has weight 0 and any value
            if w > 0.0 {
                sum += w * term;
            }
        }
    }
    sum / f64::from(total_weight(task, weights, outputs)).max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let loss = |task, out: &[f64], y: &[f32], w: &[f32]| mean_loss(task, 2, out, y, w);
        let regression = loss(Task::Regression, &[1.0, 5.0], &[3.0, 9.0], &[1.0, 0.0]);
        assert_eq!(regression, 4.0, "the missing one does not count");
        let binary = loss(Task::Binary, &[0.0, 1e9], &[1.0, 1.0], &[1.0, 1.0]);
        assert!((binary - 2f64.ln() / 2.0).abs() < 1e-12);
        let classes = loss(Task::Multiclass, &[0.0, 0.0], &[0.0, 1.0], &[1.0, 1.0]);
        assert!((classes - 2f64.ln()).abs() < 1e-12);
    }
}
