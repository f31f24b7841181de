//! Publishing: announce, upload, submit, approve, serve, revoke; the workers of a version.

use chemxor_core::ErrorId;
use chemxor_proto::{STATE_KEY_STEP, v1};

use crate::api::Api;
use crate::model::{Model, reference, sealed_key};
use crate::platform::Platform;

behaviours! {
    a_model_is_published_approved_served_and_revoked
    the_publisher_may_not_approve
    only_the_reviewed_version_is_approved
    a_changed_manifest_or_foreign_signature_is_refused
    keys_and_placements_must_fit_the_steps
    unknown_workers_are_refused
    a_name_belongs_to_its_first_publisher
    nothing_is_submitted_with_a_missing_blob
    an_upload_resumes_at_half
    an_upload_with_another_digest_starts_again
    a_submitted_version_takes_nothing_more
    a_worker_gets_its_own_steps_only
    a_worker_keeps_its_sealing_key
    workers_are_authorised_later_and_withdrawn
}

async fn upload_all(api: &impl Api, by: &str, model: &Model) {
    for (step, blob) in model.blobs.iter().enumerate() {
        let stored = api
            .upload(by, &model.version(), &model.sha256(step), 0, blob)
            .await;
        assert_eq!(stored, Ok(blob.len() as u64));
    }
}

async fn a_model_is_published_approved_served_and_revoked(platform: &Platform, api: &impl Api) {
    for (key, worker) in [(1, "worker-1"), (2, "worker-2")] {
        api.register(worker, &[key; 32]).await.unwrap();
    }
    let model = Model::new("esol", 1);
    let (version, exact) = (model.version(), reference("esol", &model.version()));
    let (begun, missing) = api.begin("paul", &model.request).await.unwrap();
    assert_eq!(begun, version);
    assert_eq!(missing, [(model.sha256(0), 0), (model.sha256(1), 0)]);
    upload_all(api, "paul", &model).await;
    let (_, missing) = api.begin("paul", &model.request).await.unwrap();
    assert_eq!(missing, []);
    let quinn = platform.token("quinn");
    let session = api.authorize(&quinn.secret, &exact).await;
    assert_eq!(session.unwrap_err(), ErrorId::NotApproved);
    assert_eq!(
        api.submit("paul", &version).await.as_deref(),
        Ok("submitted")
    );
    let session = api.authorize(&quinn.secret, "esol").await;
    assert_eq!(session.unwrap_err(), ErrorId::ModelUnknown);
    assert_eq!(api.approve("rita", "esol").await.as_deref(), Ok("approved"));
    for name in ["esol", &exact] {
        let session = api.authorize(&quinn.secret, name).await.unwrap();
        assert_eq!(session.version, version);
        assert_eq!(session.subject, "quinn");
        assert_eq!(session.token_id, quinn.id.to_string());
        assert_eq!(session.manifest, model.request.manifest);
        assert_eq!(session.placements, model.request.placements);
        let workers: Vec<&str> = session.workers.iter().map(|w| w.name.as_str()).collect();
        assert_eq!(workers, ["worker-1", "worker-2"]);
    }
    let quinn_id = quinn.id.to_string();
    assert_eq!(api.check(&version, &quinn_id).await, Ok(()));
    assert_eq!(api.revoke("adam", &exact).await.as_deref(), Ok("revoked"));
    let refused = Err(ErrorId::VersionRevoked);
    assert_eq!(api.check(&version, &quinn_id).await, refused);
    let session = api.authorize(&quinn.secret, &exact).await;
    assert_eq!(session.unwrap_err(), ErrorId::VersionRevoked);
    assert_eq!(api.assignments("worker-1").await.unwrap(), []);
    let fetched = api.fetch("worker-1", &version, &model.sha256(0)).await;
    assert_eq!(fetched, Err(ErrorId::ModelUnknown));
    let again = api.approve("rita", &exact).await;
    assert_eq!(again, Err(ErrorId::WrongState));
}

async fn the_publisher_may_not_approve(platform: &Platform, api: &impl Api) {
    platform.register_workers().await;
    platform.submit("petra", &Model::new("esol", 1)).await;
    let refused = Err(ErrorId::SelfApproval);
    assert_eq!(api.approve("petra", "esol").await, refused);
    assert_eq!(api.approve("rita", "esol").await.as_deref(), Ok("approved"));
    let again = api.approve("rita", "esol").await;
    assert_eq!(again, Err(ErrorId::WrongState));
}

async fn only_the_reviewed_version_is_approved(platform: &Platform, api: &impl Api) {
    platform.register_workers().await;
    let (first, second) = (Model::new("esol", 1), Model::new("esol", 2));
    platform.submit("paul", &first).await;
    platform.submit("paul", &second).await;
    let vague = api.approve("rita", "esol").await;
    assert_eq!(vague, Err(ErrorId::ArgumentInvalid));
    let exact = reference("esol", &first.version());
    assert_eq!(api.approve("rita", &exact).await.as_deref(), Ok("approved"));
    let secret = &platform.token("quinn").secret;
    let session = api.authorize(secret, "esol").await.unwrap();
    assert_eq!(session.version, first.version());
    let waiting = reference("esol", &second.version());
    let session = api.authorize(secret, &waiting).await;
    assert_eq!(session.unwrap_err(), ErrorId::NotApproved);
}

async fn a_changed_manifest_or_foreign_signature_is_refused(platform: &Platform, api: &impl Api) {
    platform.register_workers().await;
    let good = Model::new("esol", 1);
    let mut changed = Model::new("esol", 1).request;
    changed.manifest = Model::new("esol", 2).request.manifest;
    let mut foreign = good.request.clone();
    foreign.publisher_key = vec![9; 32].into();
    let mut short = good.request.clone();
    short.signature = short.signature.slice(1..);
    for request in [changed, foreign, short] {
        let refused = api.begin("paul", &request).await;
        assert_eq!(refused, Err(ErrorId::SignatureRefused));
    }
    let mut unreadable = Model::new("esol", 1);
    unreadable.request.manifest = b"{\"format\":1}".to_vec().into();
    unreadable.sign();
    let refused = api.begin("paul", &unreadable.request).await;
    assert_eq!(refused, Err(ErrorId::ManifestRefused));
}

async fn keys_and_placements_must_fit_the_steps(platform: &Platform, api: &impl Api) {
    platform.register_workers().await;
    type Change = fn(&mut Model);
    let changes: [(&str, Change); 12] = [
        ("a step without a worker", |m| {
            m.request.placements.pop();
        }),
        ("a placement past the end", |m| {
            m.request.placements[1].end_step = 3;
        }),
        ("an empty placement", |m| {
            m.request.placements[1].end_step = 1;
        }),
        ("a worker placed twice", |m| {
            let place = m.request.placements[0].clone();
            m.request.placements.push(place);
        }),
        ("a share of two steps", |m| {
            m.request.placements[0].end_step = 2;
            m.request.placements[0].end_group = 1;
        }),
        ("an empty share", |m| {
            m.request.placements[0].first_group = 3;
            m.request.placements[0].end_group = 3;
        }),
        (
            "a share that does not begin at the first output ciphertext",
            |m| {
                m.request.placements[0].first_group = 1;
                m.request.placements[0].end_group = 2;
            },
        ),
        ("no state key", |m| {
            m.request.keys.retain(|key| key.step != STATE_KEY_STEP);
        }),
        ("a key for a step of another worker", |m| {
            m.request.keys.push(sealed_key("worker-1", 1));
        }),
        ("a short key", |m| {
            let key = &mut m.request.keys[0];
            key.ciphertext = key.ciphertext.slice(1..);
        }),
        ("a blob too few", |m| {
            m.request.blobs.pop();
        }),
        ("one blob for two steps", |m| {
            m.request.blobs[1].sha256 = m.request.blobs[0].sha256.clone();
        }),
    ];
    for (what, change) in changes {
        let mut model = Model::new("esol", 1);
        change(&mut model);
        let refused = api.begin("paul", &model.request).await;
        assert_eq!(refused, Err(ErrorId::ArgumentInvalid), "{what}");
    }
}

async fn unknown_workers_are_refused(_: &Platform, api: &impl Api) {
    api.register("worker-1", &[1; 32]).await.unwrap();
    let refused = api.begin("paul", &Model::new("esol", 1).request).await;
    assert_eq!(refused, Err(ErrorId::WorkerUnknown));
}

async fn a_name_belongs_to_its_first_publisher(platform: &Platform, api: &impl Api) {
    platform.register_workers().await;
    let model = Model::new("esol", 1);
    api.begin("paul", &model.request).await.unwrap();
    for other in [&model, &Model::new("esol", 2)] {
        let refused = api.begin("pia", &other.request).await;
        assert_eq!(refused, Err(ErrorId::ManifestRefused));
    }
    let upload = api
        .upload(
            "pia",
            &model.version(),
            &model.sha256(1),
            0,
            &model.blobs[1],
        )
        .await;
    assert_eq!(upload, Err(ErrorId::RoleMissing));
    upload_all(api, "paul", &model).await;
    let submitted = api.submit("pia", &model.version()).await;
    assert_eq!(submitted, Err(ErrorId::RoleMissing));
    let own = api.begin("pia", &Model::new("logd", 2).request).await;
    assert!(own.is_ok());
}

async fn nothing_is_submitted_with_a_missing_blob(platform: &Platform, api: &impl Api) {
    platform.register_workers().await;
    let model = Model::new("esol", 1);
    api.begin("paul", &model.request).await.unwrap();
    let (version, blob) = (model.version(), &model.blobs[0]);
    let refused = Err(ErrorId::BlobMissing);
    assert_eq!(api.submit("paul", &version).await, refused);
    let stored = api
        .upload("paul", &version, &model.sha256(0), 0, blob)
        .await;
    assert_eq!(stored, Ok(blob.len() as u64));
    assert_eq!(api.submit("paul", &version).await, refused);
    let half = &model.blobs[1][..2_500];
    let stored = api
        .upload("paul", &version, &model.sha256(1), 0, half)
        .await;
    assert_eq!(stored, Ok(2_500));
    assert_eq!(api.submit("paul", &version).await, refused);
}

async fn an_upload_resumes_at_half(platform: &Platform, api: &impl Api) {
    platform.register_workers().await;
    let model = Model::new("esol", 1);
    api.begin("paul", &model.request).await.unwrap();
    let (version, sha256, blob) = (model.version(), model.sha256(0), &model.blobs[0]);
    let stored = api
        .upload("paul", &version, &sha256, 0, &blob[..150_000])
        .await;
    assert_eq!(stored, Ok(150_000));
    // not over what is there, and not after a gap
    for offset in [0, 150_001] {
        let refused = api
            .upload("paul", &version, &sha256, offset, &blob[..10])
            .await;
        assert_eq!(refused, Err(ErrorId::ArgumentInvalid));
    }
    // nor past the end: what came before the piece too long is kept
    let long = [&blob[150_000..], b"x"].concat();
    let refused = api.upload("paul", &version, &sha256, 150_000, &long).await;
    assert_eq!(refused, Err(ErrorId::ArgumentInvalid));
    let (_, missing) = api.begin("paul", &model.request).await.unwrap();
    let offset = 250_000;
    assert_eq!(missing, [(sha256.clone(), offset), (model.sha256(1), 0)]);
    let rest = &blob[offset as usize..];
    let stored = api.upload("paul", &version, &sha256, offset, rest).await;
    assert_eq!(stored, Ok(blob.len() as u64));
    let (_, missing) = api.begin("paul", &model.request).await.unwrap();
    assert_eq!(missing, [(model.sha256(1), 0)]);
}

async fn an_upload_with_another_digest_starts_again(platform: &Platform, api: &impl Api) {
    platform.register_workers().await;
    let model = Model::new("esol", 1);
    api.begin("paul", &model.request).await.unwrap();
    let (version, sha256) = (model.version(), model.sha256(0));
    let mut corrupt = model.blobs[0].clone();
    corrupt[123_456] ^= 1;
    let refused = api.upload("paul", &version, &sha256, 0, &corrupt).await;
    assert_eq!(refused, Err(ErrorId::BlobCorrupt));
    let (_, missing) = api.begin("paul", &model.request).await.unwrap();
    assert_eq!(missing[0], (sha256.clone(), 0));
    upload_all(api, "paul", &model).await;
    let stranger = api.upload("paul", &version, &[0; 32], 0, b"x").await;
    assert_eq!(stranger, Err(ErrorId::ArgumentInvalid));
}

async fn a_submitted_version_takes_nothing_more(platform: &Platform, api: &impl Api) {
    platform.register_workers().await;
    let model = Model::new("esol", 1);
    platform.submit("paul", &model).await;
    let refused = Err(ErrorId::WrongState);
    assert_eq!(
        api.begin("paul", &model.request).await,
        Err(ErrorId::WrongState)
    );
    assert_eq!(api.submit("paul", &model.version()).await, refused);
    // a complete blob is not written again
    let (length, sha256) = (model.blobs[1].len() as u64, model.sha256(1));
    let stored = api
        .upload("paul", &model.version(), &sha256, 0, &model.blobs[1])
        .await;
    assert_eq!(stored, Ok(length));
}

async fn a_worker_gets_its_own_steps_only(platform: &Platform, api: &impl Api) {
    platform.register_workers().await;
    let model = Model::new("esol", 1);
    api.begin("paul", &model.request).await.unwrap();
    upload_all(api, "paul", &model).await;
    let version = model.version();
    // a draft is nobody's
    assert_eq!(api.assignments("worker-1").await.unwrap(), []);
    let fetched = api.fetch("worker-1", &version, &model.sha256(0)).await;
    assert_eq!(fetched, Err(ErrorId::ModelUnknown));
    api.submit("paul", &version).await.unwrap();
    for (own, worker) in ["worker-1", "worker-2"].into_iter().enumerate() {
        let assignments = api.assignments(worker).await.unwrap();
        assert_eq!(assignments.len(), 1);
        let assignment = &assignments[0];
        let step = own as u32;
        assert_eq!(
            (assignment.first_step, assignment.end_step),
            (step, step + 1)
        );
        assert_eq!(assignment.manifest, model.request.manifest);
        assert_eq!(assignment.blobs, [model.request.blobs[own].clone()]);
        assert_eq!(assignment.keys, [sealed_key(worker, step)]);
        let state_key = sealed_key(worker, STATE_KEY_STEP);
        assert_eq!(assignment.state_key, Some(state_key));
        let fetched = api.fetch(worker, &version, &model.sha256(own)).await;
        assert!(fetched.as_ref() == Ok(&model.blobs[own]));
        let other = api.fetch(worker, &version, &model.sha256(1 - own)).await;
        assert!(other == Err(ErrorId::ModelUnknown));
    }
    assert_eq!(api.assignments("worker-3").await.unwrap(), []);
}

async fn a_worker_keeps_its_sealing_key(_: &Platform, api: &impl Api) {
    assert_eq!(api.register("worker-1", &[1; 32]).await, Ok(()));
    assert_eq!(api.register("worker-1", &[1; 32]).await, Ok(()));
    let refused = Err(ErrorId::CertificateRefused);
    assert_eq!(api.register("worker-1", &[2; 32]).await, refused);
    let refused = Err(ErrorId::ArgumentInvalid);
    assert_eq!(api.register("worker-2", &[2; 31]).await, refused);
}

/// Worker 3 for both steps.
fn third_worker(version: &str) -> v1::AuthorizeWorkersRequest {
    v1::AuthorizeWorkersRequest {
        version: version.to_owned(),
        placements: vec![v1::Placement {
            worker: "worker-3".to_owned(),
            end_step: 2,
            ..Default::default()
        }],
        keys: [0, 1, STATE_KEY_STEP]
            .map(|step| sealed_key("worker-3", step))
            .to_vec(),
        withdrawn: Vec::new(),
    }
}

async fn workers_are_authorised_later_and_withdrawn(platform: &Platform, api: &impl Api) {
    platform.register_workers().await;
    api.register("worker-3", &[3; 32]).await.unwrap();
    let model = Model::new("esol", 1);
    let version = model.version();
    let change = third_worker(&version);
    api.begin("paul", &model.request).await.unwrap();
    let draft = api.change_workers("paul", &change).await;
    assert_eq!(draft, Err(ErrorId::WrongState));
    upload_all(api, "paul", &model).await;
    api.submit("paul", &version).await.unwrap();
    api.approve("rita", "esol").await.unwrap();

    // who may not, and what does not fit
    for by in ["rita", "quinn"] {
        let refused = api.change_workers(by, &change).await;
        assert_eq!(refused, Err(ErrorId::RoleMissing), "{by}");
    }
    let mut keyless = change.clone();
    keyless.keys.pop();
    let mut unknown = change.clone();
    unknown.placements[0].worker = "worker-9".to_owned();
    unknown.keys = [0, 1, STATE_KEY_STEP]
        .map(|step| sealed_key("worker-9", step))
        .to_vec();
    let mut elsewhere = change.clone();
    elsewhere.version = Model::new("esol", 2).version();
    let alone = v1::AuthorizeWorkersRequest {
        version: version.clone(),
        withdrawn: vec!["worker-1".to_owned()],
        ..Default::default()
    };
    for (bad, why) in [
        (keyless, ErrorId::ArgumentInvalid),
        (unknown, ErrorId::WorkerUnknown),
        (elsewhere, ErrorId::ModelUnknown),
        (alone, ErrorId::ArgumentInvalid),
    ] {
        assert_eq!(api.change_workers("paul", &bad).await, Err(why), "{bad:?}");
    }
    assert_eq!(api.assignments("worker-3").await.unwrap(), []);

    // a third worker beside the two; asked again, nothing changes
    for _ in 0..2 {
        let placed = api.change_workers("paul", &change).await.unwrap();
        let names: Vec<&str> = placed.iter().map(|place| &*place.worker).collect();
        assert_eq!(names, ["worker-1", "worker-3", "worker-2"]);
    }
    let assigned = api.assignments("worker-3").await.unwrap();
    assert_eq!((assigned[0].first_step, assigned[0].end_step), (0, 2));
    assert_eq!(assigned[0].blobs, model.request.blobs);
    let keys = [0, 1].map(|step| sealed_key("worker-3", step));
    assert_eq!(assigned[0].keys, keys);
    for (step, blob) in model.blobs.iter().enumerate() {
        let fetched = api.fetch("worker-3", &version, &model.sha256(step)).await;
        assert!(fetched.as_ref() == Ok(blob));
    }

    // the others go: neither assignment nor blob is theirs any more
    let rest = v1::AuthorizeWorkersRequest {
        version: version.clone(),
        withdrawn: vec!["worker-1".to_owned(), "worker-2".to_owned()],
        ..Default::default()
    };
    for _ in 0..2 {
        let placed = api.change_workers("paul", &rest).await.unwrap();
        assert_eq!(placed, change.placements);
    }
    assert_eq!(api.assignments("worker-1").await.unwrap(), []);
    let fetched = api.fetch("worker-1", &version, &model.sha256(0)).await;
    assert_eq!(fetched, Err(ErrorId::ModelUnknown));

    // what is revoked stays as it was
    api.revoke("adam", &reference("esol", &version))
        .await
        .unwrap();
    let revoked = api.change_workers("paul", &change).await;
    assert_eq!(revoked, Err(ErrorId::WrongState));
}
