//! Versions of models: drafts, state changes, lookup by reference.

use chemxor_core::{ErrorId, Event as Transition, ModelRef, Selector, State, VersionId};
use chemxor_proto::v1;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::RegistryError;
use crate::publication::Publication;
use crate::store::audit::Event;
use crate::store::{Store, Tx};

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
    /// When its upload began.
    pub created_at: OffsetDateTime,
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
            created_unix_ms: (self.created_at.unix_timestamp_nanos() / 1_000_000) as i64,
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
        created_at: row.try_get("created_at")?,
    })
}

fn unknown(model: &ModelRef) -> RegistryError {
    RegistryError::refused(ErrorId::ModelUnknown, format!("there is no model {model}"))
}

impl Store {
    /// Creates the draft, or finds it when the same publisher began it before. Announced again, a
    /// blob keeps what was uploaded of it; what is no longer announced goes.
    pub async fn begin_version(
        &self,
        publisher: &str,
        publication: &Publication,
    ) -> Result<(), RegistryError> {
        let mut tx = self.begin("begin version").await?;
        let version = publication.version();
        let name = publication.manifest().name.as_str();
        tx.require_workers(&publication.workers()).await?;
        tx.claim_name(name, publisher).await?;
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
            actor: publisher,
            action: "version.begin",
            object: &object,
            detail: name,
        })
        .await?;
        tx.commit().await
    }

    /// The version that a reference means. Without a digest it is the newest approved one.
    pub async fn find_version(&self, model: &ModelRef) -> Result<VersionRow, RegistryError> {
        let mut tx = self.begin("find version").await?;
        let query = match &model.selector {
            Selector::Latest => sqlx::query(
                "select * from versions where name = $1 and state in ('approved', 'deprecated')
                 order by state, approved_at desc limit 1",
            )
            .bind(model.name.as_str()),
            Selector::Version(version) => {
                sqlx::query("select * from versions where name = $1 and digest = $2")
                    .bind(model.name.as_str())
                    .bind(version.as_bytes().to_vec())
            }
            Selector::Alias(_) => return Err(unknown(model)),
        };
        let row = query.fetch_optional(tx.connection()).await?;
        read(&row.ok_or_else(|| unknown(model))?)
    }

    /// The version of this digest, in any state.
    pub async fn version_by_digest(
        &self,
        version: &VersionId,
    ) -> Result<VersionRow, RegistryError> {
        let mut tx = self.begin("version by digest").await?;
        let row = sqlx::query("select * from versions where digest = $1")
            .bind(version.as_bytes().as_slice())
            .fetch_optional(tx.connection())
            .await?;
        let unknown = || RegistryError::refused(ErrorId::ModelUnknown, "there is no such version");
        read(&row.ok_or_else(unknown)?)
    }

    /// The version to approve: the one that the reference names, or the only one of the name that
    /// waits. Several are refused, so that nobody approves what came in after the review.
    pub async fn find_submitted(&self, model: &ModelRef) -> Result<VersionRow, RegistryError> {
        if model.selector != Selector::Latest {
            return self.find_version(model).await;
        }
        let mut tx = self.begin("find submitted").await?;
        let rows =
            sqlx::query("select * from versions where name = $1 and state = 'submitted' limit 2")
                .bind(model.name.as_str())
                .fetch_all(tx.connection())
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

    /// Versions, newest first; `before` is where the previous page ended.
    pub async fn list_versions(
        &self,
        before: Option<(OffsetDateTime, VersionId)>,
        limit: u32,
        see_all: bool,
        viewer: &str,
    ) -> Result<Vec<VersionRow>, RegistryError> {
        let mut tx = self.begin("list versions").await?;
        let (at, digest) = match before {
            Some((at, version)) => (Some(at), Some(version.as_bytes().to_vec())),
            None => (None, None),
        };
        let rows = sqlx::query(
            "select * from versions
             where ($1::timestamptz is null or (created_at, digest) < ($1, $2))
               and ($3 or publisher = $4 or state in ('approved', 'deprecated'))
             order by created_at desc, digest desc limit $5",
        )
        .bind(at)
        .bind(digest)
        .bind(see_all)
        .bind(viewer)
        .bind(i64::from(limit))
        .fetch_all(tx.connection())
        .await?;
        rows.iter().map(read).collect()
    }

    /// Moves a version along its lifecycle.
    pub async fn transition(
        &self,
        actor: &str,
        version: &VersionId,
        event: Transition,
        note: &str,
    ) -> Result<VersionRow, RegistryError> {
        let mut tx = self.begin("transition").await?;
        let row = tx.lock_version(version).await?.ok_or_else(|| {
            RegistryError::refused(ErrorId::ModelUnknown, "there is no such version")
        })?;
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
        sqlx::query(
            "update versions set state = $2, approved_by = coalesce($3, approved_by),
             approved_at = case when $3::text is null then approved_at else now() end
             where digest = $1",
        )
        .bind(version.as_bytes().as_slice())
        .bind(next.as_str())
        .bind(approver)
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
            actor,
            action,
            object: &object,
            detail: note,
        })
        .await?;
        tx.commit().await?;
        Ok(VersionRow { state: next, ..row })
    }
}

impl Tx {
    /// The version, locked until the transaction ends.
    pub(crate) async fn lock_version(
        &mut self,
        version: &VersionId,
    ) -> Result<Option<VersionRow>, RegistryError> {
        let row = sqlx::query("select * from versions where digest = $1 for update")
            .bind(version.as_bytes().as_slice())
            .fetch_optional(self.connection())
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// The name is the publisher's, or nobody's yet.
    async fn claim_name(&mut self, name: &str, publisher: &str) -> Result<(), RegistryError> {
        sqlx::query("insert into models (name, publisher) values ($1, $2) on conflict do nothing")
            .bind(name)
            .bind(publisher)
            .execute(self.connection())
            .await?;
        let row = sqlx::query("select publisher from models where name = $1")
            .bind(name)
            .fetch_one(self.connection())
            .await?;
        if row.try_get::<String, _>("publisher")? == publisher {
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
