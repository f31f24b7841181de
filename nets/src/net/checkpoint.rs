//! The state of a training on disk: a header as one line of JSON, then 32-bit floats. Written to a
//! neighbour and renamed, so that a crash leaves the last whole one.

use std::io::Write;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::NetsError;

/// Largest file that is read: an Olinda net with its moments has 30 MB.
const MOST_BYTES: u64 = 1 << 30;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Header {
    /// Of data, settings and member: a state is only taken up by the run that wrote it.
    pub(super) run: String,
    /// Epochs done, or the epoch that these weights are of.
    pub(super) epoch: usize,
    /// Validation loss of the weights, as the bits of a double: decimals would not come back exactly.
    pub(super) loss: u64,
    /// Training and validation loss of every epoch, as bits.
    pub(super) losses: Vec<[u64; 2]>,
    /// Position of the random generator, in words.
    pub(super) position: String,
    /// Steps of each optimiser.
    pub(super) times: Vec<usize>,
    /// SHA-256 of the floats, hex.
    pub(super) digest: String,
}

/// A folder of one network's files.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    run: String,
}

impl Folder {
    /// Made if it is not there. `run` names data and settings.
    pub(crate) fn new(path: &Path, run: String) -> Result<Self, NetsError> {
        std::fs::create_dir_all(path).map_err(|error| refuse(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            run,
        })
    }

    pub(super) fn run(&self) -> &str {
        &self.run
    }

    pub(super) fn save(
        &self,
        name: &str,
        mut header: Header,
        floats: &[f32],
    ) -> Result<(), NetsError> {
        let bytes: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
        header.digest = HEXLOWER.encode(&Sha256::digest(&bytes));
        let path = self.path.join(name);
        let part = self.path.join(format!("{name}.part"));
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&part)?;
            serde_json::to_writer(&mut file, &header)?;
            file.write_all(b"\n")?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&part, &path)
        };
        write().map_err(|error| refuse(&path, &error))
    }

    /// A state of this run; none where there is none. A damaged or foreign one is an error, because
    /// going on without it would throw work away.
    pub(super) fn load(&self, name: &str) -> Result<Option<(Header, Vec<f32>)>, NetsError> {
        let path = self.path.join(name);
        let bytes = match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refuse(&path, &error)),
            Ok(metadata) if metadata.len() > MOST_BYTES => {
                return Err(damaged(&path, "it is larger than 1 GiB"));
            }
            Ok(_) => std::fs::read(&path).map_err(|error| refuse(&path, &error))?,
        };
        let line = bytes.iter().position(|byte| *byte == b'\n');
        let Some((head, floats)) = line.map(|at| bytes.split_at(at)) else {
            return Err(damaged(&path, "it has no header"));
        };
        let header: Header = serde_json::from_slice(head)
            .map_err(|_| damaged(&path, "its header cannot be read"))?;
        let floats = &floats[1..];
        if header.digest != HEXLOWER.encode(&Sha256::digest(floats)) || floats.len() % 4 != 0 {
            return Err(damaged(&path, "its digest does not fit"));
        }
        if header.run != self.run {
            return Err(damaged(&path, "it is of other data or settings"));
        }
        let floats = floats
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        Ok(Some((header, floats)))
    }
}

fn refuse(path: &Path, error: &std::io::Error) -> NetsError {
    NetsError::Checkpoint {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

fn damaged(path: &Path, reason: &str) -> NetsError {
    NetsError::Checkpoint {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}
