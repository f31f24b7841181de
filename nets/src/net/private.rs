//! Gradient steps with differential privacy (Abadi et al. 2016): the gradient of each molecule is cut
//! to a norm, the sum gets Gaussian noise. In a fully connected layer the gradient of one molecule is
//! the outer product of its input and of the derivative by its pre-activations, so its norm is the
//! product of theirs (Goodfellow 2015) and no gradient is ever made for a single molecule.

use burn::tensor::{Device, Tensor};
use chemxor_core::Task;
use rand::RngExt;
use rand::rngs::ChaCha20Rng;
use rand_distr::{Distribution, StandardNormal};

use super::forward::tensor;
use super::network::{Batch, Net, Traced};
use super::parameter::read;
use crate::error::NetsError;

/// How gradients are made private.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Private {
    /// Largest norm of the gradient of one molecule.
    pub(crate) clip: f64,
    /// Standard deviation of the noise, in clipping norms.
    pub(crate) noise_multiplier: f64,
    /// Probability that a molecule takes part in a step.
    pub(crate) sampling_rate: f64,
}

/// Each row with the same probability, independently: what the accountant assumes.
pub(super) fn sample(rows: usize, rate: f64, rng: &mut ChaCha20Rng) -> Vec<usize> {
    (0..rows).filter(|_| rng.random_bool(rate)).collect()
}

/// Inputs of a layer and derivatives by its pre-activations, `[rows][…]`.
type Outer = (Tensor<2>, Tensor<2>);

/// Summed gradients of weights and biases of a layer.
pub(super) type Gradients = (Tensor<2>, Tensor<2>);

impl Net<'_> {
    /// One noisy step on a Poisson sample, which may be empty; gives the summed loss and the number
    /// of molecules.
    pub(super) fn private_batch(
        &mut self,
        batch: &Batch<'_>,
        private: &Private,
        rate: f64,
        rng: &mut ChaCha20Rng,
    ) -> Result<(f64, f64), NetsError> {
        let (of, part) = (batch.of, batch.part);
        let (sums, loss) = if of.is_empty() {
            (None, 0.0)
        } else {
            let (outer, loss) = self.outer(batch, rng)?;
            (Some(clipped(&outer, private.clip, &self.device)?), loss)
        };
        // divided by the expected size of a sample, which is public, not by its own
        let expected = (private.sampling_rate * part.x.rows.len() as f64).max(1.0);
        let deviation = private.clip * private.noise_multiplier;
        let mut sums = sums.into_iter().flatten();
        for layer in 0..self.weights.len() {
            let own = sums.next();
            let (weights, biases) = own.map_or((None, None), |(w, b)| (Some(w), Some(b)));
            for (parameter, sum) in [
                (&mut self.weights[layer], weights),
                (&mut self.biases[layer], biases),
            ] {
                let [rows, columns] = parameter.shape();
                let noise: Vec<f32> = (0..rows * columns)
                    .map(|_| {
                        let z: f64 = StandardNormal.sample(rng);
                        (z * deviation) as f32
                    })
                    .collect();
                let noise = tensor(noise, rows, &self.device);
                let sum = match sum {
                    Some(sum) => sum + noise,
                    None => noise,
                };
                parameter.step_by(rate, sum / expected as f32);
            }
        }
        Ok((loss, of.len() as f64))
    }

    /// Forward and backward; the loss is the sum over the molecules.
    fn outer(
        &self,
        batch: &Batch<'_>,
        rng: &mut ChaCha20Rng,
    ) -> Result<(Vec<Outer>, f64), NetsError> {
        // of each molecule the mean over its outputs
        let divisor = match batch.settings.task {
            Task::Regression | Task::Binary => batch.outputs() as f32,
            Task::Multiclass => 1.0,
        };
        let mut trace = Vec::new();
        let (loss, value) = self.loss(batch, divisor, Some(&mut trace), rng)?;
        let mut gradients = loss.backward();
        let outer = trace
            .into_iter()
            .map(|Traced { inputs, probe }| {
                let deltas = probe
                    .grad_remove(&mut gradients)
                    .ok_or_else(|| NetsError::Tensor("a layer has no gradient".to_owned()))?;
                Ok((inputs, deltas))
            })
            .collect::<Result<Vec<_>, NetsError>>()?;
        Ok((outer, value))
    }
}

/// The sum of the gradients of all molecules, each cut to norm `clip` over all layers together.
fn clipped(outer: &[Outer], clip: f64, device: &Device) -> Result<Vec<Gradients>, NetsError> {
    let mut squares: Vec<f64> = Vec::new();
    for (inputs, deltas) in outer {
        // weights and biases: |x|^2 |d|^2 + |d|^2
        let own = (inputs.clone().square().sum_dim(1) + 1.0) * deltas.clone().square().sum_dim(1);
        let own = read(own)?;
        squares.resize(own.len(), 0.0);
        for (sum, square) in squares.iter_mut().zip(own) {
            *sum += f64::from(square);
        }
    }
    let factors: Vec<f32> = squares
        .iter()
        .map(|square| {
            // what is not finite must not get through
            let factor = (clip / square.sqrt().max(f64::MIN_POSITIVE)).min(1.0);
            if square.is_finite() {
                factor as f32
            } else {
                0.0
            }
        })
        .collect();
    let rows = factors.len();
    let factors = tensor(factors, rows, device);
    let sum = |(inputs, deltas): &Outer| {
        let deltas = deltas.clone() * factors.clone();
        (
            inputs.clone().transpose().matmul(deltas.clone()),
            deltas.sum_dim(0),
        )
    };
    Ok(outer.iter().map(sum).collect())
}

#[cfg(test)]
mod tests {
    use super::super::forward::Ranges;
    use super::super::trainer::{Part, Settings};
    use super::*;
    use crate::matrix::Matrix;
    use crate::net::Architecture;
    use crate::split::generator;
    use chemxor_fhe::network::activation::Activation;

    fn matrix(rows: u32, columns: u32) -> Matrix {
        let row = |row: u32| {
            let entry = |column: u32| (column, ((row + 1) * (column + 2) % 7) as f32);
            (0..columns).map(entry).collect()
        };
        Matrix {
            rows: (0..rows).map(row).collect(),
            columns: columns as usize,
        }
    }

    fn flat(sums: Vec<Gradients>) -> Vec<f32> {
        sums.into_iter()
            .flat_map(|(w, b)| [read(w).unwrap(), read(b).unwrap()].concat())
            .collect()
    }

    fn norm(values: &[f32]) -> f64 {
        values
            .iter()
            .map(|g| f64::from(*g).powi(2))
            .sum::<f64>()
            .sqrt()
    }

    struct Case {
        architecture: Architecture,
        x: Matrix,
        wanted: Vec<f32>,
        weights: Vec<f32>,
    }

    impl Case {
        fn new() -> Self {
            Self {
                architecture: Architecture::mlp(5, &[4, 3], 2, Activation::Tanh),
                x: matrix(6, 5),
                wanted: (0..12u8).map(|i| f32::from(i % 5) - 2.0).collect(),
                weights: vec![1.0; 12],
            }
        }

        fn with<T>(&self, of: &[usize], act: impl FnOnce(&Net<'_>, &Batch<'_>) -> T) -> T {
            let net = Net::new(&self.architecture, &self.x, 0.0, &mut generator(3, 1));
            let ranges: Vec<Ranges> = net.ranges(&self.x, 8).unwrap();
            let settings = Settings::for_tests(Task::Regression);
            let part = Part {
                x: &self.x,
                wanted: &self.wanted,
                weights: &self.weights,
            };
            let batch = Batch {
                part,
                of,
                ranges: &ranges,
                settings: &settings,
            };
            act(&net, &batch)
        }
    }

    /// The gradient from the outer products is the one of the ordinary backward pass.
    #[test]
    fn outer_products_are_the_gradient() {
        let case = Case::new();
        let (ours, ordinary) = case.with(&[0, 1, 2, 3, 4, 5], |net, batch| {
            let (outer, loss) = net.outer(batch, &mut generator(4, 1)).unwrap();
            let ours = flat(clipped(&outer, f64::INFINITY, &net.device).unwrap());
            let (plain, value) = net.loss(batch, 2.0, None, &mut generator(4, 1)).unwrap();
            assert!((loss - value).abs() < 1e-4, "{loss} {value}");
            let mut gradients = plain.backward();
            let mut of = |value: &Tensor<2>| value.grad_remove(&mut gradients).unwrap();
            let layers = net.weights.iter().zip(&net.biases);
            let ordinary: Vec<Gradients> =
                layers.map(|(w, b)| (of(&w.value), of(&b.value))).collect();
            (ours, flat(ordinary))
        });
        assert_eq!(ours.len(), 5 * 4 + 4 + 4 * 3 + 3 + 3 * 2 + 2);
        for (a, b) in ours.iter().zip(&ordinary) {
            assert!((a - b).abs() < 1e-3 * b.abs().max(1.0), "{a} {b}");
        }
    }

    /// The clipped sum of several molecules is the sum of their clipped gradients, none of which is
    /// above the norm.
    #[test]
    fn every_molecule_counts_for_at_most_the_norm() {
        let case = Case::new();
        let clip = 0.5;
        let singles: Vec<Vec<Outer>> = (0..6)
            .map(|row| {
                case.with(&[row], |net, batch| {
                    net.outer(batch, &mut generator(4, 1)).unwrap().0
                })
            })
            .collect();
        let device = Device::flex();
        let mut expected: Vec<f64> = vec![0.0; 47];
        for outer in &singles {
            let whole = flat(clipped(outer, f64::INFINITY, &device).unwrap());
            let cut = flat(clipped(outer, clip, &device).unwrap());
            assert!(norm(&whole) > clip, "the test must clip");
            assert!((norm(&cut) - clip).abs() < 1e-4);
            let factor = clip / norm(&whole);
            for ((sum, whole), cut) in expected.iter_mut().zip(&whole).zip(&cut) {
                assert!((f64::from(*whole) * factor - f64::from(*cut)).abs() < 1e-4);
                *sum += f64::from(*cut);
            }
        }
        let joined: Vec<Outer> = (0..case.architecture.layers.len())
            .map(|layer| {
                let inputs = singles.iter().map(|outer| outer[layer].0.clone()).collect();
                let deltas = singles.iter().map(|outer| outer[layer].1.clone()).collect();
                (Tensor::cat(inputs, 0), Tensor::cat(deltas, 0))
            })
            .collect();
        let together = flat(clipped(&joined, clip, &device).unwrap());
        for (a, b) in together.iter().zip(&expected) {
            assert!((f64::from(*a) - b).abs() < 1e-4, "{a} {b}");
        }
    }

    #[test]
    fn samples_are_independent_draws() {
        let mut rng = generator(2, 1);
        let sizes: Vec<usize> = (0..400).map(|_| sample(200, 0.1, &mut rng).len()).collect();
        let mean = sizes.iter().sum::<usize>() as f64 / 400.0;
        let variance = sizes
            .iter()
            .map(|s| (*s as f64 - mean).powi(2))
            .sum::<f64>()
            / 399.0;
        // binomial: mean 20, variance 18; five standard errors
        assert!(
            (mean - 20.0).abs() < 5.0 * (18.0f64 / 400.0).sqrt(),
            "{mean}"
        );
        assert!(
            (variance - 18.0).abs() < 5.0 * 18.0 * (2.0f64 / 400.0).sqrt(),
            "{variance}"
        );
    }
}
