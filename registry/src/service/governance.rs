//! Governance: organisations, members, visibility, aliases, quotas, the audit log, denied
//! certificates.

use chemxor_core::{Action, AuditLine, Event, ModelName, Role, RoleSet, Selector};
use chemxor_proto::v1;
use chemxor_proto::v1::governance_server::Governance;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use time::OffsetDateTime;
use tonic::{Request, Response, Status};

use crate::RegistryError;
use crate::auth;
use crate::calls::Call;
use crate::service::admin::note;
use crate::service::{Services, argument, model_ref};
use crate::store::{
    AliasChange, MemberRow, OrganisationRow, Quota, TokenRow, Usage, Visibility, unix_ms,
};

type Answer<T> = Result<Response<T>, Status>;

/// Most bytes of one answer of an export; a row is far shorter.
const EXPORT_BYTES: usize = 1 << 19;

pub(super) fn roles(names: &[String]) -> Result<RoleSet, Status> {
    let roles = names
        .iter()
        .map(|role| role.parse::<Role>().map_err(argument));
    Ok(RoleSet::new(roles.collect::<Result<Vec<_>, _>>()?))
}

fn model_name(text: &str) -> Result<ModelName, Status> {
    text.parse().map_err(argument)
}

fn organisation(row: OrganisationRow) -> v1::Organisation {
    v1::Organisation {
        name: row.name,
        suspended: row.suspended,
        created_unix_ms: unix_ms(row.created_at),
    }
}

fn member(row: MemberRow) -> v1::Member {
    v1::Member {
        organisation: row.organisation,
        subject: row.subject,
        kind: row.kind,
        roles: row.roles,
        removed: row.removed,
    }
}

fn token(row: TokenRow) -> v1::TokenInfo {
    v1::TokenInfo {
        token_id: row.id.to_string(),
        organisation: row.organisation,
        subject: row.subject,
        roles: row.roles,
        models: row.models,
        created_unix_ms: unix_ms(row.created_at),
        expires_unix_ms: unix_ms(row.expires_at),
        revoked_unix_ms: row.revoked_at.map_or(0, unix_ms),
    }
}

fn change(alias: &str, change: &AliasChange) -> v1::AliasChange {
    v1::AliasChange {
        alias: alias.to_owned(),
        from_version: change.from.map(|v| v.to_string()).unwrap_or_default(),
        to_version: change.to.to_string(),
        actor: change.actor.clone(),
        at_unix_ms: unix_ms(change.at),
    }
}

fn visibility(request: &v1::SetVisibilityRequest) -> Result<Visibility, Status> {
    let (listed, consortium) = (
        !request.organisations.is_empty(),
        !request.consortium.is_empty(),
    );
    match (request.visibility.as_str(), listed, consortium) {
        ("private", false, false) => Ok(Visibility::Private),
        ("everyone", false, false) => Ok(Visibility::Everyone),
        ("listed", true, false) => Ok(Visibility::Listed(request.organisations.clone())),
        ("consortium", false, true) => Ok(Visibility::Consortium(request.consortium.clone())),
        _ => Err(argument(
            "visibility is private, everyone, listed with organisations, or consortium with its name",
        )),
    }
}

fn used(usage: Usage) -> v1::Usage {
    v1::Usage {
        organisation: usage.organisation,
        queries_today: usage.queries_today,
        bytes_today: usage.bytes_today,
        compute_ms_today: usage.compute_ms_today,
        lifetime_queries: usage.lifetime_queries,
    }
}

fn quota(model: &str, quota: Quota) -> v1::Quota {
    v1::Quota {
        model: model.to_string(),
        organisation: quota.organisation,
        queries_per_day: quota.queries_per_day,
        concurrent_sessions: quota.concurrent_sessions,
        bytes_per_day: quota.bytes_per_day,
        compute_ms_per_day: quota.compute_ms_per_day,
        lifetime_queries: quota.lifetime_queries,
    }
}

fn lines(page: &[AuditLine]) -> Result<Vec<String>, RegistryError> {
    let mut parts = vec![String::new()];
    for line in page {
        let text = serde_json::to_string(line).map_err(|_| RegistryError::Corrupt("audit row"))?;
        if parts
            .last()
            .is_some_and(|part| part.len() + text.len() > EXPORT_BYTES)
        {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push_str(&text);
            part.push('\n');
        }
    }
    Ok(parts)
}

#[tonic::async_trait]
impl Governance for Services {
    type ExportAuditStream = BoxStream<'static, Result<v1::ExportAuditResponse, Status>>;

    async fn set_organisation(
        &self,
        request: Request<v1::SetOrganisationRequest>,
    ) -> Answer<v1::Organisation> {
        let caller = auth::person(&self.store, &request, Action::ManageOrganisations).await?;
        let request = request.into_inner();
        let row = self
            .store
            .set_organisation(&caller, &request.name, request.suspended)
            .await?;
        Ok(Response::new(organisation(row)))
    }

    async fn list_organisations(
        &self,
        request: Request<v1::ListOrganisationsRequest>,
    ) -> Answer<v1::ListOrganisationsResponse> {
        let caller = auth::person(&self.store, &request, Action::ManageOrganisations).await?;
        let rows = self.store.list_organisations(&caller).await?;
        let organisations = rows.into_iter().map(organisation).collect();
        Ok(Response::new(v1::ListOrganisationsResponse {
            organisations,
        }))
    }

    async fn set_consortium(
        &self,
        request: Request<v1::SetConsortiumRequest>,
    ) -> Answer<v1::SetConsortiumResponse> {
        let caller = auth::person(&self.store, &request, Action::ManageOrganisations).await?;
        let request = request.into_inner();
        self.store
            .set_consortium(&caller, &request.name, &request.organisations)
            .await?;
        Ok(Response::new(v1::SetConsortiumResponse {}))
    }

    async fn list_consortia(
        &self,
        request: Request<v1::ListConsortiaRequest>,
    ) -> Answer<v1::ListConsortiaResponse> {
        let caller = auth::person(&self.store, &request, Action::ManageOrganisations).await?;
        let rows = self.store.list_consortia(&caller).await?;
        let consortium = |(name, organisations)| v1::SetConsortiumRequest {
            name,
            organisations,
        };
        let consortia = rows.into_iter().map(consortium).collect();
        Ok(Response::new(v1::ListConsortiaResponse { consortia }))
    }

    async fn set_member(&self, request: Request<v1::Member>) -> Answer<v1::Member> {
        let caller = auth::person(&self.store, &request, Action::ManageMembers).await?;
        let mut request = request.into_inner();
        request.organisation = caller.organisation_or(&request.organisation).to_owned();
        if request.kind.is_empty() {
            request.kind = "person".to_owned();
        }
        let roles = roles(&request.roles)?;
        self.store
            .set_member(
                &caller,
                &request.organisation,
                &request.subject,
                &request.kind,
                &roles,
            )
            .await?;
        request.roles = roles.iter().map(|role| role.to_string()).collect();
        request.removed = false;
        Ok(Response::new(request))
    }

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Answer<v1::RemoveMemberResponse> {
        let caller = auth::person(&self.store, &request, Action::ManageMembers).await?;
        let request = request.into_inner();
        let organisation = caller.organisation_or(&request.organisation);
        self.store
            .remove_member(&caller, organisation, &request.subject)
            .await?;
        Ok(Response::new(v1::RemoveMemberResponse {}))
    }

    async fn list_members(
        &self,
        request: Request<v1::ListMembersRequest>,
    ) -> Answer<v1::ListMembersResponse> {
        let caller = auth::person(&self.store, &request, Action::ManageMembers).await?;
        let request = request.into_inner();
        let organisation = caller.organisation_or(&request.organisation);
        let rows = self.store.list_members(&caller, organisation).await?;
        let members = rows.into_iter().map(member).collect();
        Ok(Response::new(v1::ListMembersResponse { members }))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Answer<v1::ListTokensResponse> {
        let caller = auth::person(&self.store, &request, Action::ManageTokens).await?;
        let request = request.into_inner();
        let organisation = caller.organisation_or(&request.organisation);
        let rows = self.store.list_tokens(&caller, organisation).await?;
        let tokens = rows.into_iter().map(token).collect();
        Ok(Response::new(v1::ListTokensResponse { tokens }))
    }

    async fn set_visibility(
        &self,
        request: Request<v1::SetVisibilityRequest>,
    ) -> Answer<v1::SetVisibilityResponse> {
        let caller = auth::person(&self.store, &request, Action::ManageModels).await?;
        let request = request.into_inner();
        let (model, visibility) = (model_name(&request.model)?, visibility(&request)?);
        self.store
            .set_visibility(&caller, &model, &visibility)
            .await?;
        Ok(Response::new(v1::SetVisibilityResponse {}))
    }

    async fn get_visibility(
        &self,
        request: Request<v1::GetVisibilityRequest>,
    ) -> Answer<v1::SetVisibilityRequest> {
        let caller = auth::person(&self.store, &request, Action::ManageModels).await?;
        let model = model_name(&request.into_inner().model)?;
        let (kind, organisations, consortium) = match self.store.visibility(&caller, &model).await?
        {
            Visibility::Private => ("private", vec![], String::new()),
            Visibility::Everyone => ("everyone", vec![], String::new()),
            Visibility::Listed(names) => ("listed", names, String::new()),
            Visibility::Consortium(name) => ("consortium", vec![], name),
        };
        Ok(Response::new(v1::SetVisibilityRequest {
            model: model.to_string(),
            visibility: kind.to_owned(),
            organisations,
            consortium,
        }))
    }

    async fn set_alias(&self, request: Request<v1::SetAliasRequest>) -> Answer<v1::AliasChange> {
        let caller = auth::person(&self.store, &request, Action::ManageModels).await?;
        let request = request.into_inner();
        let model = model_name(&request.model)?;
        let alias = request.alias.parse().map_err(argument)?;
        let version = request.version.parse().map_err(argument)?;
        let moved = self
            .store
            .set_alias(&caller, &model, &alias, &version)
            .await?;
        Ok(Response::new(change(&request.alias, &moved)))
    }

    async fn rollback_alias(
        &self,
        request: Request<v1::RollbackAliasRequest>,
    ) -> Answer<v1::AliasChange> {
        let caller = auth::person(&self.store, &request, Action::ManageModels).await?;
        let request = request.into_inner();
        let model = model_name(&request.model)?;
        let alias = request.alias.parse().map_err(argument)?;
        let moved = self.store.rollback_alias(&caller, &model, &alias).await?;
        Ok(Response::new(change(&request.alias, &moved)))
    }

    async fn list_aliases(
        &self,
        request: Request<v1::ListAliasesRequest>,
    ) -> Answer<v1::AliasHistoryResponse> {
        let caller = auth::person(&self.store, &request, Action::ReadCatalogue).await?;
        let model = model_name(&request.into_inner().model)?;
        let aliases = self.store.list_aliases(&caller, &model).await?;
        self.store
            .audit_far_read(&caller, "alias.list", model.as_str())
            .await?;
        let changes = aliases.iter().map(|(alias, moved)| change(alias, moved));
        Ok(Response::new(v1::AliasHistoryResponse {
            changes: changes.collect(),
        }))
    }

    async fn alias_history(
        &self,
        request: Request<v1::AliasHistoryRequest>,
    ) -> Answer<v1::AliasHistoryResponse> {
        let caller = auth::person(&self.store, &request, Action::ReadCatalogue).await?;
        let request = request.into_inner();
        let model = model_name(&request.model)?;
        let alias = request.alias.parse().map_err(argument)?;
        let changes = self.store.alias_history(&caller, &model, &alias).await?;
        self.store
            .audit_far_read(&caller, "alias.history", &format!("{model}@{alias}"))
            .await?;
        let changes = changes.iter().map(|moved| change(&request.alias, moved));
        Ok(Response::new(v1::AliasHistoryResponse {
            changes: changes.collect(),
        }))
    }

    async fn deprecate_version(
        &self,
        request: Request<v1::DeprecateVersionRequest>,
    ) -> Answer<v1::ModelVersion> {
        let caller = auth::person(&self.store, &request, Action::ManageModels).await?;
        let request = request.into_inner();
        note(&request.reason)?;
        let model = model_ref(&request.model)?;
        let Selector::Version(version) = &model.selector else {
            return Err(argument(
                "name the version to deprecate by its digest, NAME@sha256:…",
            ));
        };
        let sunset = match request.sunset_unix_ms {
            0 => None,
            ms => Some(
                OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
                    .map_err(|_| argument("the sunset date is out of range"))?,
            ),
        };
        self.store.find_version(&caller, &model).await?;
        let row = self
            .store
            .transition(&caller, version, Event::Deprecate, &request.reason, sunset)
            .await?;
        Ok(Response::new(row.to_proto()))
    }

    async fn set_quota(&self, request: Request<v1::Quota>) -> Answer<v1::Quota> {
        let caller = auth::person(&self.store, &request, Action::ManageQuotas).await?;
        let request = request.into_inner();
        let model = model_name(&request.model)?;
        let quota = Quota {
            organisation: request.organisation.clone(),
            queries_per_day: request.queries_per_day,
            concurrent_sessions: request.concurrent_sessions,
            bytes_per_day: request.bytes_per_day,
            compute_ms_per_day: request.compute_ms_per_day,
            lifetime_queries: request.lifetime_queries,
        };
        self.store.set_quota(&caller, &model, &quota).await?;
        Ok(Response::new(request))
    }

    async fn list_quotas(
        &self,
        request: Request<v1::ListQuotasRequest>,
    ) -> Answer<v1::ListQuotasResponse> {
        let caller = auth::person(&self.store, &request, Action::ManageQuotas).await?;
        let model = model_name(&request.into_inner().model)?;
        let (quotas, usage) = self.store.list_quotas(&caller, &model).await?;
        let quotas = quotas.into_iter().map(|row| quota(model.as_str(), row));
        Ok(Response::new(v1::ListQuotasResponse {
            usage: usage.into_iter().map(used).collect(),
            quotas: quotas.collect(),
        }))
    }

    async fn get_allowance(
        &self,
        request: Request<v1::GetAllowanceRequest>,
    ) -> Answer<v1::Allowance> {
        let caller = auth::person(&self.store, &request, Action::ReadCatalogue).await?;
        let model = model_ref(&request.into_inner().model)?;
        let (limits, usage) = self.store.allowance(&caller, &model).await?;
        self.store
            .audit_far_read(&caller, "allowance.read", &model.to_string())
            .await?;
        Ok(Response::new(v1::Allowance {
            limits: Some(quota(model.name.as_str(), limits)),
            used: Some(used(usage)),
        }))
    }

    async fn export_audit(
        &self,
        request: Request<v1::ExportAuditRequest>,
    ) -> Answer<Self::ExportAuditStream> {
        let (caller, shown) = auth::lasting(&self.store, &request, Action::ReadAudit).await?;
        let call = Call::of(&request);
        let last = self.store.begin_export(&caller).await?;
        let from = (self.store.clone(), shown, 0);
        let pages = stream::try_unfold(from, move |(store, shown, after)| async move {
            shown.require(&store).await?;
            let page = store.export_page(after, last).await?;
            let Some((page, end)) = page else {
                return Ok::<_, Status>(None);
            };
            Ok(Some((lines(&page)?, (store, shown, end))))
        });
        let parts = pages.flat_map(|page| {
            let parts = match page {
                Ok(parts) => parts.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            let answer = |lines| v1::ExportAuditResponse { lines };
            stream::iter(parts.into_iter().map(move |part| part.map(answer)))
        });
        let parts = parts.inspect_err(move |refusal| call.refused(refusal));
        Ok(Response::new(parts.boxed()))
    }

    async fn deny_certificate(
        &self,
        request: Request<v1::DenyCertificateRequest>,
    ) -> Answer<v1::DenyCertificateResponse> {
        let caller = auth::person(&self.store, &request, Action::ManageCertificates).await?;
        let request = request.into_inner();
        note(&request.reason)?;
        self.store
            .deny_certificate(&caller, &request.subject, &request.serial, &request.reason)
            .await?;
        Ok(Response::new(v1::DenyCertificateResponse {}))
    }

    async fn list_denied_certificates(
        &self,
        request: Request<v1::ListDeniedCertificatesRequest>,
    ) -> Answer<v1::ListDeniedCertificatesResponse> {
        let caller = auth::person(&self.store, &request, Action::ManageCertificates).await?;
        let rows = self.store.denied_certificates(&caller).await?;
        let denied = rows
            .into_iter()
            .map(|[subject, serial, reason]| v1::DenyCertificateRequest {
                subject,
                serial,
                reason,
            });
        Ok(Response::new(v1::ListDeniedCertificatesResponse {
            denied: denied.collect(),
        }))
    }
}
