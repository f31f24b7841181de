//! Memory that all sessions share, messages that do not go on, cancellations behind a full queue.

use std::time::{Duration, Instant};

use chemxor_core::ErrorId;
use chemxor_gateway::Limits;
use chemxor_proto::v1;
use chemxor_proto::v1::client_frame::Kind;
use chemxor_proto::{MAX_FRAME_BYTES, MAX_STEP_BYTES};
use chemxor_runtime::operations::Operations;
use tonic::Code;

use super::client::{Client, Heard, PATIENCE, failed};
use super::platform::{Model, Platform};
use super::worker::Deed;

const LIMIT: Heard = Heard::Refused(Code::ResourceExhausted, Some(ErrorId::SessionLimit));

/// As little memory as may be: one organisation has room for one of the longest messages.
async fn scarce() -> Platform {
    let limits = Limits {
        memory_mib: 256,
        step_timeout_ms: 12_000,
        ..Limits::default()
    };
    Platform::serving(Model::Wide, &[0..3], limits, Operations::default()).await
}

async fn open(platform: &Platform, organisation: &str) -> Client {
    *platform.registry.organisation.lock().unwrap() = organisation.into();
    platform.open().await
}

#[tokio::test]
async fn an_organisation_that_holds_its_share_of_the_memory_keeps_others_nothing() {
    let platform = scarce().await;
    let mut hoards = open(&platform, "basel").await;
    // begun and kept waiting: memory for all of it is reserved
    hoards.chunk(1, 0, MAX_STEP_BYTES, b"begun").await;
    hoards.chunk(2, 0, MAX_STEP_BYTES, b"no room").await;
    // the query fails, not the session, and what still comes of it is not kept
    assert_eq!(hoards.hear().await, failed(2, ErrorId::SessionLimit));
    let mut others = open(&platform, "geneva").await;
    others.step(1, 0, b"x").await;
    assert!(matches!(others.hear().await, Heard::Reply { .. }));
    // a second session of the same organisation takes the rest of its share, a third one waits
    let second = open(&platform, "basel").await;
    second.chunk(1, 0, 46 << 20, b"begun").await;
    let mut waits = open(&platform, "basel").await;
    waits.step(1, 0, b"x").await;
    drop(hoards);
    assert!(matches!(waits.hear().await, Heard::Reply { .. }));
}

#[tokio::test]
async fn a_message_that_does_not_go_on_ends_its_session_and_no_other() {
    let limits = Limits {
        step_timeout_ms: 300,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut other = platform.open().await;
    let mut client = platform.open().await;
    client.chunk(1, 0, 100, b"half").await;
    // frames of other queries do not keep it alive
    client.step(2, 0, b"whole").await;
    assert!(matches!(client.hear().await, Heard::Reply { .. }));
    assert_eq!(client.hear().await, LIMIT);
    platform.sessions(1).await;
    other.ask(1, 0).await;
}

/// Sends a message of so many bytes piece by piece, fifty a second at most, until the gateway says
/// something.
async fn goes_on(client: &mut Client, total: usize, piece: &[u8]) -> Heard {
    let begun = Instant::now();
    loop {
        client.chunk(1, 0, total, piece).await;
        let next = tokio::time::timeout(Duration::from_millis(20), client.hear());
        match next.await {
            Ok(heard) => return heard,
            Err(_) => assert!(begun.elapsed() < PATIENCE, "it is still waited for"),
        }
    }
}

/// A byte now and then does not keep a message alive, nor the memory that is reserved for it.
#[tokio::test]
async fn a_message_that_comes_too_slowly_ends_its_session() {
    let limits = Limits {
        step_timeout_ms: 500,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    // each byte well within the time between two frames
    assert_eq!(goes_on(&mut client, 1000, b"x").await, LIMIT);
    platform.sessions(0).await;
}

/// However well it goes on: a long message that takes for ever keeps the memory of a whole organisation.
#[tokio::test]
async fn a_message_that_takes_too_long_ends_its_session() {
    let limits = Limits {
        idle_timeout_ms: 500,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    // far more than the slowest rate, far less than the message
    let heard = goes_on(&mut client, MAX_STEP_BYTES, &[7; 4096]).await;
    assert_eq!(heard, LIMIT);
    platform.sessions(0).await;
}

#[tokio::test]
async fn frames_that_concern_no_query_do_not_keep_a_session_open() {
    let limits = Limits {
        idle_timeout_ms: 300,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    let mut query = 0;
    let ended = loop {
        query += 1;
        let cancel = v1::CancelQuery {
            query: 1000 + query,
        };
        client.send(Kind::Cancel(cancel)).await;
        client.step(1, 0, b"again").await;
        match client.hear().await {
            Heard::Failed { .. } => {}
            other => break other,
        }
    };
    assert_eq!(ended, LIMIT);
}

#[tokio::test]
async fn a_cancellation_reaches_a_worker_whose_queue_is_full() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let client = platform.open().await;
    platform.journal.script(|_| Deed::Silence);
    client.step(1, 0, b"x").await;
    platform.journal.wait_for(1).await;
    platform.journal.reads.send_replace(false);
    let long = vec![7; MAX_FRAME_BYTES];
    for query in 2..=40 {
        client.step(query, 0, &long).await;
    }
    client
        .send(Kind::Cancel(v1::CancelQuery { query: 1 }))
        .await;
    client
        .send(Kind::Cancel(v1::CancelQuery { query: 2 }))
        .await;
    platform.journal.reads.send_replace(true);
    let mut cancelled = platform.journal.cancelled.subscribe();
    let heard = cancelled.wait_for(|list| list.contains(&(1, 0)));
    let heard = tokio::time::timeout(PATIENCE, heard).await;
    heard.expect("the worker hears of it").unwrap();
    // what is not cancelled goes on
    assert!(!platform.journal.cancelled.borrow().contains(&(3, 0)));
}
