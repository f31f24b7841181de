//! A float model of each kind.

use std::sync::mpsc;

use chemxor_core::{DifferentialPrivacy, Task};

use super::networks::{class_weights, networks};
use super::{FIT, VALIDATION};
use crate::config::{ModelKind, TrainConfig};
use crate::dataset::Dataset;
use crate::error::NetsError;
use crate::linear::{Fold, Linear, cross_validate, loss_sum, penalties};
use crate::matrix::{ActiveColumns, Matrix};
use crate::model::FloatModel;
use crate::net::{Architecture, Epoch};
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
    /// What was guaranteed for the other rows. Then nothing but the weights may depend on them.
    pub(super) private: Option<DifferentialPrivacy>,
}

impl Fit {
    /// The rows that ranges and the applicability domain may come from: all that were learned from,
    /// or, in a private training, those that are not covered.
    pub(super) fn seen<'a>(&'a self, learn: &'a [usize]) -> &'a [usize] {
        if self.private.is_some() {
            &self.validation
        } else {
            learn
        }
    }

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
            private: None,
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
            // which features occur among the rows learned from is a secret of a private training
            let all = ActiveColumns::all(dataset.featuriser().len());
            let active = if config.private.is_some() {
                &all
            } else {
                active
            };
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
pub(super) fn wanted(dataset: &Dataset, of: &[usize], output: usize) -> Vec<f64> {
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
        private: None,
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
        private: None,
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
        private: None,
    }
}
