//! The registry on a real PostgreSQL and behind real mutual TLS.
//!
//! `suite` states each behaviour once and runs it twice: on the store, and through gRPC. The other
//! modules hold what only one of the two can show: rights, certificates, the catalogue's pages, and
//! what the database itself refuses.

#![allow(clippy::unwrap_used, clippy::panic)]

mod api;
mod audit;
mod availability;
mod calls;
mod cards;
mod catalogue;
mod certificates;
mod cluster;
mod conformance;
mod database;
mod database_tls;
mod delegation;
mod enrolment;
mod former;
mod governance;
mod injection;
mod lifecycle;
mod logs;
mod migrations;
mod model;
mod platform;
mod quotas;
mod refusals;
mod revocation;
mod roles;
mod services;
mod silence;
mod suite;
mod targets;
mod tenants;
mod tokens;
mod uploads;
mod views;
mod workers;
