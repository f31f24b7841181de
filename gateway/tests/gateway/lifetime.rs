//! How sessions end, and that they leave nothing behind.

use bytes::Bytes;
use chemxor_core::ErrorId;
use chemxor_gateway::Limits;
use chemxor_proto::v1;
use chemxor_proto::v1::client_frame::Kind;
use chemxor_runtime::operations::Operations;
use tonic::Code;

use super::client::{Heard, PATIENCE, failed};
use super::platform::{Model, Platform};
use super::worker::Deed;

/// Waits until no session is open and no worker holds a stream.
async fn all_is_free(platform: &Platform) {
    platform.sessions(0).await;
    let mut streams = platform.journal.open.subscribe();
    let free = streams.wait_for(|open| *open == 0);
    let free = tokio::time::timeout(PATIENCE, free).await;
    free.expect("streams to workers end").unwrap();
}

#[tokio::test]
async fn a_client_that_vanishes_frees_everything() {
    let platform = Platform::start(&[0..1, 1..3], Limits::default()).await;
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    client.ask(1, 1).await;
    assert_eq!(*platform.journal.open.borrow(), 2);
    // one step under evaluation, one message half sent
    platform.journal.script(|_| Deed::Silence);
    client.step(2, 0, b"x").await;
    client.chunk(3, 0, 100, b"half").await;
    platform.journal.wait_for(3).await;
    drop(client);
    all_is_free(&platform).await;
}

#[tokio::test]
async fn a_session_that_ends_well_frees_everything() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    client.finish();
    assert_eq!(client.hear().await, Heard::End);
    all_is_free(&platform).await;
}

#[tokio::test]
async fn an_idle_session_ends() {
    let limits = Limits {
        idle_timeout_ms: 100,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    let expected = Heard::Refused(Code::ResourceExhausted, Some(ErrorId::SessionLimit));
    assert_eq!(client.hear().await, expected);
    all_is_free(&platform).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_shed_without_harm_to_others() {
    let limits = Limits {
        step_timeout_ms: 2_000,
        ..Limits::default()
    };
    let platform = Platform::serving(Model::Wide, &[0..3], limits, Operations::default()).await;
    let deaf = platform.open().await;
    let mut other = platform.open().await;
    other.step(1, 0, b"x").await;
    let heard = other.hear().await;
    assert!(matches!(heard, Heard::Reply { .. }));
    for query in 1..=4 {
        deaf.step(query, 0, b"much").await;
    }
    other.ask(1, 1).await;
    platform.sessions(1).await;
    other.ask(1, 2).await;
    drop(deaf);
}

#[tokio::test]
async fn a_gateway_that_stops_tells_its_clients() {
    let limits = Limits {
        drain_ms: 100,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    platform.stop.cancel();
    let expected = Heard::Refused(Code::Unavailable, Some(ErrorId::WorkerUnavailable));
    assert_eq!(client.hear().await, expected);
    drop(client);
    all_is_free(&platform).await;
    let ended = tokio::time::timeout(PATIENCE, platform.gateway.wait()).await;
    ended.unwrap().unwrap();
}

#[tokio::test]
async fn a_session_ends_at_its_time_limit_however_busy() {
    let limits = Limits {
        session_timeout_ms: 300,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    let mut query = 0;
    let ended = loop {
        query += 1;
        client.step(query, 0, b"x").await;
        match client.hear().await {
            // the queries are left where they are, so there are too many in the end
            Heard::Reply { .. } | Heard::Failed { .. } => {}
            other => break other,
        }
    };
    let expected = Heard::Refused(Code::ResourceExhausted, Some(ErrorId::SessionLimit));
    assert_eq!(ended, expected);
    all_is_free(&platform).await;
}

#[tokio::test]
async fn a_stopping_gateway_lets_running_queries_end_and_begins_none() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    platform.stop.cancel();
    client.step(2, 0, b"too late").await;
    assert_eq!(client.hear().await, failed(2, ErrorId::WorkerUnavailable));
    client.ask(1, 1).await;
    client.ask(1, 2).await;
    let expected = Heard::Refused(Code::Unavailable, Some(ErrorId::WorkerUnavailable));
    assert_eq!(client.hear().await, expected);
}

#[tokio::test]
async fn a_cancelled_query_is_dropped_at_the_worker_and_nothing_of_it_is_told() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let mut client = platform.open().await;
    platform.journal.script(|job| match job.query {
        1 => Deed::Silence,
        _ => Deed::Answer,
    });
    client.step(1, 0, b"x").await;
    platform.journal.wait_for(1).await;
    client
        .send(Kind::Cancel(v1::CancelQuery { query: 1 }))
        .await;
    let mut cancelled = platform.journal.cancelled.subscribe();
    let heard = cancelled.wait_for(|list| list.contains(&(1, 0)));
    tokio::time::timeout(PATIENCE, heard)
        .await
        .unwrap()
        .unwrap();
    client.ask(2, 0).await;
    client.step(1, 1, b"of a query that was given up").await;
    assert_eq!(client.hear().await, failed(1, ErrorId::StepOutOfOrder));
    client.finish();
    assert_eq!(client.hear().await, Heard::End);
}

#[tokio::test]
async fn the_time_that_a_client_gives_a_step_is_kept() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let mut client = platform.open().await;
    platform.journal.script(|job| match job.query {
        1 => Deed::Silence,
        _ => Deed::Answer,
    });
    client
        .send(Kind::Step(v1::StepChunk {
            query: 1,
            step: 0,
            total_bytes: 1,
            payload: Bytes::from_static(b"x"),
            timeout_ms: 100,
        }))
        .await;
    // the gateway's own limit is 30 s, as long as these tests wait
    assert_eq!(client.hear().await, failed(1, ErrorId::WorkerUnavailable));
    let mut cancelled = platform.journal.cancelled.subscribe();
    let heard = cancelled.wait_for(|list| list.contains(&(1, 0)));
    tokio::time::timeout(PATIENCE, heard)
        .await
        .unwrap()
        .unwrap();
    client.ask(2, 0).await;
}

#[tokio::test]
async fn a_session_ends_after_as_many_queries_as_it_may_ask() {
    let limits = Limits {
        queries_per_session: 3,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    for query in 1..=3 {
        client.ask(query, 0).await;
    }
    client.ask(3, 1).await;
    client.step(4, 0, b"one too many").await;
    let expected = Heard::Refused(Code::ResourceExhausted, Some(ErrorId::SessionLimit));
    assert_eq!(client.hear().await, expected);
    all_is_free(&platform).await;
}
