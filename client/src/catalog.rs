//! Reading the catalogue, and the calls of reviewers and administrators.

use std::sync::Arc;
use std::time::Duration;

use chemxor_core::{Manifest, ModelRef, VersionId};
use chemxor_proto::v1;
use chemxor_proto::v1::admin_client::AdminClient;
use chemxor_proto::v1::catalog_client::CatalogClient;
use chemxor_runtime::tls;
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

pub(crate) async fn channel(access: &Access) -> Result<Channel, ClientError> {
    Ok(tls::connect(&access.endpoint, &access.tls).await?)
}

pub(crate) async fn call<T>(
    access: &Access,
    future: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(DEADLINE, future)
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

/// Makes a token; the secret is in the answer only.
pub async fn create_token(
    access: &Access,
    subject: &str,
    roles: &[String],
    lifetime: Duration,
) -> Result<v1::CreateTokenResponse, ClientError> {
    let mut client = AdminClient::new(channel(access).await?);
    let request = v1::CreateTokenRequest {
        subject: subject.to_owned(),
        roles: roles.to_vec(),
        lifetime_s: lifetime.as_secs(),
        ..Default::default()
    };
    call(access, client.create_token(access.token.sign(request)?)).await
}
