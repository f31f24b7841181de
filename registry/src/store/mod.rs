//! The store. The only way into the database is a named transaction: [`Store::begin`], work, then
//! [`Tx::commit`]; what is dropped before is rolled back. Rows that decide something are locked
//! (`for update`) before they are read, so transactions wait for each other instead of failing.

mod aliases;
mod audit;
mod blobs;
mod cards;
mod certificates;
mod checkpoints;
mod conformance;
mod connection;
mod denied;
mod first;
mod lifecycle;
mod organisations;
mod placements;
mod quotas;
mod reservations;
mod rights;
mod sessions;
mod tokens;
mod versions;
mod view;
mod visibility;
mod workers;

use std::fmt;
use std::sync::Arc;

use ed25519_dalek::SigningKey;

use sqlx::postgres::PgPool;
use sqlx::{Connection, PgConnection, Postgres, Transaction};

use crate::RegistryError;

pub use aliases::AliasChange;
pub use blobs::MissingBlob;
pub use cards::CardRow;
pub use certificates::{CertificateRow, IssuedCertificate};
pub(crate) use connection::silent;
pub use first::PendingToken;
pub use organisations::{MemberRow, OrganisationRow};
pub use quotas::{Quota, Usage};
pub use reservations::{RESERVATION_LIFETIME, ReservationOrder, Reserved};
pub use sessions::Session;
pub use tokens::{Caller, NewToken, TokenOrder, TokenRow};
pub use versions::VersionRow;
pub(crate) use versions::unix_ms;
pub use visibility::Visibility;
pub use workers::{Registration, WorkerRow};

use rights::Rights;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// GiB that drafts of one organisation may take, when nothing else is said.
pub const DRAFT_GIB: u32 = 64;

/// Connections to one database.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    signer: Option<Arc<SigningKey>>,
    rights: Arc<Rights>,
    signed: checkpoints::Signed,
    /// Bytes that drafts of one organisation may take.
    draft_bytes: u64,
}

/// A transaction; `name` stands in the log when it fails.
pub(crate) struct Tx {
    name: &'static str,
    inner: Transaction<'static, Postgres>,
    rights: Arc<Rights>,
    /// Whether a right may have changed: everything that changes one is audited.
    audited: bool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store([redacted])")
    }
}

impl Tx {
    /// What happened becomes visible to others.
    pub(crate) async fn commit(self) -> Result<(), RegistryError> {
        tracing::trace!(transaction = self.name, "commit");
        self.inner.commit().await?;
        if self.audited {
            self.rights.changed();
        }
        Ok(())
    }

    /// For queries.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}

impl Store {
    /// Connects and brings the schema up to date. An unknown newer schema is refused, and so is
    /// the way to another machine without verified TLS.
    pub async fn connect(url: &str) -> Result<Self, RegistryError> {
        let options = connection::options(url)?;
        // without the time limit of the pool's statements: an upgrade may rewrite large tables
        let mut upgrade = PgConnection::connect_with(&options).await?;
        MIGRATIONS.run(&mut upgrade).await?;
        upgrade.close().await?;
        let pool = connection::pool().connect_with(options).await?;
        Ok(Self {
            pool,
            signer: None,
            rights: Arc::default(),
            signed: Arc::default(),
            draft_bytes: u64::from(DRAFT_GIB) << 30,
        })
    }

    /// With the key that counter-signs approvals and signs checkpoints of the audit log.
    #[must_use]
    pub fn with_signer(self, signer: SigningKey) -> Self {
        let signer = Some(Arc::new(signer));
        Self { signer, ..self }
    }

    /// With another limit of what drafts of one organisation may take, in bytes.
    #[must_use]
    pub fn with_draft_limit(self, draft_bytes: u64) -> Self {
        Self {
            draft_bytes,
            ..self
        }
    }

    /// The registry's public key.
    pub fn public_key(&self) -> Option<[u8; 32]> {
        let signer = self.signer.as_ref()?;
        Some(signer.verifying_key().to_bytes())
    }

    pub(crate) fn signer(&self) -> Option<&SigningKey> {
        self.signer.as_deref()
    }

    /// Hears of changes of rights until `stop`; only then are answers remembered.
    pub fn follow_rights(
        &self,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.rights.clone().follow(self.pool.clone(), stop)
    }

    /// Tells of changes of rights.
    pub(crate) fn rights_changes(&self) -> watch::Receiver<u64> {
        self.rights.changes()
    }

    /// For single reads, which need no transaction of their own.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Begins the transaction called `name`.
    pub(crate) async fn begin(&self, name: &'static str) -> Result<Tx, RegistryError> {
        Ok(Tx {
            name,
            inner: self.pool.begin().await?,
            rights: self.rights.clone(),
            audited: false,
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
