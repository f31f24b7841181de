//! Activations, defined once: training, tables and the clear twin all use these functions.

use serde::{Deserialize, Serialize};

use super::lifting::Quadratic;

/// A function of one pre-activation. As a table it costs nothing, whatever its form.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Activation {
    /// `z`.
    Identity,
    /// `max(z, 0)`.
    Relu,
    /// `1 / (1 + exp(-z))`.
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// `ln(1 + exp(z))`.
    Softplus,
    /// ChemXor's polynomial of degree 2 in its place.
    SoftplusPolynomial,
}

/// `1.8697581 + 0.5 z + 0.013394318 z²`, the polynomial with which ChemXor's Olinda nets train.
pub const SOFTPLUS_POLYNOMIAL: Quadratic = Quadratic {
    a0: 1.869_758_1,
    a1: 0.5,
    a2: 0.013_394_318,
};

impl Activation {
    /// Its value.
    pub fn at(self, z: f64) -> f64 {
        match self {
            Self::Identity => z,
            Self::Relu => z.max(0.0),
            Self::Sigmoid => 1.0 / (1.0 + (-z).exp()),
            Self::Tanh => z.tanh(),
            // exp overflows for large z, where the function is z
            Self::Softplus => z.max(0.0) + (-z.abs()).exp().ln_1p(),
            Self::SoftplusPolynomial => SOFTPLUS_POLYNOMIAL.at(z),
        }
    }
}

/// The interval of real pre-activations that one turn of the torus stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Its middle.
    pub centre: f64,
    /// Half its width.
    pub half: f64,
}

impl Range {
    /// Around all values, stretched by `margin`: what lies outside wraps around, and new molecules
    /// reach further than old ones.
    pub fn of(values: impl IntoIterator<Item = f64>, margin: f64) -> Self {
        let ends = (f64::INFINITY, f64::NEG_INFINITY);
        let (low, high) = values
            .into_iter()
            .fold(ends, |(low, high), value| (low.min(value), high.max(value)));
        if !(low.is_finite() && high.is_finite()) {
            return Self {
                centre: 0.0,
                half: 1.0,
            };
        }
        Self {
            centre: (low + high) / 2.0,
            // a neuron that never moves still needs a width to divide by
            half: ((high - low) / 2.0 * margin).max(1e-6),
        }
    }

    /// The smallest range that holds both.
    pub fn union(self, other: Self) -> Self {
        let low = (self.centre - self.half).min(other.centre - other.half);
        let high = (self.centre + self.half).max(other.centre + other.half);
        Self {
            centre: (low + high) / 2.0,
            half: (high - low) / 2.0,
        }
    }

    /// The value that table index `t` of `2^bits` stands for: of all that differ by whole turns the
    /// one in the range.
    pub fn representative(&self, t: usize, bits: u8) -> f64 {
        let turn = 2.0 * self.half;
        let value = t as f64 * turn / f64::from(1u32 << bits);
        value + turn * ((self.centre - value) / turn).round()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_right_at_the_ends() {
        assert_eq!(Activation::Relu.at(-1.0), 0.0);
        assert_eq!(Activation::Sigmoid.at(0.0), 0.5);
        assert_eq!(Activation::Softplus.at(1000.0), 1000.0);
        assert!(Activation::Softplus.at(-1000.0) >= 0.0);
        assert!((Activation::Softplus.at(0.0) - 2f64.ln()).abs() < 1e-12);
        assert!((Activation::SoftplusPolynomial.at(2.0) - 2.923_335_372).abs() < 1e-6);
        assert_eq!(Activation::Tanh.at(0.0) + Activation::Identity.at(3.0), 3.0);
    }

    #[test]
    fn every_index_stands_for_a_value_in_the_range() {
        let range = Range::of([-3.0, 9.0], 1.0);
        assert_eq!(
            range,
            Range {
                centre: 3.0,
                half: 6.0
            }
        );
        for t in 0..16 {
            assert!((range.representative(t, 4) - 3.0).abs() <= 6.0);
        }
        let both = range.union(Range {
            centre: 10.0,
            half: 1.0,
        });
        assert_eq!((both.centre, both.half), (4.0, 7.0));
        assert_eq!(Range::of([], 2.0).half, 1.0);
    }
}
