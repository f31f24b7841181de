//! Every role and every certificate on every call, against the one table.

use chemxor_core::{Action, ErrorId, Role, RoleSet, allowed};
use chemxor_proto::v1;
use chemxor_runtime::pki::Subject;
use tonic::Code;

use crate::calls::{Aim, outcome, people_calls, refused_with, service_calls};
use crate::platform::{DAY, Platform, id};

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
            ..Default::default()
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
