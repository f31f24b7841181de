//! Quotas that an administrator sets limit what a lab asks, through real processes.

use chemxor_core::{Role, RoleSet};
use chemxor_registry::store::{Caller, Quota, Store, Usage};

use crate::platform::{Platform, wait_until};

/// Queries that the conformance run of the publisher's organisation took.
const TRIAL: u64 = 16;

/// Sets the limits for everybody on `esol`, as an administrator.
fn set(platform: &Platform, quota: &Quota) {
    let quota = Quota {
        organisation: "*".to_owned(),
        ..quota.clone()
    };
    with_store(platform, async |store, admin| {
        let esol = "esol".parse().unwrap();
        store.set_quota(&admin, &esol, &quota).await.unwrap();
    });
}

fn used(platform: &Platform) -> Usage {
    with_store(platform, async |store, admin| {
        let esol = "esol".parse().unwrap();
        let (_, usage) = store.list_quotas(&admin, &esol).await.unwrap();
        usage.into_iter().next().unwrap_or_default()
    })
}

fn with_store<T>(platform: &Platform, work: impl AsyncFnOnce(Store, Caller) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::connect(&platform.cluster.url("postgres"))
            .await
            .unwrap();
        let admin = Caller::new("default", "admin@test", RoleSet::new([Role::Admin]));
        work(store, admin).await
    })
}

fn rows(path: &std::path::Path) -> usize {
    std::fs::read_to_string(path).unwrap().lines().count() - 1
}

#[test]
fn a_quota_stops_a_run_says_why_and_a_higher_one_lets_it_go_on() {
    let platform = Platform::start(1);
    platform.publish("esol", true);
    wait_until("the conformance run is settled", || {
        (used(&platform).lifetime_queries == TRIAL).then_some(())
    });
    set(
        &platform,
        &Quota {
            queries_per_day: Some(TRIAL + 12),
            lifetime_queries: Some(TRIAL + 30),
            ..Quota::default()
        },
    );
    let (input, output) = (platform.path("in.csv"), platform.path("out.csv"));
    let molecules: String = (1..=20)
        .map(|n| format!("{n},{}\n", "C".repeat(n)))
        .collect();
    std::fs::write(&input, format!("id,smiles\n{molecules}")).unwrap();
    let (input, output) = (input.to_str().unwrap(), output.to_str().unwrap());
    let query = |in_flight, more| {
        let run = ["query", "esol", "--input", input, "--output", output];
        let how = ["--yes", "--in-flight", in_flight, more];
        [&run[..], &how[..]].concat()
    };

    let estimate = platform.json(&query("1", "--estimate"));
    assert_eq!(estimate["allowance"]["queries_today"]["limit"], TRIAL + 12);
    assert_eq!(estimate["queries_left"], 12);
    assert_eq!(estimate["fits"], false, "{estimate}");
    let bits = estimate["molecule"]["leakage_bits"].as_u64().unwrap();
    assert_eq!(estimate["leakage_bits_left"], 30 * bits);

    let refused = platform.refusal(&query("1", "--quiet"));
    assert!(
        refused.contains("CX-G01") && refused.contains("come back in"),
        "{refused}"
    );
    assert!(
        refused.contains("is 28 queries a day") && refused.contains("--resume"),
        "{refused}"
    );
    let usage = used(&platform);
    let counted = (usage.queries_today, usage.lifetime_queries);
    assert_eq!(counted, (TRIAL + 12, TRIAL + 12));
    assert!(
        usage.bytes_today > (TRIAL + 12) * 1000 && usage.compute_ms_today > 0,
        "{usage:?}"
    );
    assert_eq!(rows(&platform.path("out.csv.partial")), 12);

    // a higher one holds at once; several queries at the same time pass no limit either
    set(
        &platform,
        &Quota {
            lifetime_queries: Some(TRIAL + 30),
            ..Quota::default()
        },
    );
    let report = platform.json(&query("8", "--resume"));
    assert_eq!(report["resumed"], 12);
    assert_eq!(rows(output.as_ref()), 20);
    assert_eq!(used(&platform).lifetime_queries, TRIAL + 20);
    let refused = platform.refusal(&query("8", "--overwrite"));
    assert!(
        refused.contains("CX-G02") && refused.contains("extraction budget"),
        "{refused}"
    );
    assert_eq!(used(&platform).lifetime_queries, TRIAL + 30);

    // one session at a time: the second of two waits for the first one to end
    set(
        &platform,
        &Quota {
            concurrent_sessions: Some(1),
            ..Quota::default()
        },
    );
    let one = ["query", "esol", "--smiles", "CCO", "--format", "json"];
    let mut both = [platform.command(&one), platform.command(&one)];
    let both = both.each_mut().map(|command| command.spawn().unwrap());
    for mut child in both {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(used(&platform).lifetime_queries, TRIAL + 32);
}
