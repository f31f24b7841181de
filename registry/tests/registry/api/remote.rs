//! The services, over gRPC and mutual TLS.

use chemxor_core::ErrorId;
use chemxor_proto::v1;
use chemxor_registry::store::{Quota, ReservationOrder, Reserved, Usage, Visibility};
use chemxor_runtime::pki::Subject;
use tonic::{Response, Status};
use uuid::Uuid;

use crate::api::{Api, Begun, Move, Placed, Remote};
use crate::model::conformance;
use crate::platform::{DAY, id, upload_parts};

#[allow(clippy::needless_pass_by_value)] // used as a function of `map_err`
fn grpc_refusal(status: Status) -> ErrorId {
    id(&status)
}

/// What was answered.
fn answered<T>(answer: Result<Response<T>, Status>) -> Result<T, ErrorId> {
    answer.map(Response::into_inner).map_err(grpc_refusal)
}

fn worker(name: &str) -> Subject {
    Subject::Worker(name.parse().unwrap())
}

fn moved(change: v1::AliasChange) -> Move {
    (change.from_version, change.to_version)
}

impl Api for Remote<'_> {
    async fn register(&self, name: &str, key: &[u8]) -> Result<(), ErrorId> {
        let request = v1::RegisterWorkerRequest {
            name: name.to_owned(),
            sealing_key: key.to_vec().into(),
            endpoint: "localhost:1".to_owned(),
            ..Default::default()
        };
        let mut control = self.0.control(&worker(name)).await;
        let answer = control.register_worker(request).await;
        answer.map(drop).map_err(grpc_refusal)
    }

    async fn begin(&self, by: &str, request: &v1::BeginVersionRequest) -> Result<Begun, ErrorId> {
        let request = self.0.by(by, request.clone());
        let answer = self.0.publishing().begin_version(request).await;
        let answer = answer.map_err(grpc_refusal)?.into_inner();
        let missing = answer.missing.into_iter();
        let missing = missing.map(|blob| (blob.sha256.to_vec(), blob.offset));
        Ok((answer.version, missing.collect()))
    }

    async fn upload(
        &self,
        by: &str,
        of: &str,
        sha256: &[u8],
        offset: u64,
        content: &[u8],
    ) -> Result<u64, ErrorId> {
        let parts = tokio_stream::iter(upload_parts(of, sha256, offset, content));
        let answer = self.0.publishing().upload_blob(self.0.by(by, parts)).await;
        answer
            .map(|answer| answer.into_inner().stored_bytes)
            .map_err(grpc_refusal)
    }

    async fn submit(&self, by: &str, version: &str) -> Result<String, ErrorId> {
        let of = version.to_owned();
        let request = self.0.by(by, v1::SubmitVersionRequest { version: of });
        let answer = self.0.publishing().submit_version(request).await;
        if answer.is_ok() {
            let (report, signature) = conformance(version);
            let request = v1::RecordConformanceRequest {
                version: version.to_owned(),
                report: report.into(),
                signature: signature.into(),
            };
            let request = self.0.by(by, request);
            let recorded = self.0.publishing().record_conformance(request).await;
            recorded.unwrap();
        }
        answer
            .map(|answer| answer.into_inner().state)
            .map_err(grpc_refusal)
    }

    async fn approve(&self, by: &str, model: &str) -> Result<String, ErrorId> {
        let (model, note) = (model.to_owned(), "looks right".to_owned());
        let request = self.0.by(by, v1::ApproveVersionRequest { model, note });
        let answer = self.0.admin().approve_version(request).await;
        answer
            .map(|answer| answer.into_inner().state)
            .map_err(grpc_refusal)
    }

    async fn revoke(&self, by: &str, model: &str) -> Result<String, ErrorId> {
        let (model, reason) = (model.to_owned(), "wrong assay".to_owned());
        let request = self.0.by(by, v1::RevokeVersionRequest { model, reason });
        let answer = self.0.admin().revoke_version(request).await;
        answer
            .map(|answer| answer.into_inner().state)
            .map_err(grpc_refusal)
    }

    async fn change_workers(&self, by: &str, change: &v1::AuthorizeWorkersRequest) -> Placed {
        let request = self.0.by(by, change.clone());
        let answer = self.0.publishing().authorize_workers(request).await;
        answer
            .map(|answer| answer.into_inner().placements)
            .map_err(grpc_refusal)
    }

    async fn assignments(&self, name: &str) -> Result<Vec<v1::Assignment>, ErrorId> {
        let mut control = self.0.control(&worker(name)).await;
        let request = v1::ListAssignmentsRequest {
            worker: name.to_owned(),
        };
        let answer = control.list_assignments(request).await;
        answer
            .map(|answer| answer.into_inner().assignments)
            .map_err(grpc_refusal)
    }

    async fn fetch(&self, name: &str, version: &str, sha256: &[u8]) -> Result<Vec<u8>, ErrorId> {
        let mut control = self.0.control(&worker(name)).await;
        let request = v1::FetchBlobRequest {
            version: version.to_owned(),
            sha256: sha256.to_vec().into(),
        };
        let answer = control.fetch_blob(request).await.map_err(grpc_refusal)?;
        let mut stream = answer.into_inner();
        let mut content = Vec::new();
        while let Some(part) = stream.message().await.map_err(grpc_refusal)? {
            content.extend_from_slice(&part.chunk);
        }
        Ok(content)
    }

    async fn authorize(
        &self,
        token: &str,
        model: &str,
    ) -> Result<v1::AuthorizeSessionResponse, ErrorId> {
        let mut control = self.0.control(&Subject::Gateway).await;
        let request = v1::AuthorizeSessionRequest {
            token: token.to_owned(),
            model: model.to_owned(),
            ..Default::default()
        };
        let answer = control.authorize_session(request).await;
        answer.map(Response::into_inner).map_err(grpc_refusal)
    }

    async fn check(&self, version: &str, token_id: &str) -> Result<(), ErrorId> {
        let mut control = self.0.control(&Subject::Gateway).await;
        let request = v1::CheckSessionRequest {
            version: version.to_owned(),
            token_id: token_id.to_owned(),
            ..Default::default()
        };
        let answer = control.check_session(request).await;
        let answer = answer.map_err(grpc_refusal)?.into_inner();
        match answer.allowed {
            true => Ok(()),
            false => Err(answer.error_id.parse().unwrap()),
        }
    }

    async fn deprecate(&self, by: &str, model: &str, sunset: i64) -> Result<String, ErrorId> {
        let request = v1::DeprecateVersionRequest {
            model: model.to_owned(),
            sunset_unix_ms: sunset,
            ..Default::default()
        };
        let mut governance = self.0.governance();
        let answer = governance.deprecate_version(self.0.by(by, request)).await;
        Ok(answered(answer)?.state)
    }

    async fn reserve(&self, order: &ReservationOrder) -> Result<Reserved, ErrorId> {
        let request = v1::ReserveQueriesRequest {
            reservation_id: order.id.as_bytes().to_vec().into(),
            version: order.version.to_string(),
            token_id: order.token.to_string(),
            queries: order.queries,
            at_least: Some(order.at_least),
            begun: order.begun,
            bytes: order.bytes,
            compute_ms: order.compute_ms,
        };
        let mut metering = self.0.gateway_metering().await;
        let reserved = answered(metering.reserve_queries(request).await)?;
        Ok(Reserved {
            queries: reserved.queries,
            queries_left: reserved.left_today,
            bytes_left: reserved.bytes_left,
            compute_ms_left: reserved.compute_ms_left,
            revision: reserved.quota_revision,
        })
    }

    async fn settle(&self, id: Uuid, answers: u64, bytes: u64, ms: u64) -> Result<(), ErrorId> {
        let request = v1::SettleQueriesRequest {
            reservation_id: id.as_bytes().to_vec().into(),
            answered: answers,
            bytes,
            compute_ms: ms,
        };
        let mut metering = self.0.gateway_metering().await;
        answered(metering.settle_queries(request).await).map(drop)
    }

    async fn set_quota(&self, by: &str, model: &str, quota: &Quota) -> Result<(), ErrorId> {
        let request = v1::Quota {
            model: model.to_owned(),
            organisation: quota.organisation.clone(),
            queries_per_day: quota.queries_per_day,
            concurrent_sessions: quota.concurrent_sessions,
            bytes_per_day: quota.bytes_per_day,
            compute_ms_per_day: quota.compute_ms_per_day,
            lifetime_queries: quota.lifetime_queries,
        };
        let mut governance = self.0.governance();
        let answer = governance.set_quota(self.0.by(by, request)).await;
        answered(answer).map(drop)
    }

    async fn usage(&self, by: &str, model: &str) -> Result<Vec<Usage>, ErrorId> {
        let model = model.to_owned();
        let request = self.0.by(by, v1::ListQuotasRequest { model });
        let listed = answered(self.0.governance().list_quotas(request).await)?;
        let usage = listed.usage.into_iter().map(|row| Usage {
            organisation: row.organisation,
            queries_today: row.queries_today,
            bytes_today: row.bytes_today,
            compute_ms_today: row.compute_ms_today,
            lifetime_queries: row.lifetime_queries,
        });
        Ok(usage.collect())
    }

    async fn move_alias(
        &self,
        by: &str,
        model: &str,
        alias: &str,
        to: Option<&str>,
    ) -> Result<Move, ErrorId> {
        let (model, alias) = (model.to_owned(), alias.to_owned());
        let mut governance = self.0.governance();
        let answer = match to {
            Some(version) => {
                let version = version.to_owned();
                let request = v1::SetAliasRequest {
                    model,
                    alias,
                    version,
                };
                governance.set_alias(self.0.by(by, request)).await
            }
            None => {
                let request = v1::RollbackAliasRequest { model, alias };
                governance.rollback_alias(self.0.by(by, request)).await
            }
        };
        answered(answer).map(moved)
    }

    async fn alias_history(
        &self,
        by: &str,
        model: &str,
        alias: &str,
    ) -> Result<Vec<Move>, ErrorId> {
        let (model, alias) = (model.to_owned(), alias.to_owned());
        let request = self.0.by(by, v1::AliasHistoryRequest { model, alias });
        let history = answered(self.0.governance().alias_history(request).await)?;
        Ok(history.changes.into_iter().map(moved).collect())
    }

    async fn show(&self, by: &str, model: &str, to: &Visibility) -> Result<(), ErrorId> {
        let mut request = v1::SetVisibilityRequest {
            model: model.to_owned(),
            ..Default::default()
        };
        let kind = match to {
            Visibility::Private => "private",
            Visibility::Everyone => "everyone",
            Visibility::Listed(names) => {
                request.organisations.clone_from(names);
                "listed"
            }
            Visibility::Consortium(name) => {
                request.consortium.clone_from(name);
                "consortium"
            }
        };
        request.visibility = kind.to_owned();
        let mut governance = self.0.governance();
        let answer = governance.set_visibility(self.0.by(by, request)).await;
        answered(answer).map(drop)
    }

    async fn suspend(&self, by: &str, organisation: &str, suspended: bool) -> Result<(), ErrorId> {
        let name = organisation.to_owned();
        let request = self
            .0
            .by(by, v1::SetOrganisationRequest { name, suspended });
        answered(self.0.governance().set_organisation(request).await).map(drop)
    }

    async fn set_member(
        &self,
        by: &str,
        organisation: &str,
        subject: &str,
        roles: &[&str],
    ) -> Result<(), ErrorId> {
        let request = v1::Member {
            organisation: organisation.to_owned(),
            subject: subject.to_owned(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            ..Default::default()
        };
        let mut governance = self.0.governance();
        let answer = governance.set_member(self.0.by(by, request)).await;
        answered(answer).map(drop)
    }

    async fn remove_member(
        &self,
        by: &str,
        organisation: &str,
        subject: &str,
    ) -> Result<(), ErrorId> {
        let request = v1::RemoveMemberRequest {
            organisation: organisation.to_owned(),
            subject: subject.to_owned(),
        };
        let mut governance = self.0.governance();
        let answer = governance.remove_member(self.0.by(by, request)).await;
        answered(answer).map(drop)
    }

    async fn order_token(
        &self,
        by: &str,
        organisation: &str,
        subject: &str,
        models: &[String],
    ) -> Result<(String, String), ErrorId> {
        let request = v1::CreateTokenRequest {
            organisation: organisation.to_owned(),
            subject: subject.to_owned(),
            roles: vec!["querier".to_owned()],
            models: models.to_vec(),
            lifetime_s: DAY.as_secs(),
        };
        let mut admin = self.0.admin();
        let made = answered(admin.create_token(self.0.by(by, request)).await)?;
        Ok((made.token_id, made.secret))
    }

    async fn revoke_token(&self, by: &str, id: &str) -> Result<(), ErrorId> {
        let token_id = id.to_owned();
        let request = self.0.by(by, v1::RevokeTokenRequest { token_id });
        answered(self.0.admin().revoke_token(request).await).map(drop)
    }
}
