//! Rows of a table of molecules, each with the very bytes that stand in the file, so that the
//! output can repeat them unchanged: quotes, spaces, line ends, blank lines.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use chemxor_chem::table::{Column, Shape};
use flate2::bufread::MultiGzDecoder;

use super::record::{Record, Records, quote, split_end, too_long};
use crate::ClientError;

/// Column names that an error lists.
const SHOWN_COLUMNS: usize = 20;

pub(crate) fn refuse(path: &Path, reason: impl std::fmt::Display) -> ClientError {
    ClientError::File {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// Why a row has no molecule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The row is one of the table, its SMILES cannot be used.
    Molecule(String),
    /// The row itself is damaged: which field is the SMILES cannot be known.
    Row(String),
}

/// One line of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// A blank line, with its line end; it stays in its place.
    Blank(Vec<u8>),
    /// A row.
    Row(Row),
}

/// A row: what the output repeats, and the molecule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// The fields as they stand in the file, as many as the header has, without the line end.
    pub(crate) raw: Vec<u8>,
    /// The line end.
    pub(crate) end: Vec<u8>,
    /// The SMILES, trimmed.
    pub(crate) smiles: Result<String, Fault>,
}

/// The header of the table.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    /// As it stands in the file, without its line end.
    pub(crate) raw: Vec<u8>,
    /// Its line end.
    pub(crate) end: Vec<u8>,
    /// Names of the columns.
    pub(crate) names: Vec<String>,
    /// Between two fields.
    pub(crate) delimiter: u8,
}

/// A table that is read row by row; memory does not grow with its length.
pub(crate) struct Source {
    path: PathBuf,
    records: Records,
    header: Header,
    column: usize,
    shape: Shape,
}

impl Source {
    /// Opens a CSV, TSV or SMILES file, plain or gzip, and finds the column of the SMILES.
    pub(crate) fn open(path: &Path, column: &Column) -> Result<Self, ClientError> {
        let file = File::open(path).map_err(|error| refuse(path, error))?;
        let mut reader: Box<dyn BufRead + Send> = Box::new(BufReader::with_capacity(1 << 16, file));
        let start = reader.fill_buf().map_err(|error| refuse(path, error))?;
        if start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") {
            return Err(refuse(
                path,
                "is UTF-16; save it as UTF-8 (in Excel: CSV UTF-8)",
            ));
        }
        if start.starts_with(&[0x1f, 0x8b]) {
            reader = Box::new(BufReader::new(MultiGzDecoder::new(reader)));
        }
        let shape = Shape::of(path);
        let delimiter = if shape == Shape::Tsv { b'\t' } else { b',' };
        let mut source = Self {
            path: path.to_owned(),
            records: Records::new(reader, delimiter),
            header: Header {
                raw: b"smiles,name".to_vec(),
                end: b"\n".to_vec(),
                names: vec!["smiles".to_owned(), "name".to_owned()],
                delimiter,
            },
            column: 0,
            shape,
        };
        if shape != Shape::Smi {
            source.read_header(column)?;
        }
        Ok(source)
    }

    fn read_header(&mut self, column: &Column) -> Result<(), ClientError> {
        let record = self.records.next();
        let record = record
            .map_err(|error| refuse(&self.path, error))?
            .ok_or_else(|| refuse(&self.path, "is empty; its first line must name the columns"))?;
        let Record { raw, end, fields } = record;
        let fields = match fields {
            Ok(fields) if !raw.is_empty() => fields,
            Ok(_) => {
                return Err(refuse(
                    &self.path,
                    "begins with a blank line; its first line must name the columns",
                ));
            }
            Err(reason) => return Err(refuse(&self.path, format!("line 1: {reason}"))),
        };
        let names: Vec<String> = fields
            .iter()
            .enumerate()
            .map(|(at, field)| {
                let field = if at == 0 {
                    field.strip_prefix(b"\xef\xbb\xbf").unwrap_or(field)
                } else {
                    field
                };
                String::from_utf8_lossy(field).trim().to_owned()
            })
            .collect();
        self.column = find(&self.path, &names, column)?;
        let end = if end.is_empty() { b"\n".to_vec() } else { end };
        self.header = Header {
            raw,
            end,
            names,
            delimiter: self.header.delimiter,
        };
        Ok(())
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// The next line of the table.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, ClientError> {
        if self.shape == Shape::Smi {
            return self.next_smi();
        }
        let record = self.records.next();
        let record = record.map_err(|error| refuse(&self.path, error))?;
        let Some(Record { raw, end, fields }) = record else {
            return Ok(None);
        };
        if raw.is_empty() {
            return Ok(Some(Item::Blank(end)));
        }
        let width = self.header.names.len();
        let row = match fields {
            Err(reason) => self.damaged(&raw, reason),
            Ok(fields) if fields.len() > width => {
                let reason = format!("the row has {} fields, the header {width}", fields.len());
                let mut kept: Vec<Vec<u8>> = fields;
                // fields beyond the header would shift what follows: they are kept in the last column
                let rest = kept.split_off(width - 1).join(&self.header.delimiter);
                kept.push(rest);
                (self.join(&kept), Err(Fault::Row(reason)))
            }
            Ok(fields) => {
                let smiles = molecule(fields.get(self.column).map(Vec::as_slice), fields.len());
                let mut raw = raw;
                raw.extend(std::iter::repeat_n(
                    self.header.delimiter,
                    width - fields.len(),
                ));
                (raw, smiles)
            }
        };
        Ok(Some(self.row(row, end)))
    }

    fn row(&self, (raw, smiles): (Vec<u8>, Result<String, Fault>), end: Vec<u8>) -> Item {
        let end = if end.is_empty() {
            self.header.end.clone()
        } else {
            end
        };
        Item::Row(Row { raw, end, smiles })
    }

    /// A line that is no row keeps its text, quoted, in the first column.
    fn damaged(&self, raw: &[u8], reason: String) -> (Vec<u8>, Result<String, Fault>) {
        let mut fields = vec![Vec::new(); self.header.names.len()];
        fields[0] = raw.to_vec();
        (self.join(&fields), Err(Fault::Row(reason)))
    }

    fn join(&self, fields: &[Vec<u8>]) -> Vec<u8> {
        let quoted: Vec<Vec<u8>> = fields
            .iter()
            .map(|field| quote(field, self.header.delimiter))
            .collect();
        quoted.join(&self.header.delimiter)
    }

    fn next_smi(&mut self) -> Result<Option<Item>, ClientError> {
        let Some(line) = self
            .records
            .line()
            .map_err(|error| refuse(&self.path, error))?
        else {
            return Ok(None);
        };
        let (raw, end) = split_end(&line.bytes);
        if raw.is_empty() {
            return Ok(Some(Item::Blank(end.to_vec())));
        }
        let row = if line.cut {
            self.damaged(raw, too_long())
        } else {
            let text = raw.trim_ascii();
            let at = text
                .iter()
                .position(u8::is_ascii_whitespace)
                .unwrap_or(text.len());
            let fields = vec![text[..at].to_vec(), text[at..].trim_ascii().to_vec()];
            let smiles = molecule(fields.first().map(Vec::as_slice), fields.len());
            (self.join(&fields), smiles)
        };
        let end = end.to_vec();
        Ok(Some(self.row(row, end)))
    }
}

fn molecule(field: Option<&[u8]>, fields: usize) -> Result<String, Fault> {
    let fault = |reason: String| Err(Fault::Molecule(reason));
    match field {
        None => fault(format!(
            "the SMILES is missing: the row has {fields} fields"
        )),
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if text.trim().is_empty() => fault("the SMILES is empty".to_owned()),
            Ok(text) => Ok(text.trim().to_owned()),
            Err(_) => fault("the SMILES is not UTF-8".to_owned()),
        },
    }
}

fn find(path: &Path, names: &[String], column: &Column) -> Result<usize, ClientError> {
    let wanted = match column {
        Column::Position(at) if *at < names.len() => return Ok(*at),
        Column::Position(at) => (at + 1).to_string(),
        Column::Name(wanted) => {
            let matching = |equal: fn(&str, &str) -> bool| -> Vec<usize> {
                (0..names.len())
                    .filter(|at| equal(&names[*at], wanted))
                    .collect()
            };
            let mut found = matching(|name, wanted| name == wanted);
            if found.is_empty() {
                found = matching(|name, wanted| name.eq_ignore_ascii_case(wanted));
            }
            match found[..] {
                [at] => return Ok(at),
                [] => wanted.clone(),
                [first, ..] => {
                    let message = format!(
                        "has {} columns called {wanted:?}; give the position of one, e.g. --smiles-column {}",
                        found.len(),
                        first + 1
                    );
                    return Err(refuse(path, message));
                }
            }
        }
    };
    let shown: Vec<String> = names
        .iter()
        .take(SHOWN_COLUMNS)
        .map(|name| name.chars().take(40).collect())
        .collect();
    let message = format!(
        "has no column {wanted:?}; it has: {}; name the SMILES column with --smiles-column, or give its position from 1",
        shown.join(", ")
    );
    Err(refuse(path, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, bytes: &[u8]) -> Vec<Item> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut source = Source::open(&path, &Column::parse("smiles")).unwrap();
        std::iter::from_fn(|| source.next().unwrap()).collect()
    }

    fn row(raw: &str, end: &str, smiles: Result<&str, Fault>) -> Item {
        let (raw, end) = (raw.as_bytes().to_vec(), end.as_bytes().to_vec());
        Item::Row(Row {
            raw,
            end,
            smiles: smiles.map(str::to_owned),
        })
    }

    #[test]
    fn rows_keep_their_bytes() {
        let items = read(
            "a.csv",
            b"id,smiles\r\n1,\"CCO\"\r\n\r\n\"a\n\"\"b\", C \r\n3",
        );
        let missing = Fault::Molecule("the SMILES is missing: the row has 1 fields".into());
        let expected = [
            row("1,\"CCO\"", "\r\n", Ok("CCO")),
            Item::Blank(b"\r\n".to_vec()),
            row("\"a\n\"\"b\", C ", "\r\n", Ok("C")),
            row("3,", "\r\n", Err(missing)),
        ];
        assert_eq!(items, expected);
    }

    #[test]
    fn a_damaged_row_costs_only_itself() {
        let items = read("a.csv", b"id,smiles\n\"open,C\n2,CC\n3,C,x\n4,C\rC\n5,N\n");
        let fault = |reason: &str| Err(Fault::Row(reason.to_owned()));
        let expected = [
            row(
                "\"\"\"open,C\",",
                "\n",
                fault("a quote opens in this line and is never closed"),
            ),
            row("2,CC", "\n", Ok("CC")),
            row(
                "3,\"C,x\"",
                "\n",
                fault("the row has 3 fields, the header 2"),
            ),
            row(
                "\"4,C\rC\",",
                "\n",
                fault("a carriage return stands in the middle of the line"),
            ),
            row("5,N", "\n", Ok("N")),
        ];
        assert_eq!(items, expected);
    }

    #[test]
    fn smiles_files_need_no_header() {
        let items = read("a.smi", b"CCO ethanol, pure\n\nC1CC\n");
        let expected = [
            row("CCO,\"ethanol, pure\"", "\n", Ok("CCO")),
            Item::Blank(b"\n".to_vec()),
            row("C1CC,", "\n", Ok("C1CC")),
        ];
        assert_eq!(items, expected);
    }

    #[test]
    fn columns_that_cannot_be_told_apart_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let open = |bytes: &[u8], column: &str| {
            std::fs::write(&path, bytes).unwrap();
            Source::open(&path, &Column::parse(column))
                .map(|s| s.column)
                .map_err(|e| e.to_string())
        };
        assert_eq!(open(b"SMILES,id\n", "smiles"), Ok(0));
        assert_eq!(open(b"smiles,smiles\n", "2"), Ok(1));
        assert_eq!(open(b"\xef\xbb\xbfsmiles,id\n", "smiles"), Ok(0));
        for (bytes, column, reason) in [
            (&b"smiles,smiles\n"[..], "smiles", "has 2 columns called"),
            (b"a,b\n", "smiles", "it has: a, b"),
            (b"", "smiles", "is empty"),
            (b"\xff\xfes\0", "smiles", "UTF-16"),
        ] {
            let said = open(bytes, column).unwrap_err();
            assert!(said.contains(reason), "{said}");
        }
    }
}
