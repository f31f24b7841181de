//! A float model of each kind.

use std::sync::mpsc;

use chemxor_core::Task;
use data_encoding::HEXLOWER;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{FIT, VALIDATION};
use crate::config::{ClassWeights, ModelKind, Schedule, TrainConfig};
use crate::dataset::{Dataset, Row};
use crate::error::NetsError;
use crate::linear::{Fold, Linear, cross_validate, loss_sum, penalties};
use crate::matrix::{ActiveColumns, Matrix};
use crate::model::FloatModel;
use crate::net::{self, Architecture, Epoch, Folder, Outcome, Part, Settings, Standard};
use crate::split::{Split, folds, generator, split};
use crate::trees::{Boosting, Columns, Sample, TreeModel, forest};

/// How far a fit has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub(super) epoch: usize,
    pub(super) epochs: usize,
    pub(super) train_loss: f64,
    pub(super) validation_loss: f64,
}

/// A float model and how it was found.
pub(super) struct Fit {
    pub(super) model: FloatModel,
    pub(super) epochs_run: usize,
    pub(super) best_epoch: Option<usize>,
    pub(super) penalty: Option<f64>,
    /// Of each network of an ensemble in turn.
    pub(super) curves: Vec<Vec<Epoch>>,
    pub(super) validation_losses: Vec<f64>,
    /// Rows that stopped the (first) training, apart from those its weights come from.
    pub(super) validation: Vec<usize>,
}

impl Fit {
    /// A model that was trained elsewhere.
    pub(super) fn of_foreign(model: FloatModel, learn: &[usize]) -> Self {
        Self {
            model,
            epochs_run: 0,
            best_epoch: None,
            penalty: None,
            curves: Vec::new(),
            validation_losses: Vec::new(),
            validation: learn.to_vec(),
        }
    }
}

pub(super) fn fit(
    dataset: &Dataset,
    config: &TrainConfig,
    learn: &[usize],
    active: &ActiveColumns,
    notify: &mut dyn FnMut(Done),
) -> Result<Fit, NetsError> {
    let outputs = dataset.outputs().len();
    match config.kind {
        ModelKind::Linear => Ok(linear(dataset, config, learn, active, notify)),
        ModelKind::Mlp => {
            let inputs = active.len();
            let shape = Architecture::mlp(inputs, &config.hidden, outputs, config.activation);
            networks(dataset, config, learn, active, &shape, notify)
        }
        ModelKind::Trees => Ok(boosted(dataset, config, learn, notify)),
        ModelKind::Forest => Ok(random_forest(dataset, config, learn, notify)),
        ModelKind::OlindaZero | ModelKind::Olinda | ModelKind::OlindaOne => {
            let size = dataset.featuriser().len();
            if size != 1024 {
                return Err(NetsError::Config {
                    what: "the number of features",
                    value: size.to_string(),
                    allowed: "1024 for the Olinda nets; use --featuriser image32",
                });
            }
            let (convolutions, dense): (&[u32], &[usize]) = match config.kind {
                ModelKind::OlindaZero => (&[], &[512, 256]),
                ModelKind::Olinda => (&[32], &[1024, 512, 256]),
                _ => (&[32, 64, 64], &[1024, 512, 256]),
            };
            let shape = Architecture::olinda(convolutions, dense, outputs);
            let image = ActiveColumns::all(size);
            networks(dataset, config, learn, &image, &shape, notify)
        }
    }
}

/// What output `output` should be for these rows.
fn wanted(dataset: &Dataset, of: &[usize], output: usize) -> Vec<f64> {
    of.iter()
        .map(|index| dataset.wanted(&dataset.rows()[*index], output))
        .collect()
}

/// One model for each output; with several classes each one against the rest.
fn linear(
    dataset: &Dataset,
    config: &TrainConfig,
    learn: &[usize],
    active: &ActiveColumns,
    notify: &mut dyn FnMut(Done),
) -> Fit {
    let rows = dataset.rows();
    let task = match dataset.task() {
        Task::Regression => Task::Regression,
        Task::Binary | Task::Multiclass => Task::Binary,
    };
    let outputs = dataset.outputs().len();
    let tried = penalties(task);
    let mut rng = generator(config.seed, FIT);
    // five folds where they cost little, one where a fifth of the rows says enough
    let mut splits = folds(rows, learn, dataset.task(), 5, &mut rng);
    if learn.len() > 10_000 {
        splits.truncate(1);
    }
    let (mut all_weights, mut intercepts, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    let mut penalty = 0.0;
    for output in 0..outputs {
        let measured = |of: &[usize]| -> Vec<usize> {
            let present = |index: &&usize| !dataset.wanted(&rows[**index], output).is_nan();
            of.iter().filter(present).copied().collect()
        };
        let data = |of: &[usize]| -> (Matrix, Vec<f64>) {
            let of = measured(of);
            (active.matrix(rows, &of), wanted(dataset, &of, output))
        };
        let parts: Vec<Fold> = splits
            .iter()
            .map(|Split { rest, aside }| Fold {
                train: data(rest),
                test: data(aside),
            })
            .collect();
        losses = cross_validate(&parts, task);
        let best = (0..tried.len())
            .min_by(|a, b| losses[*a].total_cmp(&losses[*b]))
            .unwrap_or(0);
        penalty = tried[best];
        let (x, y) = data(learn);
        let model = Linear::fit(&x, &y, task, penalty, None);
        notify(Done {
            epoch: (output + 1) * tried.len(),
            epochs: outputs * tried.len(),
            train_loss: loss_sum(task, &y, &model.predict(&x)) / y.len().max(1) as f64,
            validation_loss: losses[best],
        });
        all_weights.push(active.expand(&model.weights));
        intercepts.push(model.intercept);
    }
    Fit {
        model: FloatModel::linear(dataset.featuriser(), &all_weights, intercepts),
        epochs_run: tried.len() * outputs,
        best_epoch: None,
        penalty: Some(penalty),
        curves: Vec::new(),
        validation_losses: losses,
        validation: splits
            .first()
            .map_or(Vec::new(), |split| split.aside.clone()),
    }
}

/// Every row of the data set, for trees. Row numbers are those of the data set.
fn sample(dataset: &Dataset, config: &TrainConfig, learn: &[usize]) -> Sample {
    let rows = dataset.rows();
    let weight_of = class_weights(dataset, config, learn);
    let outputs = dataset.outputs().len();
    let levels = usize::from(dataset.featuriser().max_value()) + 1;
    let size = dataset.featuriser().len();
    let (mut wanted, mut weights) = (Vec::new(), Vec::new());
    for row in rows {
        for output in 0..outputs {
            let value = dataset.wanted(row, output);
            wanted.push(if value.is_nan() { 0.0 } else { value });
            weights.push(if value.is_nan() {
                0.0
            } else {
                f64::from(weight_of(row, output))
            });
        }
    }
    Sample {
        columns: Columns::new(rows.iter().map(|row| row.features.as_slice()), size, levels),
        wanted,
        weights,
    }
}

fn numbers(of: &[usize]) -> Vec<u32> {
    of.iter().map(|index| *index as u32).collect()
}

/// Gradient boosting; an ensemble is the mean of boosted models, each stopped by another fold.
fn boosted(
    dataset: &Dataset,
    config: &TrainConfig,
    learn: &[usize],
    notify: &mut dyn FnMut(Done),
) -> Fit {
    let (rows, task) = (dataset.rows(), dataset.task());
    let mut rng = generator(config.seed, FIT);
    let members = config.ensemble;
    let splits = if members == 1 {
        vec![split(rows, learn, task, VALIDATION, &mut rng)]
    } else {
        folds(rows, learn, task, members, &mut rng)
    };
    let sample = sample(dataset, config, learn);
    let outputs = dataset.outputs().len();
    let boosting = Boosting {
        task,
        outputs,
        settings: &config.trees,
    };
    let mut model = TreeModel {
        trees: Vec::new(),
        base: vec![0.0; outputs],
    };
    let mut curves = Vec::new();
    let mut best_epoch = None;
    for (member, part) in splits.iter().enumerate() {
        let (learn, check) = (numbers(&part.rest), numbers(&part.aside));
        let progress = |round: usize, train_loss: f64, validation_loss: f64| {
            notify(Done {
                epoch: member * config.trees.trees + round,
                epochs: members * config.trees.trees,
                train_loss,
                validation_loss,
            });
        };
        let (fitted, losses) = boosting.fit(&sample, &learn, &check, &mut rng, progress);
        best_epoch = (members == 1).then_some(fitted.trees.len() / outputs.max(1));
        for (base, own) in model.base.iter_mut().zip(&fitted.base) {
            *base += own / members as f64;
        }
        for mut tree in fitted.trees {
            for leaf in &mut tree.leaves {
                leaf.value /= members as f64;
            }
            model.trees.push(tree);
        }
        let epoch = |(train_loss, validation_loss): &(f64, f64)| Epoch {
            train_loss: *train_loss,
            validation_loss: *validation_loss,
        };
        curves.push(losses.iter().map(epoch).collect::<Vec<_>>());
    }
    let validation_losses: Vec<f64> = curves
        .iter()
        .flatten()
        .map(|epoch| epoch.validation_loss)
        .collect();
    Fit {
        model: FloatModel::Trees(model, dataset.featuriser().clone()),
        epochs_run: validation_losses.len(),
        best_epoch,
        penalty: None,
        curves,
        validation_losses,
        validation: splits
            .first()
            .map_or(Vec::new(), |split| split.aside.clone()),
    }
}

fn random_forest(
    dataset: &Dataset,
    config: &TrainConfig,
    learn: &[usize],
    notify: &mut dyn FnMut(Done),
) -> Fit {
    let (rows, task) = (dataset.rows(), dataset.task());
    let mut rng = generator(config.seed, FIT);
    // nothing stops a forest; these molecules serve for the interval of its predictions
    let Split { rest, aside } = split(rows, learn, task, VALIDATION, &mut rng);
    let sample = sample(dataset, config, learn);
    let outputs = dataset.outputs().len();
    let (sender, receiver) = mpsc::channel::<()>();
    let sender = std::sync::Mutex::new(sender);
    let model = std::thread::scope(|scope| {
        let (sample, rest) = (&sample, numbers(&rest));
        let grow = scope.spawn(move || {
            let done = || {
                if let Ok(sender) = sender.lock() {
                    // nobody listens any more only when the caller is gone
                    let _ = sender.send(());
                }
            };
            let (settings, seed) = (&config.trees, config.seed);
            let model = forest(task, outputs, settings, sample, &rest, seed, done);
            drop(sender);
            model
        });
        for (done, ()) in receiver.into_iter().enumerate() {
            notify(Done {
                epoch: done + 1,
                epochs: outputs * config.trees.trees,
                train_loss: 0.0,
                validation_loss: 0.0,
            });
        }
        grow.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    Fit {
        model: FloatModel::Trees(model, dataset.featuriser().clone()),
        epochs_run: config.trees.trees,
        best_epoch: None,
        penalty: None,
        curves: Vec::new(),
        validation_losses: Vec::new(),
        validation: aside,
    }
}

/// One network, or the mean of several as one wider network.
fn networks(
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
        let standard: Vec<Standard> = (0..outputs)
            .map(|output| match task {
                Task::Regression => moments(&wanted(dataset, rest, output)),
                Task::Binary | Task::Multiclass => (0.0, 1.0),
            })
            .collect();
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
                    let value = dataset.wanted(row, output);
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
fn class_weights<'a>(
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
