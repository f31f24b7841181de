//! Whether a client may query a version now, and who serves it. Asked at the start of a session and
//! again while it runs, so that a revocation reaches it.

use std::time::Duration;

use chemxor_core::{Action, ErrorId, ModelRef, State, VersionId};
use chemxor_proto::v1;
use uuid::Uuid;

use crate::RegistryError;
use crate::store::tokens::LiveToken;
use crate::store::{Caller, Store, VersionRow, WorkerRow};

/// A session that may begin.
#[derive(Debug)]
pub struct Session {
    /// Who asks.
    pub holder: Caller,
    /// What is asked.
    pub version: VersionRow,
    /// Where the steps are served.
    pub placements: Vec<v1::Placement>,
    /// By whom.
    pub workers: Vec<WorkerRow>,
}

/// Refuses a version that may not be served.
pub(crate) fn require_servable(row: &VersionRow) -> Result<(), RegistryError> {
    let (id, what) = match row.state {
        State::Deprecated if row.is_past_sunset => {
            (ErrorId::VersionSunset, "is past its sunset date")
        }
        State::Approved | State::Deprecated => return Ok(()),
        State::Revoked => (ErrorId::VersionRevoked, "was revoked"),
        State::Submitted => (ErrorId::NotApproved, "waits for approval"),
        State::Draft => (ErrorId::NotApproved, "is a draft"),
    };
    let message = format!("{}@{} {what}", row.name, row.version);
    Err(RegistryError::refused(id, message))
}

/// Whether the caller tries a version of the own organisation before approval: its publisher for the
/// conformance run, or who may approve it.
fn is_own_trial(caller: &Caller, row: &VersionRow) -> bool {
    let publishes = caller.roles.allows(Action::Publish) && row.publisher == caller.subject;
    row.state == State::Submitted
        && row.organisation == caller.organisation
        && (publishes || caller.roles.allows(Action::Approve))
}

impl Store {
    /// May the holder of this token query this model, and who serves it?
    pub async fn authorize_session(
        &self,
        token: &str,
        model: &ModelRef,
    ) -> Result<Session, RegistryError> {
        let holder = self.find_token(token).await?;
        let found = self.find_version(&holder, model).await;
        if let Err(RegistryError::Refused(..)) = &found {
            // who may not query does not learn either what there is
            holder.require(Action::Query)?;
        }
        let version = found?;
        if !is_own_trial(&holder, &version) {
            holder.require(Action::Query)?;
            require_servable(&version)?;
        }
        let (placements, workers) = self.serving(&version).await?;
        Ok(Session {
            holder,
            placements,
            workers,
            version,
        })
    }

    /// Refuses when the token or the version may not be used any more; gives the revision of the
    /// limits that hold.
    pub async fn check_session(
        &self,
        version: &VersionId,
        token: Uuid,
    ) -> Result<i64, RegistryError> {
        let asked = self.rights.ask();
        if let Some(revision) = self.rights.session(asked, (*version, token)) {
            return Ok(revision);
        }
        let (holder, row) = self.live_session(version, token).await?;
        let revision = self
            .quota_revision(&row.name, &holder.caller.organisation)
            .await?;
        let lifetime = row.seconds_to_sunset.map_or(holder.left, |left| {
            let left = Duration::try_from_secs_f64(left).unwrap_or_default();
            holder.left.min(left)
        });
        let key = (*version, token);
        self.rights.put_session(asked, key, lifetime, revision);
        Ok(revision)
    }

    /// The holder of a token that may still query this version, and the version.
    pub(crate) async fn live_session(
        &self,
        version: &VersionId,
        token: Uuid,
    ) -> Result<(LiveToken, VersionRow), RegistryError> {
        let refused = || {
            let message = "the token has expired or was revoked";
            RegistryError::refused(ErrorId::TokenRefused, message)
        };
        let holder = self.live_token(token).await?.ok_or_else(refused)?;
        let row = self.version_by_digest(&holder.caller, version).await?;
        if !is_own_trial(&holder.caller, &row) {
            if !holder.caller.roles.allows(Action::Query) {
                return Err(refused());
            }
            require_servable(&row)?;
        }
        Ok((holder, row))
    }
}
