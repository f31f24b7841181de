//! Versions that come, go and make room for each other.

use super::model::Model;
use super::platform::{Options, Platform, metric, until_metric};

const EVICTIONS: &str = "chemxor_worker_evictions_total";
const LOADED: &str = "chemxor_worker_loads_total{outcome=\"ok\"}";
const MODELS: &str = "chemxor_worker_models";
const BYTES: &str = "chemxor_worker_weights_bytes";

#[tokio::test]
async fn two_models_in_memory_for_one_are_both_served() {
    let a = Model::new("a", 1024, 80, 0b1111_0110);
    let b = Model::new("b", 1024, 80, 0b0000_1001);
    let (size, limit) = (a.prepared_bytes(), 1 << 20);
    assert_eq!(size, b.prepared_bytes());
    assert!(size < limit && limit < 2 * size, "{size}");
    let options = Options {
        memory_limit_mib: Some(1),
        ..Options::default()
    };
    let platform = Platform::serving(options, &[&a, &b]).await;
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
    let version = b.version.to_string();
    platform.registry.hold(&version);
    platform.assign(&b);
    let mut fetches = platform.registry.fetches.subscribe();
    let asked = fetches.wait_for(|all| all.contains_key(&version)).await;
    drop(asked.unwrap());
    let mut stream = platform.open(&a).await;
    for query in 1..=5 {
        stream.ask(&a, query).await;
    }
    assert_eq!(platform.page("/readyz").await, 200);
    assert_eq!(metric(MODELS), 1, "the other is still on its way");
    platform.registry.release(&version);
    until_metric(MODELS, 2).await;
    platform.open(&b).await.ask(&b, 1).await;
}
