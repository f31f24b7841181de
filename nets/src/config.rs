//! What is trained and how. Defaults train a model on a thousand molecules within seconds.

use std::path::PathBuf;

use chemxor_fhe::network::activation::Activation;
use serde::{Deserialize, Serialize};

use crate::error::NetsError;
use crate::trees::TreeSettings;

/// Which model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ModelKind {
    /// Ridge regression, or logistic regression for classes. One round when encrypted.
    Linear,
    /// Hidden layers, fully connected. A round more than there are hidden layers.
    Mlp,
    /// Gradient boosted trees. Two rounds, and exact but for the released rounding.
    Trees,
    /// Random forest. Two rounds, exact.
    Forest,
    /// Convolution 1→32 (3x3, stride 3) and three dense layers on a 32x32 image. Three rounds.
    OlindaZero,
    /// Convolutions 1→32 (stride 3), 32→32 and four dense layers. Five rounds.
    Olinda,
    /// Convolutions 1→32 (stride 3), 32→32, 32→64, 64→64 and four dense layers. Seven rounds.
    OlindaOne,
}

impl ModelKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Linear,
        Self::Mlp,
        Self::Trees,
        Self::Forest,
        Self::OlindaZero,
        Self::Olinda,
        Self::OlindaOne,
    ];

    /// The short name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Mlp => "mlp",
            Self::Trees => "trees",
            Self::Forest => "forest",
            Self::OlindaZero => "olinda-zero",
            Self::Olinda => "olinda",
            Self::OlindaOne => "olinda-one",
        }
    }
}

/// How the step size changes over a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Not at all; early stopping ends the training.
    Constant,
    /// Rises over the first twentieth of the epochs, then falls along a cosine to 0
    /// (Loshchilov and Hutter 2017).
    Cosine,
}

/// Weights of the classes in the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassWeights {
    /// Every molecule counts the same.
    Equal,
    /// Every class counts the same.
    Balanced,
}

/// Everything that a training run depends on besides the data set, which brings the task and the
/// featuriser. Every field can be set in a TOML file under its own name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrainConfig {
    /// Name in the registry: `a-z 0-9 - _ .`.
    pub name: String,
    /// Which model.
    pub kind: ModelKind,
    /// What is predicted, e.g. "aqueous solubility".
    pub endpoint: String,
    /// Its unit, e.g. "log10 mol/L".
    pub unit: String,
    /// One line for the catalogue.
    pub description: String,
    /// Seed of split, initialisation, order and simulated rounding. Public: it is in the manifest.
    pub seed: u64,
    /// Neurons of each hidden layer (MLP).
    pub hidden: Vec<usize>,
    /// Of the hidden layers (MLP). The Olinda nets have ChemXor's polynomial.
    pub activation: Activation,
    /// Most passes over the data; early stopping usually ends before (networks).
    pub epochs: usize,
    /// Epochs without a better validation loss that end a training (networks).
    pub patience: usize,
    /// Molecules of one gradient step (networks).
    pub batch: usize,
    /// Step size of AdamW (networks).
    pub learning_rate: f64,
    /// How it changes (networks).
    pub schedule: Schedule,
    /// Decoupled weight decay of AdamW (networks). The linear model finds its penalty itself.
    pub weight_decay: f64,
    /// Part of the hidden neurons left out of each gradient step, 0 to below 1 (networks).
    pub dropout: f64,
    /// Classes in the loss.
    pub class_weights: ClassWeights,
    /// Part of each class label spread over the classes, 0 to below 0.5: a brake on memorising
    /// (networks).
    pub label_smoothing: f64,
    /// Networks, each stopped by another fold, averaged by folding them into one wider network; 1
    /// trains a single one (MLP).
    pub ensemble: usize,
    /// b: bits to which hidden pre-activations are rounded, 3 to 8 (networks). Without it the
    /// cheapest for each layer is searched that loses at most `precision_loss`.
    pub activation_bits: Option<u8>,
    /// Largest relative loss of the validation figure that the search for precisions accepts.
    pub precision_loss: f64,
    /// B: bits of the released prediction, 8 to 16.
    pub output_bits: u8,
    /// Part of the molecules that is held out, between 0 and 1.
    pub test_fraction: f64,
    /// Holds one fold out instead of that part: for cross-validation, where all folds of a seed
    /// together are the data set.
    #[serde(skip)]
    pub fold: Option<Fold>,
    /// How trees are grown (trees and forests).
    pub trees: TreeSettings,
    /// Gradients with differential privacy (MLP).
    pub private: Option<PrivateSettings>,
    /// Folder for the state after each epoch and the three best networks. A training that finds
    /// its own state there goes on from it (networks).
    pub checkpoints: Option<PathBuf>,
}

/// Differentially private training (Abadi et al. 2016). The table `[private]` of a TOML file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PrivateSettings {
    /// ε that the whole training may spend; the noise follows from it.
    pub epsilon: f64,
    /// δ; by default a tenth of one over the number of molecules.
    #[serde(default)]
    pub delta: Option<f64>,
    /// Largest norm of the gradient of one molecule.
    #[serde(default = "one")]
    pub clip: f64,
    /// Lowest and highest value of the target that is possible, known without looking at the data;
    /// measured values beyond are cut. A regression needs it.
    #[serde(default)]
    pub target_range: Option<[f64; 2]>,
}

fn one() -> f64 {
    1.0
}

/// One fold of a cross-validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fold {
    /// Number of folds.
    pub of: usize,
    /// Which one, from 0.
    pub index: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            name: "model".to_owned(),
            kind: ModelKind::Mlp,
            endpoint: "measured value".to_owned(),
            unit: String::new(),
            description: String::new(),
            seed: 1,
            hidden: vec![64],
            activation: Activation::Relu,
            epochs: 120,
            patience: 15,
            batch: 32,
            learning_rate: 3e-3,
            schedule: Schedule::Constant,
            weight_decay: 2.0,
            dropout: 0.0,
            class_weights: ClassWeights::Equal,
            label_smoothing: 0.0,
            ensemble: 1,
            activation_bits: None,
            precision_loss: 0.01,
            output_bits: 12,
            test_fraction: 0.2,
            fold: None,
            trees: TreeSettings::boosted(),
            private: None,
            checkpoints: None,
        }
    }
}

impl TrainConfig {
    /// Settings that serve a kind without tuning.
    pub fn preset(kind: ModelKind) -> Self {
        let base = Self {
            kind,
            ..Self::default()
        };
        match kind {
            ModelKind::Linear | ModelKind::Mlp | ModelKind::Trees => base,
            ModelKind::Forest => Self {
                trees: TreeSettings::forest(),
                ..base
            },
            ModelKind::OlindaZero | ModelKind::Olinda | ModelKind::OlindaOne => Self {
                epochs: 40,
                patience: 8,
                learning_rate: 2e-3,
                weight_decay: 0.01,
                ..base
            },
        }
    }

    /// b that training simulates.
    pub(crate) fn trained_bits(&self) -> u8 {
        self.activation_bits.unwrap_or(6)
    }

    /// Refuses what cannot work, before any time is spent.
    pub(crate) fn check(&self) -> Result<(), NetsError> {
        if let Some(fold) = self.fold {
            let holds = (2..=20).contains(&fold.of) && fold.index < fold.of;
            let shown = format!("{} of {}", fold.index, fold.of);
            require(holds, "the fold", shown, "an index below 2 to 20 folds")?;
        }
        self.check_shape()?;
        self.check_private()?;
        self.check_trees()?;
        let within = |value: f64, low: f64, high: f64| value >= low && value < high;
        let number = |holds: bool, what, value: f64, allowed| {
            require(holds, what, value.to_string(), allowed)
        };
        let count = |value: usize, most: usize, what, allowed| {
            require(
                (1..=most).contains(&value),
                what,
                value.to_string(),
                allowed,
            )
        };
        if let Some(b) = self.activation_bits {
            let holds = (3..=8).contains(&b);
            require(
                holds,
                "the activation precision",
                b.to_string(),
                "3 to 8 bits",
            )?;
        }
        let big = self.output_bits;
        let holds = (8..=16).contains(&big);
        require(
            holds,
            "the output precision",
            big.to_string(),
            "8 to 16 bits",
        )?;
        count(self.epochs, 100_000, "the number of epochs", "1 to 100000")?;
        count(self.patience, 100_000, "the patience", "1 to 100000 epochs")?;
        count(self.batch, 4096, "the batch", "1 to 4096 molecules")?;
        let fraction = self.test_fraction;
        let holds = fraction > 0.0 && fraction <= 0.9;
        number(holds, "the test fraction", fraction, "above 0, at most 0.9")?;
        let rate = self.learning_rate;
        number(
            rate > 0.0 && rate <= 1.0,
            "the learning rate",
            rate,
            "above 0, at most 1",
        )?;
        let decay = self.weight_decay;
        let allowed = "0 or more, below 1 / learning rate";
        number(
            within(decay * rate, 0.0, 1.0),
            "the weight decay",
            decay,
            allowed,
        )?;
        let dropout = self.dropout;
        number(
            within(dropout, 0.0, 1.0),
            "the dropout",
            dropout,
            "0 to below 1",
        )?;
        let smoothing = self.label_smoothing;
        let allowed = "0 to below 0.5";
        number(
            within(smoothing, 0.0, 0.5),
            "the label smoothing",
            smoothing,
            allowed,
        )?;
        let loss = self.precision_loss;
        let holds = loss > 0.0 && loss <= 1.0;
        number(
            holds,
            "the accepted loss of precision",
            loss,
            "above 0, at most 1",
        )
    }

    fn check_private(&self) -> Result<(), NetsError> {
        let Some(private) = self.private else {
            return Ok(());
        };
        // a checkpoint would keep the noise, and weights of classes depend on the data
        let plain = self.kind == ModelKind::Mlp
            && self.ensemble == 1
            && self.checkpoints.is_none()
            && self.class_weights == ClassWeights::Equal;
        require(
            plain,
            "differentially private training",
            format!("asked for with {} and these settings", self.kind.name()),
            "a single mlp without checkpoints and class weights",
        )?;
        let number = |holds: bool, what, value: f64, allowed| {
            require(holds, what, value.to_string(), allowed)
        };
        let within = |value: f64, low: f64, high: f64| value > low && value <= high;
        number(
            within(private.epsilon, 0.0, 1000.0),
            "ε",
            private.epsilon,
            "above 0, at most 1000",
        )?;
        let delta = private.delta.unwrap_or(1e-5);
        number(
            within(delta, 0.0, 0.1),
            "δ",
            delta,
            "above 0, at most 0.1; less than one over the number of molecules",
        )?;
        number(
            within(private.clip, 0.0, 1e6),
            "the clipping norm",
            private.clip,
            "above 0, at most 1000000",
        )?;
        let Some([low, high]) = private.target_range else {
            return Ok(());
        };
        let holds = low.is_finite() && high.is_finite() && low < high;
        let shown = format!("{low} to {high}");
        require(
            holds,
            "the range of the target",
            shown,
            "two finite numbers, ascending",
        )
    }

    fn check_trees(&self) -> Result<(), NetsError> {
        let trees = &self.trees;
        let count = |value: usize, most: usize, what, allowed| {
            let holds = (1..=most).contains(&value);
            require(holds, what, value.to_string(), allowed)
        };
        count(trees.trees, 2000, "the number of trees", "1 to 2000")?;
        count(trees.depth, 10, "the depth of the trees", "1 to 10")?;
        count(
            trees.least_leaf,
            10_000,
            "the least number of molecules of a leaf",
            "1 to 10000",
        )?;
        count(
            trees.patience,
            10_000,
            "the patience of boosting",
            "1 to 10000 trees",
        )?;
        for (what, value, allowed) in [
            ("the rate of boosting", trees.rate, "above 0, at most 1"),
            ("the part of the rows", trees.rows, "above 0, at most 1"),
            (
                "the part of the columns",
                trees.columns,
                "above 0, at most 1",
            ),
        ] {
            require(
                value > 0.0 && value <= 1.0,
                what,
                value.to_string(),
                allowed,
            )?;
        }
        let holds = trees.penalty >= 0.0 && trees.penalty.is_finite();
        require(
            holds,
            "the penalty of leaves",
            trees.penalty.to_string(),
            "0 or more",
        )
    }

    fn check_shape(&self) -> Result<(), NetsError> {
        require(
            (1..=10).contains(&self.ensemble),
            "the number of networks in the ensemble",
            self.ensemble.to_string(),
            "1 to 10",
        )?;
        if self.kind == ModelKind::Trees {
            return Ok(());
        }
        if self.kind != ModelKind::Mlp {
            let shown = self.ensemble.to_string();
            let what = "the number of networks in the ensemble";
            return require(self.ensemble == 1, what, shown, "1 for this kind of model");
        }
        let shown = format!("{:?}", self.hidden);
        require(
            (1..=8).contains(&self.hidden.len()),
            "the list of hidden layers",
            shown,
            "1 to 8 layers",
        )?;
        for width in &self.hidden {
            let all = width.saturating_mul(self.ensemble);
            require(
                (1..=1024).contains(width) && all <= 1024,
                "the number of hidden neurons of a layer, over the whole ensemble",
                all.to_string(),
                "1 to 1024",
            )?;
        }
        Ok(())
    }
}

fn require(
    holds: bool,
    what: &'static str,
    value: String,
    allowed: &'static str,
) -> Result<(), NetsError> {
    if holds {
        Ok(())
    } else {
        Err(NetsError::Config {
            what,
            value,
            allowed,
        })
    }
}
