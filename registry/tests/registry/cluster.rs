//! One private PostgreSQL for all tests of this process; a fresh database for each, cloned from a
//! migrated template.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use chemxor_registry::store::Store;
use chemxor_runtime::postgres::{Durability, LocalCluster};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use tokio::sync::Mutex;

/// Stopped with the last test that holds it: a static would outlive the process's tests.
static SHARED: Mutex<Weak<Cluster>> = Mutex::const_new(Weak::new());
static NEXT: AtomicUsize = AtomicUsize::new(0);
const TEMPLATE: &str = "migrated";

pub(crate) struct Cluster {
    server: LocalCluster,
    // after the server, which is stopped first
    _folder: TempDir,
}

/// A database of its own.
pub(crate) struct Database {
    pub(crate) url: String,
    _cluster: Arc<Cluster>,
}

impl Database {
    pub(crate) async fn create() -> Self {
        Self::like(TEMPLATE).await
    }

    /// One without any schema.
    pub(crate) async fn empty() -> Self {
        Self::like("template1").await
    }

    async fn like(template: &str) -> Self {
        let cluster = shared().await;
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        execute(
            &cluster.server.url("postgres"),
            format!("create database {name} template {template}"),
        )
        .await;
        Self {
            url: cluster.server.url(&name),
            _cluster: cluster,
        }
    }

    /// Runs a statement past the registry, as somebody with a hand on the database.
    pub(crate) async fn execute(&self, statement: &str) -> Result<u64, String> {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let done = sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&mut connection)
            .await;
        done.map(|done| done.rows_affected())
            .map_err(|error| error.to_string())
    }

    /// The number that a query gives.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(&mut connection)
            .await
            .unwrap()
    }
}

async fn execute(url: &str, statement: String) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .unwrap();
}

async fn shared() -> Arc<Cluster> {
    let mut shared = SHARED.lock().await;
    if let Some(cluster) = shared.upgrade() {
        return cluster;
    }
    let folder = tempfile::Builder::new()
        .prefix("cxreg")
        .tempdir_in("/tmp")
        .unwrap();
    // as root, PostgreSQL runs as another user
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let place = folder.path().join("pg");
    let server = tokio::task::spawn_blocking(move || LocalCluster::start(&place, Durability::None))
        .await
        .unwrap()
        .unwrap();
    let create = format!("create database {TEMPLATE}");
    execute(&server.url("postgres"), create).await;
    let store = Store::connect(&server.url(TEMPLATE)).await.unwrap();
    store.close().await;
    let cluster = Arc::new(Cluster {
        server,
        _folder: folder,
    });
    *shared = Arc::downgrade(&cluster);
    cluster
}
