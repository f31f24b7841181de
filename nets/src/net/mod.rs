//! Networks as they are trained: shapes, parameters, and the way to the floats that are quantised.
//!
//! | module | what it holds |
//! |---|---|
//! | `parameter` | a trainable tensor with its optimiser |
//! | `forward` | the layers, with what encryption will do to them |
//! | `loss` | losses of batches and of validation sets |
//! | `network` | a network in training: weights, ranges, one gradient step |
//! | `trainer` | epochs, early stopping, the best network |
//! | `private`, `accountant` | gradient steps with differential privacy, and what they guarantee |
//! | `checkpoint`, `resume` | the state after an epoch on disk |

mod accountant;
mod checkpoint;
mod forward;
mod loss;
mod network;
mod parameter;
mod private;
mod resume;
mod trainer;

use chemxor_core::{Conv2d, Expansion, Monomials};
use chemxor_fhe::network::activation::{Activation, SOFTPLUS_POLYNOMIAL};
use chemxor_fhe::network::float::{FloatLayer, FloatMap, FloatNet};
use chemxor_fhe::network::lifting::Lifted;

pub(crate) use accountant::Mechanism;
pub(crate) use checkpoint::Folder;
pub(crate) use private::Private;
pub(crate) use trainer::{Epoch, Outcome, Part, Settings, fit};

use crate::matrix::ActiveColumns;

/// The linear map of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Map {
    Dense { inputs: usize, outputs: usize },
    Conv(Conv2d),
}

/// A layer without its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Layer {
    pub(crate) map: Map,
    pub(crate) activation: Activation,
    /// Whether the encrypted run rounds its pre-activations; a lifted layer is exact.
    pub(crate) rounded: bool,
}

impl Layer {
    /// Inputs of one row of weights.
    pub(crate) fn fan_in(&self) -> usize {
        match self.map {
            Map::Dense { inputs, .. } => inputs,
            Map::Conv(conv) => conv.taps(),
        }
    }

    /// Rows of weights: neurons, or filters.
    pub(crate) fn rows(&self) -> usize {
        match self.map {
            Map::Dense { outputs, .. } => outputs,
            Map::Conv(conv) => conv.filters as usize,
        }
    }

    /// Outputs that share a row: 1, or the windows of a filter.
    pub(crate) fn sharing(&self) -> usize {
        match self.map {
            Map::Dense { .. } => 1,
            Map::Conv(conv) => (conv.out_height() * conv.out_width()) as usize,
        }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.rows() * self.sharing()
    }
}

/// The layers of a network; the last one has no activation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Architecture {
    pub(crate) layers: Vec<Layer>,
}

/// Side of the image of the Olinda nets.
const SIDE: u32 = 32;
/// What is lifted: patches of 3x3 without overlap.
const PATCHES: Monomials = Monomials {
    height: SIDE,
    width: SIDE,
    kernel: 3,
};

impl Architecture {
    /// Fully connected layers.
    pub(crate) fn mlp(
        inputs: usize,
        hidden: &[usize],
        outputs: usize,
        activation: Activation,
    ) -> Self {
        Self {
            layers: dense(inputs, hidden, outputs, activation),
        }
    }

    /// An Olinda net on a 32x32 image (ChemXor): convolution 1→32, 3x3 with stride 3, then 3x3
    /// convolutions with these numbers of filters, then fully connected layers.
    pub(crate) fn olinda(convolutions: &[u32], hidden: &[usize], outputs: usize) -> Self {
        let activation = Activation::SoftplusPolynomial;
        let mut conv = Conv2d {
            channels: 1,
            height: SIDE,
            width: SIDE,
            filters: 32,
            kernel: 3,
            stride: 3,
            padding: 0,
        };
        let mut layers = vec![Layer {
            map: Map::Conv(conv),
            activation,
            rounded: false,
        }];
        for filters in convolutions {
            conv = Conv2d {
                channels: conv.filters,
                height: conv.out_height(),
                width: conv.out_width(),
                filters: *filters,
                stride: 1,
                ..conv
            };
            layers.push(Layer {
                map: Map::Conv(conv),
                activation,
                rounded: true,
            });
        }
        layers.extend(dense(conv.outputs() as usize, hidden, outputs, activation));
        Self { layers }
    }

    /// Whether the first layer is evaluated by the client's monomials.
    pub(crate) fn is_lifted(&self) -> bool {
        self.layers.first().is_some_and(|layer| !layer.rounded)
    }
}

fn dense(inputs: usize, hidden: &[usize], outputs: usize, activation: Activation) -> Vec<Layer> {
    let mut layers = Vec::new();
    let mut inputs = inputs;
    for (index, width) in hidden.iter().chain([&outputs]).enumerate() {
        layers.push(Layer {
            map: Map::Dense {
                inputs,
                outputs: *width,
            },
            activation: if index < hidden.len() {
                activation
            } else {
                Activation::Identity
            },
            rounded: true,
        });
        inputs = *width;
    }
    layers
}

/// The parameters of a layer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FittedLayer {
    /// `[fan_in][rows]`.
    pub(crate) weights: Vec<f32>,
    /// `[rows]`.
    pub(crate) biases: Vec<f32>,
}

/// A trained network over the active columns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fitted {
    pub(crate) layers: Vec<FittedLayer>,
}

/// Mean and deviation of each output, by which the targets were standardised.
pub(crate) type Standard = (f64, f64);

impl Fitted {
    /// Over all features and in the units of the targets.
    pub(crate) fn into_float(
        self,
        architecture: &Architecture,
        active: &ActiveColumns,
        standard: &[Standard],
        max_value: u16,
    ) -> FloatNet {
        let last = architecture.layers.len() - 1;
        let mut layers: Vec<FloatLayer> = self
            .layers
            .iter()
            .zip(&architecture.layers)
            .enumerate()
            .map(|(index, (fitted, layer))| {
                let rows = layer.rows();
                let row = |r: usize| -> Vec<f64> {
                    let column = fitted
                        .weights
                        .chunks(rows)
                        .map(|weights| f64::from(weights[r]));
                    column.collect()
                };
                let scale = |r: usize| {
                    if index == last {
                        standard[r]
                    } else {
                        (0.0, 1.0)
                    }
                };
                let mut weights = Vec::with_capacity(fitted.weights.len());
                for r in 0..rows {
                    let (_, deviation) = scale(r);
                    let row: Vec<f64> = row(r).iter().map(|w| w * deviation).collect();
                    match (index, layer.map) {
                        (0, Map::Dense { .. }) => weights.extend(active.expand(&row)),
                        _ => weights.extend(row),
                    }
                }
                let bias = |(r, bias): (usize, &f32)| {
                    let (mean, deviation) = scale(r);
                    f64::from(*bias) * deviation + mean
                };
                FloatLayer {
                    map: match layer.map {
                        Map::Dense { .. } => FloatMap::Dense(weights),
                        Map::Conv(conv) => FloatMap::Conv2d(conv, weights),
                    },
                    biases: fitted.biases.iter().enumerate().map(bias).collect(),
                    activation: layer.activation,
                }
            })
            .collect();
        let mut expansion = Expansion::None;
        let mut largest = max_value;
        if architecture.is_lifted() && layers.len() > 1 {
            let first = layers.remove(0);
            lift(&first, &mut layers[0]);
            expansion = Expansion::Monomials(PATCHES);
            largest = max_value.saturating_mul(max_value);
        }
        FloatNet {
            expansion,
            // fewest bits that hold the largest input
            input_bits: (u16::BITS - largest.leading_zeros()).max(1) as u8,
            layers,
        }
    }
}

/// Puts the first convolution and its quadratic activation into the next layer's weights.
fn lift(first: &FloatLayer, next: &mut FloatLayer) {
    let FloatMap::Conv2d(conv, filters) = &first.map else {
        return;
    };
    let filters: Vec<Vec<f64>> = filters.chunks(conv.taps()).map(<[f64]>::to_vec).collect();
    let lifted = Lifted::new(&PATCHES, &filters, &first.biases, SOFTPLUS_POLYNOMIAL);
    let outputs = next.biases.len();
    let (map, added) = match &next.map {
        FloatMap::Dense(weights) => {
            let (weights, added) = lifted.compose(weights, outputs);
            (FloatMap::Dense(weights), added)
        }
        FloatMap::Conv2d(conv, weights) => {
            let (weights, added) = lifted.compose(weights, outputs);
            let channels = PATCHES.channels() as u32;
            (
                FloatMap::Conv2d(Conv2d { channels, ..*conv }, weights),
                added,
            )
        }
    };
    next.map = map;
    for (bias, added) in next.biases.iter_mut().zip(added) {
        *bias += added;
    }
}

/// The mean of several fully connected networks as one wider network: hidden layers side by side,
/// without weights between the members, and the last weights divided by their number.
pub(crate) fn side_by_side(members: &[FloatNet]) -> Option<FloatNet> {
    let first = members.first()?;
    let depth = first.layers.len();
    let share = 1.0 / members.len() as f64;
    let widths = |layer: usize| -> Vec<usize> {
        members
            .iter()
            .map(|net| net.layers[layer].biases.len())
            .collect()
    };
    let mut layers = Vec::with_capacity(depth);
    for index in 0..depth {
        let (is_first, is_last) = (index == 0, index + 1 == depth);
        let outputs = if is_last {
            widths(index)[0]
        } else {
            widths(index).iter().sum()
        };
        let mut weights: Vec<Vec<f64>> = vec![Vec::new(); outputs];
        let mut biases = vec![0.0; outputs];
        let (mut above, mut before) = (0, 0);
        let inputs: usize = if is_first {
            0
        } else {
            widths(index - 1).iter().sum()
        };
        for (member, net) in members.iter().enumerate() {
            let layer = net.layers.get(index)?;
            let FloatMap::Dense(own) = &layer.map else {
                return None;
            };
            let rows = layer.biases.len();
            let columns = own.len() / rows.max(1);
            for (r, row) in own.chunks(columns.max(1)).enumerate() {
                let scale = if is_last { share } else { 1.0 };
                let scaled = row.iter().map(|weight| weight * scale);
                if is_first && !is_last {
                    weights[above + r] = scaled.collect();
                    biases[above + r] = layer.biases[r];
                } else if is_first {
                    // linear all through: the mean of the weights
                    weights[r].resize(columns, 0.0);
                    for (sum, weight) in weights[r].iter_mut().zip(scaled) {
                        *sum += weight;
                    }
                    biases[r] += layer.biases[r] * share;
                } else {
                    let to = if is_last { r } else { above + r };
                    weights[to].resize(inputs, 0.0);
                    for (slot, weight) in weights[to][before..].iter_mut().zip(scaled) {
                        *slot = weight;
                    }
                    biases[to] += layer.biases[r] * scale;
                }
            }
            above += rows;
            before += if is_first {
                0
            } else {
                widths(index - 1)[member]
            };
        }
        layers.push(FloatLayer {
            map: FloatMap::Dense(weights.concat()),
            biases,
            activation: first.layers[index].activation,
        });
    }
    Some(FloatNet {
        layers,
        ..first.clone()
    })
}

#[cfg(test)]
mod tests;
