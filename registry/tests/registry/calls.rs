//! Every call of people with the right that it needs, for the matrices of `roles`, `tenants` and
//! `refusals`; those of services are in `services`.

use chemxor_core::{Action, ErrorId};
use chemxor_proto::v1;
use tonic::Status;

use crate::model::{Model, reference};
use crate::platform::{Platform, id, signed, upload_parts};

pub(crate) type Outcome = Result<(), Status>;

/// The messages of an upload, as a stream that can be sent again.
pub(crate) type Upload = futures::stream::Iter<std::vec::IntoIter<v1::UploadBlobRequest>>;

pub(crate) fn outcome<T>(answer: Result<T, Status>) -> Outcome {
    answer.map(drop)
}

pub(crate) fn refused_with(outcome: &Outcome) -> Option<ErrorId> {
    outcome.as_ref().err().map(id)
}

/// One line a call: its name, the right it needs, who answers it, what it carries.
macro_rules! people {
    ($($rpc:literal $action:ident $client:ident.$method:ident($message:ty);)*) => {
        /// What each call carries.
        #[derive(Clone)]
        pub(crate) struct Requests {
            $(pub(crate) $method: $message,)*
        }

        /// Names and rights.
        pub(crate) const CALLS: &[(&str, Action)] = &[$(($rpc, Action::$action),)*];

        /// One of them.
        pub(crate) async fn call(
            platform: &Platform,
            token: &str,
            requests: &Requests,
            rpc: &str,
        ) -> Outcome {
            match rpc {
                $($rpc => {
                    let request = signed(token, requests.$method.clone());
                    outcome(Box::pin(platform.$client().$method(request)).await)
                })*
                _ => panic!("no call {rpc}"),
            }
        }
    };
}

people! {
    "ListModels" ReadCatalogue catalogue.list_models(v1::ListModelsRequest);
    "GetModel" ReadCatalogue catalogue.get_model(v1::GetModelRequest);
    "ListWorkers" ListWorkers publishing.list_workers(v1::ListWorkersRequest);
    "BeginVersion" Publish publishing.begin_version(v1::BeginVersionRequest);
    "UploadBlob" Publish publishing.upload_blob(Upload);
    "SubmitVersion" Publish publishing.submit_version(v1::SubmitVersionRequest);
    "RecordConformance" Publish publishing.record_conformance(v1::RecordConformanceRequest);
    "AuthorizeWorkers" Publish publishing.authorize_workers(v1::AuthorizeWorkersRequest);
    "ApproveVersion" Approve admin.approve_version(v1::ApproveVersionRequest);
    "CreateToken" ManageTokens admin.create_token(v1::CreateTokenRequest);
    "SetOrganisation" ManageOrganisations governance.set_organisation(v1::SetOrganisationRequest);
    "ListOrganisations" ManageOrganisations
        governance.list_organisations(v1::ListOrganisationsRequest);
    "SetConsortium" ManageOrganisations governance.set_consortium(v1::SetConsortiumRequest);
    "ListConsortia" ManageOrganisations governance.list_consortia(v1::ListConsortiaRequest);
    "SetMember" ManageMembers governance.set_member(v1::Member);
    "ListMembers" ManageMembers governance.list_members(v1::ListMembersRequest);
    "ListTokens" ManageTokens governance.list_tokens(v1::ListTokensRequest);
    "SetVisibility" ManageModels governance.set_visibility(v1::SetVisibilityRequest);
    "GetVisibility" ManageModels governance.get_visibility(v1::GetVisibilityRequest);
    "SetAlias" ManageModels governance.set_alias(v1::SetAliasRequest);
    "RollbackAlias" ManageModels governance.rollback_alias(v1::RollbackAliasRequest);
    "ListAliases" ReadCatalogue governance.list_aliases(v1::ListAliasesRequest);
    "GetAllowance" ReadCatalogue governance.get_allowance(v1::GetAllowanceRequest);
    "AliasHistory" ReadCatalogue governance.alias_history(v1::AliasHistoryRequest);
    "SetQuota" ManageQuotas governance.set_quota(v1::Quota);
    "ListQuotas" ManageQuotas governance.list_quotas(v1::ListQuotasRequest);
    "ExportAudit" ReadAudit governance.export_audit(v1::ExportAuditRequest);
    "DenyCertificate" ManageCertificates governance.deny_certificate(v1::DenyCertificateRequest);
    "ListDeniedCertificates" ManageCertificates
        governance.list_denied_certificates(v1::ListDeniedCertificatesRequest);
    "SetCard" Publish cards.set_card(v1::SetCardRequest);
    "GetCard" ReadCatalogue cards.get_card(v1::GetCardRequest);
    "ListCertificates" ManageCertificates
        certificates.list_certificates(v1::ListCertificatesRequest);
    "IssueCertificate" ManageCertificates
        certificates.issue_certificate(v1::IssueCertificateRequest);
    "RefuseCertificate" ManageCertificates
        certificates.refuse_certificate(v1::RefuseCertificateRequest);
    // these end something: after all others
    "RemoveMember" ManageMembers governance.remove_member(v1::RemoveMemberRequest);
    "RevokeToken" ManageTokens admin.revoke_token(v1::RevokeTokenRequest);
    "DeprecateVersion" ManageModels governance.deprecate_version(v1::DeprecateVersionRequest);
    "RevokeVersion" Revoke admin.revoke_version(v1::RevokeVersionRequest);
}

/// Every call of people, each with the right it needs.
pub(crate) async fn people_calls(
    platform: &Platform,
    token: &str,
    requests: &Requests,
) -> Vec<(&'static str, Action, Outcome)> {
    let mut calls = Vec::with_capacity(CALLS.len());
    for (rpc, action) in CALLS {
        let outcome = call(platform, token, requests, rpc).await;
        calls.push((*rpc, *action, outcome));
    }
    calls
}

impl Requests {
    /// About nothing that exists.
    pub(crate) fn nowhere() -> Self {
        let (model, name) = (Model::new("esol", 1), "esol".to_owned());
        let version = model.version();
        let exact = reference(&name, &version);
        let (alias, subject) = ("stable".to_owned(), "made-here".to_owned());
        let upload = upload_parts(&version, &model.sha256(0), 0, b"x");
        Self {
            list_models: Default::default(),
            get_model: v1::GetModelRequest {
                model: exact.clone(),
            },
            list_workers: Default::default(),
            begin_version: Default::default(),
            upload_blob: futures::stream::iter(upload),
            submit_version: v1::SubmitVersionRequest {
                version: version.clone(),
            },
            record_conformance: v1::RecordConformanceRequest {
                version: version.clone(),
                ..Default::default()
            },
            authorize_workers: v1::AuthorizeWorkersRequest {
                version: version.clone(),
                ..Default::default()
            },
            approve_version: v1::ApproveVersionRequest {
                model: exact.clone(),
                ..Default::default()
            },
            revoke_version: v1::RevokeVersionRequest {
                model: exact.clone(),
                ..Default::default()
            },
            create_token: Default::default(),
            revoke_token: Default::default(),
            set_organisation: v1::SetOrganisationRequest {
                name: subject.clone(),
                ..Default::default()
            },
            list_organisations: Default::default(),
            set_consortium: v1::SetConsortiumRequest {
                name: subject.clone(),
                ..Default::default()
            },
            list_consortia: Default::default(),
            set_member: v1::Member {
                subject: subject.clone(),
                ..Default::default()
            },
            remove_member: v1::RemoveMemberRequest {
                subject,
                ..Default::default()
            },
            list_members: Default::default(),
            list_tokens: Default::default(),
            set_visibility: v1::SetVisibilityRequest {
                model: name.clone(),
                visibility: "private".to_owned(),
                ..Default::default()
            },
            get_visibility: v1::GetVisibilityRequest {
                model: name.clone(),
            },
            set_alias: v1::SetAliasRequest {
                model: name.clone(),
                alias: alias.clone(),
                version: version.clone(),
            },
            rollback_alias: v1::RollbackAliasRequest {
                model: name.clone(),
                alias: alias.clone(),
            },
            list_aliases: v1::ListAliasesRequest {
                model: name.clone(),
            },
            get_allowance: v1::GetAllowanceRequest {
                model: exact.clone(),
            },
            alias_history: v1::AliasHistoryRequest {
                model: name.clone(),
                alias,
            },
            deprecate_version: v1::DeprecateVersionRequest {
                model: exact.clone(),
                ..Default::default()
            },
            set_quota: v1::Quota {
                model: name.clone(),
                organisation: "*".to_owned(),
                ..Default::default()
            },
            list_quotas: v1::ListQuotasRequest { model: name },
            export_audit: Default::default(),
            deny_certificate: v1::DenyCertificateRequest {
                subject: "chemxor://worker/made-here".to_owned(),
                ..Default::default()
            },
            list_denied_certificates: Default::default(),
            set_card: v1::SetCardRequest {
                version,
                ..Default::default()
            },
            get_card: v1::GetCardRequest { model: exact },
            list_certificates: v1::ListCertificatesRequest { waiting: true },
            issue_certificate: Default::default(),
            refuse_certificate: Default::default(),
        }
    }
}
