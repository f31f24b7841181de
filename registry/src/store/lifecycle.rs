//! A version's way: begun, submitted, approved, deprecated, revoked.

use chemxor_core::{Action, ErrorId, Event as Transition, State, VersionId, sign_approval};
use chemxor_proto::v1;
use sqlx::Row;
use time::OffsetDateTime;

use crate::RegistryError;
use crate::publication::Publication;
use crate::store::audit::Event;
use crate::store::versions::unknown_version;
use crate::store::{Caller, Store, Tx, VersionRow};

impl Store {
    /// Creates the draft, or finds it when the same publisher began it before. Announced again, a
    /// blob keeps what was uploaded of it; what is no longer announced goes.
    pub async fn begin_version(
        &self,
        caller: &Caller,
        publication: &Publication,
    ) -> Result<(), RegistryError> {
        caller.require(Action::Publish)?;
        let publisher = caller.subject.as_str();
        let mut tx = self.begin("begin version").await?;
        let version = publication.version();
        let name = publication.manifest().name.as_str();
        tx.require_workers(&publication.workers(), &caller.organisation)
            .await?;
        if !caller.covers(name) {
            let message = format!("the token is not for the model {name}");
            return Err(RegistryError::refused(ErrorId::RoleMissing, message));
        }
        tx.claim_name(name, caller).await?;
        let request = publication.request();
        sqlx::query(
            "insert into versions (digest, name, manifest, signature, publisher_key, publisher)
             values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
        )
        .bind(version.as_bytes().as_slice())
        .bind(name)
        .bind(request.manifest.as_ref())
        .bind(request.signature.as_ref())
        .bind(request.publisher_key.as_ref())
        .bind(publisher)
        .execute(tx.connection())
        .await?;
        let row = tx.lock_version(&version).await?;
        let row = row.ok_or(RegistryError::Corrupt("version"))?;
        if row.state != State::Draft {
            let message = format!(
                "this version is {} already; change the model to publish a new one",
                row.state
            );
            return Err(RegistryError::refused(ErrorId::WrongState, message));
        }
        let same = row.signature == request.signature && row.publisher_key == request.publisher_key;
        if !same {
            let message = "this version was begun under another publisher key; sign with that one";
            return Err(RegistryError::refused(ErrorId::SignatureRefused, message));
        }
        tx.replace_parts(&version, request).await?;
        tx.require_room(&caller.organisation, self.draft_bytes)
            .await?;
        let object = version.to_string();
        tx.audit(Event {
            actor: &caller.actor(),
            action: "version.begin",
            object: &object,
            detail: name,
        })
        .await?;
        tx.commit().await
    }

    /// Moves a version along its lifecycle.
    pub async fn transition(
        &self,
        caller: &Caller,
        version: &VersionId,
        event: Transition,
        note: &str,
        sunset: Option<OffsetDateTime>,
    ) -> Result<VersionRow, RegistryError> {
        let action = match event {
            Transition::Submit => Action::Publish,
            Transition::Approve => Action::Approve,
            Transition::Deprecate => Action::ManageModels,
            Transition::Revoke => Action::Revoke,
        };
        caller.require(action)?;
        let mut tx = self.begin("transition").await?;
        let row = tx.lock_version(version).await?;
        let row = row.ok_or_else(unknown_version)?;
        let reached = caller.require_in(action, &row.organisation).is_ok();
        if !reached || !caller.covers(&row.name) {
            return Err(unknown_version());
        }
        let actor = caller.subject.as_str();
        let next = row.state.apply(event)?;
        if event == Transition::Submit {
            if row.publisher != actor {
                let message = "only its publisher may submit a version";
                return Err(RegistryError::refused(ErrorId::RoleMissing, message));
            }
            tx.require_all_blobs(version).await?;
        }
        if event == Transition::Approve {
            tx.require_second_person(caller, &row).await?;
            tx.require_conformance(version).await?;
        }
        let approver = (event == Transition::Approve).then_some(actor);
        let signer = self.signer().filter(|_| approver.is_some());
        let approval = signer.map(|key| {
            let signed = sign_approval(key, version, &row.publisher_key, &row.signature);
            (key.verifying_key().to_bytes().to_vec(), signed.to_vec())
        });
        let approval = approval.or(row.approval.clone());
        let sunset_at = match event {
            Transition::Deprecate => sunset,
            _ => row.sunset_at,
        };
        sqlx::query(
            "update versions set state = $2, approved_by = coalesce($3, approved_by),
             approved_at = case when $3::text is null then approved_at else now() end,
             approver_organisation = case when $3::text is null then approver_organisation else $7 end,
             registry_key = $4, counter_signature = $5, sunset_at = $6
             where digest = $1",
        )
        .bind(version.as_bytes().as_slice())
        .bind(next.as_str())
        .bind(approver)
        .bind(approval.as_ref().map(|(key, _)| key))
        .bind(approval.as_ref().map(|(_, signature)| signature))
        .bind(sunset_at)
        .bind(&caller.organisation)
        .execute(tx.connection())
        .await?;
        let action = match event {
            Transition::Submit => "version.submit",
            Transition::Approve => "version.approve",
            Transition::Deprecate => "version.deprecate",
            Transition::Revoke => "version.revoke",
        };
        let object = version.to_string();
        tx.audit(Event {
            actor: &caller.actor(),
            action,
            object: &object,
            detail: note,
        })
        .await?;
        tx.commit().await?;
        Ok(VersionRow {
            state: next,
            approval,
            sunset_at,
            ..row
        })
    }
}

impl Tx {
    /// Refuses the approval by the publisher, whose model's organisation is always the own, and the
    /// one with a token that the publisher made for another name, or that comes from such a token.
    async fn require_second_person(
        &mut self,
        caller: &Caller,
        version: &VersionRow,
    ) -> Result<(), RegistryError> {
        let refuse = |message: &str| Err(RegistryError::refused(ErrorId::SelfApproval, message));
        let (organisation, publisher) = (&version.organisation, &version.publisher);
        if *organisation == caller.organisation && *publisher == caller.subject {
            return refuse("the publisher may not approve the version");
        }
        let made = sqlx::query(
            "with recursive line as (
                select id, created_by, created_with from tokens where id = $1
                union select t.id, t.created_by, t.created_with
                from tokens t join line on t.id = line.created_with)
             select 1 from line where created_by = $2 limit 1",
        )
        .bind(caller.id)
        .bind(format!("{organisation}/{publisher}"))
        .fetch_optional(self.connection())
        .await?;
        if made.is_some() {
            return refuse(
                "the publisher made the token that approves; somebody else approves the version",
            );
        }
        Ok(())
    }

    /// The name is the publisher's, or nobody's yet.
    async fn claim_name(&mut self, name: &str, caller: &Caller) -> Result<(), RegistryError> {
        sqlx::query(
            "insert into models (name, publisher, organisation) values ($1, $2, $3)
             on conflict do nothing",
        )
        .bind(name)
        .bind(&caller.subject)
        .bind(&caller.organisation)
        .execute(self.connection())
        .await?;
        // when its publisher has left, the organisation's other publishers go on
        let row = sqlx::query(
            "select organisation, publisher = $2 or exists (
                select 1 from members b where b.organisation = m.organisation
                and b.subject = m.publisher and b.removed_at is not null) as free
             from models m where name = $1",
        )
        .bind(name)
        .bind(&caller.subject)
        .fetch_one(self.connection())
        .await?;
        if row.try_get::<String, _>("organisation")? == caller.organisation
            && row.try_get::<bool, _>("free")?
        {
            return Ok(());
        }
        let message =
            format!("the model name {name} belongs to another publisher; choose another one");
        Err(RegistryError::refused(ErrorId::ManifestRefused, message))
    }

    /// Makes blobs, keys and placements of a draft those of the request.
    async fn replace_parts(
        &mut self,
        version: &VersionId,
        request: &v1::BeginVersionRequest,
    ) -> Result<(), RegistryError> {
        let digest = version.as_bytes().as_slice();
        self.replace_blobs(version, &request.blobs).await?;
        for statement in [
            "delete from sealed_keys where version = $1",
            "delete from placements where version = $1",
        ] {
            sqlx::query(statement)
                .bind(digest)
                .execute(self.connection())
                .await?;
        }
        self.add_placements(version, &request.placements, &request.keys)
            .await
    }
}
