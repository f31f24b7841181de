//! What is trained and how. Defaults train a model on a thousand molecules within seconds.

use crate::error::NetsError;

/// Which network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelKind {
    /// Ridge regression, or logistic regression for classes. One round when encrypted.
    Linear,
    /// One hidden layer with ReLU. Two rounds when encrypted.
    Mlp {
        /// Neurons of the hidden layer.
        hidden: usize,
    },
}

impl ModelKind {
    /// The short name: `linear` or `mlp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Mlp { .. } => "mlp",
        }
    }
}

/// Everything that a training run depends on besides the data set, which brings the task and the
/// featuriser.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainConfig {
    /// Name in the registry: `a-z 0-9 - _ .`.
    pub name: String,
    /// Which network.
    pub kind: ModelKind,
    /// What is predicted, e.g. "aqueous solubility".
    pub endpoint: String,
    /// Its unit, e.g. "log10 mol/L".
    pub unit: String,
    /// One line for the catalogue.
    pub description: String,
    /// Seed of split, initialisation, order and simulated rounding. Public: it is in the manifest.
    pub seed: u64,
    /// Most passes over the data; early stopping usually ends before (MLP).
    pub epochs: usize,
    /// Step size of AdamW (MLP).
    pub learning_rate: f64,
    /// Decoupled weight decay of AdamW (MLP). The linear model finds its penalty itself.
    pub weight_decay: f64,
    /// Networks, each stopped by another fold, averaged by folding them into one wider network; 1
    /// trains a single one (MLP).
    pub ensemble: usize,
    /// b: bits to which hidden pre-activations are rounded, 3 to 8 (MLP).
    pub activation_bits: u8,
    /// B: bits of the released prediction, 8 to 16.
    pub output_bits: u8,
    /// Part of the molecules that is held out, between 0 and 1.
    pub test_fraction: f64,
    /// Holds one fold out instead of that part: for cross-validation, where all folds of a seed
    /// together are the data set.
    pub fold: Option<Fold>,
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
            kind: ModelKind::Mlp { hidden: 64 },
            endpoint: "measured value".to_owned(),
            unit: String::new(),
            description: String::new(),
            seed: 1,
            epochs: 120,
            learning_rate: 3e-3,
            weight_decay: 2.0,
            ensemble: 1,
            activation_bits: 6,
            output_bits: 12,
            test_fraction: 0.2,
            fold: None,
        }
    }
}

impl TrainConfig {
    /// Refuses what cannot work, before any time is spent.
    pub(crate) fn check(&self) -> Result<(), NetsError> {
        if let Some(fold) = self.fold
            && !((2..=20).contains(&fold.of) && fold.index < fold.of)
        {
            return Err(NetsError::Config {
                what: "fold",
                value: format!("{} of {}", fold.index, fold.of),
                allowed: "an index below 2 to 20 folds",
            });
        }
        let require = |holds: bool, what, value: String, allowed| {
            if holds {
                Ok(())
            } else {
                Err(NetsError::Config {
                    what,
                    value,
                    allowed,
                })
            }
        };
        let show = |value: f64| format!("{value}");
        if let ModelKind::Mlp { hidden } = self.kind {
            let fits = (1..=1024).contains(&hidden);
            require(
                fits,
                "the number of hidden neurons",
                hidden.to_string(),
                "1 to 1024",
            )?;
        }
        require(
            (1..=10).contains(&self.ensemble),
            "the number of networks in the ensemble",
            self.ensemble.to_string(),
            "1 to 10",
        )?;
        if let ModelKind::Mlp { hidden } = self.kind {
            require(
                hidden * self.ensemble <= 1024,
                "the number of hidden neurons of the whole ensemble",
                (hidden * self.ensemble).to_string(),
                "at most 1024",
            )?;
        }
        let (b, big) = (self.activation_bits, self.output_bits);
        require(
            (3..=8).contains(&b),
            "the activation precision",
            b.to_string(),
            "3 to 8 bits",
        )?;
        require(
            (8..=16).contains(&big),
            "the output precision",
            big.to_string(),
            "8 to 16 bits",
        )?;
        let epochs = (1..=100_000).contains(&self.epochs);
        require(
            epochs,
            "the number of epochs",
            self.epochs.to_string(),
            "1 to 100000",
        )?;
        let fraction = self.test_fraction > 0.0 && self.test_fraction <= 0.9;
        require(
            fraction,
            "the test fraction",
            show(self.test_fraction),
            "above 0, at most 0.9",
        )?;
        let rate = self.learning_rate > 0.0 && self.learning_rate <= 1.0;
        require(
            rate,
            "the learning rate",
            show(self.learning_rate),
            "above 0, at most 1",
        )?;
        let decay = self.weight_decay >= 0.0 && self.weight_decay * self.learning_rate < 1.0;
        require(
            decay,
            "the weight decay",
            show(self.weight_decay),
            "0 or more, below 1 / learning rate",
        )
    }
}
