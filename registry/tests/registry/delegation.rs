//! Rights that are handed on: nobody gives, takes or revokes beyond the own reach.

use chemxor_core::{ErrorId, Role, RoleSet};
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
