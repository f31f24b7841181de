//! The whole way from a data set to a bundle: split, fit, quantise, measure, pack.

use std::time::Instant;

use chemxor_core::{
    BlobDigest, BlobRef, Bundle, DataFingerprint, MANIFEST_FORMAT, Manifest, Metrics, ModelName,
    Task,
};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::twin::stochastic;
use rand::{RngExt, rngs::ChaCha20Rng};

use crate::config::{ModelKind, TrainConfig};
use crate::dataset::{Dataset, Row};
use crate::error::NetsError;
use crate::linear::{Fold, Linear, cross_validate, penalties};
use crate::matrix::ActiveColumns;
use crate::metrics::{Bootstrap, figures, metric, metric_name};
use crate::mlp::{self, Part, Settings};
use crate::model::{FloatModel, Mlp};
use crate::quantise::{Precision, Quantised, quantise};
use crate::report::{HeldOut, PlanRow, Progress, TrainReport};
use crate::split::{Split, folds, generator, split};
use crate::twin::predict_twin;

/// Fewest usable rows.
const LEAST_ROWS: usize = 20;
/// Fewest rows of each class.
const LEAST_OF_CLASS: usize = 5;
/// Part of the rows learned from that stops the training early.
const VALIDATION: f64 = 0.15;

/// Streams of the seed.
const SPLIT: u64 = 1;
const FIT: u64 = 2;
const TWIN: u64 = 3;

/// A trained model, measured and packed.
#[derive(Debug)]
pub struct Trained {
    /// What is published.
    pub bundle: Bundle,
    /// The integers in the bundle.
    pub weights: Vec<StepWeights>,
    /// Every molecule that was held out, in the order of the file.
    pub held_out: Vec<HeldOut>,
    /// Summary.
    pub report: TrainReport,
}

/// A float model and how it was found.
struct Fit {
    model: FloatModel,
    epochs_run: usize,
    best_epoch: Option<usize>,
    penalty: Option<f64>,
    validation_losses: Vec<f64>,
}

/// Trains on `dataset`; `progress` is called after each epoch. The same data, configuration and
/// seed give the same weights; the bundle differs in the random salt of its blobs.
pub fn train(
    dataset: &Dataset,
    config: &TrainConfig,
    progress: &mut dyn FnMut(Progress),
) -> Result<Trained, NetsError> {
    let started = Instant::now();
    config.check()?;
    let name: ModelName = config.name.parse()?;
    check_data(dataset)?;
    let rows = dataset.rows();
    let all: Vec<usize> = (0..rows.len()).collect();
    let task = dataset.task();
    let mut rng = generator(config.seed, SPLIT);
    let Split {
        rest: learn,
        aside: test,
    } = match config.fold {
        None => split(rows, &all, task, config.test_fraction, &mut rng),
        Some(fold) => folds(rows, &all, task, fold.of, &mut rng).swap_remove(fold.index),
    };
    let active = ActiveColumns::of(rows, &learn, dataset.featuriser().len());
    if active.len() == 0 {
        return Err(NetsError::NoFeature {
            name: dataset.name().to_owned(),
        });
    }
    let mut notify = |epoch: usize, epochs: usize, train_loss: f64, validation_loss: f64| {
        let elapsed = started.elapsed();
        let left = epochs.saturating_sub(epoch) as f64 / epoch.max(1) as f64;
        let remaining = elapsed.mul_f64(left);
        progress(Progress {
            epoch,
            epochs,
            train_loss,
            validation_loss,
            elapsed,
            remaining,
        });
    };
    let fit = match config.kind {
        ModelKind::Linear => fit_linear(dataset, config, &learn, &active, &mut notify),
        ModelKind::Mlp { hidden } => {
            fit_mlp(dataset, config, hidden, &learn, &active, &mut notify)?
        }
    };
    let calibration: Vec<&Row> = learn.iter().map(|index| &rows[*index]).collect();
    let precision = Precision {
        activation_bits: config.activation_bits,
        output_bits: config.output_bits,
    };
    let quantised = quantise(&fit.model, dataset.featuriser(), &calibration, precision)?;

    let blobs = quantised
        .weights
        .iter()
        .map(|weights| {
            let mut salt = [0u8; 32];
            // not from the seed: the seed is published, the salt hides the weights in the digest
            getrandom::fill(&mut salt).map_err(|_| NetsError::Randomness)?;
            Ok(weights.to_blob(&salt))
        })
        .collect::<Result<Vec<_>, NetsError>>()?;
    let mut manifest = Manifest {
        format: MANIFEST_FORMAT,
        name,
        task,
        endpoint: config.endpoint.clone(),
        unit: config.unit.clone(),
        description: config.description.clone(),
        featuriser: dataset.featuriser().clone(),
        leakage_bits_per_query: quantised.graph.leakage_bits_per_query(),
        rings: chemxor_fhe::ring::statements(&quantised.graph.rings()),
        graph: quantised.graph.clone(),
        outputs: vec![quantised.output.clone()],
        blobs: blobs
            .iter()
            .map(|blob| BlobRef {
                digest: BlobDigest::of(blob),
                bytes: blob.len() as u64,
            })
            .collect(),
        metrics: Metrics {
            metric: metric_name(task).to_owned(),
            float: 0.0,
            twin: 0.0,
        },
        data: DataFingerprint {
            sha256: dataset.sha256().to_owned(),
            train_rows: learn.len() as u64,
            test_rows: test.len() as u64,
        },
        domain: None,
        toolchain: concat!("chemxor-nets ", env!("CARGO_PKG_VERSION")).to_owned(),
        seed: config.seed,
    };
    let held_out = judge(
        dataset,
        &test,
        &fit.model,
        &manifest,
        &quantised,
        config.seed,
    );
    manifest.metrics = measure(task, &held_out);
    let bundle = Bundle::new(&manifest, blobs)?;
    let report = report(dataset, config, &fit, &quantised, &held_out, &manifest);
    let report = TrainReport {
        train_rows: learn.len(),
        active_features: active.len(),
        outside_range: outside_range(dataset, &test, &fit.model, &quantised),
        bundle_bytes: bundle.to_bytes().len(),
        seconds: started.elapsed().as_secs_f64(),
        ..report
    };
    Ok(Trained {
        bundle,
        weights: quantised.weights,
        held_out,
        report,
    })
}

fn check_data(dataset: &Dataset) -> Result<(), NetsError> {
    let rows = dataset.rows();
    let name = || dataset.name().to_owned();
    if let Some(first) = rows.first()
        && rows.len() > 1
        && rows.iter().all(|row| row.target == first.target)
        && dataset.task() == Task::Regression
    {
        return Err(NetsError::ConstantTarget {
            name: name(),
            value: first.target,
        });
    }
    if dataset.task() == Task::Binary {
        for class in [0u8, 1] {
            let got = rows
                .iter()
                .filter(|row| row.target == f64::from(class))
                .count();
            if got < LEAST_OF_CLASS {
                return Err(NetsError::OneClass {
                    name: name(),
                    class,
                    got,
                    least: LEAST_OF_CLASS,
                });
            }
        }
    }
    if rows.len() < LEAST_ROWS {
        let rejected = dataset.bad_rows().len();
        let got = rows.len();
        return Err(NetsError::TooFewRows {
            name: name(),
            got,
            least: LEAST_ROWS,
            rejected,
        });
    }
    Ok(())
}

fn targets(rows: &[Row], of: &[usize]) -> Vec<f64> {
    of.iter().map(|index| rows[*index].target).collect()
}

fn fit_linear(
    dataset: &Dataset,
    config: &TrainConfig,
    learn: &[usize],
    active: &ActiveColumns,
    notify: &mut dyn FnMut(usize, usize, f64, f64),
) -> Fit {
    let (rows, task) = (dataset.rows(), dataset.task());
    let mut rng = generator(config.seed, FIT);
    // five folds where they cost little, one where a fifth of the rows says enough
    let k = 5;
    let mut splits = folds(rows, learn, task, k, &mut rng);
    if learn.len() > 10_000 {
        splits.truncate(1);
    }
    let parts: Vec<Fold> = splits
        .iter()
        .map(|Split { rest, aside }| Fold {
            train: (active.matrix(rows, rest), targets(rows, rest)),
            test: (active.matrix(rows, aside), targets(rows, aside)),
        })
        .collect();
    let losses = cross_validate(&parts, task);
    let tried = penalties(task);
    let best = (0..tried.len())
        .min_by(|a, b| losses[*a].total_cmp(&losses[*b]))
        .unwrap_or(0);
    let (x, y) = (active.matrix(rows, learn), targets(rows, learn));
    let linear = Linear::fit(&x, &y, task, tried[best], None);
    let train_loss = crate::linear::loss_sum(task, &y, &linear.predict(&x)) / y.len() as f64;
    notify(tried.len(), tried.len(), train_loss, losses[best]);
    let weights = active.expand(&linear.weights);
    Fit {
        model: FloatModel::Linear {
            weights,
            intercept: linear.intercept,
        },
        epochs_run: tried.len(),
        best_epoch: None,
        penalty: Some(tried[best]),
        validation_losses: losses,
    }
}

/// One network, or the mean of several as one wider network: the hidden layers side by side, the
/// output weights divided by their number.
fn fit_mlp(
    dataset: &Dataset,
    config: &TrainConfig,
    hidden: usize,
    learn: &[usize],
    active: &ActiveColumns,
    notify: &mut dyn FnMut(usize, usize, f64, f64),
) -> Result<Fit, NetsError> {
    let (rows, task) = (dataset.rows(), dataset.task());
    let mut rng = generator(config.seed, FIT);
    let members = config.ensemble;
    let splits = if members == 1 {
        vec![split(rows, learn, task, VALIDATION, &mut rng)]
    } else {
        folds(rows, learn, task, members, &mut rng)
    };
    let mut mean = Mlp {
        w1: Vec::new(),
        b1: Vec::new(),
        w2: Vec::new(),
        b2: 0.0,
    };
    let (mut validation_losses, mut best_epoch) = (Vec::new(), None);
    for (member, part) in splits.iter().enumerate() {
        let epochs = config.epochs;
        let mut notify = |epoch: usize, train_loss: f64, validation_loss: f64| {
            let (done, all) = (member * epochs + epoch, members * epochs);
            notify(done, all, train_loss, validation_loss);
        };
        let (mlp, losses, best) =
            fit_member(dataset, config, hidden, part, active, &mut rng, &mut notify)?;
        mean.w1.extend(mlp.w1);
        mean.b1.extend(mlp.b1);
        mean.w2
            .extend(mlp.w2.iter().map(|weight| weight / members as f64));
        mean.b2 += mlp.b2 / members as f64;
        validation_losses.extend(losses);
        // one number cannot tell the kept epochs of several networks
        best_epoch = (members == 1).then_some(best);
    }
    Ok(Fit {
        model: FloatModel::Mlp(mean),
        epochs_run: validation_losses.len(),
        best_epoch,
        penalty: None,
        validation_losses,
    })
}

/// One network over all features, its validation losses and the epoch that was kept.
fn fit_member(
    dataset: &Dataset,
    config: &TrainConfig,
    hidden: usize,
    part: &Split,
    active: &ActiveColumns,
    rng: &mut ChaCha20Rng,
    notify: &mut dyn FnMut(usize, f64, f64),
) -> Result<(Mlp, Vec<f64>, usize), NetsError> {
    let (rows, task) = (dataset.rows(), dataset.task());
    let Split { rest, aside } = part;
    // the network sees targets of mean 0 and deviation 1; classes stay as they are
    let (mean, deviation) = match task {
        Task::Regression => moments(&targets(rows, rest)),
        Task::Binary | Task::Multiclass => (0.0, 1.0),
    };
    let standard = |of: &[usize]| -> Vec<f64> {
        targets(rows, of)
            .iter()
            .map(|target| (target - mean) / deviation)
            .collect()
    };
    let settings = Settings {
        hidden,
        task,
        epochs: config.epochs,
        patience: 15,
        learning_rate: config.learning_rate,
        weight_decay: config.weight_decay,
        activation_bits: config.activation_bits,
    };
    let (x, y) = (active.matrix(rows, rest), standard(rest));
    let (check_x, check_y) = (active.matrix(rows, aside), standard(aside));
    let train = Part { x: &x, y: &y };
    let validation = Part {
        x: &check_x,
        y: &check_y,
    };
    let (fitted, epochs, best) = mlp::fit(train, validation, &settings, rng, |epoch, losses| {
        notify(epoch, losses.train_loss, losses.validation_loss);
    })?;
    let w1 = (0..hidden)
        .map(|j| {
            let column: Vec<f64> = fitted
                .w1
                .chunks(hidden)
                .map(|weights| f64::from(weights[j]))
                .collect();
            active.expand(&column)
        })
        .collect();
    let mlp = Mlp {
        w1,
        b1: fitted.b1.iter().copied().map(f64::from).collect(),
        w2: fitted
            .w2
            .iter()
            .map(|w| f64::from(*w) * deviation)
            .collect(),
        b2: f64::from(fitted.b2) * deviation + mean,
    };
    let losses = epochs.iter().map(|epoch| epoch.validation_loss).collect();
    Ok((mlp, losses, best))
}

/// Mean and standard deviation; the deviation is never 0.
fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / count;
    let deviation = variance.sqrt();
    (mean, if deviation > 0.0 { deviation } else { 1.0 })
}

fn judge(
    dataset: &Dataset,
    test: &[usize],
    model: &FloatModel,
    manifest: &Manifest,
    quantised: &Quantised,
    seed: u64,
) -> Vec<HeldOut> {
    let mut rng = generator(seed, TWIN);
    test.iter()
        .map(|index| {
            let row = &dataset.rows()[*index];
            let carry = stochastic(|| rng.random::<f64>());
            let twin = predict_twin(manifest, &quantised.weights, &dataset.dense(row), carry);
            HeldOut {
                line: row.line,
                smiles: row.smiles.clone(),
                measured: row.target,
                float_prediction: model.predict(row),
                // the models trained here have one output
                twin_prediction: twin[0],
            }
        })
        .collect()
}

fn measure(task: Task, held_out: &[HeldOut]) -> Metrics {
    let column = |of: fn(&HeldOut) -> f64| -> Vec<f64> { held_out.iter().map(of).collect() };
    let measured = column(|row| row.measured);
    Metrics {
        metric: metric_name(task).to_owned(),
        float: metric(task, &measured, &column(|row| row.float_prediction)),
        twin: metric(task, &measured, &column(|row| row.twin_prediction)),
    }
}

fn outside_range(
    dataset: &Dataset,
    test: &[usize],
    model: &FloatModel,
    quantised: &Quantised,
) -> usize {
    let wraps = |index: &&usize| {
        let row = &dataset.rows()[**index];
        let hidden = match model {
            FloatModel::Linear { .. } => false,
            FloatModel::Mlp(mlp) => mlp
                .sums(row)
                .iter()
                .zip(&quantised.ranges)
                .any(|(z, range)| !range.contains(*z)),
        };
        hidden || model.unbiased(row).abs() >= quantised.output_half
    };
    test.iter().filter(wraps).count()
}

/// The report but for what only [`train`] knows.
fn report(
    dataset: &Dataset,
    config: &TrainConfig,
    fit: &Fit,
    quantised: &Quantised,
    held_out: &[HeldOut],
    manifest: &Manifest,
) -> TrainReport {
    let differences: Vec<f64> = held_out
        .iter()
        .map(|row| (row.twin_prediction - row.float_prediction).abs())
        .collect();
    let bootstrap = Bootstrap {
        seed: config.seed,
        ..Bootstrap::default()
    };
    let measured: Vec<f64> = held_out.iter().map(|row| row.measured).collect();
    let figures_of = |prediction: fn(&HeldOut) -> f64| {
        let predicted: Vec<f64> = held_out.iter().map(prediction).collect();
        figures(manifest.task, &measured, &predicted, &bootstrap)
    };
    let plan = quantised
        .graph
        .steps()
        .iter()
        .zip(&quantised.weights)
        .map(|(spec, weights)| PlanRow {
            ring: spec.ring,
            accumulator_bits: spec.accumulator_bits,
            output_bits: spec.output_bits,
            row_norm_log2: weights.max_row_norm_squared().max(1.0).log2() / 2.0,
        })
        .collect();
    TrainReport {
        kind: config.kind.name(),
        rows: dataset.rows().len(),
        repeated_rows: dataset.repeated(),
        bad_rows: dataset.bad_rows().to_vec(),
        train_rows: 0,
        test_rows: held_out.len(),
        active_features: 0,
        epochs_run: fit.epochs_run,
        best_epoch: fit.best_epoch,
        penalty: fit.penalty,
        validation_losses: fit.validation_losses.clone(),
        metrics: manifest.metrics.clone(),
        float_figures: figures_of(|row| row.float_prediction),
        twin_figures: figures_of(|row| row.twin_prediction),
        twin_mean_difference: differences.iter().sum::<f64>() / differences.len().max(1) as f64,
        twin_largest_difference: differences.iter().copied().fold(0.0, f64::max),
        outside_range: 0,
        plan,
        bundle_bytes: 0,
        seconds: 0.0,
    }
}
