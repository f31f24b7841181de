//! What a running session hears when a right behind it is withdrawn: each with its own reason.

use std::time::Duration;

use chemxor_core::{ErrorId, Role, RoleSet};
use chemxor_proto::v1;
use chemxor_proto::v1::control_client::ControlClient;
use chemxor_registry::store::{Caller, Visibility};
use chemxor_runtime::pki::Subject;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::api::{Api, Direct};
use crate::model::{Model, reference};
use crate::platform::{Platform, id};

const LAB: &str = "chemxor://client/lab";
const SERIAL: &str = "0a1b";

async fn check(
    gateway: &mut ControlClient<Channel>,
    session: &v1::AuthorizeSessionResponse,
) -> Option<ErrorId> {
    let request = v1::CheckSessionRequest {
        version: session.version.clone(),
        token_id: session.token_id.clone(),
        certificate_subject: LAB.to_owned(),
        certificate_serial: SERIAL.to_owned(),
    };
    let answer = gateway.check_session(request).await.unwrap().into_inner();
    assert_eq!(answer.allowed, answer.error_id.is_empty());
    assert_eq!(answer.allowed, answer.reason.is_empty());
    (!answer.allowed).then(|| answer.error_id.parse().unwrap())
}

#[derive(Debug, Clone, Copy)]
enum Withdrawn {
    Model,
    Token,
    Member,
    Organisation,
    Certificate,
    Sunset,
    Visibility,
}

async fn withdraw(platform: &Platform, what: Withdrawn, version: &str) {
    let (store, adam) = (platform.store(), platform.caller("adam"));
    let name = "esol".parse().unwrap();
    match what {
        Withdrawn::Model => {
            let model = reference("esol", version);
            Direct(platform).revoke("adam", &model).await.unwrap();
        }
        Withdrawn::Token => {
            let quinn = platform.token("quinn").id;
            store.revoke_token(&adam, quinn).await.unwrap();
        }
        Withdrawn::Member => {
            store
                .remove_member(&adam, "default", "quinn")
                .await
                .unwrap();
        }
        Withdrawn::Organisation => {
            // nobody suspends the own organisation
            let roles = RoleSet::new([Role::Admin]);
            let far = Caller::new("elsewhere", "ada", roles);
            store.set_organisation(&far, "default", true).await.unwrap();
        }
        Withdrawn::Certificate => {
            let denied = store.deny_certificate(&adam, LAB, SERIAL, "lost").await;
            denied.unwrap();
        }
        Withdrawn::Sunset => {
            let id = version.parse().unwrap();
            let past = time::OffsetDateTime::UNIX_EPOCH + time::Duration::DAY;
            let event = chemxor_core::Event::Deprecate;
            let done = store.transition(&adam, &id, event, "old", Some(past)).await;
            done.unwrap();
        }
        Withdrawn::Visibility => {
            // for a stranger's token; the owner's own sees it always
            let private = Visibility::Private;
            store.set_visibility(&adam, &name, &private).await.unwrap();
        }
    }
}

/// A gateway that asked for it is told that a right has changed.
async fn hears_of_rights(mut watch: Streaming<v1::PlacementView>) {
    let told = async {
        loop {
            let view = watch.message().await.unwrap().unwrap();
            if view.rights_only {
                assert!(view.versions.is_empty() && view.workers.is_empty());
                return;
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(30), told).await;
    told.expect("the registry says so");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_withdrawn_ends_a_running_session_with_its_own_reason() {
    for (what, reason) in [
        (Withdrawn::Model, ErrorId::VersionRevoked),
        (Withdrawn::Token, ErrorId::TokenRefused),
        (Withdrawn::Member, ErrorId::TokenRefused),
        (Withdrawn::Organisation, ErrorId::OrganisationSuspended),
        (Withdrawn::Certificate, ErrorId::CertificateDenied),
        (Withdrawn::Sunset, ErrorId::VersionSunset),
        (Withdrawn::Visibility, ErrorId::ModelUnknown),
    ] {
        let platform = Platform::start().await;
        platform.register_workers().await;
        let model = Model::new("esol", 1);
        platform.submit("paul", &model).await;
        Direct(&platform).approve("rita", "esol").await.unwrap();
        let mut gateway = platform.control(&Subject::Gateway).await;
        let mut secret = platform.token("quinn").secret.to_string();
        if matches!(what, Withdrawn::Visibility) {
            let everyone = Visibility::Everyone;
            let (adam, name) = (platform.caller("adam"), "esol".parse().unwrap());
            let store = platform.store();
            store.set_visibility(&adam, &name, &everyone).await.unwrap();
            let roles = [Role::Querier];
            secret = platform
                .token_in("stranger", "sam", &roles)
                .await
                .secret
                .to_string();
        }
        let request = v1::AuthorizeSessionRequest {
            token: secret,
            model: reference("esol", &model.version()),
            certificate_subject: LAB.to_owned(),
            certificate_serial: SERIAL.to_owned(),
        };
        let session = gateway.authorize_session(request.clone()).await.unwrap();
        let session = session.into_inner();
        assert!(["default", "stranger"].contains(&session.organisation.as_str()));
        assert_eq!(check(&mut gateway, &session).await, None);
        let watch = v1::WatchPlacementsRequest { rights: true };
        let watch = gateway.watch_placements(watch).await.unwrap();
        withdraw(&platform, what, &model.version()).await;
        hears_of_rights(watch.into_inner()).await;
        assert_eq!(
            check(&mut gateway, &session).await,
            Some(reason),
            "{what:?}"
        );
        // and no new one begins
        let refused = gateway.authorize_session(request).await.unwrap_err();
        assert_eq!(id(&refused), reason, "{what:?}");
    }
}

/// An older gateway would take the word for a view without versions.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_did_not_ask_for_it_hears_of_placements_only() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let model = Model::new("esol", 1);
    platform.submit("paul", &model).await;
    let mut gateway = platform.control(&Subject::Gateway).await;
    let watch = gateway.watch_placements(v1::WatchPlacementsRequest::default());
    let mut watch = watch.await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert!(first.versions.is_empty() && !first.rights_only);
    // a right, and a moment later placements
    withdraw(&platform, Withdrawn::Token, "").await;
    Direct(&platform).approve("rita", "esol").await.unwrap();
    let second = watch.message().await.unwrap().unwrap();
    assert!(second.versions.len() == 1 && !second.rights_only);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_past_this_registry_is_heard_of_although_answers_are_remembered() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let model = Model::new("esol", 1);
    platform.submit("paul", &model).await;
    Direct(&platform).approve("rita", "esol").await.unwrap();
    let mut gateway = platform.control(&Subject::Gateway).await;
    let session = v1::AuthorizeSessionResponse {
        version: model.version(),
        token_id: platform.token("quinn").id.to_string(),
        ..Default::default()
    };
    for change in [
        "update organisations set suspended_at = now()",
        "update organisations set suspended_at = null",
        "update members set removed_at = now() where subject = 'quinn'",
        "update members set removed_at = null where subject = 'quinn'",
        // a denial stays, and is what is told from then on
        "update tokens set revoked_at = now() where subject = 'quinn'",
        "insert into denied_certificates (subject, reason) values ('chemxor://client/lab', '')",
    ] {
        let before = check(&mut gateway, &session).await;
        platform.database.execute(change).await.unwrap();
        let heard = async { while check(&mut gateway, &session).await == before {} };
        let heard = tokio::time::timeout(Duration::from_secs(20), heard).await;
        assert!(heard.is_ok(), "{change}");
    }
}
