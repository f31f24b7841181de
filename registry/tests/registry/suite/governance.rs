//! Governance: aliases, visibility, deprecation, members, tokens and organisations, each as it is felt
//! by whoever begins a session or has one.

use chemxor_core::{ErrorId, Role};
use chemxor_registry::store::Visibility;
use time::{Duration, OffsetDateTime};

use crate::api::Api;
use crate::model::{Model, reference};
use crate::platform::Platform;

behaviours! {
    an_alias_moves_tells_its_moves_and_goes_back
    an_alias_names_only_what_is_served
    visibility_decides_who_may_begin_and_go_on
    only_who_governs_the_model_shows_it
    a_deprecated_version_is_served_until_its_sunset
    a_member_who_is_removed_loses_every_token
    a_token_allows_what_its_holder_may_at_this_moment
    a_narrowed_token_queries_its_models_only
    a_revoked_token_ends_at_once
    a_suspended_organisation_is_refused_until_it_resumes
}

async fn approved(platform: &Platform, api: &impl Api, name: &str, seed: u64) -> Model {
    platform.register_workers().await;
    let model = Model::new(name, seed);
    platform.submit("paul", &model).await;
    let exact = reference(name, &model.version());
    api.approve("rita", &exact).await.unwrap();
    model
}

/// An approved model that everyone sees, and a querier of acme's: id and secret.
async fn shared(platform: &Platform, api: &impl Api) -> (Model, (String, String)) {
    let model = approved(platform, api, "esol", 1).await;
    let seen = api.show("adam", "esol", &Visibility::Everyone).await;
    seen.unwrap();
    api.suspend("adam", "acme", false).await.unwrap();
    let token = api.order_token("adam", "acme", "lea", &[]).await.unwrap();
    (model, token)
}

/// What a session would meet at its start, and one that runs.
async fn session(
    api: &impl Api,
    model: &Model,
    (id, secret): &(String, String),
) -> (Option<ErrorId>, Option<ErrorId>) {
    let begins = api.authorize(secret, "esol").await.err();
    (begins, api.check(&model.version(), id).await.err())
}

async fn an_alias_moves_tells_its_moves_and_goes_back(platform: &Platform, api: &impl Api) {
    let one = approved(platform, api, "esol", 1).await.version();
    let two = approved(platform, api, "esol", 2).await.version();
    let quinn = &platform.token("quinn").secret;
    let session = || async move {
        let session = api.authorize(quinn, "esol@stable").await;
        session.map(|session| session.version)
    };
    assert_eq!(session().await, Err(ErrorId::ModelUnknown));
    let nowhere = api.move_alias("paul", "esol", "stable", None).await;
    assert_eq!(nowhere, Err(ErrorId::WrongState));
    let (first, second) = ((String::new(), one.clone()), (one.clone(), two.clone()));
    let back = (two.clone(), one.clone());
    for (to, expected) in [
        (Some(&*one), &first),
        (Some(&*two), &second),
        (None, &back),
        // back is a move as well
        (None, &second),
    ] {
        let moved = api.move_alias("paul", "esol", "stable", to).await;
        assert_eq!(moved.as_ref(), Ok(expected));
        assert_eq!(session().await.as_ref(), Ok(&expected.1));
    }
    let history = api.alias_history("quinn", "esol", "stable").await.unwrap();
    assert_eq!(history, [second.clone(), back, second, first]);
    let other = api.alias_history("quinn", "esol", "latest").await;
    assert_eq!(other, Ok(vec![]));
}

async fn an_alias_names_only_what_is_served(platform: &Platform, api: &impl Api) {
    let one = approved(platform, api, "esol", 1).await.version();
    let waiting = Model::new("esol", 2);
    platform.submit("paul", &waiting).await;
    let other = approved(platform, api, "logd", 3).await.version();
    for version in [&waiting.version(), &other] {
        let refused = api.move_alias("paul", "esol", "stable", Some(version));
        assert_eq!(refused.await, Err(ErrorId::WrongState));
    }
    for by in ["rita", "quinn"] {
        let refused = api.move_alias(by, "esol", "stable", Some(&one)).await;
        assert_eq!(refused, Err(ErrorId::RoleMissing), "{by}");
    }
    let unknown = api.move_alias("paul", "nothing", "stable", Some(&one));
    assert_eq!(unknown.await, Err(ErrorId::ModelUnknown));
    let history = api.alias_history("quinn", "esol", "stable").await;
    assert_eq!(history, Ok(vec![]), "nothing has moved");
}

async fn visibility_decides_who_may_begin_and_go_on(platform: &Platform, api: &impl Api) {
    let model = approved(platform, api, "esol", 1).await;
    let (store, adam) = (platform.store(), platform.caller("adam"));
    let ann = platform.token_in("acme", "ann", &[Role::Querier]).await;
    let ann = (ann.id.to_string(), ann.secret.to_string());
    let quinn = platform.token("quinn");
    let quinn = (quinn.id.to_string(), quinn.secret.to_string());
    let default = "default".to_owned();
    let consortium = Visibility::Consortium("friends".to_owned());
    let made = store.set_consortium(&adam, "friends", &[default]).await;
    made.unwrap();
    for (visibility, seen) in [
        (Visibility::Private, false),
        (Visibility::Listed(vec!["acme".to_owned()]), true),
        (consortium, false),
        (Visibility::Everyone, true),
        (Visibility::Private, false),
    ] {
        api.show("paul", "esol", &visibility).await.unwrap();
        let refused = (!seen).then_some(ErrorId::ModelUnknown);
        let met = session(api, &model, &ann).await;
        assert_eq!(met, (refused, refused), "{visibility:?}");
        // the owner's organisation always sees it
        assert_eq!(session(api, &model, &quinn).await, (None, None));
    }
    // a consortium is whoever is in it now
    let friends = Visibility::Consortium("friends".to_owned());
    api.show("paul", "esol", &friends).await.unwrap();
    for (members, seen) in [(vec!["acme".to_owned()], true), (vec![], false)] {
        let set = store.set_consortium(&adam, "friends", &members).await;
        set.unwrap();
        let refused = (!seen).then_some(ErrorId::ModelUnknown);
        let met = session(api, &model, &ann).await;
        assert_eq!(met, (refused, refused), "{members:?}");
    }
}

async fn only_who_governs_the_model_shows_it(platform: &Platform, api: &impl Api) {
    let model = approved(platform, api, "esol", 1).await;
    for by in ["rita", "quinn"] {
        let refused = api.show(by, "esol", &Visibility::Everyone).await;
        assert_eq!(refused, Err(ErrorId::RoleMissing), "{by}");
    }
    let nobody = ["nobody".to_owned()];
    for visibility in [
        Visibility::Listed(nobody.to_vec()),
        Visibility::Consortium("nobody".to_owned()),
    ] {
        let refused = api.show("paul", "esol", &visibility).await;
        assert_eq!(refused, Err(ErrorId::OrganisationUnknown));
    }
    let unknown = api.show("paul", "logd", &Visibility::Everyone).await;
    assert_eq!(unknown, Err(ErrorId::ModelUnknown));
    let ann = platform.token_in("acme", "ann", &[Role::Querier]).await;
    let ann = (ann.id.to_string(), ann.secret.to_string());
    let hidden = Some(ErrorId::ModelUnknown);
    assert_eq!(session(api, &model, &ann).await, (hidden, hidden));
}

async fn a_deprecated_version_is_served_until_its_sunset(platform: &Platform, api: &impl Api) {
    let quinn = platform.token("quinn");
    for (seed, days, refused) in [(1, 1, None), (2, -1, Some(ErrorId::VersionSunset))] {
        let model = approved(platform, api, "esol", seed).await;
        let exact = reference("esol", &model.version());
        let early = api.deprecate("quinn", &exact, 0).await;
        assert_eq!(early, Err(ErrorId::RoleMissing));
        let sunset = OffsetDateTime::now_utc() + Duration::days(days);
        let sunset = sunset.unix_timestamp() * 1000;
        let state = api.deprecate("paul", &exact, sunset).await;
        assert_eq!(state.as_deref(), Ok("deprecated"));
        let begins = api.authorize(&quinn.secret, &exact).await;
        assert_eq!(begins.err(), refused);
        let goes_on = api.check(&model.version(), &quinn.id.to_string()).await;
        assert_eq!(goes_on.err(), refused);
        let again = api.deprecate("paul", &exact, sunset).await;
        assert_eq!(again, Err(ErrorId::WrongState));
    }
}

async fn a_member_who_is_removed_loses_every_token(platform: &Platform, api: &impl Api) {
    let (model, token) = shared(platform, api).await;
    let other = api.order_token("adam", "acme", "lea", &[]).await.unwrap();
    let max = api.order_token("adam", "acme", "max", &[]).await.unwrap();
    for token in [&token, &other, &max] {
        assert_eq!(session(api, &model, token).await, (None, None));
    }
    for by in ["paul", "quinn"] {
        let refused = api.remove_member(by, "default", "pia").await;
        assert_eq!(refused, Err(ErrorId::RoleMissing), "{by}");
    }
    for _ in 0..2 {
        api.remove_member("adam", "acme", "lea").await.unwrap();
    }
    let ended = Some(ErrorId::TokenRefused);
    for token in [&token, &other] {
        assert_eq!(session(api, &model, token).await, (ended, ended));
    }
    assert_eq!(session(api, &model, &max).await, (None, None));
    let again = api.order_token("adam", "acme", "lea", &[]).await;
    assert_eq!(
        again,
        Err(ErrorId::ArgumentInvalid),
        "a token revives no one"
    );
    let unknown = api.remove_member("adam", "acme", "nobody").await;
    assert_eq!(unknown, Err(ErrorId::ArgumentInvalid));
}

async fn a_token_allows_what_its_holder_may_at_this_moment(platform: &Platform, api: &impl Api) {
    let (model, token) = shared(platform, api).await;
    let none = (Some(ErrorId::RoleMissing), Some(ErrorId::TokenRefused));
    for (roles, met) in [
        (&[][..], none),
        (&["querier"][..], (None, None)),
        (&["reviewer"][..], none),
        (&["querier", "publisher"][..], (None, None)),
    ] {
        let set = api.set_member("adam", "acme", "lea", roles).await;
        set.unwrap();
        assert_eq!(session(api, &model, &token).await, met, "{roles:?}");
    }
}

async fn a_narrowed_token_queries_its_models_only(platform: &Platform, api: &impl Api) {
    let esol = approved(platform, api, "esol", 1).await;
    let logd = approved(platform, api, "logd", 2).await;
    for (models, esol_met, logd_met) in [
        (&["logd"][..], Some(ErrorId::ModelUnknown), None),
        (&["esol", "logd"][..], None, None),
        (
            &["other"][..],
            Some(ErrorId::ModelUnknown),
            Some(ErrorId::ModelUnknown),
        ),
    ] {
        let models: Vec<String> = models.iter().map(|name| (*name).to_owned()).collect();
        let token = api.order_token("adam", "default", "nora", &models).await;
        let token = token.unwrap();
        assert_eq!(session(api, &esol, &token).await, (esol_met, esol_met));
        let begins = api.authorize(&token.1, "logd").await;
        assert_eq!(begins.err(), logd_met, "{models:?}");
        let goes_on = api.check(&logd.version(), &token.0).await;
        assert_eq!(goes_on.err(), logd_met, "{models:?}");
    }
    let malformed = ["no name".to_owned()];
    let refused = api.order_token("adam", "default", "nora", &malformed).await;
    assert_eq!(refused, Err(ErrorId::ArgumentInvalid));
}

async fn a_revoked_token_ends_at_once(platform: &Platform, api: &impl Api) {
    let (model, token) = shared(platform, api).await;
    let other = api.order_token("adam", "acme", "lea", &[]).await.unwrap();
    let refused = api.revoke_token("paul", &token.0).await;
    assert_eq!(refused, Err(ErrorId::RoleMissing));
    assert_eq!(session(api, &model, &token).await, (None, None));
    for _ in 0..2 {
        api.revoke_token("adam", &token.0).await.unwrap();
        let ended = Some(ErrorId::TokenRefused);
        assert_eq!(session(api, &model, &token).await, (ended, ended));
    }
    assert_eq!(session(api, &model, &other).await, (None, None));
}

async fn a_suspended_organisation_is_refused_until_it_resumes(platform: &Platform, api: &impl Api) {
    let (model, token) = shared(platform, api).await;
    let quinn = platform.token("quinn");
    let quinn = (quinn.id.to_string(), quinn.secret.to_string());
    let refused = api.suspend("paul", "acme", true).await;
    assert_eq!(refused, Err(ErrorId::RoleMissing));
    let suspended = Some(ErrorId::OrganisationSuspended);
    for (suspend, met) in [(true, suspended), (false, None), (true, suspended)] {
        api.suspend("adam", "acme", suspend).await.unwrap();
        assert_eq!(session(api, &model, &token).await, (met, met));
        assert_eq!(session(api, &model, &quinn).await, (None, None));
    }
    let own = api.suspend("adam", "default", true).await;
    assert_eq!(own, Err(ErrorId::ArgumentInvalid));
}
