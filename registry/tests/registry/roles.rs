//! Every role, every pair of roles and every certificate on every call, against the one table.

use chemxor_core::{Action, ErrorId, Role, RoleSet, allowed};
use chemxor_proto::v1;
use chemxor_registry::store::TokenOrder;
use chemxor_runtime::pki::Subject;
use tonic::Code;

use crate::calls::{Requests, outcome, people_calls, refused_with};
use crate::platform::{DAY, Platform, id, signed};
use crate::services::service_calls;
use crate::targets::{Target, register_workers};

/// Every set of one or two token roles.
fn role_sets() -> Vec<Vec<Role>> {
    let roles: Vec<Role> = Role::ALL
        .into_iter()
        .filter(|role| role.is_token_role())
        .collect();
    let single = roles.iter().map(|role| vec![*role]);
    let pairs = roles
        .iter()
        .enumerate()
        .flat_map(|(at, first)| roles[at + 1..].iter().map(|second| vec![*first, *second]));
    single.chain(pairs).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_token_role_and_each_pair_may_do_what_the_table_says_and_nothing_else() {
    let platform = Platform::start().await;
    let sets = role_sets();
    assert_eq!(sets.len(), 6 + 15);
    let mut gateway = platform.control(&Subject::Gateway).await;
    for roles in sets {
        let set = RoleSet::new(roles.iter().copied());
        let token = platform.store().create_token("test", "someone", &set, DAY);
        let secret = token.await.unwrap().secret;
        // either of the two suffices, and together they allow nothing more
        let may = |action| roles.iter().any(|role| allowed(*role, action));
        for (call, action, outcome) in people_calls(&platform, &secret, &Requests::nowhere()).await
        {
            let denied = refused_with(&outcome) == Some(ErrorId::RoleMissing);
            assert_eq!(denied, !may(action), "{roles:?} {call}: {outcome:?}");
            if let (true, Err(status)) = (denied, &outcome) {
                assert_eq!(status.code(), Code::PermissionDenied);
            }
        }
        let request = v1::AuthorizeSessionRequest {
            token: secret.to_string(),
            model: "esol".to_owned(),
            ..Default::default()
        };
        let outcome = outcome(gateway.authorize_session(request).await);
        let denied = refused_with(&outcome) == Some(ErrorId::RoleMissing);
        assert_eq!(denied, !may(Action::Query), "{roles:?} queries");
    }
}

/// Whatever the role, and although it is the publisher's own token.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_narrowed_to_another_model_reads_and_changes_nothing_of_this_one() {
    let platform = Platform::start().await;
    register_workers(&platform).await;
    let target = Target::make(&platform, "esol", 1, true, "everyone").await;
    let (store, adam) = (platform.store(), platform.caller("adam"));
    let (requests, before) = (target.requests(), target.census(&platform).await);
    let roles: Vec<Role> = Role::ALL
        .into_iter()
        .filter(|role| role.is_token_role())
        .collect();
    let all = RoleSet::new(roles.iter().copied());
    let set = store.set_member(&adam, "default", "paul", "person", &all);
    set.await.unwrap();
    let mut secrets = Vec::new();
    for role in &roles {
        let order = TokenOrder {
            organisation: "default",
            subject: "paul",
            roles: &RoleSet::new([*role]),
            models: &["logd".to_owned()],
            lifetime: DAY,
        };
        secrets.push(store.order_token(&adam, &order).await.unwrap().secret);
    }
    let given = target.census(&platform).await;
    for (role, secret) in roles.iter().zip(&secrets) {
        for (call, action, outcome) in people_calls(&platform, secret, &requests).await {
            let what = format!("{role} {call}: {outcome:?}");
            match refused_with(&outcome) {
                Some(ErrorId::RoleMissing) => {}
                Some(ErrorId::ModelUnknown) => assert!(allowed(*role, action), "{what}"),
                // these name no model; the list of models is narrowed
                None => assert!(["ListModels", "ListWorkers"].contains(&call), "{what}"),
                Some(_) => panic!("{what}"),
            }
        }
        if allowed(*role, Action::ReadCatalogue) {
            let list = signed(secret, v1::ListModelsRequest::default());
            let listed = platform.catalogue().list_models(list).await;
            assert_eq!(listed.unwrap().into_inner().models, [], "{role}");
        }
        let esol = "esol".parse().unwrap();
        let session = store.authorize_session(secret, &esol).await;
        assert!(session.is_err(), "{role}");
    }
    assert_eq!(target.census(&platform).await, given);
    // tokens and a membership were given, by the administrator
    assert_ne!(given, before);
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
        for (call, _, outcome) in people_calls(&platform, token, &Requests::nowhere()).await {
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
