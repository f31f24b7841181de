//! Uploads that are broken off: resumed from where they are, or collected when nobody comes back.

use std::time::Duration;

use chemxor_core::ErrorId;

use crate::api::{Api, Direct};
use crate::model::Model;
use crate::platform::{Platform, id, signed};

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
    let second = Model::new("b", 2);
    begin(&second).await.unwrap();
    // what was left and collected has no room to give back
    let later = "update blobs set touched_at = now() - interval '2 hours'
        where version in (select digest from versions where state = 'draft')";
    platform.database.execute(later).await.unwrap();
    store.collect_orphans(HOUR).await.unwrap();
    begin(&Model::new("c", 3)).await.unwrap();
    // nor does it come back beside what took its room: announced long ago, and uploaded now
    let (version, sha256) = (second.version().parse().unwrap(), second.sha256(0));
    let upload = store.append_piece(&paul, &version, &sha256, 0, &second.blobs[0]);
    let refused = upload.await.unwrap_err();
    assert!(matches!(refused, RegistryError::Quota(..)), "{refused:?}");
}

/// The attack: a call that was begun in time goes on after its token was revoked.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_ends_with_the_token_that_began_it() {
    use chemxor_proto::v1;
    use chemxor_proto::v1::upload_blob_request::Kind;
    use tokio_stream::wrappers::ReceiverStream;

    let platform = Platform::start().await;
    platform.register_workers().await;
    let model = Model::new("a", 1);
    let store = platform.store();
    Direct(&platform)
        .begin("paul", &model.request)
        .await
        .unwrap();
    let version: chemxor_core::VersionId = model.version().parse().unwrap();
    let offset = async || {
        let missing = store.missing_blobs(&version).await.unwrap();
        missing[0].offset
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let send = async |kind: Kind| {
        let request = v1::UploadBlobRequest { kind: Some(kind) };
        // the call may have ended
        let _ = sender.send(request).await;
    };
    let header = v1::BlobHeader {
        version: model.version(),
        sha256: model.sha256(0).into(),
        offset: 0,
    };
    send(Kind::Header(header)).await;
    let paul = platform.token("paul");
    let upload = signed(&paul.secret, ReceiverStream::new(receiver));
    let mut publishing = platform.publishing();
    let call = tokio::spawn(async move { publishing.upload_blob(upload).await });
    let chunk = |range: std::ops::Range<usize>| {
        Kind::Chunk(bytes::Bytes::copy_from_slice(&model.blobs[0][range]))
    };
    send(chunk(0..1000)).await;
    while offset().await == 0 {}
    let adam = platform.caller("adam");
    store.revoke_token(&adam, paul.id).await.unwrap();
    send(chunk(1000..2000)).await;
    let refused = call.await.unwrap().unwrap_err();
    assert_eq!(id(&refused), ErrorId::TokenRefused);
    assert_eq!(offset().await, 1000, "what came in time stays");
}
