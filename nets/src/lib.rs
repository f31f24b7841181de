//! From a table of measured molecules to a model that can be evaluated encrypted.
//!
//! | module | what it holds |
//! |---|---|
//! | `dataset`, `split` | a CSV with every bad row accounted for; seeded split |
//! | `linear`, `net` | ridge and logistic regression; fully connected and convolutional networks |
//! | `trees` | gradient boosting and random forests on the public grid |
//! | `onnx` | networks from PyTorch and scikit-learn |
//! | `model` | the float model, and from it the integers of chemxor-fhe and a planned step graph |
//! | `twin` | evaluation of those integers in clear |
//! | `audit` | membership inference on what is released |
//! | `report` | the report as data and as HTML |
//! | `metrics` | figures of merit with bootstrap intervals |
//! | `train` | all of it in order, up to the bundle and the report |
//!
//! Invariant: the bundle holds the very integers that the twin was measured with, and a seed gives
//! the same integers again. What randomness must be secret (the salt of a blob) never comes from
//! the seed, which is published. Bad input is an error that names the input, the reason and the
//! next step; a bad row never ends a run.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod audit;
mod auto;
mod config;
mod dataset;
mod error;
mod linear;
mod matrix;
mod metrics;
mod model;
mod net;
mod onnx;
mod report;
mod split;
mod train;
mod trees;
mod twin;

pub use audit::{
    Attack, AuditOptions, AuditProgress, Operating, PrivacyAudit, Proportion, Target, audit,
    state_audit,
};
pub use auto::{Budget, Candidate, Comparison, choose};
pub use config::{ClassWeights, Fold, ModelKind, PrivateSettings, Schedule, TrainConfig};
pub use dataset::{BadRow, Dataset, Duplicates, HoldOut, ReadOptions, Row};
pub use error::NetsError;
pub use metrics::{
    Bootstrap, Figure, Interval, accuracy, balanced_accuracy, brier, expected_calibration_error,
    figures, higher_is_better, mae, mcc, metric, metric_name, pr_auc, probability, r2, rmse,
    roc_auc, spearman,
};
pub use onnx::{FinalActivation, OnnxError, OnnxModel, read_onnx};
pub use report::{Curve, HeldOut, Page, PlanRow, Progress, Series, SweepRow, TrainReport};
pub use train::{ForeignModel, Trained, import, known_answers, train};
pub use trees::{ImportError, Imported, Leaf, Tree, TreeModel, TreeSettings};
pub use twin::predict_twin;
