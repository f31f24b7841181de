//! Epochs, early stopping and the best network. Ranges are calibrated again after each epoch.

use burn::tensor::{Device, Tensor};
use chemxor_core::Task;
use chemxor_fhe::network::activation::Activation;
use rand::rngs::ChaCha20Rng;
use rand::seq::SliceRandom;
use rand_distr::{Distribution, StandardNormal};

use super::checkpoint::{Folder, Header};
use super::forward::{Extremes, Pass, Ranges, evaluate, half_ranges, moments, tensor};
use super::loss::{batch_loss, mean_loss, total_weight};
use super::parameter::{Moments, Parameter, read};
use super::private::{Private, sample};
use super::{Architecture, Fitted, FittedLayer, Map};
use crate::config::Schedule;
use crate::error::NetsError;
use crate::matrix::Matrix;

/// Molecules that are evaluated together.
const CHUNK: usize = 256;
/// Networks that are kept on disk.
const KEPT: usize = 3;

/// How to train.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) task: Task,
    pub(crate) epochs: usize,
    pub(crate) patience: usize,
    pub(crate) batch: usize,
    pub(crate) learning_rate: f64,
    pub(crate) schedule: Schedule,
    pub(crate) weight_decay: f64,
    pub(crate) dropout: f64,
    pub(crate) activation_bits: u8,
    /// Noisy gradients; then ranges and initial sizes come from the validation part.
    pub(crate) private: Option<Private>,
}

impl Settings {
    #[cfg(test)]
    pub(super) fn for_tests(task: Task) -> Self {
        Self {
            task,
            epochs: 1,
            patience: 1,
            batch: 4,
            learning_rate: 1e-3,
            schedule: Schedule::Constant,
            weight_decay: 0.0,
            dropout: 0.0,
            activation_bits: 8,
            private: None,
        }
    }

    /// Step size of an epoch, from 1.
    fn rate(&self, epoch: usize) -> f64 {
        match self.schedule {
            Schedule::Constant => self.learning_rate,
            Schedule::Cosine => {
                let warm = (self.epochs / 20).max(1);
                if epoch <= warm {
                    return self.learning_rate * epoch as f64 / warm as f64;
                }
                let done = (epoch - warm) as f64 / (self.epochs - warm).max(1) as f64;
                self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
        }
    }
}

/// Losses of an epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Epoch {
    pub(crate) train_loss: f64,
    pub(crate) validation_loss: f64,
}

/// Molecules, what is wanted and how much each counts, both `[rows][outputs]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) x: &'a Matrix,
    pub(crate) wanted: &'a [f32],
    pub(crate) weights: &'a [f32],
}

/// A finished training.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) fitted: Fitted,
    pub(crate) epochs: Vec<Epoch>,
    /// The epoch that was kept, from 1.
    pub(crate) best: usize,
}

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
    fn normalise(&mut self, x: &Matrix) -> Result<(), NetsError> {
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

    fn fitted(&self) -> Result<Fitted, NetsError> {
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
    fn evaluate(&self, x: &Matrix, extremes: &mut [Extremes]) -> Result<Vec<f64>, NetsError> {
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

    fn no_extremes(&self) -> Vec<Extremes> {
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
    fn batch(
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

    fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.weights.iter().chain(&self.biases)
    }

    /// Values and moments of all parameters, in order.
    fn state(&self) -> Result<(Vec<f32>, Vec<usize>), NetsError> {
        let (mut floats, mut times) = (Vec::new(), Vec::new());
        for parameter in self.parameters() {
            let values = parameter.read()?;
            let size = values.len();
            floats.extend(values);
            let moments = parameter.moments()?.unwrap_or_else(|| Moments {
                time: 0,
                first: vec![0.0; size],
                second: vec![0.0; size],
            });
            floats.extend(moments.first);
            floats.extend(moments.second);
            times.push(moments.time);
        }
        Ok((floats, times))
    }

    /// False where the state is of another shape.
    fn restore(&mut self, mut floats: &[f32], times: &[usize]) -> Result<bool, NetsError> {
        let sizes: Vec<usize> = self
            .parameters()
            .map(|parameter| parameter.read().map(|values| values.len()))
            .collect::<Result<_, _>>()?;
        if times.len() != sizes.len() || floats.len() != 3 * sizes.iter().sum::<usize>() {
            return Ok(false);
        }
        let parameters = self.weights.iter_mut().chain(&mut self.biases);
        for ((parameter, size), time) in parameters.zip(sizes).zip(times) {
            let mut take = || {
                let (head, tail) = floats.split_at(size);
                floats = tail;
                head.to_vec()
            };
            let (values, first, second) = (take(), take(), take());
            let moments = (*time > 0).then_some(Moments {
                time: *time,
                first,
                second,
            });
            parameter.restore(values, moments);
        }
        Ok(true)
    }
}

impl Fitted {
    fn floats(&self) -> Vec<f32> {
        let layers = self.layers.iter();
        layers
            .flat_map(|layer| layer.weights.iter().chain(&layer.biases))
            .copied()
            .collect()
    }

    fn from_floats(architecture: &Architecture, mut floats: &[f32]) -> Option<Self> {
        let mut layers = Vec::new();
        for layer in &architecture.layers {
            let (rows, size) = (layer.rows(), layer.fan_in() * layer.rows());
            let weights = floats.get(..size)?.to_vec();
            let biases = floats.get(size..size + rows)?.to_vec();
            floats = &floats[size + rows..];
            layers.push(FittedLayer { weights, biases });
        }
        floats.is_empty().then_some(Self { layers })
    }
}

/// A network that may be kept: validation loss, epoch, parameters.
type Candidate = (f64, usize, Fitted);

/// Trains; keeps the epoch with the smallest validation loss. With a folder the state of each epoch
/// goes there, and a training that finds one goes on from it, with the very result of a training
/// that was not interrupted.
pub(crate) fn fit(
    architecture: &Architecture,
    train: Part<'_>,
    validation: Part<'_>,
    settings: &Settings,
    rng: &mut ChaCha20Rng,
    folder: Option<&Folder>,
    mut progress: impl FnMut(usize, Epoch),
) -> Result<Outcome, NetsError> {
    // with differential privacy only noisy gradients may depend on what is learned from
    let calibration = match settings.private {
        Some(_) => validation.x,
        None => train.x,
    };
    let mut net = Net::new(architecture, calibration, settings.weight_decay, rng);
    if architecture.layers[0].activation != Activation::Relu {
        net.normalise(calibration)?;
    }
    let mut epochs: Vec<Epoch> = Vec::new();
    // best first
    let mut kept: Vec<Candidate> = Vec::new();
    if let Some(folder) = folder {
        resume(&mut net, &mut epochs, &mut kept, rng, folder)?;
        for (index, epoch) in epochs.iter().enumerate() {
            progress(index + 1, *epoch);
        }
    }
    let mut ranges = net.ranges(calibration, settings.activation_bits)?;
    let outputs = architecture.layers.last().map_or(1, super::Layer::outputs);
    for epoch in epochs.len() + 1..=settings.epochs {
        let best = kept.first().map_or(0, |(_, epoch, _)| *epoch);
        if epoch > best + settings.patience {
            break;
        }
        let rate = settings.rate(epoch);
        let (mut sum, mut total) = (0.0, 0.0);
        for of in samples(train.x.rows.len(), settings, rng) {
            let batch = Batch {
                part: train,
                of: &of,
                ranges: &ranges,
                settings,
            };
            let (loss, weight) = match &settings.private {
                Some(private) => net.private_batch(&batch, private, rate, rng)?,
                None => net.batch(&batch, rate, rng)?,
            };
            sum += loss;
            total += weight;
        }
        ranges = net.ranges(calibration, settings.activation_bits)?;
        let out = net.evaluate(validation.x, &mut net.no_extremes())?;
        let task = settings.task;
        let losses = Epoch {
            train_loss: sum / total.max(f64::MIN_POSITIVE),
            validation_loss: mean_loss(task, outputs, &out, validation.wanted, validation.weights),
        };
        if !(losses.train_loss.is_finite() && losses.validation_loss.is_finite()) {
            return Err(NetsError::Diverged {
                epoch,
                learning_rate: settings.learning_rate,
            });
        }
        epochs.push(losses);
        let place = kept.partition_point(|(loss, ..)| *loss <= losses.validation_loss);
        if place < KEPT {
            kept.insert(place, (losses.validation_loss, epoch, net.fitted()?));
            kept.truncate(KEPT);
            if let Some(folder) = folder {
                save_kept(&kept, folder)?;
            }
        }
        if let Some(folder) = folder {
            save_state(&net, &epochs, rng, folder)?;
        }
        progress(epoch, losses);
    }
    let (best, fitted) = match kept.into_iter().next() {
        Some((_, epoch, fitted)) => (epoch, fitted),
        None => (0, net.fitted()?),
    };
    Ok(Outcome {
        fitted,
        epochs,
        best,
    })
}

/// The rows of each step of an epoch: all of them once, or Poisson samples.
fn samples(rows: usize, settings: &Settings, rng: &mut ChaCha20Rng) -> Vec<Vec<usize>> {
    if let Some(private) = &settings.private {
        let steps = rows.div_ceil(settings.batch);
        return (0..steps)
            .map(|_| sample(rows, private.sampling_rate, rng))
            .collect();
    }
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(rng);
    order
        .chunks(settings.batch)
        .map(<[usize]>::to_vec)
        .collect()
}

fn save_state(
    net: &Net<'_>,
    epochs: &[Epoch],
    rng: &ChaCha20Rng,
    folder: &Folder,
) -> Result<(), NetsError> {
    let (floats, times) = net.state()?;
    let header = Header {
        run: folder.run().to_owned(),
        epoch: epochs.len(),
        loss: epochs
            .last()
            .map_or(f64::MAX, |epoch| epoch.validation_loss)
            .to_bits(),
        losses: epochs
            .iter()
            .map(|e| [e.train_loss, e.validation_loss].map(f64::to_bits))
            .collect(),
        position: rng.get_word_pos().to_string(),
        times,
        digest: String::new(),
    };
    folder.save("state", header, &floats)
}

fn save_kept(kept: &[Candidate], folder: &Folder) -> Result<(), NetsError> {
    for (rank, (loss, epoch, fitted)) in kept.iter().enumerate() {
        let header = Header {
            run: folder.run().to_owned(),
            epoch: *epoch,
            loss: loss.to_bits(),
            losses: Vec::new(),
            position: String::new(),
            times: Vec::new(),
            digest: String::new(),
        };
        folder.save(&format!("best-{}", rank + 1), header, &fitted.floats())?;
    }
    Ok(())
}

fn resume(
    net: &mut Net<'_>,
    epochs: &mut Vec<Epoch>,
    kept: &mut Vec<Candidate>,
    rng: &mut ChaCha20Rng,
    folder: &Folder,
) -> Result<(), NetsError> {
    let Some((header, floats)) = folder.load("state")? else {
        return Ok(());
    };
    let shape = || NetsError::Checkpoint {
        path: "state".into(),
        reason: "it is of a network of another shape".to_owned(),
    };
    let position: u128 = header.position.parse().map_err(|_| shape())?;
    if !net.restore(&floats, &header.times)? {
        return Err(shape());
    }
    rng.set_word_pos(position);
    epochs.extend(header.losses.iter().map(|losses| Epoch {
        train_loss: f64::from_bits(losses[0]),
        validation_loss: f64::from_bits(losses[1]),
    }));
    for rank in 1..=KEPT {
        let Some((header, floats)) = folder.load(&format!("best-{rank}"))? else {
            continue;
        };
        // written before the state: one that the state does not know yet is made again
        if header.epoch <= epochs.len() {
            let fitted = Fitted::from_floats(net.architecture, &floats).ok_or_else(shape)?;
            kept.push((f64::from_bits(header.loss), header.epoch, fitted));
        }
    }
    Ok(())
}
