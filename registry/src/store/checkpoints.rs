//! Signed checkpoints of the audit log. The registry signs only what it has followed itself: every row
//! since the checkpoint before must continue the chain. Whoever rewrites the log in the database, with
//! its hashes made to fit, gets no signature on it.

use std::sync::{Arc, Mutex, PoisonError};

use chemxor_core::{sign_checkpoint, verify_checkpoint};
use data_encoding::HEXLOWER;
use sqlx::Row;
use time::OffsetDateTime;

use crate::RegistryError;
use crate::store::audit::{micros, read_row};
use crate::store::{Store, Tx};

/// Rows looked at in one go.
const PAGE: i64 = 1000;

/// A row and its hash; number 0 is the beginning of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) number: i64,
    hash: [u8; 32],
}

impl Anchor {
    pub(crate) const BEGINNING: Self = Self {
        number: 0,
        hash: [0; 32],
    };
}

/// What this process has signed last. The database may forget its checkpoints; this does not.
pub(crate) type Signed = Arc<Mutex<Option<Anchor>>>;

impl Tx {
    /// The last checkpoint under this key; forged ones do not count.
    async fn last_checkpoint(&mut self, key: &[u8; 32]) -> Result<Anchor, RegistryError> {
        let points = sqlx::query(
            "select number, at_micros, hash, signature from audit_checkpoints
             where key = $1 order by number desc",
        )
        .bind(key.as_slice())
        .fetch_all(self.connection())
        .await?;
        for point in points {
            let (number, at): (i64, i64) = (point.try_get("number")?, point.try_get("at_micros")?);
            let hash: Vec<u8> = point.try_get("hash")?;
            let signature: Vec<u8> = point.try_get("signature")?;
            let hash: Result<[u8; 32], _> = hash.try_into();
            let signature: Result<[u8; 64], _> = signature.try_into();
            let (Ok(hash), Ok(signature)) = (hash, signature) else {
                continue;
            };
            if verify_checkpoint(key, number, at, &hash, &signature).is_ok() {
                return Ok(Anchor { number, hash });
            }
        }
        Ok(Anchor::BEGINNING)
    }

    /// Follows the chain from a row that is known. Gives its last row, or the first that does not fit.
    pub(crate) async fn follow(
        &mut self,
        from: Anchor,
    ) -> Result<Result<Anchor, i64>, RegistryError> {
        let mut last = from;
        if from.number > 0 {
            let row = sqlx::query("select * from audit where number = $1")
                .bind(from.number)
                .fetch_optional(self.connection())
                .await?;
            let Some(row) = row else {
                return Ok(Err(from.number));
            };
            let previous = crate::store::digest(&row.try_get::<Vec<u8>, _>("prev_hash")?)?;
            if read_row(&row)?.hash_after(&previous) != from.hash {
                return Ok(Err(from.number));
            }
        }
        loop {
            let rows =
                sqlx::query("select * from audit where number > $1 order by number limit $2")
                    .bind(last.number)
                    .bind(PAGE)
                    .fetch_all(self.connection())
                    .await?;
            if rows.is_empty() {
                return Ok(Ok(last));
            }
            for row in &rows {
                let row = read_row(row)?;
                let (number, hash) = (last.number + 1, row.hash_after(&last.hash));
                if row.number != number || row.hash != HEXLOWER.encode(&hash) {
                    return Ok(Err(number));
                }
                last = Anchor { number, hash };
            }
        }
    }
}

impl Store {
    /// Signs the last row, when everything since the last signature continues it. Gives what to
    /// remember once the transaction is over.
    pub(crate) async fn sign(&self, tx: &mut Tx) -> Result<Option<Anchor>, RegistryError> {
        let Some(key) = self.signer() else {
            return Ok(None);
        };
        tx.lock_audit().await?;
        let public = key.verifying_key().to_bytes();
        let remembered = *self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        let from = match remembered {
            Some(anchor) => anchor,
            None => tx.last_checkpoint(&public).await?,
        };
        let last = match tx.follow(from).await? {
            Ok(last) => last,
            Err(row) => {
                metrics::counter!("chemxor_audit_breaks_total").increment(1);
                tracing::error!(
                    row,
                    signed_until = from.number,
                    "the audit log was changed behind the registry; it is signed no more"
                );
                return Ok(None);
            }
        };
        if last.number == 0 {
            return Ok(None);
        }
        let at = micros(OffsetDateTime::now_utc());
        let signature = sign_checkpoint(key, last.number, at, &last.hash);
        sqlx::query(
            "insert into audit_checkpoints values ($1, $2, $3, $4, $5) on conflict do nothing",
        )
        .bind(last.number)
        .bind(at)
        .bind(last.hash.as_slice())
        .bind(public.as_slice())
        .bind(signature.as_slice())
        .execute(tx.connection())
        .await?;
        Ok(Some(last))
    }

    /// After the transaction with the signature.
    pub(crate) fn remember(&self, signed: Option<Anchor>) {
        let mut last = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        // exports run at the same time: the furthest counts
        if signed.is_some_and(|new| last.is_none_or(|old| old.number < new.number)) {
            *last = signed;
        }
    }

    /// The key of the newest signature that the database holds.
    pub(crate) async fn newest_signer(&self) -> Result<Option<[u8; 32]>, RegistryError> {
        let row = sqlx::query(
            "select coalesce(
                (select key from audit_checkpoints order by number desc limit 1),
                (select registry_key from versions where registry_key is not null
                 order by approved_at desc limit 1)) as key",
        )
        .fetch_one(self.pool())
        .await?;
        let key: Option<Vec<u8>> = row.try_get("key")?;
        key.map(|key| crate::store::digest(&key)).transpose()
    }

    /// Writes a checkpoint over everything so far. Gives whether the log could be signed.
    pub async fn checkpoint_audit(&self) -> Result<bool, RegistryError> {
        let mut tx = self.begin("checkpoint audit").await?;
        let signed = self.sign(&mut tx).await?;
        tx.commit().await?;
        self.remember(signed);
        Ok(signed.is_some())
    }
}
