//! One output row for each input row, in order: the input's fields, a status, a reason, the
//! features. Rows are computed on all cores, a bounded chunk at a time.

use std::io::Write;

use rayon::prelude::*;

use super::{Table, TableError, TableRow};
use crate::descriptors::{DESCRIPTOR_NAMES, descriptors};
use crate::error::ChemError;
use crate::features::featurise;
use crate::standard::standardise;
use chemxor_core::{Featuriser, Standardisation};

/// Rows held at a time.
const CHUNK: usize = 1024;

/// What is written for a molecule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeatureKind {
    /// A column `bits`: indices of the features that are not 0, separated by spaces.
    Bits(Featuriser),
    /// A column `counts`: `index:value` of the features that are not 0, separated by spaces.
    Counts(Featuriser),
    /// A column for each of [`DESCRIPTOR_NAMES`], unscaled.
    Descriptors,
    /// [`FeatureKind::Counts`], then [`FeatureKind::Descriptors`].
    CountsAndDescriptors(Featuriser),
}

impl FeatureKind {
    fn columns(&self) -> Vec<&'static str> {
        match self {
            Self::Bits(_) => vec!["bits"],
            Self::Counts(_) => vec!["counts"],
            Self::Descriptors => DESCRIPTOR_NAMES.to_vec(),
            Self::CountsAndDescriptors(_) => [&["counts"][..], &DESCRIPTOR_NAMES].concat(),
        }
    }

    /// Features, after what was done to the molecule.
    fn after(&self, what: Standardisation, smiles: &str) -> Result<Vec<String>, ChemError> {
        let standard = standardise(what, smiles)?;
        let mut fields = self.of(&standard.smiles)?;
        if !what.is_none() {
            let done = standard.done.join("; ");
            let changed = if standard.done.is_empty() {
                String::new()
            } else {
                standard.smiles
            };
            fields.splice(0..0, [done, changed]);
        }
        Ok(fields)
    }

    fn of(&self, smiles: &str) -> Result<Vec<String>, ChemError> {
        let pairs = |featuriser: &Featuriser, show: &dyn Fn(usize, u16) -> String| {
            let features = featurise(featuriser, smiles)?;
            let shown: Vec<String> = features
                .iter()
                .enumerate()
                .filter(|(_, value)| **value > 0)
                .map(|(index, value)| show(index, *value))
                .collect();
            Ok(shown.join(" "))
        };
        let index_value = |index: usize, value: u16| format!("{index}:{value}");
        let values = || -> Result<Vec<String>, ChemError> {
            let values = descriptors(smiles)?.values();
            Ok(values.iter().map(|value| format!("{value}")).collect())
        };
        match self {
            Self::Bits(featuriser) => Ok(vec![pairs(featuriser, &|index, _| index.to_string())?]),
            Self::Counts(featuriser) => Ok(vec![pairs(featuriser, &index_value)?]),
            Self::Descriptors => values(),
            Self::CountsAndDescriptors(featuriser) => {
                let mut fields = vec![pairs(featuriser, &index_value)?];
                fields.extend(values()?);
                Ok(fields)
            }
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FeatureReport {
    /// Rows read and written.
    pub rows: u64,
    /// Rows without features.
    pub bad: u64,
}

/// Writes the features of every row of `table` as CSV, after `what` was done to the molecule; what
/// that changed stands in two further columns. `progress` hears the number of rows done.
pub fn write_features(
    table: &mut Table,
    kind: &FeatureKind,
    what: Standardisation,
    output: impl Write,
    mut progress: impl FnMut(u64),
) -> Result<FeatureReport, TableError> {
    let name = table.name().to_owned();
    let refuse = |error: csv::Error| TableError::File {
        name: format!("features of {name}"),
        reason: error.to_string(),
    };
    let width = table.width();
    let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(output);
    let numbered = |at: usize| {
        if at == 0 {
            "smiles".to_owned()
        } else {
            format!("column{}", at + 1)
        }
    };
    let mut header = table
        .header()
        .map_or_else(|| (0..width).map(numbered).collect(), <[String]>::to_vec);
    header.extend(["status".to_owned(), "reason".to_owned()]);
    if !what.is_none() {
        header.extend(["standardised".to_owned(), "standard_smiles".to_owned()]);
    }
    let columns = kind.columns();
    header.extend(columns.iter().map(|name| (*name).to_owned()));
    writer.write_record(&header).map_err(refuse)?;
    let mut report = FeatureReport::default();
    loop {
        let chunk: Vec<TableRow> = table.by_ref().take(CHUNK).collect();
        if chunk.is_empty() {
            break;
        }
        let results: Vec<Result<Vec<String>, String>> = chunk
            .par_iter()
            .map(|row| {
                let smiles = row.smiles.as_ref().map_err(Clone::clone)?;
                kind.after(what, smiles).map_err(|error| error.to_string())
            })
            .collect();
        for (row, result) in chunk.into_iter().zip(results) {
            report.rows += 1;
            report.bad += u64::from(result.is_err());
            let mut fields = row.fields;
            // fields beyond the header would shift what follows: they are kept, in the last column
            if fields.len() > width {
                let rest = fields.split_off(width - 1).join(",");
                fields.push(rest);
            }
            fields.resize(width, String::new());
            match result {
                Ok(features) => {
                    fields.extend(["ok".to_owned(), String::new()]);
                    fields.extend(features);
                }
                Err(reason) => {
                    fields.extend(["error".to_owned(), format!("line {}: {reason}", row.line)]);
                    fields.resize(header.len(), String::new());
                }
            }
            writer.write_record(&fields).map_err(refuse)?;
        }
        progress(report.rows);
    }
    writer.flush().map_err(|error| refuse(error.into()))?;
    Ok(report)
}
