//! Traces of sessions for an OpenTelemetry collector, behind the feature `otel`.
//!
//! * One trace a session: its root is the gateway's span `session`; the context goes in the gRPC
//!   metadata `traceparent` (W3C Trace Context) to the registry and to the workers, which begin no
//!   trace of their own.
//! * A span carries what is set here by hand and nothing else: no log line, no message of an error.
//!   Never a molecule, a ciphertext, a key or a token.
//! * Bounded: so many spans a session, a queue of fixed length to the collector. A collector that
//!   is away loses spans; no call waits for it.
//!
//! Without the feature all types are empty and all calls do nothing.

#[cfg_attr(feature = "otel", path = "on.rs")]
#[cfg_attr(not(feature = "otel"), path = "off.rs")]
mod imp;

pub use imp::{Parent, Span, Tracer};

use chemxor_core::ErrorId;
use tonic::Status;

use crate::status::error_id;

/// Whose side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It answers a call.
    Server,
    /// It makes a call.
    Client,
    /// Neither.
    Internal,
}

impl Span {
    /// Says how a call ended. Its message stays here: it may name what the caller wrote.
    pub fn settle<T>(&mut self, outcome: &Result<T, Status>) {
        match outcome {
            Ok(_) => self.succeed(),
            Err(refusal) => self.fail(error_id(refusal).unwrap_or(ErrorId::Internal)),
        }
    }
}
