//! The worker over real mutual TLS on loopback, with real weights and ciphertexts; the registry and
//! the gateway are doubles. Some tests hold the pool on which steps are evaluated, and all look at
//! the counters of their process, so each needs a process of its own, as `cargo nextest` gives it.

// every function here is a test or serves one
#![allow(clippy::unwrap_used, clippy::panic)]

mod answers;
mod denied;
mod drain;
mod loading;
mod memory;
mod model;
mod permits;
mod platform;
mod pool;
mod publications;
mod refusals;
mod registry;
mod stream;
mod wiped;
