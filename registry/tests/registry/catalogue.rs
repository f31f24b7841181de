//! What each caller sees of the catalogue, and its pages.

use chemxor_core::ErrorId;
use chemxor_proto::v1;

use crate::model::{Model, reference};
use crate::platform::{Platform, id};

impl Platform {
    async fn seen_by(&self, name: &str) -> Vec<String> {
        let request = self.by(name, v1::ListModelsRequest::default());
        let answer = self.catalogue().list_models(request).await.unwrap();
        let models = answer.into_inner().models.into_iter();
        models
            .map(|model| format!("{} {}", model.name, model.state))
            .collect()
    }

    async fn get(&self, name: &str, model: &str) -> Result<v1::ModelVersion, ErrorId> {
        let model = model.to_owned();
        let request = self.by(name, v1::GetModelRequest { model });
        let answer = self.catalogue().get_model(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| id(&status))
    }

    async fn approve(&self, model: &str) {
        let model = model.to_owned();
        let note = String::new();
        let request = self.by("rita", v1::ApproveVersionRequest { model, note });
        self.admin().approve_version(request).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_approval_is_seen_by_its_publisher_and_those_who_govern() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    platform.submit("paul", &Model::new("public", 1)).await;
    platform.approve("public").await;
    let waiting = Model::new("waiting", 2);
    platform.submit("paul", &waiting).await;
    let both = ["waiting submitted", "public approved"];
    for name in ["paul", "rita", "adam", "petra"] {
        assert_eq!(platform.seen_by(name).await, both, "{name}");
    }
    let exact = reference("waiting", &waiting.version());
    for name in ["pia", "quinn"] {
        assert_eq!(platform.seen_by(name).await, ["public approved"], "{name}");
        let seen = platform.get(name, &exact).await;
        assert_eq!(seen, Err(ErrorId::ModelUnknown), "{name}");
    }
    let seen = platform.get("paul", &exact).await.unwrap();
    assert_eq!(seen.manifest, waiting.request.manifest);
    assert_eq!(seen.signature, waiting.request.signature);
    assert_eq!(seen.publisher_key, waiting.request.publisher_key);
    assert_eq!(
        (seen.publisher.as_str(), seen.state.as_str()),
        ("paul", "submitted")
    );
    for absent in ["nothing", "public@stable", "waiting"] {
        let seen = platform.get("quinn", absent).await;
        assert_eq!(seen, Err(ErrorId::ModelUnknown), "{absent}");
    }
    let seen = platform.get("quinn", "Not A Name").await;
    assert_eq!(seen, Err(ErrorId::ArgumentInvalid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_means_the_newest_approved_version() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    for seed in [1, 2] {
        let model = Model::new("esol", seed);
        platform.submit("paul", &model).await;
        platform.approve("esol").await;
        let seen = platform.get("quinn", "esol").await.unwrap();
        assert_eq!(seen.version, model.version());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_give_each_version_once_newest_first() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let mut expected = Vec::new();
    for seed in 0..7 {
        let model = Model::new("esol", seed);
        platform.submit("paul", &model).await;
        expected.insert(0, model.version());
    }
    let (mut seen, mut sizes, mut page_token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let request = v1::ListModelsRequest {
            page_size: 3,
            page_token,
        };
        let answer = platform
            .catalogue()
            .list_models(platform.by("paul", request))
            .await;
        let page = answer.unwrap().into_inner();
        sizes.push(page.models.len());
        seen.extend(page.models.into_iter().map(|model| model.version));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, expected);
    assert_eq!(sizes, [3, 3, 1]);
    for page_token in ["x", "1/sha256:00", "99999999999999999999999999/x"] {
        let request = v1::ListModelsRequest {
            page_size: 3,
            page_token: page_token.to_owned(),
        };
        let answer = platform
            .catalogue()
            .list_models(platform.by("paul", request))
            .await;
        assert_eq!(id(&answer.unwrap_err()), ErrorId::ArgumentInvalid);
    }
}

/// The attack: 200 manifests of a MiB each, read for every page of a list.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_reads_no_more_manifests_than_it_sends() {
    let platform = Platform::start().await;
    for statement in [
        "insert into models (name, publisher, organisation) values ('big', 'paul', 'default')",
        "insert into versions (digest, name, manifest, signature, publisher_key, publisher, created_at)
         select sha256(n::text::bytea), 'big', convert_to(repeat('x', 400000), 'UTF8'),
            decode(repeat('00', 64), 'hex'), decode(repeat('00', 32), 'hex'), 'paul',
            now() - n * interval '1 minute'
         from generate_series(1, 9) n",
    ] {
        platform.database.execute(statement).await.unwrap();
    }
    let (store, paul) = (platform.store(), platform.caller("paul"));
    // two fit a MiB; the third says that there are more
    let read = store.list_versions(&paul, None, 200).await.unwrap();
    assert_eq!(read.len(), 3);
    let few = store.list_versions(&paul, None, 2).await.unwrap();
    assert_eq!(few.len(), 2);
    let mut request = v1::ListModelsRequest::default();
    let mut seen = Vec::new();
    loop {
        let page = platform.by("paul", request.clone());
        let page = platform.catalogue().list_models(page).await.unwrap();
        let page = page.into_inner();
        seen.extend(page.models.into_iter().map(|model| model.version));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen.len(), 9, "every one is on some page");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 9, "once");
}
