//! Configuration and limits.

use std::net::SocketAddr;
use std::time::Duration;

use chemxor_proto::MAX_STEP_BYTES;
use chemxor_runtime::operations::Operations;
use chemxor_runtime::tls::TlsFiles;
use serde::Deserialize;

use crate::GatewayError;

/// Half of it holds the longest message and as long a reply.
const MIN_MEMORY_MIB: usize = 4 * (MAX_STEP_BYTES >> 20);

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
    /// Probes, metrics, reflection.
    #[serde(default)]
    pub operations: Operations,
}

/// Bounds on what sessions may use, and how long anybody is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Sessions open at the same time.
    pub sessions: usize,
    /// Sessions of one organisation open at the same time.
    pub sessions_per_organisation: usize,
    /// Sessions that one certificate may be opening at the same time.
    pub openings_per_certificate: usize,
    /// Queries that a session may ask before it ends and the client opens a new one. Bounds what
    /// workers remember of a session: 16 bytes for each ciphertext that must not come twice.
    pub queries_per_session: u64,
    /// Queries of one session that run at the same time; one more is refused.
    pub queries_in_flight: usize,
    /// Steps of one session under evaluation at the same time; one more waits, and the client with it.
    pub steps_in_flight: usize,
    /// Ranges of used query numbers that a session remembers; counting upwards takes one.
    pub query_ranges: usize,
    /// Incomplete messages of one session.
    pub partial_messages: usize,
    /// Mebibytes that messages and replies of all sessions may take together; one organisation has
    /// at most half. What finds no room waits, and its client with it.
    pub memory_mib: usize,
    /// Bytes of incomplete messages of one session; also of those from one of its workers.
    pub partial_bytes: usize,
    /// Bytes of complete messages of one session on their way, in each direction; more wait.
    pub message_bytes: usize,
    /// Attempts to evaluate one step, the first included.
    pub attempts: u32,
    /// Attempts after the first, in per cent of the steps of the last ten seconds, all sessions
    /// together; ten a second are always allowed. Keeps a failing worker from being flooded.
    pub retry_percent: u32,
    /// Milliseconds that a step may take, all attempts together, and that a client may take to
    /// read a frame or to go on with a message that it has begun. A whole message may take as
    /// long, and a second more for each 4 KiB, but never longer than `idle_timeout_ms`.
    pub step_timeout_ms: u64,
    /// Milliseconds after which a step is given to another replica, where there is one.
    pub attempt_timeout_ms: u64,
    /// Milliseconds without a frame of the client after which a session ends. A query that waits
    /// as long for its client makes room for a new one.
    pub idle_timeout_ms: u64,
    /// Milliseconds after which a session ends, however busy.
    pub session_timeout_ms: u64,
    /// Milliseconds that running queries may take to end when the gateway stops.
    pub drain_ms: u64,
    /// Milliseconds that a call to the registry may take, and a client to open its session.
    pub registry_timeout_ms: u64,
    /// Milliseconds for which what the registry said of a session is trusted while it does not say that
    /// a right has changed; after such a word it is asked before the next step.
    pub recheck_ms: u64,
    /// Milliseconds for which it is trusted while the registry does not answer.
    pub registry_grace_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 1024,
            sessions_per_organisation: 256,
            openings_per_certificate: 64,
            queries_per_session: 100_000,
            queries_in_flight: 64,
            steps_in_flight: 64,
            query_ranges: 4096,
            partial_messages: 128,
            memory_mib: 384,
            partial_bytes: 96 << 20,
            message_bytes: 96 << 20,
            attempts: 3,
            retry_percent: 20,
            step_timeout_ms: 30_000,
            attempt_timeout_ms: 12_000,
            idle_timeout_ms: 300_000,
            session_timeout_ms: 86_400_000,
            drain_ms: 8_000,
            registry_timeout_ms: 5_000,
            recheck_ms: 1_000,
            registry_grace_ms: 60_000,
        }
    }
}

impl Limits {
    /// Refuses limits under which nothing could work.
    pub(crate) fn check(&self) -> Result<(), GatewayError> {
        let refuse = |key, reason: &'static str| Err(GatewayError::Limit { key, reason });
        for (key, value) in [
            ("sessions", self.sessions),
            ("sessions_per_organisation", self.sessions_per_organisation),
            ("openings_per_certificate", self.openings_per_certificate),
            ("queries_per_session", self.queries_per_session as usize),
            ("queries_in_flight", self.queries_in_flight),
            ("steps_in_flight", self.steps_in_flight),
            ("query_ranges", self.query_ranges),
            ("partial_messages", self.partial_messages),
            ("attempts", self.attempts as usize),
            ("step_timeout_ms", self.step_timeout_ms as usize),
            ("attempt_timeout_ms", self.attempt_timeout_ms as usize),
            ("idle_timeout_ms", self.idle_timeout_ms as usize),
            ("session_timeout_ms", self.session_timeout_ms as usize),
            ("registry_timeout_ms", self.registry_timeout_ms as usize),
        ] {
            if value == 0 {
                return refuse(key, "must be at least 1");
            }
            if value > u32::MAX as usize {
                return refuse(key, "must be less than 2^32");
            }
        }
        if self.retry_percent > 1000 {
            return refuse("retry_percent", "must be at most 1000");
        }
        if self.memory_mib < MIN_MEMORY_MIB {
            return refuse("memory_mib", "must be at least 256");
        }
        if self.memory_mib > 1 << 20 {
            return refuse("memory_mib", "must be at most 2^20");
        }
        for (key, value) in [
            ("partial_bytes", self.partial_bytes),
            ("message_bytes", self.message_bytes),
        ] {
            if value < MAX_STEP_BYTES {
                return refuse(key, "must hold one step message, 64 MiB");
            }
            if value > u32::MAX as usize {
                return refuse(key, "must be less than 2^32");
            }
        }
        Ok(())
    }

    pub(crate) fn step_timeout(&self) -> Duration {
        Duration::from_millis(self.step_timeout_ms)
    }

    pub(crate) fn attempt_timeout(&self) -> Duration {
        Duration::from_millis(self.attempt_timeout_ms)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    pub(crate) fn session_timeout(&self) -> Duration {
        Duration::from_millis(self.session_timeout_ms)
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }

    pub(crate) fn registry_timeout(&self) -> Duration {
        Duration::from_millis(self.registry_timeout_ms)
    }

    pub(crate) fn recheck(&self) -> Duration {
        Duration::from_millis(self.recheck_ms)
    }

    pub(crate) fn registry_grace(&self) -> Duration {
        Duration::from_millis(self.registry_grace_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_defaults_and_unknown_keys_are_refused() {
        let text = r#"{"listen":"127.0.0.1:0","registry":"localhost:1",
            "tls":{"ca":"a","cert":"b","key":"c"},"limits":{"attempts":2}}"#;
        let config: GatewayConfig = serde_json::from_str(text).unwrap();
        let expected = Limits {
            attempts: 2,
            ..Limits::default()
        };
        assert_eq!(config.limits, expected);
        assert!(serde_json::from_str::<Limits>(r#"{"atempts":2}"#).is_err());
    }

    #[test]
    fn limits_that_cannot_work_are_refused_by_name() {
        assert!(Limits::default().check().is_ok());
        let none = Limits {
            steps_in_flight: 0,
            ..Limits::default()
        };
        let message = none.check().unwrap_err().to_string();
        assert!(message.contains("limits.steps_in_flight"), "{message}");
        let small = Limits {
            message_bytes: 1 << 20,
            ..Limits::default()
        };
        assert!(small.check().is_err());
    }
}
