//! Epochs, early stopping and the best network. Ranges are calibrated again after each epoch.

use chemxor_core::Task;
use chemxor_fhe::network::activation::Activation;
use rand::rngs::ChaCha20Rng;
use rand::seq::SliceRandom;

use super::checkpoint::Folder;
use super::loss::mean_loss;
use super::network::{Batch, Net};
use super::private::{Private, sample};
use super::resume::{resume, save_kept, save_state};
use super::{Architecture, Fitted};
use crate::config::Schedule;
use crate::error::NetsError;
use crate::matrix::Matrix;

/// Networks that are kept on disk.
pub(super) const KEPT: usize = 3;

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

/// A network that may be kept: validation loss, epoch, parameters.
pub(super) type Candidate = (f64, usize, Fitted);

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
