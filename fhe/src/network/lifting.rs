//! Lifting of a quadratic first activation (docs/protocol.md, lifting).
//!
//! Over one patch `x` a filter with weights `w` and bias `c`, followed by `a0 + a1 z + a2 z²`, is a
//! linear map on the monomials of degree 1 and 2 of the patch. The client sends the monomials
//! ([`Expansion::Monomials`]); filter, activation and the next linear layer become one static
//! step, and one round disappears. No approximation is made.
//!
//! [`Expansion::Monomials`]: chemxor_core::Expansion::Monomials

use chemxor_core::Monomials;

/// Coefficients of `a0 + a1 z + a2 z²`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quadratic {
    /// Constant.
    pub a0: f64,
    /// Linear.
    pub a1: f64,
    /// Square.
    pub a2: f64,
}

impl Quadratic {
    /// Its value.
    pub fn at(&self, z: f64) -> f64 {
        self.a0 + z * (self.a1 + z * self.a2)
    }
}

/// Filters and activation as linear forms in the monomials of a patch.
#[derive(Debug, Clone, PartialEq)]
pub struct Lifted {
    /// `[filters][monomials]`.
    pub forms: Vec<Vec<f64>>,
    /// `[filters]`.
    pub constants: Vec<f64>,
}

impl Lifted {
    /// `filters` is `[filters][kernel²]`, row major; one bias for each filter.
    pub fn new(
        shape: &Monomials,
        filters: &[Vec<f64>],
        biases: &[f64],
        activation: Quadratic,
    ) -> Self {
        let Quadratic { a1, a2, .. } = activation;
        let form = |(w, c): (&Vec<f64>, &f64)| {
            let mut form = vec![0.0; shape.channels()];
            for (i, wi) in w.iter().enumerate() {
                form[i] = wi * (a1 + 2.0 * a2 * c);
                for (j, wj) in w.iter().enumerate() {
                    form[shape.product(i, j)] += a2 * wi * wj;
                }
            }
            form
        };
        Self {
            forms: filters.iter().zip(biases).map(form).collect(),
            constants: biases.iter().map(|c| activation.at(*c)).collect(),
        }
    }

    /// The next layer on monomials instead of filters, and what it adds to its biases.
    ///
    /// `next` is `[outputs][filters][places]`, where places are the pixels of a dense layer or the
    /// taps of a convolution; the result is `[outputs][monomials][places]`.
    pub fn compose(&self, next: &[f64], outputs: usize) -> (Vec<f64>, Vec<f64>) {
        let filters = self.forms.len();
        let monomials = self.forms.first().map_or(0, Vec::len);
        let places = next.len() / (outputs * filters).max(1);
        let mut composed = vec![0.0; outputs * monomials * places];
        let mut biases = vec![0.0; outputs];
        let rows = next.chunks_exact((filters * places).max(1));
        let sinks = composed.chunks_exact_mut((monomials * places).max(1));
        for ((row, sink), bias) in rows.zip(sinks).zip(&mut biases) {
            for ((weights, form), constant) in row
                .chunks_exact(places)
                .zip(&self.forms)
                .zip(&self.constants)
            {
                *bias += weights.iter().sum::<f64>() * constant;
                for (sink, coefficient) in sink.chunks_exact_mut(places).zip(form) {
                    for (sink, weight) in sink.iter_mut().zip(weights) {
                        *sink += weight * coefficient;
                    }
                }
            }
        }
        (composed, biases)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chemxor_core::Expansion;

    #[test]
    fn filter_square_and_next_layer_are_one_linear_map() {
        let shape = Monomials {
            height: 4,
            width: 6,
            kernel: 2,
        };
        let x: Vec<u16> = (0..24).map(|i| i * i % 8).collect();
        let filters = [
            vec![0.5, -1.0, 2.0, 0.25],
            vec![1.0, 1.0, -3.0, 0.0],
            vec![0.1; 4],
        ];
        let biases = [0.5, -0.25, 0.0];
        let activation = Quadratic {
            a0: 1.9,
            a1: 0.5,
            a2: 0.013,
        };
        let next: Vec<f64> = (0..2 * 3 * 6).map(|i| f64::from(i % 7) - 3.0).collect();
        let mut expected = [0.0; 2];
        for place in 0..6 {
            let (top, left) = (place / 3 * 2, place % 3 * 2);
            let patch: Vec<f64> = (0..4)
                .map(|i| x[(top + i / 2) * 6 + left + i % 2].into())
                .collect();
            for (f, (w, c)) in filters.iter().zip(biases).enumerate() {
                let z = w.iter().zip(&patch).map(|(w, x)| w * x).sum::<f64>() + c;
                for (o, sum) in expected.iter_mut().enumerate() {
                    *sum += next[(o * 3 + f) * 6 + place] * activation.at(z);
                }
            }
        }
        let lifted = Lifted::new(&shape, &filters, &biases, activation);
        let (composed, biases) = lifted.compose(&next, 2);
        let inputs = Expansion::Monomials(shape).expand(&x).into_owned();
        for (o, expected) in expected.into_iter().enumerate() {
            let row = &composed[o * inputs.len()..][..inputs.len()];
            let sum: f64 = row
                .iter()
                .zip(&inputs)
                .map(|(w, x)| w * f64::from(*x))
                .sum();
            assert!(
                (sum + biases[o] - expected).abs() < 1e-9,
                "{sum} {expected}"
            );
        }
    }
}
