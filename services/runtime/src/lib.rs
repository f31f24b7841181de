//! What every service shares: development authority and certificates, mutual TLS, the identity of
//! a peer, error ids on gRPC statuses, serving with graceful shutdown, logs, a private PostgreSQL.
//!
//! Invariant: nothing here knows a model, a token's meaning or a ciphertext.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod enrol;
mod error;
pub mod incoming;
pub mod operations;
pub mod peer;
pub mod pki;
pub mod postgres;
pub mod serve;
pub mod shutdown;
pub mod status;
pub mod telemetry;
pub mod tls;
pub mod traces;
mod versioned;

pub use error::RuntimeError;
