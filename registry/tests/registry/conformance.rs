//! Nobody approves what its publisher has not shown to conform.

use chemxor_core::{Conformance, ErrorId, Event, Manifest};
use chemxor_proto::v1;
use chemxor_runtime::pki::Subject;

use crate::api::{Api, Direct};
use crate::model::{Model, conformance, reference, signed_run};
use crate::platform::{Platform, id};

/// A submitted version without a run.
async fn submitted() -> (Platform, Model) {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let model = Model::new("esol", 1);
    let api = Direct(&platform);
    api.begin("paul", &model.request).await.unwrap();
    for (step, blob) in model.blobs.iter().enumerate() {
        let (version, sha256) = (model.version(), model.sha256(step));
        api.upload("paul", &version, &sha256, 0, blob)
            .await
            .unwrap();
    }
    let version = model.version().parse().unwrap();
    let paul = platform.caller("paul");
    let submit = platform
        .store()
        .transition(&paul, &version, Event::Submit, "", None);
    submit.await.unwrap();
    (platform, model)
}

async fn record(
    platform: &Platform,
    by: &str,
    version: &str,
    (report, signature): (Vec<u8>, Vec<u8>),
) -> Result<(), ErrorId> {
    let request = v1::RecordConformanceRequest {
        version: version.to_owned(),
        report: report.into(),
        signature: signature.into(),
    };
    let request = platform.by(by, request);
    let answer = platform.publishing().record_conformance(request).await;
    answer.map(drop).map_err(|status| id(&status))
}

#[tokio::test(flavor = "multi_thread")]
async fn approval_asks_for_a_run_that_passed_signed_by_the_publisher() {
    let (platform, model) = submitted().await;
    let (api, version) = (Direct(&platform), model.version());
    let early = api.approve("rita", "esol").await;
    assert_eq!(early, Err(ErrorId::NotConformant));
    let (report, signature) = conformance(&version);
    let good = Conformance::from_bytes(&report).unwrap();
    let other = Model::new("esol", 2).version();
    for bad in [
        Conformance {
            worst_permille: 1001,
            ..good.clone()
        },
        Conformance {
            security_bits: 127,
            ..good.clone()
        },
        Conformance {
            vectors: 3,
            ..good.clone()
        },
        // not all of the known answers, or more than there are
        Conformance {
            vectors: 9,
            ..good.clone()
        },
        Conformance {
            version: other.parse().unwrap(),
            ..good.clone()
        },
    ] {
        let refused = record(&platform, "paul", &version, signed_run(&bad)).await;
        assert_eq!(refused, Err(ErrorId::NotConformant), "{bad:?}");
    }
    let mut forged = signature.clone();
    forged[5] ^= 1;
    let refused = record(&platform, "paul", &version, (report.clone(), forged)).await;
    assert_eq!(refused, Err(ErrorId::NotConformant));
    let foreign = record(&platform, "pia", &version, conformance(&version)).await;
    assert_eq!(foreign, Err(ErrorId::RoleMissing));
    assert_eq!(
        api.approve("rita", "esol").await,
        Err(ErrorId::NotConformant)
    );

    for _ in 0..2 {
        record(&platform, "paul", &version, conformance(&version))
            .await
            .unwrap();
    }
    assert_eq!(api.approve("rita", "esol").await.as_deref(), Ok("approved"));
    let late = record(&platform, "paul", &version, conformance(&version)).await;
    assert_eq!(late, Err(ErrorId::WrongState));
    let change = "update conformance set recorded_by = 'eve'";
    assert!(
        platform
            .database
            .execute(change)
            .await
            .unwrap_err()
            .contains("append only")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitted_version_is_queried_by_its_publisher_and_reviewers_only() {
    let (platform, model) = submitted().await;
    let exact = reference("esol", &model.version());
    let mut gateway = platform.control(&Subject::Gateway).await;
    let opening = |name: &str| v1::AuthorizeSessionRequest {
        token: platform.token(name).secret.to_string(),
        model: exact.clone(),
        ..Default::default()
    };
    for (name, reason) in [
        ("quinn", ErrorId::NotApproved),
        ("pia", ErrorId::RoleMissing),
    ] {
        let refused = gateway.authorize_session(opening(name)).await.unwrap_err();
        assert_eq!(id(&refused), reason, "{name}");
    }
    gateway.authorize_session(opening("rita")).await.unwrap();
    let session = gateway
        .authorize_session(opening("paul"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(session.placements.len(), 2);
    let check = v1::CheckSessionRequest {
        version: session.version.clone(),
        token_id: session.token_id.clone(),
        ..Default::default()
    };
    assert!(
        gateway
            .check_session(check.clone())
            .await
            .unwrap()
            .into_inner()
            .allowed
    );
    let mut metering = platform.metering(&Subject::Gateway).await;
    let reserve = v1::ReserveQueriesRequest {
        reservation_id: vec![1; 16].into(),
        version: session.version,
        token_id: session.token_id,
        queries: 16,
        ..Default::default()
    };
    metering.reserve_queries(reserve).await.unwrap();
    // once it is approved its publisher has no more rights than before
    record(
        &platform,
        "paul",
        &model.version(),
        conformance(&model.version()),
    )
    .await
    .unwrap();
    Direct(&platform).approve("rita", "esol").await.unwrap();
    let over = gateway.check_session(check).await.unwrap().into_inner();
    assert_eq!(over.error_id, ErrorId::TokenRefused.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_parameters_and_too_few_known_answers_are_refused_before_anything_is_uploaded() {
    let platform = Platform::start().await;
    platform.register_workers().await;
    type Change = fn(&mut Manifest);
    let changes: [Change; 6] = [
        |manifest| manifest.rings[0].log2_noise_std = -24.0,
        |manifest| manifest.rings[0].log2_noise_std = 0.5,
        |manifest| manifest.rings[0].lwe_dimension = 512,
        |manifest| manifest.rings[0].torus_bits = 64,
        |manifest| manifest.rings.clear(),
        |manifest| manifest.known_answers.truncate(7),
    ];
    for change in changes {
        let mut model = Model::new("esol", 1);
        let (mut manifest, _) = Manifest::from_bytes(&model.request.manifest).unwrap();
        change(&mut manifest);
        model.request.manifest = manifest.to_bytes().unwrap().into();
        model.sign();
        let refused = Direct(&platform).begin("paul", &model.request).await;
        assert_eq!(refused, Err(ErrorId::NotConformant), "{:?}", manifest.rings);
    }
}
