//! Nodes, one after the other, into layers.

use std::collections::HashMap;

use chemxor_core::{Expansion, Featuriser};
use chemxor_fhe::network::activation::Activation;
use chemxor_fhe::network::float::{FloatLayer, FloatMap, FloatNet, fold_average_pool};

use super::proto::Node;
use super::{Constant, MOST_NUMBERS, OnnxError, attribute, bound, refuse};

const NEXT: &str = "retrain with dense layers, unpadded convolutions and elementwise activations";

/// The chain so far.
pub(super) struct Builder {
    pub(super) layers: Vec<FloatLayer>,
    /// Whether the last layer still waits for its activation.
    pub(super) open: bool,
    /// Numbers of the current tensor.
    pub(super) size: usize,
    /// Channels, height and width, where it is an image.
    pub(super) image: Option<[usize; 3]>,
    /// What the next linear map applies to its input first: pooling of an image, then `scale x + shift`.
    pub(super) pool: Option<([usize; 3], usize)>,
    pub(super) affine: Option<(Vec<f64>, Vec<f64>)>,
    pub(super) notes: Vec<String>,
}

type Constants = HashMap<String, Constant>;

impl Builder {
    pub(super) fn new(dims: &[i64], featuriser: &Featuriser) -> Result<Self, OnnxError> {
        let wanted = featuriser.len();
        let known: Vec<usize> = dims
            .iter()
            .skip(1)
            .map(|d| usize::try_from(*d).unwrap_or(0))
            .collect();
        let got = known.iter().fold(1usize, |all, d| all.saturating_mul(*d));
        if !known.is_empty() && got != 0 && got != wanted {
            return Err(OnnxError::Inputs { got, wanted });
        }
        let image = match known[..] {
            [c, h, w] if got == wanted => Some([c, h, w]),
            _ => None,
        };
        Ok(Self {
            layers: Vec::new(),
            open: false,
            size: wanted,
            image,
            pool: None,
            affine: None,
            notes: Vec::new(),
        })
    }

    pub(super) fn finish(
        mut self,
        featuriser: &Featuriser,
    ) -> Result<(FloatNet, Vec<String>), OnnxError> {
        if self.layers.is_empty() {
            return Err(OnnxError::NoLayer);
        }
        if !self.open {
            // the outputs of the last activation are released by one more linear layer
            bound(
                "weights in a layer",
                self.size.saturating_mul(self.size),
                MOST_NUMBERS,
            )?;
            let mut unit = vec![0.0; self.size * self.size];
            unit.iter_mut()
                .step_by(self.size + 1)
                .for_each(|v| *v = 1.0);
            let size = self.size;
            self.dense(unit, vec![0.0; size]);
        }
        let net = FloatNet {
            expansion: Expansion::None,
            input_bits: (u16::BITS - featuriser.max_value().leading_zeros()).max(1) as u8,
            layers: self.layers,
        };
        Ok((net, self.notes))
    }

    pub(super) fn node(
        &mut self,
        node: &Node,
        current: &str,
        constants: &Constants,
    ) -> Result<(), OnnxError> {
        let other = || {
            let name = node.inputs.iter().find(|name| *name != current);
            let found = name.and_then(|name| constants.get(name));
            found.ok_or_else(|| refuse(node, "its constant is missing; export the model again"))
        };
        let input = |at: usize| node.inputs.get(at).and_then(|name| constants.get(name));
        let first = node.inputs.first().is_some_and(|name| name == current);
        if !first && !matches!(node.operator.as_str(), "Add" | "Mul" | "Sub") {
            return Err(refuse(
                node,
                "the network's values are not its first input; export the model again",
            ));
        }
        match node.operator.as_str() {
            "Identity" | "Cast" | "Dropout" => Ok(()),
            "Relu" => self.activate(node, Activation::Relu),
            "Sigmoid" => self.activate(node, Activation::Sigmoid),
            "Tanh" => self.activate(node, Activation::Tanh),
            "Softplus" => self.activate(node, Activation::Softplus),
            "Gemm" => {
                let flag = |name| attribute(node, name).is_some_and(|a| a.int != 0);
                let factor = |name| attribute(node, name).map_or(1.0, |a| f64::from(a.float));
                if flag("transA") {
                    return Err(refuse(node, "transA is not supported; export without it"));
                }
                let matrix = input(1).ok_or_else(|| {
                    refuse(node, "its weights are no constant; export for inference")
                })?;
                let weights = self.rows(node, matrix, flag("transB"), factor("alpha"))?;
                let outputs = weights.len() / self.size;
                let biases = match input(2) {
                    Some(c) => self
                        .spread(node, c, outputs)?
                        .iter()
                        .map(|b| b * factor("beta"))
                        .collect(),
                    None => vec![0.0; outputs],
                };
                self.dense(weights, biases);
                Ok(())
            }
            "MatMul" => {
                let weights = self.rows(node, other()?, false, 1.0)?;
                let outputs = weights.len() / self.size;
                self.dense(weights, vec![0.0; outputs]);
                Ok(())
            }
            "Add" => self.scale(node, None, Some((other()?, 1.0))),
            "Sub" if first => self.scale(node, None, Some((other()?, -1.0))),
            "Mul" => self.scale(node, Some((other()?, false)), None),
            "Div" => self.scale(node, Some((other()?, true)), None),
            "BatchNormalization" => self.normalise(node, [input(1), input(2), input(3), input(4)]),
            "Flatten" => {
                self.image = None;
                Ok(())
            }
            "Reshape" => self.reshape(node, other()?),
            "Conv" => {
                let weights = input(1).ok_or_else(|| {
                    refuse(node, "its filters are no constant; export for inference")
                })?;
                self.convolve(node, weights, input(2))
            }
            "AveragePool" => self.average(node),
            "Scaler" => self.scaler(node),
            "LinearRegressor" => self.linear_model(node, false),
            "LinearClassifier" => self.linear_model(node, true),
            operator => Err(refuse(
                node,
                &format!("{operator} is not supported; {NEXT}"),
            )),
        }
    }

    pub(super) fn activate(
        &mut self,
        node: &Node,
        activation: Activation,
    ) -> Result<(), OnnxError> {
        if !self.open {
            return Err(refuse(
                node,
                "an activation needs a linear layer before it; put a Gemm or Conv before",
            ));
        }
        if let Some(layer) = self.layers.last_mut() {
            layer.activation = activation;
        }
        self.open = false;
        Ok(())
    }

    /// `[outputs][inputs]` of a matrix.
    pub(super) fn rows(
        &self,
        node: &Node,
        matrix: &Constant,
        transposed: bool,
        factor: f64,
    ) -> Result<Vec<f64>, OnnxError> {
        let [first, second] = matrix.dims[..] else {
            return Err(refuse(
                node,
                "its weights are no matrix; export a dense layer",
            ));
        };
        let (inputs, outputs) = if transposed {
            (second, first)
        } else {
            (first, second)
        };
        if self.image.is_some() {
            return Err(refuse(node, "it takes an image; put a Flatten before it"));
        }
        if inputs != self.size {
            // the first layer meets the features
            return Err(if self.layers.is_empty() {
                OnnxError::Inputs {
                    got: inputs,
                    wanted: self.size,
                }
            } else {
                refuse(
                    node,
                    &format!(
                        "it takes {inputs} numbers, the layer before gives {}; export the model again",
                        self.size
                    ),
                )
            });
        }
        if outputs == 0 {
            return Err(refuse(node, "it has no output; export the model again"));
        }
        let at = |i: usize| {
            let (row, column) = (i / inputs, i % inputs);
            factor
                * matrix.values[if transposed {
                    i
                } else {
                    column * outputs + row
                }]
        };
        Ok((0..inputs * outputs).map(at).collect())
    }

    /// One number, one for each channel or one for each number of the current tensor, spread over
    /// `size` numbers.
    pub(super) fn spread(
        &self,
        node: &Node,
        constant: &Constant,
        size: usize,
    ) -> Result<Vec<f64>, OnnxError> {
        let values = &constant.values;
        let long = constant.dims.iter().filter(|d| **d != 1).count();
        if values.len() == 1 {
            return Ok(vec![values[0]; size]);
        }
        if let Some([channels, h, w]) = self.image {
            // [C, 1, 1] or [1, C, 1, 1]
            let from_end =
                constant.dims.len() >= 3 && constant.dims[constant.dims.len() - 3] == channels;
            if long == 1 && from_end && values.len() == channels && size == channels * h * w {
                return Ok(values.iter().flat_map(|v| vec![*v; h * w]).collect());
            }
        } else if long == 1 && constant.dims.last() == Some(&size) && values.len() == size {
            return Ok(values.clone());
        }
        Err(refuse(
            node,
            "its constant is neither one number nor one for each neuron or channel; export without broadcasting",
        ))
    }

    pub(super) fn scale(
        &mut self,
        node: &Node,
        factor: Option<(&Constant, bool)>,
        term: Option<(&Constant, f64)>,
    ) -> Result<(), OnnxError> {
        let size = self.size;
        let mut scale = vec![1.0; size];
        let mut shift = vec![0.0; size];
        if let Some((constant, inverse)) = factor {
            scale = self.spread(node, constant, size)?;
            if inverse {
                scale.iter_mut().for_each(|v| *v = 1.0 / *v);
            }
        }
        if let Some((constant, sign)) = term {
            shift = self.spread(node, constant, size)?;
            shift.iter_mut().for_each(|v| *v *= sign);
        }
        self.apply(node, &scale, &shift)
    }

    /// `scale x + shift` on the current tensor, into the open layer or kept for the next one.
    pub(super) fn apply(
        &mut self,
        node: &Node,
        scale: &[f64],
        shift: &[f64],
    ) -> Result<(), OnnxError> {
        if scale.iter().chain(shift).any(|v| !v.is_finite()) {
            return Err(refuse(node, "it divides by zero; train the network again"));
        }
        let open = self
            .layers
            .last_mut()
            .filter(|_| self.open && self.pool.is_none());
        let Some(layer) = open else {
            let (s, t) = self
                .affine
                .get_or_insert_with(|| (vec![1.0; scale.len()], vec![0.0; scale.len()]));
            for (s, factor) in s.iter_mut().zip(scale) {
                *s *= factor;
            }
            for ((t, factor), term) in t.iter_mut().zip(scale).zip(shift) {
                *t = *t * factor + term;
            }
            return Ok(());
        };
        let rows = layer.biases.len();
        let sharing = scale.len() / rows;
        let shared = |v: &[f64]| {
            v.chunks(sharing)
                .all(|part| part.iter().all(|x| *x == part[0]))
        };
        if !(shared(scale) && shared(shift)) {
            return Err(refuse(
                node,
                "it scales the pixels of a channel differently; scale by channel",
            ));
        }
        let (FloatMap::Dense(weights) | FloatMap::Conv2d(_, weights)) = &mut layer.map;
        let per_row = weights.len() / rows;
        for (row, part) in weights.chunks_mut(per_row).enumerate() {
            part.iter_mut().for_each(|w| *w *= scale[row * sharing]);
            layer.biases[row] = layer.biases[row] * scale[row * sharing] + shift[row * sharing];
        }
        Ok(())
    }

    pub(super) fn normalise(
        &mut self,
        node: &Node,
        parts: [Option<&Constant>; 4],
    ) -> Result<(), OnnxError> {
        let channels = self.image.map_or(self.size, |image| image[0]);
        let [Some(gamma), Some(beta), Some(mean), Some(variance)] = parts else {
            return Err(refuse(
                node,
                "its statistics are no constants; export in evaluation mode",
            ));
        };
        if [gamma, beta, mean, variance]
            .iter()
            .any(|c| c.values.len() != channels)
        {
            return Err(refuse(
                node,
                "its statistics are not one for each channel; export the model again",
            ));
        }
        let epsilon = attribute(node, "epsilon").map_or(1e-5, |a| f64::from(a.float));
        let places = self.size / channels;
        let (mut scale, mut shift) = (Vec::new(), Vec::new());
        for c in 0..channels {
            let s = gamma.values[c] / (variance.values[c] + epsilon).sqrt();
            scale.extend(vec![s; places]);
            shift.extend(vec![beta.values[c] - mean.values[c] * s; places]);
        }
        self.apply(node, &scale, &shift)
    }

    pub(super) fn dense(&mut self, mut weights: Vec<f64>, mut biases: Vec<f64>) {
        if let Some((scale, shift)) = self.affine.take() {
            for (row, bias) in weights.chunks_mut(scale.len()).zip(&mut biases) {
                for ((w, s), t) in row.iter_mut().zip(&scale).zip(&shift) {
                    *bias += *w * t;
                    *w *= s;
                }
            }
        }
        self.size = biases.len();
        self.image = None;
        self.push(FloatMap::Dense(weights), biases);
    }

    pub(super) fn push(&mut self, mut map: FloatMap, biases: Vec<f64>) {
        if let Some(([c, h, w], pool)) = self.pool.take() {
            map = fold_average_pool(&map, c as u32, h as u32, w as u32, pool as u32);
        }
        if self.open {
            self.notes.push(format!(
                "layers {} and {} have no activation between them and cost a round each",
                self.layers.len(),
                self.layers.len() + 1
            ));
        }
        self.layers.push(FloatLayer {
            map,
            biases,
            activation: Activation::Identity,
        });
        self.open = true;
    }
}
