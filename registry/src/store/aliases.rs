//! Aliases: names for versions that move, with their history.

use chemxor_core::{Action, AliasName, ErrorId, ModelName, VersionId};
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::RegistryError;
use crate::store::audit::Event;
use crate::store::visibility::unknown_model;
use crate::store::{Caller, Store, Tx, digest};

/// One move of an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasChange {
    /// Where it pointed before; none at its first move.
    pub from: Option<VersionId>,
    /// Where it points since.
    pub to: VersionId,
    /// Who moved it.
    pub actor: String,
    /// When.
    pub at: OffsetDateTime,
}

fn read(row: &PgRow) -> Result<AliasChange, RegistryError> {
    let from: Option<Vec<u8>> = row.try_get("from_version")?;
    let from = from.map(|bytes| digest(&bytes)).transpose()?;
    Ok(AliasChange {
        from: from.map(VersionId::from_bytes),
        to: VersionId::from_bytes(digest(&row.try_get::<Vec<u8>, _>("to_version")?)?),
        actor: row.try_get("actor")?,
        at: row.try_get("at")?,
    })
}

fn wrong_state(message: impl Into<String>) -> RegistryError {
    RegistryError::refused(ErrorId::WrongState, message)
}

impl Tx {
    /// The last move of an alias. Former releases kept moves to the same place: they are none.
    async fn last_change(
        &mut self,
        model: &ModelName,
        alias: &AliasName,
    ) -> Result<Option<AliasChange>, RegistryError> {
        let row = sqlx::query(
            "select * from alias_history where model = $1 and alias = $2
             and from_version is distinct from to_version order by id desc limit 1",
        )
        .bind(model.as_str())
        .bind(alias.as_str())
        .fetch_optional(self.connection())
        .await?;
        row.as_ref().map(read).transpose()
    }

    async fn move_alias(
        &mut self,
        caller: &Caller,
        model: &ModelName,
        alias: &AliasName,
        to: &VersionId,
    ) -> Result<AliasChange, RegistryError> {
        let servable = sqlx::query(
            "select 1 from versions where name = $1 and digest = $2
             and state in ('approved', 'deprecated')",
        )
        .bind(model.as_str())
        .bind(to.as_bytes().as_slice())
        .fetch_optional(self.connection())
        .await?;
        if servable.is_none() {
            let message = format!("{model}@{to} is not approved; an alias names what is served");
            return Err(wrong_state(message));
        }
        // said again, nothing moves: a rollback goes to where the alias pointed before
        let last = self.last_change(model, alias).await?;
        if let Some(last) = last.filter(|last| last.to == *to) {
            return Ok(last);
        }
        let actor = caller.actor();
        // the model's row is locked: nobody moves this alias at the same time
        let row = sqlx::query(
            "insert into alias_history (model, alias, from_version, to_version, actor)
             values ($1, $2, (select version from aliases where model = $1 and alias = $2), $3, $4)
             returning *",
        )
        .bind(model.as_str())
        .bind(alias.as_str())
        .bind(to.as_bytes().as_slice())
        .bind(&actor)
        .fetch_one(self.connection())
        .await?;
        sqlx::query(
            "insert into aliases values ($1, $2, $3)
             on conflict (model, alias) do update set version = excluded.version",
        )
        .bind(model.as_str())
        .bind(alias.as_str())
        .bind(to.as_bytes().as_slice())
        .execute(self.connection())
        .await?;
        let change = read(&row)?;
        let from = change.from.map_or("nothing".to_owned(), |v| v.to_string());
        let object = format!("{model}@{alias}");
        let detail = format!("{from} -> {to}");
        self.audit(Event {
            actor: &actor,
            action: "alias.set",
            object: &object,
            detail: &detail,
        })
        .await?;
        Ok(change)
    }
}

impl Store {
    /// Points an alias to a version that is served. Where it points there already nothing changes:
    /// the answer is its last move.
    pub async fn set_alias(
        &self,
        caller: &Caller,
        model: &ModelName,
        alias: &AliasName,
        version: &VersionId,
    ) -> Result<AliasChange, RegistryError> {
        let mut tx = self.begin("set alias").await?;
        tx.require_model(caller, Action::ManageModels, model)
            .await?;
        let change = tx.move_alias(caller, model, alias, version).await?;
        tx.commit().await?;
        Ok(change)
    }

    /// Points an alias to where it pointed before its last move.
    pub async fn rollback_alias(
        &self,
        caller: &Caller,
        model: &ModelName,
        alias: &AliasName,
    ) -> Result<AliasChange, RegistryError> {
        let mut tx = self.begin("roll back alias").await?;
        tx.require_model(caller, Action::ManageModels, model)
            .await?;
        let last = tx.last_change(model, alias).await?;
        let from = last
            .and_then(|change| change.from)
            .ok_or_else(|| wrong_state(format!("{model}@{alias} never pointed anywhere else")))?;
        let change = tx.move_alias(caller, model, alias, &from).await?;
        tx.commit().await?;
        Ok(change)
    }

    /// Every alias of a model with its last move, by name.
    pub async fn list_aliases(
        &self,
        caller: &Caller,
        model: &ModelName,
    ) -> Result<Vec<(String, AliasChange)>, RegistryError> {
        if !self.sees_model(caller, model).await? {
            return Err(unknown_model(model));
        }
        let rows = sqlx::query(
            "select distinct on (alias) * from alias_history where model = $1
             order by alias, id desc limit 1000",
        )
        .bind(model.as_str())
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| Ok((row.try_get("alias")?, read(row)?)))
            .collect()
    }

    /// Every move of an alias, newest first.
    pub async fn alias_history(
        &self,
        caller: &Caller,
        model: &ModelName,
        alias: &AliasName,
    ) -> Result<Vec<AliasChange>, RegistryError> {
        if !self.sees_model(caller, model).await? {
            return Err(unknown_model(model));
        }
        let rows = sqlx::query(
            "select * from alias_history where model = $1 and alias = $2
             order by id desc limit 1000",
        )
        .bind(model.as_str())
        .bind(alias.as_str())
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read).collect()
    }
}
