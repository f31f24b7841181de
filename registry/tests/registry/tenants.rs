//! Tenant isolation: role x RPC x visibility.

use chemxor_core::{Action, ErrorId, Role, allowed};
use chemxor_proto::v1;
use chemxor_registry::store::Visibility;

use crate::calls::{Aim, people_calls, refused_with};
use crate::model::Model;
use crate::platform::{Platform, signed};

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
                    "GetModel" | "GetAllowance" => seen,
                    // whether a model is there is public with it, its private history is empty
                    "AliasHistory" | "ListAliases" => kind == "everyone",
                    _ => false,
                };
                assert_eq!(outcome.is_ok(), reads, "{what}");
                // a model that is seen may say that nobody has described it
                let undescribed = call == "GetCard" && seen;
                if !reads && !undescribed {
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
