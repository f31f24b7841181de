//! Records and lines of a table, with the very bytes that stand in the file.

use std::collections::VecDeque;
use std::io::BufRead;

use csv_core::ReadRecordResult;

/// Longest row that is held in memory.
const MAX_ROW_BYTES: usize = 1 << 20;

/// The records of a file, one after the other.
pub(super) struct Records {
    lines: Lines,
    parser: Parser,
}

impl Records {
    pub(super) fn new(reader: Box<dyn BufRead + Send>, delimiter: u8) -> Self {
        let lines = Lines {
            reader,
            pending: VecDeque::new(),
        };
        Self {
            lines,
            parser: Parser::new(delimiter),
        }
    }

    /// The next line, whatever quotes stand in it.
    pub(super) fn line(&mut self) -> std::io::Result<Option<Line>> {
        self.lines.next()
    }

    /// The next record; a quote that is never closed damages only the line on which it opens.
    pub(super) fn next(&mut self) -> std::io::Result<Option<Record>> {
        let Some(first) = self.lines.next()? else {
            return Ok(None);
        };
        let (raw, end) = split_end(&first.bytes);
        if raw.is_empty() || first.cut {
            let fields = if first.cut {
                Err(too_long())
            } else {
                Ok(Vec::new())
            };
            let (raw, end) = (raw.to_vec(), end.to_vec());
            return Ok(Some(Record { raw, end, fields }));
        }
        self.parser.reset();
        let mut state = self.parser.feed(&first.bytes);
        let mut more: Vec<Line> = Vec::new();
        let mut length = first.bytes.len();
        while state == Fed::Incomplete && length <= MAX_ROW_BYTES {
            let next = self.lines.next()?;
            let Some(next) = next else {
                // the file ends without a line end
                state = self.parser.feed(b"\n");
                break;
            };
            state = self.parser.feed(&next.bytes);
            length += next.bytes.len();
            more.push(next);
        }
        let (raw, end) = (raw.to_vec(), end.to_vec());
        Ok(Some(match state {
            Fed::Record => {
                let mut whole = first.bytes;
                whole.extend(more.iter().flat_map(|line| line.bytes.iter().copied()));
                let (raw, end) = split_end(&whole);
                Record {
                    raw: raw.to_vec(),
                    end: end.to_vec(),
                    fields: Ok(self.parser.fields()),
                }
            }
            Fed::Incomplete | Fed::Trailing => {
                let reason = if state == Fed::Trailing {
                    "a carriage return stands in the middle of the line"
                } else {
                    "a quote opens in this line and is never closed"
                };
                for line in more.into_iter().rev() {
                    self.lines.pending.push_front(line);
                }
                Record {
                    raw,
                    end,
                    fields: Err(reason.to_owned()),
                }
            }
        }))
    }
}

pub(super) fn too_long() -> String {
    format!("the line is longer than {MAX_ROW_BYTES} bytes and was cut there")
}

/// A line apart from its end.
pub(super) fn split_end(line: &[u8]) -> (&[u8], &[u8]) {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    line.split_at(text.len())
}

/// A field as CSV, quoted where it must be.
pub(super) fn quote(field: &[u8], delimiter: u8) -> Vec<u8> {
    if !field
        .iter()
        .any(|byte| [delimiter, b'"', b'\n', b'\r'].contains(byte))
    {
        return field.to_vec();
    }
    let mut out = vec![b'"'];
    for byte in field {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
    out
}

/// The fields of one line of CSV.
pub(super) fn split(line: &[u8], delimiter: u8) -> Vec<String> {
    let mut parser = Parser::new(delimiter);
    parser.feed(line);
    parser.feed(b"\n");
    let fields = parser.fields();
    fields
        .iter()
        .map(|field| String::from_utf8_lossy(field).into_owned())
        .collect()
}

/// A record of CSV.
pub(super) struct Record {
    /// Its bytes, without the line end.
    pub(super) raw: Vec<u8>,
    pub(super) end: Vec<u8>,
    /// Or what is wrong with it.
    pub(super) fields: Result<Vec<Vec<u8>>, String>,
}

pub(super) struct Line {
    pub(super) bytes: Vec<u8>,
    /// It was longer than [`MAX_ROW_BYTES`].
    pub(super) cut: bool,
}

/// Lines of a file, with their ends.
struct Lines {
    reader: Box<dyn BufRead + Send>,
    /// Read before, to be read again.
    pending: VecDeque<Line>,
}

impl Lines {
    fn next(&mut self) -> std::io::Result<Option<Line>> {
        use std::io::Read;
        if let Some(line) = self.pending.pop_front() {
            return Ok(Some(line));
        }
        let mut bytes = Vec::new();
        let mut limited = self.reader.by_ref().take(MAX_ROW_BYTES as u64);
        if limited.read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        let cut = bytes.len() == MAX_ROW_BYTES && bytes.last() != Some(&b'\n');
        if cut {
            self.reader.skip_until(b'\n')?;
        }
        Ok(Some(Line { bytes, cut }))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fed {
    /// A record is complete.
    Record,
    /// The record goes on in the next line.
    Incomplete,
    /// A record is complete before the end of the line.
    Trailing,
}

/// csv-core on one record at a time.
struct Parser {
    core: csv_core::Reader,
    output: Vec<u8>,
    ends: Vec<usize>,
    written: usize,
    fields: usize,
}

impl Parser {
    fn new(delimiter: u8) -> Self {
        Self {
            core: csv_core::ReaderBuilder::new().delimiter(delimiter).build(),
            output: Vec::new(),
            ends: Vec::new(),
            written: 0,
            fields: 0,
        }
    }

    fn reset(&mut self) {
        self.core.reset();
        (self.written, self.fields) = (0, 0);
    }

    fn feed(&mut self, line: &[u8]) -> Fed {
        // no field is longer than its text, and no line has more fields than bytes
        let room = |used: usize| used + line.len() + 2;
        if self.output.len() < room(self.written) {
            self.output.resize(room(self.written), 0);
        }
        if self.ends.len() < room(self.fields) {
            self.ends.resize(room(self.fields), 0);
        }
        let (result, read, written, ends) = self.core.read_record(
            line,
            &mut self.output[self.written..],
            &mut self.ends[self.fields..],
        );
        self.written += written;
        self.fields += ends;
        match result {
            ReadRecordResult::Record if matches!(&line[read..], b"" | b"\n") => Fed::Record,
            ReadRecordResult::Record => Fed::Trailing,
            _ => Fed::Incomplete,
        }
    }

    fn fields(&self) -> Vec<Vec<u8>> {
        let ends = &self.ends[..self.fields];
        let starts = std::iter::once(&0).chain(ends);
        starts
            .zip(ends)
            .map(|(start, end)| self.output[*start..*end].to_vec())
            .collect()
    }
}
