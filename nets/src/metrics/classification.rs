//! Figures for classes 0 and 1.

use super::regression::ranks;

/// Bins of the calibration error.
const BINS: usize = 10;

/// Probability that a random member of class 1 scores above a random member of class 0, ties
/// counted half (Mann-Whitney). 0.5 where a class is missing.
pub fn roc_auc(classes: &[f64], scores: &[f64]) -> f64 {
    let positives = classes.iter().filter(|class| **class > 0.5).count() as f64;
    let negatives = classes.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return 0.5;
    }
    let ranked = ranks(scores).into_iter().zip(classes);
    let rank_sum: f64 = ranked
        .filter(|(_, class)| **class > 0.5)
        .map(|(rank, _)| rank)
        .sum();
    (rank_sum - positives * (positives + 1.0) / 2.0) / (positives * negatives)
}

/// For each score from the largest down the numbers of members of class 1 and class 0 so far, equal
/// scores taken together; begins with none.
pub(crate) fn cumulative(pairs: impl Iterator<Item = (bool, f64)>) -> Vec<(usize, usize)> {
    let mut pairs: Vec<(bool, f64)> = pairs.collect();
    pairs.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut out = vec![(0, 0)];
    let (mut right, mut wrong) = (0, 0);
    for tied in pairs.chunk_by(|a, b| a.1 == b.1) {
        let ones = tied.iter().filter(|(one, _)| *one).count();
        right += ones;
        wrong += tied.len() - ones;
        out.push((right, wrong));
    }
    out
}

/// Average precision: the area under the precision-recall steps, equal scores taken together. NaN
/// without a member of class 1.
pub fn pr_auc(classes: &[f64], scores: &[f64]) -> f64 {
    let positives = classes.iter().filter(|class| **class > 0.5).count();
    if positives == 0 {
        return f64::NAN;
    }
    let mut order: Vec<usize> = (0..classes.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let (mut taken, mut hits, mut area) = (0usize, 0usize, 0.0);
    for tied in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let new = tied.iter().filter(|i| classes[**i] > 0.5).count();
        taken += tied.len();
        hits += new;
        area += new as f64 / positives as f64 * hits as f64 / taken as f64;
    }
    area
}

/// Matthews' correlation coefficient, where a score above `threshold` is class 1. 0 where a class
/// is missing among the measured or the predicted.
pub fn mcc(classes: &[f64], scores: &[f64], threshold: f64) -> f64 {
    // [measured][predicted]
    let mut table = [[0.0f64; 2]; 2];
    for (class, score) in classes.iter().zip(scores) {
        table[usize::from(*class > 0.5)][usize::from(*score > threshold)] += 1.0;
    }
    let [[tn, fp], [fn_, tp]] = table;
    let size = (tp + fp) * (tp + fn_) * (tn + fp) * (tn + fn_);
    if size == 0.0 {
        return 0.0;
    }
    (tp * tn - fp * fn_) / size.sqrt()
}

/// Mean squared difference of probability and class (Brier 1950). 0 for no rows.
pub fn brier(classes: &[f64], probabilities: &[f64]) -> f64 {
    super::rmse(classes, probabilities).powi(2)
}

/// Expected calibration error: mean distance of probability and frequency over ten bins of equal
/// width, weighted by their rows. 0 for no rows.
pub fn expected_calibration_error(classes: &[f64], probabilities: &[f64]) -> f64 {
    let mut gaps = [0.0f64; BINS];
    for (class, p) in classes.iter().zip(probabilities) {
        gaps[((p * BINS as f64) as usize).min(BINS - 1)] += p - class;
    }
    gaps.iter().map(|gap| gap.abs()).sum::<f64>() / classes.len().max(1) as f64
}

/// Probability of class 1 from its log-odds.
pub fn probability(log_odds: f64) -> f64 {
    1.0 / (1.0 + (-log_odds).exp())
}

/// Part of the rows whose class was guessed, classes by number; NaN without rows.
pub fn accuracy(classes: &[f64], guesses: &[f64]) -> f64 {
    let right = classes.iter().zip(guesses).filter(|(a, b)| a == b).count();
    right as f64 / classes.len() as f64
}

/// Mean over the classes that occur of the part of each that was guessed; NaN without rows.
pub fn balanced_accuracy(classes: &[f64], guesses: &[f64]) -> f64 {
    let mut own = std::collections::BTreeMap::<u64, (f64, f64)>::new();
    for (class, guess) in classes.iter().zip(guesses) {
        let (right, all) = own.entry(class.to_bits()).or_default();
        *all += 1.0;
        *right += f64::from(u8::from(class == guess));
    }
    own.values().map(|(right, all)| right / all).sum::<f64>() / own.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        let classes = [0.0, 0.0, 1.0, 1.0];
        let scores = [0.1, 0.4, 0.35, 0.8];
        assert_eq!(roc_auc(&classes, &scores), 0.75);
        assert_eq!(roc_auc(&[0.0, 1.0, 1.0], &[0.5, 0.5, 0.5]), 0.5);
        assert_eq!(roc_auc(&[1.0, 1.0], &[0.5, 0.6]), 0.5);
        // precision 1 at recall 1/2, 2/3 at recall 1
        assert!((pr_auc(&classes, &scores) - (0.5 + 1.0 / 3.0)).abs() < 1e-12);
        assert_eq!(pr_auc(&classes, &[0.5; 4]), 0.5);
        assert!(pr_auc(&[0.0], &[1.0]).is_nan());
        assert_eq!(mcc(&classes, &[-1.0, -1.0, 1.0, 1.0], 0.0), 1.0);
        assert_eq!(mcc(&classes, &[1.0, 1.0, -1.0, -1.0], 0.0), -1.0);
        assert_eq!(mcc(&classes, &[1.0; 4], 0.0), 0.0);
        assert_eq!(brier(&[0.0, 1.0], &[0.5, 0.5]), 0.25);
        // half of ten are class 1 where 0.75 was said
        let classes: Vec<f64> = (0..10).map(|i| f64::from(i % 2)).collect();
        let error = expected_calibration_error(&classes, &[0.75; 10]);
        assert!((error - 0.25).abs() < 1e-12);
        assert_eq!(expected_calibration_error(&[1.0, 0.0], &[1.0, 0.0]), 0.0);
        assert_eq!(probability(0.0), 0.5);
    }

    proptest! {
        /// Against the definition: all pairs of a member of class 1 and one of class 0.
        #[test]
        fn roc_auc_counts_pairs(rows in proptest::collection::vec((any::<bool>(), 0u8..6), 2..30)) {
            let (classes, scores): (Vec<f64>, Vec<f64>) =
                rows.iter().map(|(c, s)| (f64::from(u8::from(*c)), f64::from(*s))).unzip();
            let (mut won, mut pairs) = (0.0, 0.0);
            for (class, score) in &rows {
                for (other, below) in &rows {
                    if *class && !other {
                        pairs += 1.0;
                        won += if score > below { 1.0 } else if score == below { 0.5 } else { 0.0 };
                    }
                }
            }
            let expected = if pairs == 0.0 { 0.5 } else { won / pairs };
            prop_assert!((roc_auc(&classes, &scores) - expected).abs() < 1e-9);
        }
    }
}
