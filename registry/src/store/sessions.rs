//! Whether a client may query a version now, and who serves it. Asked at the start of a session and
//! again while it runs, so that a revocation reaches it.

use chemxor_core::{Action, ErrorId, ModelRef, State, VersionId};
use chemxor_proto::v1;
use uuid::Uuid;

use crate::RegistryError;
use crate::store::{Store, TokenHolder, VersionRow, WorkerRow};

/// A session that may begin.
#[derive(Debug)]
pub struct Session {
    /// Who asks.
    pub holder: TokenHolder,
    /// What is asked.
    pub version: VersionRow,
    /// Where the steps are served.
    pub placements: Vec<v1::Placement>,
    /// By whom.
    pub workers: Vec<WorkerRow>,
}

/// Refuses a version that may not be served.
fn require_servable(row: &VersionRow) -> Result<(), RegistryError> {
    let (id, what) = match row.state {
        State::Approved | State::Deprecated => return Ok(()),
        State::Revoked => (ErrorId::VersionRevoked, "was revoked"),
        State::Submitted => (ErrorId::NotApproved, "waits for approval"),
        State::Draft => (ErrorId::NotApproved, "is a draft"),
    };
    let message = format!("{}@{} {what}", row.name, row.version);
    Err(RegistryError::refused(id, message))
}

impl Store {
    /// May the holder of this token query this model, and who serves it?
    pub async fn authorize_session(
        &self,
        token: &str,
        model: &ModelRef,
    ) -> Result<Session, RegistryError> {
        let holder = self.find_token(token).await?;
        if !holder.roles.allows(Action::Query) {
            let message = format!("the token of {} may not query", holder.subject);
            return Err(RegistryError::refused(ErrorId::RoleMissing, message));
        }
        let version = self.find_version(model).await?;
        require_servable(&version)?;
        Ok(Session {
            holder,
            placements: self.placements(&version.version).await?,
            workers: self.workers_of(&version.version).await?,
            version,
        })
    }

    /// Refuses when the token or the version may not be used any more.
    pub async fn check_session(
        &self,
        version: &VersionId,
        token: Uuid,
    ) -> Result<(), RegistryError> {
        if !self.token_is_live(token).await? {
            let message = "the token has expired or was revoked";
            return Err(RegistryError::refused(ErrorId::TokenRefused, message));
        }
        require_servable(&self.version_by_digest(version).await?)
    }
}
