//! Why there is no model. Each error names the input, the reason and what to do next.

use std::path::PathBuf;

/// Why data were refused or training failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetsError {
    /// The file cannot be opened or read.
    #[error("cannot read {path}: {reason}; check the path and its permissions", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// No header or no row.
    #[error(
        "{name} is empty; give a CSV file with a header line and one molecule on each further line"
    )]
    Empty {
        /// The file.
        name: String,
    },
    /// A column that was asked for is not there.
    #[error(
        "{name} has no column {wanted:?}; it has: {columns}; name the {role} column by its option"
    )]
    MissingColumn {
        /// The file.
        name: String,
        /// What it was asked for.
        role: &'static str,
        /// The name that was looked for.
        wanted: String,
        /// The columns that exist.
        columns: String,
    },
    /// The same column name twice.
    #[error("{name} has the column {column:?} more than once; rename or remove one of them")]
    DuplicateColumn {
        /// The file.
        name: String,
        /// The name.
        column: String,
    },
    /// Not one row could be used.
    #[error(
        "none of the {rows} rows of {name} can be used; the first, line {line}: {reason}; check the column names and the header"
    )]
    AllRowsBad {
        /// The file.
        name: String,
        /// How many there are.
        rows: usize,
        /// Line of the first one.
        line: u64,
        /// Why the first one was refused.
        reason: String,
    },
    /// Fewer usable rows than training needs.
    #[error("{name} has {got} usable rows, training needs at least {least}; add measurements{}", or_correct(*.rejected))]
    TooFewRows {
        /// The file.
        name: String,
        /// How many there are.
        got: usize,
        /// How many are needed.
        least: usize,
        /// Rows that were refused.
        rejected: usize,
    },
    /// Every target is the same.
    #[error(
        "every usable row of {name} has the target {value}; there is nothing to learn; choose another target column"
    )]
    ConstantTarget {
        /// The file.
        name: String,
        /// The one value.
        value: f64,
    },
    /// A classification with too few rows of a class.
    #[error(
        "{name} has {got} rows of {class}, training needs at least {least} of each class; add such rows or choose another target column"
    )]
    OneClass {
        /// The file.
        name: String,
        /// Which, e.g. "class 0".
        class: String,
        /// How many there are.
        got: usize,
        /// How many are needed.
        least: usize,
    },
    /// No two molecules differ in their features.
    #[error(
        "no feature differs between the molecules of {name}; choose another featuriser or other data"
    )]
    NoFeature {
        /// The file.
        name: String,
    },
    /// A parameter outside its range.
    #[error("{what} is {value}, allowed is {allowed}")]
    Config {
        /// Which parameter.
        what: &'static str,
        /// Its value.
        value: String,
        /// What is possible.
        allowed: &'static str,
    },
    /// The loss became infinite or not a number.
    #[error("training diverged in epoch {epoch}; use a smaller learning rate than {learning_rate}")]
    Diverged {
        /// Which epoch.
        epoch: usize,
        /// The one that was too large.
        learning_rate: f64,
    },
    /// A saved state of a training cannot be written, read or taken up.
    #[error(
        "the checkpoint {path} cannot be used: {reason}; give another folder or remove it", path = .path.display()
    )]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A network file that cannot be read.
    #[error(transparent)]
    Onnx(#[from] crate::onnx::OnnxError),
    /// A file of trees that cannot be read.
    #[error(transparent)]
    Import(#[from] crate::trees::ImportError),
    /// A privacy audit that cannot be made or read.
    #[error("the privacy audit of {name} cannot be used: {reason}")]
    Audit {
        /// Model or file.
        name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The network could not be quantised.
    #[error(transparent)]
    Quantise(#[from] chemxor_fhe::network::float::QuantiseError),
    /// An ensemble without a leaf.
    #[error(
        "no tree found a split that helps; use more data, another featuriser or smaller leaves"
    )]
    NoTree,
    /// Leaves that chemxor-fhe refuses.
    #[error("the trees were refused: {0}; use fewer or shallower trees")]
    Trees(#[from] chemxor_fhe::network::trees::TreeError),
    /// Weights of sizes too different for integers of 16 bits.
    #[error(
        "the weights differ too much in size to become integers; train with more weight decay or a smaller learning rate"
    )]
    Unquantisable,
    /// The tensor library failed.
    #[error("the tensor library failed: {0}; please report it")]
    Tensor(String),
    /// The operating system gave no random bytes for the salt of the weight blobs.
    #[error("the operating system gave no random bytes")]
    Randomness,
    /// The featuriser is not computable.
    #[error(transparent)]
    Chemistry(#[from] chemxor_chem::ChemError),
    /// The name is not a model name.
    #[error(transparent)]
    Name(#[from] chemxor_core::IdError),
    /// No ring takes the quantised network.
    #[error("{0}; use fewer activation or output bits")]
    Plan(#[from] chemxor_fhe::plan::PlanError),
    /// Quantised weights that chemxor-fhe refuses.
    #[error("the quantised weights were refused: {0}; please report it")]
    Weights(#[from] chemxor_fhe::network::WeightsError),
    /// The bundle contradicts itself.
    #[error(transparent)]
    Bundle(#[from] chemxor_core::BundleError),
}

fn or_correct(count: usize) -> String {
    if count == 0 {
        String::new()
    } else {
        format!(" or correct the {count} refused rows")
    }
}
