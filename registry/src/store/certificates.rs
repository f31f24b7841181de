//! Certificate requests and what an operator's authority answered. Only texts: reading and checking
//! them is the service's.

use std::time::Duration;

use chemxor_core::{Action, ErrorId};
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::RegistryError;
use crate::store::audit::Event;
use crate::store::{Caller, Store};

/// Requests that one subject may hand in within a day: each leaves a row for ever.
const REQUESTS_A_DAY: i64 = 20;

/// A request and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRow {
    /// For deciding it.
    pub id: Uuid,
    /// E.g. `chemxor://client/lab-7`.
    pub subject: String,
    /// waiting, issued or refused.
    pub state: String,
    /// PKCS #10 in PEM.
    pub request: String,
    /// Once issued.
    pub certificate: Option<String>,
    /// Once issued; lower-case hexadecimal.
    pub serial: Option<String>,
    /// When it came.
    pub requested_at: OffsetDateTime,
    /// Once issued.
    pub expires_at: Option<OffsetDateTime>,
    /// Why it was refused.
    pub reason: String,
}

/// A certificate that was checked against its request.
#[derive(Debug, Clone)]
pub struct IssuedCertificate {
    /// E.g. `chemxor://client/lab-7`.
    pub subject: String,
    /// PKCS #10 in PEM.
    pub request: String,
    /// PEM.
    pub certificate: String,
    /// Lower-case hexadecimal.
    pub serial: String,
    /// Its last moment.
    pub expires_at: OffsetDateTime,
}

fn read(row: &PgRow) -> Result<CertificateRow, RegistryError> {
    Ok(CertificateRow {
        id: row.try_get("id")?,
        subject: row.try_get("subject")?,
        state: row.try_get("state")?,
        request: row.try_get("request")?,
        certificate: row.try_get("certificate")?,
        serial: row.try_get("serial")?,
        requested_at: row.try_get("requested_at")?,
        expires_at: row.try_get("expires_at")?,
        reason: row.try_get("reason")?,
    })
}

fn unknown() -> RegistryError {
    let message = "there is no such certificate request";
    RegistryError::refused(ErrorId::CertificateRequestUnknown, message)
}

impl Store {
    /// Keeps a request of `subject`, in place of one that waits. The same bytes are one request,
    /// whatever became of it.
    pub async fn request_certificate(
        &self,
        subject: &str,
        request: &str,
    ) -> Result<CertificateRow, RegistryError> {
        let mut tx = self.begin("request certificate").await?;
        // requests of one subject come one after the other
        sqlx::query("select pg_advisory_xact_lock(7126319, hashtext($1))")
            .bind(subject)
            .execute(tx.connection())
            .await?;
        let known = sqlx::query(
            "select * from certificates where subject = $1 and request = $2
             order by requested_at desc limit 1",
        )
        .bind(subject)
        .bind(request)
        .fetch_optional(tx.connection())
        .await?;
        if let Some(row) = known {
            return read(&row);
        }
        let today: i64 = sqlx::query_scalar(
            "select count(*) from certificates
             where subject = $1 and requested_at > now() - interval '1 day'",
        )
        .bind(subject)
        .fetch_one(tx.connection())
        .await?;
        if today >= REQUESTS_A_DAY {
            let message = format!("{subject} has handed in {today} requests within a day");
            return Err(RegistryError::Quota(message, Duration::from_secs(3600)));
        }
        sqlx::query(
            "update certificates set state = 'refused', decided_at = now(),
             reason = 'replaced by a newer request' where subject = $1 and state = 'waiting'",
        )
        .bind(subject)
        .execute(tx.connection())
        .await?;
        let row = sqlx::query(
            "insert into certificates (id, subject, state, request)
             values ($1, $2, 'waiting', $3) returning *",
        )
        .bind(Uuid::now_v7())
        .bind(subject)
        .bind(request)
        .fetch_one(tx.connection())
        .await?;
        let row = read(&row)?;
        let detail = row.id.to_string();
        tx.audit(Event {
            actor: subject,
            action: "certificate.request",
            object: subject,
            detail: &detail,
        })
        .await?;
        tx.commit().await?;
        Ok(row)
    }

    /// A request of this subject.
    pub async fn certificate_of(
        &self,
        subject: &str,
        id: Uuid,
    ) -> Result<CertificateRow, RegistryError> {
        let row = sqlx::query("select * from certificates where id = $1 and subject = $2")
            .bind(id)
            .bind(subject)
            .fetch_optional(self.pool())
            .await?;
        read(&row.ok_or_else(unknown)?)
    }

    /// A request, for an administrator who decides it.
    pub async fn certificate(
        &self,
        caller: &Caller,
        id: Uuid,
    ) -> Result<CertificateRow, RegistryError> {
        caller.require(Action::ManageCertificates)?;
        let row = sqlx::query("select * from certificates where id = $1")
            .bind(id)
            .fetch_optional(self.pool())
            .await?;
        read(&row.ok_or_else(unknown)?)
    }

    /// Requests and certificates, newest first.
    pub async fn list_certificates(
        &self,
        caller: &Caller,
        waiting: bool,
    ) -> Result<Vec<CertificateRow>, RegistryError> {
        caller.require(Action::ManageCertificates)?;
        let mut tx = self.begin("list certificates").await?;
        let rows = sqlx::query(
            "select * from certificates where not $1 or state = 'waiting'
             order by requested_at desc, id limit 10000",
        )
        .bind(waiting)
        .fetch_all(tx.connection())
        .await?;
        tx.audit_read(caller, "certificate.list", "certificates")
            .await?;
        tx.commit().await?;
        rows.iter().map(read).collect()
    }

    /// Records a certificate: the answer to the waiting request `id`, or a subject's first one.
    pub async fn issue_certificate(
        &self,
        caller: &Caller,
        id: Option<Uuid>,
        issued: &IssuedCertificate,
    ) -> Result<CertificateRow, RegistryError> {
        caller.require(Action::ManageCertificates)?;
        let mut tx = self.begin("issue certificate").await?;
        let found = sqlx::query(
            "select * from certificates where id = $1 or ($1 is null and subject = $2 and request = $3)
             order by requested_at desc limit 1 for update",
        )
        .bind(id)
        .bind(&issued.subject)
        .bind(&issued.request)
        .fetch_optional(tx.connection())
        .await?;
        let found = found.as_ref().map(read).transpose()?;
        if id.is_some() && found.is_none() {
            return Err(unknown());
        }
        if let Some(found) = &found {
            if found.certificate.as_deref() == Some(&issued.certificate) {
                return Ok(found.clone());
            }
            if found.state != "waiting" {
                let message = format!("the request is {} already", found.state);
                return Err(RegistryError::refused(ErrorId::WrongState, message));
            }
        }
        let row = sqlx::query(
            "insert into certificates
             (id, subject, state, request, certificate, serial, decided_at, expires_at)
             values ($1, $2, 'issued', $3, $4, $5, now(), $6)
             on conflict (id) do update set state = 'issued', certificate = excluded.certificate,
                serial = excluded.serial, decided_at = now(), expires_at = excluded.expires_at
             returning *",
        )
        .bind(found.map_or_else(Uuid::now_v7, |row| row.id))
        .bind(&issued.subject)
        .bind(&issued.request)
        .bind(&issued.certificate)
        .bind(&issued.serial)
        .bind(issued.expires_at)
        .fetch_one(tx.connection())
        .await?;
        let row = read(&row)?;
        tx.audit(Event {
            actor: &caller.actor(),
            action: "certificate.issue",
            object: &issued.subject,
            detail: &issued.serial,
        })
        .await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Refuses a waiting request; refusing it again changes nothing.
    pub async fn refuse_certificate(
        &self,
        caller: &Caller,
        id: Uuid,
        reason: &str,
    ) -> Result<CertificateRow, RegistryError> {
        caller.require(Action::ManageCertificates)?;
        let mut tx = self.begin("refuse certificate").await?;
        let found = sqlx::query("select * from certificates where id = $1 for update")
            .bind(id)
            .fetch_optional(tx.connection())
            .await?;
        let found = read(&found.ok_or_else(unknown)?)?;
        match found.state.as_str() {
            "refused" => return Ok(found),
            "waiting" => {}
            state => {
                let message = format!("the request is {state} already; deny the certificate");
                return Err(RegistryError::refused(ErrorId::WrongState, message));
            }
        }
        let row = sqlx::query(
            "update certificates set state = 'refused', decided_at = now(), reason = $2
             where id = $1 returning *",
        )
        .bind(id)
        .bind(reason)
        .fetch_one(tx.connection())
        .await?;
        let row = read(&row)?;
        tx.audit(Event {
            actor: &caller.actor(),
            action: "certificate.refuse",
            object: &row.subject,
            detail: reason,
        })
        .await?;
        tx.commit().await?;
        Ok(row)
    }
}
