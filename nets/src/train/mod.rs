//! The whole way from a data set to a bundle: split, fit, quantise, measure, pack.
//!
//! | module | what it holds |
//! |---|---|
//! | `fit` | a float model of each kind |
//! | `precision` | the search for bits of the hidden layers |
//! | `measure` | held-out molecules, intervals, figures |
//! | `domain` | what the training molecules were like |

mod domain;
mod fit;
mod known_answers;
mod measure;
mod networks;
mod precision;

use std::time::Instant;

use chemxor_core::{
    BlobDigest, BlobRef, Bundle, DataFingerprint, MANIFEST_FORMAT, Manifest, ModelName,
    PrivacyStatement, Task,
};
use chemxor_fhe::network::StepWeights;

use crate::config::TrainConfig;
use crate::dataset::Dataset;
use crate::error::NetsError;
use crate::matrix::ActiveColumns;
use crate::metrics::metric_name;
use crate::model::FloatModel;
use crate::model::Quantised;
use crate::onnx::OnnxModel;
use crate::report::{HeldOut, Progress, TrainReport};
use crate::split::{Split, folds, generator, hold_out};
use crate::trees::Imported;

/// Fewest usable rows.
const LEAST_ROWS: usize = 20;
/// Fewest rows of each class.
const LEAST_OF_CLASS: usize = 5;
/// Part of the rows learned from that stops the training early.
const VALIDATION: f64 = 0.15;

/// Streams of the seed.
pub(crate) const SPLIT: u64 = 1;
const KNOWN: u64 = 0x6b6e_6f77;
const FIT: u64 = 2;
const TWIN: u64 = 3;

pub(crate) use domain::QUANTILES;
pub use known_answers::known_answers;

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

/// Trains on `dataset`; `progress` is called after each epoch. The same data, configuration and
/// seed give the same weights on the same kind of CPU, whatever the number of threads (products of
/// matrices sum in an order that follows vector width and cache sizes); the bundle differs in the random salt of its blobs.
pub fn train(
    dataset: &Dataset,
    config: &TrainConfig,
    progress: &mut dyn FnMut(Progress),
) -> Result<Trained, NetsError> {
    run(dataset, config, None, progress)
}

/// Makes a bundle of a model that was trained elsewhere: `dataset` calibrates the ranges of its
/// pre-activations, and the part of it that is held out measures it.
pub fn import(
    dataset: &Dataset,
    config: &TrainConfig,
    model: ForeignModel,
) -> Result<Trained, NetsError> {
    let outputs = dataset.outputs().len();
    let (model, own) = match model {
        ForeignModel::Onnx(onnx) => (FloatModel::Net(onnx.net), onnx.outputs),
        ForeignModel::Trees(trees) => {
            let own = trees.model.base.len();
            let featuriser = dataset.featuriser().clone();
            (FloatModel::Trees(trees.model, featuriser), own)
        }
    };
    if own != outputs {
        return Err(NetsError::Config {
            what: "the number of outputs of the imported model",
            value: own.to_string(),
            allowed: "one for each target column, or for each class; check --task and --target-column",
        });
    }
    run(dataset, config, Some(model), &mut |_| {})
}

/// A model of another program.
#[derive(Debug)]
pub enum ForeignModel {
    /// A network.
    Onnx(OnnxModel),
    /// Trees of XGBoost or LightGBM.
    Trees(Imported),
}

fn run(
    dataset: &Dataset,
    config: &TrainConfig,
    given: Option<FloatModel>,
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
        None => hold_out(dataset, config.test_fraction, &mut rng),
        Some(fold) => folds(rows, &all, task, fold.of, &mut rng).swap_remove(fold.index),
    };
    let active = ActiveColumns::of(rows, &learn, dataset.featuriser().len());
    if learn.len() < LEAST_ROWS / 2 || test.is_empty() {
        return Err(NetsError::Config {
            what: "the split",
            value: format!("{} to learn from, {} held out", learn.len(), test.len()),
            allowed: "at least 10 and 1; choose another split or test fraction",
        });
    }
    if active.len() == 0 {
        return Err(NetsError::NoFeature {
            name: dataset.name().to_owned(),
        });
    }
    let mut notify = |done: fit::Done| {
        let elapsed = started.elapsed();
        let left = done.epochs.saturating_sub(done.epoch) as f64 / done.epoch.max(1) as f64;
        progress(Progress {
            epoch: done.epoch,
            epochs: done.epochs,
            train_loss: done.train_loss,
            validation_loss: done.validation_loss,
            elapsed,
            remaining: elapsed.mul_f64(left),
        });
    };
    let fit = match given {
        Some(model) => fit::Fit::of_foreign(model, &learn),
        None => fit::fit(dataset, config, &learn, &active, &mut notify)?,
    };
    let seen = fit.seen(&learn);
    let calibration = features(dataset, seen);
    let chosen = precision::choose(dataset, config, &fit, &calibration)?;
    let mut quantised = chosen.quantised;
    measure::name_outputs(dataset, &fit, &mut quantised.outputs);

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
        outputs: quantised.outputs.clone(),
        blobs: blobs
            .iter()
            .map(|blob| BlobRef {
                digest: BlobDigest::of(blob),
                bytes: blob.len() as u64,
            })
            .collect(),
        metrics: measure::no_metrics(metric_name(task)),
        data: DataFingerprint {
            sha256: dataset.sha256().to_owned(),
            train_rows: learn.len() as u64,
            test_rows: test.len() as u64,
        },
        standardisation: dataset.standardisation(),
        domain: domain::of(dataset, seen),
        known_answers: known_answers(
            dataset.standardisation(),
            dataset.featuriser(),
            &quantised.graph,
            &quantised.weights,
            config.seed,
        ),
        privacy: fit.private.clone().map(|differential| PrivacyStatement {
            differential: Some(differential),
            membership: None,
        }),
        toolchain: concat!("chemxor-nets ", env!("CARGO_PKG_VERSION")).to_owned(),
        seed: config.seed,
    };
    let held_out = measure::judge(
        dataset,
        &test,
        &fit.model,
        &manifest,
        &quantised,
        config.seed,
    );
    manifest.metrics = measure::metrics(task, &held_out);
    let bundle = Bundle::new(&manifest, blobs)?;
    let report = measure::Facts {
        dataset,
        config,
        fit: &fit,
        quantised: &quantised,
        held_out: &held_out,
        manifest: &manifest,
        sweep: chosen.sweep,
        train_rows: learn.len(),
        active_features: active.len(),
        bundle_bytes: bundle.to_bytes().len(),
        test: &test,
    }
    .report(started)?;
    Ok(Trained {
        bundle,
        weights: quantised.weights,
        held_out,
        report,
    })
}

/// The integers of a model of this recipe that learned from these rows, with hidden layers of these
/// bits; not measured.
pub(crate) fn integers(
    dataset: &Dataset,
    config: &TrainConfig,
    learn: &[usize],
    bits: &[u8],
) -> Result<Quantised, NetsError> {
    let active = ActiveColumns::of(dataset.rows(), learn, dataset.featuriser().len());
    let fit = fit::fit(dataset, config, learn, &active, &mut |_| {})?;
    let calibration = features(dataset, fit.seen(learn));
    fit.model.quantise(&calibration, bits, config.output_bits)
}

fn features(dataset: &Dataset, of: &[usize]) -> Vec<Vec<u16>> {
    of.iter()
        .map(|index| dataset.dense(&dataset.rows()[*index]))
        .collect()
}

fn check_data(dataset: &Dataset) -> Result<(), NetsError> {
    let rows = dataset.rows();
    let name = || dataset.name().to_owned();
    let task = dataset.task();
    let targets = rows.first().map_or(0, |row| row.targets.len());
    for target in 0..targets {
        let present = || {
            rows.iter()
                .map(|row| row.targets[target])
                .filter(|y| !y.is_nan())
        };
        let first = present().next();
        if let (Task::Regression, Some(first)) = (task, first)
            && rows.len() > 1
            && present().all(|y| y == first)
        {
            return Err(NetsError::ConstantTarget {
                name: name(),
                value: first,
            });
        }
        if first.is_none() {
            return Err(NetsError::TooFewRows {
                name: format!("{}, column {}", dataset.name(), dataset.outputs()[target]),
                got: 0,
                least: LEAST_ROWS,
                rejected: dataset.bad_rows().len(),
            });
        }
        let classes = match task {
            Task::Regression => 0,
            Task::Binary => 2,
            Task::Multiclass => dataset.outputs().len(),
        };
        if task == Task::Multiclass && classes < 2 {
            return Err(NetsError::OneClass {
                name: name(),
                class: "any second class".to_owned(),
                got: 0,
                least: LEAST_OF_CLASS,
            });
        }
        for class in 0..classes {
            let got = present().filter(|y| *y == class as f64).count();
            if got < LEAST_OF_CLASS {
                return Err(NetsError::OneClass {
                    name: name(),
                    class: match task {
                        Task::Multiclass => format!("class {:?}", dataset.outputs()[class]),
                        Task::Regression | Task::Binary => format!("class {class}"),
                    },
                    got,
                    least: LEAST_OF_CLASS,
                });
            }
        }
    }
    if rows.len() < LEAST_ROWS {
        return Err(NetsError::TooFewRows {
            name: name(),
            got: rows.len(),
            least: LEAST_ROWS,
            rejected: dataset.bad_rows().len(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
