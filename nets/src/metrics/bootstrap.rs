//! Percentile bootstrap (Efron 1979): rows are drawn with replacement and the figure taken again.

use rand::{RngExt, SeedableRng, rngs::ChaCha20Rng};
use rayon::prelude::*;
use serde::Serialize;

/// How intervals are found. The same settings and rows give the same interval on any number of
/// threads: each draw has its own generator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// Draws; at least 1 is made.
    pub draws: usize,
    /// Part of the draws inside the interval, between 0 and 1.
    pub confidence: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Bootstrap {
    /// 1,000 draws, 95 %.
    fn default() -> Self {
        Self {
            draws: 1000,
            confidence: 0.95,
            seed: 1,
        }
    }
}

/// A figure and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// On all rows.
    pub value: f64,
    /// Lower end; NaN where the figure is defined for no draw.
    pub low: f64,
    /// Upper end; NaN where the figure is defined for no draw.
    pub high: f64,
}

impl Bootstrap {
    /// Interval of `figure(measured, predicted)`. Draws for which it is not finite are left out.
    pub fn interval(
        &self,
        measured: &[f64],
        predicted: &[f64],
        figure: impl Fn(&[f64], &[f64]) -> f64 + Sync,
    ) -> Interval {
        let rows = measured.len().min(predicted.len());
        let value = figure(measured, predicted);
        let draw = |number: u64| {
            let mut rng = ChaCha20Rng::seed_from_u64(self.seed);
            rng.set_stream(number);
            let (m, p): (Vec<f64>, Vec<f64>) = (0..rows)
                .map(|_| rng.random_range(0..rows))
                .map(|row| (measured[row], predicted[row]))
                .unzip();
            figure(&m, &p)
        };
        let mut drawn: Vec<f64> = (0..self.draws.max(1) as u64)
            .into_par_iter()
            .map(draw)
            .filter(|value| value.is_finite())
            .collect();
        drawn.sort_by(f64::total_cmp);
        let tail = (1.0 - self.confidence.clamp(0.0, 1.0)) / 2.0;
        let (low, high) = (quantile(&drawn, tail), quantile(&drawn, 1.0 - tail));
        Interval { value, low, high }
    }
}

/// Of sorted values, between neighbours by a straight line; NaN where there is none.
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = at * last as f64;
    let below = (place.floor() as usize).min(last);
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_distr::{Distribution, StandardNormal};

    fn mean_error(measured: &[f64], predicted: &[f64]) -> f64 {
        let errors = measured.iter().zip(predicted).map(|(m, p)| p - m);
        errors.sum::<f64>() / measured.len() as f64
    }

    /// The mean of 400 normal numbers has standard deviation 1/20, so the interval is about
    /// 2 * 1.96 / 20 wide.
    #[test]
    fn width_is_that_of_the_sampling_distribution() {
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let predicted: Vec<f64> = (0..400).map(|_| StandardNormal.sample(&mut rng)).collect();
        let interval = Bootstrap::default().interval(&[0.0; 400], &predicted, mean_error);
        assert!(interval.low < interval.value && interval.value < interval.high);
        let width = interval.high - interval.low;
        assert!((width - 0.196).abs() < 0.03, "{width}");
    }

    #[test]
    fn a_seed_gives_the_same_interval_on_any_number_of_threads() {
        let predicted: Vec<f64> = (0..50).map(|i| f64::from(i * i % 17)).collect();
        let with = |threads, seed| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let bootstrap = Bootstrap {
                seed,
                ..Bootstrap::default()
            };
            pool.build()
                .unwrap()
                .install(|| bootstrap.interval(&[0.0; 50], &predicted, mean_error))
        };
        assert_eq!(with(1, 3), with(2, 3));
        assert_ne!(with(1, 3), with(1, 4));
    }

    #[test]
    fn a_figure_that_is_never_defined_has_no_interval() {
        let none = Bootstrap::default().interval(&[], &[], |_, _| f64::NAN);
        assert!(none.value.is_nan() && none.low.is_nan() && none.high.is_nan());
    }

    #[test]
    fn quantiles() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(quantile(&[7.0], 1.0), 7.0);
    }
}
