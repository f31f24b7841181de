//! Every role and every certificate on every call, against the one table.

use chemxor_core::{Action, ErrorId, Role, RoleSet, allowed};
use chemxor_proto::v1;
use chemxor_runtime::pki::Subject;
use tonic::{Code, Status};

use crate::model::{Model, reference};
use crate::platform::{DAY, Platform, id, signed, upload_parts};

/// Calls of people, each with the right it needs.
async fn people_calls(platform: &Platform, token: &str) -> Vec<(&'static str, Action, Outcome)> {
    let model = Model::new("esol", 1);
    let exact = reference("esol", &model.version());
    let (mut catalogue, mut publishing) = (platform.catalogue(), platform.publishing());
    let mut admin = platform.admin();
    let by = |message| signed(token, message);
    let list = catalogue
        .list_models(signed(token, v1::ListModelsRequest::default()))
        .await;
    let get = catalogue
        .get_model(by(v1::GetModelRequest {
            model: exact.clone(),
        }))
        .await;
    let workers = publishing
        .list_workers(signed(token, v1::ListWorkersRequest {}))
        .await;
    let begin = publishing
        .begin_version(signed(token, v1::BeginVersionRequest::default()))
        .await;
    let parts = upload_parts(&model.version(), &model.sha256(0), 0, b"x");
    let upload = publishing
        .upload_blob(signed(token, tokio_stream::iter(parts)))
        .await;
    let submit = publishing
        .submit_version(signed(
            token,
            v1::SubmitVersionRequest {
                version: model.version(),
            },
        ))
        .await;
    let approve = admin
        .approve_version(signed(
            token,
            v1::ApproveVersionRequest {
                model: exact.clone(),
                note: String::new(),
            },
        ))
        .await;
    let revoke = admin
        .revoke_version(signed(
            token,
            v1::RevokeVersionRequest {
                model: exact,
                reason: String::new(),
            },
        ))
        .await;
    let create = admin
        .create_token(signed(token, v1::CreateTokenRequest::default()))
        .await;
    let end = admin
        .revoke_token(signed(token, v1::RevokeTokenRequest::default()))
        .await;
    vec![
        ("ListModels", Action::ReadCatalogue, outcome(list)),
        ("GetModel", Action::ReadCatalogue, outcome(get)),
        ("ListWorkers", Action::ListWorkers, outcome(workers)),
        ("BeginVersion", Action::Publish, outcome(begin)),
        ("UploadBlob", Action::Publish, outcome(upload)),
        ("SubmitVersion", Action::Publish, outcome(submit)),
        ("ApproveVersion", Action::Approve, outcome(approve)),
        ("RevokeVersion", Action::Revoke, outcome(revoke)),
        ("CreateToken", Action::ManageTokens, outcome(create)),
        ("RevokeToken", Action::ManageTokens, outcome(end)),
    ]
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
        for (call, action, outcome) in people_calls(&platform, &secret).await {
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
        for (call, _, outcome) in people_calls(&platform, token).await {
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
    let (serve, route) = (Action::ServePartitions, Action::RouteSessions);
    vec![
        ("RegisterWorker", serve, register),
        ("ListAssignments", serve, list),
        ("FetchBlob", serve, fetch),
        ("AuthorizeSession", route, authorize),
        ("CheckSession", route, check),
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
