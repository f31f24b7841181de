//! Certificates that are refused although they have not expired.

use chemxor_core::{Action, ErrorId};
use chemxor_proto::v1;
use chemxor_runtime::pki::Subject;
use sqlx::Row;

use crate::RegistryError;
use crate::store::audit::Event;
use crate::store::{Caller, Store};

impl Store {
    /// Refuses a certificate from the next call on; `serial` empty means every one of the subject.
    pub async fn deny_certificate(
        &self,
        caller: &Caller,
        subject: &str,
        serial: &str,
        reason: &str,
    ) -> Result<(), RegistryError> {
        caller.require(Action::ManageCertificates)?;
        let argument = |message: &str| RegistryError::refused(ErrorId::ArgumentInvalid, message);
        // a subject that no certificate can have would deny nothing, and look as if it did
        let subject = &subject
            .parse::<Subject>()
            .map_err(|_| {
                argument(
                    "a certificate's subject is chemxor://gateway, chemxor://registry, or \
                     chemxor://KIND/NAME with KIND worker, client or operator",
                )
            })?
            .to_string();
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if serial.len() > 64 || !serial.chars().all(hex) {
            return Err(argument("a serial number is lower-case hexadecimal"));
        }
        let serial = if serial.is_empty() { "*" } else { serial };
        let mut tx = self.begin("deny certificate").await?;
        sqlx::query(
            "insert into denied_certificates (subject, serial, reason) values ($1, $2, $3)
             on conflict do nothing",
        )
        .bind(subject)
        .bind(serial)
        .bind(reason)
        .execute(tx.connection())
        .await?;
        let detail = format!("{serial}: {reason}");
        tx.audit(Event {
            actor: &caller.actor(),
            action: "certificate.deny",
            object: subject,
            detail: &detail,
        })
        .await?;
        tx.commit().await
    }

    /// Subject, serial number and reason of every denied certificate.
    pub async fn denied_certificates(
        &self,
        caller: &Caller,
    ) -> Result<Vec<[String; 3]>, RegistryError> {
        caller.require(Action::ManageCertificates)?;
        let mut tx = self.begin("denied certificates").await?;
        let rows = sqlx::query("select * from denied_certificates order by denied_at limit 10000")
            .fetch_all(tx.connection())
            .await?;
        tx.audit_read(caller, "certificate.list", "certificates")
            .await?;
        tx.commit().await?;
        rows.iter()
            .map(|row| {
                Ok([
                    row.try_get("subject")?,
                    row.try_get("serial")?,
                    row.try_get("reason")?,
                ])
            })
            .collect()
    }

    /// Denied certificates of gateways, for workers: they meet gateways without the registry between.
    pub async fn denied_gateways(&self) -> Result<Vec<v1::DeniedCertificate>, RegistryError> {
        let rows = sqlx::query(
            "select subject, serial from denied_certificates where subject = $1
             order by denied_at desc limit 10000",
        )
        .bind(Subject::Gateway.to_string())
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(v1::DeniedCertificate {
                    subject: row.try_get("subject")?,
                    serial: row.try_get("serial")?,
                })
            })
            .collect()
    }

    /// Refuses the certificate of a gateway's client; empty when the gateway does not say.
    pub async fn require_client(&self, subject: &str, serial: &str) -> Result<(), RegistryError> {
        match self.require_certificate(subject, serial).await {
            Err(RegistryError::Refused(_, message)) => {
                let message = format!("{subject}: {message}");
                Err(RegistryError::refused(ErrorId::CertificateDenied, message))
            }
            outcome => outcome,
        }
    }

    /// Refuses a denied certificate.
    pub async fn require_certificate(
        &self,
        subject: &str,
        serial: &str,
    ) -> Result<(), RegistryError> {
        let asked = self.rights.ask();
        let key = (subject.to_owned(), serial.to_owned());
        if self.rights.is_living(asked, &key) {
            return Ok(());
        }
        let row = sqlx::query(
            "select 1 from denied_certificates where subject = $1 and serial in ('*', $2) limit 1",
        )
        .bind(subject)
        .bind(serial)
        .fetch_optional(self.pool())
        .await?;
        match row {
            None => {
                self.rights.put_living(asked, key);
                Ok(())
            }
            Some(_) => Err(RegistryError::refused(
                ErrorId::CertificateRefused,
                "this certificate was denied by an administrator",
            )),
        }
    }
}
