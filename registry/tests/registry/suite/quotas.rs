//! Quotas and budgets: what is counted, what is refused, and that 200 clients at once change nothing
//! about it. What only the database shows, days and crashes, is in `quotas`.

use chemxor_core::{ErrorId, VersionId};
use chemxor_registry::store::{Quota, ReservationOrder, Reserved};
use futures::future::join_all;
use uuid::Uuid;

use crate::api::Api;
use crate::model::Model;
use crate::platform::Platform;

behaviours! {
    a_reservation_grows_and_gives_back_what_was_not_answered
    a_spent_day_and_a_spent_budget_are_told_apart
    a_repeated_reservation_counts_once
    limits_take_effect_with_the_next_query
    open_sessions_are_limited_until_one_is_settled
    only_who_governs_the_model_sets_its_limits
    of_200_parallel_clients_exactly_the_quota_passes
    of_200_parallel_clients_that_settle_nothing_is_counted_twice_or_lost
}

/// An approved model with these limits for everyone.
async fn limited(platform: &Platform, api: &impl Api, quota: Quota) -> VersionId {
    platform.register_workers().await;
    let model = Model::new("esol", 1);
    platform.submit("paul", &model).await;
    api.approve("rita", "esol").await.unwrap();
    limit(api, quota).await;
    model.version().parse().unwrap()
}

async fn limit(api: &impl Api, quota: Quota) {
    let quota = Quota {
        organisation: "*".to_owned(),
        ..quota
    };
    api.set_quota("adam", "esol", &quota).await.unwrap();
}

fn a_day(queries: u64) -> Quota {
    Quota {
        queries_per_day: Some(queries),
        ..Quota::default()
    }
}

fn ever(queries: u64) -> Quota {
    Quota {
        lifetime_queries: Some(queries),
        ..Quota::default()
    }
}

/// A new reservation of quinn's.
async fn reserve(
    platform: &Platform,
    api: &impl Api,
    version: VersionId,
    queries: u64,
) -> Result<(Uuid, Reserved), ErrorId> {
    let id = Uuid::now_v7();
    let order = ReservationOrder::new(id, version, platform.token("quinn").id, queries);
    api.reserve(&order).await.map(|reserved| (id, reserved))
}

/// Queries today and ever, bytes and milliseconds today.
async fn counted(api: &impl Api) -> (u64, u64, u64, u64) {
    let usage = api.usage("adam", "esol").await.unwrap();
    let [usage] = usage.as_slice() else {
        panic!("one organisation used it: {usage:?}");
    };
    assert_eq!(usage.organisation, "default");
    let (today, ever) = (usage.queries_today, usage.lifetime_queries);
    (today, ever, usage.bytes_today, usage.compute_ms_today)
}

async fn a_reservation_grows_and_gives_back_what_was_not_answered(
    platform: &Platform,
    api: &impl Api,
) {
    let version = limited(platform, api, a_day(100)).await;
    let (id, first) = reserve(platform, api, version, 10).await.unwrap();
    assert_eq!((first.queries, first.queries_left), (10, Some(90)));
    assert_eq!(counted(api).await, (10, 10, 0, 0));
    let grown = ReservationOrder {
        begun: 10,
        bytes: 100,
        compute_ms: 30,
        ..ReservationOrder::new(id, version, platform.token("quinn").id, 20)
    };
    let grown = api.reserve(&grown).await.unwrap();
    assert_eq!((grown.queries, grown.queries_left), (20, Some(80)));
    assert_eq!(counted(api).await, (20, 20, 100, 30));
    let many = api.settle(id, 21, 150, 40).await;
    assert_eq!(many, Err(ErrorId::ArgumentInvalid), "more than reserved");
    for _ in 0..2 {
        api.settle(id, 15, 150, 40).await.unwrap();
        assert_eq!(counted(api).await, (15, 15, 150, 40));
    }
    let unknown = api.settle(Uuid::now_v7(), 1, 0, 0).await;
    assert_eq!(unknown, Err(ErrorId::ArgumentInvalid));
}

async fn a_spent_day_and_a_spent_budget_are_told_apart(platform: &Platform, api: &impl Api) {
    let version = limited(platform, api, a_day(5)).await;
    let both = Quota {
        queries_per_day: Some(9),
        ..ever(5)
    };
    for (quota, refused) in [
        (a_day(5), ErrorId::QuotaExhausted),
        (ever(5), ErrorId::BudgetExhausted),
        // what never comes back is told first
        (both, ErrorId::BudgetExhausted),
    ] {
        limit(api, quota).await;
        let many = reserve(platform, api, version, 6).await;
        assert_eq!(many, Err(refused));
    }
    let (id, _) = reserve(platform, api, version, 5).await.unwrap();
    let more = reserve(platform, api, version, 1).await;
    assert_eq!(more, Err(ErrorId::BudgetExhausted));
    // what released nothing was not spent
    api.settle(id, 4, 0, 0).await.unwrap();
    reserve(platform, api, version, 1).await.unwrap();
    assert_eq!(counted(api).await, (5, 5, 0, 0));
}

async fn a_repeated_reservation_counts_once(platform: &Platform, api: &impl Api) {
    let version = limited(platform, api, a_day(10)).await;
    let order = ReservationOrder::new(Uuid::now_v7(), version, platform.token("quinn").id, 6);
    for _ in 0..3 {
        let reserved = api.reserve(&order).await.unwrap();
        assert_eq!((reserved.queries, reserved.queries_left), (6, Some(4)));
    }
    assert_eq!(counted(api).await, (6, 6, 0, 0));
    // once settled the id is spent
    api.settle(order.id, 6, 0, 0).await.unwrap();
    let late = api.reserve(&order).await;
    assert_eq!(late, Err(ErrorId::ArgumentInvalid));
    assert_eq!(counted(api).await, (6, 6, 0, 0));
}

async fn limits_take_effect_with_the_next_query(platform: &Platform, api: &impl Api) {
    let version = limited(platform, api, a_day(1)).await;
    let (id, first) = reserve(platform, api, version, 1).await.unwrap();
    let more = reserve(platform, api, version, 1).await;
    assert_eq!(more, Err(ErrorId::QuotaExhausted));
    limit(api, a_day(2)).await;
    let (_, second) = reserve(platform, api, version, 1).await.unwrap();
    assert!(second.revision > first.revision, "so that gateways notice");
    limit(api, Quota::default()).await;
    let (_, third) = reserve(platform, api, version, 1_000).await.unwrap();
    assert_eq!(third.queries_left, None);
    let bytes = Quota {
        bytes_per_day: Some(50),
        ..Quota::default()
    };
    limit(api, bytes).await;
    api.settle(id, 1, 50, 0).await.unwrap();
    let more = reserve(platform, api, version, 1).await;
    assert_eq!(more, Err(ErrorId::QuotaExhausted), "every byte is used");
    limit(api, a_day(0)).await;
    let none = reserve(platform, api, version, 1).await;
    assert_eq!(none, Err(ErrorId::QuotaExhausted));
}

async fn open_sessions_are_limited_until_one_is_settled(platform: &Platform, api: &impl Api) {
    let one = Quota {
        concurrent_sessions: Some(1),
        ..Quota::default()
    };
    let version = limited(platform, api, one).await;
    let (id, _) = reserve(platform, api, version, 1).await.unwrap();
    let second = reserve(platform, api, version, 1).await;
    assert_eq!(second, Err(ErrorId::QuotaExhausted));
    api.settle(id, 1, 0, 0).await.unwrap();
    reserve(platform, api, version, 1).await.unwrap();
}

async fn only_who_governs_the_model_sets_its_limits(platform: &Platform, api: &impl Api) {
    let version = limited(platform, api, a_day(1)).await;
    let quota = Quota {
        organisation: "*".to_owned(),
        ..a_day(100)
    };
    for by in ["paul", "rita", "quinn"] {
        let refused = api.set_quota(by, "esol", &quota).await;
        assert_eq!(refused, Err(ErrorId::RoleMissing), "{by}");
        let refused = api.usage(by, "esol").await;
        assert_eq!(refused, Err(ErrorId::RoleMissing), "{by}");
    }
    let unknown = api.set_quota("adam", "logd", &quota).await;
    assert_eq!(unknown, Err(ErrorId::ModelUnknown));
    let nobody = Quota {
        organisation: "nobody".to_owned(),
        ..quota
    };
    let unknown = api.set_quota("adam", "esol", &nobody).await;
    assert_eq!(unknown, Err(ErrorId::OrganisationUnknown));
    let more = reserve(platform, api, version, 2).await;
    assert_eq!(more, Err(ErrorId::QuotaExhausted), "nothing has changed");
}

/// 200 clients at once, a query each: how many pass, and how many are refused for this reason.
async fn burst(
    platform: &Platform,
    api: &impl Api,
    version: VersionId,
    reason: ErrorId,
) -> (usize, usize) {
    let clients = (0..200).map(|_| reserve(platform, api, version, 1));
    let all = join_all(clients).await;
    let passed = all.iter().filter(|outcome| outcome.is_ok()).count();
    let refused = all.iter().filter(|outcome| **outcome == Err(reason));
    (passed, refused.count())
}

async fn of_200_parallel_clients_exactly_the_quota_passes(platform: &Platform, api: &impl Api) {
    let version = limited(platform, api, a_day(120)).await;
    let all = burst(platform, api, version, ErrorId::QuotaExhausted).await;
    assert_eq!(all, (120, 80));
    assert_eq!(counted(api).await, (120, 120, 0, 0));
    // of this budget 30 are left
    limit(api, ever(150)).await;
    let all = burst(platform, api, version, ErrorId::BudgetExhausted).await;
    assert_eq!(all, (30, 170));
    assert_eq!(counted(api).await, (150, 150, 0, 0));
}

async fn of_200_parallel_clients_that_settle_nothing_is_counted_twice_or_lost(
    platform: &Platform,
    api: &impl Api,
) {
    let version = limited(platform, api, a_day(120)).await;
    let client = |number: u64| async move {
        let (id, _) = match reserve(platform, api, version, 1).await {
            Ok(reserved) => reserved,
            Err(id) => {
                assert_eq!(id, ErrorId::QuotaExhausted);
                return (0, 0);
            }
        };
        // every fourth query releases nothing; each settles twice, as after a lost answer
        let answered = u64::from(!number.is_multiple_of(4));
        for _ in 0..2 {
            api.settle(id, answered, 10, 2).await.unwrap();
        }
        (1, answered)
    };
    let all = join_all((0..200).map(client)).await;
    let passed: u64 = all.iter().map(|(passed, _)| passed).sum();
    let answered: u64 = all.iter().map(|(_, answered)| answered).sum();
    // what was given back may be used again, so more than 120 may have passed; never more answers
    assert!(passed >= 120 && answered <= 120, "{passed} {answered}");
    let expected = (answered, answered, 10 * passed, 2 * passed);
    assert_eq!(counted(api).await, expected);
    // what is left can be used, to the last query
    let left = 120 - answered;
    let more = reserve(platform, api, version, left + 1).await;
    assert_eq!(more, Err(ErrorId::QuotaExhausted));
    if left > 0 {
        reserve(platform, api, version, left).await.unwrap();
    }
}
