//! Catalog: what everybody with a token may read.

use chemxor_core::{Action, VersionId};
use chemxor_proto::v1::catalog_server::Catalog;
use chemxor_proto::{MAX_MANIFEST_BYTES, v1};
use time::OffsetDateTime;
use tonic::{Request, Response, Status};

use crate::auth;
use crate::service::{Services, argument, model_ref};
use crate::store::VersionRow;

/// A page token: where the previous page ended.
fn write_page(row: &VersionRow) -> String {
    format!("{}/{}", row.created_at.unix_timestamp_nanos(), row.version)
}

/// How many rows fit one answer of bounded size; the first one always does.
fn page_end(rows: &[VersionRow]) -> usize {
    let mut bytes = 0;
    let fits = |row: &&VersionRow| {
        bytes += row.manifest.len();
        bytes <= MAX_MANIFEST_BYTES
    };
    rows.iter().take_while(fits).count().max(rows.len().min(1))
}

fn read_page(text: &str) -> Option<(OffsetDateTime, VersionId)> {
    let (nanos, version) = text.split_once('/')?;
    let at = OffsetDateTime::from_unix_timestamp_nanos(nanos.parse().ok()?).ok()?;
    Some((at, version.parse().ok()?))
}

#[tonic::async_trait]
impl Catalog for Services {
    async fn list_models(
        &self,
        request: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        let caller = auth::person(&self.store, &request, Action::ReadCatalogue).await?;
        let request = request.into_inner();
        let size = if request.page_size == 0 {
            50
        } else {
            request.page_size.min(200)
        };
        let before = match request.page_token.as_str() {
            "" => None,
            token => Some(read_page(token).ok_or_else(|| argument("the page token is malformed"))?),
        };
        let rows = self.store.list_versions(&caller, before, size).await?;
        self.store
            .audit_far_read(&caller, "model.list", "models")
            .await?;
        let end = page_end(&rows);
        let more = end < rows.len() || rows.len() == size as usize;
        let rows = &rows[..end];
        let next_page_token = rows
            .last()
            .filter(|_| more)
            .map(write_page)
            .unwrap_or_default();
        let models = rows.iter().map(VersionRow::to_proto).collect();
        Ok(Response::new(v1::ListModelsResponse {
            models,
            next_page_token,
        }))
    }

    async fn get_model(
        &self,
        request: Request<v1::GetModelRequest>,
    ) -> Result<Response<v1::ModelVersion>, Status> {
        let caller = auth::person(&self.store, &request, Action::ReadCatalogue).await?;
        let model = model_ref(&request.into_inner().model)?;
        let row = self.store.readable_version(&caller, &model).await?;
        self.store
            .audit_far_read(&caller, "model.read", &row.version.to_string())
            .await?;
        Ok(Response::new(row.to_proto()))
    }
}
