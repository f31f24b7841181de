//! Bearer tokens: only their SHA-256 is here.

use std::time::Duration;

use chemxor_core::{ErrorId, Role, RoleSet};
use sqlx::Row;
use time::OffsetDateTime;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::store::Store;
use crate::store::audit::Event;
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

/// Who holds a token.
#[derive(Debug, Clone)]
pub struct TokenHolder {
    /// For revoking it.
    pub id: Uuid,
    /// As an administrator wrote it.
    pub subject: String,
    /// What it allows.
    pub roles: RoleSet,
}

fn refused() -> RegistryError {
    RegistryError::refused(
        ErrorId::TokenRefused,
        "the token is unknown, expired or revoked",
    )
}

impl Store {
    /// Makes a token. `actor` stands in the audit log.
    pub async fn create_token(
        &self,
        actor: &str,
        subject: &str,
        roles: &RoleSet,
        lifetime: Duration,
    ) -> Result<NewToken, RegistryError> {
        let argument = |message: &str| RegistryError::refused(ErrorId::ArgumentInvalid, message);
        if subject.is_empty() || subject.len() > 200 || subject.chars().any(char::is_control) {
            return Err(argument("a subject has 1 to 200 printable characters"));
        }
        if roles.is_empty() || roles.iter().any(|role| !role.is_token_role()) {
            return Err(argument(
                "a token has one or more of admin, publisher, reviewer, querier",
            ));
        }
        if lifetime.is_zero() || lifetime > Duration::from_secs(366 * 86_400) {
            return Err(argument("a token lives one second to 366 days"));
        }
        let secret = token::generate()
            .map_err(|error| RegistryError::refused(ErrorId::Internal, error.to_string()))?;
        let digest = token::digest(&secret).ok_or(RegistryError::Corrupt("token"))?;
        let id = Uuid::now_v7();
        let expires_at = OffsetDateTime::now_utc() + lifetime;
        let names: Vec<String> = roles.iter().map(|role| role.to_string()).collect();
        let mut tx = self.begin("create token").await?;
        sqlx::query("insert into tokens (id, subject, roles, digest, expires_at) values ($1, $2, $3, $4, $5)")
            .bind(id)
            .bind(subject)
            .bind(&names)
            .bind(digest.as_slice())
            .bind(expires_at)
            .execute(tx.connection())
            .await?;
        let detail = format!("for {subject}: {}", names.join(" "));
        let object = id.to_string();
        tx.audit(Event {
            actor,
            action: "token.create",
            object: &object,
            detail: &detail,
        })
        .await?;
        tx.commit().await?;
        Ok(NewToken {
            id,
            secret,
            expires_at,
        })
    }

    /// The holder of a token that is neither expired nor revoked.
    pub async fn find_token(&self, text: &str) -> Result<TokenHolder, RegistryError> {
        // lookup is by a hash of 256 random bits: timing tells nothing about other tokens
        let digest = token::digest(text).ok_or_else(refused)?;
        let mut tx = self.begin("find token").await?;
        let row = sqlx::query(
            "select id, subject, roles from tokens
             where digest = $1 and revoked_at is null and expires_at > now()",
        )
        .bind(digest.as_slice())
        .fetch_optional(tx.connection())
        .await?
        .ok_or_else(refused)?;
        let names: Vec<String> = row.try_get("roles")?;
        let roles = names
            .iter()
            .map(|name| {
                name.parse::<Role>()
                    .map_err(|_| RegistryError::Corrupt("role"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(TokenHolder {
            id: row.try_get("id")?,
            subject: row.try_get("subject")?,
            roles: RoleSet::new(roles),
        })
    }

    /// Whether a token may still be used.
    pub async fn token_is_live(&self, id: Uuid) -> Result<bool, RegistryError> {
        let mut tx = self.begin("token is live").await?;
        let row = sqlx::query(
            "select 1 from tokens where id = $1 and revoked_at is null and expires_at > now()",
        )
        .bind(id)
        .fetch_optional(tx.connection())
        .await?;
        Ok(row.is_some())
    }

    /// Revokes a token; doing it again changes nothing.
    pub async fn revoke_token(&self, actor: &str, id: Uuid) -> Result<(), RegistryError> {
        let mut tx = self.begin("revoke token").await?;
        let done =
            sqlx::query("update tokens set revoked_at = coalesce(revoked_at, now()) where id = $1")
                .bind(id)
                .execute(tx.connection())
                .await?;
        if done.rows_affected() == 0 {
            return Err(RegistryError::refused(
                ErrorId::ArgumentInvalid,
                "there is no such token",
            ));
        }
        let object = id.to_string();
        tx.audit(Event {
            actor,
            action: "token.revoke",
            object: &object,
            detail: "",
        })
        .await?;
        tx.commit().await
    }
}
