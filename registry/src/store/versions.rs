//! Versions of models: lookup by reference, lists, who sees what.

use chemxor_core::{Action, ErrorId, ModelName, ModelRef, Reach, Selector, State, VersionId};
use chemxor_proto::{MAX_MANIFEST_BYTES, v1};
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::RegistryError;
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
    /// Seconds until the sunset, by the database's clock.
    pub seconds_to_sunset: Option<f64>,
    /// When its upload began.
    pub created_at: OffsetDateTime,
}

/// What [`read`] reads; the model is `m`, the version `v`.
macro_rules! columns {
    () => {
        "v.*, m.organisation, coalesce(v.sunset_at <= now(), false) as is_past_sunset,
         extract(epoch from v.sunset_at - now())::double precision as seconds_to_sunset"
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
        seconds_to_sunset: row.try_get("seconds_to_sunset")?,
        created_at: row.try_get("created_at")?,
    })
}

pub(crate) fn unix_ms(at: OffsetDateTime) -> i64 {
    (at.unix_timestamp_nanos() / 1_000_000) as i64
}

pub(crate) fn unknown_version() -> RegistryError {
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

    /// The same for whoever reads it: what waits for approval is for its publisher and for those who
    /// review; a revoked version stays visible to those who hold its digest, so that they learn why.
    pub async fn readable_version(
        &self,
        caller: &Caller,
        model: &ModelRef,
    ) -> Result<VersionRow, RegistryError> {
        let row = self.find_version(caller, model).await?;
        let public = row.state.is_servable() || row.state == State::Revoked;
        let own = row.organisation == caller.organisation;
        let may_review = caller.roles.reach(Action::ReadCatalogue) == Reach::Platform
            || (own && (caller.governs() || row.publisher == caller.subject));
        match public || may_review {
            true => Ok(row),
            false => Err(unknown_model(model)),
        }
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
    /// own organisation those who review see what waits, others what is served, and their own. The
    /// row that exceeds [`MAX_MANIFEST_BYTES`] with those before it is the last: no more is read.
    /// Which models are visible is found once, in a table of its own: joined, PostgreSQL takes the end
    /// of the page for near and compares each version with every model.
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
             join (select digest, bytes, sum(bytes) over (order by created_at desc, digest desc) as upto
                   from (select v.digest, v.created_at, octet_length(v.manifest) as bytes
                        from versions v
                        where ($2 or v.name in (select m.name from models m where ",
            visible!(),
            "))
                        and ($3::timestamptz is null or (v.created_at, v.digest) < ($3, $4))
                        and ($2 or v.state in ('approved', 'deprecated')
                             or (($5 or v.publisher = $6)
                                 and v.name in (select name from models where organisation = $1)))
                        and ($7::text[] is null or v.name = any($7))
                        order by v.created_at desc, v.digest desc limit $8) as page
                  ) as page on page.digest = v.digest
             where page.upto - page.bytes <= $9
             order by v.created_at desc, v.digest desc"
        ))
        .bind(&caller.organisation)
        .bind(far)
        .bind(at)
        .bind(digest)
        .bind(caller.governs())
        .bind(&caller.subject)
        .bind(&caller.models)
        .bind(i64::from(limit))
        .bind(MAX_MANIFEST_BYTES as i64)
        // planned for these values: the page's end and the limit decide how
        .persistent(false)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read).collect()
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
}
