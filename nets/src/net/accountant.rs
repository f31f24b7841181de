//! What a training with noisy gradients guarantees: Rényi differential privacy of the Gaussian
//! mechanism on Poisson samples (Mironov, Talwar and Zhang 2019, arXiv:1908.10530, section 3.3), at
//! whole orders, composed over the steps.

/// Largest order that is tried.
const MOST_ORDER: u32 = 256;

/// A training: how likely a molecule takes part in a step, and how many steps there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mechanism {
    pub(crate) sampling_rate: f64,
    pub(crate) steps: u64,
}

impl Mechanism {
    /// ε at δ for noise of `multiplier` clipping norms; conversion of Balle et al. (2020,
    /// arXiv:1905.09982, theorem 21).
    pub(crate) fn epsilon(&self, multiplier: f64, delta: f64) -> f64 {
        self.smallest(multiplier, |order| {
            (-1.0 / order).ln_1p() - (delta.ln() + order.ln()) / (order - 1.0)
        })
    }

    fn smallest(&self, multiplier: f64, convert: impl Fn(f64) -> f64) -> f64 {
        (2..=MOST_ORDER)
            .map(|order| {
                let spent = self.steps as f64 * renyi(self.sampling_rate, multiplier, order);
                spent + convert(f64::from(order))
            })
            .fold(f64::INFINITY, f64::min)
            .max(0.0)
    }

    /// The least noise that keeps ε at δ; none where even much does not.
    pub(crate) fn noise_for(&self, epsilon: f64, delta: f64) -> Option<f64> {
        let (mut low, mut high) = (0.1, 1e4);
        if self.epsilon(high, delta) > epsilon {
            return None;
        }
        // the wanted noise to a relative thousandth, from above
        while high / low > 1.001 {
            let middle = (low * high).sqrt();
            if self.epsilon(middle, delta) > epsilon {
                low = middle;
            } else {
                high = middle;
            }
        }
        Some(high)
    }
}

/// Of one step at a whole order: `ln E[(mixture / noise)^order] / (order - 1)`, a binomial sum.
fn renyi(rate: f64, multiplier: f64, order: u32) -> f64 {
    let variance = multiplier * multiplier;
    let order_f = f64::from(order);
    if rate >= 1.0 {
        return order_f / (2.0 * variance);
    }
    let mut ln_choose = 0.0;
    let mut terms = Vec::with_capacity(order as usize + 1);
    for k in 0..=order {
        let k_f = f64::from(k);
        if k > 0 {
            ln_choose += ((order_f - k_f + 1.0) / k_f).ln();
        }
        let weight = ln_choose + k_f * rate.ln() + (order_f - k_f) * (-rate).ln_1p();
        terms.push(weight + k_f * (k_f - 1.0) / (2.0 * variance));
    }
    let largest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = terms.iter().map(|term| (term - largest).exp()).sum();
    (largest + sum.ln()) / (order_f - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The conversion of the older papers and tutorials (Mironov 2017, proposition 3).
    fn classic(mechanism: Mechanism, multiplier: f64, delta: f64) -> f64 {
        mechanism.smallest(multiplier, |order| -delta.ln() / (order - 1.0))
    }

    /// The three MNIST settings of the TensorFlow Privacy tutorial (batches of 256 of 60,000), and the
    /// example of Abadi et al. (2016, section 3.2: q = 0.01, σ = 4, 10,000 steps, ε ≈ 1.26).
    #[test]
    fn published_values() {
        let mnist = |epochs: u64| Mechanism {
            sampling_rate: 256.0 / 60_000.0,
            steps: epochs * 60_000 / 256,
        };
        let abadi = Mechanism {
            sampling_rate: 0.01,
            steps: 10_000,
        };
        for (mechanism, multiplier, epsilon) in [
            (mnist(15), 1.3, 1.19),
            (mnist(60), 1.1, 3.01),
            (mnist(45), 0.7, 7.10),
            (abadi, 4.0, 1.26),
        ] {
            let found = classic(mechanism, multiplier, 1e-5);
            assert!((found / epsilon - 1.0).abs() < 0.005, "{found} {epsilon}");
            assert!(
                mechanism.epsilon(multiplier, 1e-5) < found,
                "the newer conversion is tighter"
            );
        }
    }

    /// Without sampling the mechanism is a Gaussian one with known Rényi divergence.
    #[test]
    fn a_full_batch_is_the_gaussian_mechanism() {
        for order in [2, 5, 40] {
            let expected = f64::from(order) / (2.0 * 2.5 * 2.5);
            assert!((renyi(1.0, 2.5, order) - expected).abs() < 1e-12);
            assert!((renyi(1.0 - 1e-12, 2.5, order) - expected).abs() < 1e-6);
            assert!(renyi(0.1, 2.5, order) < expected);
        }
    }

    #[test]
    fn the_noise_keeps_what_was_asked_for_and_hardly_more() {
        let mechanism = Mechanism {
            sampling_rate: 0.1,
            steps: 500,
        };
        for epsilon in [0.5, 2.0, 8.0] {
            let noise = mechanism.noise_for(epsilon, 1e-5).unwrap();
            let kept = mechanism.epsilon(noise, 1e-5);
            assert!(kept <= epsilon && kept > epsilon * 0.98, "{epsilon} {kept}");
        }
        assert_eq!(mechanism.noise_for(1e-9, 1e-5), None);
    }
}
