//! The token of a platform's first administrator. Every other token is made by somebody who has one, so
//! this one is made by whoever holds the database: the registry's configuration.

use std::time::Duration;

use chemxor_core::{ErrorId, Role, RoleSet};
use sqlx::Row;

use crate::RegistryError;
use crate::store::tokens::{NewToken, TokenOrder};
use crate::store::{Store, Tx};

/// Who stands in the audit log.
const ACTOR: &str = "chemxor registry --first-token";
/// The organisation that is there from the beginning.
const ORGANISATION: &str = "default";

/// A token that is not yet made: keep it first, then commit. One that was made and lost would stand in
/// the way of the next one.
pub struct PendingToken {
    /// The token.
    pub token: NewToken,
    tx: Tx,
}

impl PendingToken {
    /// Makes it valid.
    pub async fn commit(self) -> Result<NewToken, RegistryError> {
        self.tx.commit().await?;
        Ok(self.token)
    }
}

impl Store {
    /// A token with the role `admin` in the organisation `default`; refused while any administrator of
    /// the platform has a living token.
    pub async fn first_token(
        &self,
        subject: &str,
        lifetime: Duration,
    ) -> Result<PendingToken, RegistryError> {
        let mut tx = self.begin("create first token").await?;
        // one at a time, or two would both be the first
        sqlx::query("select pg_advisory_xact_lock(7126321)")
            .execute(tx.connection())
            .await?;
        let living = sqlx::query(
            "select t.subject, t.organisation, to_char(t.expires_at, 'YYYY-MM-DD') as ends
             from tokens t
             join members m on m.organisation = t.organisation and m.subject = t.subject
             join organisations o on o.name = t.organisation
             where t.revoked_at is null and t.expires_at > now() and m.removed_at is null
                and o.suspended_at is null and t.models is null
                and 'admin' = any(t.roles) and 'admin' = any(m.roles)
             order by t.expires_at desc limit 1",
        )
        .fetch_optional(tx.connection())
        .await?;
        if let Some(living) = living {
            let (subject, organisation): (String, String) =
                (living.try_get("subject")?, living.try_get("organisation")?);
            let ends: String = living.try_get("ends")?;
            let message = format!(
                "{organisation}/{subject} is an administrator with a token until {ends}: let them make \
                 yours with `chemxor token create --role admin`"
            );
            return Err(RegistryError::refused(ErrorId::RoleMissing, message));
        }
        let order = TokenOrder {
            organisation: ORGANISATION,
            subject,
            roles: &RoleSet::new([Role::Admin]),
            models: &[],
            lifetime,
        };
        let token = tx.insert_token(ACTOR, None, &order).await?;
        Ok(PendingToken { token, tx })
    }
}
