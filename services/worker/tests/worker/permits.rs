//! Permits, cancellation and time limits: which steps are evaluated, and which together.

use std::collections::BTreeSet;

use super::model::Model;
use super::platform::{
    ADMITTED, BUSY, CANCELLED, EVALUATED, Options, Platform, metric, until_metric,
};
use super::pool::HeldPool;
use super::stream::{Heard, message};

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
    match stream.hear().await {
        Heard::Failed(at, id, retryable) => {
            assert_eq!((at, id.as_str(), retryable), ((2, 0), "CX-Q06", true));
        }
        other => panic!("the step is refused, got {other:?}"),
    }
    drop(pool);
    assert_eq!(stream.answer().await.0, (1, 0), "this one had time");
    // the same message again, with time enough: it was not evaluated before
    stream.step((2, 0), &message, Vec::new(), 0).await;
    assert_eq!(stream.answer().await.0, (2, 0));
    assert_eq!(metric(EVALUATED), 2);
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
