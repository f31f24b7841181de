//! The incomplete output, and how a run goes on with it.
//!
//! `OUT.partial` only ever grows, row by row in the order of the input, so whatever kills a run
//! leaves a beginning of the output. A resumed run reads the input again beside it: every row must
//! repeat its input row byte for byte; a last row without its end is cut off. No prediction that
//! was written is asked for again. `OUT.run` names the version that answers, so that an alias that
//! moved meanwhile does not mix two models in one file.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::split_end;
use super::source::{Header, Item, Row, refuse};
use crate::ClientError;
use crate::files::said;

/// Longest text that follows an input row.
const MAX_SUFFIX: u64 = 1 << 16;

fn beside(output: &Path, ending: &str) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Where the incomplete output is kept.
pub fn partial_path(output: &Path) -> PathBuf {
    beside(output, ".partial")
}

/// Where it is written what a run was started with.
pub fn run_path(output: &Path) -> PathBuf {
    beside(output, ".run")
}

/// A write that failed; the run can go on from what is there.
fn refuse_write(path: &Path, error: &std::io::Error) -> ClientError {
    refuse(path, said(error, "go on with --resume"))
}

/// What a run was started with; the content of `OUT.run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// Always 1.
    pub format: u32,
    /// `name@sha256:…`, the version that answers.
    pub model: String,
    /// The input, as it was named.
    pub input: PathBuf,
    /// Column with the SMILES, as it was named.
    pub smiles_column: String,
}

impl RunRecord {
    /// The record beside an output; `None` when there is no unfinished run.
    pub fn read(output: &Path) -> Result<Option<Self>, ClientError> {
        let path = run_path(output);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refuse(&path, error)),
        };
        let record: Self = serde_json::from_slice(&text).map_err(|error| {
            refuse(
                &path,
                format!("{error}; remove it and the .partial file to begin again"),
            )
        })?;
        if record.format != 1 {
            let reason = format!(
                "has format {}, this release knows 1; use the release that began the run",
                record.format
            );
            return Err(refuse(&path, reason));
        }
        Ok(Some(record))
    }

    /// Appears complete or not at all.
    pub(crate) fn write(&self, output: &Path) -> Result<(), ClientError> {
        let (path, new) = (run_path(output), beside(output, ".run.new"));
        let text = serde_json::to_vec(self).map_err(|error| refuse(&new, error))?;
        let again = |error: &std::io::Error| refuse(&path, said(error, "run the command again"));
        let mut file = File::create(&new).map_err(|error| again(&error))?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(|error| {
                let _ = std::fs::remove_file(&new);
                again(&error)
            })
    }
}

/// The incomplete output, open for appending; nobody else may hold it.
pub(crate) struct Partial {
    path: PathBuf,
    file: std::io::BufWriter<File>,
    flushed: std::time::Instant,
}

/// How long written rows may wait in memory.
const FLUSH_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

impl Partial {
    /// Opens the file of `output`, made when absent, and takes it for this process.
    pub(crate) fn open(output: &Path) -> Result<Self, ClientError> {
        let path = partial_path(output);
        let file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(|error| refuse(&path, error))?;
        file.try_lock()
            .map_err(|_| refuse(&path, "another run is writing it; wait for it, or stop it"))?;
        Ok(Self {
            path,
            file: std::io::BufWriter::with_capacity(1 << 16, file),
            flushed: std::time::Instant::now(),
        })
    }

    /// Removes what is there.
    pub(crate) fn clear(&mut self) -> Result<(), ClientError> {
        self.cut(0)
    }

    fn cut(&mut self, length: u64) -> Result<(), ClientError> {
        let file = self.file.get_mut();
        file.set_len(length)
            .map_err(|error| refuse(&self.path, error))
    }

    pub(crate) fn header(&mut self, header: &Header, suffix: &[u8]) -> Result<(), ClientError> {
        let line = header_line(header, suffix);
        self.append(&[&line])
    }

    pub(crate) fn append(&mut self, parts: &[&[u8]]) -> Result<(), ClientError> {
        let written = parts.iter().try_for_each(|part| self.file.write_all(part));
        written.map_err(|error| refuse_write(&self.path, &error))?;
        if self.flushed.elapsed() >= FLUSH_EVERY {
            self.flush()?;
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), ClientError> {
        self.flushed = std::time::Instant::now();
        let flushed = self.file.flush();
        flushed.map_err(|error| refuse_write(&self.path, &error))
    }

    /// Everything is on the disk when this returns.
    pub(crate) fn sync(&mut self) -> Result<(), ClientError> {
        self.flush()?;
        self.file
            .get_ref()
            .sync_all()
            .map_err(|error| refuse_write(&self.path, &error))
    }

    /// Gives the complete file its final name.
    pub(crate) fn finish(mut self, output: &Path) -> Result<(), ClientError> {
        self.sync()?;
        std::fs::rename(&self.path, output).map_err(|error| refuse_write(output, &error))?;
        match std::fs::remove_file(run_path(output)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(refuse(&run_path(output), error))
            }
            _ => Ok(()),
        }
    }

    /// Reads what is there beside the input. `done` hears each row and what was written after it;
    /// the result is the first item that has no complete row yet.
    pub(crate) fn replay(
        &mut self,
        header: &Header,
        header_suffix: &[u8],
        mut items: impl FnMut() -> Result<Option<Item>, ClientError>,
        mut done: impl FnMut(&Row, &[u8]),
    ) -> Result<Option<Item>, ClientError> {
        let mut file = self
            .file
            .get_ref()
            .try_clone()
            .map_err(|error| refuse(&self.path, error))?;
        file.seek(SeekFrom::Start(0))
            .map_err(|error| refuse(&self.path, error))?;
        let mut written = Written {
            path: &self.path,
            reader: BufReader::with_capacity(1 << 16, file),
            offset: 0,
        };
        if !written.repeats(&header_line(header, header_suffix), 1)? {
            self.clear()?;
            self.header(header, header_suffix)?;
            return items();
        }
        let mut good = written.offset;
        let mut line = 1;
        let rest = loop {
            let Some(item) = items()? else {
                if !written.at_end()? {
                    return Err(refuse(
                        &self.path,
                        "holds more rows than the input; it belongs to another run",
                    ));
                }
                break None;
            };
            line += 1;
            match &item {
                Item::Blank(end) => {
                    if !written.repeats(end, line)? {
                        break Some(item);
                    }
                }
                Item::Row(row) => {
                    if !written.repeats(&[&row.raw[..], &[header.delimiter]].concat(), line)? {
                        break Some(item);
                    }
                    match written.suffix(&row.end)? {
                        Some(suffix) => done(row, &suffix),
                        None => break Some(item),
                    }
                }
            }
            good = written.offset;
        };
        self.cut(good)?;
        Ok(rest)
    }
}

fn header_line(header: &Header, suffix: &[u8]) -> Vec<u8> {
    [&header.raw[..], &[header.delimiter], suffix, &header.end].concat()
}

/// A partial output while it is compared with the input.
struct Written<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    offset: u64,
}

impl Written<'_> {
    fn at_end(&mut self) -> Result<bool, ClientError> {
        let rest = self
            .reader
            .fill_buf()
            .map_err(|error| refuse(self.path, error))?;
        Ok(rest.is_empty())
    }

    /// Whether `expected` stands here; `false` when the file ends before.
    fn repeats(&mut self, expected: &[u8], line: u64) -> Result<bool, ClientError> {
        let mut found = Vec::with_capacity(expected.len());
        let mut limited = self.reader.by_ref().take(expected.len() as u64);
        limited
            .read_to_end(&mut found)
            .map_err(|error| refuse(self.path, error))?;
        // zeros are what a power cut leaves of bytes that had not reached the disk
        let lost = |(found, expected): (&u8, &u8)| *found == 0 && *expected != 0;
        if let Some(kept) = found.iter().zip(expected).position(lost) {
            found.truncate(kept);
        }
        if found.len() < expected.len() && expected.starts_with(&found) {
            return Ok(false);
        }
        if found != expected {
            let reason = format!(
                "row {line} does not repeat the input, so it belongs to another run or the input has changed; \
                 begin again with --overwrite"
            );
            return Err(refuse(self.path, reason));
        }
        self.offset += found.len() as u64;
        Ok(true)
    }

    /// The rest of a row, without `end`; `None` when the row is not complete.
    fn suffix(&mut self, end: &[u8]) -> Result<Option<Vec<u8>>, ClientError> {
        let mut bytes = Vec::new();
        let mut limited = self.reader.by_ref().take(MAX_SUFFIX);
        limited
            .read_until(b'\n', &mut bytes)
            .map_err(|error| refuse(self.path, error))?;
        let length = bytes.len() as u64;
        if bytes.last() != Some(&b'\n') || bytes.contains(&0) {
            return Ok(None);
        }
        let (text, found) = split_end(&bytes);
        if found != end {
            return Ok(None);
        }
        self.offset += length;
        Ok(Some(text.to_vec()))
    }
}
