//! Configuration, and the worker's long-term sealing key on disk.

use std::fs::Permissions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use chemxor_core::{OrganisationName, WorkerName};
use chemxor_fhe::sealing::{SealingError, SealingKeyPair};
use chemxor_proto::{MAX_SEALED_STATE_BYTES, MAX_STEP_BYTES};
use chemxor_runtime::operations::Operations;
use chemxor_runtime::tls::TlsFiles;
use serde::Deserialize;
use tokio::sync::Semaphore;

/// MiB that messages of one stream may take, when the configuration does not say.
pub const STREAM_MEMORY_MIB: usize = 256;

fn stream_memory_mib() -> usize {
    STREAM_MEMORY_MIB
}

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
    /// MiB that the messages of one stream may take, incomplete ones and those under evaluation
    /// together; a stream with more is not read until some are answered. At least the longest step
    /// message, 64.
    #[serde(default = "stream_memory_mib")]
    pub stream_memory_mib: usize,
    /// Organisations whose models it serves. Steps of others are not placed on it, and those that were
    /// are served no more. By default everybody's.
    #[serde(default)]
    pub organisations: Vec<OrganisationName>,
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
    #[error(
        "sealing key file {0} is open to others and its mode cannot be changed: run `chmod 600` on \
         it, or give it to the user of this program"
    )]
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

    /// Bytes that messages of one stream may take; the longest message always fits.
    pub(crate) fn stream_memory(&self) -> usize {
        let bytes = self.stream_memory_mib.saturating_mul(1 << 20);
        let least = MAX_STEP_BYTES + MAX_SEALED_STATE_BYTES;
        bytes.clamp(least, Semaphore::MAX_PERMITS)
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
            self.close_to_others()?;
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

    /// Takes the rights of group and others away from the key file. Kubernetes sets the group's at
    /// every mount of a volume with an `fsGroup`, so they are mended and not refused.
    fn close_to_others(&self) -> Result<(), WorkerError> {
        let path = &self.sealing_key;
        let io = |source| WorkerError::KeyFile {
            path: path.clone(),
            source,
        };
        let is_open = || {
            std::fs::metadata(path).map(|file| {
                let mode = file.permissions().mode();
                mode & 0o077 != 0
            })
        };
        if !is_open().map_err(io)? {
            return Ok(());
        }
        let tightened = std::fs::set_permissions(path, Permissions::from_mode(0o600));
        // some file systems take the call and change nothing
        if tightened.is_err() || is_open().map_err(io)? {
            return Err(WorkerError::Permissions(path.clone()));
        }
        tracing::warn!(path = %path.display(), "sealing key was open to group or others; its mode is 600 now");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(sealing_key: PathBuf) -> WorkerConfig {
        WorkerConfig {
            name: "a".parse().unwrap(),
            listen: ([127, 0, 0, 1], 0).into(),
            advertise: None,
            registry: "localhost:1".into(),
            tls: TlsFiles {
                ca: PathBuf::new(),
                cert: PathBuf::new(),
                key: PathBuf::new(),
            },
            sealing_key,
            evaluations: None,
            memory_limit_mib: None,
            stream_memory_mib: STREAM_MEMORY_MIB,
            organisations: Vec::new(),
            operations: Operations::default(),
        }
    }

    #[test]
    fn a_sealing_key_that_is_open_to_the_group_is_closed_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path().join("key"));
        let path = &config.sealing_key;
        let made = config.load_or_create_sealing_key().unwrap();
        for open in [0o660, 0o640, 0o604] {
            std::fs::set_permissions(path, Permissions::from_mode(open)).unwrap();
            let read = config.load_or_create_sealing_key().unwrap();
            assert_eq!(read.public(), made.public());
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_sealing_key_that_stays_open_to_others_is_refused() {
        // readable by everybody, and nobody may change that
        let config = config("/proc/self/status".into());
        let refused = config.load_or_create_sealing_key().unwrap_err();
        assert!(matches!(refused, WorkerError::Permissions(_)), "{refused}");
    }

    #[test]
    fn a_stream_has_room_for_the_longest_message() {
        let mut config = config(PathBuf::new());
        assert_eq!(config.stream_memory(), STREAM_MEMORY_MIB << 20);
        config.stream_memory_mib = 0;
        assert!(config.stream_memory() >= MAX_STEP_BYTES);
        config.stream_memory_mib = usize::MAX;
        assert!(config.stream_memory() <= Semaphore::MAX_PERMITS);
    }
}
