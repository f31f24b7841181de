//! A library of molecules: rows out = rows in, same order, every input column kept, a status and a
//! reason for each row. A bad molecule aborts nothing. The output appears under its name only when
//! it is complete; until then it is `NAME.partial`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::stream::{self, StreamExt};

use crate::predictor::Predictor;
use crate::session::Prediction;
use crate::{ClientError, Token};

/// What to read and write.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// CSV with a header.
    pub input: PathBuf,
    /// CSV to write.
    pub output: PathBuf,
    /// Column with the SMILES.
    pub smiles_column: String,
    /// Queries at the same time.
    pub in_flight: usize,
}

/// What a batch did.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct BatchReport {
    /// Rows read and written.
    pub rows: u64,
    /// Rows with a prediction.
    pub predicted: u64,
    /// Rows with a molecule that could not be read.
    pub bad_molecules: u64,
    /// Bytes of step messages sent.
    pub bytes_up: u64,
    /// Bytes of step messages received.
    pub bytes_down: u64,
    /// Time of each predicted molecule, milliseconds.
    #[serde(skip)]
    pub latencies_ms: Vec<f64>,
}

fn refuse(path: &Path, reason: impl std::fmt::Display) -> ClientError {
    ClientError::File {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// Where the incomplete output is kept.
pub fn partial_path(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Runs a batch. `progress` hears the number of rows done. Stops with an error when the service
/// refuses or stays away; then `NAME.partial` holds the complete rows so far.
pub async fn run(
    predictor: &Predictor,
    options: &BatchOptions,
    mut progress: impl FnMut(u64),
) -> Result<BatchReport, ClientError> {
    let input = File::open(&options.input).map_err(|error| refuse(&options.input, error))?;
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(input);
    let header = reader
        .headers()
        .map_err(|error| refuse(&options.input, error))?
        .clone();
    let column = header
        .iter()
        .position(|name| name.trim() == options.smiles_column)
        .ok_or_else(|| {
            let names: Vec<&str> = header.iter().collect();
            refuse(
                &options.input,
                format!(
                    "has no column {:?}, only {names:?}; name one with --smiles-column",
                    options.smiles_column
                ),
            )
        })?;
    let partial = partial_path(&options.output);
    let file = File::create(&partial).map_err(|error| refuse(&partial, error))?;
    let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(file);
    write_header(&mut writer, &header, predictor.manifest().outputs.len())
        .map_err(|error| refuse(&partial, error))?;
    let mut report = BatchReport::default();
    let rows = reader.into_records();
    let width = header.len();
    let mut results = stream::iter(rows)
        .map(|row| async move {
            let row = row.map_err(|error| refuse(&options.input, error))?;
            let outcome = match row.get(column) {
                Some(smiles) => predictor.predict(smiles.trim()).await,
                None => Err(refuse(&options.input, "the row has no SMILES")),
            };
            Ok::<_, ClientError>((row, outcome))
        })
        .buffered(options.in_flight.max(1));
    while let Some(result) = results.next().await {
        let (row, outcome) = match result {
            Ok(done) => done,
            Err(error) => {
                // what is complete stays readable
                let _ = writer.flush();
                return Err(error);
            }
        };
        let fields = match outcome {
            Ok(prediction) => {
                count(&mut report, &prediction);
                let values = prediction.values.iter().map(|value| format!("{value:.6}"));
                values
                    .chain(["ok".to_owned(), String::new()])
                    .collect::<Vec<_>>()
            }
            Err(error @ (ClientError::Molecule(_) | ClientError::File { .. })) => {
                report.bad_molecules += 1;
                let empty = vec![String::new(); predictor.manifest().outputs.len()];
                let reason = [String::from("bad-molecule"), error.to_string()];
                empty.into_iter().chain(reason).collect()
            }
            Err(error) => {
                let _ = writer.flush();
                tracing::error!(rows = report.rows, partial = %partial.display(), "batch stopped");
                return Err(error);
            }
        };
        let padding = width.saturating_sub(row.len());
        let padding = std::iter::repeat_n("", padding);
        let record = row
            .iter()
            .chain(padding)
            .chain(fields.iter().map(String::as_str));
        writer
            .write_record(record)
            .map_err(|error| refuse(&partial, error))?;
        report.rows += 1;
        progress(report.rows);
    }
    let file = writer
        .into_inner()
        .map_err(|error| refuse(&partial, error.error()))?;
    file.sync_all().map_err(|error| refuse(&partial, error))?;
    std::fs::rename(&partial, &options.output).map_err(|error| refuse(&options.output, error))?;
    Ok(report)
}

fn write_header(
    writer: &mut csv::Writer<File>,
    header: &csv::StringRecord,
    outputs: usize,
) -> csv::Result<()> {
    let name = |i: usize| {
        if outputs == 1 {
            "prediction".to_owned()
        } else {
            format!("prediction_{i}")
        }
    };
    let added: Vec<String> = (0..outputs)
        .map(name)
        .chain(["status".to_owned(), "reason".to_owned()])
        .collect();
    writer.write_record(header.iter().chain(added.iter().map(String::as_str)))
}

fn count(report: &mut BatchReport, prediction: &Prediction) {
    report.predicted += 1;
    report.bytes_up += prediction.bytes_up;
    report.bytes_down += prediction.bytes_down;
    report.latencies_ms.push(millis(prediction.elapsed));
}

/// Milliseconds of a duration.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Median and 95th percentile of a sample; zeros when it is empty.
pub fn percentiles(sample: &[f64]) -> (f64, f64) {
    let mut sorted = sample.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
        sorted.get(index).copied().unwrap_or(0.0)
    };
    (at(0.5), at(0.95))
}

/// Reads a token from a file with owner-only permissions.
pub fn read_token(path: &Path) -> Result<Token, ClientError> {
    let bytes = crate::files::read_secret(path, 4096)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| refuse(path, "is not a token"))?;
    Ok(Token::new(text))
}
