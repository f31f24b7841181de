//! Versions of models: drafts, state changes, lookup by reference.

use chemxor_core::{
    Action, ErrorId, Event as Transition, ModelName, ModelRef, Reach, Selector, State, VersionId,
    sign_approval,
};
use chemxor_proto::v1;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::RegistryError;
use crate::publication::Publication;
use crate::store::audit::Event;
use crate::store::visibility::{unknown_model, visible};
use crate::store::{Caller, Store, Tx};

/// A version as stored.
#[derive(Debug, Clone)]
pub struct VersionRow {
    /// SHA-256 of the manifest.
    pub version: VersionId,
    /// The model's name.
    pub name: String,
    /// Exactly the signed bytes.
    pub manifest: Vec<u8>,
    /// Ed25519.
    pub signature: Vec<u8>,
    /// Ed25519.
    pub publisher_key: Vec<u8>,
    /// Subject of the token that published it.
    pub publisher: String,
    /// Where it stands.
    pub state: State,
    /// The organisation that owns the model.
    pub organisation: String,
    /// Ed25519 key and counter-signature of the registry, once approved.
    pub approval: Option<(Vec<u8>, Vec<u8>)>,
    /// When it stops being served, once deprecated.
    pub sunset_at: Option<OffsetDateTime>,
    /// By the database's clock.
    pub is_past_sunset: bool,
    /// When its upload began.
    pub created_at: OffsetDateTime,
}

/// What [`read`] reads; the model is `m`, the version `v`.
macro_rules! columns {
    () => {
        "v.*, m.organisation, coalesce(v.sunset_at <= now(), false) as is_past_sunset"
    };
}

impl VersionRow {
    pub(crate) fn to_proto(&self) -> v1::ModelVersion {
        v1::ModelVersion {
            name: self.name.clone(),
            version: self.version.to_string(),
            state: self.state.to_string(),
            manifest: self.manifest.clone().into(),
            signature: self.signature.clone().into(),
            publisher_key: self.publisher_key.clone().into(),
            publisher: self.publisher.clone(),
            created_unix_ms: unix_ms(self.created_at),
            organisation: self.organisation.clone(),
            registry_key: self
                .approval
                .iter()
                .flat_map(|(key, _)| key.clone())
                .collect(),
            counter_signature: self.approval.iter().flat_map(|(_, s)| s.clone()).collect(),
            sunset_unix_ms: self.sunset_at.map_or(0, unix_ms),
        }
    }
}

fn read(row: &PgRow) -> Result<VersionRow, RegistryError> {
    let digest: Vec<u8> = row.try_get("digest")?;
    let state: String = row.try_get("state")?;
    Ok(VersionRow {
        version: VersionId::from_bytes(crate::store::digest(&digest)?),
        name: row.try_get("name")?,
        manifest: row.try_get("manifest")?,
        signature: row.try_get("signature")?,
        publisher_key: row.try_get("publisher_key")?,
        publisher: row.try_get("publisher")?,
        state: state.parse().map_err(|_| RegistryError::Corrupt("state"))?,
        organisation: row.try_get("organisation")?,
        approval: row
            .try_get::<Option<Vec<u8>>, _>("registry_key")?
            .zip(row.try_get("counter_signature")?),
        sunset_at: row.try_get("sunset_at")?,
        is_past_sunset: row.try_get("is_past_sunset")?,
        created_at: row.try_get("created_at")?,
    })
}

pub(crate) fn unix_ms(at: OffsetDateTime) -> i64 {
    (at.unix_timestamp_nanos() / 1_000_000) as i64
}

fn unknown_version() -> RegistryError {
    RegistryError::refused(ErrorId::ModelUnknown, "there is no such version")
}

/// Another organisation's draft does not exist; neither does what the token is not for.
fn reveal(row: Option<&PgRow>, caller: &Caller) -> Result<Option<VersionRow>, RegistryError> {
    let row = row.map(read).transpose()?;
    let waits = |row: &VersionRow| matches!(row.state, State::Draft | State::Submitted);
    let far = caller.roles.reach(Action::ReadCatalogue) == Reach::Platform;
    Ok(row.filter(|row| {
        let own = row.organisation == caller.organisation;
        caller.covers(&row.name) && (own || far || !waits(row))
    }))
}

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
        tx.require_workers(&publication.workers()).await?;
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

    /// The version that a reference means, if the caller's organisation sees it. Without a digest or
    /// alias it is the newest approved one.
    pub async fn find_version(
        &self,
        caller: &Caller,
        model: &ModelRef,
    ) -> Result<VersionRow, RegistryError> {
        let far = caller.roles.reach(Action::ReadCatalogue) == Reach::Platform;
        let query = match &model.selector {
            Selector::Latest => sqlx::query(concat!(
                "select ",
                columns!(),
                " from versions v join models m on m.name = v.name
                 where ($2 or ",
                visible!(),
                ") and v.name = $3
                   and v.state in ('approved', 'deprecated')
                 order by v.state, v.approved_at desc limit 1"
            )),
            Selector::Version(_) => sqlx::query(concat!(
                "select ",
                columns!(),
                " from versions v join models m on m.name = v.name
                 where ($2 or ",
                visible!(),
                ") and v.name = $3 and v.digest = $4"
            )),
            Selector::Alias(_) => sqlx::query(concat!(
                "select ",
                columns!(),
                " from versions v join models m on m.name = v.name
                 join aliases a on a.model = m.name and a.version = v.digest
                 where ($2 or ",
                visible!(),
                ") and v.name = $3 and a.alias = $4"
            )),
        };
        let query = query
            .bind(&caller.organisation)
            .bind(far)
            .bind(model.name.as_str());
        let query = match &model.selector {
            Selector::Latest => query,
            Selector::Version(version) => query.bind(version.as_bytes().to_vec()),
            Selector::Alias(alias) => query.bind(alias.as_str()),
        };
        let row = query.fetch_optional(self.pool()).await?;
        reveal(row.as_ref(), caller)?.ok_or_else(|| unknown_model(model))
    }

    /// Whether the caller's organisation sees any of a model.
    pub(crate) async fn sees_model(
        &self,
        caller: &Caller,
        model: &ModelName,
    ) -> Result<bool, RegistryError> {
        let far = caller.require(Action::ReadCatalogue)? == Reach::Platform;
        let row = sqlx::query(concat!(
            "select 1 from models m where ($2 or ",
            visible!(),
            ") and m.name = $3"
        ))
        .bind(&caller.organisation)
        .bind(far)
        .bind(model.as_str())
        .fetch_optional(self.pool())
        .await?;
        Ok(row.is_some() && caller.covers(model.as_str()))
    }

    /// The version of this digest, if the caller's organisation sees it.
    pub async fn version_by_digest(
        &self,
        caller: &Caller,
        version: &VersionId,
    ) -> Result<VersionRow, RegistryError> {
        let row = sqlx::query(concat!(
            "select ",
            columns!(),
            " from versions v join models m on m.name = v.name
             where ",
            visible!(),
            " and v.digest = $2"
        ))
        .bind(&caller.organisation)
        .bind(version.as_bytes().as_slice())
        .fetch_optional(self.pool())
        .await?;
        reveal(row.as_ref(), caller)?.ok_or_else(unknown_version)
    }

    /// The version to approve: the one that the reference names, or the only one of the name that
    /// waits. Several are refused, so that nobody approves what came in after the review.
    pub async fn find_submitted(
        &self,
        caller: &Caller,
        model: &ModelRef,
    ) -> Result<VersionRow, RegistryError> {
        if model.selector != Selector::Latest {
            return self.find_version(caller, model).await;
        }
        let far = caller.require(Action::Approve)? == Reach::Platform;
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            " from versions v join models m on m.name = v.name
             where v.name = $1 and v.state = 'submitted' and ($2 or m.organisation = $3) limit 2"
        ))
        .bind(model.name.as_str())
        .bind(far)
        .bind(&caller.organisation)
        .fetch_all(self.pool())
        .await?;
        match rows.as_slice() {
            [row] => read(row),
            [] => {
                let message = format!("no version of {model} waits for approval");
                Err(RegistryError::refused(ErrorId::WrongState, message))
            }
            _ => {
                let message = format!(
                    "several versions of {model} wait for approval: name the one you reviewed, {model}@sha256:…"
                );
                Err(RegistryError::refused(ErrorId::ArgumentInvalid, message))
            }
        }
    }

    /// Versions that the caller sees, newest first; `before` is where the previous page ended. Of the
    /// own organisation those who review see what waits, others what is served, and their own.
    pub async fn list_versions(
        &self,
        caller: &Caller,
        before: Option<(OffsetDateTime, VersionId)>,
        limit: u32,
    ) -> Result<Vec<VersionRow>, RegistryError> {
        let far = caller.require(Action::ReadCatalogue)? == Reach::Platform;
        let (at, digest) = match before {
            Some((at, version)) => (Some(at), Some(version.as_bytes().to_vec())),
            None => (None, None),
        };
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            " from versions v join models m on m.name = v.name
             where ($2 or ",
            visible!(),
            ")
               and ($3::timestamptz is null or (v.created_at, v.digest) < ($3, $4))
               and ($2 or v.state in ('approved', 'deprecated')
                    or (m.organisation = $1 and ($5 or v.publisher = $6)))
               and ($7::text[] is null or v.name = any($7))
             order by v.created_at desc, v.digest desc limit $8"
        ))
        .bind(&caller.organisation)
        .bind(far)
        .bind(at)
        .bind(digest)
        .bind(caller.governs())
        .bind(&caller.subject)
        .bind(&caller.models)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read).collect()
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
        if event == Transition::Approve && row.publisher == actor {
            return Err(RegistryError::refused(
                ErrorId::SelfApproval,
                "the publisher may not approve the version",
            ));
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
             registry_key = $4, counter_signature = $5, sunset_at = $6
             where digest = $1",
        )
        .bind(version.as_bytes().as_slice())
        .bind(next.as_str())
        .bind(approver)
        .bind(approval.as_ref().map(|(key, _)| key))
        .bind(approval.as_ref().map(|(_, signature)| signature))
        .bind(sunset_at)
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
    /// The version, locked until the transaction ends.
    pub(crate) async fn lock_version(
        &mut self,
        version: &VersionId,
    ) -> Result<Option<VersionRow>, RegistryError> {
        let row = sqlx::query(concat!(
            "select ",
            columns!(),
            " from versions v join models m on m.name = v.name
             where v.digest = $1 for update of v"
        ))
        .bind(version.as_bytes().as_slice())
        .fetch_optional(self.connection())
        .await?;
        row.as_ref().map(read).transpose()
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
        let row = sqlx::query("select publisher, organisation from models where name = $1")
            .bind(name)
            .fetch_one(self.connection())
            .await?;
        if row.try_get::<String, _>("publisher")? == caller.subject
            && row.try_get::<String, _>("organisation")? == caller.organisation
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
        for key in &request.keys {
            sqlx::query("insert into sealed_keys values ($1, $2, $3, $4, $5)")
                .bind(digest)
                .bind(&key.worker)
                .bind(i64::from(key.step))
                .bind(key.encapsulated.as_ref())
                .bind(key.ciphertext.as_ref())
                .execute(self.connection())
                .await?;
        }
        for placement in &request.placements {
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
