//! Options of `chemxor train`. Each overrides the same key of the TOML file.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use chemxor_chem::{FEATURISER_NAMES, named};
use chemxor_core::{Standardisation, Task};
use chemxor_nets::{
    ClassWeights, HoldOut, ModelKind, PrivateSettings, ReadOptions, Schedule, TrainConfig,
};
use clap::{Args as ClapArgs, ValueEnum};

/// What is predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TaskArg {
    /// A number.
    Regression,
    /// Class 0 or 1.
    Binary,
    /// One of several classes.
    Multiclass,
}

impl From<TaskArg> for Task {
    fn from(task: TaskArg) -> Self {
        match task {
            TaskArg::Regression => Self::Regression,
            TaskArg::Binary => Self::Binary,
            TaskArg::Multiclass => Self::Multiclass,
        }
    }
}

/// What is done to molecules first.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub(crate) struct StandardArgs {
    /// Keep the largest fragment of each molecule: counter-ions and solvents go.
    #[arg(long)]
    pub(crate) largest_fragment: bool,
    /// Remove charges that hydrogens can balance.
    #[arg(long)]
    pub(crate) neutralise: bool,
}

impl StandardArgs {
    pub(crate) fn standardisation(self) -> Standardisation {
        Standardisation {
            largest_fragment: self.largest_fragment,
            neutralise: self.neutralise,
        }
    }
}

/// Which table to read, and how.
#[derive(Debug, ClapArgs)]
pub(crate) struct DataArgs {
    /// CSV, TSV or .smi file, also compressed (.gz).
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// Column with the SMILES: a name, or a position from 1.
    #[arg(long, default_value = "smiles", value_name = "COLUMN")]
    pub(crate) smiles_column: String,
    /// Column with the measured value, class 0 or 1, or class label; give it again for a model of
    /// several endpoints, whose fields may be empty.
    #[arg(
        long = "target-column",
        default_value = "target",
        value_name = "COLUMN"
    )]
    pub(crate) target_columns: Vec<String>,
    /// What is predicted.
    #[arg(long, value_enum, default_value_t = TaskArg::Regression)]
    pub(crate) task: TaskArg,
    /// Cuts the measured value into classes; give it again for more than two.
    #[arg(
        long = "threshold",
        value_name = "VALUE",
        allow_negative_numbers = true
    )]
    pub(crate) thresholds: Vec<f64>,
    /// How molecules become integers; `chemxor features --help` lists the names.
    #[arg(long, value_name = "NAME", default_value = "ecfp4-counts+descriptors")]
    pub(crate) featuriser: String,
    #[command(flatten)]
    pub(crate) standard: StandardArgs,
    /// Which molecules are held out: random, scaffold (no Bemis-Murcko scaffold on both sides), or
    /// column:NAME (the last ones by that column, e.g. a date).
    #[arg(long, value_parser = hold_out, default_value = "random", value_name = "HOW")]
    pub(crate) split: HoldOut,
}

fn hold_out(text: &str) -> Result<HoldOut, String> {
    match (text, text.strip_prefix("column:")) {
        ("random", _) => Ok(HoldOut::Random),
        ("scaffold", _) => Ok(HoldOut::Scaffold),
        (_, Some(name)) if !name.is_empty() => Ok(HoldOut::Column(name.to_owned())),
        _ => Err("there are random, scaffold and column:NAME".to_owned()),
    }
}

impl DataArgs {
    pub(crate) fn read_options(&self) -> Result<ReadOptions> {
        let Some(featuriser) = named(&self.featuriser) else {
            bail!(
                "no featuriser is called {:?}; there are {}",
                self.featuriser,
                FEATURISER_NAMES.join(", ")
            );
        };
        Ok(ReadOptions {
            featuriser,
            smiles_column: self.smiles_column.clone(),
            target_columns: self.target_columns.clone(),
            thresholds: self.thresholds.clone(),
            task: self.task.into(),
            standardisation: self.standard.standardisation(),
            hold_out: self.split.clone(),
        })
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ImportArgs {
    /// ONNX network (.onnx), XGBoost model (.json) or LightGBM model (.txt).
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) train: TrainArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DistilArgs {
    /// Bundle of the model whose predictions are learned from; `chemxor import` makes one of ONNX,
    /// XGBoost and LightGBM models.
    pub(crate) teacher: PathBuf,
    /// Keep the teacher's predictions in this file [default: beside the bundle, with the ending
    /// .labels.csv].
    #[arg(long, value_name = "CSV")]
    pub(crate) labels: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) train: TrainArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// Bundle to write.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// CSV to write with the held-out molecules and their plain predictions.
    #[arg(long, value_name = "CSV")]
    pub(crate) holdout: Option<PathBuf>,
    /// Report to write, one HTML file [default: beside the bundle, with the ending .html].
    #[arg(long, value_name = "HTML")]
    pub(crate) report: Option<PathBuf>,
    /// Result of `chemxor audit-privacy`; its figures go into the report and the manifest.
    #[arg(long, value_name = "JSON")]
    pub(crate) audit: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AuditPrivacyArgs {
    /// The bundle that is attacked; data and settings must be those that it was trained with.
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: PathBuf,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// Shadow models, an even number from 4 to 512; more make a stronger attack.
    #[arg(long, default_value_t = 16, value_name = "COUNT")]
    pub(crate) shadows: usize,
    /// Ends with the shadow models that are trained after so many minutes, at least 4.
    #[arg(long, value_name = "MINUTES")]
    pub(crate) max_minutes: Option<f64>,
    /// JSON to write, for `--audit` of other commands.
    #[arg(long, value_name = "JSON")]
    pub(crate) output: Option<PathBuf>,
    /// Write the figures into the manifest of the bundle, which makes it another version.
    #[arg(long)]
    pub(crate) update_bundle: bool,
}

/// How to train.
#[derive(Debug, ClapArgs)]
pub(crate) struct SettingsArgs {
    /// Kind of model: linear, mlp, trees, forest, olinda-zero, olinda or olinda-one; auto compares the
    /// first four by cross-validation.
    #[arg(long = "model", value_parser = kind, default_value = "mlp", value_name = "KIND")]
    pub(crate) kind: KindArg,
    /// Seconds after which `--model auto` tries no further kind.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub(crate) time_budget: u64,
    /// Largest estimated time of an encrypted query on one thread that `--model auto` accepts, in ms.
    #[arg(long, default_value_t = 100.0, value_name = "MS")]
    pub(crate) latency_budget: f64,
    /// TOML file with hyper-parameters; options given here come first.
    #[arg(long, value_name = "TOML")]
    pub(crate) config: Option<PathBuf>,
    /// Name in the registry.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// What is predicted, for the catalogue.
    #[arg(long)]
    pub(crate) endpoint: Option<String>,
    /// Its unit.
    #[arg(long)]
    pub(crate) unit: Option<String>,
    /// One line for the catalogue.
    #[arg(long)]
    pub(crate) description: Option<String>,
    /// Seed of the run.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Neurons of a hidden layer; give it again for each further layer.
    #[arg(long)]
    pub(crate) hidden: Vec<usize>,
    /// relu, softplus-polynomial, softplus, sigmoid or tanh.
    #[arg(long)]
    pub(crate) activation: Option<String>,
    /// Most passes over the data.
    #[arg(long)]
    pub(crate) epochs: Option<usize>,
    /// Epochs without a better validation loss that end a training.
    #[arg(long)]
    pub(crate) patience: Option<usize>,
    /// Molecules of one gradient step.
    #[arg(long)]
    pub(crate) batch: Option<usize>,
    /// Step size of AdamW.
    #[arg(long)]
    pub(crate) learning_rate: Option<f64>,
    /// constant, or cosine with warm-up.
    #[arg(long, value_parser = schedule)]
    pub(crate) schedule: Option<Schedule>,
    /// Decoupled weight decay of AdamW.
    #[arg(long)]
    pub(crate) weight_decay: Option<f64>,
    /// Part of the hidden neurons left out of each gradient step.
    #[arg(long)]
    pub(crate) dropout: Option<f64>,
    /// Let every class count the same in the loss.
    #[arg(long)]
    pub(crate) balanced: bool,
    /// Part of each class label spread over the classes.
    #[arg(long)]
    pub(crate) label_smoothing: Option<f64>,
    /// Networks that are averaged, each stopped by another fold; they run as one wider network.
    #[arg(long)]
    pub(crate) ensemble: Option<usize>,
    /// b: bits of a hidden pre-activation; searched by default.
    #[arg(long)]
    pub(crate) activation_bits: Option<u8>,
    /// Largest relative loss of the validation figure that the search for bits accepts [default: 0.01].
    #[arg(long)]
    pub(crate) precision_loss: Option<f64>,
    /// B: bits of the released prediction [default: 12].
    #[arg(long)]
    pub(crate) output_bits: Option<u8>,
    /// Part of the molecules that is held out [default: 0.2].
    #[arg(long)]
    pub(crate) test_fraction: Option<f64>,
    /// Train with differential privacy: what the whole training may spend (mlp).
    #[arg(long, value_name = "EPSILON")]
    pub(crate) dp_epsilon: Option<f64>,
    /// δ of it [default: a tenth of one over the number of molecules].
    #[arg(long, value_name = "DELTA", requires = "dp_epsilon")]
    pub(crate) dp_delta: Option<f64>,
    /// Largest norm of the gradient of one molecule.
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    pub(crate) dp_clip: f64,
    /// Lowest and highest possible value of a regression's target, known without the data.
    #[arg(
        long,
        num_args = 2,
        value_names = ["LOW", "HIGH"],
        allow_negative_numbers = true,
        requires = "dp_epsilon"
    )]
    pub(crate) dp_target_range: Vec<f64>,
    /// Folder for checkpoints; a training that was interrupted goes on from there.
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoints: Option<PathBuf>,
}

/// A kind, or the comparison of several.
#[derive(Debug, Clone, Copy)]
pub(crate) enum KindArg {
    Auto,
    One(ModelKind),
}

fn kind(text: &str) -> Result<KindArg, String> {
    if text == "auto" {
        return Ok(KindArg::Auto);
    }
    let found = ModelKind::ALL.into_iter().find(|kind| kind.name() == text);
    found.map(KindArg::One).ok_or_else(|| {
        let names: Vec<&str> = ModelKind::ALL.iter().map(|kind| kind.name()).collect();
        format!("there are auto, {}", names.join(", "))
    })
}

fn schedule(text: &str) -> Result<Schedule, String> {
    match text {
        "constant" => Ok(Schedule::Constant),
        "cosine" => Ok(Schedule::Cosine),
        _ => Err("there are constant and cosine".to_owned()),
    }
}

impl SettingsArgs {
    /// The preset of the kind, then the TOML file, then the options.
    pub(crate) fn resolve(&self) -> Result<TrainConfig> {
        let kind = match self.kind {
            KindArg::Auto => ModelKind::Linear,
            KindArg::One(kind) => kind,
        };
        let mut table = toml::Table::try_from(TrainConfig::preset(kind))?;
        if let Some(path) = &self.config {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let file: toml::Table = text
                .parse()
                .with_context(|| format!("{} is no TOML file", path.display()))?;
            if let Some(kind) = file.get("kind") {
                let kind: ModelKind = kind
                    .clone()
                    .try_into()
                    .with_context(|| format!("{}: kind", path.display()))?;
                table = toml::Table::try_from(TrainConfig::preset(kind))?;
            }
            table.extend(file);
        }
        let mut config: TrainConfig = table.try_into().with_context(|| {
            let path = self.config.as_deref().unwrap_or(std::path::Path::new(""));
            format!("{}: a key or value is not known", path.display())
        })?;
        macro_rules! over {
            ($($field:ident),*) => {
                $(if let Some(value) = &self.$field { config.$field = value.clone(); })*
            };
        }
        over!(
            name,
            endpoint,
            unit,
            description,
            seed,
            epochs,
            patience,
            batch,
            learning_rate,
            schedule,
            weight_decay,
            dropout,
            label_smoothing,
            ensemble,
            precision_loss,
            output_bits,
            test_fraction
        );
        if !self.hidden.is_empty() {
            config.hidden.clone_from(&self.hidden);
        }
        if let Some(activation) = &self.activation {
            config.activation = toml::Value::String(activation.clone())
                .try_into()
                .with_context(|| format!("no activation is called {activation:?}"))?;
        }
        if self.balanced {
            config.class_weights = ClassWeights::Balanced;
        }
        if self.activation_bits.is_some() {
            config.activation_bits = self.activation_bits;
        }
        if let Some(epsilon) = self.dp_epsilon {
            config.private = Some(PrivateSettings {
                epsilon,
                delta: self.dp_delta,
                clip: self.dp_clip,
                target_range: match self.dp_target_range.as_slice() {
                    [low, high] => Some([*low, *high]),
                    _ => None,
                },
            });
        }
        if self.checkpoints.is_some() {
            config.checkpoints.clone_from(&self.checkpoints);
        }
        Ok(config)
    }
}
