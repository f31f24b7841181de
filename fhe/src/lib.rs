//! The blinded-lookup protocol (docs/protocol.md).

pub mod network;
pub mod twin;
