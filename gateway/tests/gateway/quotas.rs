//! Quotas limit what sessions ask: reserved in blocks, settled at the end, in force at once.

use chemxor_core::ErrorId;
use chemxor_gateway::Limits;
use chemxor_runtime::status::retry_after;
use std::time::Duration;
use tokio::sync::watch;
use tonic::Code;

use super::client::{Client, Heard, answered, failed, open_frame, refusal};
use super::platform::{Platform, STEPS};
use super::registry::{Entry, Mood, TOKEN};
use super::worker::Deed;

const SPENT: Heard = Heard::Refused(Code::ResourceExhausted, Some(ErrorId::QuotaExhausted));

/// Limits under which every step asks the registry.
fn watchful() -> Limits {
    Limits {
        recheck_ms: 0,
        registry_timeout_ms: 2_000,
        ..Limits::default()
    }
}

async fn whole_query(client: &mut Client, query: u64) {
    for step in 0..STEPS {
        client.ask(query, step).await;
    }
}

/// The only reservation.
fn entry(platform: &Platform) -> Entry {
    let ledger = platform.registry.ledger.lock().unwrap();
    assert_eq!(ledger.entries.len(), 1);
    ledger.entries.values().next().unwrap().clone()
}

#[tokio::test]
async fn a_session_reserves_in_blocks_and_settles_what_it_released() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let mut client = platform.open().await;
    for query in 1..=200 {
        whole_query(&mut client, query).await;
    }
    // one that is given up after its first step releases nothing
    client.ask(201, 0).await;
    let calls = platform.registry.ledger.lock().unwrap().calls;
    assert!(calls <= 8, "{calls} calls for 201 queries");
    client.finish();
    assert_eq!(client.hear().await, Heard::End);
    // settled before the client hears the end
    let entry = entry(&platform);
    assert_eq!(entry.settled, Some(200));
    assert_eq!(entry.compute_ms, 601, "a millisecond a step");
    assert!(entry.bytes > 601 * 2);
}

#[tokio::test]
async fn exactly_as_many_queries_begin_as_the_quota_allows_and_the_rest_hear_why() {
    const LIMIT: u64 = 37;
    let platform = Platform::start(&[0..3], Limits::default()).await;
    platform.registry.ledger.lock().unwrap().set(LIMIT);
    let mut client = platform.open().await;
    let (open, gate) = watch::channel(false);
    platform
        .journal
        .script(move |_| Deed::AnswerWhen(gate.clone()));
    // all at once: those within the quota are still answered
    for query in 1..=50 {
        client.step(query, 0, b"x").await;
    }
    open.send_replace(true);
    let mut ended = 0;
    loop {
        match client.hear().await {
            Heard::Reply { query, step, .. } if step + 1 < STEPS => {
                assert!(query <= LIMIT);
                client.step(query, step + 1, b"x").await;
            }
            Heard::Reply { .. } => ended += 1,
            heard => {
                assert_eq!(heard, SPENT);
                break;
            }
        }
    }
    assert_eq!(ended, LIMIT);
    assert_eq!(entry(&platform).settled, Some(LIMIT));
    let refused = platform.try_open(Some(TOKEN), open_frame()).await;
    let refused = refused.err().unwrap();
    assert_eq!(refusal(&refused), SPENT);
    assert_eq!(retry_after(&refused), Some(Duration::from_secs(3600)));
    assert!(refused.message().contains("quota"), "{}", refused.message());
    // a raised quota holds at once
    platform.registry.ledger.lock().unwrap().set(LIMIT + 1);
    let mut client = platform.open().await;
    whole_query(&mut client, 1).await;
    client.step(2, 0, b"x").await;
    assert_eq!(client.hear().await, SPENT);
}

#[tokio::test]
async fn two_sessions_share_a_quota_without_passing_it() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    platform.registry.ledger.lock().unwrap().set(60);
    let mut clients = [platform.open().await, platform.open().await];
    let mut done = 0;
    'all: for query in 1.. {
        for client in &mut clients {
            client.step(query, 0, b"x").await;
            if client.hear().await == SPENT {
                break 'all;
            }
            for step in 1..STEPS {
                client.ask(query, step).await;
            }
            done += 1;
        }
    }
    // what the other session holds and has not begun is out of reach until it ends
    assert!((54..=60).contains(&done), "{done}");
    drop(clients);
    platform.sessions(0).await;
    let ledger = platform.registry.ledger.lock().unwrap();
    let settled: u64 = ledger
        .entries
        .values()
        .filter_map(|entry| entry.settled)
        .sum();
    assert_eq!(settled, done);
}

#[tokio::test]
async fn a_lowered_quota_ends_a_running_session_at_its_next_query() {
    let platform = Platform::start(&[0..3], watchful()).await;
    let mut client = platform.open().await;
    whole_query(&mut client, 1).await;
    client.ask(2, 0).await;
    platform.registry.ledger.lock().unwrap().set(2);
    // what runs goes on; nothing new begins although a block was reserved
    client.step(3, 0, b"x").await;
    client.ask(2, 1).await;
    client.ask(2, 2).await;
    assert_eq!(client.hear().await, SPENT);
    assert!(platform.journal.of(3).is_empty());
}

#[tokio::test]
async fn bytes_of_a_session_count_without_asking_the_registry() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    platform.registry.ledger.lock().unwrap().bytes_left = Some(20_000);
    let mut client = platform.open().await;
    let message = vec![7; 30_000];
    client.step(1, 0, &message).await;
    assert_eq!(client.hear().await, answered(1, 0, &message));
    client.step(2, 0, &message).await;
    client.ask(1, 1).await;
    client.ask(1, 2).await;
    assert_eq!(client.hear().await, SPENT);
}

#[tokio::test]
async fn while_the_registry_is_away_only_what_was_reserved_begins() {
    let platform = Platform::start(&[0..3], watchful()).await;
    platform.registry.ledger.lock().unwrap().set(4 * 16);
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    platform.registry.set(Mood::Fails);
    let mut query = 2;
    let away = loop {
        client.step(query, 0, b"x").await;
        match client.hear().await {
            Heard::Reply { .. } => query += 1,
            other => break other,
        }
    };
    assert_eq!(away, failed(query, ErrorId::StorageUnavailable));
    let held = entry(&platform).reserved;
    assert_eq!(query - 1, held, "every reserved query began, no other");
    // the session goes on when the registry is back
    platform.registry.set(Mood::Allows);
    client.ask(1, 1).await;
    for query in query + 1.. {
        client.step(query, 0, b"x").await;
        if matches!(client.hear().await, Heard::Reply { .. }) {
            break;
        }
    }
}
