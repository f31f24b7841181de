//! Permits, cancellation and time limits: which steps are evaluated, and which together.

use std::collections::BTreeSet;

use chemxor_fhe::wire::StepShape;

use super::model::Model;
use super::platform::{
    ADMITTED, BUSY, CANCELLED, EVALUATED, Options, Platform, metric, until_metric,
};
use super::pool::HeldPool;
use super::registry::Known;
use super::stream::{Heard, Stream, message};

fn permits(evaluations: usize) -> Options {
    Options {
        evaluations: Some(evaluations),
        ..Options::default()
    }
}

#[tokio::test]
async fn steps_that_nobody_waits_for_are_never_evaluated() {
    let model = Model::light("on", 0b1111_0110);
    let platform = Platform::serving(permits(1), &[&model]).await;
    let stream = platform.open(&model).await;
    let mut other = platform.open(&model).await;
    let pool = HeldPool::hold();
    stream.first_step(&model, 1).await;
    until_metric(BUSY, 1).await;
    for query in 2..=20 {
        stream.first_step(&model, query).await;
    }
    // one is cancelled by name, the others by the end of the stream
    stream.cancel((20, 0)).await;
    until_metric(CANCELLED, 1).await;
    drop(stream);
    until_metric(CANCELLED, 20).await;
    assert_eq!(
        metric(ADMITTED),
        1,
        "the others still waited for its permit"
    );
    drop(pool);
    // the permit comes back, and this query finds the worker free
    other.ask(&model, 1).await;
    assert_eq!(metric(EVALUATED), 2, "only what the other stream asked");
    assert_eq!(metric(BUSY), 0);
}

#[tokio::test]
async fn a_cancelled_step_leaves_the_others_of_its_stream() {
    let model = Model::light("on", 0b1111_0110);
    let platform = Platform::serving(permits(1), &[&model]).await;
    let mut stream = platform.open(&model).await;
    let pool = HeldPool::hold();
    for query in 1..=3 {
        stream.first_step(&model, query).await;
    }
    stream.cancel((2, 0)).await;
    stream.cancel((77, 0)).await;
    until_metric(CANCELLED, 1).await;
    drop(pool);
    let answered = [stream.answer().await.0, stream.answer().await.0];
    assert_eq!(BTreeSet::from(answered), BTreeSet::from([(1, 0), (3, 0)]));
    stream.ask(&model, 4).await;
    assert_eq!(metric(EVALUATED), 4);
}

/// Hears that the time of this step was over before it was begun.
async fn late(stream: &mut Stream, step: (u64, u32)) {
    match stream.hear().await {
        Heard::Failed(at, id, retryable) => {
            assert_eq!((at, id.as_str(), retryable), (step, "CX-Q06", true));
        }
        other => panic!("the step is refused, got {other:?}"),
    }
}

#[tokio::test]
async fn a_step_whose_time_is_over_while_it_waits_is_dropped() {
    let model = Model::light("on", 0b1111_0110);
    let platform = Platform::serving(permits(1), &[&model]).await;
    let mut stream = platform.open(&model).await;
    let pool = HeldPool::hold();
    stream.first_step(&model, 1).await;
    until_metric(BUSY, 1).await;
    let message = message(&model);
    stream.step((2, 0), &message, Vec::new(), 20).await;
    late(&mut stream, (2, 0)).await;
    drop(pool);
    assert_eq!(stream.answer().await.0, (1, 0), "this one had time");
    // the same message again, with time enough: it was not evaluated before
    stream.step((2, 0), &message, Vec::new(), 0).await;
    assert_eq!(stream.answer().await.0, (2, 0));
    assert_eq!(metric(EVALUATED), 2);
}

#[tokio::test]
async fn a_step_whose_time_is_over_in_front_of_the_pool_is_not_evaluated() {
    let model = Model::light("on", 0b1111_0110);
    let platform = Platform::serving(permits(1), &[&model]).await;
    let mut stream = platform.open(&model).await;
    let pool = HeldPool::hold();
    let message = message(&model);
    stream.step((1, 0), &message, Vec::new(), 20).await;
    until_metric(ADMITTED, 1).await;
    // this one came later, so when its time is over the other's is, too
    stream.step((2, 0), &message, Vec::new(), 20).await;
    late(&mut stream, (2, 0)).await;
    drop(pool);
    late(&mut stream, (1, 0)).await;
    assert_eq!((metric(EVALUATED), metric(BUSY)), (0, 0));
    // its permit is free again, and its message was not evaluated
    stream.step((1, 0), &message, Vec::new(), 0).await;
    assert_eq!(stream.answer().await.0, (1, 0));
    assert_eq!(metric(EVALUATED), 1);
}

#[tokio::test]
async fn a_share_of_a_heavy_step_takes_its_part_of_the_permits() {
    let heavy = Model::heavy();
    let shape = StepShape::new(&heavy.manifest.graph.steps()[0], false).unwrap();
    let groups = shape.layout.output_count();
    assert!(groups > 1);
    let half = |known: &Known, key: &[u8]| {
        known.assign(&heavy, key);
        let mut assignments = known.assignments.lock().unwrap();
        assignments[0].end_step = 1;
        assignments[0].end_group = groups as u32 / 2;
    };
    let platform = Platform::start(permits(2), half).await;
    platform.ready().await;
    let mut stream = platform.open(&heavy).await;
    let pool = HeldPool::hold();
    stream.first_step(&heavy, 1).await;
    stream.first_step(&heavy, 2).await;
    until_metric(ADMITTED, 2).await;
    until_metric(BUSY, 2).await;
    drop(pool);
    let answered = [stream.answer().await.0, stream.answer().await.0];
    assert_eq!(BTreeSet::from(answered), BTreeSet::from([(1, 0), (2, 0)]));
}

#[tokio::test]
async fn a_heavy_step_runs_alone_and_light_ones_together() {
    let (heavy, light) = (Model::heavy(), Model::light("light", 0b1111_0110));
    let platform = Platform::serving(permits(2), &[&heavy, &light]).await;
    let mut slow = platform.open(&heavy).await;
    let mut quick = platform.open(&light).await;

    // two light ones together; the heavy one, which came next, waits for both permits, and so does
    // the light one behind it
    let pool = HeldPool::hold();
    quick.first_step(&light, 1).await;
    quick.first_step(&light, 2).await;
    until_metric(BUSY, 2).await;
    slow.first_step(&heavy, 1).await;
    slow.first_step(&heavy, 2).await;
    slow.cancel((2, 0)).await;
    until_metric(CANCELLED, 1).await;
    assert_eq!((metric(BUSY), metric(ADMITTED)), (2, 2));
    drop(pool);
    quick.answer().await;
    quick.answer().await;
    assert_eq!(slow.answer().await.0, (1, 0));
    assert_eq!(metric(BUSY), 0);

    // the heavy one alone
    let pool = HeldPool::hold();
    slow.first_step(&heavy, 3).await;
    until_metric(BUSY, 2).await;
    quick.first_step(&light, 3).await;
    quick.first_step(&light, 4).await;
    quick.cancel((4, 0)).await;
    until_metric(CANCELLED, 2).await;
    assert_eq!((metric(BUSY), metric(ADMITTED)), (2, 4));
    drop(pool);
    slow.answer().await;
    assert_eq!(quick.answer().await.0, (3, 0));
    assert_eq!(metric(EVALUATED), 5);
}

/// A gateway that does not read is not read from: what it asked is evaluated no further than its replies
/// find room, holds no permit, and is answered when it reads again.
#[tokio::test]
async fn a_gateway_that_does_not_read_holds_up_nobody_else() {
    const STEPS: u64 = 3000;
    let model = Model::light("on", 0b1111_0110);
    let platform = Platform::serving(permits(1), &[&model]).await;
    let mut deaf = platform.open(&model).await;
    let mut other = platform.open(&model).await;
    // each with seeds of its own: a repeated one would be refused in a few bytes
    let messages: Vec<_> = (0..STEPS).map(|_| message(&model)).collect();
    let requests = deaf.requests();
    let asking = tokio::spawn(async move {
        for (query, message) in (0..).zip(messages) {
            requests.step((query, 0), &message, Vec::new(), 0).await;
        }
    });
    // until nothing of it has been evaluated while the other stream was answered 50 times
    let (mut before, mut queries, mut quiet) = (0, 0, 0);
    while quiet < 50 {
        other.ask(&model, queries).await;
        queries += 1;
        // the last one of the other stream may be counted after its answer
        let of_deaf = metric(EVALUATED).saturating_sub(2 * queries);
        quiet = if of_deaf == before { quiet + 1 } else { 0 };
        before = of_deaf;
    }
    assert!(before < STEPS / 2, "{before} of {STEPS} were evaluated");
    assert!(!asking.is_finished(), "all of it was read");
    until_metric(BUSY, 0).await;
    let mut answered = BTreeSet::new();
    for _ in 0..STEPS {
        answered.insert(deaf.answer().await.0);
    }
    let asked: BTreeSet<_> = (0..STEPS).map(|query| (query, 0)).collect();
    assert_eq!(answered, asked);
}
