//! Configuration, and the worker's long-term sealing key on disk.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use chemxor_core::WorkerName;
use chemxor_fhe::sealing::{SealingError, SealingKeyPair};
use chemxor_runtime::operations::Operations;
use chemxor_runtime::tls::TlsFiles;
use serde::Deserialize;

/// What a worker needs to know; the keys of its configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// Its name, as in its certificate.
    pub name: WorkerName,
    /// Address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// host:port that the gateway dials; by default the address it listens on.
    #[serde(default)]
    pub advertise: Option<String>,
    /// host:port of the registry.
    pub registry: String,
    /// Certificate, key and authority.
    pub tls: TlsFiles,
    /// File with the sealing key; made with owner-only permissions when absent.
    pub sealing_key: PathBuf,
    /// Step evaluations at the same time; by default one for each core.
    #[serde(default)]
    pub evaluations: Option<usize>,
    /// MiB that prepared weights may take; the least recently used versions make room and are
    /// prepared again when asked for. By default there is no limit.
    #[serde(default)]
    pub memory_limit_mib: Option<usize>,
    /// Probes, metrics, reflection.
    #[serde(default)]
    pub operations: Operations,
}

/// Why a worker does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The address cannot be listened on.
    #[error("cannot listen: {0}; choose another `listen` address")]
    Listen(std::io::Error),
    /// The sealing key file.
    #[error("sealing key file {path}: {source}")]
    KeyFile {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("sealing key file {path}: {source}; move it away to make a new key")]
    Key {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: SealingError,
    },
    /// Others may read the key.
    #[error("sealing key file {0} is readable by others: run `chmod 600` on it")]
    Permissions(PathBuf),
    /// Certificates, or the shared server.
    #[error(transparent)]
    Runtime(#[from] chemxor_runtime::RuntimeError),
    /// The transport.
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    /// A task ended badly.
    #[error("a task of the worker ended: {0}")]
    Task(String),
}

impl WorkerConfig {
    /// Bytes that prepared weights may take.
    pub(crate) fn memory(&self) -> usize {
        self.memory_limit_mib
            .map_or(usize::MAX, |mib| mib.saturating_mul(1 << 20))
    }

    pub(crate) fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.evaluations.unwrap_or_else(cores).max(1)
    }

    /// Fingerprint of the sealing key, which is made when absent: what a publisher pins.
    pub fn sealing_fingerprint(&self) -> Result<String, WorkerError> {
        let keys = self.load_or_create_sealing_key()?;
        Ok(chemxor_runtime::pki::sealing_fingerprint(keys.public()))
    }

    pub(crate) fn load_or_create_sealing_key(&self) -> Result<SealingKeyPair, WorkerError> {
        let path = &self.sealing_key;
        let io = |source| WorkerError::KeyFile {
            path: path.clone(),
            source,
        };
        if path.exists() {
            let mode = std::fs::metadata(path).map_err(io)?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(WorkerError::Permissions(path.clone()));
            }
            let bytes = zeroize::Zeroizing::new(std::fs::read(path).map_err(io)?);
            return SealingKeyPair::from_secret(&bytes).map_err(|source| WorkerError::Key {
                path: path.clone(),
                source,
            });
        }
        let keys = SealingKeyPair::generate();
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        file.write_all(&keys.to_secret())
            .and_then(|()| file.sync_all())
            .map_err(io)?;
        Ok(keys)
    }
}
