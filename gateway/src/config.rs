//! Configuration and limits.

use std::net::SocketAddr;
use std::time::Duration;

use chemxor_runtime::tls::TlsFiles;
use serde::Deserialize;

/// What a gateway needs to know; the keys of its configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// host:port of the registry.
    pub registry: String,
    /// Certificate, key and authority.
    pub tls: TlsFiles,
    /// Bounds; all have defaults.
    #[serde(default)]
    pub limits: Limits,
}

/// Bounds on what one session may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Steps of one session under evaluation at the same time.
    pub steps_in_flight: usize,
    /// Incomplete messages of one session.
    pub partial_messages: usize,
    /// Bytes of incomplete messages of one session.
    pub partial_bytes: usize,
    /// Queries of one session.
    pub queries: usize,
    /// Attempts to evaluate one step, the first included.
    pub attempts: u32,
    /// Seconds that one attempt may take.
    pub step_timeout_s: u64,
    /// Seconds without a frame after which a session ends.
    pub idle_timeout_s: u64,
    /// Seconds that a call to the registry may take.
    pub registry_timeout_s: u64,
    /// Milliseconds for which an authorisation is trusted.
    pub recheck_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            steps_in_flight: 64,
            partial_messages: 256,
            partial_bytes: 128 << 20,
            queries: 1_000_000,
            attempts: 3,
            step_timeout_s: 30,
            idle_timeout_s: 300,
            registry_timeout_s: 5,
            recheck_ms: 1000,
        }
    }
}

impl Limits {
    pub(crate) fn step_timeout(&self) -> Duration {
        Duration::from_secs(self.step_timeout_s)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_s)
    }

    pub(crate) fn registry_timeout(&self) -> Duration {
        Duration::from_secs(self.registry_timeout_s)
    }

    pub(crate) fn recheck(&self) -> Duration {
        Duration::from_millis(self.recheck_ms)
    }
}

/// Why a gateway does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// The address.
    #[error("cannot listen: {0}; choose another `listen` address")]
    Listen(std::io::Error),
    /// Certificates, or the shared server.
    #[error(transparent)]
    Runtime(#[from] chemxor_runtime::RuntimeError),
    /// The transport.
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    /// A task ended badly.
    #[error("a task of the gateway ended: {0}")]
    Task(String),
}
