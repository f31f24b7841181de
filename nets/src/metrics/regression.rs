//! Figures for numbers; all in the unit of the endpoint or without one.

/// Root of the mean squared error. 0 for no rows.
pub fn rmse(measured: &[f64], predicted: &[f64]) -> f64 {
    (squares(measured, predicted) / measured.len().max(1) as f64).sqrt()
}

/// Mean absolute error. 0 for no rows.
pub fn mae(measured: &[f64], predicted: &[f64]) -> f64 {
    let pairs = measured.iter().zip(predicted);
    let sum: f64 = pairs.map(|(m, p)| (m - p).abs()).sum();
    sum / measured.len().max(1) as f64
}

/// Coefficient of determination: 1 less the squared errors over those of the mean. NaN where all
/// measured values are the same.
pub fn r2(measured: &[f64], predicted: &[f64]) -> f64 {
    let spread = squares(measured, &vec![mean(measured); measured.len()]);
    if spread == 0.0 {
        return f64::NAN;
    }
    1.0 - squares(measured, predicted) / spread
}

/// Spearman's rank correlation, ties given their mean rank. NaN where either side has no spread.
pub fn spearman(measured: &[f64], predicted: &[f64]) -> f64 {
    let (a, b) = (ranks(measured), ranks(predicted));
    let (mean_a, mean_b) = (mean(&a), mean(&b));
    let (mut product, mut square_a, mut square_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        let (a, b) = (a - mean_a, b - mean_b);
        product += a * b;
        square_a += a * a;
        square_b += b * b;
    }
    if square_a == 0.0 || square_b == 0.0 {
        return f64::NAN;
    }
    product / (square_a * square_b).sqrt()
}

fn squares(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Ranks from 1, ties given their mean.
pub(super) fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for tied in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = start as f64 + (tied.len() as f64 + 1.0) / 2.0;
        for index in tied {
            ranks[*index] = rank;
        }
        start += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        assert_eq!(rmse(&[0.0, 0.0], &[3.0, 4.0]), 12.5f64.sqrt());
        assert_eq!(mae(&[0.0, 0.0], &[3.0, -4.0]), 3.5);
        assert_eq!(r2(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]), 1.0);
        assert_eq!(r2(&[1.0, 2.0, 3.0], &[2.0, 2.0, 2.0]), 0.0);
        // one swap among four: 1 - 6 * 2 / (4 * 15)
        let rho = spearman(&[1.0, 2.0, 3.0, 4.0], &[10.0, 30.0, 20.0, 40.0]);
        assert!((rho - 0.8).abs() < 1e-12, "{rho}");
        assert_eq!(ranks(&[2.0, 1.0, 2.0, 5.0]), [2.5, 1.0, 2.5, 4.0]);
    }

    #[test]
    fn what_the_rows_do_not_define_is_not_a_number() {
        assert!(r2(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
        assert!(spearman(&[1.0, 2.0], &[3.0, 3.0]).is_nan());
        assert!(spearman(&[], &[]).is_nan());
    }

    proptest! {
        #[test]
        fn ranks_ignore_monotone_maps(values in proptest::collection::vec(-9.0..9.0f64, 2..30)) {
            let cubed: Vec<f64> = values.iter().map(|v| v.powi(3) + v).collect();
            prop_assert!((spearman(&values, &cubed) - 1.0).abs() < 1e-9);
        }
    }
}
