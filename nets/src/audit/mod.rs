//! Privacy audit: how well an attacker with queries tells training molecules from others.
//!
//! | module | what it holds |
//! |---|---|
//! | `shadow` | models of the same recipe on random halves of the data |
//! | `attack` | the likelihood-ratio attack (LiRA) and its operating points |
//! | `proportion` | exact intervals of proportions |
//!
//! The attack is that of Carlini et al. (2022, arXiv:2112.03570) on what an encrypted query
//! releases: the integers of the model, rounded as the protocol rounds. Shadows come in pairs that
//! learn complementary halves, so every molecule was learned by exactly half of them.
//!
//! Invariant: a molecule counts as a member if it stood on the side of the split that the model
//! learned from, validation included, and spellings of one molecule are on one side.

mod attack;
mod proportion;
mod shadow;

use std::time::{Duration, Instant};

use chemxor_core::{Bundle, Manifest, MembershipInference, Task};
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::twin::stochastic;
use rand::RngExt;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use proportion::Proportion;

use crate::config::TrainConfig;
use crate::dataset::Dataset;
use crate::error::NetsError;
use crate::split::{Split, folds, generator, hold_out};
use attack::{Attacked, Observed};

/// Version of the JSON of an audit.
const FORMAT: u32 = 1;
/// Stream of the seed for the carries of the queries.
const QUERIES: u64 = 7;
/// Fewest and most shadow models.
const LEAST_SHADOWS: usize = 4;
const MOST_SHADOWS: usize = 512;
/// The group of all molecules.
pub(crate) const EVERYBODY: &str = "all molecules";

/// How much is spent on an audit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AuditOptions {
    /// Shadow models, an even number from 4 to 512. The paper uses up to 256; 16 give a usable
    /// answer.
    pub shadows: usize,
    /// Ends with the shadows that were trained by then, at least 4.
    pub budget: Option<Duration>,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self {
            shadows: 16,
            budget: None,
        }
    }
}

/// How far an audit has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AuditProgress {
    /// Shadow models that are trained.
    pub done: usize,
    /// Of so many.
    pub shadows: usize,
    /// Since the start.
    pub elapsed: Duration,
    /// Estimate of what remains.
    pub remaining: Duration,
}

/// What is attacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The bundle: its training molecules against its held-out ones.
    Published,
    /// The recipe: each shadow model in turn, by the others. Many more pairs, so that small false
    /// positive rates can be resolved, but on half of the data, where models memorise more.
    Procedure,
}

/// An operating point: the largest true positive rate at a false positive rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operating {
    /// The false positive rate that was asked for.
    pub at: f64,
    /// Members that the attack finds.
    pub true_positives: Proportion,
    /// Others that it takes for members.
    pub false_positives: Proportion,
}

/// One attack on one group of molecules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attack {
    /// What is attacked.
    pub target: Target,
    /// Which molecules.
    pub group: String,
    /// `offline`: against models that have not learned the molecule; `online`: also against models
    /// that have.
    pub variant: String,
    /// Molecules that were learned.
    pub members: usize,
    /// Molecules that were not.
    pub others: usize,
    /// Area under the curve of true over false positives; 0.5 is guessing.
    pub auc: f64,
    /// 95 % bootstrap interval of the area.
    pub auc_interval: [f64; 2],
    /// At false positive rates 0, 0.001 and 0.01.
    pub points: Vec<Operating>,
    /// False and true positive rates along the curve.
    pub roc: Vec<[f64; 2]>,
}

/// What an audit found. Written as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacyAudit {
    /// Version of this form.
    pub format: u32,
    /// Name of the model.
    pub model: String,
    /// The version that was attacked.
    pub version: String,
    /// Kind of model.
    pub kind: String,
    /// SHA-256 of the training file, hex.
    pub data_sha256: String,
    /// Shadow models.
    pub shadows: usize,
    /// Every attack, the published model first.
    pub attacks: Vec<Attack>,
    /// Time it took.
    pub seconds: f64,
}

impl PrivacyAudit {
    /// Reads the JSON of an audit.
    pub fn from_json(name: &str, bytes: &[u8]) -> Result<Self, NetsError> {
        let refuse = |reason: String| NetsError::Audit {
            name: name.to_owned(),
            reason,
        };
        let audit: Self =
            serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
        if audit.format != FORMAT {
            let reason = format!(
                "it has format {}, this release reads {FORMAT}",
                audit.format
            );
            return Err(refuse(reason));
        }
        Ok(audit)
    }

    /// The strongest attack on all molecules of the published model at that false positive rate.
    pub fn worst(&self, target: Target, at: f64) -> Option<(&Attack, &Operating)> {
        let whole = |attack: &&Attack| attack.target == target && attack.group == EVERYBODY;
        self.attacks
            .iter()
            .filter(whole)
            .filter_map(|attack| {
                let point = attack.points.iter().find(|point| point.at == at)?;
                Some((attack, point))
            })
            .max_by(|a, b| {
                a.1.true_positives
                    .value
                    .total_cmp(&b.1.true_positives.value)
            })
    }
}

/// The same model with the figures of its audit in the manifest, which makes it another version.
pub fn state_audit(bundle: &Bundle, audit: &PrivacyAudit) -> Result<Bundle, NetsError> {
    let mut manifest = bundle.manifest().clone();
    let refuse = |reason: &str| NetsError::Audit {
        name: manifest.name.to_string(),
        reason: reason.to_owned(),
    };
    if audit.data_sha256 != manifest.data.sha256 || audit.model != manifest.name.as_str() {
        return Err(refuse(
            "it is of another model or other data; audit this model",
        ));
    }
    let (published, at_0) = audit
        .worst(Target::Published, 0.0)
        .ok_or_else(|| refuse("it has no attack on the published model; audit again"))?;
    let (_, at_001) = audit
        .worst(Target::Published, 1e-2)
        .ok_or_else(|| refuse("it has no attack on the published model; audit again"))?;
    let (_, at_0001) = audit
        .worst(Target::Procedure, 1e-3)
        .ok_or_else(|| refuse("it has no attack on the recipe; audit again"))?;
    let rate = |point: &Operating| {
        let p = point.true_positives;
        [p.value, p.low, p.high]
    };
    let found = MembershipInference {
        shadows: audit.shadows as u64,
        auc: [
            published.auc,
            published.auc_interval[0],
            published.auc_interval[1],
        ],
        members: published.members as u64,
        others: published.others as u64,
        found_at_0: rate(at_0),
        found_at_0001: rate(at_0001),
        found_at_001: at_001.true_positives.value,
    };
    manifest.privacy.get_or_insert_default().membership = Some(found);
    Ok(Bundle::new(&manifest, bundle.blobs().to_vec())?)
}

/// Attacks a bundle that `train` made of `dataset` with `config`. The seed of the bundle counts, not
/// that of `config`.
pub fn audit(
    dataset: &Dataset,
    config: &TrainConfig,
    bundle: &Bundle,
    options: &AuditOptions,
    progress: &mut dyn FnMut(AuditProgress),
) -> Result<PrivacyAudit, NetsError> {
    let started = Instant::now();
    let shadows = options.shadows;
    if !shadows.is_multiple_of(2) || !(LEAST_SHADOWS..=MOST_SHADOWS).contains(&shadows) {
        return Err(NetsError::Config {
            what: "the number of shadow models",
            value: shadows.to_string(),
            allowed: "an even number from 4 to 512",
        });
    }
    let manifest = bundle.manifest();
    let config = TrainConfig {
        seed: manifest.seed,
        checkpoints: None,
        ..config.clone()
    };
    config.check()?;
    let members = members(dataset, &config, manifest)?;
    let weights = bundle
        .blobs()
        .iter()
        .map(|blob| StepWeights::from_blob(blob))
        .collect::<Result<Vec<_>, _>>()?;
    let target = Observed {
        learned: members,
        confidence: confidences(dataset, &query(dataset, manifest, &weights)),
    };
    let bits: Vec<u8> = {
        let steps = manifest.graph.steps();
        steps[..steps.len() - 1]
            .iter()
            .map(|step| step.output_bits)
            .collect()
    };
    let mut models: Vec<Observed> = Vec::new();
    // pairs stay together
    let at_once = (rayon::current_num_threads() / 2 * 2).max(2);
    while models.len() < shadows {
        let next: Vec<usize> = (models.len()..shadows.min(models.len() + at_once)).collect();
        // threads of their own: a training waits for work that it gives to rayon's
        let trained: Vec<Observed> = std::thread::scope(|scope| {
            let running: Vec<_> = next
                .iter()
                .map(|number| scope.spawn(|| shadow::observe(dataset, &config, &bits, *number)))
                .collect();
            running
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect::<Result<_, NetsError>>()
        })?;
        models.extend(trained);
        let (done, elapsed) = (models.len(), started.elapsed());
        let each = elapsed.div_f64(done as f64);
        progress(AuditProgress {
            done,
            shadows,
            elapsed,
            remaining: each.mul_f64((shadows - done) as f64),
        });
        let spent = |budget: Duration| elapsed + each.mul_f64(at_once as f64) > budget;
        if done >= LEAST_SHADOWS && options.budget.is_some_and(spent) {
            break;
        }
    }
    let groups = groups(dataset);
    let mut attacks = Vec::new();
    for (target, attacked) in [
        (Target::Published, attack::on_target(&target, &models)),
        (Target::Procedure, attack::on_procedure(&models)),
    ] {
        for Attacked { variant, pairs } in &attacked {
            for (name, rows) in &groups {
                attacks.extend(attack::judge(
                    target,
                    name,
                    variant,
                    pairs,
                    rows,
                    config.seed,
                ));
            }
        }
    }
    Ok(PrivacyAudit {
        format: FORMAT,
        model: manifest.name.to_string(),
        version: bundle.version().to_string(),
        kind: config.kind.name().to_owned(),
        data_sha256: dataset.sha256().to_owned(),
        shadows: models.len(),
        attacks,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// For each row whether the model learned from it: the split of the training run again.
fn members(
    dataset: &Dataset,
    config: &TrainConfig,
    manifest: &Manifest,
) -> Result<Vec<bool>, NetsError> {
    let refuse = |reason: &str| NetsError::Audit {
        name: manifest.name.to_string(),
        reason: reason.to_owned(),
    };
    if manifest.data.sha256 != dataset.sha256() {
        return Err(refuse(
            "it was trained on another file; give the very training file",
        ));
    }
    if manifest.task != dataset.task()
        || manifest.featuriser != *dataset.featuriser()
        || manifest.standardisation != dataset.standardisation()
    {
        return Err(refuse(
            "its task, featuriser or standardisation differ; give the options of its training",
        ));
    }
    let rows = dataset.rows();
    let mut rng = generator(config.seed, crate::train::SPLIT);
    let Split { rest, aside } = match config.fold {
        None => hold_out(dataset, config.test_fraction, &mut rng),
        Some(fold) => {
            let all: Vec<usize> = (0..rows.len()).collect();
            folds(rows, &all, dataset.task(), fold.of, &mut rng).swap_remove(fold.index)
        }
    };
    let counts = (rest.len() as u64, aside.len() as u64);
    if counts != (manifest.data.train_rows, manifest.data.test_rows) {
        return Err(refuse(
            "its split into learned and held-out molecules cannot be made again; give the options of its training (--split, --test-fraction)",
        ));
    }
    let mut members = vec![false; rows.len()];
    for row in rest {
        members[row] = true;
    }
    Ok(members)
}

/// What one query releases for each row.
fn query(dataset: &Dataset, manifest: &Manifest, weights: &[StepWeights]) -> Vec<Vec<f64>> {
    dataset
        .rows()
        .par_iter()
        .enumerate()
        .map(|(number, row)| {
            let mut rng = generator(manifest.seed ^ (QUERIES << 32), number as u64);
            let carry = stochastic(|| rng.random::<f64>());
            crate::twin::predict_twin(manifest, weights, &dataset.dense(row), carry)
        })
        .collect()
}

/// How much each prediction supports the measured value: log-odds of the true class, or the
/// negative absolute error; NaN where nothing was measured.
fn confidences(dataset: &Dataset, predictions: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let task = dataset.task();
    dataset
        .rows()
        .iter()
        .zip(predictions)
        .map(|(row, predicted)| match task {
            Task::Multiclass => vec![crate::metrics::margin(predicted, row.target() as usize)],
            Task::Regression | Task::Binary => row
                .targets
                .iter()
                .zip(predicted)
                .map(|(y, p)| match task {
                    Task::Binary => (2.0 * y - 1.0) * p,
                    Task::Regression | Task::Multiclass => -(y - p).abs(),
                })
                .collect(),
        })
        .collect()
}

/// All molecules, and those that models remember best: the rarest class, or for numbers the tenth
/// that lies farthest from the median.
fn groups(dataset: &Dataset) -> Vec<(String, Vec<bool>)> {
    let rows = dataset.rows();
    let mut groups = vec![(EVERYBODY.to_owned(), vec![true; rows.len()])];
    let present: Vec<f64> = rows
        .iter()
        .map(|row| row.target())
        .filter(|y| !y.is_nan())
        .collect();
    match dataset.task() {
        Task::Binary | Task::Multiclass => {
            let classes = dataset.outputs().len().max(2);
            let count = |class: &usize| present.iter().filter(|y| **y == *class as f64).count();
            if let Some(rare) = (0..classes).min_by_key(count) {
                let name = match dataset.task() {
                    Task::Multiclass => dataset.outputs()[rare].clone(),
                    Task::Regression | Task::Binary => rare.to_string(),
                };
                let own = rows.iter().map(|row| row.target() == rare as f64);
                groups.push((format!("minority class {name}"), own.collect()));
            }
        }
        Task::Regression => {
            let mut sorted = present;
            sorted.sort_by(f64::total_cmp);
            let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
            let mut distances: Vec<f64> = sorted.iter().map(|y| (y - median).abs()).collect();
            distances.sort_by(f64::total_cmp);
            let at = (distances.len() as f64 * 0.9) as usize;
            let limit = distances.get(at).copied().unwrap_or(f64::INFINITY);
            let own = rows
                .iter()
                .map(|row| (row.target() - median).abs() >= limit);
            groups.push(("outlying tenth".to_owned(), own.collect()));
        }
    }
    groups
}

#[cfg(test)]
mod tests;
