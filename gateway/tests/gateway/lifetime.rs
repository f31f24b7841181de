//! How sessions end, and that they leave nothing behind.

use chemxor_core::ErrorId;
use chemxor_gateway::Limits;
use tonic::Code;

use super::client::{Heard, PATIENCE};
use super::platform::Platform;
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
        step_timeout_ms: 500,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    platform.journal.script(|job| match job.message.as_ref() {
        b"much" => Deed::AnswerLong(8 << 20),
        _ => Deed::Answer,
    });
    let deaf = platform.open().await;
    let mut other = platform.open().await;
    for query in 1..=4 {
        deaf.step(query, 0, b"much").await;
    }
    other.ask(1, 0).await;
    platform.sessions(1).await;
    other.ask(1, 1).await;
    drop(deaf);
}

#[tokio::test]
async fn a_gateway_that_stops_tells_its_clients() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
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
