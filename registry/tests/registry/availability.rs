//! When the registry says that calls are welcome, and how it stops while gateways are connected.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use chemxor_proto::v1;
use chemxor_proto::v1::control_client::ControlClient;
use chemxor_registry::{RegistryConfig, RunningRegistry, start};
use chemxor_runtime::operations::Operations;
use chemxor_runtime::pki::{DevAuthority, Subject};
use chemxor_runtime::postgres::{Durability, LocalCluster};
use chemxor_runtime::tls;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::cluster::Database;
use crate::logs::Log;

/// Longer than any test waits.
const DRAIN_MS: u64 = 3_600_000;

pub(crate) struct Registry {
    pub(crate) running: RunningRegistry,
    pub(crate) stop: CancellationToken,
    authority: DevAuthority,
    folder: TempDir,
}

impl Registry {
    pub(crate) async fn start(database_url: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = DevAuthority::create_or_load(folder.path()).unwrap();
        let stop = CancellationToken::new();
        let tls = authority.issue_to(&Subject::Registry, folder.path(), "registry");
        let config = RegistryConfig {
            operations: Operations {
                listen: Some(([127, 0, 0, 1], 0).into()),
                drain_ms: DRAIN_MS,
                ..Operations::default()
            },
            listen: ([127, 0, 0, 1], 0).into(),
            database_url,
            tls: tls.unwrap(),
            signing_key: None,
            orphan_hours: 168,
            draft_gib: 64,
            checkpoint_minutes: const { std::num::NonZeroU32::new(10).unwrap() },
        };
        let running = start(config, stop.clone()).await.unwrap();
        Self {
            running,
            stop,
            authority,
            folder,
        }
    }

    /// Control calls of a gateway.
    pub(crate) async fn gateway(&self) -> ControlClient<Channel> {
        let path = self.folder.path();
        let files = self.authority.issue_to(&Subject::Gateway, path, "gateway");
        let address = format!("localhost:{}", self.running.addr().port());
        ControlClient::new(tls::connect(&address, &files.unwrap()).await.unwrap())
    }
}

/// The status line of `/readyz`.
async fn readyz(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /readyz HTTP/1.1\r\nhost: registry\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

/// Asks until the status is this one.
async fn readyz_becomes(address: &str, status: &str) {
    while !readyz(address).await.contains(status) {
        tokio::task::yield_now().await;
    }
}

/// Waits for the address of the operations port in the log.
async fn operations_port(log: &Log) -> String {
    loop {
        if let Some(line) = log.lines("operations port listens").first() {
            return line.field("addr").to_owned();
        }
        tokio::task::yield_now().await;
    }
}

// one thread: the subscriber is this thread's own
#[tokio::test]
async fn the_registry_is_ready_while_its_database_answers() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let folder = tempfile::Builder::new()
        .prefix("cxready")
        .tempdir_in("/tmp")
        .unwrap();
    // as root, PostgreSQL runs as another user
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let place = folder.path().join("pg");
    let cluster = blocking(move || LocalCluster::start(&place, Durability::None).unwrap()).await;
    let cluster = Arc::new(cluster);
    let registry = Registry::start(cluster.url("postgres")).await;
    let address = operations_port(&log).await;
    readyz_becomes(&address, "200 OK").await;

    let server = cluster.clone();
    blocking(move || server.stop().unwrap()).await;
    readyz_becomes(&address, "503 Service Unavailable").await;

    let server = cluster.clone();
    blocking(move || server.start_again(Durability::None).unwrap()).await;
    readyz_becomes(&address, "200 OK").await;

    registry.stop.cancel();
    registry.running.wait().await.unwrap();
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test]
async fn a_gateway_that_watches_does_not_hold_up_the_stop() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let database = Database::create().await;
    let registry = Registry::start(database.url.clone()).await;
    let mut control = registry.gateway().await;
    let watch = control
        .watch_placements(v1::WatchPlacementsRequest::default())
        .await;
    let mut views = watch.unwrap().into_inner();
    assert!(views.message().await.unwrap().is_some(), "the first view");

    registry.stop.cancel();
    // the stream ends as one that is complete, and the stop waits for no drain
    assert!(views.message().await.unwrap().is_none());
    registry.running.wait().await.unwrap();
    let cut = log.lines("calls still running after the drain were cut");
    assert!(cut.is_empty(), "{cut:?}");
}
