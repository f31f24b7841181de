//! A library of molecules: rows out = rows in, same order, every input column kept byte for byte, a
//! status and a reason for each row. A bad molecule aborts nothing. The output appears under its
//! name only when it is complete; until then it is `NAME.partial`, from which a run goes on.
//!
//! | status | meaning |
//! |---|---|
//! | `ok` | predicted |
//! | `bad-molecule` | the SMILES is empty or cannot be read; the reason says why |
//! | `bad-row` | the row does not have the header's columns, so its SMILES is not known |
//! | `failed` | the molecule cannot be encoded for this model |
//!
//! Memory does not grow with the number of rows; `dedupe` remembers at most [`DEDUPE_LIMIT`] molecules.

mod partial;
mod record;
mod repeats;
mod report;
mod source;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::{Path, PathBuf};

use chemxor_chem::table::Column;
use futures::stream::{self, StreamExt};
use tokio_util::sync::CancellationToken;

pub use partial::{RunRecord, partial_path, run_path};
pub use repeats::DEDUPE_LIMIT;
pub use report::{BatchReport, Latencies, millis, percentiles};

use crate::session::Prediction;
use crate::{ClientError, Token};
use partial::Partial;
use record::{quote, split};
use repeats::Repeats;
use source::{Fault, Header, Item, Row, Source, refuse};

/// Whoever answers: the encrypted model, or a test.
pub trait Oracle: Send + Sync {
    /// Columns that every answer fills.
    fn columns(&self) -> Vec<String>;
    /// Features of a molecule.
    fn featurise(&self, smiles: &str) -> Result<Vec<u16>, ClientError>;
    /// Predicts from features.
    fn predict(
        &self,
        features: Vec<u16>,
    ) -> impl Future<Output = Result<Prediction, ClientError>> + Send;
    /// The fields of an answer, one for each of [`Oracle::columns`].
    fn fields(&self, prediction: &Prediction) -> Vec<String>;
    /// Columns that say something of the molecule itself.
    fn note_columns(&self) -> Vec<String> {
        Vec::new()
    }
    /// Their fields.
    fn notes(&self, _smiles: &str) -> Result<Vec<String>, ClientError> {
        Ok(Vec::new())
    }
}

/// What to do when there is an output or the beginning of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// Refuse, and say which choices there are.
    #[default]
    Refuse,
    /// Go on with an unfinished run; a finished one is left as it is.
    Resume,
    /// Begin again.
    Overwrite,
}

/// What to read and write.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// `name@sha256:…`, for `OUT.run`.
    pub model: String,
    /// CSV or TSV with a header, or a SMILES file; plain or gzip.
    pub input: PathBuf,
    /// Table to write, in the form of the input.
    pub output: PathBuf,
    /// Column with the SMILES: its name, or its position from 1.
    pub smiles_column: String,
    /// Queries at the same time.
    pub in_flight: usize,
    /// Whether molecules with equal features are asked for once.
    pub dedupe: bool,
    /// When there is an output already.
    pub existing: Existing,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows that are complete, those of earlier runs included.
    pub rows: u64,
    /// Of these, taken over from an earlier run.
    pub resumed: u64,
    /// Of these, without a prediction.
    pub without: u64,
}

/// Rows of a table, blank lines not counted.
pub fn count_rows(input: &Path, smiles_column: &str) -> Result<u64, ClientError> {
    let mut source = Source::open(input, &Column::parse(smiles_column))?;
    let mut rows = 0;
    while let Some(item) = source.next()? {
        rows += u64::from(matches!(item, Item::Row(_)));
    }
    Ok(rows)
}

/// The first molecules of a table, at most `limit`; for a probe.
pub fn first_molecules(
    input: &Path,
    smiles_column: &str,
    limit: usize,
) -> Result<Vec<String>, ClientError> {
    let mut source = Source::open(input, &Column::parse(smiles_column))?;
    let mut found = Vec::new();
    while found.len() < limit {
        match source.next()? {
            None => break,
            Some(Item::Row(Row {
                smiles: Ok(smiles), ..
            })) => found.push(smiles),
            Some(_) => {}
        }
    }
    Ok(found)
}

/// Runs a batch. `progress` hears of each row. Ends early, with [`BatchReport::complete`] false, when
/// `stop` is cancelled, and with an error when the service refuses or stays away; in both cases
/// `NAME.partial` holds the complete rows so far and the run can be resumed.
pub async fn run(
    oracle: &impl Oracle,
    options: &BatchOptions,
    stop: &CancellationToken,
    mut progress: impl FnMut(Progress),
) -> Result<BatchReport, ClientError> {
    let mut report = BatchReport::default();
    if already_complete(options)? {
        report.complete = true;
        report.rows = count_rows(&options.output, "1")?;
        report.resumed = report.rows;
        return Ok(report);
    }
    let mut source = Source::open(&options.input, &Column::parse(&options.smiles_column))?;
    let header = source.header().clone();
    let columns = [oracle.columns(), oracle.note_columns()].concat();
    let fields = columns.len();
    let names = column_names(&header, columns);
    let repeats = Repeats::new(options.dedupe);
    let (mut partial, first) = begin(
        oracle,
        options,
        &header,
        &names,
        &mut source,
        &repeats,
        &mut report,
    )?;
    let mut heard = Progress {
        rows: report.rows,
        resumed: report.resumed,
        without: report.bad_molecules + report.bad_rows + report.failed,
    };
    progress(heard);
    let items = first
        .map(Ok)
        .into_iter()
        .chain(std::iter::from_fn(|| source.next().transpose()));
    let stopped = stop.clone();
    let mut results = stream::iter(items)
        .take_while(|_| std::future::ready(!stopped.is_cancelled()))
        .map(|item| answer(oracle, &repeats, item))
        .buffered(options.in_flight.max(1));
    let outcome = async {
        while let Some(result) = results.next().await {
            let (row, answer) = match result? {
                Answered::Blank(end) => {
                    partial.append(&[&end])?;
                    continue;
                }
                Answered::Row(row, answer) => (row, answer?),
            };
            report.count(&answer);
            let suffix = suffix(&answer, fields, header.delimiter);
            partial.append(&[&row.raw, &[header.delimiter], &suffix, &row.end])?;
            report.rows += 1;
            heard.rows = report.rows;
            heard.without = report.bad_molecules + report.bad_rows + report.failed;
            progress(heard);
        }
        Ok::<_, ClientError>(())
    }
    .await;
    drop(results);
    if outcome.is_err() || stop.is_cancelled() {
        // what is complete stays
        partial.sync()?;
        outcome?;
        return Ok(report);
    }
    partial.finish(&options.output)?;
    report.complete = true;
    Ok(report)
}

/// Whether a resumed run has nothing left to do; refuses what would be overwritten.
fn already_complete(options: &BatchOptions) -> Result<bool, ClientError> {
    let (output, partial) = (&options.output, partial_path(&options.output));
    if output == &options.input {
        return Err(refuse(
            output,
            "is both input and output; give the output another name",
        ));
    }
    match options.existing {
        Existing::Overwrite => Ok(false),
        Existing::Resume => Ok(output.exists() && !partial.exists()),
        Existing::Refuse if partial.exists() => Err(refuse(
            &partial,
            "an unfinished run is there; go on with --resume, or begin again with --overwrite",
        )),
        Existing::Refuse if output.exists() => Err(refuse(
            output,
            "exists already; choose another name, or replace it with --overwrite",
        )),
        Existing::Refuse => Ok(false),
    }
}

/// Opens the partial output; what an earlier run wrote is counted and, for `dedupe`, remembered.
fn begin(
    oracle: &impl Oracle,
    options: &BatchOptions,
    header: &Header,
    names: &[u8],
    source: &mut Source,
    repeats: &Repeats,
    report: &mut BatchReport,
) -> Result<(Partial, Option<Item>), ClientError> {
    let earlier = RunRecord::read(&options.output)?;
    let resumes = options.existing == Existing::Resume && earlier.is_some();
    if let Some(earlier) = earlier.filter(|earlier| resumes && earlier.model != options.model) {
        let reason = format!(
            "was begun with {}, not with {}; name that version",
            earlier.model, options.model
        );
        return Err(refuse(&run_path(&options.output), reason));
    }
    let mut partial = Partial::open(&options.output)?;
    if !resumes {
        partial.clear()?;
        RunRecord {
            format: 1,
            model: options.model.clone(),
            input: options.input.clone(),
            smiles_column: options.smiles_column.clone(),
        }
        .write(&options.output)?;
        partial.header(header, names)?;
        let first = source.next()?;
        return Ok((partial, first));
    }
    let (fields, notes) = (oracle.columns().len(), oracle.note_columns().len());
    let done = |row: &Row, suffix: &[u8]| {
        report.rows += 1;
        report.resumed += 1;
        let mut found = split(suffix, header.delimiter);
        let status = found.get(fields + notes).cloned().unwrap_or_default();
        report.count_status(status.as_bytes());
        if let (true, "ok", Ok(smiles)) = (options.dedupe, &status[..], &row.smiles)
            && let Ok(features) = oracle.featurise(smiles)
        {
            found.truncate(fields);
            repeats.remember(&features, found);
        }
    };
    let first = partial.replay(header, names, || source.next(), done)?;
    Ok((partial, first))
}

/// The added columns; a name that the input uses already gets a number.
fn column_names(header: &Header, columns: Vec<String>) -> Vec<u8> {
    let mut taken = header.names.clone();
    let mut text = Vec::new();
    for name in columns
        .into_iter()
        .chain(["status".to_owned(), "reason".to_owned()])
    {
        let mut free = name.clone();
        let mut number = 2;
        while taken.contains(&free) {
            free = format!("{name}_{number}");
            number += 1;
        }
        if !text.is_empty() {
            text.push(header.delimiter);
        }
        text.extend(quote(free.as_bytes(), header.delimiter));
        taken.push(free);
    }
    text
}

/// What a row is answered with.
enum Answer {
    /// The fields of the answer and the notes; the prediction unless an equal molecule was asked for.
    Predicted(Vec<String>, Option<Prediction>),
    /// Status and reason.
    Fault(&'static str, String),
}

enum Answered {
    Blank(Vec<u8>),
    Row(Row, Result<Answer, ClientError>),
}

async fn answer(
    oracle: &impl Oracle,
    repeats: &Repeats,
    item: Result<Item, ClientError>,
) -> Result<Answered, ClientError> {
    let row = match item? {
        Item::Blank(end) => return Ok(Answered::Blank(end)),
        Item::Row(row) => row,
    };
    let smiles = match &row.smiles {
        Ok(smiles) => smiles,
        Err(fault) => {
            let (status, reason) = match fault {
                Fault::Molecule(reason) => ("bad-molecule", reason),
                Fault::Row(reason) => ("bad-row", reason),
            };
            let answer = Answer::Fault(status, reason.clone());
            return Ok(Answered::Row(row, Ok(answer)));
        }
    };
    let asked = async {
        let features = oracle.featurise(smiles)?;
        let notes = oracle.notes(smiles)?;
        let (fields, prediction) = repeats.answer(oracle, features).await?;
        let fields = fields.iter().cloned().chain(notes).collect();
        Ok(Answer::Predicted(fields, prediction))
    };
    let answer = match asked.await {
        Err(error @ ClientError::Molecule(_)) => {
            Ok(Answer::Fault("bad-molecule", error.to_string()))
        }
        Err(error @ ClientError::Query(_)) => Ok(Answer::Fault("failed", error.to_string())),
        answer => answer,
    };
    Ok(Answered::Row(row, answer))
}

/// What follows an input row: fields, status and reason.
fn suffix(answer: &Answer, fields: usize, delimiter: u8) -> Vec<u8> {
    let (fields, status, reason) = match answer {
        Answer::Predicted(fields, _) => (fields.clone(), "ok", ""),
        Answer::Fault(status, reason) => (vec![String::new(); fields], *status, reason.as_str()),
    };
    let line = |c: char| if c.is_control() { ' ' } else { c };
    let reason: String = reason.chars().map(line).collect();
    let text = fields.iter().map(String::as_str).chain([status, &reason]);
    let quoted: Vec<Vec<u8>> = text
        .map(|field| quote(field.as_bytes(), delimiter))
        .collect();
    quoted.join(&delimiter)
}

/// Reads a token from a file with owner-only permissions.
pub fn read_token(path: &Path) -> Result<Token, ClientError> {
    let bytes = crate::files::read_secret(path, 4096)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| refuse(path, "is not a token"))?;
    Ok(Token::new(text))
}
