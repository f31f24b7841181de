//! Aliases, sunset, tokens narrowed and cut short, denied certificates, exports of the audit log.

use chemxor_core::{ChainError, ErrorId, Event, Role, RoleSet, verify_approval, verify_export};
use chemxor_proto::v1;
use chemxor_registry::store::TokenOrder;
use chemxor_registry::{RegistryConfig, start};
use chemxor_runtime::pki::Subject;
use time::{Duration, OffsetDateTime};
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Direct};
use crate::model::{Model, reference};
use crate::platform::{DAY, Platform, id, signed};

async fn approved(platform: &Platform, seed: u64) -> Model {
    let model = Model::new("esol", seed);
    platform.submit("paul", &model).await;
    Direct(platform).approve("rita", "esol").await.unwrap();
    model
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_moves_tells_its_history_and_goes_back() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let (one, two) = (approved(&platform, 1).await, approved(&platform, 2).await);
    let waiting = Model::new("esol", 3);
    platform.submit("paul", &waiting).await;
    let set = |version: String| {
        let (model, alias) = ("esol".to_owned(), "stable".to_owned());
        platform.by(
            "paul",
            v1::SetAliasRequest {
                model,
                alias,
                version,
            },
        )
    };
    let back = || {
        let (model, alias) = ("esol".to_owned(), "stable".to_owned());
        platform.by("paul", v1::RollbackAliasRequest { model, alias })
    };
    let mut governance = platform.governance();
    let quinn = &platform.token("quinn").secret;
    let absent = Direct(&platform).authorize(quinn, "esol@stable").await;
    assert_eq!(absent.unwrap_err(), ErrorId::ModelUnknown);
    let refused = governance
        .set_alias(set(waiting.version()))
        .await
        .unwrap_err();
    assert_eq!(id(&refused), ErrorId::WrongState);
    governance.set_alias(set(one.version())).await.unwrap();
    let refused = governance.rollback_alias(back()).await.unwrap_err();
    assert_eq!(id(&refused), ErrorId::WrongState);
    governance.set_alias(set(two.version())).await.unwrap();
    let session = Direct(&platform).authorize(quinn, "esol@stable").await;
    assert_eq!(session.unwrap().version, two.version());
    governance.rollback_alias(back()).await.unwrap();
    let session = Direct(&platform).authorize(quinn, "esol@stable").await;
    assert_eq!(session.unwrap().version, one.version());
    let (model, alias) = ("esol".to_owned(), "stable".to_owned());
    let history = platform.by("quinn", v1::AliasHistoryRequest { model, alias });
    let history = governance
        .alias_history(history)
        .await
        .unwrap()
        .into_inner();
    let moves: Vec<_> = history
        .changes
        .iter()
        .map(|c| {
            (
                c.actor.as_str(),
                c.from_version.clone(),
                c.to_version.clone(),
            )
        })
        .collect();
    let (one, two, who) = (one.version(), two.version(), "default/paul");
    assert_eq!(
        moves,
        [
            (who, two.clone(), one.clone()),
            (who, one.clone(), two),
            (who, String::new(), one)
        ]
    );
    let change = "update alias_history set actor = 'eve'";
    let refused = platform.database.execute(change).await.unwrap_err();
    assert!(refused.contains("append only"), "{refused}");
}

/// The attack: an alias set twice to the broken version, and the rollback stays at it.
#[tokio::test(flavor = "multi_thread")]
async fn an_alias_set_again_to_the_same_version_has_not_moved() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let (one, two) = (approved(&platform, 1).await, approved(&platform, 2).await);
    let (one, two) = (
        one.version().parse().unwrap(),
        two.version().parse().unwrap(),
    );
    let (paul, store) = (platform.caller("paul"), platform.store());
    let (esol, stable) = ("esol".parse().unwrap(), "stable".parse().unwrap());
    store.set_alias(&paul, &esol, &stable, &one).await.unwrap();
    let moved = store.set_alias(&paul, &esol, &stable, &two).await.unwrap();
    let pia = platform.caller("pia");
    let again = store.set_alias(&pia, &esol, &stable, &two).await.unwrap();
    assert_eq!(again, moved, "the answer is the last move, by whom it was");
    let history = store.alias_history(&paul, &esol, &stable).await.unwrap();
    assert_eq!(history.len(), 2);
    // a move to the same place that a former release kept is none either
    let kept = "insert into alias_history (model, alias, from_version, to_version, actor)
        select model, alias, version, version, 'default/paul' from aliases";
    platform.database.execute(kept).await.unwrap();
    let back = store.rollback_alias(&paul, &esol, &stable).await.unwrap();
    assert_eq!((back.from, back.to), (Some(two), one));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deprecated_version_is_served_until_its_sunset() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let quinn = &platform.token("quinn").secret;
    for (seed, days, expected) in [(1, 1, None), (2, -1, Some(ErrorId::VersionSunset))] {
        let model = approved(&platform, seed).await;
        let sunset = OffsetDateTime::now_utc() + Duration::days(days);
        let version = model.version().parse().unwrap();
        let paul = platform.caller("paul");
        let row = platform
            .store()
            .transition(&paul, &version, Event::Deprecate, "", Some(sunset))
            .await
            .unwrap();
        assert_eq!(row.state.to_string(), "deprecated");
        let exact = reference("esol", &model.version());
        let session = Direct(&platform).authorize(quinn, &exact).await;
        assert_eq!(session.err(), expected);
        let late = "update versions set sunset_at = now() + interval '9 days'";
        let refused = platform.database.execute(late).await.unwrap_err();
        assert!(refused.contains("immutable"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_is_counter_signed() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let model = approved(&platform, 1).await;
    let request = v1::GetModelRequest {
        model: "esol".to_owned(),
    };
    let seen = platform
        .catalogue()
        .get_model(platform.by("quinn", request))
        .await;
    let seen = seen.unwrap().into_inner();
    let pinned = platform.store().public_key().unwrap();
    assert_eq!(seen.registry_key, pinned.to_vec());
    let version = model.version().parse().unwrap();
    let (key, signature) = (&seen.publisher_key, &seen.signature);
    let verified = verify_approval(&pinned, &version, key, signature, &seen.counter_signature);
    assert_eq!(verified, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_never_allows_more_than_its_holder_and_its_models() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    approved(&platform, 1).await;
    let store = platform.store();
    let olga = platform.token_in("acme", "olga", &[Role::OrgAdmin]).await;
    let olga = store.find_token(&olga.secret).await.unwrap();
    let order = |subject, role, models| TokenOrder {
        organisation: "acme",
        subject,
        roles: role,
        models,
        lifetime: DAY,
    };
    let (querier, admin) = (RoleSet::new([Role::Querier]), RoleSet::new([Role::Admin]));
    let refused = store
        .order_token(&olga, &order("mallory", &admin, &[]))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.id(), ErrorId::RoleMissing);
    let other = ["logd".to_owned()];
    let adam = platform.caller("adam");
    let narrowed = TokenOrder {
        organisation: "default",
        ..order("quentin", &querier, &other)
    };
    let narrowed = store.order_token(&adam, &narrowed).await.unwrap();
    let session = Direct(&platform).authorize(&narrowed.secret, "esol").await;
    assert_eq!(session.unwrap_err(), ErrorId::ModelUnknown);
    // roles and membership end at once, and so does a suspended organisation
    let made = store
        .order_token(&olga, &order("lea", &querier, &[]))
        .await
        .unwrap();
    assert!(
        store
            .find_token(&made.secret)
            .await
            .unwrap()
            .roles
            .allows(chemxor_core::Action::Query)
    );
    let none = RoleSet::default();
    store
        .set_member(&olga, "acme", "lea", "person", &none)
        .await
        .unwrap();
    assert!(
        store
            .find_token(&made.secret)
            .await
            .unwrap()
            .roles
            .is_empty()
    );
    store.remove_member(&olga, "acme", "lea").await.unwrap();
    let refused = store.find_token(&made.secret).await.unwrap_err();
    assert_eq!(refused.id(), ErrorId::TokenRefused);
    let again = store
        .order_token(&olga, &order("max", &querier, &[]))
        .await
        .unwrap();
    store.set_organisation(&adam, "acme", true).await.unwrap();
    let refused = store.find_token(&again.secret).await.unwrap_err();
    assert_eq!(refused.id(), ErrorId::OrganisationSuspended);
    let listed = store.list_tokens(&adam, "acme").await.unwrap();
    assert_eq!(listed.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_certificate_is_refused_at_the_next_call() {
    let platform = Platform::start().await;
    let worker = Subject::Worker("worker-1".parse().unwrap());
    let mut control = platform.control(&worker).await;
    let list = || v1::ListAssignmentsRequest {
        worker: "worker-1".to_owned(),
    };
    control.list_assignments(list()).await.unwrap();
    let deny = v1::DenyCertificateRequest {
        subject: worker.to_string(),
        serial: String::new(),
        reason: "key lost".to_owned(),
    };
    platform
        .governance()
        .deny_certificate(platform.by("adam", deny))
        .await
        .unwrap();
    let refused = control.list_assignments(list()).await.unwrap_err();
    assert_eq!(id(&refused), ErrorId::CertificateRefused);
    let deny = v1::DenyCertificateRequest {
        subject: "chemxor://client/lab".to_owned(),
        serial: String::new(),
        reason: "laptop stolen".to_owned(),
    };
    platform
        .governance()
        .deny_certificate(platform.by("adam", deny))
        .await
        .unwrap();
    let request = signed(
        &platform.token("quinn").secret,
        v1::ListModelsRequest::default(),
    );
    let refused = platform.catalogue().list_models(request).await.unwrap_err();
    assert_eq!(id(&refused), ErrorId::CertificateRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_verifies_offline_and_names_who_read() {
    let platform = Platform::start().await;
    let read = v1::ListTokensRequest::default();
    platform
        .governance()
        .list_tokens(platform.by("adam", read))
        .await
        .unwrap();
    let key = platform.store().public_key().unwrap();
    let text = platform.export().await;
    let summary = verify_export(&text, &key).unwrap();
    assert!(summary.rows >= 8 && summary.checkpoints >= 1, "{summary:?}");
    for action in ["token.list", "audit.export"] {
        let row = format!("\"actor\":\"default/adam\",\"action\":\"{action}\"");
        assert!(text.contains(&row), "{action}");
    }
    for name in ["adam", "quinn"] {
        assert!(!text.contains(platform.token(name).secret.as_str()));
    }
    // a row changed behind the registry's back, with the chain mended after it, misses the signatures
    let longer = platform.export().await;
    assert!(longer.starts_with(&text));
    let cut = longer.rsplit_once("{\"kind\":\"checkpoint\"").unwrap().0;
    assert!(matches!(verify_export(cut, &key), Err(ChainError::Open(_))));
}

/// The attack: the key file is lost, and from then on another key signs that nobody pinned.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_whose_signing_key_is_lost_does_not_start_with_another() {
    let platform = Platform::start().await;
    platform.store().checkpoint_audit().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("registry-signing.key");
    let config = || RegistryConfig {
        operations: Default::default(),
        listen: ([127, 0, 0, 1], 0).into(),
        database_url: platform.database.url.clone(),
        tls: platform.files(&Subject::Registry, "second"),
        signing_key: Some(key.clone()),
        orphan_hours: 168,
        draft_gib: 64,
        checkpoint_minutes: const { std::num::NonZeroU32::new(10).unwrap() },
    };
    let stop = CancellationToken::new();
    for _ in 0..2 {
        let refused = start(config(), stop.clone()).await.err().unwrap();
        let refused = refused.to_string();
        let pinned = data_encoding::HEXLOWER.encode(&platform.store().public_key().unwrap());
        assert!(
            refused.contains(&pinned) && refused.contains("restore the file"),
            "{refused}"
        );
        assert!(!key.exists(), "the second start is refused as well");
    }
    // restored, it starts
    let own = platform.authority_folder().join("registry-signing.key");
    std::fs::copy(own, &key).unwrap();
    let registry = start(config(), stop.clone()).await.unwrap();
    assert_eq!(registry.store().public_key(), platform.store().public_key());
    stop.cancel();
    registry.wait().await.unwrap();
}
