//! Figures of merit.

use chemxor_core::Task;

/// The figure for that task: `rmse` or `roc-auc`.
pub fn metric_name(task: Task) -> &'static str {
    match task {
        Task::Regression => "rmse",
        Task::Binary => "roc-auc",
    }
}

/// The figure of that task.
pub(crate) fn metric(task: Task, measured: &[f64], predicted: &[f64]) -> f64 {
    match task {
        Task::Regression => rmse(measured, predicted),
        Task::Binary => roc_auc(measured, predicted),
    }
}

/// Root of the mean squared error. 0 for no rows.
pub fn rmse(measured: &[f64], predicted: &[f64]) -> f64 {
    let sum: f64 = measured
        .iter()
        .zip(predicted)
        .map(|(m, p)| (m - p).powi(2))
        .sum();
    (sum / measured.len().max(1) as f64).sqrt()
}

/// Probability that a random member of class 1 scores above a random member of class 0, ties
/// counted half (Mann-Whitney). 0.5 where a class is missing.
pub fn roc_auc(classes: &[f64], scores: &[f64]) -> f64 {
    let mut order: Vec<usize> = (0..classes.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let positives = classes.iter().filter(|class| **class > 0.5).count() as f64;
    let negatives = classes.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return 0.5;
    }
    let mut rank_sum = 0.0;
    let mut start = 0;
    while start < order.len() {
        let tied = order[start..]
            .iter()
            .take_while(|i| scores[**i] == scores[order[start]])
            .count();
        // ranks start+1 ..= start+tied, each given their mean
        let rank = start as f64 + (tied as f64 + 1.0) / 2.0;
        let tied_positives = order[start..start + tied.max(1)]
            .iter()
            .filter(|i| classes[**i] > 0.5)
            .count();
        rank_sum += rank * tied_positives as f64;
        start += tied.max(1);
    }
    (rank_sum - positives * (positives + 1.0) / 2.0) / (positives * negatives)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(rmse(&[0.0, 0.0], &[3.0, 4.0]), 12.5f64.sqrt());
        assert_eq!(roc_auc(&[0.0, 0.0, 1.0, 1.0], &[0.1, 0.4, 0.35, 0.8]), 0.75);
        assert_eq!(roc_auc(&[0.0, 1.0, 1.0], &[0.5, 0.5, 0.5]), 0.5);
        assert_eq!(roc_auc(&[1.0, 1.0], &[0.5, 0.6]), 0.5);
    }
}
