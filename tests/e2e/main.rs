//! End to end: real processes, real PostgreSQL, real TLS, on loopback.

#![allow(clippy::unwrap_used, clippy::panic)]

mod architecture;
mod book;
mod clock;
mod conformance;
mod contract;
mod counters;
mod deploy;
mod disk;
mod enrolment;
mod faults;
mod governance;
mod liar;
mod network;
mod operations;
mod placements;
mod platform;
mod privacy;
mod proxy;
mod quotas;
mod revocation;
#[cfg(feature = "otel")]
mod traces;
mod transcripts;
mod uploads;
mod versions;
mod workflow;
