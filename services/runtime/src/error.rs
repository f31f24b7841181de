//! Errors of the shared pieces.

use std::path::{Path, PathBuf};

/// Why a shared piece did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// A file could not be read or written.
    #[error("{path}: {reason}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A certificate could not be made or read.
    #[error("certificate: {0}")]
    Certificate(String),
    /// The transport could not be set up.
    #[error("transport: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The operations port.
    #[error("cannot listen on {address}: {reason}; choose another `operations.listen` address")]
    Operations {
        /// What `operations.listen` says.
        address: std::net::SocketAddr,
        /// What the system said.
        reason: std::io::Error,
    },
    /// The export of traces.
    #[error("operations.traces.endpoint {endpoint:?}: {reason}")]
    Traces {
        /// What `operations.traces.endpoint` says.
        endpoint: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// The descriptions of the services.
    #[error("reflection: {0}; report this")]
    Reflection(String),
    /// A peer cannot be reached.
    #[error(
        "cannot reach {endpoint}: {reason}; check that it runs and that its certificate is of the same authority; `chemxor doctor` looks at certificates and clocks"
    )]
    Unreachable {
        /// host:port.
        endpoint: String,
        /// What the transport said.
        reason: String,
    },
    /// An endpoint that is none.
    #[error("{0:?} is not an endpoint; write host:port")]
    Endpoint(String),
    /// PostgreSQL's programs are not there.
    #[error(
        "PostgreSQL is not installed: no initdb in $PG_BIN, on PATH or under /usr/lib/postgresql; run `apt-get install postgresql`"
    )]
    PostgresMissing,
    /// A PostgreSQL program failed.
    #[error("{program} failed: {reason}")]
    Postgres {
        /// initdb or pg_ctl.
        program: &'static str,
        /// The end of its output.
        reason: String,
    },
}

impl RuntimeError {
    pub(crate) fn file(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::File {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}
