//! Placements that change while sessions run, and steps that several workers share.

use chemxor_core::{ErrorId, VersionId};
use chemxor_gateway::Limits;
use chemxor_proto::v1;

use super::client::{Heard, PATIENCE, failed};
use super::platform::{Platform, STEPS};
use super::registry::Mood;
use super::worker::{Deed, part};

/// Three output ciphertexts of step 1 on b, two on c; each has the whole of the other steps on a.
async fn sharing(limits: Limits) -> Platform {
    let platform = Platform::start(&[0..1, 1..2, 1..2, 2..3], limits).await;
    {
        let mut placements = platform.registry.placements.lock().unwrap();
        (placements[1].first_group, placements[1].end_group) = (0, 3);
        (placements[2].first_group, placements[2].end_group) = (3, 5);
    }
    platform.journal.script(|job| match job.worker.as_str() {
        "b" => Deed::AnswerShare(0, 3),
        "c" => Deed::AnswerShare(3, 2),
        _ => Deed::Answer,
    });
    platform
}

#[tokio::test]
async fn the_shares_of_a_step_are_joined_and_their_states_go_on_together() {
    let platform = sharing(Limits::default()).await;
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    client.step(1, 1, b"to both").await;
    let whole = Heard::Reply {
        query: 1,
        step: 1,
        message: part(0, 5),
    };
    assert_eq!(client.hear().await, whole);
    client.ask(1, 2).await;
    let jobs = platform.journal.of(1);
    let shared: Vec<_> = jobs.iter().filter(|job| job.step == 1).collect();
    assert_eq!(shared.len(), 2);
    assert!(shared.iter().all(|job| job.message == "to both"));
    // the double checks that the state is that of step 1, once for each share
    let last = jobs.last().unwrap();
    assert_eq!(last.sealed_state.len() % 2, 0);
    let (one, two) = last.sealed_state.split_at(last.sealed_state.len() / 2);
    assert_eq!(one, two);
}

#[tokio::test]
async fn a_share_that_does_not_fit_or_is_missing_fails_the_query_and_not_the_session() {
    let platform = sharing(Limits::default()).await;
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    platform.journal.script(|job| match job.worker.as_str() {
        "b" => Deed::AnswerShare(0, 3),
        // the outputs of the other worker
        "c" => Deed::AnswerShare(0, 2),
        _ => Deed::Answer,
    });
    client.step(1, 1, b"x").await;
    assert_eq!(client.hear().await, failed(1, ErrorId::WorkerUnavailable));
    client.ask(2, 0).await;
}

#[tokio::test]
async fn running_sessions_follow_the_placements_and_keep_them_while_the_registry_is_away() {
    let mut platform = Platform::start(&[0..3, 0..3, 0..3], Limits::default()).await;
    let both = platform.registry.placements.lock().unwrap()[..2].to_vec();
    *platform.registry.placements.lock().unwrap() = both[..1].to_vec();
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    // b is placed while the session runs, then the registry goes away and a dies
    *platform.registry.placements.lock().unwrap() = both;
    platform.registry.tell();
    let mut query = 1;
    while !platform
        .journal
        .jobs
        .borrow()
        .iter()
        .any(|job| job.worker == "b")
    {
        query += 1;
        client.ask(query, 0).await;
    }
    platform.registry.set(Mood::Fails);
    platform.workers[0].kill().await;
    client.ask(query, 1).await;
    client.ask(query, 2).await;
    // back again it says that a third worker serves alone, and is heard
    let only_c = vec![v1::Placement {
        worker: "c".into(),
        end_step: STEPS,
        ..Default::default()
    }];
    *platform.registry.placements.lock().unwrap() = only_c;
    platform.registry.set(Mood::Allows);
    platform.registry.tell();
    while platform.journal.of(query)[0].worker != "c" {
        query += 1;
        for step in 0..STEPS {
            client.ask(query, step).await;
        }
    }
}

/// Four times as long as any other answer of the registry may be.
#[tokio::test]
async fn a_long_view_is_read() {
    let platform = Platform::start(&[0..3, 0..3], Limits::default()).await;
    let both = platform.registry.placements.lock().unwrap().clone();
    *platform.registry.placements.lock().unwrap() = both[..1].to_vec();
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    let of_nobody = v1::Placement {
        worker: "x".repeat(1 << 20),
        end_step: STEPS,
        ..Default::default()
    };
    *platform.registry.others.lock().unwrap() = (0..8)
        .map(|seed| v1::VersionPlacements {
            version: VersionId::of(&[seed]).to_string(),
            placements: vec![of_nobody.clone()],
        })
        .collect();
    *platform.registry.placements.lock().unwrap() = both;
    platform.registry.tell();
    let learned = async {
        let mut query = 1;
        while platform.journal.of(query)[0].worker != "b" {
            query += 1;
            for step in 0..STEPS {
                client.ask(query, step).await;
            }
        }
    };
    let learned = tokio::time::timeout(PATIENCE, learned).await;
    learned.expect("the session is routed by the view");
}

#[tokio::test]
async fn retries_have_a_budget() {
    let limits = Limits {
        retry_percent: 0,
        attempts: 100,
        step_timeout_ms: 20_000,
        queries_in_flight: 256,
        steps_in_flight: 256,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3, 0..3], limits).await;
    let mut client = platform.open().await;
    platform
        .journal
        .script(|_| Deed::Fail(ErrorId::WorkerUnavailable, true));
    for query in 1..=200 {
        client.step(query, 0, b"x").await;
    }
    for _ in 1..=200 {
        let heard = client.hear().await;
        assert!(matches!(heard, Heard::Failed { .. }), "{heard:?}");
    }
    // 200 first attempts, ten retries a second for ten seconds, and what a slow machine adds
    let attempts = platform.journal.jobs.borrow().len();
    assert!(attempts < 600, "{attempts} attempts for 200 steps");
}
