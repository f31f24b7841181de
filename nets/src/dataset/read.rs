//! Reading and featurising, in parallel and in the order of the file.

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;

use chemxor_chem::table::{Column, Shape, Table, TableError, TableRow};
use chemxor_chem::{ChemError, canonical, check_featuriser, featurise, scaffold, standardise};
use data_encoding::HEXLOWER;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::target::Targets;
use super::{BadRow, Dataset, Duplicates, HoldOut, ReadOptions, Row};
use crate::error::NetsError;

pub(super) fn read(name: &str, bytes: &[u8], options: &ReadOptions) -> Result<Dataset, NetsError> {
    check_featuriser(&options.featuriser)?;
    let column = Column::parse(&options.smiles_column);
    let source = Box::new(Cursor::new(bytes.to_vec()));
    let table = Table::from_reader(name, source, Shape::of(Path::new(name)), &column)
        .map_err(|error| table_error(name, options, error))?;
    let header = table.header().map(<[String]>::to_vec).unwrap_or_default();
    if !header.is_empty() && header.iter().all(String::is_empty) {
        return Err(empty(name));
    }
    let columns = options
        .target_columns
        .iter()
        .map(|wanted| find_column(name, &header, table.width(), wanted))
        .collect::<Result<Vec<usize>, _>>()?;
    if let Column::Name(wanted) = &column {
        refuse_twice(name, &header, wanted)?;
    }
    let width = table.width();
    let records: Vec<TableRow> = table.collect();
    if records.is_empty() {
        return Err(empty(name));
    }
    let first = columns.first().copied().unwrap_or_default();
    let key = match &options.hold_out {
        HoldOut::Column(wanted) => Some(find_column(name, &header, width, wanted)?),
        HoldOut::Random | HoldOut::Scaffold => None,
    };
    let labels = records.iter().filter_map(|row| row.fields.get(first));
    let targets = Targets::new(options, labels.map(String::as_str))?;
    // the order of the file is kept: rayon collects by index
    let read: Vec<Result<Row, BadRow>> = records
        .par_iter()
        .map(|record| read_row(record, &columns, key, &targets, options))
        .collect();
    let mut dataset = Dataset {
        name: name.to_owned(),
        task: options.task,
        featuriser: options.featuriser.clone(),
        outputs: targets.outputs(&options.target_columns),
        rows: Vec::new(),
        bad_rows: Vec::new(),
        sha256: HEXLOWER.encode(&Sha256::digest(bytes)),
        standardisation: options.standardisation,
        hold_out: options.hold_out.clone(),
        duplicates: Duplicates::default(),
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
    dataset.duplicates = duplicates(&dataset.rows);
    Ok(dataset)
}

fn duplicates(rows: &[Row]) -> Duplicates {
    let mut first: HashMap<&str, &Row> = HashMap::new();
    let mut found = Duplicates::default();
    for row in rows {
        let Some(before) = first.get(row.molecule.as_str()) else {
            first.insert(&row.molecule, row);
            continue;
        };
        found.repeated += 1;
        let differs = |(a, b): (&f64, &f64)| !(a.is_nan() || b.is_nan() || a == b);
        if before.targets.iter().zip(&row.targets).any(differs) {
            found.conflicting.push((before.line, row.line));
        }
    }
    found
}

fn empty(name: &str) -> NetsError {
    NetsError::Empty {
        name: name.to_owned(),
    }
}

fn table_error(name: &str, options: &ReadOptions, error: TableError) -> NetsError {
    match error {
        TableError::MissingColumn { columns, .. } if columns.is_empty() => empty(name),
        TableError::MissingColumn { columns, .. } => NetsError::MissingColumn {
            name: name.to_owned(),
            role: "SMILES",
            wanted: options.smiles_column.clone(),
            columns,
        },
        TableError::Empty { .. } => empty(name),
        other => NetsError::Read {
            path: name.into(),
            reason: other.to_string(),
        },
    }
}

/// By name, or by position from 1 where the file has no header.
fn find_column(
    name: &str,
    header: &[String],
    width: usize,
    wanted: &str,
) -> Result<usize, NetsError> {
    let missing = || NetsError::MissingColumn {
        name: name.to_owned(),
        role: "target",
        wanted: wanted.to_owned(),
        columns: list(header, width),
    };
    let same = |column: &&String| *column == wanted;
    if header.iter().filter(same).count() > 1 {
        return refuse_twice(name, header, wanted).map(|()| 0);
    }
    if let Some(at) = header.iter().position(|column| column == wanted) {
        return Ok(at);
    }
    if let Column::Position(at) = Column::parse(wanted) {
        return if at < width { Ok(at) } else { Err(missing()) };
    }
    refuse_twice(name, header, wanted)?;
    header
        .iter()
        .position(|column| column.eq_ignore_ascii_case(wanted))
        .ok_or_else(missing)
}

/// A name must mean one column: exactly one of that spelling, or one when letter case is ignored.
fn refuse_twice(name: &str, header: &[String], wanted: &str) -> Result<(), NetsError> {
    let exact = header.iter().filter(|column| *column == wanted).count();
    let alike = header
        .iter()
        .filter(|column| column.eq_ignore_ascii_case(wanted))
        .count();
    if exact > 1 || (exact == 0 && alike > 1) {
        return Err(NetsError::DuplicateColumn {
            name: name.to_owned(),
            column: wanted.to_owned(),
        });
    }
    Ok(())
}

/// The column names for an error, cut where they are many or long.
fn list(columns: &[String], width: usize) -> String {
    if columns.is_empty() {
        return format!("{width} columns without names");
    }
    let shown: Vec<String> = columns
        .iter()
        .take(20)
        .map(|c| c.chars().take(40).collect())
        .collect();
    let more = if columns.len() > 20 { ", …" } else { "" };
    shown.join(", ") + more
}

fn read_row(
    record: &TableRow,
    columns: &[usize],
    key: Option<usize>,
    targets: &Targets,
    options: &ReadOptions,
) -> Result<Row, BadRow> {
    let line = record.line;
    let bad = |reason: String| BadRow { line, reason };
    let smiles = record.smiles.as_ref().map_err(|why| bad(why.clone()))?;
    let target = |at: &usize| {
        let field = record.fields.get(*at).ok_or_else(|| {
            format!(
                "the target is missing: the line has {} fields",
                record.fields.len()
            )
        })?;
        targets.read(field.trim())
    };
    let targets = columns
        .iter()
        .map(target)
        .collect::<Result<Vec<f64>, _>>()
        .map_err(&bad)?;
    if targets.iter().all(|target| target.is_nan()) {
        return Err(bad("every target is empty".to_owned()));
    }
    let refused = |error: ChemError| bad(error.to_string());
    let standard = standardise(options.standardisation, smiles).map_err(refused)?;
    let dense = featurise(&options.featuriser, &standard.smiles).map_err(refused)?;
    let molecule = canonical(&standard.smiles).map_err(refused)?;
    let key = match (key, &options.hold_out) {
        (_, HoldOut::Random) => String::new(),
        (_, HoldOut::Scaffold) => scaffold(&standard.smiles).map_err(refused)?,
        (at, HoldOut::Column(name)) => {
            let field = at.and_then(|at| record.fields.get(at));
            let field = field
                .map(|field| field.trim())
                .filter(|field| !field.is_empty());
            field
                .ok_or_else(|| bad(format!("the column {name:?} is empty")))?
                .to_owned()
        }
    };
    let features = (0u32..)
        .zip(dense)
        .filter(|(_, value)| *value > 0)
        .collect();
    Ok(Row {
        line,
        smiles: smiles.clone(),
        targets,
        features,
        molecule,
        key,
        changed: !standard.done.is_empty(),
    })
}
