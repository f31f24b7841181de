//! Which workers serve a version, and how that changes while it lives.

use std::collections::BTreeSet;

use chemxor_core::{Action, ErrorId, Manifest, State, VersionId};
use chemxor_proto::v1;

use crate::RegistryError;
use crate::publication::Change;
use crate::store::audit::Event;
use crate::store::versions::unknown_version;
use crate::store::{Caller, Store, Tx, VersionRow};

impl Store {
    /// Authorises workers for a version that the caller published and withdraws others; gives all
    /// placements afterwards. When its publisher has left, the organisation's other publishers go on.
    pub async fn authorize_workers(
        &self,
        caller: &Caller,
        version: &VersionId,
        request: &v1::AuthorizeWorkersRequest,
    ) -> Result<Vec<v1::Placement>, RegistryError> {
        caller.require(Action::Publish)?;
        let mut tx = self.begin("authorise workers").await?;
        let row = tx.lock_version(version).await?;
        let row = row
            .filter(|row| row.organisation == caller.organisation && caller.covers(&row.name))
            .ok_or_else(unknown_version)?;
        tx.require_publisher_or_successor(caller, &row).await?;
        if !matches!(
            row.state,
            State::Submitted | State::Approved | State::Deprecated
        ) {
            let message = format!("the version is {}; it has no workers to change", row.state);
            return Err(RegistryError::refused(ErrorId::WrongState, message));
        }
        let (manifest, _) = Manifest::from_bytes(&row.manifest)
            .map_err(|_| RegistryError::Corrupt("manifest of a version"))?;
        let before = tx.placements(version).await?;
        let steps = manifest.graph.steps().len() as u32;
        let change = Change::verify(steps, &before, request)?;
        let added: BTreeSet<&str> = change.added.iter().map(|p| p.worker.as_str()).collect();
        let workers: Vec<&str> = added.iter().copied().collect();
        tx.require_workers(&workers, &row.organisation).await?;
        for worker in &change.withdrawn {
            for statement in [
                "delete from sealed_keys where version = $1 and worker = $2",
                "delete from placements where version = $1 and worker = $2",
            ] {
                sqlx::query(statement)
                    .bind(version.as_bytes().as_slice())
                    .bind(worker)
                    .execute(tx.connection())
                    .await?;
            }
        }
        let keys = request.keys.iter();
        let keys: Vec<v1::SealedKey> = keys
            .filter(|key| added.contains(key.worker.as_str()))
            .cloned()
            .collect();
        tx.add_placements(version, &change.added, &keys).await?;
        let object = version.to_string();
        let withdrawn = change.withdrawn.iter().map(|w| ("version.withdraw", w));
        let authorized = change
            .added
            .iter()
            .map(|p| ("version.authorize", &p.worker));
        for (action, worker) in withdrawn.chain(authorized) {
            tx.audit(Event {
                actor: &caller.actor(),
                action,
                object: &object,
                detail: worker,
            })
            .await?;
        }
        tx.commit().await?;
        Ok(change.after)
    }
}

impl Tx {
    /// A colleague has no say over what somebody else published, until that membership has ended.
    async fn require_publisher_or_successor(
        &mut self,
        caller: &Caller,
        version: &VersionRow,
    ) -> Result<(), RegistryError> {
        if version.publisher == caller.subject {
            return Ok(());
        }
        sqlx::query(
            "select 1 from members
             where organisation = $1 and subject = $2 and removed_at is not null",
        )
        .bind(&version.organisation)
        .bind(&version.publisher)
        .fetch_optional(self.connection())
        .await?
        .map(drop)
        .ok_or_else(|| {
            let message = "only its publisher may change the workers of a version";
            RegistryError::refused(ErrorId::RoleMissing, message)
        })
    }

    pub(crate) async fn add_placements(
        &mut self,
        version: &VersionId,
        placements: &[v1::Placement],
        keys: &[v1::SealedKey],
    ) -> Result<(), RegistryError> {
        let digest = version.as_bytes().as_slice();
        for key in keys {
            sqlx::query("insert into sealed_keys values ($1, $2, $3, $4, $5)")
                .bind(digest)
                .bind(&key.worker)
                .bind(i64::from(key.step))
                .bind(key.encapsulated.as_ref())
                .bind(key.ciphertext.as_ref())
                .execute(self.connection())
                .await?;
        }
        for placement in placements {
            sqlx::query("insert into placements values ($1, $2, $3, $4, $5, $6)")
                .bind(digest)
                .bind(&placement.worker)
                .bind(placement.first_step as i32)
                .bind(placement.end_step as i32)
                .bind(placement.first_group as i32)
                .bind(placement.end_group as i32)
                .execute(self.connection())
                .await?;
        }
        Ok(())
    }
}
