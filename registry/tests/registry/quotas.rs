//! Quotas and budgets: exact under concurrency, kept across a crash, in force at once.

use chemxor_core::{ErrorId, ModelRef, VersionId};
use chemxor_proto::v1;
use chemxor_registry::store::{Quota, ReservationOrder, Reserved};
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
            let order = ReservationOrder::new(id, version, token, 1);
            let reserved = store.reserve_queries(&order).await;
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
            let order = ReservationOrder::new(Uuid::now_v7(), version, token, 1);
            let reserved = store.reserve_queries(&order).await;
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
    let order = ReservationOrder::new(Uuid::now_v7(), version, other.id, 1);
    let reserved = platform.store().reserve_queries(&order).await;
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
        let order = ReservationOrder::new(id, version, token, 1);
        let again = platform.store().reserve_queries(&order).await;
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
        ..Default::default()
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

/// Reserves or resizes: `at_least` and `queries` beside what began.
async fn resize(
    platform: &Platform,
    version: VersionId,
    id: Uuid,
    begun: u64,
    (at_least, queries): (u64, u64),
) -> Result<Reserved, ErrorId> {
    let order = ReservationOrder {
        begun,
        at_least,
        bytes: begun * 10,
        compute_ms: begun * 3,
        ..ReservationOrder::new(id, version, platform.token("quinn").id, queries)
    };
    let reserved = platform.store().reserve_queries(&order).await;
    reserved.map_err(|error| error.id())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_grows_and_shrinks_and_a_repeated_request_changes_nothing() {
    let (platform, version) = with_quota(Quota {
        queries_per_day: Some(100),
        bytes_per_day: Some(1_000),
        ..Quota::default()
    })
    .await;
    let id = Uuid::now_v7();
    for _ in 0..2 {
        let first = resize(&platform, version, id, 0, (1, 16)).await.unwrap();
        assert_eq!((first.queries, first.queries_left), (16, Some(84)));
        assert_eq!(used(&platform).await, (16, 16, 0, 0));
    }
    for _ in 0..2 {
        // 90 are left beside the ten that began, and a quarter of them is given
        let more = resize(&platform, version, id, 10, (16, 74)).await.unwrap();
        assert_eq!((more.queries, more.queries_left), (10 + 22, Some(68)));
        assert_eq!(more.bytes_left, Some(900));
        assert_eq!(used(&platform).await, (32, 32, 100, 30));
    }
    // limits that are lowered take back what has not begun
    let low = Quota {
        queries_per_day: Some(12),
        ..Quota::default()
    };
    set(&platform, low).await;
    let kept = resize(&platform, version, id, 20, (20, 84)).await.unwrap();
    assert!(kept.revision > 0);
    assert_eq!((kept.queries, kept.queries_left), (20, Some(0)));
    let refused = resize(&platform, version, id, 20, (21, 84)).await;
    assert_eq!(refused, Err(ErrorId::QuotaExhausted));
    assert_eq!(used(&platform).await, (20, 20, 200, 60));
    for _ in 0..2 {
        let store = platform.store();
        store.settle_queries(id, 18, 250, 70).await.unwrap();
        assert_eq!(used(&platform).await, (18, 18, 250, 70));
    }
    let late = resize(&platform, version, id, 20, (20, 20)).await;
    assert_eq!(late, Err(ErrorId::ArgumentInvalid), "it is settled");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_day_counts_what_began_on_it() {
    let (platform, version) = with_quota(Quota {
        queries_per_day: Some(100),
        ..Quota::default()
    })
    .await;
    let id = Uuid::now_v7();
    resize(&platform, version, id, 0, (40, 40)).await.unwrap();
    // midnight passes
    for statement in [
        "update reservations set day = day - 1",
        "update usage set day = day - 1 where day > '1970-01-01'",
    ] {
        platform.database.execute(statement).await.unwrap();
    }
    let next = resize(&platform, version, id, 30, (40, 40)).await.unwrap();
    assert_eq!((next.queries, next.queries_left), (40, Some(90)));
    let yesterday = "select queries from usage where day = (now() at time zone 'utc')::date - 1";
    assert_eq!(platform.database.number(yesterday).await, 30);
    assert_eq!(used(&platform).await, (10, 40, 300, 90));
    // 35 were answered: today's share of what is given back is at most what today counted
    let store = platform.store();
    store.settle_queries(id, 35, 350, 100).await.unwrap();
    assert_eq!(used(&platform).await, (5, 35, 350, 100));
    assert_eq!(platform.database.number(yesterday).await, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_over_a_lowered_limit_end_newest_first_and_lost_ones_expire() {
    let (platform, version) = with_quota(Quota {
        concurrent_sessions: Some(3),
        ..Quota::default()
    })
    .await;
    let ids = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
    for id in ids {
        resize(&platform, version, id, 0, (1, 16)).await.unwrap();
    }
    let fourth = Uuid::now_v7();
    let refused = resize(&platform, version, fourth, 0, (1, 16)).await;
    assert_eq!(refused, Err(ErrorId::QuotaExhausted));
    let fewer = Quota {
        concurrent_sessions: Some(1),
        ..Quota::default()
    };
    set(&platform, fewer).await;
    let [old, newer, newest] = ids;
    for id in [newest, newer] {
        let renewed = resize(&platform, version, id, 0, (16, 16)).await;
        assert_eq!(renewed, Err(ErrorId::QuotaExhausted));
    }
    resize(&platform, version, old, 0, (16, 16)).await.unwrap();
    // their gateway was killed: they stay counted, and make room
    let late = "update reservations set expires_at = now()";
    platform.database.execute(late).await.unwrap();
    resize(&platform, version, fourth, 0, (1, 16))
        .await
        .unwrap();
    assert_eq!(used(&platform).await, (64, 64, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organisation_sees_its_own_allowance_only() {
    let (platform, version) = with_quota(Quota {
        queries_per_day: Some(50),
        lifetime_queries: Some(70),
        ..Quota::default()
    })
    .await;
    resize(&platform, version, Uuid::now_v7(), 0, (7, 7))
        .await
        .unwrap();
    let request = || v1::GetAllowanceRequest {
        model: "esol".to_owned(),
    };
    let mut governance = platform.governance();
    let asked = platform.by("quinn", request());
    let allowance = governance.get_allowance(asked).await.unwrap().into_inner();
    let (limits, used) = (allowance.limits.unwrap(), allowance.used.unwrap());
    assert_eq!(limits.organisation, "default");
    assert_eq!(
        (limits.queries_per_day, limits.lifetime_queries),
        (Some(50), Some(70))
    );
    assert_eq!((used.queries_today, used.lifetime_queries), (7, 7));
    // limits of its own for another organisation, which has used nothing
    let adam = platform.caller("adam");
    let esol: ModelRef = "esol".parse().unwrap();
    let visible = chemxor_registry::store::Visibility::Everyone;
    let store = platform.store();
    store
        .set_visibility(&adam, &esol.name, &visible)
        .await
        .unwrap();
    let stranger = platform
        .token_in("stranger", "sam", &[chemxor_core::Role::Querier])
        .await;
    let own = Quota {
        organisation: "stranger".to_owned(),
        bytes_per_day: Some(9),
        ..Quota::default()
    };
    store.set_quota(&adam, &esol.name, &own).await.unwrap();
    let asked = crate::platform::signed(&stranger.secret, request());
    let allowance = governance.get_allowance(asked).await.unwrap().into_inner();
    let limits = allowance.limits.unwrap();
    // one limit of its own lifts none of the others
    assert_eq!(
        (
            limits.queries_per_day,
            limits.lifetime_queries,
            limits.bytes_per_day
        ),
        (Some(50), Some(70), Some(9))
    );
    assert_eq!(allowance.used.unwrap().lifetime_queries, 0);
}

/// The attack: any limit of the organisation's own, and the extraction budget of everyone is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_its_own_replaces_that_limit_only_until_it_is_unset() {
    let everyone = Quota {
        lifetime_queries: Some(10),
        ..Quota::default()
    };
    let (platform, version) = with_quota(everyone).await;
    let (adam, esol) = (platform.caller("adam"), "esol".parse().unwrap());
    let quinn = platform.caller("quinn");
    let model: ModelRef = "esol".parse().unwrap();
    let own = |lifetime_queries, bytes_per_day| Quota {
        organisation: "default".to_owned(),
        lifetime_queries,
        bytes_per_day,
        ..Quota::default()
    };
    let refused = Err(ErrorId::BudgetExhausted);
    let mut revision = 0;
    for (limits, budget) in [
        (own(None, Some(1_000)), 10),
        (own(Some(20), None), 20),
        (own(Some(5), None), 5),
        (own(None, None), 10),
    ] {
        let store = platform.store();
        store.set_quota(&adam, &esol, &limits).await.unwrap();
        let (seen, _) = store.allowance(&quinn, &model).await.unwrap();
        assert_eq!(seen.lifetime_queries, Some(budget), "{limits:?}");
        let over = (budget + 1, budget + 1);
        let reserved = resize(&platform, version, Uuid::now_v7(), 0, over).await;
        assert_eq!(reserved, refused, "{limits:?}");
        let id = Uuid::now_v7();
        let reserved = resize(&platform, version, id, 0, (budget, budget)).await;
        let reserved = reserved.unwrap();
        assert_eq!(reserved.queries, budget);
        assert!(reserved.revision > revision, "gateways notice the change");
        revision = reserved.revision;
        platform.store().settle_queries(id, 0, 0, 0).await.unwrap();
    }
    let (listed, _) = platform.store().list_quotas(&adam, &esol).await.unwrap();
    let names: Vec<&str> = listed.iter().map(|row| row.organisation.as_str()).collect();
    assert_eq!(names, ["*"], "what names no limit is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn spent_bytes_and_computing_time_refuse_until_midnight() {
    let bytes = Quota {
        bytes_per_day: Some(100),
        ..Quota::default()
    };
    let compute = Quota {
        compute_ms_per_day: Some(100),
        ..Quota::default()
    };
    for limits in [bytes, compute] {
        let (platform, version) = with_quota(limits.clone()).await;
        let mut metering = platform.metering(&Subject::Gateway).await;
        for (spent, passes) in [(0, true), (99, true), (1, false)] {
            let settled = Uuid::now_v7();
            let store = platform.store();
            if spent > 0 {
                let token = platform.token("quinn").id;
                let order = ReservationOrder::new(settled, version, token, 1);
                store.reserve_queries(&order).await.unwrap();
                store
                    .settle_queries(settled, 1, spent, spent)
                    .await
                    .unwrap();
            }
            let request = v1::ReserveQueriesRequest {
                reservation_id: Uuid::now_v7().as_bytes().to_vec().into(),
                version: version.to_string(),
                token_id: platform.token("quinn").id.to_string(),
                queries: 1,
                ..Default::default()
            };
            match metering.reserve_queries(request).await {
                Ok(_) => assert!(passes, "{limits:?} {spent}"),
                Err(refused) => {
                    assert!(!passes, "{limits:?} {spent} {refused:?}");
                    assert_eq!(id(&refused), ErrorId::QuotaExhausted);
                    let after = refused.metadata().get("retry-after").unwrap();
                    let seconds: u64 = after.to_str().unwrap().parse().unwrap();
                    assert!((1..=86_400).contains(&seconds), "{seconds}");
                }
            }
        }
    }
}
