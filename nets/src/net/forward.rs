//! The layers, with what the encrypted run will do to them (docs/protocol.md, section 6): weights on
//! an integer grid for each row, pre-activations rounded stochastically to b bits over their
//! calibrated range. Both roundings are invisible to the gradient (straight-through).

use burn::tensor::activation::{relu, sigmoid, softplus};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData};
use chemxor_fhe::network::activation::{Activation, SOFTPLUS_POLYNOMIAL};
use rand::{RngExt, rngs::ChaCha20Rng};

use super::parameter::read;
use super::{Layer, Map};
use crate::error::NetsError;

/// Largest distance from the centre of the training range is stretched by this, as quantisation
/// does ([`chemxor_fhe::network::float::Precision`]).
const RANGE_MARGIN: f32 = 1.5;
/// Bits of the weight grid that training sees; quantisation chooses at most a few less.
const GRID_BITS: i32 = 12;

/// Grid and buckets of a layer.
pub(super) struct Ranges {
    /// Real width of one step of the weight grid, `[1][rows]`.
    grid: Tensor<2>,
    /// Real width of one of the 2^b buckets, `[1][outputs]`.
    bucket: Tensor<2>,
}

impl Ranges {
    /// `half` is the half range of each row.
    pub(super) fn new(layer: &Layer, half: &[f32], bits: u8, device: &Device) -> Self {
        let widths =
            |steps: i32| -> Vec<f32> { half.iter().map(|h| 2.0 * h / 2f32.powi(steps)).collect() };
        let grid = tensor(widths(GRID_BITS), 1, device);
        let bucket = tensor(widths(bits.into()), 1, device);
        Self {
            grid,
            bucket: per_output(layer, bucket),
        }
    }
}

/// `values` as `[rows][columns]`.
pub(super) fn tensor(values: Vec<f32>, rows: usize, device: &Device) -> Tensor<2> {
    let columns = values.len() / rows.max(1);
    Tensor::from_data(TensorData::new(values, [rows, columns]), device)
}

/// A value of each row for all outputs that share it: `[1][rows]` to `[1][outputs]`.
fn per_output(layer: &Layer, rows: Tensor<2>) -> Tensor<2> {
    if layer.sharing() == 1 {
        return rows;
    }
    rows.reshape([layer.rows(), 1])
        .repeat_dim(1, layer.sharing())
        .reshape([1, layer.outputs()])
}

fn linear(layer: &Layer, x: Tensor<2>, weights: Tensor<2>) -> Tensor<2> {
    match layer.map {
        Map::Dense { .. } => x.matmul(weights),
        Map::Conv(conv) => {
            let [batch, _] = x.dims();
            let [c, h, w, f, k, s, p] = [
                conv.channels,
                conv.height,
                conv.width,
                conv.filters,
                conv.kernel,
                conv.stride,
                conv.padding,
            ]
            .map(|n| n as usize);
            let options = ConvOptions::new([s, s], [p, p], [1, 1], 1);
            let kernels = weights.transpose().reshape([f, c, k, k]);
            conv2d(x.reshape([batch, c, h, w]), kernels, None, options)
                .reshape([batch, layer.outputs()])
        }
    }
}

fn activate(activation: Activation, z: Tensor<2>) -> Result<Tensor<2>, NetsError> {
    Ok(match activation {
        Activation::Identity => z,
        Activation::Relu => relu(z),
        Activation::Sigmoid => sigmoid(z),
        Activation::Tanh => z.tanh(),
        Activation::Softplus => softplus(z, 1.0),
        Activation::SoftplusPolynomial => {
            let [a0, a1, a2] = [
                SOFTPLUS_POLYNOMIAL.a0,
                SOFTPLUS_POLYNOMIAL.a1,
                SOFTPLUS_POLYNOMIAL.a2,
            ];
            (z.clone() * a2 + a1) * z + a0
        }
        other => {
            return Err(NetsError::Config {
                what: "the activation",
                value: format!("{other:?}"),
                allowed: "relu, sigmoid, tanh, softplus, softplus-polynomial or identity",
            });
        }
    })
}

/// A layer in training.
pub(super) struct Pass<'a> {
    pub(super) layer: &'a Layer,
    pub(super) weights: Tensor<2>,
    pub(super) biases: Tensor<2>,
    pub(super) ranges: &'a Ranges,
    /// Part of the outputs that is left out.
    pub(super) dropout: f64,
    pub(super) is_last: bool,
}

impl Pass<'_> {
    /// `probe` is added to the pre-activations.
    pub(super) fn apply(
        self,
        x: Tensor<2>,
        probe: Option<Tensor<2>>,
        rng: &mut ChaCha20Rng,
        device: &Device,
    ) -> Result<Tensor<2>, NetsError> {
        let layer = self.layer;
        let [batch, _] = x.dims();
        let weights = if layer.rounded {
            let inner = self.weights.clone().inner();
            let grid = self.ranges.grid.clone();
            let on_grid = (inner.clone() / grid.clone()).round() * grid;
            self.weights + Tensor::from_inner(on_grid - inner)
        } else {
            self.weights
        };
        let mut z = linear(layer, x, weights);
        if let Some(probe) = probe {
            z = z + probe;
        }
        if layer.rounded && !self.is_last {
            let uniform = (0..batch * layer.outputs()).map(|_| rng.random()).collect();
            let inner = z.clone().inner();
            let bucket = self.ranges.bucket.clone();
            let uniform = tensor(uniform, batch, device);
            let rounded = (inner.clone() / bucket.clone() + uniform).floor() * bucket;
            z = z + Tensor::from_inner(rounded - inner);
        }
        let z = z + per_output(layer, self.biases);
        let mut out = activate(layer.activation, z)?;
        if self.dropout > 0.0 && !self.is_last {
            let kept = (1.0 / (1.0 - self.dropout)) as f32;
            let mask = (0..batch * layer.outputs())
                .map(|_| {
                    if rng.random_bool(self.dropout) {
                        0.0
                    } else {
                        kept
                    }
                })
                .collect();
            out = out * Tensor::from_inner(tensor(mask, batch, device));
        }
        Ok(out)
    }
}

/// Smallest and largest pre-activation of each row, without its bias.
pub(super) type Extremes = Vec<(f32, f32)>;

/// Half of each range, stretched.
pub(super) fn half_ranges(extremes: &Extremes) -> Vec<f32> {
    extremes
        .iter()
        // a neuron that never moves still needs a width to divide by
        .map(|(low, high)| ((high - low) / 2.0 * RANGE_MARGIN).max(1e-6))
        .collect()
}

/// Mean and standard deviation of each row's pre-activations without its bias.
pub(super) fn moments(
    layer: &Layer,
    x: Tensor<2>,
    weights: Tensor<2>,
) -> Result<Vec<(f32, f32)>, NetsError> {
    let z = linear(layer, x, weights);
    let means = read(z.clone().mean_dim(0))?;
    let squares = read((z.clone() * z).mean_dim(0))?;
    let shared = layer.sharing();
    let mean = |values: &[f32]| values.iter().sum::<f32>() / shared as f32;
    let rows = means.chunks(shared).zip(squares.chunks(shared));
    Ok(rows
        .map(|(means, squares)| {
            let centre = mean(means);
            let variance = mean(squares) - centre * centre;
            (centre, variance.max(0.0).sqrt())
        })
        .collect())
}

/// One layer in floating point, without gradients; widens `extremes`.
pub(super) fn evaluate(
    layer: &Layer,
    x: Tensor<2>,
    weights: Tensor<2>,
    biases: Tensor<2>,
    extremes: &mut Extremes,
) -> Result<Tensor<2>, NetsError> {
    let z = linear(layer, x, weights);
    let low = read(z.clone().min_dim(0))?;
    let high = read(z.clone().max_dim(0))?;
    let shared = layer.sharing();
    for ((ends, low), high) in extremes
        .iter_mut()
        .zip(low.chunks(shared))
        .zip(high.chunks(shared))
    {
        ends.0 = low.iter().copied().fold(ends.0, f32::min);
        ends.1 = high.iter().copied().fold(ends.1, f32::max);
    }
    activate(layer.activation, z + per_output(layer, biases))
}
