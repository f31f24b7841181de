//! The audit chain: each row's hash covers the row and the hash before it.

use sha2::{Digest, Sha256};
use sqlx::Row;
use time::OffsetDateTime;

use crate::RegistryError;
use crate::store::{Store, Tx};

/// Who did what to which object. Details never hold a molecule, token or key.
pub(crate) struct Event<'a> {
    pub(crate) actor: &'a str,
    pub(crate) action: &'static str,
    pub(crate) object: &'a str,
    pub(crate) detail: &'a str,
}

/// Hash of a row: SHA-256 over the previous hash and each field with its length.
fn row_hash(previous: &[u8], number: i64, micros: i64, fields: [&str; 4]) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(b"chemxor audit v1\0");
    hash.update(previous);
    hash.update(number.to_le_bytes());
    hash.update(micros.to_le_bytes());
    for field in fields {
        hash.update((field.len() as u64).to_le_bytes());
        hash.update(field.as_bytes());
    }
    hash.finalize().into()
}

fn micros(at: OffsetDateTime) -> i64 {
    (at.unix_timestamp_nanos() / 1000) as i64
}

impl Tx {
    /// Appends an event; other transactions that append wait until this one ends.
    pub(crate) async fn audit(&mut self, event: Event<'_>) -> Result<(), RegistryError> {
        // one writer at a time; the number is arbitrary and used for nothing else
        sqlx::query("select pg_advisory_xact_lock(7126318)")
            .execute(self.connection())
            .await?;
        let last = sqlx::query("select number, hash from audit order by number desc limit 1")
            .fetch_optional(self.connection())
            .await?;
        let (number, previous) = match &last {
            Some(row) => (
                row.try_get::<i64, _>("number")? + 1,
                row.try_get::<Vec<u8>, _>("hash")?,
            ),
            None => (1, vec![0; 32]),
        };
        let at = OffsetDateTime::from_unix_timestamp_nanos(
            i128::from(micros(OffsetDateTime::now_utc())) * 1000,
        )
        .map_err(|_| RegistryError::Corrupt("clock"))?;
        let fields = [event.actor, event.action, event.object, event.detail];
        let hash = row_hash(&previous, number, micros(at), fields);
        sqlx::query("insert into audit values ($1, $2, $3, $4, $5, $6, $7, $8)")
            .bind(number)
            .bind(at)
            .bind(event.actor)
            .bind(event.action)
            .bind(event.object)
            .bind(event.detail)
            .bind(previous)
            .bind(hash.as_slice())
            .execute(self.connection())
            .await?;
        Ok(())
    }
}

impl Store {
    /// Walks the chain; gives the number of rows, or the first row that does not fit.
    pub async fn verify_audit(&self) -> Result<Result<u64, i64>, RegistryError> {
        let mut tx = self.begin("verify audit").await?;
        let rows = sqlx::query("select * from audit order by number")
            .fetch_all(tx.connection())
            .await?;
        let mut previous = vec![0u8; 32];
        for (expected, row) in (1i64..).zip(&rows) {
            let number: i64 = row.try_get("number")?;
            let text = |name: &str| row.try_get::<String, _>(name);
            let (actor, action) = (text("actor")?, text("action")?);
            let (object, detail) = (text("object")?, text("detail")?);
            let at = micros(row.try_get("at")?);
            let hash = row_hash(&previous, number, at, [&actor, &action, &object, &detail]);
            let stored: Vec<u8> = row.try_get("hash")?;
            if number != expected || stored != hash {
                return Ok(Err(expected));
            }
            previous = stored;
        }
        Ok(Ok(rows.len() as u64))
    }
}
