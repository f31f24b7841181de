//! CSV, TSV and `.smi` files. The ending says which (`.csv`, `.tsv`, `.smi`, each also with `.gz`);
//! gzip is also known by its first bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::TableError;
use crate::descriptors::descriptors;

/// Longest line of a SMILES file that is held in memory; of a longer one the rest is skipped.
const MAX_ROW_BYTES: usize = 1 << 20;
/// Column names that an error lists.
const SHOWN_COLUMNS: usize = 20;

/// Which column holds the SMILES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    /// By name in the header; letter case counts only where names differ by nothing else.
    Name(String),
    /// By position, from 0.
    Position(usize),
}

impl Column {
    /// A number is a position from 1, anything else a name.
    pub fn parse(text: &str) -> Self {
        match text.trim().parse::<usize>() {
            Ok(position) if position > 0 => Self::Position(position - 1),
            _ => Self::Name(text.trim().to_owned()),
        }
    }
}

/// How fields are separated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Commas, quotes as in RFC 4180.
    Csv,
    /// Tabulators, quotes as in RFC 4180.
    Tsv,
    /// The SMILES, white space, a name; never quoted.
    Smi,
}

impl Shape {
    /// By the ending of `path`, `.gz` taken off; commas where it says nothing.
    pub fn of(path: &Path) -> Self {
        let name = path.to_string_lossy().to_ascii_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        match name.rsplit('.').next() {
            Some("tsv" | "tab") => Self::Tsv,
            Some("smi" | "smiles") => Self::Smi,
            _ => Self::Csv,
        }
    }
}

/// One row, good or bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRow {
    /// Line of the file where it begins, from 1.
    pub line: u64,
    /// Its fields, as they stand; bytes that are no UTF-8 are replaced.
    pub fields: Vec<String>,
    /// The SMILES, trimmed, or why there is none.
    pub smiles: Result<String, String>,
}

/// A table, read row by row.
pub struct Table {
    name: String,
    header: Option<Vec<String>>,
    column: usize,
    width: usize,
    rows: Rows,
    /// A first row that turned out to be no header.
    first: Option<(u64, Vec<Vec<u8>>)>,
    /// After a read error the source gives nothing more.
    ended: bool,
}

enum Rows {
    Separated(Box<csv::Reader<Box<dyn Read + Send>>>),
    Smi {
        reader: Box<dyn BufRead + Send>,
        line: u64,
    },
}

/// One record, or why it cannot be read, with its line.
type Record = Result<(u64, Vec<Vec<u8>>), (u64, String)>;

impl Table {
    /// Opens a file and finds out whether its first row is a header.
    pub fn open(path: &Path, column: &Column) -> Result<Self, TableError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| TableError::File {
            name: name.clone(),
            reason: error.to_string(),
        })?;
        Self::from_reader(&name, Box::new(file), Shape::of(path), column)
    }

    /// The same for any source of bytes; `name` is what errors call it.
    pub fn from_reader(
        name: &str,
        source: Box<dyn Read + Send>,
        shape: Shape,
        column: &Column,
    ) -> Result<Self, TableError> {
        let refuse = |error: io::Error| TableError::File {
            name: name.to_owned(),
            reason: error.to_string(),
        };
        let mut source = BufReader::new(source);
        let is_gzip = source
            .fill_buf()
            .map_err(refuse)?
            .starts_with(&[0x1f, 0x8b]);
        let mut source: Box<dyn BufRead + Send> = if is_gzip {
            Box::new(BufReader::new(MultiGzDecoder::new(source)))
        } else {
            Box::new(source)
        };
        if source
            .fill_buf()
            .map_err(refuse)?
            .starts_with(b"\xef\xbb\xbf")
        {
            source.consume(3);
        }
        let mut rows = match shape {
            Shape::Smi => Rows::Smi {
                reader: source,
                line: 0,
            },
            Shape::Csv | Shape::Tsv => Rows::Separated(Box::new(
                csv::ReaderBuilder::new()
                    .has_headers(false)
                    .flexible(true)
                    .delimiter(if shape == Shape::Tsv { b'\t' } else { b',' })
                    .from_reader(Box::new(source) as Box<dyn Read + Send>),
            )),
        };
        let (line, first) = match rows.next() {
            None => {
                return Err(TableError::Empty {
                    name: name.to_owned(),
                });
            }
            Some(Err((line, reason))) => {
                return Err(TableError::File {
                    name: name.to_owned(),
                    reason: format!("line {line}: {reason}"),
                });
            }
            Some(Ok(record)) => record,
        };
        let names: Vec<String> = first
            .iter()
            .map(|field| text(field).trim().to_owned())
            .collect();
        let header = is_header(&names, shape, column);
        let at = match column {
            // a SMILES file has its molecule first
            _ if shape == Shape::Smi && !header => Some(0),
            Column::Position(at) => (*at < names.len()).then_some(*at),
            Column::Name(wanted) => find(&names, wanted),
        };
        let at = at.ok_or_else(|| TableError::MissingColumn {
            name: name.to_owned(),
            wanted: match column {
                Column::Name(wanted) => wanted.clone(),
                Column::Position(at) => (at + 1).to_string(),
            },
            columns: listed(&names),
        })?;
        Ok(Self {
            name: name.to_owned(),
            column: at,
            width: names.len(),
            header: header.then_some(names),
            rows,
            first: (!header).then_some((line, first)),
            ended: false,
        })
    }

    /// What errors call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The header; `None` where the first row is a molecule.
    pub fn header(&self) -> Option<&[String]> {
        self.header.as_deref()
    }

    /// Columns of the first row.
    pub fn width(&self) -> usize {
        self.width
    }

    fn row(&self, line: u64, fields: &[Vec<u8>]) -> TableRow {
        let smiles = match fields.get(self.column) {
            None => Err(format!(
                "the SMILES is missing: the line has {} fields",
                fields.len()
            )),
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(smiles) if smiles.trim().is_empty() => Err("the SMILES is empty".to_owned()),
                Ok(smiles) => Ok(smiles.trim().to_owned()),
                Err(_) => Err("the SMILES is not UTF-8".to_owned()),
            },
        };
        TableRow {
            line,
            fields: fields.iter().map(|field| text(field)).collect(),
            smiles,
        }
    }
}

impl Iterator for Table {
    type Item = TableRow;

    fn next(&mut self) -> Option<TableRow> {
        if self.ended {
            return None;
        }
        let record = self.first.take().map(Ok).or_else(|| self.rows.next())?;
        Some(match record {
            Ok((line, fields)) => self.row(line, &fields),
            Err((line, reason)) => {
                self.ended = !reason.starts_with("the line is longer");
                TableRow {
                    line,
                    fields: Vec::new(),
                    smiles: Err(reason),
                }
            }
        })
    }
}

impl Rows {
    fn next(&mut self) -> Option<Record> {
        match self {
            Self::Separated(reader) => {
                let line = reader.position().line();
                let mut record = csv::ByteRecord::new();
                match reader.read_byte_record(&mut record) {
                    Ok(false) => None,
                    Ok(true) => {
                        let line = record.position().map_or(line, csv::Position::line);
                        Some(Ok((line, record.iter().map(<[u8]>::to_vec).collect())))
                    }
                    Err(error) => Some(Err((line, error.to_string()))),
                }
            }
            Self::Smi { reader, line } => loop {
                let mut bytes = Vec::new();
                *line += 1;
                let limit = MAX_ROW_BYTES as u64;
                match reader.by_ref().take(limit).read_until(b'\n', &mut bytes) {
                    Ok(0) => return None,
                    Ok(read) if read == MAX_ROW_BYTES && bytes.last() != Some(&b'\n') => {
                        let reason = match reader.skip_until(b'\n') {
                            Ok(_) => format!("the line is longer than {MAX_ROW_BYTES} bytes"),
                            Err(error) => error.to_string(),
                        };
                        return Some(Err((*line, reason)));
                    }
                    Ok(_) if bytes.trim_ascii().is_empty() => {}
                    Ok(_) => return Some(Ok((*line, split_smi(bytes.trim_ascii())))),
                    Err(error) => return Some(Err((*line, error.to_string()))),
                }
            },
        }
    }
}

/// The SMILES and what follows it.
fn split_smi(line: &[u8]) -> Vec<Vec<u8>> {
    match line.iter().position(u8::is_ascii_whitespace) {
        None => vec![line.to_vec()],
        Some(at) => vec![line[..at].to_vec(), line[at..].trim_ascii().to_vec()],
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether the first row names columns. A row with a molecule in it is never taken for a header,
/// unless that field is the very name that was asked for.
fn is_header(names: &[String], shape: Shape, column: &Column) -> bool {
    match column {
        Column::Name(wanted) if find(names, wanted).is_some() => true,
        // where the column has a name, the file must have names
        Column::Name(_) if shape != Shape::Smi => true,
        Column::Name(_) => names
            .first()
            .is_some_and(|name| ["smiles", "smi"].contains(&name.to_ascii_lowercase().as_str())),
        Column::Position(at) => names
            .get(*at)
            .is_some_and(|field| descriptors(field).is_err() && looks_like_a_name(field)),
    }
}

/// Letters, digits and joints only, with a word in it that no SMILES contains: m, u, l and e are no
/// atoms outside brackets.
fn looks_like_a_name(field: &str) -> bool {
    let lower = field.to_ascii_lowercase();
    let plain = |c: char| c.is_ascii_alphanumeric() || [' ', '_', '-'].contains(&c);
    lower.chars().all(plain)
        && ["smiles", "structure", "molecule", "compound"]
            .iter()
            .any(|word| lower.contains(word))
}

fn find(names: &[String], wanted: &str) -> Option<usize> {
    names.iter().position(|name| name == wanted).or_else(|| {
        names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(wanted))
    })
}

fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN_COLUMNS)
        .map(|name| name.chars().take(40).collect())
        .collect();
    let more = if names.len() > SHOWN_COLUMNS {
        ", …"
    } else {
        ""
    };
    shown.join(", ") + more
}
