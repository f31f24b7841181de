//! Model cards: signed documents about a version, one revision after the other.

use chemxor_core::{
    Action, CardError, ErrorId, Manifest, ModelCard, ModelRef, Severity, State, VersionId,
    verify_card,
};
use sqlx::Row;
use time::OffsetDateTime;

use crate::RegistryError;
use crate::store::audit::Event;
use crate::store::{Caller, Store, VersionRow};

/// Most revisions of one card.
const MAX_REVISIONS: i32 = 1000;

/// A revision of a card with its version.
#[derive(Debug, Clone)]
pub struct CardRow {
    /// What it is about.
    pub version: VersionRow,
    /// From 1.
    pub revision: u32,
    /// Exactly the signed bytes.
    pub card: Vec<u8>,
    /// Ed25519, under the version's publisher key.
    pub signature: Vec<u8>,
    /// When it came.
    pub created_at: OffsetDateTime,
}

fn refused(message: impl Into<String>) -> RegistryError {
    RegistryError::refused(ErrorId::CardRefused, message)
}

/// What keeps a card from this version.
fn check(row: &VersionRow, card: &[u8], signature: &[u8]) -> Result<(), RegistryError> {
    let parsed =
        ModelCard::from_bytes(card).map_err(|error: CardError| refused(error.to_string()))?;
    verify_card(&row.publisher_key, card, signature)
        .map_err(|_| refused("the card is not signed with the key that signed the version"))?;
    let (manifest, version) =
        Manifest::from_bytes(&row.manifest).map_err(|_| RegistryError::Corrupt("manifest"))?;
    let findings = parsed.lint_for(&manifest, &version);
    match findings
        .iter()
        .find(|finding| finding.severity == Severity::Error)
    {
        None => Ok(()),
        Some(first) => Err(refused(format!("{}: {}", first.field, first.problem))),
    }
}

impl Store {
    /// Adds a revision; the newest one again changes nothing.
    pub async fn set_card(
        &self,
        caller: &Caller,
        version: &VersionId,
        card: &[u8],
        signature: &[u8],
    ) -> Result<CardRow, RegistryError> {
        caller.require(Action::Publish)?;
        let mut tx = self.begin("set card").await?;
        let row = tx.lock_version(version).await?;
        let row = row
            .filter(|row| row.organisation == caller.organisation && caller.covers(&row.name))
            .ok_or_else(|| {
                RegistryError::refused(ErrorId::ModelUnknown, "there is no such version")
            })?;
        if row.publisher != caller.subject {
            let message = "only its publisher may describe a version";
            return Err(RegistryError::refused(ErrorId::RoleMissing, message));
        }
        if row.state == State::Revoked {
            let message = "the version is revoked; it takes no card";
            return Err(RegistryError::refused(ErrorId::WrongState, message));
        }
        check(&row, card, signature)?;
        let newest = sqlx::query(
            "select revision, card, signature, created_at from cards
             where version = $1 order by revision desc limit 1",
        )
        .bind(version.as_bytes().as_slice())
        .fetch_optional(tx.connection())
        .await?;
        let mut revision = 0;
        if let Some(newest) = newest {
            revision = newest.try_get("revision")?;
            let same = newest.try_get::<Vec<u8>, _>("card")? == card
                && newest.try_get::<Vec<u8>, _>("signature")? == signature;
            if same {
                return Ok(CardRow {
                    version: row,
                    revision: revision as u32,
                    card: card.to_vec(),
                    signature: signature.to_vec(),
                    created_at: newest.try_get("created_at")?,
                });
            }
        }
        if revision >= MAX_REVISIONS {
            let message =
                format!("a card has at most {MAX_REVISIONS} revisions; publish a version");
            return Err(RegistryError::refused(ErrorId::BudgetExhausted, message));
        }
        revision += 1;
        let made = sqlx::query(
            "insert into cards (version, revision, card, signature) values ($1, $2, $3, $4)
             returning created_at",
        )
        .bind(version.as_bytes().as_slice())
        .bind(revision)
        .bind(card)
        .bind(signature)
        .fetch_one(tx.connection())
        .await?;
        let (object, detail) = (version.to_string(), format!("revision {revision}"));
        tx.audit(Event {
            actor: &caller.actor(),
            action: "card.set",
            object: &object,
            detail: &detail,
        })
        .await?;
        tx.commit().await?;
        Ok(CardRow {
            version: row,
            revision: revision as u32,
            card: card.to_vec(),
            signature: signature.to_vec(),
            created_at: made.try_get("created_at")?,
        })
    }

    /// The newest revision of the card of the version that a reference means.
    pub async fn card(&self, caller: &Caller, model: &ModelRef) -> Result<CardRow, RegistryError> {
        let version = self.readable_version(caller, model).await?;
        let row =
            sqlx::query("select * from cards where version = $1 order by revision desc limit 1")
                .bind(version.version.as_bytes().as_slice())
                .fetch_optional(self.pool())
                .await?
                .ok_or_else(|| {
                    let message = format!("{model} has no card");
                    RegistryError::refused(ErrorId::CardMissing, message)
                })?;
        Ok(CardRow {
            revision: row.try_get::<i32, _>("revision")? as u32,
            card: row.try_get("card")?,
            signature: row.try_get("signature")?,
            created_at: row.try_get("created_at")?,
            version,
        })
    }
}
