//! Versions that come, go and make room for each other.

use chemxor_runtime::pki::Subject;

use super::model::Model;
use super::platform::{BUSY, CANCELLED, Options, Platform, metric, until_metric};
use super::pool::HeldPool;
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

/// Memory for one of these, and one step at a time.
fn one_at_a_time() -> Options {
    Options {
        evaluations: Some(1),
        ..memory_for_one()
    }
}

/// One model is served; what made room for it is wiped a moment later.
async fn one_is_in_memory(size: usize) {
    assert_eq!(metric(MODELS), 1);
    until_metric(BYTES, size as u64).await;
}

#[tokio::test]
async fn two_models_in_memory_for_one_are_both_served() {
    let ((a, size), (b, _)) = (large("a", 0b1111_0110), large("b", 0b0000_1001));
    let platform = Platform::serving(memory_for_one(), &[&a, &b]).await;
    for query in 1..=2 {
        for model in [&a, &b] {
            platform.open(model).await.ask(model, query).await;
            one_is_in_memory(size).await;
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
    until_metric(BYTES, b.prepared_bytes() as u64).await;
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
    let ((a, size), (b, _)) = (large("a", 0b1111_0110), large("b", 0b0000_1001));
    let platform = Platform::serving(memory_for_one(), &[&a, &b]).await;
    let mut stream = platform.open(&a).await;
    // now `a` is not in memory any more
    platform.open(&b).await.ask(&b, 1).await;
    one_is_in_memory(size).await;
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
    one_is_in_memory(size).await;
    for query in 1..=2 {
        of_a.ask(&a, query).await;
        of_b.ask(&b, query).await;
        one_is_in_memory(size).await;
    }
}

/// The first step of the first version is under evaluation in the held pool; those of the two others wait
/// for its permits, and each was loaded for its step.
async fn one_runs_and_two_wait([runs, waits, last]: [(&mut Stream, &Model); 3], size: usize) {
    runs.0.first_step(runs.1, 1).await;
    until_metric(BUSY, 1).await;
    one_is_in_memory(size).await;
    let loaded = metric(LOADED);
    waits.0.first_step(waits.1, 1).await;
    until_metric(LOADED, loaded + 1).await;
    last.0.first_step(last.1, 1).await;
    until_metric(LOADED, loaded + 2).await;
    // the one that is evaluated, and the one that came last
    until_metric(BYTES, 2 * size as u64).await;
}

#[tokio::test]
async fn steps_that_wait_for_permits_keep_no_version_in_memory() {
    let ((a, size), (b, _)) = (large("a", 0b1111_0110), large("b", 0b0000_1001));
    let (c, _) = large("c", 0b0011_0101);
    let platform = Platform::serving(one_at_a_time(), &[&a, &b, &c]).await;
    let (mut of_a, mut of_b) = (platform.open(&a).await, platform.open(&b).await);
    let mut of_c = platform.open(&c).await;
    let pool = HeldPool::hold();
    one_runs_and_two_wait([(&mut of_c, &c), (&mut of_a, &a), (&mut of_b, &b)], size).await;
    drop(pool);
    for stream in [&mut of_a, &mut of_b, &mut of_c] {
        assert_eq!(stream.answer().await.0, (1, 0));
    }
    one_is_in_memory(size).await;
}

#[tokio::test]
async fn a_step_whose_version_was_pushed_out_keeps_it_the_next_time() {
    let ((a, size), (b, _)) = (large("a", 0b1111_0110), large("b", 0b0000_1001));
    let (c, _) = large("c", 0b0011_0101);
    let version = a.version.to_string();
    let platform = Platform::serving(one_at_a_time(), &[&a, &b, &c]).await;
    let (mut of_a, mut of_b) = (platform.open(&a).await, platform.open(&b).await);
    let mut of_c = platform.open(&c).await;

    // while the step of `a` waits behind the one of `c`, `a` is pushed out for `b`
    let pool = HeldPool::hold();
    one_runs_and_two_wait([(&mut of_c, &c), (&mut of_a, &a), (&mut of_b, &b)], size).await;
    let fetched = platform.registry.fetches(&version);
    platform.registry.hold(&version);
    drop(pool);
    assert_eq!(of_c.answer().await.0, (1, 0));
    // no permit is held while `a` is on its way
    assert_eq!(of_b.answer().await.0, (1, 0));
    platform.fetched(&a, fetched + 1).await;

    // the same again
    let pool = HeldPool::hold();
    of_c.first_step(&c, 2).await;
    until_metric(BUSY, 1).await;
    one_is_in_memory(size).await;
    let loaded = metric(LOADED);
    platform.registry.release(&version);
    until_metric(LOADED, loaded + 1).await;
    platform.registry.hold(&version);
    of_b.first_step(&b, 2).await;
    until_metric(LOADED, loaded + 2).await;
    drop(pool);
    assert_eq!(of_c.answer().await.0, (2, 0));
    // it could not be loaded now
    assert_eq!(of_a.answer().await.0, (1, 0));
    assert_eq!(of_b.answer().await.0, (2, 0));
    let again = platform.registry.fetches(&version) - fetched;
    assert_eq!(again, 2, "each of its two blobs once");
    one_is_in_memory(size).await;
}

#[tokio::test]
async fn a_version_that_was_pushed_out_goes_back_while_it_is_evaluated_with() {
    let ((a, size), (b, _)) = (large("a", 0b1111_0110), large("b", 0b0000_1001));
    let platform = Platform::serving(one_at_a_time(), &[&a, &b]).await;
    let mut of_a = platform.open(&a).await;
    let pool = HeldPool::hold();
    of_a.first_step(&a, 1).await;
    until_metric(BUSY, 1).await;
    let fetched = platform.registry.fetches(&a.version.to_string());
    let mut of_b = platform.open(&b).await;
    until_metric(BYTES, 2 * size as u64).await;
    let evicted = metric(EVICTIONS);
    of_a.first_step(&a, 2).await;
    until_metric(EVICTIONS, evicted + 1).await;
    one_is_in_memory(size).await;
    drop(pool);
    assert_eq!(of_a.answer().await.0, (1, 0));
    assert_eq!(of_a.answer().await.0, (2, 0));
    let again = platform.registry.fetches(&a.version.to_string());
    assert_eq!(again, fetched, "it was there");
    of_b.ask(&b, 1).await;
}
