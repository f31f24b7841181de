//! Admin: approval, revocation, tokens.

use std::time::Duration;

use chemxor_core::{Action, Event, Role, RoleSet, Selector};
use chemxor_proto::v1;
use chemxor_proto::v1::admin_server::Admin;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::auth;
use crate::service::{Services, argument, model_ref};

/// Longest note or reason, in bytes.
const MAX_NOTE: usize = 2000;

fn note(text: &str) -> Result<(), Status> {
    if text.len() > MAX_NOTE || text.chars().any(char::is_control) {
        return Err(argument(
            "a note has at most 2000 bytes and no control characters",
        ));
    }
    Ok(())
}

#[tonic::async_trait]
impl Admin for Services {
    async fn approve_version(
        &self,
        request: Request<v1::ApproveVersionRequest>,
    ) -> Result<Response<v1::ModelVersion>, Status> {
        let caller = auth::person(&self.store, &request, Action::Approve).await?;
        let request = request.into_inner();
        note(&request.note)?;
        let found = self
            .store
            .find_submitted(&model_ref(&request.model)?)
            .await?;
        let row = self
            .store
            .transition(&caller.actor, &found.version, Event::Approve, &request.note)
            .await?;
        Ok(Response::new(row.to_proto()))
    }

    async fn revoke_version(
        &self,
        request: Request<v1::RevokeVersionRequest>,
    ) -> Result<Response<v1::ModelVersion>, Status> {
        let caller = auth::person(&self.store, &request, Action::Revoke).await?;
        let request = request.into_inner();
        note(&request.reason)?;
        let model = model_ref(&request.model)?;
        if !matches!(model.selector, Selector::Version(_)) {
            return Err(argument(
                "name the version to revoke by its digest, NAME@sha256:…",
            ));
        }
        let found = self.store.find_version(&model).await?;
        let row = self
            .store
            .transition(
                &caller.actor,
                &found.version,
                Event::Revoke,
                &request.reason,
            )
            .await?;
        Ok(Response::new(row.to_proto()))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let caller = auth::person(&self.store, &request, Action::ManageTokens).await?;
        let request = request.into_inner();
        let roles = request
            .roles
            .iter()
            .map(|role| role.parse::<Role>().map_err(argument))
            .collect::<Result<Vec<_>, _>>()?;
        let days = if request.lifetime_s == 0 {
            90 * 86_400
        } else {
            request.lifetime_s
        };
        let token = self
            .store
            .create_token(
                &caller.actor,
                &request.subject,
                &RoleSet::new(roles),
                Duration::from_secs(days),
            )
            .await?;
        Ok(Response::new(v1::CreateTokenResponse {
            token_id: token.id.to_string(),
            secret: token.secret.to_string(),
            expires_unix_ms: (token.expires_at.unix_timestamp_nanos() / 1_000_000) as i64,
        }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let caller = auth::person(&self.store, &request, Action::ManageTokens).await?;
        let id: Uuid = request
            .into_inner()
            .token_id
            .parse()
            .map_err(|_| argument("a token id is a UUID, as shown when it was made"))?;
        self.store.revoke_token(&caller.actor, id).await?;
        Ok(Response::new(v1::RevokeTokenResponse {}))
    }
}
