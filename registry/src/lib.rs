//! The registry: catalogue, publishing, administration and the control calls of the platform's own
//! services, on PostgreSQL.
//!
//! Invariants: every call is authorised against the one table of `chemxor-core` before it touches
//! the store; the only way into the database is a named transaction ([`store::Store`]); a version
//! never changes; the registry can open no weight (it holds ciphertext and keys sealed to workers).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod auth;
mod calls;
mod error;
pub mod publication;
mod readiness;
mod service;
mod signer;
pub mod store;
pub mod token;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use chemxor_proto::v1::admin_server::AdminServer;
use chemxor_proto::v1::cards_server::CardsServer;
use chemxor_proto::v1::catalog_server::CatalogServer;
use chemxor_proto::v1::certificates_server::CertificatesServer;
use chemxor_proto::v1::control_server::ControlServer;
use chemxor_proto::v1::governance_server::GovernanceServer;
use chemxor_proto::v1::metering_server::MeteringServer;
use chemxor_proto::v1::publishing_server::PublishingServer;
use chemxor_proto::{MAX_MANIFEST_BYTES, MAX_MESSAGE_BYTES};
use chemxor_runtime::operations::Operations;
use chemxor_runtime::serve;
use chemxor_runtime::tls::TlsFiles;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

pub use error::RegistryError;
use service::Services;
use store::{PendingToken, Store};

/// How often a silent peer is asked whether it is still there, and how long it may take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Calls of one connection that run at the same time; the others wait.
const CALLS_PER_CONNECTION: usize = 64;

/// What the registry needs to know; the keys of its configuration file.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// Address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// PostgreSQL; by default the environment variable `DATABASE_URL`.
    pub database_url: String,
    /// Certificate, key and authority.
    pub tls: TlsFiles,
    /// Probes, metrics, reflection.
    #[serde(default)]
    pub operations: Operations,
    /// Ed25519 key that counter-signs approvals and signs checkpoints of the audit log; by default
    /// `registry-signing.key` beside the TLS key. Made when absent.
    #[serde(default)]
    pub signing_key: Option<PathBuf>,
    /// Hours after which what was uploaded to a draft, and then left, is removed.
    #[serde(default = "orphan_hours")]
    pub orphan_hours: u32,
    /// GiB that drafts of one organisation, which are not submitted yet, may take together.
    #[serde(default = "draft_gib")]
    pub draft_gib: u32,
    /// Minutes between two signed checkpoints of the audit log.
    #[serde(default = "checkpoint_minutes")]
    pub checkpoint_minutes: NonZeroU32,
}

/// The address of the database holds its password.
impl fmt::Debug for RegistryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConfig")
            .field("listen", &self.listen)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// Ten.
fn checkpoint_minutes() -> NonZeroU32 {
    const { NonZeroU32::new(10).unwrap() }
}

fn draft_gib() -> u32 {
    store::DRAFT_GIB
}

/// A week.
fn orphan_hours() -> u32 {
    168
}

/// A registry that is up.
pub struct RunningRegistry {
    addr: SocketAddr,
    store: Store,
    task: tokio::task::JoinHandle<Result<(), RegistryError>>,
}

impl RunningRegistry {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its store, for making the first tokens.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Waits until it has shut down.
    pub async fn wait(self) -> Result<(), RegistryError> {
        self.task
            .await
            .map_err(|error| RegistryError::Task(error.to_string()))?
    }
}

/// Removes uploads that were left behind, every hour.
async fn collect(store: Store, hours: u32) {
    let grace = Duration::from_secs(u64::from(hours) * 3600);
    let mut hourly = tokio::time::interval(Duration::from_secs(3600));
    loop {
        hourly.tick().await;
        match store.collect_orphans(grace).await {
            Ok((0, _)) => {}
            Ok((blobs, bytes)) => tracing::info!(blobs, bytes, "left uploads collected"),
            Err(error) => tracing::warn!(%error, "left uploads are not collected"),
        }
    }
}

/// Signs the audit log from time to time, so that what is not yet signed is little.
async fn checkpoint(store: Store, minutes: NonZeroU32) {
    let period = Duration::from_secs(u64::from(minutes.get()) * 60);
    let mut due = tokio::time::interval(period);
    loop {
        due.tick().await;
        if let Err(error) = store.checkpoint_audit().await {
            tracing::warn!(%error, "the audit log is not signed");
        }
    }
}

/// All of it behind one place that counts and logs, also what is no call at all.
fn observed(routes: Routes) -> Routes {
    let all = calls::Observed(routes.prepare());
    Routes::default()
        .into_axum_router()
        .fallback_service(all)
        .into()
}

/// Connects to the database, migrates it and makes the token of the first administrator; see
/// [`Store::first_token`]. A registry may run meanwhile.
pub async fn first_token(
    config: &RegistryConfig,
    subject: &str,
    lifetime: Duration,
) -> Result<PendingToken, RegistryError> {
    let store = Box::pin(Store::connect(&config.database_url)).await?;
    store.first_token(subject, lifetime).await
}

/// Connects to the database, migrates it and serves until `stop`.
pub async fn start(
    config: RegistryConfig,
    stop: CancellationToken,
) -> Result<RunningRegistry, RegistryError> {
    let beside = || config.tls.key.with_file_name("registry-signing.key");
    let signing_key = config.signing_key.clone().unwrap_or_else(beside);
    // an alert on its growth must see the first one, too
    metrics::counter!("chemxor_audit_breaks_total").increment(0);
    // large with the migrations in it, and everybody who starts a registry would carry it
    let store = Box::pin(Store::connect(&config.database_url)).await?;
    let signer = signer::load_or_create(&signing_key, &store).await?;
    let public_key = data_encoding::HEXLOWER.encode(signer.verifying_key().as_bytes());
    tracing::info!(%public_key, "signing key of the registry");
    let store = store
        .with_signer(signer)
        .with_draft_limit(u64::from(config.draft_gib) << 30);
    store.checkpoint_audit().await?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(RegistryError::Listen)?;
    let addr = listener.local_addr().map_err(RegistryError::Listen)?;
    let mut served = serve::Served::new(&config.tls, config.operations)?;
    let tracer = served.trace("registry", "")?;
    let services = Services::new(store.clone(), &config.tls.ca, tracer, stop.clone());
    let limit = MAX_MESSAGE_BYTES + MAX_MANIFEST_BYTES;
    let (interval, timeout) = KEEPALIVE;
    let routes = Routes::default()
        .add_service(CatalogServer::new(services.clone()).max_decoding_message_size(limit))
        .add_service(PublishingServer::new(services.clone()).max_decoding_message_size(limit))
        .add_service(AdminServer::new(services.clone()).max_decoding_message_size(limit))
        .add_service(GovernanceServer::new(services.clone()).max_decoding_message_size(limit))
        .add_service(CardsServer::new(services.clone()).max_decoding_message_size(limit))
        .add_service(CertificatesServer::new(services.clone()).max_decoding_message_size(limit))
        .add_service(MeteringServer::new(services.clone()).max_decoding_message_size(limit))
        .add_service(ControlServer::new(services).max_decoding_message_size(limit));
    let router = Server::builder()
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
        .http2_keepalive_interval(Some(interval))
        .http2_keepalive_timeout(Some(timeout))
        .add_routes(observed(routes));
    tracing::info!(%addr, "registry listens");
    let housekeeping = futures::future::join(
        collect(store.clone(), config.orphan_hours),
        checkpoint(store.clone(), config.checkpoint_minutes),
    );
    tokio::spawn(store.follow_rights(stop.clone()));
    tokio::spawn(readiness::follow(
        store.clone(),
        served.ready(),
        stop.clone(),
    ));
    let task = tokio::spawn(async move {
        let housekeeping = tokio::spawn(housekeeping);
        let ended = served.run(router, listener, stop).await;
        housekeeping.abort();
        Ok(ended?)
    });
    Ok(RunningRegistry { addr, store, task })
}
