//! The audit chain: each row's hash covers the row and the hash before it.

use chemxor_core::{Action, AuditLine, AuditRow, Checkpoint, Reach};
use data_encoding::HEXLOWER;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::RegistryError;
use crate::store::checkpoints::Anchor;
use crate::store::{Caller, Store, Tx};

/// Who did what to which object. Details never hold a molecule, token or key.
pub(crate) struct Event<'a> {
    pub(crate) actor: &'a str,
    pub(crate) action: &'static str,
    pub(crate) object: &'a str,
    pub(crate) detail: &'a str,
}

pub(crate) fn micros(at: OffsetDateTime) -> i64 {
    (at.unix_timestamp_nanos() / 1000) as i64
}

impl Tx {
    /// Until this transaction ends nobody else appends or signs.
    pub(crate) async fn lock_audit(&mut self) -> Result<(), RegistryError> {
        // the number is arbitrary and used for nothing else
        sqlx::query("select pg_advisory_xact_lock(7126318)")
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Appends an event; other transactions that append wait until this one ends.
    pub(crate) async fn audit(&mut self, event: Event<'_>) -> Result<(), RegistryError> {
        self.audited = true;
        self.lock_audit().await?;
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
        let row = AuditRow {
            number,
            at_micros: micros(at),
            actor: event.actor.to_owned(),
            action: event.action.to_owned(),
            object: event.object.to_owned(),
            detail: event.detail.to_owned(),
            hash: String::new(),
        };
        let hash = row.hash_after(&crate::store::digest(&previous)?);
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

impl Tx {
    /// A read that only administrators may do.
    pub(crate) async fn audit_read(
        &mut self,
        caller: &Caller,
        action: &'static str,
        object: &str,
    ) -> Result<(), RegistryError> {
        let (actor, detail) = (caller.actor(), "read");
        self.audit(Event {
            actor: &actor,
            action,
            object,
            detail,
        })
        .await
    }
}

pub(crate) fn read_row(row: &PgRow) -> Result<AuditRow, RegistryError> {
    Ok(AuditRow {
        number: row.try_get("number")?,
        at_micros: micros(row.try_get("at")?),
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        object: row.try_get("object")?,
        detail: row.try_get("detail")?,
        hash: HEXLOWER.encode(row.try_get("hash")?),
    })
}

/// Rows of one page of an export.
const PAGE: i64 = 500;

impl Store {
    /// A read of somebody who reaches every organisation; reads of the others leave no row.
    pub(crate) async fn audit_far_read(
        &self,
        caller: &Caller,
        action: &'static str,
        object: &str,
    ) -> Result<(), RegistryError> {
        if caller.roles.reach(Action::ReadCatalogue) != Reach::Platform {
            return Ok(());
        }
        let mut tx = self.begin("audit a read").await?;
        tx.audit_read(caller, action, object).await?;
        tx.commit().await
    }

    /// Walks the chain; gives the number of rows, or the first row that does not fit.
    pub async fn verify_audit(&self) -> Result<Result<u64, i64>, RegistryError> {
        let mut tx = self.begin("verify audit").await?;
        let last = tx.follow(Anchor::BEGINNING).await?;
        Ok(last.map(|anchor| anchor.number as u64))
    }

    /// Begins an export: notes it, closes the log with a checkpoint and gives the last row's number.
    pub async fn begin_export(&self, caller: &Caller) -> Result<i64, RegistryError> {
        caller.require(Action::ReadAudit)?;
        let mut tx = self.begin("export audit").await?;
        tx.audit_read(caller, "audit.export", "audit").await?;
        // an export of a log that was changed is not closed, and so does not verify
        let signed = self.sign(&mut tx).await?;
        let row = sqlx::query("select max(number) as last from audit")
            .fetch_one(tx.connection())
            .await?;
        tx.commit().await?;
        self.remember(signed);
        Ok(row.try_get("last")?)
    }

    /// The lines of an export after row `after`, up to row `last`; none when it is over.
    pub async fn export_page(
        &self,
        after: i64,
        last: i64,
    ) -> Result<Option<(Vec<AuditLine>, i64)>, RegistryError> {
        let end = (after + PAGE).min(last);
        if after >= end {
            return Ok(None);
        }
        let mut tx = self.begin("export audit page").await?;
        let rows =
            sqlx::query("select * from audit where number > $1 and number <= $2 order by number")
                .bind(after)
                .bind(end)
                .fetch_all(tx.connection())
                .await?;
        let points = sqlx::query(
            "select * from audit_checkpoints where number > $1 and number <= $2 order by number",
        )
        .bind(after)
        .bind(end)
        .fetch_all(tx.connection())
        .await?;
        let mut points = points.into_iter().peekable();
        let mut lines = Vec::with_capacity(rows.len() + points.len());
        for row in &rows {
            let row = read_row(row)?;
            let number = row.number;
            lines.push(AuditLine::Row(row));
            let here = |point: &PgRow| point.try_get("number").is_ok_and(|at: i64| at <= number);
            while let Some(point) = points.next_if(here) {
                lines.push(AuditLine::Checkpoint(Checkpoint {
                    number: point.try_get("number")?,
                    at_micros: point.try_get("at_micros")?,
                    hash: HEXLOWER.encode(point.try_get("hash")?),
                    key: HEXLOWER.encode(point.try_get("key")?),
                    signature: HEXLOWER.encode(point.try_get("signature")?),
                }));
            }
        }
        Ok(Some((lines, end)))
    }
}
