//! A network in training: weights, ranges, one gradient step.

use burn::tensor::{Device, Tensor};
use rand::rngs::ChaCha20Rng;
use rand_distr::{Distribution, StandardNormal};

use super::forward::{Extremes, Pass, Ranges, evaluate, half_ranges, moments, tensor};
use super::loss::{batch_loss, total_weight};
use super::parameter::{Parameter, read};
use super::trainer::{Part, Settings};
use super::{Architecture, Fitted, FittedLayer, Map};
use crate::error::NetsError;
use crate::matrix::Matrix;

/// Molecules that are evaluated together.
const CHUNK: usize = 256;

/// Rows of one gradient step.
#[derive(Clone, Copy)]
pub(super) struct Batch<'a> {
    pub(super) part: Part<'a>,
    pub(super) of: &'a [usize],
    pub(super) ranges: &'a [Ranges],
    pub(super) settings: &'a Settings,
}

impl Batch<'_> {
    pub(super) fn outputs(&self) -> usize {
        self.part.wanted.len() / self.part.x.rows.len().max(1)
    }

    fn pick(&self, values: &[f32]) -> Vec<f32> {
        let outputs = self.outputs();
        self.of
            .iter()
            .flat_map(|row| values[row * outputs..][..outputs].to_vec())
            .collect()
    }
}

/// A layer's inputs, without history, and what was added to its pre-activations.
pub(super) struct Traced {
    pub(super) inputs: Tensor<2>,
    pub(super) probe: Tensor<2>,
}

pub(super) struct Net<'a> {
    pub(super) architecture: &'a Architecture,
    pub(super) weights: Vec<Parameter>,
    pub(super) biases: Vec<Parameter>,
    pub(super) device: Device,
}

impl<'a> Net<'a> {
    pub(super) fn new(
        architecture: &'a Architecture,
        x: &Matrix,
        weight_decay: f64,
        rng: &mut ChaCha20Rng,
    ) -> Self {
        let device = Device::flex();
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        let square = |row: &Vec<(u32, f32)>| -> f32 { row.iter().map(|(_, v)| v * v).sum() };
        let mean_square = x.rows.iter().map(square).sum::<f32>() / x.rows.len().max(1) as f32;
        for (index, layer) in architecture.layers.iter().enumerate() {
            let (fan_in, rows) = (layer.fan_in(), layer.rows());
            // He initialisation, with the features' true size in place of the number of inputs
            let scale = match layer.map {
                Map::Dense { .. } if index == 0 => (1.0 / mean_square.max(1.0)).sqrt(),
                Map::Dense { .. } | Map::Conv(_) => (1.0 / fan_in as f32).sqrt(),
            };
            let draw = |_| -> f32 { StandardNormal.sample(rng) };
            let values: Vec<f32> = (0..fan_in * rows)
                .map(draw)
                .map(|v: f32| v * scale)
                .collect();
            weights.push(Parameter::new(
                values,
                [fan_in, rows],
                weight_decay,
                &device,
            ));
            let start = if index + 1 == architecture.layers.len() {
                0.0
            } else {
                0.1
            };
            biases.push(Parameter::new(vec![start; rows], [1, rows], 0.0, &device));
        }
        Self {
            architecture,
            weights,
            biases,
            device,
        }
    }

    /// Scales and centres the hidden pre-activations of the first molecules to mean 0 and deviation
    /// 1, row by row (Krähenbühl et al. 2016, arXiv 1511.06856). Layers of polynomials need it: a
    /// softplus halves deviations and adds an offset, so that signals fade from layer to layer.
    pub(super) fn normalise(&mut self, x: &Matrix) -> Result<(), NetsError> {
        let first: Vec<usize> = (0..x.rows.len().min(CHUNK)).collect();
        let mut values = tensor(x.dense(&first), first.len(), &self.device);
        let layers = &self.architecture.layers;
        for (index, layer) in layers.iter().enumerate().take(layers.len() - 1) {
            let found = moments(layer, values.clone(), self.weights[index].inner())?;
            // a row that hardly moves stays as it is
            let scale = |deviation: f32| {
                if deviation > 1e-3 {
                    1.0 / deviation
                } else {
                    1.0
                }
            };
            let rows = layer.rows();
            let mut weights = self.weights[index].read()?;
            for (at, weight) in weights.iter_mut().enumerate() {
                *weight *= scale(found[at % rows].1);
            }
            let biases = found.iter().map(|(mean, d)| -mean * scale(*d)).collect();
            self.weights[index].restore(weights, None);
            self.biases[index].restore(biases, None);
            let (weights, biases) = (self.weights[index].inner(), self.biases[index].inner());
            values = evaluate(layer, values, weights, biases, &mut vec![(0.0, 0.0); rows])?;
        }
        Ok(())
    }

    pub(super) fn fitted(&self) -> Result<Fitted, NetsError> {
        let layer = |(weights, biases): (&Parameter, &Parameter)| {
            Ok(FittedLayer {
                weights: weights.read()?,
                biases: biases.read()?,
            })
        };
        let layers = self.weights.iter().zip(&self.biases).map(layer);
        Ok(Fitted {
            layers: layers.collect::<Result<_, NetsError>>()?,
        })
    }

    /// Outputs for all rows, in floating point; widens the extremes of each layer.
    pub(super) fn evaluate(
        &self,
        x: &Matrix,
        extremes: &mut [Extremes],
    ) -> Result<Vec<f64>, NetsError> {
        let all: Vec<usize> = (0..x.rows.len()).collect();
        let mut out = Vec::new();
        for chunk in all.chunks(CHUNK) {
            let mut values = tensor(x.dense(chunk), chunk.len(), &self.device);
            for (index, layer) in self.architecture.layers.iter().enumerate() {
                let (weights, biases) = (self.weights[index].inner(), self.biases[index].inner());
                values = evaluate(layer, values, weights, biases, &mut extremes[index])?;
            }
            out.extend(read(values)?.into_iter().map(f64::from));
        }
        Ok(out)
    }

    pub(super) fn no_extremes(&self) -> Vec<Extremes> {
        let ends = (f32::INFINITY, f32::NEG_INFINITY);
        let layers = self.architecture.layers.iter();
        layers.map(|layer| vec![ends; layer.rows()]).collect()
    }

    pub(super) fn ranges(&self, x: &Matrix, bits: u8) -> Result<Vec<Ranges>, NetsError> {
        let mut extremes = self.no_extremes();
        self.evaluate(x, &mut extremes)?;
        let layers = self.architecture.layers.iter().zip(&extremes);
        Ok(layers
            .map(|(layer, ends)| Ranges::new(layer, &half_ranges(ends), bits, &self.device))
            .collect())
    }

    /// Loss of a batch: the sum of its terms, divided by `divisor`, as tensor and number. Inputs and
    /// probes of the layers go to `trace`, where one is given.
    pub(super) fn loss(
        &self,
        batch: &Batch<'_>,
        divisor: f32,
        mut trace: Option<&mut Vec<Traced>>,
        rng: &mut ChaCha20Rng,
    ) -> Result<(Tensor<1>, f64), NetsError> {
        let Batch {
            part,
            of,
            ranges,
            settings,
        } = *batch;
        let fixed = |values, device| Tensor::from_inner(tensor(values, of.len(), device));
        let mut values: Tensor<2> = fixed(part.x.dense(of), &self.device);
        for (index, layer) in self.architecture.layers.iter().enumerate() {
            let pass = Pass {
                layer,
                weights: self.weights[index].value.clone(),
                biases: self.biases[index].value.clone(),
                ranges: &ranges[index],
                dropout: settings.dropout,
                is_last: index + 1 == self.architecture.layers.len(),
            };
            let probe = trace.as_deref_mut().map(|trace| {
                let zeros = vec![0.0; of.len() * layer.outputs()];
                // adds nothing; its gradient is the derivative by the pre-activations
                let probe = tensor(zeros, of.len(), &self.device)
                    .autodiff()
                    .require_grad();
                trace.push(Traced {
                    inputs: values.clone().inner(),
                    probe: probe.clone(),
                });
                probe
            });
            values = pass.apply(values, probe, rng, &self.device)?;
        }
        let wanted = fixed(batch.pick(part.wanted), &self.device);
        let weights = fixed(batch.pick(part.weights), &self.device);
        let loss = batch_loss(settings.task, values, wanted, weights, divisor);
        let value: f32 = loss
            .clone()
            .inner()
            .try_into_scalar()
            .map_err(|error| NetsError::Tensor(error.to_string()))?;
        Ok((loss, f64::from(value)))
    }

    /// One gradient step on a batch; gives the summed loss and the summed weight.
    pub(super) fn batch(
        &mut self,
        batch: &Batch<'_>,
        rate: f64,
        rng: &mut ChaCha20Rng,
    ) -> Result<(f64, f64), NetsError> {
        let weights = batch.pick(batch.part.weights);
        let total = total_weight(batch.settings.task, &weights, batch.outputs());
        let (loss, value) = self.loss(batch, total, None, rng)?;
        let mut gradients = loss.backward();
        for parameter in self.weights.iter_mut().chain(&mut self.biases) {
            parameter.step(rate, &mut gradients);
        }
        Ok((value * f64::from(total), f64::from(total)))
    }
}
