//! The registry as its callers see it, twice: the store, and gRPC over mutual TLS.

mod direct;
mod remote;

use chemxor_core::ErrorId;
use chemxor_proto::v1;
use chemxor_registry::store::{Quota, ReservationOrder, Reserved, Usage, Visibility};
use uuid::Uuid;

use crate::platform::Platform;

/// Version and, for each blob that is not complete, digest and offset.
pub(crate) type Begun = (String, Vec<(Vec<u8>, u64)>);

pub(crate) type Placed = Result<Vec<v1::Placement>, ErrorId>;

/// Where an alias pointed, empty for nowhere, and where it points since.
pub(crate) type Move = (String, String);

/// Everything that the suite asks. People are named as in `platform`.
pub(crate) trait Api {
    async fn register(&self, worker: &str, key: &[u8]) -> Result<(), ErrorId>;
    async fn begin(&self, by: &str, request: &v1::BeginVersionRequest) -> Result<Begun, ErrorId>;
    async fn upload(
        &self,
        by: &str,
        version: &str,
        sha256: &[u8],
        offset: u64,
        content: &[u8],
    ) -> Result<u64, ErrorId>;
    /// These give the state afterwards.
    async fn submit(&self, by: &str, version: &str) -> Result<String, ErrorId>;
    async fn approve(&self, by: &str, model: &str) -> Result<String, ErrorId>;
    async fn revoke(&self, by: &str, model: &str) -> Result<String, ErrorId>;
    /// `sunset` is in milliseconds since 1970.
    async fn deprecate(&self, by: &str, model: &str, sunset: i64) -> Result<String, ErrorId>;
    /// Gives the placements afterwards.
    async fn change_workers(&self, by: &str, change: &v1::AuthorizeWorkersRequest) -> Placed;
    async fn assignments(&self, worker: &str) -> Result<Vec<v1::Assignment>, ErrorId>;
    async fn fetch(&self, worker: &str, version: &str, sha256: &[u8]) -> Result<Vec<u8>, ErrorId>;
    async fn authorize(
        &self,
        token: &str,
        model: &str,
    ) -> Result<v1::AuthorizeSessionResponse, ErrorId>;
    async fn check(&self, version: &str, token_id: &str) -> Result<(), ErrorId>;

    async fn reserve(&self, order: &ReservationOrder) -> Result<Reserved, ErrorId>;
    async fn settle(&self, id: Uuid, answered: u64, bytes: u64, ms: u64) -> Result<(), ErrorId>;
    async fn set_quota(&self, by: &str, model: &str, quota: &Quota) -> Result<(), ErrorId>;
    async fn usage(&self, by: &str, model: &str) -> Result<Vec<Usage>, ErrorId>;

    /// To a version, or back to where it pointed before.
    async fn move_alias(
        &self,
        by: &str,
        model: &str,
        alias: &str,
        to: Option<&str>,
    ) -> Result<Move, ErrorId>;
    /// Newest first.
    async fn alias_history(&self, by: &str, model: &str, alias: &str)
    -> Result<Vec<Move>, ErrorId>;
    async fn show(&self, by: &str, model: &str, to: &Visibility) -> Result<(), ErrorId>;
    async fn suspend(&self, by: &str, organisation: &str, suspended: bool) -> Result<(), ErrorId>;
    async fn set_member(
        &self,
        by: &str,
        organisation: &str,
        subject: &str,
        roles: &[&str],
    ) -> Result<(), ErrorId>;
    async fn remove_member(
        &self,
        by: &str,
        organisation: &str,
        subject: &str,
    ) -> Result<(), ErrorId>;
    /// A querier's token for these models, or for all; gives id and secret.
    async fn order_token(
        &self,
        by: &str,
        organisation: &str,
        subject: &str,
        models: &[String],
    ) -> Result<(String, String), ErrorId>;
    async fn revoke_token(&self, by: &str, id: &str) -> Result<(), ErrorId>;
}

/// The store, without services.
pub(crate) struct Direct<'a>(pub(crate) &'a Platform);

/// The services.
pub(crate) struct Remote<'a>(pub(crate) &'a Platform);
