//! What a session does when all goes well.

use std::collections::HashSet;

use chemxor_gateway::Limits;
use chemxor_proto::MAX_FRAME_BYTES;
use chemxor_runtime::operations::Operations;
use tokio::sync::watch;

use super::client::{Heard, answered};
use super::platform::{Model, Platform, STEPS};
use super::worker::{Deed, answer, sealed};

/// A message that no other step of any query has; long ones take several frames.
fn message(query: u64, step: u32) -> Vec<u8> {
    let text = format!("message {query}/{step} ").into_bytes();
    let length = if query % 10 == 3 {
        MAX_FRAME_BYTES * 2 + 77
    } else {
        100 + query as usize
    };
    text.into_iter().cycle().take(length).collect()
}

#[tokio::test]
async fn many_queries_in_flight_are_not_mixed_up() {
    const QUERIES: u64 = 40;
    let platform = Platform::start(&[0..2, 1..3, 0..3], Limits::default()).await;
    let mut client = platform.open().await;
    // step 0 of even queries is answered when all the odd ones have ended
    let (open, gate) = watch::channel(false);
    platform
        .journal
        .script(move |job| match (job.query % 2, job.step) {
            (0, 0) => Deed::AnswerWhen(gate.clone()),
            _ => Deed::Answer,
        });
    for query in 1..=QUERIES {
        client.step(query, 0, &message(query, 0)).await;
    }
    let mut ended = HashSet::new();
    while ended.len() < QUERIES as usize {
        let heard = client.hear().await;
        let Heard::Reply { query, step, .. } = heard else {
            panic!("{heard:?}");
        };
        assert_eq!(heard, answered(query, step, &message(query, step)));
        if step + 1 < STEPS {
            client
                .step(query, step + 1, &message(query, step + 1))
                .await;
        } else {
            assert!(ended.insert(query), "query {query} ended twice");
        }
        if ended.len() == QUERIES as usize / 2 {
            assert!(ended.iter().all(|query| query % 2 == 1));
            open.send_replace(true);
        }
    }
    for query in 1..=QUERIES {
        let jobs = platform.journal.of(query);
        let steps: Vec<u32> = jobs.iter().map(|job| job.step).collect();
        assert_eq!(steps, [0, 1, 2], "query {query}");
        assert!(
            jobs.iter()
                .all(|job| job.message == message(query, job.step))
        );
    }
}

#[tokio::test]
async fn long_messages_travel_in_frames_of_a_mebibyte_both_ways() {
    let limits = Limits::default();
    let platform = Platform::serving(Model::Wide, &[0..3], limits, Operations::default()).await;
    let mut client = platform.open().await;
    let long: Vec<u8> = (0..3 * MAX_FRAME_BYTES + 5)
        .map(|i| (i % 251) as u8)
        .collect();
    client.step(7, 0, &long).await;
    let reply = Heard::Reply {
        query: 7,
        step: 0,
        message: answer(Model::Wide, 7, 0, &long),
    };
    assert!(client.hear().await == reply);
    assert_eq!(client.longest, MAX_FRAME_BYTES);
}

#[tokio::test]
async fn chunks_of_different_queries_may_be_interleaved() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let mut client = platform.open().await;
    let (one, two) = (message(1, 0), message(2, 0));
    let (one_half, two_half) = (one.split_at(40), two.split_at(60));
    client.chunk(1, 0, one.len(), one_half.0).await;
    client.chunk(2, 0, two.len(), two_half.0).await;
    client.chunk(2, 0, two.len(), two_half.1).await;
    assert_eq!(client.hear().await, answered(2, 0, &two));
    client.chunk(1, 0, one.len(), one_half.1).await;
    assert_eq!(client.hear().await, answered(1, 0, &one));
}

#[tokio::test]
async fn public_keys_travel_once_and_only_to_workers_that_are_needed() {
    let platform = Platform::start(&[0..1, 1..2, 2..3], Limits::default()).await;
    let mut client = platform.open().await;
    let opened = || platform.journal.opened.lock().unwrap().clone();
    assert!(opened().is_empty());
    for query in 1..=5 {
        client.ask(query, 0).await;
    }
    assert_eq!(opened(), ["a"]);
    for query in 1..=5 {
        client.ask(query, 1).await;
    }
    assert_eq!(opened(), ["a", "b"]);
}

#[tokio::test]
async fn sealed_state_reaches_the_next_step_and_never_the_client() {
    let platform = Platform::start(&[0..1, 1..2, 2..3], Limits::default()).await;
    let mut client = platform.open().await;
    assert_eq!(client.session_id.len(), 16);
    assert_eq!(client.version, platform.registry.version());
    for step in 0..STEPS {
        client.ask(1, step).await;
    }
    let jobs = platform.journal.of(1);
    assert!(jobs[0].sealed_state.is_empty());
    assert_eq!(jobs[1].sealed_state, sealed(&client.session_id, 1, 0));
    assert_eq!(jobs[2].sealed_state, sealed(&client.session_id, 1, 1));
    let workers: Vec<&str> = jobs.iter().map(|job| job.worker.as_str()).collect();
    assert_eq!(workers, ["a", "b", "c"]);
    let canary = b"sealed-canary";
    assert!(
        !client
            .seen
            .windows(canary.len())
            .any(|bytes| bytes == canary)
    );
}

#[tokio::test]
async fn sessions_do_not_share_query_numbers_or_state() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let (mut one, mut two) = (platform.open().await, platform.open().await);
    assert_ne!(one.session_id, two.session_id);
    for step in 0..STEPS {
        one.ask(1, step).await;
        two.ask(1, step).await;
    }
}

#[tokio::test]
async fn a_client_that_closes_its_side_still_gets_its_answers() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let mut client = platform.open().await;
    let (open, gate) = watch::channel(false);
    platform
        .journal
        .script(move |_| Deed::AnswerWhen(gate.clone()));
    client.step(1, 0, b"last words").await;
    client.finish();
    platform.journal.wait_for(1).await;
    open.send_replace(true);
    assert_eq!(client.hear().await, answered(1, 0, b"last words"));
    assert_eq!(client.hear().await, Heard::End);
}
