//! Networks: one, or the mean of several, with or without private gradients.

use std::sync::mpsc;

use chemxor_core::{DifferentialPrivacy, Task};
use data_encoding::HEXLOWER;
use rand::SeedableRng;
use rand::rngs::ChaCha20Rng;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::fit::{Done, Fit, wanted};
use super::{FIT, VALIDATION};
use crate::config::{ClassWeights, Schedule, TrainConfig};
use crate::dataset::{Dataset, Row};
use crate::error::NetsError;
use crate::matrix::ActiveColumns;
use crate::model::FloatModel;
use crate::net::{
    self, Architecture, Epoch, Folder, Mechanism, Outcome, Part, Private, Settings, Standard,
};
use crate::split::{Split, folds, generator, split};

/// One network, or the mean of several as one wider network.
pub(super) fn networks(
    dataset: &Dataset,
    config: &TrainConfig,
    learn: &[usize],
    active: &ActiveColumns,
    shape: &Architecture,
    notify: &mut dyn FnMut(Done),
) -> Result<Fit, NetsError> {
    let (rows, task) = (dataset.rows(), dataset.task());
    let mut rng = generator(config.seed, FIT);
    let members = config.ensemble;
    let splits = if members == 1 {
        vec![split(rows, learn, task, VALIDATION, &mut rng)]
    } else {
        folds(rows, learn, task, members, &mut rng)
    };
    let run = run_name(dataset, config, learn)?;
    let private = guarantee(dataset, config, &splits)?;
    let guaranteed = private.as_ref();
    let (sender, receiver) = mpsc::channel::<Epoch>();
    let fitted = std::thread::scope(|scope| {
        let train = scope.spawn(move || {
            splits
                .par_iter()
                .enumerate()
                .map_with(sender, |sender, (number, part)| {
                    let member = Member {
                        dataset,
                        config,
                        active,
                        shape,
                        part,
                        number,
                        run: &run,
                        private: guaranteed,
                    };
                    member.fit(|_, epoch| {
                        // nobody listens any more only when the caller is gone
                        let _ = sender.send(epoch);
                    })
                })
                .collect::<Result<Vec<_>, NetsError>>()
                .map(|fitted| (fitted, splits))
        });
        for (done, epoch) in receiver.into_iter().enumerate() {
            notify(Done {
                epoch: done + 1,
                epochs: members * config.epochs,
                train_loss: epoch.train_loss,
                validation_loss: epoch.validation_loss,
            });
        }
        train
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let (fitted, splits) = fitted?;
    let best_epoch = match fitted.as_slice() {
        [(outcome, _)] => Some(outcome.best),
        // one number cannot tell the kept epochs of several networks
        _ => None,
    };
    let curves: Vec<Vec<Epoch>> = fitted.iter().map(|(o, _)| o.epochs.clone()).collect();
    let validation_losses: Vec<f64> = curves
        .iter()
        .flatten()
        .map(|epoch| epoch.validation_loss)
        .collect();
    let max_value = dataset.featuriser().max_value();
    let mut nets: Vec<_> = fitted
        .into_iter()
        .map(|(outcome, standard)| {
            outcome
                .fitted
                .into_float(shape, active, &standard, max_value)
        })
        .collect();
    let single = if nets.len() == 1 { nets.pop() } else { None };
    let net = single
        .or_else(|| net::side_by_side(&nets))
        .ok_or(NetsError::Unquantisable)?;
    Ok(Fit {
        model: FloatModel::Net(net),
        epochs_run: validation_losses.len(),
        best_epoch,
        penalty: None,
        curves,
        validation_losses,
        validation: splits
            .first()
            .map_or(Vec::new(), |split| split.aside.clone()),
        private,
    })
}

/// One network of an ensemble.
struct Member<'a> {
    dataset: &'a Dataset,
    config: &'a TrainConfig,
    active: &'a ActiveColumns,
    shape: &'a Architecture,
    part: &'a Split,
    number: usize,
    run: &'a str,
    private: Option<&'a DifferentialPrivacy>,
}

/// The noise that a private training needs, and what it then guarantees.
fn guarantee(
    dataset: &Dataset,
    config: &TrainConfig,
    splits: &[Split],
) -> Result<Option<DifferentialPrivacy>, NetsError> {
    let (Some(private), Some(part)) = (config.private, splits.first()) else {
        return Ok(None);
    };
    let range = private.target_range;
    if dataset.task() == Task::Regression && range.is_none() {
        return Err(NetsError::Config {
            what: "the range of the target of a private training",
            value: "not given".to_owned(),
            allowed: "the lowest and highest possible value, known without looking at the data: --dp-target-range",
        });
    }
    let rows = part.rest.len();
    let delta = private.delta.unwrap_or(0.1 / rows.max(1) as f64);
    let sampling_rate = (config.batch as f64 / rows.max(1) as f64).min(1.0);
    let mechanism = Mechanism {
        sampling_rate,
        steps: (config.epochs * rows.div_ceil(config.batch)) as u64,
    };
    let noise_multiplier =
        mechanism
            .noise_for(private.epsilon, delta)
            .ok_or_else(|| NetsError::Config {
                what: "ε",
                value: private.epsilon.to_string(),
                allowed: "more than this: no amount of noise reaches it; use fewer epochs",
            })?;
    Ok(Some(DifferentialPrivacy {
        epsilon: mechanism.epsilon(noise_multiplier, delta),
        delta,
        rows: rows as u64,
        noise_multiplier,
        clip: private.clip,
        steps: mechanism.steps,
        sampling_rate,
    }))
}

impl Member<'_> {
    fn fit(
        &self,
        progress: impl FnMut(usize, Epoch),
    ) -> Result<(Outcome, Vec<Standard>), NetsError> {
        let Self {
            dataset, config, ..
        } = *self;
        let (rows, task) = (dataset.rows(), dataset.task());
        let Split { rest, aside } = self.part;
        let outputs = dataset.outputs().len();
        // the network sees targets of mean 0 and deviation 1; classes stay as they are
        let range = config.private.and_then(|private| private.target_range);
        let standard: Vec<Standard> = (0..outputs)
            .map(|output| match (task, range) {
                // a public range takes the place of mean and deviation, which are secrets
                (Task::Regression, Some([low, high])) => {
                    (f64::midpoint(low, high), (high - low) / 4.0)
                }
                (Task::Regression, None) => moments(&wanted(dataset, rest, output)),
                (Task::Binary | Task::Multiclass, _) => (0.0, 1.0),
            })
            .collect();
        let cut = |value: f64| match (task, range) {
            (Task::Regression, Some([low, high])) => value.clamp(low, high),
            _ => value,
        };
        let class_weights = class_weights(dataset, config, rest);
        let smoothing = match task {
            Task::Regression => 0.0,
            Task::Binary | Task::Multiclass => config.label_smoothing,
        };
        let classes = if task == Task::Multiclass { outputs } else { 2 } as f64;
        let data = |of: &[usize], smoothing: f64| {
            let (mut y, mut w) = (Vec::new(), Vec::new());
            for row in of.iter().map(|index| &rows[*index]) {
                for (output, (mean, deviation)) in standard.iter().enumerate() {
                    let value = cut(dataset.wanted(row, output));
                    let value = value * (1.0 - smoothing) + smoothing / classes;
                    let missing = value.is_nan();
                    y.push(if missing {
                        0.0
                    } else {
                        ((value - mean) / deviation) as f32
                    });
                    w.push(if missing {
                        0.0
                    } else {
                        class_weights(row, output)
                    });
                }
            }
            (self.active.matrix(rows, of), y, w)
        };
        let (x, y, w) = data(rest, smoothing);
        let (check_x, check_y, check_w) = data(aside, 0.0);
        let part = |x, wanted, weights| Part { x, wanted, weights };
        let settings = Settings {
            task,
            epochs: config.epochs,
            patience: config.patience,
            batch: config.batch,
            learning_rate: config.learning_rate,
            schedule: config.schedule,
            weight_decay: config.weight_decay,
            dropout: config.dropout,
            activation_bits: config.trained_bits(),
            private: self.private.map(|private| Private {
                clip: private.clip,
                noise_multiplier: private.noise_multiplier,
                sampling_rate: private.sampling_rate,
            }),
        };
        let folder = config
            .checkpoints
            .as_ref()
            .map(|path| {
                let path = path.join(format!("network-{}", self.number + 1));
                Folder::new(&path, format!("{}-{}", self.run, self.number))
            })
            .transpose()?;
        let mut rng = generator(config.seed, 1000 + self.number as u64);
        if self.private.is_some() {
            // the seed is published; noise that it gives away would hide nothing
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|_| NetsError::Randomness)?;
            rng = ChaCha20Rng::from_seed(seed);
        }
        let outcome = net::fit(
            self.shape,
            part(&x, &y, &w),
            part(&check_x, &check_y, &check_w),
            &settings,
            &mut rng,
            folder.as_ref(),
            progress,
        )?;
        Ok((outcome, standard))
    }
}

/// Names data and settings, so that a state is only taken up by the run that wrote it. More epochs
/// are the same run.
fn run_name(dataset: &Dataset, config: &TrainConfig, learn: &[usize]) -> Result<String, NetsError> {
    let settings = TrainConfig {
        checkpoints: None,
        epochs: match config.schedule {
            Schedule::Constant => 1,
            Schedule::Cosine => config.epochs,
        },
        ..config.clone()
    };
    let settings = serde_json::to_vec(&settings)
        .map_err(|error| NetsError::Tensor(format!("settings: {error}")))?;
    let featuriser = format!("{:?}", dataset.featuriser());
    let mut hash = Sha256::new();
    for part in [
        settings.as_slice(),
        featuriser.as_bytes(),
        dataset.sha256().as_bytes(),
    ] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    for index in learn {
        hash.update((*index as u64).to_le_bytes());
    }
    Ok(HEXLOWER.encode(&hash.finalize()))
}

/// What a molecule counts in the loss of an output.
pub(super) fn class_weights<'a>(
    dataset: &'a Dataset,
    config: &TrainConfig,
    of: &[usize],
) -> impl Fn(&Row, usize) -> f32 + use<'a> {
    let task = dataset.task();
    let balanced = config.class_weights == ClassWeights::Balanced && task != Task::Regression;
    let columns = dataset.rows().first().map_or(0, |row| row.targets.len());
    let mut counts: Vec<Vec<f64>> = vec![vec![0.0; dataset.outputs().len().max(2)]; columns];
    for row in of.iter().map(|index| &dataset.rows()[*index]) {
        for (counts, target) in counts.iter_mut().zip(&row.targets) {
            if balanced && !target.is_nan() {
                counts[*target as usize] += 1.0;
            }
        }
    }
    move |row, output| {
        if !balanced {
            return 1.0;
        }
        let column = if task == Task::Multiclass { 0 } else { output };
        let counts = &counts[column];
        let present = counts.iter().filter(|count| **count > 0.0).count() as f64;
        let own = counts[row.targets[column] as usize];
        (counts.iter().sum::<f64>() / (present * own).max(1.0)) as f32
    }
}

/// Mean and standard deviation of what is not missing; the deviation is never 0.
fn moments(values: &[f64]) -> Standard {
    let values: Vec<f64> = values.iter().copied().filter(|y| !y.is_nan()).collect();
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / count;
    let deviation = variance.sqrt();
    (mean, if deviation > 0.0 { deviation } else { 1.0 })
}
