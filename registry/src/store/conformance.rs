//! Conformance runs: what a publisher shows of a submitted version before it can be approved.

use chemxor_core::{
    Action, Conformance, ConformanceError, ErrorId, Manifest, State, VersionId, verify_conformance,
};

use crate::RegistryError;
use crate::store::audit::Event;
use crate::store::versions::unknown_version;
use crate::store::{Caller, Store, Tx};

fn refused(message: impl Into<String>) -> RegistryError {
    RegistryError::refused(ErrorId::NotConformant, message)
}

impl Store {
    /// Keeps a run that passed; the first one counts.
    pub async fn record_conformance(
        &self,
        caller: &Caller,
        version: &VersionId,
        report: &[u8],
        signature: &[u8],
    ) -> Result<(), RegistryError> {
        caller.require(Action::Publish)?;
        let mut tx = self.begin("record conformance").await?;
        let row = tx.lock_version(version).await?;
        let row = row
            .filter(|row| row.organisation == caller.organisation && caller.covers(&row.name))
            .ok_or_else(unknown_version)?;
        if row.publisher != caller.subject {
            let message = "only its publisher shows that a version conforms";
            return Err(RegistryError::refused(ErrorId::RoleMissing, message));
        }
        if row.state != State::Submitted {
            let message = format!("the version is {}, not submitted", row.state);
            return Err(RegistryError::refused(ErrorId::WrongState, message));
        }
        verify_conformance(&row.publisher_key, report, signature)
            .map_err(|_| refused("the run is not signed with the key that signed the version"))?;
        let (manifest, _) =
            Manifest::from_bytes(&row.manifest).map_err(|error| refused(error.to_string()))?;
        let answers = manifest.known_answers.len() as u32;
        let run = Conformance::from_bytes(report)
            .and_then(|run| run.check(version, answers).map(|()| run))
            .map_err(|error: ConformanceError| refused(error.to_string()))?;
        sqlx::query(
            "insert into conformance (version, report, signature, recorded_by)
             values ($1, $2, $3, $4) on conflict do nothing",
        )
        .bind(version.as_bytes().as_slice())
        .bind(report)
        .bind(signature)
        .bind(caller.actor())
        .execute(tx.connection())
        .await?;
        let object = version.to_string();
        let detail = format!(
            "{} molecules, {} per mille, {} bits",
            run.vectors, run.worst_permille, run.security_bits
        );
        tx.audit(Event {
            actor: &caller.actor(),
            action: "version.conforms",
            object: &object,
            detail: &detail,
        })
        .await?;
        tx.commit().await
    }
}

impl Tx {
    /// Refuses a version without a conformance run that passed.
    pub(crate) async fn require_conformance(
        &mut self,
        version: &VersionId,
    ) -> Result<(), RegistryError> {
        let known = sqlx::query("select 1 from conformance where version = $1")
            .bind(version.as_bytes().as_slice())
            .fetch_optional(self.connection())
            .await?;
        match known {
            Some(_) => Ok(()),
            None => Err(refused(
                "its publisher has not shown that the encrypted model is its clear twin",
            )),
        }
    }
}
