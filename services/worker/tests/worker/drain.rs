//! Readiness, and the end of a worker.

use std::collections::BTreeSet;

use bytes::Bytes;
use chemxor_core::ErrorId;
use tonic::Code;

use super::model::Model;
use super::platform::{
    BUSY, CANCELLED, EVALUATED, Options, PATIENCE, Platform, metric, until_metric,
};
use super::pool::HeldPool;
use super::registry::Known;
use super::stream::{Heard, Stream, message};

#[tokio::test]
async fn a_worker_that_stops_ends_what_runs_and_refuses_what_waits() {
    let model = Model::light("on", 0b1111_0110);
    let options = Options {
        evaluations: Some(1),
        ..Options::default()
    };
    let platform = Platform::serving(options, &[&model]).await;
    let mut stream = platform.open(&model).await;
    assert_eq!(platform.page("/readyz").await, 200);
    let pool = HeldPool::hold();
    stream.first_step(&model, 1).await;
    until_metric(BUSY, 1).await;
    for query in 2..=4 {
        stream.first_step(&model, query).await;
    }
    stream.cancel((4, 0)).await;
    until_metric(CANCELLED, 1).await;
    platform.stop.cancel();
    let mut refused = Vec::new();
    for _ in 2..=3 {
        match stream.hear().await {
            Heard::Failed(at, id, true) if id == "CX-Q06" => refused.push(at),
            other => panic!("what waits is asked elsewhere, got {other:?}"),
        }
    }
    refused.sort_unstable();
    assert_eq!(refused, [(2, 0), (3, 0)]);
    // it drains: not ready, and alive
    assert_eq!(platform.page("/readyz").await, 503);
    assert_eq!(platform.page("/livez").await, 200);
    drop(pool);
    ends_with_the_first(platform, stream).await;
}

/// The step that ran is answered, then the stream and the worker end.
async fn ends_with_the_first(platform: Platform, mut stream: Stream) {
    assert_eq!(stream.answer().await.0, (1, 0));
    let last = stream.hear().await;
    let stops = Some(ErrorId::WorkerUnavailable);
    assert!(
        matches!(last, Heard::Refused(Code::Unavailable, id) if id == stops),
        "{last:?}"
    );
    drop(stream);
    let ended = tokio::time::timeout(PATIENCE, platform.worker.wait()).await;
    ended.expect("the worker ends").unwrap();
    assert_eq!(metric(EVALUATED), 1);
}

/// A gateway may send steps until it has heard of the stop; another replica has time for them now.
#[tokio::test]
async fn what_comes_while_a_worker_stops_is_refused_before_the_rest_has_ended() {
    // more than a stream may have under evaluation
    const LAST: u64 = 300;
    let model = Model::light("on", 0b1111_0110);
    let options = Options {
        evaluations: Some(1),
        ..Options::default()
    };
    let platform = Platform::serving(options, &[&model]).await;
    let mut stream = platform.open(&model).await;
    let pool = HeldPool::hold();
    stream.first_step(&model, 1).await;
    until_metric(BUSY, 1).await;
    let message = message(&model);
    let (before, after) = message.split_at(message.len() / 2);
    let part = Bytes::copy_from_slice;
    stream.chunk((2, 0), message.len(), part(before)).await;
    platform.stop.cancel();
    stream.chunk((2, 0), message.len(), part(after)).await;
    for query in 3..=LAST {
        stream.step((query, 0), &message, Vec::new(), 0).await;
    }
    let mut refused = BTreeSet::new();
    for _ in 2..=LAST {
        match stream.hear().await {
            Heard::Failed(at, id, true) if id == "CX-Q06" => refused.insert(at),
            other => panic!("it is asked elsewhere, got {other:?}"),
        };
    }
    let sent: BTreeSet<_> = (2..=LAST).map(|query| (query, 0)).collect();
    assert_eq!(refused, sent);
    assert_eq!(metric(BUSY), 1, "the first one has not ended");
    drop(pool);
    ends_with_the_first(platform, stream).await;
}

#[tokio::test]
async fn a_worker_is_ready_once_its_assignments_are_prepared() {
    let model = Model::light("on", 0b1111_0110);
    let version = model.version.to_string();
    let held = |known: &Known, key: &[u8]| {
        known.hold(&version);
        known.assign(&model, key);
    };
    let platform = Platform::start(Options::default(), held).await;
    platform.fetched(&model, 1).await;
    platform.lists(2).await;
    assert_eq!(platform.page("/readyz").await, 503);
    assert_eq!(platform.page("/livez").await, 200);
    platform.registry.release(&version);
    platform.ready().await;
    platform.open(&model).await.ask(&model, 1).await;
}

#[tokio::test]
async fn a_worker_stops_while_the_registry_leaves_it_without_an_answer() {
    let silence = |known: &Known, _: &[u8]| *known.silent.lock().unwrap() = true;
    let platform = Platform::start(Options::default(), silence).await;
    let mut registrations = platform.registry.registrations.subscribe();
    let came = tokio::time::timeout(PATIENCE, registrations.wait_for(|count| *count == 1));
    drop(came.await.expect("it registers").unwrap());
    assert_eq!(platform.page("/readyz").await, 503);
    platform.stop.cancel();
    // well before the deadline of the registration
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), platform.worker.wait());
    ended.await.expect("the worker ends").unwrap();
}
