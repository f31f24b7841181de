//! Exact (Clopper and Pearson 1934) intervals of proportions.

use serde::{Deserialize, Serialize};

/// So many of so many, with a 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proportion {
    /// Successes.
    pub count: usize,
    /// Trials.
    pub of: usize,
    /// `count / of`; 0 without a trial.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// On each side of the interval.
const TAIL: f64 = 0.025;

impl Proportion {
    /// Of independent trials.
    pub fn new(count: usize, of: usize) -> Self {
        let value = if of == 0 {
            0.0
        } else {
            count as f64 / of as f64
        };
        let ln = ln_choose(of);
        // P(X >= count) grows with p, P(X <= count) falls
        let low = if count == 0 {
            0.0
        } else {
            solve(|p| sum(&ln, count..=of, p) < TAIL)
        };
        let high = if count >= of {
            1.0
        } else {
            solve(|p| sum(&ln, 0..=count, p) > TAIL)
        };
        Self {
            count,
            of,
            value,
            low,
            high,
        }
    }
}

/// Logarithms of the binomial coefficients.
fn ln_choose(n: usize) -> Vec<f64> {
    let mut ln = vec![0.0; n + 1];
    for k in 1..=n {
        ln[k] = ln[k - 1] + ((n + 1 - k) as f64 / k as f64).ln();
    }
    ln
}

fn sum(ln_choose: &[f64], of: std::ops::RangeInclusive<usize>, p: f64) -> f64 {
    let n = ln_choose.len() - 1;
    of.map(|k| (ln_choose[k] + k as f64 * p.ln() + (n - k) as f64 * (-p).ln_1p()).exp())
        .sum()
}

/// Where `below` turns false.
fn solve(below: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if below(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Closed forms where no or every trial succeeds; the other two as tables give them.
    #[test]
    fn known_intervals() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-4, "{a} {b}");
        let none = Proportion::new(0, 10);
        assert_eq!(none.low, 0.0);
        close(none.high, 1.0 - 0.025f64.powf(0.1));
        let all = Proportion::new(20, 20);
        close(all.low, 0.025f64.powf(0.05));
        assert_eq!(all.high, 1.0);
        let half = Proportion::new(5, 10);
        close(half.low, 0.1871);
        close(half.high, 0.8129);
        let one = Proportion::new(1, 1000);
        close(one.high, 0.005_56);
        assert_eq!(Proportion::new(0, 0).high, 1.0);
    }

    proptest! {
        #[test]
        fn the_interval_holds_the_value(of in 1usize..300, part in 0.0..=1.0f64) {
            let count = (part * of as f64) as usize;
            let p = Proportion::new(count, of);
            prop_assert!(0.0 <= p.low && p.low <= p.value && p.value <= p.high && p.high <= 1.0);
        }
    }
}
