//! The store. The only way into the database is a named transaction: [`Store::begin`], work, then
//! [`Tx::commit`]; what is dropped before is rolled back. Rows that decide something are locked
//! (`for update`) before they are read, so transactions wait for each other instead of failing.

mod audit;
mod blobs;
mod sessions;
mod tokens;
mod versions;
mod view;
mod workers;

use std::time::Duration;

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Postgres, Transaction};

use crate::RegistryError;

pub use blobs::MissingBlob;
pub use sessions::Session;
pub use tokens::{NewToken, TokenHolder};
pub use versions::VersionRow;
pub use workers::WorkerRow;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// How long a call waits for a free connection.
const ACQUIRE: Duration = Duration::from_secs(5);

/// Connections to one database.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
}

/// A transaction; `name` stands in the log when it fails.
pub(crate) struct Tx {
    name: &'static str,
    inner: Transaction<'static, Postgres>,
}

impl Tx {
    /// What happened becomes visible to others.
    pub(crate) async fn commit(self) -> Result<(), RegistryError> {
        tracing::trace!(transaction = self.name, "commit");
        Ok(self.inner.commit().await?)
    }

    /// For queries.
    pub(crate) fn connection(&mut self) -> &mut sqlx::PgConnection {
        &mut self.inner
    }
}

impl Store {
    /// Connects and brings the schema up to date. An unknown newer schema is refused.
    pub async fn connect(url: &str) -> Result<Self, RegistryError> {
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .acquire_timeout(ACQUIRE)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    sqlx::query("set statement_timeout = '20s'")
                        .execute(connection)
                        .await
                        .map(drop)
                })
            })
            .connect(url)
            .await?;
        MIGRATIONS.run(&pool).await?;
        Ok(Self { pool })
    }

    /// Begins the transaction called `name`.
    pub(crate) async fn begin(&self, name: &'static str) -> Result<Tx, RegistryError> {
        Ok(Tx {
            name,
            inner: self.pool.begin().await?,
        })
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A stored 32-byte digest.
pub(crate) fn digest(bytes: &[u8]) -> Result<[u8; 32], RegistryError> {
    bytes
        .try_into()
        .map_err(|_| RegistryError::Corrupt("digest"))
}
