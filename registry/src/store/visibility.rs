//! Who sees a model: its owner's organisation always, others as the owner says.

use chemxor_core::{Action, ErrorId, ModelName};
use sqlx::Row;

use crate::RegistryError;
use crate::store::audit::Event;
use crate::store::{Caller, Store, Tx};

/// Whether an organisation (`$1`) sees a model `m`. The sub-selects do not depend on the row, so
/// PostgreSQL runs each once.
macro_rules! visible {
    () => {
        "(m.organisation = $1 or m.visibility = 'everyone'
          or (m.visibility = 'listed'
              and m.name in (select model from model_grants where organisation = $1))
          or (m.visibility = 'consortium'
              and m.consortium in (select consortium from consortium_members where organisation = $1)))"
    };
}
pub(crate) use visible;

/// Beside the owner's organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visibility {
    /// Nobody.
    Private,
    /// These organisations.
    Listed(Vec<String>),
    /// The members of a consortium.
    Consortium(String),
    /// Everybody with a token.
    Everyone,
}

pub(crate) fn unknown_model(model: &impl std::fmt::Display) -> RegistryError {
    RegistryError::refused(ErrorId::ModelUnknown, format!("there is no model {model}"))
}

impl Tx {
    /// Locks a model that the caller may manage; what belongs to others does not exist.
    pub(crate) async fn require_model(
        &mut self,
        caller: &Caller,
        action: Action,
        model: &ModelName,
    ) -> Result<(), RegistryError> {
        caller.require(action)?;
        let row = sqlx::query("select organisation from models where name = $1 for update")
            .bind(model.as_str())
            .fetch_optional(self.connection())
            .await?;
        let owner: String = row
            .ok_or_else(|| unknown_model(model))?
            .try_get("organisation")?;
        if !caller.covers(model.as_str()) || caller.require_in(action, &owner).is_err() {
            return Err(unknown_model(model));
        }
        Ok(())
    }
}

impl Store {
    /// Who sees a model now.
    pub async fn visibility(
        &self,
        caller: &Caller,
        model: &ModelName,
    ) -> Result<Visibility, RegistryError> {
        let mut tx = self.begin("visibility").await?;
        tx.require_model(caller, Action::ManageModels, model)
            .await?;
        let row = sqlx::query(
            "select visibility, consortium, array(select organisation from model_grants
                where model = $1 order by organisation) as listed from models where name = $1",
        )
        .bind(model.as_str())
        .fetch_one(tx.connection())
        .await?;
        tx.audit_read(caller, "model.visibility", model.as_str())
            .await?;
        tx.commit().await?;
        match row.try_get("visibility")? {
            "private" => Ok(Visibility::Private),
            "everyone" => Ok(Visibility::Everyone),
            "listed" => Ok(Visibility::Listed(row.try_get("listed")?)),
            "consortium" => Ok(Visibility::Consortium(row.try_get("consortium")?)),
            _ => Err(RegistryError::Corrupt("visibility")),
        }
    }

    /// Says who sees a model, from now on.
    pub async fn set_visibility(
        &self,
        caller: &Caller,
        model: &ModelName,
        visibility: &Visibility,
    ) -> Result<(), RegistryError> {
        let mut tx = self.begin("set visibility").await?;
        tx.require_model(caller, Action::ManageModels, model)
            .await?;
        let (kind, consortium, listed) = match visibility {
            Visibility::Private => ("private", None, &[][..]),
            Visibility::Everyone => ("everyone", None, &[][..]),
            Visibility::Consortium(name) => ("consortium", Some(name), &[][..]),
            Visibility::Listed(names) => ("listed", None, names.as_slice()),
        };
        if listed.len() > 1000 {
            let message = "a model is listed for at most 1,000 organisations; make a consortium";
            return Err(RegistryError::refused(ErrorId::ArgumentInvalid, message));
        }
        for organisation in listed {
            tx.require_organisation(organisation).await?;
        }
        if let Some(name) = consortium {
            sqlx::query("select 1 from consortia where name = $1")
                .bind(name)
                .fetch_optional(tx.connection())
                .await?
                .ok_or_else(|| {
                    let message = format!("there is no consortium {name:?}");
                    RegistryError::refused(ErrorId::OrganisationUnknown, message)
                })?;
        }
        sqlx::query("delete from model_grants where model = $1")
            .bind(model.as_str())
            .execute(tx.connection())
            .await?;
        sqlx::query("insert into model_grants select distinct $1, unnest($2::text[])")
            .bind(model.as_str())
            .bind(listed)
            .execute(tx.connection())
            .await?;
        sqlx::query("update models set visibility = $2, consortium = $3 where name = $1")
            .bind(model.as_str())
            .bind(kind)
            .bind(consortium)
            .execute(tx.connection())
            .await?;
        let detail = match consortium {
            Some(name) => format!("{kind} {name}"),
            None => format!("{kind} {}", listed.join(" ")),
        };
        tx.audit(Event {
            actor: &caller.actor(),
            action: "model.visibility",
            object: model.as_str(),
            detail: detail.trim_end(),
        })
        .await?;
        tx.commit().await
    }
}
