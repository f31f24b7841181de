//! Bearer tokens: only their SHA-256 is here.

use std::time::Duration;

use chemxor_core::{Action, ErrorId, ModelName, Reach, Role, RoleSet};
use sqlx::Row;
use time::OffsetDateTime;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::store::audit::Event;
use crate::store::{Store, Tx};
use crate::{RegistryError, token};

/// A token just made; its text is nowhere else.
pub struct NewToken {
    /// For revoking it.
    pub id: Uuid,
    /// The token.
    pub secret: Zeroizing<String>,
    /// When it ends.
    pub expires_at: OffsetDateTime,
}

/// Who calls: the holder of a token, with the rights of this moment.
#[derive(Debug, Clone)]
pub struct Caller {
    /// For revoking the token; nil when there is none.
    pub id: Uuid,
    /// The tenant.
    pub organisation: String,
    /// As an administrator wrote it.
    pub subject: String,
    /// What the token and its holder's membership both allow.
    pub roles: RoleSet,
    /// Models that the token is narrowed to.
    pub models: Option<Vec<String>>,
}

impl Caller {
    /// A caller without a token.
    pub fn new(organisation: &str, subject: &str, roles: RoleSet) -> Self {
        Self {
            id: Uuid::nil(),
            organisation: organisation.to_owned(),
            subject: subject.to_owned(),
            roles,
            models: None,
        }
    }

    /// As the audit log names it.
    pub fn actor(&self) -> String {
        format!("{}/{}", self.organisation, self.subject)
    }

    /// Whether the token may be used for this model.
    pub(crate) fn covers(&self, model: &str) -> bool {
        let Some(models) = &self.models else {
            return true;
        };
        models.iter().any(|name| name == model)
    }

    /// Whether the caller sees what waits for approval in the own organisation.
    pub(crate) fn governs(&self) -> bool {
        self.roles.contains(Role::Reviewer) || self.roles.contains(Role::OrgAdmin)
    }

    /// Refuses what the roles do not allow at all, and to a token narrowed to models what is not
    /// about models. Such a token may still make tokens as narrow: see [`Store::order_token`].
    pub(crate) fn require(&self, action: Action) -> Result<Reach, RegistryError> {
        if action != Action::ManageTokens && !action.is_of_models() {
            self.require_wide()?;
        }
        match self.roles.reach(action) {
            Reach::Nothing => Err(RegistryError::refused(
                ErrorId::RoleMissing,
                format!("the token of {} does not allow this call", self.subject),
            )),
            reach => Ok(reach),
        }
    }

    /// Refuses a token that is narrowed to models.
    fn require_wide(&self) -> Result<(), RegistryError> {
        if self.models.is_none() {
            return Ok(());
        }
        let message =
            "a token that is narrowed to models does not allow this call: use another one";
        Err(RegistryError::refused(ErrorId::RoleMissing, message))
    }

    /// Refuses what the roles do not allow in this organisation.
    pub(crate) fn require_in(
        &self,
        action: Action,
        organisation: &str,
    ) -> Result<(), RegistryError> {
        if self.require(action)? == Reach::Platform || self.organisation == organisation {
            return Ok(());
        }
        // whether it exists is nobody's business
        Err(unknown_organisation(organisation))
    }

    /// The organisation that a request means: empty is the caller's own.
    pub(crate) fn organisation_or<'a>(&'a self, given: &'a str) -> &'a str {
        if given.is_empty() {
            &self.organisation
        } else {
            given
        }
    }
}

pub(crate) fn unknown_organisation(name: &str) -> RegistryError {
    let message = format!("there is no organisation {name:?}");
    RegistryError::refused(ErrorId::OrganisationUnknown, message)
}

/// What a token shall be.
#[derive(Debug, Clone)]
pub struct TokenOrder<'a> {
    /// The tenant.
    pub organisation: &'a str,
    /// Who will hold it.
    pub subject: &'a str,
    /// What it allows.
    pub roles: &'a RoleSet,
    /// Models that it is narrowed to; empty means all.
    pub models: &'a [String],
    /// How long.
    pub lifetime: Duration,
}

impl TokenOrder<'_> {
    /// Whether it is narrowed to models that the caller's token covers.
    fn is_within(&self, caller: &Caller) -> bool {
        !self.models.is_empty() && self.models.iter().all(|model| caller.covers(model))
    }
}

/// A token as listed: without its secret.
#[derive(Debug, Clone)]
pub struct TokenRow {
    /// For revoking it.
    pub id: Uuid,
    /// The tenant.
    pub organisation: String,
    /// Its holder.
    pub subject: String,
    /// What it allows.
    pub roles: Vec<String>,
    /// Models that it is narrowed to.
    pub models: Vec<String>,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it ends.
    pub expires_at: OffsetDateTime,
    /// When it was revoked.
    pub revoked_at: Option<OffsetDateTime>,
}

/// A token that may still be used.
pub(crate) struct LiveToken {
    /// Its holder, with the roles of this moment.
    pub(crate) caller: Caller,
    /// Until it expires.
    pub(crate) left: Duration,
}

/// Tokens that may be used, with the rights of this moment; `$by` is what names one.
macro_rules! live_tokens {
    ($by:literal) => {
        concat!(
            "select t.id, t.subject, t.organisation, t.models, t.roles, m.roles as member_roles,
                extract(epoch from t.expires_at - now())::double precision as seconds_left,
                o.suspended_at is not null as suspended
             from tokens t
             join members m on m.organisation = t.organisation and m.subject = t.subject
             join organisations o on o.name = t.organisation
             where ",
            $by,
            " = $1 and t.revoked_at is null and t.expires_at > now() and m.removed_at is null"
        )
    };
}

const LIVE_BY_DIGEST: &str = live_tokens!("t.digest");
const LIVE_BY_ID: &str = live_tokens!("t.id");

fn refused() -> RegistryError {
    RegistryError::refused(
        ErrorId::TokenRefused,
        "the token is unknown, expired or revoked",
    )
}

impl Tx {
    /// Writes a token, for whose holder there is a member afterwards.
    pub(super) async fn insert_token(
        &mut self,
        actor: &str,
        with: Option<Uuid>,
        order: &TokenOrder<'_>,
    ) -> Result<NewToken, RegistryError> {
        let argument = |message: &str| RegistryError::refused(ErrorId::ArgumentInvalid, message);
        let (subject, roles) = (order.subject, order.roles);
        if roles.is_empty() || roles.iter().any(|role| !role.is_token_role()) {
            return Err(argument(
                "a token has one or more of admin, org-admin, publisher, reviewer, querier, auditor",
            ));
        }
        if order.lifetime.is_zero() || order.lifetime > Duration::from_secs(366 * 86_400) {
            return Err(argument("a token lives one second to 366 days"));
        }
        if order.models.len() > 100
            || order
                .models
                .iter()
                .any(|name| name.parse::<ModelName>().is_err())
        {
            return Err(argument("a token is narrowed to at most 100 model names"));
        }
        let secret = token::generate()
            .map_err(|error| RegistryError::refused(ErrorId::Internal, error.to_string()))?;
        let digest = token::digest(&secret).ok_or(RegistryError::Corrupt("token"))?;
        let id = Uuid::now_v7();
        let names: Vec<String> = roles.iter().map(|role| role.to_string()).collect();
        self.add_member(order.organisation, subject, "person", &names)
            .await?;
        // by the database's clock, as it is checked: this machine's may be wrong
        let row = sqlx::query(
            "insert into tokens (id, subject, roles, digest, expires_at, organisation, models,
                created_by, created_with)
             values ($1, $2, $3, $4, now() + make_interval(secs => $5), $6, $7, $8, $9)
             returning expires_at",
        )
        .bind(id)
        .bind(subject)
        .bind(&names)
        .bind(digest.as_slice())
        .bind(order.lifetime.as_secs_f64())
        .bind(order.organisation)
        .bind((!order.models.is_empty()).then_some(order.models))
        .bind(actor)
        .bind(with)
        .fetch_one(self.connection())
        .await?;
        let expires_at = row.try_get("expires_at")?;
        let detail = format!("for {}/{subject}: {}", order.organisation, names.join(" "));
        let object = id.to_string();
        self.audit(Event {
            actor,
            action: "token.create",
            object: &object,
            detail: &detail,
        })
        .await?;
        Ok(NewToken {
            id,
            secret,
            expires_at,
        })
    }
}

impl Store {
    /// Makes a token in the organisation `default`, for operators who hold the store itself. `actor`
    /// stands in the audit log.
    pub async fn create_token(
        &self,
        actor: &str,
        subject: &str,
        roles: &RoleSet,
        lifetime: Duration,
    ) -> Result<NewToken, RegistryError> {
        let order = TokenOrder {
            organisation: "default",
            subject,
            roles,
            models: &[],
            lifetime,
        };
        let mut tx = self.begin("create token").await?;
        let token = tx.insert_token(actor, None, &order).await?;
        tx.commit().await?;
        Ok(token)
    }

    /// Makes a token on behalf of an administrator. It gives an absent person membership; one who is
    /// there keeps the roles of the membership, which the token may not exceed.
    pub async fn order_token(
        &self,
        caller: &Caller,
        order: &TokenOrder<'_>,
    ) -> Result<NewToken, RegistryError> {
        caller.require_in(Action::ManageTokens, order.organisation)?;
        require_grantable(caller, order.roles)?;
        if caller.models.is_some() && !order.is_within(caller) {
            let message = "a token that is narrowed to models makes only tokens for some of them";
            return Err(RegistryError::refused(ErrorId::RoleMissing, message));
        }
        let mut tx = self.begin("create token").await?;
        let (organisation, subject) = (order.organisation, order.subject);
        let held = tx.require_touchable(caller, organisation, subject).await?;
        let beyond = order.roles.iter().find(|role| {
            let held = held.as_ref();
            held.is_some_and(|held| !held.contains(*role))
        });
        if let Some(role) = beyond {
            let message = format!(
                "{subject} does not hold the role {role}; give it with `chemxor member add` first"
            );
            return Err(RegistryError::refused(ErrorId::ArgumentInvalid, message));
        }
        let with = (!caller.id.is_nil()).then_some(caller.id);
        let token = tx.insert_token(&caller.actor(), with, order).await?;
        tx.commit().await?;
        Ok(token)
    }

    /// Tokens of an organisation, newest first.
    pub async fn list_tokens(
        &self,
        caller: &Caller,
        organisation: &str,
    ) -> Result<Vec<TokenRow>, RegistryError> {
        caller.require_in(Action::ManageTokens, organisation)?;
        caller.require_wide()?;
        let mut tx = self.begin("list tokens").await?;
        tx.require_organisation(organisation).await?;
        let rows = sqlx::query(
            "select * from tokens where organisation = $1 order by created_at desc, id limit 10000",
        )
        .bind(organisation)
        .fetch_all(tx.connection())
        .await?;
        tx.audit_read(caller, "token.list", organisation).await?;
        tx.commit().await?;
        rows.iter()
            .map(|row| {
                Ok(TokenRow {
                    id: row.try_get("id")?,
                    organisation: row.try_get("organisation")?,
                    subject: row.try_get("subject")?,
                    roles: row.try_get("roles")?,
                    models: row
                        .try_get::<Option<Vec<String>>, _>("models")?
                        .unwrap_or_default(),
                    created_at: row.try_get("created_at")?,
                    expires_at: row.try_get("expires_at")?,
                    revoked_at: row.try_get("revoked_at")?,
                })
            })
            .collect()
    }

    /// The holder of a token that is neither expired nor revoked.
    pub async fn find_token(&self, text: &str) -> Result<Caller, RegistryError> {
        // lookup is by a hash of 256 random bits: timing tells nothing about other tokens
        let digest = token::digest(text).ok_or_else(refused)?;
        let asked = self.rights.ask();
        if let Some(holder) = self.rights.holder(asked, &digest) {
            return Ok(holder);
        }
        let row = sqlx::query(LIVE_BY_DIGEST)
            .bind(digest.as_slice())
            .fetch_optional(self.pool())
            .await?
            .ok_or_else(refused)?;
        let holder = read_live(&row)?;
        self.rights.put_holder(asked, digest, &holder);
        Ok(holder.caller)
    }

    /// A token that may still be used.
    pub(crate) async fn live_token(&self, id: Uuid) -> Result<Option<LiveToken>, RegistryError> {
        let row = sqlx::query(LIVE_BY_ID)
            .bind(id)
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(read_live).transpose()
    }

    /// Revokes a token; doing it again changes nothing.
    pub async fn revoke_token(&self, caller: &Caller, id: Uuid) -> Result<(), RegistryError> {
        let reach = caller.require(Action::ManageTokens)?;
        caller.require_wide()?;
        let mut tx = self.begin("revoke token").await?;
        let holder = sqlx::query(
            "select organisation, subject from tokens where id = $1 and ($2 or organisation = $3)",
        )
        .bind(id)
        .bind(reach == Reach::Platform)
        .bind(&caller.organisation)
        .fetch_optional(tx.connection())
        .await?;
        let holder = holder.ok_or_else(|| {
            RegistryError::refused(ErrorId::ArgumentInvalid, "there is no such token")
        })?;
        let (organisation, subject): (String, String) =
            (holder.try_get("organisation")?, holder.try_get("subject")?);
        tx.require_touchable(caller, &organisation, &subject)
            .await?;
        sqlx::query("update tokens set revoked_at = coalesce(revoked_at, now()) where id = $1")
            .bind(id)
            .execute(tx.connection())
            .await?;
        let object = id.to_string();
        tx.audit(Event {
            actor: &caller.actor(),
            action: "token.revoke",
            object: &object,
            detail: "",
        })
        .await?;
        tx.commit().await
    }
}

/// A row of [`live_tokens`]; refuses the token of a suspended organisation.
fn read_live(row: &sqlx::postgres::PgRow) -> Result<LiveToken, RegistryError> {
    require_active(row)?;
    let left: f64 = row.try_get("seconds_left")?;
    Ok(LiveToken {
        caller: read_caller(row)?,
        left: Duration::try_from_secs_f64(left).unwrap_or_default(),
    })
}

/// The holder of a token, with what token and membership both allow.
fn read_caller(row: &sqlx::postgres::PgRow) -> Result<Caller, RegistryError> {
    let mut names: Vec<String> = row.try_get("roles")?;
    let held: Vec<String> = row.try_get("member_roles")?;
    names.retain(|name| held.contains(name));
    let roles = names
        .iter()
        .map(|name| {
            name.parse::<Role>()
                .map_err(|_| RegistryError::Corrupt("role"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Caller {
        id: row.try_get("id")?,
        organisation: row.try_get("organisation")?,
        subject: row.try_get("subject")?,
        roles: RoleSet::new(roles),
        models: row.try_get("models")?,
    })
}

/// Refuses the token of a suspended organisation.
fn require_active(row: &sqlx::postgres::PgRow) -> Result<(), RegistryError> {
    if !row.try_get::<bool, _>("suspended")? {
        return Ok(());
    }
    let organisation: String = row.try_get("organisation")?;
    let message = format!("the organisation {organisation} is suspended");
    Err(RegistryError::refused(
        ErrorId::OrganisationSuspended,
        message,
    ))
}

/// Only who reaches every organisation may grant a role that does.
pub(crate) fn require_grantable(caller: &Caller, roles: &RoleSet) -> Result<(), RegistryError> {
    let far = roles.iter().find(|role| role.is_platform_role());
    match far {
        Some(role) if caller.roles.reach(Action::ManageOrganisations) != Reach::Platform => {
            let message = format!("only a platform administrator grants the role {role}");
            Err(RegistryError::refused(ErrorId::RoleMissing, message))
        }
        _ => Ok(()),
    }
}
