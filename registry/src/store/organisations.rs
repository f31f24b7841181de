//! Organisations, consortia and members.

use chemxor_core::{Action, ErrorId, OrganisationName, Role, RoleSet, is_visible};
use sqlx::Row;
use time::OffsetDateTime;

use crate::store::audit::Event;
use crate::store::tokens::{require_grantable, unknown_organisation};
use crate::store::{Caller, Store, Tx};
use crate::{RegistryError, token};

/// An organisation as stored.
#[derive(Debug, Clone)]
pub struct OrganisationRow {
    /// Its name.
    pub name: String,
    /// Whether its tokens are refused.
    pub suspended: bool,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// A person or a service account.
#[derive(Debug, Clone)]
pub struct MemberRow {
    /// The tenant.
    pub organisation: String,
    /// Unique within it.
    pub subject: String,
    /// `person` or `service`.
    pub kind: String,
    /// At most these does any of its tokens allow.
    pub roles: Vec<String>,
    /// Whether its tokens are refused.
    pub removed: bool,
}

fn argument(message: impl Into<String>) -> RegistryError {
    RegistryError::refused(ErrorId::ArgumentInvalid, message)
}

impl Tx {
    pub(crate) async fn require_organisation(&mut self, name: &str) -> Result<(), RegistryError> {
        sqlx::query("select 1 from organisations where name = $1")
            .bind(name)
            .fetch_optional(self.connection())
            .await?
            .map(drop)
            .ok_or_else(|| unknown_organisation(name))
    }

    /// Locks a member and refuses who may not touch the account: an organisation's administrator has
    /// no say over one who administers the platform. Gives the roles that the member holds.
    pub(crate) async fn require_touchable(
        &mut self,
        caller: &Caller,
        organisation: &str,
        subject: &str,
    ) -> Result<Option<RoleSet>, RegistryError> {
        let row = sqlx::query(
            "select roles from members where organisation = $1 and subject = $2 for update",
        )
        .bind(organisation)
        .bind(subject)
        .fetch_optional(self.connection())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let held: Vec<String> = row.try_get("roles")?;
        let held = held.iter().filter_map(|role| role.parse::<Role>().ok());
        let held = RoleSet::new(held);
        require_grantable(caller, &held)?;
        Ok(Some(held))
    }

    /// Makes a member, or gives one these roles beside those it has. A removed one stays removed.
    pub(crate) async fn add_member(
        &mut self,
        organisation: &str,
        subject: &str,
        kind: &str,
        roles: &[String],
    ) -> Result<(), RegistryError> {
        if !(1..=200).contains(&subject.len()) || !subject.chars().all(is_visible) {
            return Err(argument("a subject has 1 to 200 visible characters"));
        }
        if token::stands_in(subject) {
            return Err(argument("the subject holds a token: name its holder"));
        }
        self.require_organisation(organisation).await?;
        let row = sqlx::query(
            "insert into members (organisation, subject, kind, roles) values ($1, $2, $3, $4)
             on conflict (organisation, subject) do update
             set roles = (select array_agg(distinct r) from unnest(members.roles || excluded.roles) r)
             returning removed_at is not null as removed",
        )
        .bind(organisation)
        .bind(subject)
        .bind(kind)
        .bind(roles)
        .fetch_one(self.connection())
        .await?;
        if row.try_get("removed")? {
            let message = format!("{subject} was removed; add the member again first");
            return Err(argument(message));
        }
        Ok(())
    }
}

impl Store {
    /// Makes an organisation, suspends it or resumes it.
    pub async fn set_organisation(
        &self,
        caller: &Caller,
        name: &str,
        suspended: bool,
    ) -> Result<OrganisationRow, RegistryError> {
        caller.require(Action::ManageOrganisations)?;
        let name: OrganisationName = name
            .parse()
            .map_err(|error: chemxor_core::IdError| argument(error.to_string()))?;
        if suspended && name.as_str() == caller.organisation {
            return Err(argument("nobody suspends the own organisation"));
        }
        let mut tx = self.begin("set organisation").await?;
        let row = sqlx::query(
            "insert into organisations (name, suspended_at) values ($1, case when $2 then now() end)
             on conflict (name) do update set suspended_at = case when $2
                then coalesce(organisations.suspended_at, now()) end
             returning created_at",
        )
        .bind(name.as_str())
        .bind(suspended)
        .fetch_one(tx.connection())
        .await?;
        tx.audit(Event {
            actor: &caller.actor(),
            action: "organisation.set",
            object: name.as_str(),
            detail: if suspended { "suspended" } else { "active" },
        })
        .await?;
        tx.commit().await?;
        Ok(OrganisationRow {
            name: name.into(),
            suspended,
            created_at: row.try_get("created_at")?,
        })
    }

    /// Every organisation.
    pub async fn list_organisations(
        &self,
        caller: &Caller,
    ) -> Result<Vec<OrganisationRow>, RegistryError> {
        caller.require(Action::ManageOrganisations)?;
        let mut tx = self.begin("list organisations").await?;
        let rows = sqlx::query(
            "select name, suspended_at is not null as suspended, created_at
             from organisations order by name limit 10000",
        )
        .fetch_all(tx.connection())
        .await?;
        tx.audit_read(caller, "organisation.list", "organisations")
            .await?;
        tx.commit().await?;
        rows.iter()
            .map(|row| {
                Ok(OrganisationRow {
                    name: row.try_get("name")?,
                    suspended: row.try_get("suspended")?,
                    created_at: row.try_get("created_at")?,
                })
            })
            .collect()
    }

    /// Makes a consortium and replaces its members.
    pub async fn set_consortium(
        &self,
        caller: &Caller,
        name: &str,
        organisations: &[String],
    ) -> Result<(), RegistryError> {
        caller.require(Action::ManageOrganisations)?;
        let name: OrganisationName = name
            .parse()
            .map_err(|error: chemxor_core::IdError| argument(error.to_string()))?;
        if organisations.len() > 1000 {
            return Err(argument("a consortium has at most 1,000 members"));
        }
        let mut tx = self.begin("set consortium").await?;
        for organisation in organisations {
            tx.require_organisation(organisation).await?;
        }
        for statement in [
            "insert into consortia (name) values ($1) on conflict do nothing",
            "delete from consortium_members where consortium = $1",
        ] {
            sqlx::query(statement)
                .bind(name.as_str())
                .execute(tx.connection())
                .await?;
        }
        sqlx::query("insert into consortium_members select distinct $1, unnest($2::text[])")
            .bind(name.as_str())
            .bind(organisations)
            .execute(tx.connection())
            .await?;
        let detail = format!("{} members", organisations.len());
        tx.audit(Event {
            actor: &caller.actor(),
            action: "consortium.set",
            object: name.as_str(),
            detail: &detail,
        })
        .await?;
        tx.commit().await
    }

    /// Every consortium with its members.
    pub async fn list_consortia(
        &self,
        caller: &Caller,
    ) -> Result<Vec<(String, Vec<String>)>, RegistryError> {
        caller.require(Action::ManageOrganisations)?;
        let mut tx = self.begin("list consortia").await?;
        let rows = sqlx::query(
            "select c.name, coalesce(array_agg(m.organisation order by m.organisation)
                filter (where m.organisation is not null), '{}') as members
             from consortia c left join consortium_members m on m.consortium = c.name
             group by c.name order by c.name limit 10000",
        )
        .fetch_all(tx.connection())
        .await?;
        tx.audit_read(caller, "consortium.list", "consortia")
            .await?;
        tx.commit().await?;
        rows.iter()
            .map(|row| Ok((row.try_get("name")?, row.try_get("members")?)))
            .collect()
    }

    /// Makes a member or replaces its roles.
    pub async fn set_member(
        &self,
        caller: &Caller,
        organisation: &str,
        subject: &str,
        kind: &str,
        roles: &RoleSet,
    ) -> Result<(), RegistryError> {
        caller.require_in(Action::ManageMembers, organisation)?;
        require_grantable(caller, roles)?;
        if roles.iter().any(|role| !role.is_token_role()) {
            return Err(argument(
                "services are known by certificates, not as members",
            ));
        }
        if !matches!(kind, "person" | "service") {
            return Err(argument("a member is a person or a service"));
        }
        let names: Vec<String> = roles.iter().map(|role| role.to_string()).collect();
        let mut tx = self.begin("set member").await?;
        let held = tx.require_touchable(caller, organisation, subject).await?;
        if held.is_some() {
            sqlx::query(
                "update members set removed_at = null, kind = $3
                 where organisation = $1 and subject = $2",
            )
            .bind(organisation)
            .bind(subject)
            .bind(kind)
            .execute(tx.connection())
            .await?;
        }
        tx.add_member(organisation, subject, kind, &names).await?;
        sqlx::query("update members set roles = $3 where organisation = $1 and subject = $2")
            .bind(organisation)
            .bind(subject)
            .bind(&names)
            .execute(tx.connection())
            .await?;
        let object = format!("{organisation}/{subject}");
        tx.audit(Event {
            actor: &caller.actor(),
            action: "member.set",
            object: &object,
            detail: &names.join(" "),
        })
        .await?;
        tx.commit().await
    }

    /// Ends a member; doing it again changes nothing.
    pub async fn remove_member(
        &self,
        caller: &Caller,
        organisation: &str,
        subject: &str,
    ) -> Result<(), RegistryError> {
        caller.require_in(Action::ManageMembers, organisation)?;
        let mut tx = self.begin("remove member").await?;
        tx.require_touchable(caller, organisation, subject)
            .await?
            .ok_or_else(|| argument("there is no such member"))?;
        sqlx::query(
            "update members set removed_at = coalesce(removed_at, now())
             where organisation = $1 and subject = $2",
        )
        .bind(organisation)
        .bind(subject)
        .execute(tx.connection())
        .await?;
        let object = format!("{organisation}/{subject}");
        tx.audit(Event {
            actor: &caller.actor(),
            action: "member.remove",
            object: &object,
            detail: "",
        })
        .await?;
        tx.commit().await
    }

    /// Members of an organisation, removed ones included.
    pub async fn list_members(
        &self,
        caller: &Caller,
        organisation: &str,
    ) -> Result<Vec<MemberRow>, RegistryError> {
        caller.require_in(Action::ManageMembers, organisation)?;
        let mut tx = self.begin("list members").await?;
        tx.require_organisation(organisation).await?;
        let rows = sqlx::query(
            "select *, removed_at is not null as removed from members
             where organisation = $1 order by subject limit 10000",
        )
        .bind(organisation)
        .fetch_all(tx.connection())
        .await?;
        tx.audit_read(caller, "member.list", organisation).await?;
        tx.commit().await?;
        rows.iter()
            .map(|row| {
                Ok(MemberRow {
                    organisation: row.try_get("organisation")?,
                    subject: row.try_get("subject")?,
                    kind: row.try_get("kind")?,
                    roles: row.try_get("roles")?,
                    removed: row.try_get("removed")?,
                })
            })
            .collect()
    }
}
