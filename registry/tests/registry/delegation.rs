//! Rights that are handed on: nobody gives, takes or revokes beyond the own reach.

use chemxor_core::{ErrorId, Event, Role, RoleSet, VersionId};
use chemxor_proto::v1;
use chemxor_registry::RegistryError;
use chemxor_registry::store::{Caller, Store, TokenOrder};

use crate::api::{Api, Direct};
use crate::model::Model;
use crate::platform::{DAY, Platform};

fn refusal<T>(answer: Result<T, RegistryError>) -> Option<ErrorId> {
    answer.err().map(|error| error.id())
}

/// Orders a token for one role in the organisation `default`.
async fn order(
    store: &Store,
    by: &Caller,
    subject: &str,
    role: Role,
    models: &[String],
) -> Result<Caller, RegistryError> {
    let order = TokenOrder {
        organisation: "default",
        subject,
        roles: &RoleSet::new([role]),
        models,
        lifetime: DAY,
    };
    let made = store.order_token(by, &order).await?;
    store.find_token(&made.secret).await
}

/// The attack: an organisation's administrator makes a token in the name of the platform's, who is a
/// member of the same organisation, or takes the platform's rights away.
#[tokio::test(flavor = "multi_thread")]
async fn an_organisations_administrator_has_no_say_over_the_platforms() {
    let platform = Platform::start().await;
    let (store, adam) = (platform.store(), platform.caller("adam"));
    let olga = order(store, &adam, "olga", Role::OrgAdmin, &[])
        .await
        .unwrap();
    let refused = Some(ErrorId::RoleMissing);
    for role in [Role::OrgAdmin, Role::Querier] {
        assert_eq!(
            refusal(order(store, &olga, "adam", role, &[]).await),
            refused
        );
    }
    let revoked = store.revoke_token(&olga, platform.token("adam").id).await;
    assert_eq!(refusal(revoked), refused);
    let querier = RoleSet::new([Role::Querier]);
    let set = store.set_member(&olga, "default", "adam", "person", &querier);
    assert_eq!(refusal(set.await), refused);
    let removed = store.remove_member(&olga, "default", "adam").await;
    assert_eq!(refusal(removed), refused);
    // the platform's administrator is as before, and over others the organisation's has the say
    let known = store.find_token(&platform.token("adam").secret).await;
    assert!(known.unwrap().roles.contains(Role::Admin));
    store
        .revoke_token(&olga, platform.token("quinn").id)
        .await
        .unwrap();
    store
        .remove_member(&olga, "default", "quinn")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_narrowed_to_models_makes_none_that_reach_further() {
    let platform = Platform::start().await;
    let (store, adam) = (platform.store(), platform.caller("adam"));
    let esol = ["esol".to_owned()];
    let olga = order(store, &adam, "olga", Role::OrgAdmin, &esol)
        .await
        .unwrap();
    for further in [
        &[][..],
        &["logd".to_owned()],
        &["esol".to_owned(), "logd".to_owned()],
    ] {
        let made = order(store, &olga, "lea", Role::Querier, further).await;
        assert_eq!(refusal(made), Some(ErrorId::RoleMissing), "{further:?}");
    }
    let lea = order(store, &olga, "lea", Role::Querier, &esol).await;
    assert_eq!(lea.unwrap().models, Some(esol.to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_narrowed_to_models_uploads_to_no_other() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let (store, adam) = (platform.store(), platform.caller("adam"));
    let model = Model::new("esol", 1);
    let api = Direct(&platform);
    api.begin("paul", &model.request).await.unwrap();
    let (version, sha256) = (model.version().parse().unwrap(), model.sha256(0));
    for (models, expected) in [
        (["logd".to_owned()], Some(ErrorId::ModelUnknown)),
        (["esol".to_owned()], None),
    ] {
        let paul = order(store, &adam, "paul", Role::Publisher, &models)
            .await
            .unwrap();
        let piece = &model.blobs[0][..1_000];
        let stored = store.append_piece(&paul, &version, &sha256, 0, piece).await;
        assert_eq!(refusal(stored), expected, "{models:?}");
    }
}

/// A token is not a way around `member add`, which the audit log shows as what it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_widens_no_membership() {
    let platform = Platform::start().await;
    let (store, adam) = (platform.store(), platform.caller("adam"));
    let beyond = order(store, &adam, "quinn", Role::Publisher, &[]).await;
    let error = beyond.unwrap_err();
    assert_eq!(error.id(), ErrorId::ArgumentInvalid);
    assert!(error.to_string().contains("member add"), "{error}");
    let both = RoleSet::new([Role::Querier, Role::Publisher]);
    store
        .set_member(&adam, "default", "quinn", "person", &both)
        .await
        .unwrap();
    let given = order(store, &adam, "quinn", Role::Publisher, &[]).await;
    let roles = given.unwrap().roles;
    assert!(roles.contains(Role::Publisher) && !roles.contains(Role::Querier));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_models_of_a_publisher_who_left_are_their_organisations() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let (store, adam) = (platform.store(), platform.caller("adam"));
    let (api, next) = (Direct(&platform), Model::new("esol", 2));
    platform.submit("paul", &Model::new("esol", 1)).await;
    let early = api.begin("pia", &next.request).await;
    assert_eq!(early.unwrap_err(), ErrorId::ManifestRefused);
    store.remove_member(&adam, "default", "paul").await.unwrap();
    api.begin("pia", &next.request).await.unwrap();
    // another organisation's publishers are strangers as before
    let eve = platform.token_in("acme", "eve", &[Role::Publisher]).await;
    let other = Model::new("esol", 3);
    let request = crate::platform::signed(&eve.secret, other.request.clone());
    let refused = platform.publishing().begin_version(request).await;
    assert_eq!(
        crate::platform::id(&refused.unwrap_err()),
        ErrorId::ManifestRefused
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_at_anothers_allowance_is_on_record() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    platform.submit("paul", &Model::new("esol", 1)).await;
    Direct(&platform).approve("rita", "esol").await.unwrap();
    let read = || v1::GetAllowanceRequest {
        model: "esol".to_owned(),
    };
    for (who, expected) in [("quinn", 0), ("adam", 1)] {
        let request = platform.by(who, read());
        let answer = platform.governance().get_allowance(request).await;
        answer.unwrap();
        let rows = "update audit set action = action where action = 'allowance.read'";
        let touched = platform.database.execute(rows).await;
        // the trigger refuses the first row there is
        assert_eq!(touched.is_err(), expected == 1, "{who}: {touched:?}");
    }
}

/// The attack: the token for one model revokes others, makes members or reads the audit log.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_narrowed_to_models_does_nothing_that_is_not_about_models() {
    let platform = Platform::start().await;
    let (store, adam) = (platform.store(), platform.caller("adam"));
    let esol = ["esol".to_owned()];
    let querier = RoleSet::new([Role::Querier]);
    for (models, expected) in [(&esol[..], Some(ErrorId::RoleMissing)), (&[][..], None)] {
        let admin = order(store, &adam, "alma", Role::Admin, models)
            .await
            .unwrap();
        let token = platform.token_in("acme", "lea", &[Role::Querier]).await.id;
        let outcomes = [
            (
                "list tokens",
                refusal(store.list_tokens(&admin, "acme").await),
            ),
            ("revoke", refusal(store.revoke_token(&admin, token).await)),
            (
                "set member",
                refusal(
                    store
                        .set_member(&admin, "acme", "max", "person", &querier)
                        .await,
                ),
            ),
            ("members", refusal(store.list_members(&admin, "acme").await)),
            (
                "remove member",
                refusal(store.remove_member(&admin, "acme", "lea").await),
            ),
            (
                "organisation",
                refusal(store.set_organisation(&admin, "new", false).await),
            ),
            (
                "consortium",
                refusal(store.set_consortium(&admin, "all", &[]).await),
            ),
            (
                "deny",
                refusal(
                    store
                        .deny_certificate(&admin, "chemxor://client/x", "", "")
                        .await,
                ),
            ),
            ("export", refusal(store.begin_export(&admin).await)),
        ];
        for (what, outcome) in outcomes {
            assert_eq!(outcome, expected, "{what} {models:?}");
        }
    }
}

/// Approves as the holder of a token.
async fn approve(store: &Store, by: &Caller, version: &VersionId) -> Option<ErrorId> {
    refusal(
        store
            .transition(by, version, Event::Approve, "", None)
            .await,
    )
}

/// The attack: who publishes and administers makes a token for a reviewer who does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_approves_the_own_version_with_a_token_made_for_another_name() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let (store, adam) = (platform.store(), platform.caller("adam"));
    let both = RoleSet::new([Role::Publisher, Role::OrgAdmin]);
    let member = store.set_member(&adam, "default", "paul", "person", &both);
    member.await.unwrap();
    let paul = order(store, &adam, "paul", Role::OrgAdmin, &[])
        .await
        .unwrap();
    let model = Model::new("esol", 1);
    platform.submit("paul", &model).await;
    let version = model.version().parse().unwrap();
    let invented = order(store, &paul, "ines", Role::Reviewer, &[])
        .await
        .unwrap();
    // nor over a second administrator, nor in the name of a reviewer there is
    let second = order(store, &paul, "otto", Role::OrgAdmin, &[])
        .await
        .unwrap();
    let farther = order(store, &second, "igor", Role::Reviewer, &[])
        .await
        .unwrap();
    let borrowed = order(store, &paul, "rita", Role::Reviewer, &[])
        .await
        .unwrap();
    for by in [&invented, &farther, &borrowed] {
        let refused = approve(store, by, &version).await;
        assert_eq!(refused, Some(ErrorId::SelfApproval), "{}", by.subject);
    }
    let rita = order(store, &adam, "rita", Role::Reviewer, &[])
        .await
        .unwrap();
    assert_eq!(approve(store, &rita, &version).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_publisher_is_a_subject_of_one_organisation() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let store = platform.store();
    let model = Model::new("esol", 1);
    platform.submit("paul", &model).await;
    let version = model.version().parse().unwrap();
    let admin = RoleSet::new([Role::Admin]);
    let own = Caller::new("default", "paul", admin.clone());
    let refused = approve(store, &own, &version).await;
    assert_eq!(refused, Some(ErrorId::SelfApproval));
    // the platform's administrator who is called the same elsewhere is somebody else
    platform.token_in("acme", "paul", &[Role::Admin]).await;
    let other = Caller::new("acme", "paul", admin);
    assert_eq!(approve(store, &other, &version).await, None);
}

/// The attack: a colleague withdraws the workers of what somebody else published.
#[tokio::test(flavor = "multi_thread")]
async fn only_its_publisher_changes_the_workers_of_a_version_until_they_leave() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let (store, adam) = (platform.store(), platform.caller("adam"));
    let model = Model::new("esol", 1);
    platform.submit("paul", &model).await;
    let version = model.version().parse().unwrap();
    let nothing = v1::AuthorizeWorkersRequest {
        version: model.version(),
        withdrawn: vec!["worker-9".to_owned()],
        ..Default::default()
    };
    let (paul, pia) = (platform.caller("paul"), platform.caller("pia"));
    let change = |by| store.authorize_workers(by, &version, &nothing);
    let own = change(&paul).await;
    let refused = change(&pia).await;
    assert_eq!(refusal(refused), Some(ErrorId::RoleMissing));
    store.remove_member(&adam, "default", "paul").await.unwrap();
    let next = change(&pia).await;
    assert_eq!(refusal(next), refusal(own));
}
