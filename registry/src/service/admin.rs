//! Admin: approval, revocation, tokens.

use std::time::Duration;

use chemxor_core::{Action, Event, Selector, is_visible};
use chemxor_proto::v1;
use chemxor_proto::v1::admin_server::Admin;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::auth;
use crate::service::governance::roles;
use crate::service::{Services, argument, model_ref};
use crate::store::TokenOrder;
use crate::token;

/// Longest note or reason, in bytes.
const MAX_NOTE: usize = 2000;

/// Refuses a note that is too long, that reads otherwise than it is, or that holds a token: notes stand
/// in the audit log for ever.
pub(super) fn note(text: &str) -> Result<(), Status> {
    if text.len() > MAX_NOTE || !text.chars().all(is_visible) {
        return Err(argument(
            "a note has at most 2000 bytes and no control or invisible characters",
        ));
    }
    if token::stands_in(text) {
        return Err(argument(
            "the note holds a token: leave it out, and revoke the token",
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
            .find_submitted(&caller, &model_ref(&request.model)?)
            .await?;
        let row = self
            .store
            .transition(&caller, &found.version, Event::Approve, &request.note, None)
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
        let found = self.store.find_version(&caller, &model).await?;
        let row = self
            .store
            .transition(
                &caller,
                &found.version,
                Event::Revoke,
                &request.reason,
                None,
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
        let seconds = match request.lifetime_s {
            0 => 90 * 86_400,
            given => given,
        };
        let order = TokenOrder {
            organisation: caller.organisation_or(&request.organisation),
            subject: &request.subject,
            roles: &roles(&request.roles)?,
            models: &request.models,
            lifetime: Duration::from_secs(seconds),
        };
        let token = self.store.order_token(&caller, &order).await?;
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
        self.store.revoke_token(&caller, id).await?;
        Ok(Response::new(v1::RevokeTokenResponse {}))
    }
}
