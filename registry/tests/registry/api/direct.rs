//! The store, without services.

use chemxor_core::{ErrorId, Event, Role, RoleSet, VersionId};
use chemxor_proto::v1;
use chemxor_registry::RegistryError;
use chemxor_registry::publication::Publication;
use chemxor_registry::store::{
    AliasChange, Quota, ReservationOrder, Reserved, TokenOrder, Usage, Visibility,
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::api::{Api, Begun, Direct, Move, Placed};
use crate::model::conformance;
use crate::platform::{DAY, registration};

#[allow(clippy::needless_pass_by_value)] // used as a function of `map_err`
fn refusal(error: RegistryError) -> ErrorId {
    error.id()
}

fn version(text: &str) -> VersionId {
    text.parse().unwrap()
}

fn moved(change: &AliasChange) -> Move {
    let from = change.from.map(|version| version.to_string());
    (from.unwrap_or_default(), change.to.to_string())
}

impl Api for Direct<'_> {
    async fn register(&self, worker: &str, key: &[u8]) -> Result<(), ErrorId> {
        self.0
            .store()
            .register_worker(&worker.parse().unwrap(), &registration(key))
            .await
            .map_err(refusal)
    }

    async fn begin(&self, by: &str, request: &v1::BeginVersionRequest) -> Result<Begun, ErrorId> {
        let publication = Publication::verify(request.clone()).map_err(refusal)?;
        let (store, version) = (self.0.store(), publication.version());
        store
            .begin_version(&self.0.caller(by), &publication)
            .await
            .map_err(refusal)?;
        let missing = store.missing_blobs(&version).await.map_err(refusal)?;
        let missing = missing.into_iter().map(|blob| (blob.sha256, blob.offset));
        Ok((version.to_string(), missing.collect()))
    }

    async fn upload(
        &self,
        by: &str,
        of: &str,
        sha256: &[u8],
        mut offset: u64,
        content: &[u8],
    ) -> Result<u64, ErrorId> {
        for piece in content.chunks(100_000) {
            let store = self.0.store();
            offset = store
                .append_piece(&self.0.caller(by), &version(of), sha256, offset, piece)
                .await
                .map_err(refusal)?;
        }
        Ok(offset)
    }

    async fn submit(&self, by: &str, of: &str) -> Result<String, ErrorId> {
        let store = self.0.store();
        let row = store
            .transition(&self.0.caller(by), &version(of), Event::Submit, "", None)
            .await;
        if row.is_ok() {
            // as the publisher's command goes on
            let (report, signature) = conformance(of);
            let (caller, of) = (self.0.caller(by), version(of));
            let recorded = store.record_conformance(&caller, &of, &report, &signature);
            recorded.await.unwrap();
        }
        row.map(|row| row.state.to_string()).map_err(refusal)
    }

    async fn approve(&self, by: &str, model: &str) -> Result<String, ErrorId> {
        let store = self.0.store();
        let found = store
            .find_submitted(&self.0.caller(by), &model.parse().unwrap())
            .await;
        let of = found.map_err(refusal)?.version;
        let row = store
            .transition(&self.0.caller(by), &of, Event::Approve, "", None)
            .await;
        row.map(|row| row.state.to_string()).map_err(refusal)
    }

    async fn revoke(&self, by: &str, model: &str) -> Result<String, ErrorId> {
        let store = self.0.store();
        let found = store
            .find_version(&self.0.caller(by), &model.parse().unwrap())
            .await;
        let of = found.map_err(refusal)?.version;
        let row = store
            .transition(&self.0.caller(by), &of, Event::Revoke, "", None)
            .await;
        row.map(|row| row.state.to_string()).map_err(refusal)
    }

    async fn change_workers(&self, by: &str, change: &v1::AuthorizeWorkersRequest) -> Placed {
        let (caller, of) = (self.0.caller(by), version(&change.version));
        let changed = self.0.store().authorize_workers(&caller, &of, change).await;
        changed.map_err(refusal)
    }

    async fn assignments(&self, worker: &str) -> Result<Vec<v1::Assignment>, ErrorId> {
        let store = self.0.store();
        store
            .assignments(&worker.parse().unwrap())
            .await
            .map_err(refusal)
    }

    async fn fetch(&self, worker: &str, of: &str, sha256: &[u8]) -> Result<Vec<u8>, ErrorId> {
        let mut content = Vec::new();
        loop {
            let start = content.len() as u64;
            let store = self.0.store();
            let piece = store.read_piece(worker, &version(of), sha256, start).await;
            match piece.map_err(refusal)? {
                Some(piece) => content.extend(piece),
                None if content.is_empty() => return Err(ErrorId::ModelUnknown),
                None => return Ok(content),
            }
        }
    }

    async fn authorize(
        &self,
        token: &str,
        model: &str,
    ) -> Result<v1::AuthorizeSessionResponse, ErrorId> {
        let store = self.0.store();
        let session = store
            .authorize_session(token, &model.parse().unwrap())
            .await;
        let session = session.map_err(refusal)?;
        Ok(v1::AuthorizeSessionResponse {
            organisation: session.holder.organisation,
            version: session.version.version.to_string(),
            manifest: session.version.manifest.into(),
            placements: session.placements,
            workers: session
                .workers
                .into_iter()
                .map(|worker| v1::Worker {
                    name: worker.name,
                    ..Default::default()
                })
                .collect(),
            token_id: session.holder.id.to_string(),
            subject: session.holder.subject,
        })
    }

    async fn check(&self, of: &str, token_id: &str) -> Result<(), ErrorId> {
        let store = self.0.store();
        store
            .check_session(&version(of), token_id.parse().unwrap())
            .await
            .map(drop)
            .map_err(refusal)
    }

    async fn deprecate(&self, by: &str, model: &str, sunset: i64) -> Result<String, ErrorId> {
        let (store, caller) = (self.0.store(), self.0.caller(by));
        let found = store.find_version(&caller, &model.parse().unwrap()).await;
        let of = found.map_err(refusal)?.version;
        let sunset = OffsetDateTime::from_unix_timestamp(sunset / 1000).unwrap();
        let row = store.transition(&caller, &of, Event::Deprecate, "", Some(sunset));
        let row = row.await;
        row.map(|row| row.state.to_string()).map_err(refusal)
    }

    async fn reserve(&self, order: &ReservationOrder) -> Result<Reserved, ErrorId> {
        let store = self.0.store();
        store.reserve_queries(order).await.map_err(refusal)
    }

    async fn settle(&self, id: Uuid, answered: u64, bytes: u64, ms: u64) -> Result<(), ErrorId> {
        let settled = self.0.store().settle_queries(id, answered, bytes, ms);
        settled.await.map_err(refusal)
    }

    async fn set_quota(&self, by: &str, model: &str, quota: &Quota) -> Result<(), ErrorId> {
        let (caller, model) = (self.0.caller(by), model.parse().unwrap());
        let set = self.0.store().set_quota(&caller, &model, quota);
        set.await.map_err(refusal)
    }

    async fn usage(&self, by: &str, model: &str) -> Result<Vec<Usage>, ErrorId> {
        let (caller, model) = (self.0.caller(by), model.parse().unwrap());
        let listed = self.0.store().list_quotas(&caller, &model).await;
        listed.map(|(_, usage)| usage).map_err(refusal)
    }

    async fn move_alias(
        &self,
        by: &str,
        model: &str,
        alias: &str,
        to: Option<&str>,
    ) -> Result<Move, ErrorId> {
        let (store, caller) = (self.0.store(), self.0.caller(by));
        let (model, alias) = (model.parse().unwrap(), alias.parse().unwrap());
        let change = match to {
            Some(to) => store.set_alias(&caller, &model, &alias, &version(to)).await,
            None => store.rollback_alias(&caller, &model, &alias).await,
        };
        change.map(|change| moved(&change)).map_err(refusal)
    }

    async fn alias_history(
        &self,
        by: &str,
        model: &str,
        alias: &str,
    ) -> Result<Vec<Move>, ErrorId> {
        let (store, caller) = (self.0.store(), self.0.caller(by));
        let (model, alias) = (model.parse().unwrap(), alias.parse().unwrap());
        let changes = store.alias_history(&caller, &model, &alias).await;
        let changes = changes.map_err(refusal)?;
        Ok(changes.iter().map(moved).collect())
    }

    async fn show(&self, by: &str, model: &str, to: &Visibility) -> Result<(), ErrorId> {
        let (caller, model) = (self.0.caller(by), model.parse().unwrap());
        let set = self.0.store().set_visibility(&caller, &model, to);
        set.await.map_err(refusal)
    }

    async fn suspend(&self, by: &str, organisation: &str, suspended: bool) -> Result<(), ErrorId> {
        let (store, caller) = (self.0.store(), self.0.caller(by));
        let set = store.set_organisation(&caller, organisation, suspended);
        set.await.map(drop).map_err(refusal)
    }

    async fn set_member(
        &self,
        by: &str,
        organisation: &str,
        subject: &str,
        roles: &[&str],
    ) -> Result<(), ErrorId> {
        let (store, caller) = (self.0.store(), self.0.caller(by));
        let roles = RoleSet::new(roles.iter().map(|role| role.parse::<Role>().unwrap()));
        let set = store.set_member(&caller, organisation, subject, "person", &roles);
        set.await.map_err(refusal)
    }

    async fn remove_member(
        &self,
        by: &str,
        organisation: &str,
        subject: &str,
    ) -> Result<(), ErrorId> {
        let (store, caller) = (self.0.store(), self.0.caller(by));
        let removed = store.remove_member(&caller, organisation, subject).await;
        removed.map_err(refusal)
    }

    async fn order_token(
        &self,
        by: &str,
        organisation: &str,
        subject: &str,
        models: &[String],
    ) -> Result<(String, String), ErrorId> {
        let order = TokenOrder {
            organisation,
            subject,
            roles: &RoleSet::new([Role::Querier]),
            models,
            lifetime: DAY,
        };
        let made = self.0.store().order_token(&self.0.caller(by), &order).await;
        let made = made.map_err(refusal)?;
        Ok((made.id.to_string(), made.secret.to_string()))
    }

    async fn revoke_token(&self, by: &str, id: &str) -> Result<(), ErrorId> {
        let (store, caller) = (self.0.store(), self.0.caller(by));
        let revoked = store.revoke_token(&caller, id.parse().unwrap()).await;
        revoked.map_err(refusal)
    }
}
