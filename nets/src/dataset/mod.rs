//! A table of molecules and measured values, featurised. Every row ends as a [`Row`] or as a
//! [`BadRow`] with its line and reason; none is lost and none stops the reading.

mod read;
mod target;

use std::path::Path;

use chemxor_core::{Featuriser, Standardisation, Task};
use serde::Serialize;

use crate::error::NetsError;

/// Which columns to read and how.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOptions {
    /// Column of the SMILES: a name (letter case is ignored where that is unambiguous) or a position
    /// from 1.
    pub smiles_column: String,
    /// Columns of the measured values, of the classes 0 or 1, or the one column of class labels.
    pub target_columns: Vec<String>,
    /// What the targets are.
    pub task: Task,
    /// Cuts a measured value into classes: class `i` is above `i` of these. One for
    /// [`Task::Binary`], ascending for [`Task::Multiclass`], none where the column holds classes.
    pub thresholds: Vec<f64>,
    /// How molecules become integers.
    pub featuriser: Featuriser,
    /// What is done to molecules before that.
    pub standardisation: Standardisation,
    /// Which molecules are held out.
    pub hold_out: HoldOut,
}

/// Which molecules are kept aside to judge a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HoldOut {
    /// Drawn with the seed; classes in proportion.
    #[default]
    Random,
    /// Drawn with the seed so that no Bemis-Murcko scaffold (1996) is on both sides.
    Scaffold,
    /// The last ones by this column, as numbers where all of it are numbers, else as text, which
    /// orders ISO dates.
    Column(String),
}

impl Default for ReadOptions {
    /// Columns `smiles` and `target`, regression, ECFP4-2048 counts clipped to 0..=7.
    fn default() -> Self {
        Self {
            smiles_column: "smiles".to_owned(),
            target_columns: vec!["target".to_owned()],
            task: Task::Regression,
            thresholds: Vec::new(),
            featuriser: Featuriser::EcfpCounts {
                version: 1,
                radius: 2,
                size: 2048,
                max_count: 7,
            },
            standardisation: Standardisation::default(),
            hold_out: HoldOut::Random,
        }
    }
}

/// One usable molecule.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Line of the file, from 1, the header included.
    pub line: u64,
    /// As written in the file, trimmed.
    pub smiles: String,
    /// For each target column the measured value or class; NaN where it is missing, which only a
    /// table with several target columns allows. With several classes the number of the class.
    pub targets: Vec<f64>,
    /// `(index, value)` of the features that are not 0, by index.
    pub features: Vec<(u32, u16)>,
    /// Canonical SMILES after standardisation: equal for two spellings of one molecule. Rows that
    /// share it stay on one side of every split.
    pub molecule: String,
    /// What the rows are held out by: scaffold or field of the column.
    pub(crate) key: String,
    /// Whether standardisation changed it.
    pub(crate) changed: bool,
}

impl Row {
    /// The first target.
    pub fn target(&self) -> f64 {
        self.targets[0]
    }
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadRow {
    /// Line of the file, from 1, the header included.
    pub line: u64,
    /// Why.
    pub reason: String,
}

/// A featurised table.
#[derive(Debug, Clone)]
pub struct Dataset {
    name: String,
    task: Task,
    featuriser: Featuriser,
    outputs: Vec<String>,
    rows: Vec<Row>,
    bad_rows: Vec<BadRow>,
    sha256: String,
    standardisation: Standardisation,
    hold_out: HoldOut,
    duplicates: Duplicates,
}

/// Molecules that stand in the file more than once, in whatever spelling.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Duplicates {
    /// Rows whose molecule stood in the file before.
    pub repeated: usize,
    /// Lines of the first and of a later row of one molecule with different targets.
    pub conflicting: Vec<(u64, u64)>,
}

impl Dataset {
    /// Reads and featurises a CSV, TSV or SMILES file, also compressed.
    pub fn read_csv(path: &Path, options: &ReadOptions) -> Result<Self, NetsError> {
        let bytes = std::fs::read(path).map_err(|error| NetsError::Read {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Self::from_csv(&path.display().to_string(), &bytes, options)
    }

    /// Featurises the bytes of such a file; `name` is what errors call it, and its ending tells the
    /// kind of file.
    pub fn from_csv(name: &str, bytes: &[u8], options: &ReadOptions) -> Result<Self, NetsError> {
        read::read(name, bytes, options)
    }

    /// What errors call it: the path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the target is.
    pub fn task(&self) -> Task {
        self.task
    }

    /// How the molecules were featurised.
    pub fn featuriser(&self) -> &Featuriser {
        &self.featuriser
    }

    /// What a model on these data predicts, one for each output: the target columns, or the classes.
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// The usable rows, in the order of the file.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The rows that cannot be used, in the order of the file.
    pub fn bad_rows(&self) -> &[BadRow] {
        &self.bad_rows
    }

    /// SHA-256 of the file, hex.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Repeated molecules. They are kept, and kept on one side of a split.
    pub fn duplicates(&self) -> &Duplicates {
        &self.duplicates
    }

    /// What was done to molecules before they were featurised.
    pub fn standardisation(&self) -> Standardisation {
        self.standardisation
    }

    /// Rows that standardisation changed.
    pub fn standardised(&self) -> usize {
        self.rows.iter().filter(|row| row.changed).count()
    }

    /// Which molecules are held out.
    pub fn hold_out(&self) -> &HoldOut {
        &self.hold_out
    }

    /// All features of a row, zeros included.
    pub fn dense(&self, row: &Row) -> Vec<u16> {
        let mut features = vec![0; self.featuriser.len()];
        for (index, value) in &row.features {
            features[*index as usize] = *value;
        }
        features
    }

    /// What output `output` should be for a row, NaN where it was not measured: with several classes
    /// 1 for the row's own and 0 for the others.
    pub fn wanted(&self, row: &Row, output: usize) -> f64 {
        match self.task {
            Task::Regression | Task::Binary => row.targets[output],
            Task::Multiclass => f64::from(u8::from(row.target() == output as f64)),
        }
    }
}

#[cfg(test)]
mod tests;
