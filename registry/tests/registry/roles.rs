//! Every role and every certificate on every call, against the one table.

use chemxor_core::{Action, ErrorId, Role, RoleSet, allowed};
use chemxor_proto::v1;
use chemxor_registry::store::Visibility;
use chemxor_runtime::pki::Subject;
use tonic::{Code, Status};

use crate::model::{Model, reference};
use crate::platform::{DAY, Platform, id, signed, upload_parts};

/// What the calls are about.
struct Aim {
    model: Model,
    name: String,
    organisation: String,
    token_id: String,
    /// What the model has already: a call that is allowed changes nothing.
    visibility: &'static str,
}

impl Aim {
    /// Nothing that exists.
    fn nowhere() -> Self {
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
async fn people_calls(
    platform: &Platform,
    token: &str,
    aim: &Aim,
) -> Vec<(&'static str, Action, Outcome)> {
    let (model, name, org) = (&aim.model, &aim.name, &aim.organisation);
    let version = model.version();
    let exact = reference(name, &version);
    let (mut catalogue, mut publishing) = (platform.catalogue(), platform.publishing());
    let (mut admin, mut governance) = (platform.admin(), platform.governance());
    let mut calls = Vec::new();
    calls.push((
        "ListModels",
        Action::ReadCatalogue,
        outcome(
            catalogue
                .list_models(signed(token, v1::ListModelsRequest::default()))
                .await,
        ),
    ));
    calls.push((
        "GetModel",
        Action::ReadCatalogue,
        outcome(
            catalogue
                .get_model(signed(
                    token,
                    v1::GetModelRequest {
                        model: exact.clone(),
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "ListWorkers",
        Action::ListWorkers,
        outcome(
            publishing
                .list_workers(signed(token, v1::ListWorkersRequest {}))
                .await,
        ),
    ));
    calls.push((
        "BeginVersion",
        Action::Publish,
        outcome(
            publishing
                .begin_version(signed(token, v1::BeginVersionRequest::default()))
                .await,
        ),
    ));
    calls.push((
        "UploadBlob",
        Action::Publish,
        outcome(
            publishing
                .upload_blob(signed(
                    token,
                    tokio_stream::iter(upload_parts(&version, &model.sha256(0), 0, b"x")),
                ))
                .await,
        ),
    ));
    calls.push((
        "SubmitVersion",
        Action::Publish,
        outcome(
            publishing
                .submit_version(signed(
                    token,
                    v1::SubmitVersionRequest {
                        version: version.clone(),
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "ApproveVersion",
        Action::Approve,
        outcome(
            admin
                .approve_version(signed(
                    token,
                    v1::ApproveVersionRequest {
                        model: exact.clone(),
                        note: String::new(),
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "RevokeVersion",
        Action::Revoke,
        outcome(
            admin
                .revoke_version(signed(
                    token,
                    v1::RevokeVersionRequest {
                        model: exact.clone(),
                        reason: String::new(),
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "CreateToken",
        Action::ManageTokens,
        outcome(
            admin
                .create_token(signed(
                    token,
                    v1::CreateTokenRequest {
                        organisation: org.clone(),
                        ..Default::default()
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "RevokeToken",
        Action::ManageTokens,
        outcome(
            admin
                .revoke_token(signed(
                    token,
                    v1::RevokeTokenRequest {
                        token_id: aim.token_id.clone(),
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "SetOrganisation",
        Action::ManageOrganisations,
        outcome(
            governance
                .set_organisation(signed(
                    token,
                    v1::SetOrganisationRequest {
                        name: "made-here".to_owned(),
                        suspended: false,
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "ListOrganisations",
        Action::ManageOrganisations,
        outcome(
            governance
                .list_organisations(signed(token, v1::ListOrganisationsRequest {}))
                .await,
        ),
    ));
    calls.push((
        "SetConsortium",
        Action::ManageOrganisations,
        outcome(
            governance
                .set_consortium(signed(
                    token,
                    v1::SetConsortiumRequest {
                        name: "made-here".to_owned(),
                        organisations: vec![],
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "SetMember",
        Action::ManageMembers,
        outcome(
            governance
                .set_member(signed(
                    token,
                    v1::Member {
                        organisation: org.clone(),
                        subject: "made-here".to_owned(),
                        ..Default::default()
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "RemoveMember",
        Action::ManageMembers,
        outcome(
            governance
                .remove_member(signed(
                    token,
                    v1::RemoveMemberRequest {
                        organisation: org.clone(),
                        subject: "made-here".to_owned(),
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "ListMembers",
        Action::ManageMembers,
        outcome(
            governance
                .list_members(signed(
                    token,
                    v1::ListMembersRequest {
                        organisation: org.clone(),
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "ListTokens",
        Action::ManageTokens,
        outcome(
            governance
                .list_tokens(signed(
                    token,
                    v1::ListTokensRequest {
                        organisation: org.clone(),
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "SetVisibility",
        Action::ManageModels,
        outcome(
            governance
                .set_visibility(signed(
                    token,
                    v1::SetVisibilityRequest {
                        model: name.clone(),
                        visibility: aim.visibility.to_owned(),
                        ..Default::default()
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "SetAlias",
        Action::ManageModels,
        outcome(
            governance
                .set_alias(signed(
                    token,
                    v1::SetAliasRequest {
                        model: name.clone(),
                        alias: "stable".to_owned(),
                        version: version.clone(),
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "RollbackAlias",
        Action::ManageModels,
        outcome(
            governance
                .rollback_alias(signed(
                    token,
                    v1::RollbackAliasRequest {
                        model: name.clone(),
                        alias: "stable".to_owned(),
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "AliasHistory",
        Action::ReadCatalogue,
        outcome(
            governance
                .alias_history(signed(
                    token,
                    v1::AliasHistoryRequest {
                        model: name.clone(),
                        alias: "stable".to_owned(),
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "DeprecateVersion",
        Action::ManageModels,
        outcome(
            governance
                .deprecate_version(signed(
                    token,
                    v1::DeprecateVersionRequest {
                        model: exact.clone(),
                        ..Default::default()
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "SetQuota",
        Action::ManageQuotas,
        outcome(
            governance
                .set_quota(signed(
                    token,
                    v1::Quota {
                        model: name.clone(),
                        organisation: "*".to_owned(),
                        ..Default::default()
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "ListQuotas",
        Action::ManageQuotas,
        outcome(
            governance
                .list_quotas(signed(
                    token,
                    v1::ListQuotasRequest {
                        model: name.clone(),
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "ExportAudit",
        Action::ReadAudit,
        outcome(
            governance
                .export_audit(signed(token, v1::ExportAuditRequest {}))
                .await,
        ),
    ));
    calls.push((
        "DenyCertificate",
        Action::ManageCertificates,
        outcome(
            governance
                .deny_certificate(signed(
                    token,
                    v1::DenyCertificateRequest {
                        subject: "chemxor://worker/made-here".to_owned(),
                        ..Default::default()
                    },
                ))
                .await,
        ),
    ));
    calls.push((
        "ListDeniedCertificates",
        Action::ManageCertificates,
        outcome(
            governance
                .list_denied_certificates(signed(token, v1::ListDeniedCertificatesRequest {}))
                .await,
        ),
    ));
    calls
}

/// The RPCs of the services that people call, as the contract lists them.
fn contract() -> Vec<&'static str> {
    let files = [
        include_str!("../../../proto/chemxor/v1/registry.proto"),
        include_str!("../../../proto/chemxor/v1/admin.proto"),
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
            names.extend(rpcs.map(|rpc| rpc.split('(').next().unwrap()));
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

/// Role x RPC x visibility: a stranger of another organisation, with each role, about a draft and an
/// approved model of each visibility. Nothing of another organisation is changed or revealed.
#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_isolated_on_every_call_whatever_their_role() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let store = platform.store();
    let adam = platform.caller("adam");
    let victim = platform.token("quinn");
    let mut strangers = Vec::new();
    for role in Role::ALL
        .into_iter()
        .filter(|role| role.is_token_role() && !role.is_platform_role())
    {
        let token = platform
            .token_in("stranger", &role.to_string(), &[role])
            .await;
        strangers.push((role, token.secret));
    }
    store
        .set_consortium(&adam, "friends", &["default".to_owned()])
        .await
        .unwrap();
    store
        .set_organisation(&adam, "friend", false)
        .await
        .unwrap();
    for (seed, (kind, approved)) in [
        ("private", false),
        ("private", true),
        ("listed", true),
        ("consortium", true),
        ("everyone", false),
        ("everyone", true),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("model-{seed}");
        let model = Model::new(&name, seed as u64);
        platform.submit("paul", &model).await;
        let digest = model.version().parse().unwrap();
        if approved {
            let event = chemxor_core::Event::Approve;
            let rita = platform.caller("rita");
            store
                .transition(&rita, &digest, event, "", None)
                .await
                .unwrap();
        }
        let visibility = match kind {
            "private" => Visibility::Private,
            "listed" => Visibility::Listed(vec!["friend".to_owned()]),
            "consortium" => Visibility::Consortium("friends".to_owned()),
            _ => Visibility::Everyone,
        };
        let model_name = name.parse().unwrap();
        store
            .set_visibility(&adam, &model_name, &visibility)
            .await
            .unwrap();
        let seen = kind == "everyone" && approved;
        let aim = Aim {
            model,
            name: name.clone(),
            organisation: "default".to_owned(),
            token_id: victim.id.to_string(),
            visibility: "private",
        };
        for (role, secret) in &strangers {
            for (call, action, outcome) in people_calls(&platform, secret, &aim).await {
                let what =
                    format!("{role} {call} on a {kind} model, approved: {approved}: {outcome:?}");
                if !allowed(*role, action) {
                    assert_eq!(refused_with(&outcome), Some(ErrorId::RoleMissing), "{what}");
                    continue;
                }
                let reads = match call {
                    // of these the answer, not the refusal, is bounded; see the catalogue's tests
                    "ListModels" | "ListWorkers" => true,
                    "GetModel" => seen,
                    // whether a model is there is public with it, its private history is empty
                    "AliasHistory" => kind == "everyone",
                    _ => false,
                };
                assert_eq!(outcome.is_ok(), reads, "{what}");
                if !reads {
                    let hidden = [
                        ErrorId::ModelUnknown,
                        ErrorId::OrganisationUnknown,
                        // no difference to what does not exist
                        ErrorId::ArgumentInvalid,
                        ErrorId::ManifestRefused,
                        ErrorId::WrongState,
                    ];
                    assert!(
                        refused_with(&outcome).is_some_and(|id| hidden.contains(&id)),
                        "{what}"
                    );
                }
            }
            let list = v1::ListModelsRequest {
                page_size: 200,
                ..Default::default()
            };
            if allowed(*role, Action::ReadCatalogue) {
                let answer = platform.catalogue().list_models(signed(secret, list)).await;
                let models = answer.unwrap().into_inner().models;
                let listed = models.iter().any(|listed| listed.name == name);
                assert_eq!(
                    listed, seen,
                    "{role} lists a {kind} model, approved: {approved}"
                );
            }
            let session = store
                .authorize_session(secret, &name.parse().unwrap())
                .await;
            let may = seen && allowed(*role, Action::Query);
            assert_eq!(session.is_ok(), may, "{role} queries a {kind} model");
        }
    }
    // the victim's token and the models are as they were
    assert!(store.find_token(&victim.secret).await.is_ok());
    let listed = store.list_versions(&adam, None, 200).await.unwrap();
    assert!(
        listed
            .iter()
            .all(|row| row.state != chemxor_core::State::Revoked)
    );
}

type Outcome = Result<(), Status>;

fn outcome<T>(answer: Result<T, Status>) -> Outcome {
    answer.map(drop)
}

fn refused_with(outcome: &Outcome) -> Option<ErrorId> {
    outcome.as_ref().err().map(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_token_role_may_do_what_the_table_says_and_nothing_else() {
    let platform = Platform::start().await;
    for role in Role::ALL.into_iter().filter(|role| role.is_token_role()) {
        let roles = RoleSet::new([role]);
        let token = platform
            .store()
            .create_token("test", "someone", &roles, DAY);
        let secret = token.await.unwrap().secret;
        for (call, action, outcome) in people_calls(&platform, &secret, &Aim::nowhere()).await {
            let denied = refused_with(&outcome) == Some(ErrorId::RoleMissing);
            assert_eq!(denied, !allowed(role, action), "{role} {call}: {outcome:?}");
            if let (true, Err(status)) = (denied, &outcome) {
                assert_eq!(status.code(), Code::PermissionDenied);
            }
        }
        let mut control = platform.control(&Subject::Gateway).await;
        let request = v1::AuthorizeSessionRequest {
            token: secret.to_string(),
            model: "esol".to_owned(),
        };
        let outcome = outcome(control.authorize_session(request).await);
        let denied = refused_with(&outcome) == Some(ErrorId::RoleMissing);
        assert_eq!(denied, !allowed(role, Action::Query), "{role} queries");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_answered_without_a_genuine_token() {
    let platform = Platform::start().await;
    let typo = platform.token("adam").secret.replacen("cxr_", "cxr_a", 1);
    for (token, expected) in [
        ("", ErrorId::TokenMissing),
        ("nonsense", ErrorId::TokenRefused),
        (&typo, ErrorId::TokenRefused),
    ] {
        for (call, _, outcome) in people_calls(&platform, token, &Aim::nowhere()).await {
            assert_eq!(refused_with(&outcome), Some(expected), "{call}");
            assert_eq!(outcome.unwrap_err().code(), Code::Unauthenticated);
        }
    }
    let bare = platform
        .catalogue()
        .list_models(v1::ListModelsRequest::default())
        .await;
    assert_eq!(id(&bare.unwrap_err()), ErrorId::TokenMissing);
}

/// Calls of services, each with the right it needs.
async fn service_calls(
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
    };
    let authorize = outcome(control.authorize_session(authorize).await);
    let check = v1::CheckSessionRequest {
        version: model.version(),
        token_id: platform.token("quinn").id.to_string(),
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

#[tokio::test(flavor = "multi_thread")]
async fn only_the_services_own_certificates_open_control() {
    let platform = Platform::start().await;
    let name = |text: &str| text.parse().unwrap();
    for (subject, role) in [
        (Subject::Worker(name("worker-1")), Some(Role::Worker)),
        (Subject::Gateway, Some(Role::Gateway)),
        (Subject::Registry, None),
        (Subject::Client(name("worker-1")), None),
    ] {
        for (call, action, outcome) in service_calls(&platform, &subject).await {
            let denied = refused_with(&outcome) == Some(ErrorId::CertificateRefused);
            let may = role.is_some_and(|role| allowed(role, action));
            assert_eq!(denied, !may, "{subject} {call}: {outcome:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_speaks_for_itself_only() {
    let platform = Platform::start().await;
    let subject = Subject::Worker("worker-2".parse().unwrap());
    for (call, _, outcome) in service_calls(&platform, &subject).await.drain(..2) {
        let expected = Some(ErrorId::CertificateRefused);
        assert_eq!(refused_with(&outcome), expected, "{call}");
    }
}
