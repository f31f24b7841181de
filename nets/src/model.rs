//! The trained float model, in the units of the endpoint and over all features.

use crate::dataset::Row;

/// Ready to predict, and to be quantised.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FloatModel {
    /// `w x + c`.
    Linear { weights: Vec<f64>, intercept: f64 },
    /// One hidden layer.
    Mlp(Mlp),
}

/// `sum_i w2[i] * relu(w1[i] x + b1[i]) + b2`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mlp {
    /// For each neuron, the weights of all features.
    pub(crate) w1: Vec<Vec<f64>>,
    pub(crate) b1: Vec<f64>,
    pub(crate) w2: Vec<f64>,
    pub(crate) b2: f64,
}

fn dot(weights: &[f64], row: &Row) -> f64 {
    row.features
        .iter()
        .map(|(index, x)| weights[*index as usize] * f64::from(*x))
        .sum()
}

impl Mlp {
    /// Pre-activations without their biases.
    pub(crate) fn sums(&self, row: &Row) -> Vec<f64> {
        self.w1.iter().map(|weights| dot(weights, row)).collect()
    }

    /// The output without its bias, from [`Self::sums`].
    pub(crate) fn unbiased(&self, sums: &[f64]) -> f64 {
        let neuron = |((z, b), w): ((&f64, &f64), &f64)| w * (z + b).max(0.0);
        sums.iter().zip(&self.b1).zip(&self.w2).map(neuron).sum()
    }
}

impl FloatModel {
    /// The output without its bias: what the integers compute.
    pub(crate) fn unbiased(&self, row: &Row) -> f64 {
        match self {
            Self::Linear { weights, .. } => dot(weights, row),
            Self::Mlp(mlp) => mlp.unbiased(&mlp.sums(row)),
        }
    }

    /// The bias of the output.
    pub(crate) fn bias(&self) -> f64 {
        match self {
            Self::Linear { intercept, .. } => *intercept,
            Self::Mlp(mlp) => mlp.b2,
        }
    }

    /// Value, or log-odds of class 1.
    pub(crate) fn predict(&self, row: &Row) -> f64 {
        self.unbiased(row) + self.bias()
    }
}
