//! Versions that come, go and make room for each other.

use chemxor_runtime::pki::Subject;

use super::model::Model;
use super::platform::{CANCELLED, Options, Platform, metric, until_metric};
use super::stream::Stream;

const EVICTIONS: &str = "chemxor_worker_evictions_total";
const LOADED: &str = "chemxor_worker_loads_total{outcome=\"ok\"}";
const MODELS: &str = "chemxor_worker_models";
const BYTES: &str = "chemxor_worker_weights_bytes";

/// Memory for one of these.
fn memory_for_one() -> Options {
    Options {
        memory_limit_mib: Some(1),
        ..Options::default()
    }
}

/// A model that has room alone in [`memory_for_one`], and its size there.
fn large(name: &str, pattern: u8) -> (Model, usize) {
    let model = Model::new(name, 1024, 80, pattern);
    let (size, limit) = (model.prepared_bytes(), 1 << 20);
    assert!(size < limit && limit < 2 * size, "{size}");
    (model, size)
}

#[tokio::test]
async fn two_models_in_memory_for_one_are_both_served() {
    let ((a, size), (b, _)) = (large("a", 0b1111_0110), large("b", 0b0000_1001));
    let platform = Platform::serving(memory_for_one(), &[&a, &b]).await;
    for query in 1..=2 {
        for model in [&a, &b] {
            platform.open(model).await.ask(model, query).await;
            assert_eq!((metric(MODELS), metric(BYTES)), (1, size as u64));
        }
    }
    assert!(metric(EVICTIONS) >= 3);
    // the one that has no room is left alone until somebody asks for it
    let (loaded, evicted) = (metric(LOADED), metric(EVICTIONS));
    platform.lists(3).await;
    assert_eq!((metric(LOADED), metric(EVICTIONS)), (loaded, evicted));
    // a stream that was open before its model had to go is answered
    let mut open = platform.open(&a).await;
    platform.open(&b).await.ask(&b, 9).await;
    open.ask(&a, 9).await;
}

#[tokio::test]
async fn what_is_not_assigned_any_more_is_unloaded_and_not_shown() {
    let (a, b) = (
        Model::light("a", 0b1111_0110),
        Model::light("b", 0b0000_1001),
    );
    let platform = Platform::serving(Options::default(), &[&a, &b]).await;
    let both = (a.prepared_bytes() + b.prepared_bytes()) as u64;
    until_metric(MODELS, 2).await;
    assert_eq!(metric(BYTES), both);
    platform.registry.assignments.lock().unwrap().remove(0);
    until_metric(MODELS, 1).await;
    assert_eq!(metric(BYTES), b.prepared_bytes() as u64);
    assert_eq!(metric(EVICTIONS), 0, "nothing had to make room");
    assert!(platform.try_open(&a).await.is_err());
    platform.open(&b).await.ask(&b, 1).await;
}

#[tokio::test]
async fn a_model_keeps_answering_while_another_is_fetched() {
    let (a, b) = (
        Model::light("a", 0b1111_0110),
        Model::light("b", 0b0000_1001),
    );
    let platform = Platform::serving(Options::default(), &[&a]).await;
    until_metric(MODELS, 1).await;
    platform.assign_held(&b).await;
    let mut stream = platform.open(&a).await;
    for query in 1..=5 {
        stream.ask(&a, query).await;
    }
    assert_eq!(platform.page("/readyz").await, 200);
    assert_eq!(metric(MODELS), 1, "the other is still on its way");
    platform.registry.release(&b.version.to_string());
    until_metric(MODELS, 2).await;
    platform.open(&b).await.ask(&b, 1).await;
}

/// A gateway gives a step up when its time for an attempt is over, and asks again.
#[tokio::test]
async fn a_version_is_loaded_again_once_however_often_its_steps_are_given_up() {
    let ((a, _), (b, _)) = (large("a", 0b1111_0110), large("b", 0b0000_1001));
    let platform = Platform::serving(memory_for_one(), &[&a, &b]).await;
    let mut stream = platform.open(&a).await;
    // now `a` is not in memory any more
    platform.open(&b).await.ask(&b, 1).await;
    let version = a.version.to_string();
    let before = platform.registry.fetches(&version);
    platform.registry.hold(&version);
    for query in 1..=3 {
        stream.first_step(&a, query).await;
        platform.fetched(&a, before + 1).await;
        stream.cancel((query, 0)).await;
        until_metric(CANCELLED, query).await;
    }
    platform.registry.release(&version);
    stream.ask(&a, 4).await;
    let fetched = platform.registry.fetches(&version) - before;
    assert_eq!(fetched, 2, "each of its two blobs once");
}

#[tokio::test]
async fn versions_that_are_waited_for_together_keep_to_the_limit() {
    let ((a, size), (b, _)) = (large("a", 0b1111_0110), large("b", 0b0000_1001));
    let (c, _) = large("c", 0b0011_0101);
    let platform = Platform::serving(memory_for_one(), &[&a, &b, &c]).await;
    let held = [&a, &b].map(|model| (model, model.version.to_string()));
    let before = [0, 1].map(|at: usize| platform.registry.fetches(&held[at].1));
    for (_, version) in &held {
        platform.registry.hold(version);
    }
    let of_a = platform.connect(&Subject::Gateway).await;
    let of_b = platform.connect(&Subject::Gateway).await;
    // neither waits for the other's blobs
    let releasing = async {
        for ((model, _), before) in held.iter().zip(before) {
            platform.fetched(model, before + 1).await;
        }
        for (_, version) in &held {
            platform.registry.release(version);
        }
    };
    let opening = async { tokio::join!(Stream::open(of_a, &a), Stream::open(of_b, &b)) };
    let ((of_a, of_b), ()) = tokio::join!(opening, releasing);
    let (mut of_a, mut of_b) = (of_a.unwrap(), of_b.unwrap());
    assert_eq!((metric(MODELS), metric(BYTES)), (1, size as u64));
    for query in 1..=2 {
        of_a.ask(&a, query).await;
        of_b.ask(&b, query).await;
        assert_eq!((metric(MODELS), metric(BYTES)), (1, size as u64));
    }
}
