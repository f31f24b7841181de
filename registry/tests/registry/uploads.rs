//! Uploads that are broken off: resumed from where they are, or collected when nobody comes back.

use std::time::Duration;

use chemxor_core::ErrorId;

use crate::api::{Api, Direct};
use crate::model::Model;
use crate::platform::Platform;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_draft_is_collected_and_the_upload_begins_anew() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let (left, live, done) = (Model::new("a", 1), Model::new("b", 2), Model::new("c", 3));
    let (api, store) = (Direct(&platform), platform.store());
    platform.submit("paul", &done).await;
    for model in [&left, &live] {
        api.begin("paul", &model.request).await.unwrap();
        // one blob whole, the other to the half
        for (step, length) in [(1, model.blobs[1].len()), (0, 150_000)] {
            let (version, sha256) = (model.version(), model.sha256(step));
            let part = &model.blobs[step][..length];
            api.upload("paul", &version, &sha256, 0, part)
                .await
                .unwrap();
        }
    }
    assert_eq!(store.collect_orphans(HOUR).await.unwrap(), (0, 0));
    // two hours go by, then one of them is uploaded to again
    let later = "update blobs set touched_at = now() - interval '2 hours'
        where version in (select digest from versions where state = 'draft')";
    platform.database.execute(later).await.unwrap();
    let next = &live.blobs[0][150_000..200_000];
    for model in [&live] {
        let (version, sha256) = (model.version(), model.sha256(0));
        api.upload("paul", &version, &sha256, 150_000, next)
            .await
            .unwrap();
    }
    let collected = store.collect_orphans(HOUR).await.unwrap();
    let whole = 2 * 5_000;
    assert_eq!(collected, (3, 150_000 + whole));
    assert_eq!(store.collect_orphans(HOUR).await.unwrap(), (0, 0));
    let missing = |model: &Model| {
        let version = model.version().parse().unwrap();
        async move {
            let missing = store.missing_blobs(&version).await.unwrap();
            missing.iter().map(|blob| blob.offset).collect::<Vec<_>>()
        }
    };
    assert_eq!(missing(&left).await, [0, 0]);
    assert_eq!(
        missing(&live).await,
        [200_000, 0],
        "what is uploaded to stays"
    );
    // what was submitted is never touched
    let version = done.version().parse().unwrap();
    let piece = store
        .read_piece("worker-1", &version, &done.sha256(0), 0)
        .await;
    assert!(piece.unwrap().is_some());
    let early = api.submit("paul", &left.version()).await;
    assert_eq!(early, Err(ErrorId::BlobMissing));
    platform.submit("paul", &left).await;
    assert!(store.verify_audit().await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drafts_of_an_organisation_take_no_more_than_they_may() {
    use chemxor_registry::RegistryError;
    use chemxor_registry::publication::Publication;
    let platform = Platform::start().await;
    platform.register_workers().await;
    let model = Model::new("a", 1);
    let length: usize = model.blobs.iter().map(|blob| blob.len()).sum();
    // room for one and a half
    let store = platform.store().clone();
    let store = store.with_draft_limit(3 * length as u64 / 2);
    let paul = platform.caller("paul");
    let begin = |model: &Model| {
        let publication = Publication::verify(model.request.clone()).unwrap();
        let (store, paul) = (&store, &paul);
        async move { store.begin_version(paul, &publication).await }
    };
    begin(&model).await.unwrap();
    // the same again is no more
    begin(&model).await.unwrap();
    let refused = begin(&Model::new("b", 2)).await.unwrap_err();
    assert!(matches!(refused, RegistryError::Quota(..)), "{refused:?}");
    assert!(
        refused.to_string().contains("drafts of default"),
        "{refused}"
    );
    // what is submitted is no draft
    platform.submit("paul", &model).await;
    begin(&Model::new("b", 2)).await.unwrap();
    // what was left and collected has no room to give back
    let later = "update blobs set touched_at = now() - interval '2 hours'
        where version in (select digest from versions where state = 'draft')";
    platform.database.execute(later).await.unwrap();
    store.collect_orphans(HOUR).await.unwrap();
    begin(&Model::new("c", 3)).await.unwrap();
}
