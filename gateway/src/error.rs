//! Why a gateway does not run.

/// Why a gateway does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// The address.
    #[error("cannot listen on {address}: {reason}; choose another `listen` address")]
    Listen {
        /// What `listen` says.
        address: std::net::SocketAddr,
        /// What the system said.
        reason: std::io::Error,
    },
    /// A limit under which nothing could work.
    #[error("limits.{key} {reason}; mend it or leave it out for the default")]
    Limit {
        /// Which one.
        key: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Certificates, or the shared server.
    #[error(transparent)]
    Runtime(#[from] chemxor_runtime::RuntimeError),
    /// The transport.
    #[error("transport: {0}; look at the certificate files")]
    Transport(#[from] tonic::transport::Error),
    /// A task ended badly.
    #[error("a task of the gateway ended: {0}; report this")]
    Task(String),
}
