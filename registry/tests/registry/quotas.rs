//! Quotas and budgets: exact under concurrency, kept across a crash, in force at once.

use chemxor_core::{ErrorId, VersionId};
use chemxor_proto::v1;
use chemxor_registry::store::Quota;
use chemxor_runtime::pki::Subject;
use uuid::Uuid;

use crate::api::{Api, Direct};
use crate::model::Model;
use crate::platform::{Platform, id};

/// A platform with an approved model and this quota for everyone.
async fn with_quota(quota: Quota) -> (Platform, VersionId) {
    let platform = Platform::start().await;
    platform.register_workers().await;
    let model = Model::new("esol", 1);
    platform.submit("paul", &model).await;
    Direct(&platform).approve("rita", "esol").await.unwrap();
    set(&platform, quota).await;
    (platform, model.version().parse().unwrap())
}

async fn set(platform: &Platform, quota: Quota) {
    let (adam, esol) = (platform.caller("adam"), "esol".parse().unwrap());
    let quota = Quota {
        organisation: "*".to_owned(),
        ..quota
    };
    platform
        .store()
        .set_quota(&adam, &esol, &quota)
        .await
        .unwrap();
}

async fn used(platform: &Platform) -> (u64, u64, u64, u64) {
    let (adam, esol) = (platform.caller("adam"), "esol".parse().unwrap());
    let (_, usage) = platform.store().list_quotas(&adam, &esol).await.unwrap();
    let usage = &usage[0];
    assert_eq!(usage.organisation, "default");
    (
        usage.queries_today,
        usage.lifetime_queries,
        usage.bytes_today,
        usage.compute_ms_today,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_clients_exactly_as_many_pass_as_the_quota_allows() {
    let (platform, version) = with_quota(Quota {
        queries_per_day: Some(120),
        ..Quota::default()
    })
    .await;
    let token = platform.token("quinn").id;
    let clients = (0..200u64).map(|number| {
        let store = platform.store().clone();
        tokio::spawn(async move {
            let id = Uuid::now_v7();
            let reserved = store.reserve_queries(id, &version, token, 1).await;
            let refused = reserved.map_err(|error| error.id()).err();
            if refused.is_none() {
                // every fourth query releases nothing; each settles twice, as after a lost answer
                let answered = u64::from(number % 4 != 0);
                for _ in 0..2 {
                    store.settle_queries(id, answered, 10, 2).await.unwrap();
                }
            }
            (refused, number % 4 != 0)
        })
    });
    let (mut passed, mut answered) = (0, 0);
    for outcome in futures::future::join_all(clients).await {
        match outcome.unwrap() {
            (None, released) => {
                passed += 1;
                answered += u64::from(released);
            }
            (Some(id), _) => assert_eq!(id, ErrorId::QuotaExhausted),
        }
    }
    // what was given back may be used again, so more than 120 may have passed; never more answers
    assert!(passed >= 120 && answered <= 120, "{passed} {answered}");
    let counted = used(&platform).await;
    assert_eq!(counted, (answered, answered, 10 * passed, 2 * passed));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_settling_exactly_the_quota_passes_and_a_crash_gives_nothing_back() {
    let (platform, version) = with_quota(Quota {
        lifetime_queries: Some(120),
        ..Quota::default()
    })
    .await;
    let token = platform.token("quinn").id;
    let clients = (0..200).map(|_| {
        let store = platform.store().clone();
        tokio::spawn(async move {
            let reserved = store
                .reserve_queries(Uuid::now_v7(), &version, token, 1)
                .await;
            reserved.map_err(|error| error.id())
        })
    });
    let outcomes = futures::future::join_all(clients).await;
    let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
    let passed = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(passed, 120);
    let refused = Err(ErrorId::BudgetExhausted);
    assert_eq!(
        outcomes
            .iter()
            .filter(|outcome| **outcome == refused)
            .count(),
        80
    );
    assert_eq!(used(&platform).await, (120, 120, 0, 0));
    // another token of the same organisation draws on the same budget
    let other = platform
        .token_in("default", "quentin", &[chemxor_core::Role::Querier])
        .await;
    let reserved = platform
        .store()
        .reserve_queries(Uuid::now_v7(), &version, other.id, 1)
        .await;
    assert_eq!(reserved.unwrap_err().id(), ErrorId::BudgetExhausted);
    // a higher budget holds at once
    set(
        &platform,
        Quota {
            lifetime_queries: Some(121),
            ..Quota::default()
        },
    )
    .await;
    let id = Uuid::now_v7();
    for _ in 0..3 {
        // a repeated request counts once
        let again = platform
            .store()
            .reserve_queries(id, &version, token, 1)
            .await;
        assert!(again.is_ok(), "{again:?}");
    }
    assert_eq!(used(&platform).await, (121, 121, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_learns_when_to_come_back() {
    let (platform, version) = with_quota(Quota {
        queries_per_day: Some(5),
        concurrent_sessions: Some(2),
        ..Quota::default()
    })
    .await;
    let mut metering = platform.metering(&Subject::Gateway).await;
    let request = |queries| v1::ReserveQueriesRequest {
        reservation_id: Uuid::now_v7().as_bytes().to_vec().into(),
        version: version.to_string(),
        token_id: platform.token("quinn").id.to_string(),
        queries,
    };
    let first = request(2);
    let left = metering.reserve_queries(first.clone()).await.unwrap();
    assert_eq!(left.into_inner().left_today, Some(3));
    let refused = metering.reserve_queries(request(4)).await.unwrap_err();
    assert_eq!(id(&refused), ErrorId::QuotaExhausted);
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    let seconds: u64 = refused
        .metadata()
        .get("retry-after")
        .unwrap()
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=86_400).contains(&seconds), "{seconds}");
    metering.reserve_queries(request(1)).await.unwrap();
    // two are open
    let refused = metering.reserve_queries(request(1)).await.unwrap_err();
    assert_eq!(refused.metadata().get("retry-after").unwrap(), "1");
    let settle = v1::SettleQueriesRequest {
        reservation_id: first.reservation_id,
        answered: 2,
        bytes: 100,
        compute_ms: 7,
    };
    metering.settle_queries(settle.clone()).await.unwrap();
    let left = metering.reserve_queries(request(1)).await.unwrap();
    assert_eq!(left.into_inner().left_today, Some(1));
    let more = v1::SettleQueriesRequest {
        answered: 3,
        ..settle
    };
    let refused = metering.settle_queries(more).await.unwrap_err();
    assert_eq!(id(&refused), ErrorId::ArgumentInvalid);
}
