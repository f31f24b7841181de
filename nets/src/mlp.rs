//! One hidden layer, trained with what the encrypted run will do to it (docs/protocol.md,
//! section 6): weights on an integer grid for each neuron, hidden pre-activations rounded
//! stochastically to b bits over their calibrated range. Both roundings are invisible to the
//! gradient (straight-through). The range is calibrated again after each epoch.

use burn::optim::{AdamW, AdamWConfig, Optimizer};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use chemxor_core::Task;
use rand::seq::SliceRandom;
use rand::{RngExt, rngs::ChaCha20Rng};
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

use crate::error::NetsError;
use crate::linear::loss_sum;
use crate::matrix::Matrix;

/// Largest distance from the centre of the training range is stretched by this: a pre-activation
/// outside the range wraps around the torus, and new molecules reach further than old ones.
pub(crate) const RANGE_MARGIN: f64 = 1.5;
/// Bits of the weight grid that training sees; quantisation chooses at most a few less.
const GRID_BITS: i32 = 12;
const BATCH: usize = 32;

/// How to train.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) hidden: usize,
    pub(crate) task: Task,
    pub(crate) epochs: usize,
    pub(crate) patience: usize,
    pub(crate) learning_rate: f64,
    pub(crate) weight_decay: f64,
    pub(crate) activation_bits: u8,
}

/// A trained layer pair over the active columns; targets standardised.
#[derive(Debug, Clone)]
pub(crate) struct Fitted {
    /// `[columns][hidden]`.
    pub(crate) w1: Vec<f32>,
    pub(crate) b1: Vec<f32>,
    pub(crate) w2: Vec<f32>,
    pub(crate) b2: f32,
}

/// Losses of an epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epoch {
    pub(crate) train_loss: f64,
    pub(crate) validation_loss: f64,
}

/// Molecules and their standardised targets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) x: &'a Matrix,
    pub(crate) y: &'a [f64],
}

/// A trainable tensor with its optimiser state.
struct Parameter {
    value: Tensor<2>,
    state: Option<<AdamW as Optimizer>::State<2>>,
    optimizer: AdamW,
}

impl Parameter {
    fn new(values: Vec<f32>, shape: [usize; 2], weight_decay: f64, device: &Device) -> Self {
        let value = Tensor::<2>::from_data(TensorData::new(values, shape), device);
        let optimizer = AdamWConfig::new()
            .with_weight_decay(weight_decay as f32)
            .build();
        Self {
            value: value.autodiff().require_grad(),
            state: None,
            optimizer,
        }
    }

    fn step(&mut self, rate: f64, gradients: &mut Gradients) {
        let Some(gradient) = self.value.grad_remove(gradients) else {
            return;
        };
        let value = self.value.clone().inner();
        let (value, state) = self
            .optimizer
            .step(rate, value, gradient, self.state.take());
        self.value = value.autodiff().require_grad();
        self.state = state;
    }

    fn read(&self) -> Result<Vec<f32>, NetsError> {
        let value = self.value.clone().inner();
        value
            .try_into_vec_as::<f32>()
            .map_err(|error| NetsError::Tensor(error.to_string()))
    }
}

struct Net {
    w1: Parameter,
    b1: Parameter,
    w2: Parameter,
    b2: Parameter,
    device: Device,
}

/// Half ranges of the neurons, as a row.
struct Ranges {
    /// Real width of one step of the weight grid.
    grid: Tensor<2>,
    /// Real width of one of the 2^b buckets.
    bucket: Tensor<2>,
}

impl Net {
    fn new(x: &Matrix, settings: &Settings, rng: &mut ChaCha20Rng) -> Self {
        let device = Device::flex();
        let Settings {
            hidden,
            weight_decay,
            ..
        } = *settings;
        let square = |row: &Vec<(u32, f32)>| -> f32 { row.iter().map(|(_, v)| v * v).sum() };
        let mean_square = x.rows.iter().map(square).sum::<f32>() / x.rows.len().max(1) as f32;
        // He initialisation with the features' true size in place of the number of inputs
        let mut normal = |count: usize, scale: f32| -> Vec<f32> {
            let draw = |_| -> f32 { StandardNormal.sample(rng) };
            (0..count).map(draw).map(|v: f32| v * scale).collect()
        };
        let w1 = normal(x.columns * hidden, (1.0 / mean_square.max(1.0)).sqrt());
        let w2 = normal(hidden, (1.0 / hidden as f32).sqrt());
        Self {
            w1: Parameter::new(w1, [x.columns, hidden], weight_decay, &device),
            b1: Parameter::new(vec![0.1; hidden], [1, hidden], 0.0, &device),
            w2: Parameter::new(w2, [hidden, 1], weight_decay, &device),
            b2: Parameter::new(vec![0.0], [1, 1], 0.0, &device),
            device,
        }
    }

    fn fitted(&self) -> Result<Fitted, NetsError> {
        let b2 = self.b2.read()?.first().copied().unwrap_or_default();
        Ok(Fitted {
            w1: self.w1.read()?,
            b1: self.b1.read()?,
            w2: self.w2.read()?,
            b2,
        })
    }

    fn ranges(&self, fitted: &Fitted, x: &Matrix, bits: u8) -> Ranges {
        let hidden = fitted.b1.len();
        let half = half_ranges(&fitted.sums(x), hidden);
        let row = |steps: i32| {
            let widths: Vec<f32> = half.iter().map(|h| 2.0 * h / 2f32.powi(steps)).collect();
            Tensor::from_data(TensorData::new(widths, [1, hidden]), &self.device)
        };
        Ranges {
            grid: row(GRID_BITS),
            bucket: row(bits.into()),
        }
    }

    /// One step on a batch; gives the summed loss.
    fn batch(
        &mut self,
        part: Part<'_>,
        of: &[usize],
        ranges: &Ranges,
        settings: &Settings,
        rate: f64,
        rng: &mut ChaCha20Rng,
    ) -> Result<f64, NetsError> {
        let tensor = |values: Vec<f32>, columns: usize| {
            Tensor::<2>::from_data(TensorData::new(values, [of.len(), columns]), &self.device)
        };
        let x = tensor(part.x.dense(of), part.x.columns);
        let y = tensor(of.iter().map(|i| part.y[*i] as f32).collect(), 1);
        let uniform: Vec<f32> = (0..of.len() * settings.hidden)
            .map(|_| rng.random())
            .collect();
        let uniform = tensor(uniform, settings.hidden);

        let weights = self.w1.value.clone();
        let inner = weights.clone().inner();
        let on_grid = (inner.clone() / ranges.grid.clone()).round() * ranges.grid.clone();
        let z = x.matmul(weights + (on_grid - inner));
        let inner = z.clone().inner();
        let rounded =
            (inner.clone() / ranges.bucket.clone() + uniform).floor() * ranges.bucket.clone();
        let hidden = relu(z + (rounded - inner) + self.b1.value.clone());
        let out = hidden.matmul(self.w2.value.clone()) + self.b2.value.clone();
        let loss = match settings.task {
            Task::Regression => (out - y).square().mean(),
            Task::Binary | Task::Multiclass => {
                (relu(out.clone()) - out.clone() * y + (-out.abs()).exp().log1p()).mean()
            }
        };
        let value: f32 = loss
            .clone()
            .inner()
            .try_into_scalar()
            .map_err(|error| NetsError::Tensor(error.to_string()))?;
        let mut gradients = loss.backward();
        for parameter in [&mut self.w1, &mut self.b1, &mut self.w2, &mut self.b2] {
            parameter.step(rate, &mut gradients);
        }
        Ok(f64::from(value) * of.len() as f64)
    }
}

/// Stretched largest distance from the centre of the range, for each neuron.
fn half_ranges(sums: &[Vec<f32>], hidden: usize) -> Vec<f32> {
    (0..hidden)
        .map(|j| {
            let low = sums.iter().map(|z| z[j]).fold(f32::INFINITY, f32::min);
            let high = sums.iter().map(|z| z[j]).fold(f32::NEG_INFINITY, f32::max);
            // a neuron that never moves still needs a width to divide by
            ((high - low) / 2.0 * RANGE_MARGIN as f32).max(1e-6)
        })
        .collect()
}

impl Fitted {
    /// Pre-activations without biases, for each row.
    fn sums(&self, x: &Matrix) -> Vec<Vec<f32>> {
        let hidden = self.b1.len();
        x.rows
            .par_iter()
            .map(|row| {
                let mut z = vec![0.0; hidden];
                for (column, value) in row {
                    let weights = &self.w1[*column as usize * hidden..][..hidden];
                    for (z, w) in z.iter_mut().zip(weights) {
                        *z += w * value;
                    }
                }
                z
            })
            .collect()
    }

    fn predict(&self, x: &Matrix) -> Vec<f64> {
        let out = |z: &Vec<f32>| {
            let neuron = |((z, b), w): ((&f32, &f32), &f32)| (z + b).max(0.0) * w;
            f64::from(
                z.iter()
                    .zip(&self.b1)
                    .zip(&self.w2)
                    .map(neuron)
                    .sum::<f32>()
                    + self.b2,
            )
        };
        self.sums(x).iter().map(out).collect()
    }
}

/// Trains; keeps the epoch with the smallest validation loss.
pub(crate) fn fit(
    train: Part<'_>,
    validation: Part<'_>,
    settings: &Settings,
    rng: &mut ChaCha20Rng,
    mut progress: impl FnMut(usize, Epoch),
) -> Result<(Fitted, Vec<Epoch>, usize), NetsError> {
    let mut net = Net::new(train.x, settings, rng);
    let mut order: Vec<usize> = (0..train.y.len()).collect();
    let mut best = (f64::INFINITY, 0, net.fitted()?);
    let mut ranges = net.ranges(&best.2, train.x, settings.activation_bits);
    let mut epochs = Vec::new();
    for epoch in 1..=settings.epochs {
        order.shuffle(rng);
        let mut sum = 0.0;
        for of in order.chunks(BATCH) {
            sum += net.batch(train, of, &ranges, settings, settings.learning_rate, rng)?;
        }
        let fitted = net.fitted()?;
        ranges = net.ranges(&fitted, train.x, settings.activation_bits);
        let mut validation_loss =
            loss_sum(settings.task, validation.y, &fitted.predict(validation.x));
        validation_loss /= validation.y.len().max(1) as f64;
        let losses = Epoch {
            train_loss: sum / train.y.len() as f64,
            validation_loss,
        };
        if !(losses.train_loss.is_finite() && validation_loss.is_finite()) {
            return Err(NetsError::Diverged {
                epoch,
                learning_rate: settings.learning_rate,
            });
        }
        epochs.push(losses);
        progress(epoch, losses);
        if validation_loss < best.0 {
            best = (validation_loss, epoch, fitted);
        } else if epoch - best.1 >= settings.patience {
            break;
        }
    }
    Ok((best.2, epochs, best.1))
}
