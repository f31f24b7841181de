//! A CSV of molecules and measured values, featurised. Every row ends as a [`Row`] or as a
//! [`BadRow`] with its line and reason; none is lost and none stops the reading.

use std::collections::HashSet;
use std::path::Path;

use chemxor_chem::{check_featuriser, featurise};
use chemxor_core::{Featuriser, Task};
use data_encoding::HEXLOWER;
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::NetsError;

/// Which columns to read and how.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOptions {
    /// Column of the SMILES; letter case is ignored where that is unambiguous.
    pub smiles_column: String,
    /// Column of the measured value, or of the class 0 or 1.
    pub target_column: String,
    /// What the target is.
    pub task: Task,
    /// How molecules become integers.
    pub featuriser: Featuriser,
}

impl Default for ReadOptions {
    /// Columns `smiles` and `target`, regression, ECFP4-2048 counts clipped to 0..=7.
    fn default() -> Self {
        Self {
            smiles_column: "smiles".to_owned(),
            target_column: "target".to_owned(),
            task: Task::Regression,
            featuriser: Featuriser::EcfpCounts {
                version: 1,
                radius: 2,
                size: 2048,
                max_count: 7,
            },
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
    /// Measured value, or class 0 or 1.
    pub target: f64,
    /// `(index, value)` of the features that are not 0, by index.
    pub features: Vec<(u32, u16)>,
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
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    name: String,
    task: Task,
    featuriser: Featuriser,
    rows: Vec<Row>,
    bad_rows: Vec<BadRow>,
    sha256: String,
    repeated: usize,
}

impl Dataset {
    /// Reads and featurises a CSV file.
    pub fn read_csv(path: &Path, options: &ReadOptions) -> Result<Self, NetsError> {
        let bytes = std::fs::read(path).map_err(|error| NetsError::Read {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Self::from_csv(&path.display().to_string(), &bytes, options)
    }

    /// Featurises the bytes of a CSV file; `name` is what errors call it.
    pub fn from_csv(name: &str, bytes: &[u8], options: &ReadOptions) -> Result<Self, NetsError> {
        check_featuriser(&options.featuriser)?;
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text);
        let columns: Vec<String> = reader
            .byte_headers()
            .map(|header| {
                header
                    .iter()
                    .map(|c| String::from_utf8_lossy(c).trim().to_owned())
            })
            .map(Iterator::collect)
            .unwrap_or_default();
        if columns.iter().all(String::is_empty) {
            return Err(NetsError::Empty {
                name: name.to_owned(),
            });
        }
        let smiles_at = find_column(name, "SMILES", &columns, &options.smiles_column)?;
        let target_at = find_column(name, "target", &columns, &options.target_column)?;
        let records: Vec<csv::Result<csv::ByteRecord>> = reader.byte_records().collect();
        if records.is_empty() {
            return Err(NetsError::Empty {
                name: name.to_owned(),
            });
        }
        // the order of the file is kept: rayon collects by index
        let read: Vec<Result<Row, BadRow>> = records
            .par_iter()
            .map(|record| read_row(record, (smiles_at, target_at), options))
            .collect();
        let mut dataset = Self {
            name: name.to_owned(),
            task: options.task,
            featuriser: options.featuriser.clone(),
            rows: Vec::new(),
            bad_rows: Vec::new(),
            sha256: HEXLOWER.encode(&Sha256::digest(bytes)),
            repeated: 0,
        };
        for row in read {
            match row {
                Ok(row) => dataset.rows.push(row),
                Err(bad) => dataset.bad_rows.push(bad),
            }
        }
        if let (true, Some(first)) = (dataset.rows.is_empty(), dataset.bad_rows.first()) {
            return Err(NetsError::AllRowsBad {
                name: name.to_owned(),
                rows: dataset.bad_rows.len(),
                line: first.line,
                reason: first.reason.clone(),
            });
        }
        let distinct: HashSet<&str> = dataset.rows.iter().map(|row| row.smiles.as_str()).collect();
        dataset.repeated = dataset.rows.len() - distinct.len();
        Ok(dataset)
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

    /// Rows whose SMILES stood in the file before. They are kept, and kept on one side of a split.
    pub fn repeated(&self) -> usize {
        self.repeated
    }

    /// All features of a row, zeros included.
    pub fn dense(&self, row: &Row) -> Vec<u16> {
        let mut features = vec![0; self.featuriser.len()];
        for (index, value) in &row.features {
            features[*index as usize] = *value;
        }
        features
    }
}

fn find_column(
    name: &str,
    role: &'static str,
    columns: &[String],
    wanted: &str,
) -> Result<usize, NetsError> {
    let matching = |same: &dyn Fn(&str) -> bool| -> Vec<usize> {
        (0..columns.len())
            .filter(|at| same(&columns[*at]))
            .collect()
    };
    let exact = matching(&|column| column == wanted);
    let found = if exact.is_empty() {
        matching(&|c| c.eq_ignore_ascii_case(wanted))
    } else {
        exact
    };
    match found.as_slice() {
        [at] => Ok(*at),
        [] => Err(NetsError::MissingColumn {
            name: name.to_owned(),
            role,
            wanted: wanted.to_owned(),
            columns: list(columns),
        }),
        _ => Err(NetsError::DuplicateColumn {
            name: name.to_owned(),
            column: wanted.to_owned(),
        }),
    }
}

/// The column names for an error, cut where they are many or long.
fn list(columns: &[String]) -> String {
    let shown: Vec<String> = columns
        .iter()
        .take(20)
        .map(|c| c.chars().take(40).collect())
        .collect();
    let more = if columns.len() > 20 { ", …" } else { "" };
    shown.join(", ") + more
}

fn read_row(
    record: &csv::Result<csv::ByteRecord>,
    (smiles_at, target_at): (usize, usize),
    options: &ReadOptions,
) -> Result<Row, BadRow> {
    let record = record.as_ref().map_err(|error| BadRow {
        line: error.position().map_or(0, csv::Position::line),
        reason: error.to_string(),
    })?;
    let line = record.position().map_or(0, csv::Position::line);
    let bad = |reason: String| BadRow { line, reason };
    let field = |at: usize, what: &str| {
        let bytes = record.get(at).ok_or_else(|| {
            bad(format!(
                "the {what} is missing: the line has {} fields",
                record.len()
            ))
        })?;
        let text =
            std::str::from_utf8(bytes).map_err(|_| bad(format!("the {what} is not UTF-8")))?;
        Ok(text.trim())
    };
    let smiles = field(smiles_at, "SMILES")?;
    let target = read_target(field(target_at, "target")?, options.task).map_err(&bad)?;
    let dense = featurise(&options.featuriser, smiles).map_err(|error| bad(error.to_string()))?;
    let features = (0u32..)
        .zip(dense)
        .filter(|(_, value)| *value > 0)
        .collect();
    Ok(Row {
        line,
        smiles: smiles.to_owned(),
        target,
        features,
    })
}

fn read_target(text: &str, task: Task) -> Result<f64, String> {
    let shown: String = text.chars().take(40).collect();
    if text.is_empty() {
        return Err("the target is empty".to_owned());
    }
    let value: f64 = text
        .parse()
        .map_err(|_| format!("the target {shown:?} is not a number"))?;
    match task {
        // f32 arithmetic follows; values beyond it would turn into infinity there
        Task::Regression if value.is_finite() && value.abs() < 1e30 => Ok(value),
        Task::Regression => Err(format!(
            "the target {shown:?} is not a finite number below 1e30"
        )),
        Task::Binary | Task::Multiclass if value == 0.0 || value == 1.0 => Ok(value),
        Task::Binary | Task::Multiclass => Err(format!(
            "the target {shown:?} is not a class; it must be 0 or 1"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Dataset, NetsError> {
        Dataset::from_csv("t.csv", text.as_bytes(), &ReadOptions::default())
    }

    #[test]
    fn bad_rows_are_reported_with_line_and_reason_and_do_not_stop() {
        let text = "smiles,target\nCCO,1\nC(,2\nCC,x\nCC\nCC,NaN\n,3\n\"C\",4,extra\n";
        let dataset = read(text).unwrap();
        let lines: Vec<u64> = dataset.rows().iter().map(|row| row.line).collect();
        assert_eq!(lines, [2, 8]);
        let bad: Vec<String> = dataset
            .bad_rows()
            .iter()
            .map(|b| format!("{} {}", b.line, b.reason))
            .collect();
        assert_eq!(bad.len(), 5);
        assert!(
            bad[0].starts_with("3 SMILES \"C(\" cannot be read at position"),
            "{}",
            bad[0]
        );
        assert_eq!(bad[1], "4 the target \"x\" is not a number");
        assert_eq!(bad[2], "5 the target is missing: the line has 1 fields");
        assert_eq!(
            bad[3],
            "6 the target \"NaN\" is not a finite number below 1e30"
        );
        assert_eq!(bad[4], "7 the SMILES is empty");
    }

    #[test]
    fn missing_columns_are_named_with_those_that_exist() {
        let error = read("id,structure,y\n1,CCO,2\n").unwrap_err().to_string();
        assert_eq!(
            error,
            "t.csv has no column \"smiles\"; it has: id, structure, y; name the SMILES column by its option"
        );
        let error = read("smiles,target,target\nC,1,2\n").unwrap_err();
        assert!(matches!(error, NetsError::DuplicateColumn { .. }));
    }

    #[test]
    fn letter_case_and_byte_order_mark_do_not_matter() {
        assert_eq!(
            read("\u{feff}SMILES,Target\nCCO,1\n").unwrap().rows().len(),
            1
        );
    }

    #[test]
    fn empty_and_hopeless_files_are_errors() {
        assert!(matches!(read(""), Err(NetsError::Empty { .. })));
        assert!(matches!(
            read("smiles,target\n"),
            Err(NetsError::Empty { .. })
        ));
        let error = read("smiles,target\nC(,1\nC,?\n").unwrap_err();
        assert!(matches!(
            error,
            NetsError::AllRowsBad {
                rows: 2,
                line: 2,
                ..
            }
        ));
    }

    #[test]
    fn classes_must_be_0_or_1() {
        let options = ReadOptions {
            task: Task::Binary,
            ..ReadOptions::default()
        };
        let text = b"smiles,target\nC,1\nCC,0.0\nCCC,2\n";
        let dataset = Dataset::from_csv("t.csv", text, &options).unwrap();
        assert_eq!((dataset.rows().len(), dataset.bad_rows().len()), (2, 1));
    }

    proptest! {
        #[test]
        fn every_line_ends_somewhere(lines in proptest::collection::vec("[A-Za-z0-9,.\" ()-]{0,20}", 0..20)) {
            let text = format!("smiles,target\nC,1\n{}", lines.join("\n"));
            let dataset = read(&text).unwrap();
            let expected = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes()).byte_records().count();
            prop_assert_eq!(dataset.rows().len() + dataset.bad_rows().len(), expected);
        }
    }
}
