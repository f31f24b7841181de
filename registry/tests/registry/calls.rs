//! Every call of the contract with the right that it needs, for the matrices of `roles` and `tenants`.

use chemxor_core::{Action, ErrorId};
use chemxor_proto::v1;
use chemxor_runtime::pki::Subject;
use tonic::Status;

use crate::model::{Model, reference};
use crate::platform::{Platform, id, signed, upload_parts};

/// Calls of people's services that need a certificate of their subject and no token; see `enrolment`.
const BY_CERTIFICATE: [&str; 2] = ["RequestCertificate", "FetchCertificate"];

pub(crate) type Outcome = Result<(), Status>;

pub(crate) fn outcome<T>(answer: Result<T, Status>) -> Outcome {
    answer.map(drop)
}

pub(crate) fn refused_with(outcome: &Outcome) -> Option<ErrorId> {
    outcome.as_ref().err().map(id)
}

/// What the calls are about.
pub(crate) struct Aim {
    pub(crate) model: Model,
    pub(crate) name: String,
    pub(crate) organisation: String,
    pub(crate) token_id: String,
    /// What the model has already: a call that is allowed changes nothing.
    pub(crate) visibility: &'static str,
}

impl Aim {
    /// Nothing that exists.
    pub(crate) fn nowhere() -> Self {
        Self {
            model: Model::new("esol", 1),
            name: "esol".to_owned(),
            organisation: String::new(),
            token_id: String::new(),
            visibility: "private",
        }
    }
}

/// Every call of people, each with the right it needs.
pub(crate) async fn people_calls(
    platform: &Platform,
    token: &str,
    aim: &Aim,
) -> Vec<(&'static str, Action, Outcome)> {
    let (model, name, org) = (&aim.model, &aim.name, &aim.organisation);
    let version = model.version();
    let exact = reference(name, &version);
    let (mut catalogue, mut publishing) = (platform.catalogue(), platform.publishing());
    let (mut admin, mut governance) = (platform.admin(), platform.governance());
    let (mut cards, mut certificates) = (platform.cards(), platform.certificates());
    let mut calls = Vec::new();
    macro_rules! call {
        ($name:literal, $action:ident, $client:ident.$method:ident, $message:expr) => {
            let answer = $client.$method(signed(token, $message)).await;
            calls.push(($name, Action::$action, outcome(answer)));
        };
    }
    call!(
        "ListModels",
        ReadCatalogue,
        catalogue.list_models,
        v1::ListModelsRequest::default()
    );
    call!(
        "GetModel",
        ReadCatalogue,
        catalogue.get_model,
        v1::GetModelRequest {
            model: exact.clone(),
        }
    );
    call!(
        "ListWorkers",
        ListWorkers,
        publishing.list_workers,
        v1::ListWorkersRequest {}
    );
    call!(
        "BeginVersion",
        Publish,
        publishing.begin_version,
        v1::BeginVersionRequest::default()
    );
    call!(
        "UploadBlob",
        Publish,
        publishing.upload_blob,
        tokio_stream::iter(upload_parts(&version, &model.sha256(0), 0, b"x"))
    );
    call!(
        "SubmitVersion",
        Publish,
        publishing.submit_version,
        v1::SubmitVersionRequest {
            version: version.clone(),
        }
    );
    call!(
        "RecordConformance",
        Publish,
        publishing.record_conformance,
        v1::RecordConformanceRequest {
            version: version.clone(),
            ..Default::default()
        }
    );
    call!(
        "AuthorizeWorkers",
        Publish,
        publishing.authorize_workers,
        v1::AuthorizeWorkersRequest {
            version: version.clone(),
            ..Default::default()
        }
    );
    call!(
        "ApproveVersion",
        Approve,
        admin.approve_version,
        v1::ApproveVersionRequest {
            model: exact.clone(),
            note: String::new(),
        }
    );
    call!(
        "RevokeVersion",
        Revoke,
        admin.revoke_version,
        v1::RevokeVersionRequest {
            model: exact.clone(),
            reason: String::new(),
        }
    );
    call!(
        "CreateToken",
        ManageTokens,
        admin.create_token,
        v1::CreateTokenRequest {
            organisation: org.clone(),
            ..Default::default()
        }
    );
    call!(
        "RevokeToken",
        ManageTokens,
        admin.revoke_token,
        v1::RevokeTokenRequest {
            token_id: aim.token_id.clone(),
        }
    );
    call!(
        "SetOrganisation",
        ManageOrganisations,
        governance.set_organisation,
        v1::SetOrganisationRequest {
            name: "made-here".to_owned(),
            suspended: false,
        }
    );
    call!(
        "ListOrganisations",
        ManageOrganisations,
        governance.list_organisations,
        v1::ListOrganisationsRequest {}
    );
    call!(
        "SetConsortium",
        ManageOrganisations,
        governance.set_consortium,
        v1::SetConsortiumRequest {
            name: "made-here".to_owned(),
            organisations: vec![],
        }
    );
    call!(
        "ListConsortia",
        ManageOrganisations,
        governance.list_consortia,
        v1::ListConsortiaRequest {}
    );
    call!(
        "SetMember",
        ManageMembers,
        governance.set_member,
        v1::Member {
            organisation: org.clone(),
            subject: "made-here".to_owned(),
            ..Default::default()
        }
    );
    call!(
        "RemoveMember",
        ManageMembers,
        governance.remove_member,
        v1::RemoveMemberRequest {
            organisation: org.clone(),
            subject: "made-here".to_owned(),
        }
    );
    call!(
        "ListMembers",
        ManageMembers,
        governance.list_members,
        v1::ListMembersRequest {
            organisation: org.clone(),
        }
    );
    call!(
        "ListTokens",
        ManageTokens,
        governance.list_tokens,
        v1::ListTokensRequest {
            organisation: org.clone(),
        }
    );
    call!(
        "SetVisibility",
        ManageModels,
        governance.set_visibility,
        v1::SetVisibilityRequest {
            model: name.clone(),
            visibility: aim.visibility.to_owned(),
            ..Default::default()
        }
    );
    call!(
        "GetVisibility",
        ManageModels,
        governance.get_visibility,
        v1::GetVisibilityRequest {
            model: name.clone()
        }
    );
    call!(
        "SetAlias",
        ManageModels,
        governance.set_alias,
        v1::SetAliasRequest {
            model: name.clone(),
            alias: "stable".to_owned(),
            version: version.clone(),
        }
    );
    call!(
        "RollbackAlias",
        ManageModels,
        governance.rollback_alias,
        v1::RollbackAliasRequest {
            model: name.clone(),
            alias: "stable".to_owned(),
        }
    );
    call!(
        "ListAliases",
        ReadCatalogue,
        governance.list_aliases,
        v1::ListAliasesRequest {
            model: name.clone()
        }
    );
    call!(
        "GetAllowance",
        ReadCatalogue,
        governance.get_allowance,
        v1::GetAllowanceRequest {
            model: exact.clone(),
        }
    );
    call!(
        "AliasHistory",
        ReadCatalogue,
        governance.alias_history,
        v1::AliasHistoryRequest {
            model: name.clone(),
            alias: "stable".to_owned(),
        }
    );
    call!(
        "DeprecateVersion",
        ManageModels,
        governance.deprecate_version,
        v1::DeprecateVersionRequest {
            model: exact.clone(),
            ..Default::default()
        }
    );
    call!(
        "SetQuota",
        ManageQuotas,
        governance.set_quota,
        v1::Quota {
            model: name.clone(),
            organisation: "*".to_owned(),
            ..Default::default()
        }
    );
    call!(
        "ListQuotas",
        ManageQuotas,
        governance.list_quotas,
        v1::ListQuotasRequest {
            model: name.clone(),
        }
    );
    call!(
        "ExportAudit",
        ReadAudit,
        governance.export_audit,
        v1::ExportAuditRequest {}
    );
    call!(
        "DenyCertificate",
        ManageCertificates,
        governance.deny_certificate,
        v1::DenyCertificateRequest {
            subject: "chemxor://worker/made-here".to_owned(),
            ..Default::default()
        }
    );
    call!(
        "ListDeniedCertificates",
        ManageCertificates,
        governance.list_denied_certificates,
        v1::ListDeniedCertificatesRequest {}
    );
    call!(
        "SetCard",
        Publish,
        cards.set_card,
        v1::SetCardRequest {
            version: version.clone(),
            ..Default::default()
        }
    );
    call!(
        "GetCard",
        ReadCatalogue,
        cards.get_card,
        v1::GetCardRequest {
            model: exact.clone()
        }
    );
    call!(
        "ListCertificates",
        ManageCertificates,
        certificates.list_certificates,
        v1::ListCertificatesRequest { waiting: true }
    );
    call!(
        "IssueCertificate",
        ManageCertificates,
        certificates.issue_certificate,
        v1::IssueCertificateRequest::default()
    );
    call!(
        "RefuseCertificate",
        ManageCertificates,
        certificates.refuse_certificate,
        v1::RefuseCertificateRequest::default()
    );
    calls
}

/// Calls of services, each with the right it needs.
pub(crate) async fn service_calls(
    platform: &Platform,
    subject: &Subject,
) -> Vec<(&'static str, Action, Outcome)> {
    let mut control = platform.control(subject).await;
    let model = Model::new("esol", 1);
    let register = v1::RegisterWorkerRequest {
        name: "worker-1".to_owned(),
        sealing_key: vec![1; 32].into(),
        endpoint: "localhost:1".to_owned(),
    };
    let register = outcome(control.register_worker(register).await);
    let list = v1::ListAssignmentsRequest {
        worker: "worker-1".to_owned(),
    };
    let list = outcome(control.list_assignments(list).await);
    let fetch = v1::FetchBlobRequest {
        version: model.version(),
        sha256: model.sha256(0).into(),
    };
    let fetch = match control.fetch_blob(fetch).await {
        Ok(answer) => outcome(answer.into_inner().message().await),
        Err(status) => Err(status),
    };
    let authorize = v1::AuthorizeSessionRequest {
        token: platform.token("quinn").secret.to_string(),
        model: "esol".to_owned(),
        ..Default::default()
    };
    let authorize = outcome(control.authorize_session(authorize).await);
    let check = v1::CheckSessionRequest {
        version: model.version(),
        token_id: platform.token("quinn").id.to_string(),
        ..Default::default()
    };
    let check = outcome(control.check_session(check).await);
    let mut metering = platform.metering(subject).await;
    let reserve = outcome(
        metering
            .reserve_queries(v1::ReserveQueriesRequest::default())
            .await,
    );
    let settle = outcome(
        metering
            .settle_queries(v1::SettleQueriesRequest::default())
            .await,
    );
    let (serve, route) = (Action::ServePartitions, Action::RouteSessions);
    vec![
        ("RegisterWorker", serve, register),
        ("ListAssignments", serve, list),
        ("FetchBlob", serve, fetch),
        ("AuthorizeSession", route, authorize),
        ("CheckSession", route, check),
        ("ReserveQueries", route, reserve),
        ("SettleQueries", route, settle),
    ]
}

/// The RPCs of the services that people call, as the contract lists them.
fn contract() -> Vec<&'static str> {
    let files = [
        include_str!("../../../proto/chemxor/v1/registry.proto"),
        include_str!("../../../proto/chemxor/v1/admin.proto"),
        include_str!("../../../proto/chemxor/v1/cards.proto"),
        include_str!("../../../proto/chemxor/v1/certificates.proto"),
    ];
    let mut names = Vec::new();
    for service in files
        .iter()
        .flat_map(|file| file.split("\nservice ").skip(1))
    {
        if !service.starts_with("Control") && !service.starts_with("Metering") {
            let rpcs = service
                .lines()
                .filter_map(|line| line.strip_prefix("  rpc "));
            let names_of = rpcs.map(|rpc| rpc.split('(').next().unwrap());
            names.extend(names_of.filter(|name| !BY_CERTIFICATE.contains(name)));
        }
    }
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_covers_every_call_of_the_contract() {
    let platform = Platform::start().await;
    let calls = people_calls(&platform, "nonsense", &Aim::nowhere()).await;
    let mut names: Vec<&str> = calls.iter().map(|(call, ..)| *call).collect();
    names.sort_unstable();
    assert_eq!(names, contract());
}
