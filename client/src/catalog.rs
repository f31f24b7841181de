//! Reading the catalogue, and the calls of reviewers and administrators.

use std::sync::Arc;
use std::time::Duration;

use chemxor_core::{Manifest, ModelRef, VersionId};
use chemxor_proto::v1;
use chemxor_proto::v1::admin_client::AdminClient;
use chemxor_proto::v1::catalog_client::CatalogClient;
use chemxor_proto::v1::governance_client::GovernanceClient;
use chemxor_runtime::tls;
use serde::Serialize;
use tonic::transport::Channel;

use crate::{Access, ClientError};

/// How long one call may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A version as the registry describes it, its manifest read and its digest checked.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Digest of the manifest.
    pub version: VersionId,
    /// draft, submitted, approved, deprecated or revoked.
    pub state: String,
    /// Who published it.
    pub publisher: String,
    /// Everything public.
    pub manifest: Arc<Manifest>,
}

impl Entry {
    fn read(model: &v1::ModelVersion) -> Result<Self, ClientError> {
        let (manifest, version) = Manifest::from_bytes(&model.manifest)?;
        if version.to_string() != model.version {
            let id = chemxor_core::ErrorId::ManifestRefused;
            let message = "the registry gave a manifest with another digest".to_owned();
            return Err(ClientError::Service {
                id,
                message,
                retryable: false,
            });
        }
        chemxor_core::verify_manifest(&model.publisher_key, &model.manifest, &model.signature)
            .map_err(|error| ClientError::Service {
                id: chemxor_core::ErrorId::SignatureRefused,
                message: error.to_string(),
                retryable: false,
            })?;
        chemxor_fhe::ring::check_statements(&manifest.graph.rings(), &manifest.rings)?;
        Ok(Self {
            version,
            state: model.state.clone(),
            publisher: model.publisher.clone(),
            manifest: Arc::new(manifest),
        })
    }
}

/// A limit and what was used of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// None: unlimited.
    pub limit: Option<u64>,
    /// Running queries included.
    pub used: u64,
    /// None: unlimited.
    pub left: Option<u64>,
}

impl Limit {
    fn new(limit: Option<u64>, used: u64) -> Self {
        Self {
            limit,
            used,
            left: limit.map(|limit| limit.saturating_sub(used)),
        }
    }
}

/// What an organisation may use of a model; days are UTC days.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Allowance {
    /// Whose.
    pub organisation: String,
    /// Queries.
    pub queries_today: Limit,
    /// Bytes both ways.
    pub bytes_today: Limit,
    /// Milliseconds of workers.
    pub compute_ms_today: Limit,
    /// Extraction budget: queries over all tokens of the organisation, for ever.
    pub lifetime_queries: Limit,
    /// Sessions at the same time; none: unlimited.
    pub concurrent_sessions: Option<u64>,
}

impl Allowance {
    /// Queries that may still be asked today; none: unlimited.
    pub fn queries_left(&self) -> Option<u64> {
        let lefts = [self.queries_today.left, self.lifetime_queries.left];
        lefts.into_iter().flatten().min()
    }
}

pub(crate) async fn channel(access: &Access) -> Result<Channel, ClientError> {
    Ok(tls::connect(&access.endpoint, &access.tls).await?)
}

pub(crate) async fn call<T>(
    access: &Access,
    future: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, ClientError> {
    call_within(access, DEADLINE, future).await
}

pub(crate) async fn call_within<T>(
    access: &Access,
    deadline: Duration,
    future: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(deadline, future)
        .await
        .map_err(|_| ClientError::Deadline("the registry"))?
        .map(tonic::Response::into_inner)
        .map_err(|status| ClientError::from_status(&access.endpoint, &status))
}

/// One version; its signature and digest are verified here.
pub async fn get(access: &Access, model: &ModelRef) -> Result<Entry, ClientError> {
    let mut client = CatalogClient::new(channel(access).await?);
    let request = access.token.sign(v1::GetModelRequest {
        model: model.to_string(),
    })?;
    Entry::read(&call(access, client.get_model(request)).await?)
}

/// Every version that the caller may see.
pub async fn list(access: &Access) -> Result<Vec<Entry>, ClientError> {
    let mut client = CatalogClient::new(channel(access).await?).max_decoding_message_size(64 << 20);
    let mut entries = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListModelsRequest {
            page_size: 50,
            page_token: page_token.clone(),
        };
        let page = call(access, client.list_models(access.token.sign(request)?)).await?;
        for model in &page.models {
            entries.push(Entry::read(model)?);
        }
        if page.next_page_token.is_empty() || page.next_page_token == page_token {
            return Ok(entries);
        }
        page_token = page.next_page_token;
    }
}

/// What the caller's organisation may use of a model, and what it used.
pub async fn allowance(access: &Access, model: &ModelRef) -> Result<Allowance, ClientError> {
    let mut client = GovernanceClient::new(channel(access).await?);
    let request = access.token.sign(v1::GetAllowanceRequest {
        model: model.to_string(),
    })?;
    let answer = call(access, client.get_allowance(request)).await?;
    let (limits, used) = (
        answer.limits.unwrap_or_default(),
        answer.used.unwrap_or_default(),
    );
    Ok(Allowance {
        organisation: limits.organisation,
        queries_today: Limit::new(limits.queries_per_day, used.queries_today),
        bytes_today: Limit::new(limits.bytes_per_day, used.bytes_today),
        compute_ms_today: Limit::new(limits.compute_ms_per_day, used.compute_ms_today),
        lifetime_queries: Limit::new(limits.lifetime_queries, used.lifetime_queries),
        concurrent_sessions: limits.concurrent_sessions,
    })
}

/// Approves a submitted version.
pub async fn approve(access: &Access, model: &ModelRef, note: &str) -> Result<Entry, ClientError> {
    let mut client = AdminClient::new(channel(access).await?);
    let request = v1::ApproveVersionRequest {
        model: model.to_string(),
        note: note.to_owned(),
    };
    Entry::read(&call(access, client.approve_version(access.token.sign(request)?)).await?)
}

/// Revokes a version.
pub async fn revoke(access: &Access, model: &ModelRef, reason: &str) -> Result<Entry, ClientError> {
    let mut client = AdminClient::new(channel(access).await?);
    let request = v1::RevokeVersionRequest {
        model: model.to_string(),
        reason: reason.to_owned(),
    };
    Entry::read(&call(access, client.revoke_version(access.token.sign(request)?)).await?)
}
