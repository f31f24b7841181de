//! The gateway over real mutual TLS on loopback, between doubles of registry and workers.

// every function here is a test or serves one
#![allow(clippy::unwrap_used, clippy::panic)]
// a platform of one worker is a list of one range of steps
#![allow(clippy::single_range_in_vec_init)]

mod client;
mod failover;
mod lifetime;
mod logs;
mod memory;
mod platform;
mod quotas;
mod readiness;
mod refusals;
mod registry;
mod revocation;
mod routing;
mod sessions;
mod worker;
