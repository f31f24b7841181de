//! Workers that fail, and what the client notices of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chemxor_core::ErrorId;
use chemxor_gateway::Limits;

use super::client::{answered, failed};
use super::platform::{Model, Platform, STEPS};
use super::worker::{Deed, Job, answer, part, sealed};

/// Does `deed` with the first job at step 1, whoever gets it, and answers the rest.
fn first_at_step_one(deed: Deed) -> impl Fn(&Job) -> Deed + Send + Sync {
    let seen = AtomicU64::new(0);
    move |job| match job.step == 1 && seen.fetch_add(1, Ordering::SeqCst) == 0 {
        true => deed.clone(),
        false => Deed::Answer,
    }
}

/// Limits under which a silent worker is noticed soon.
fn hasty() -> Limits {
    Limits {
        attempt_timeout_ms: 200,
        ..Limits::default()
    }
}

/// One query, whose step 1 fails on the first of two replicas in the given way.
async fn fails_over(deed: Deed) {
    let platform = Platform::start(&[0..3, 1..3], hasty()).await;
    let mut client = platform.open().await;
    platform.journal.script(first_at_step_one(deed.clone()));
    for step in 0..STEPS {
        client.ask(1, step).await;
    }
    let jobs = platform.journal.of(1);
    let tries: Vec<&Job> = jobs.iter().filter(|job| job.step == 1).collect();
    assert_eq!(tries.len(), 2, "{deed:?}");
    assert_ne!(tries[0].worker, tries[1].worker, "{deed:?}");
    assert_eq!(tries[0].sealed_state, sealed(&client.session_id, 1, 0));
    assert_eq!(tries[0].sealed_state, tries[1].sealed_state);
    assert_eq!(tries[0].message, tries[1].message);
}

#[tokio::test]
async fn a_worker_that_breaks_off_is_replaced_with_the_same_sealed_state() {
    fails_over(Deed::Break).await;
}

#[tokio::test]
async fn half_an_answer_never_reaches_the_client() {
    fails_over(Deed::BreakInAnswer).await;
}

#[tokio::test]
async fn a_worker_that_asks_to_be_replaced_is() {
    fails_over(Deed::Fail(ErrorId::WorkerUnavailable, true)).await;
}

#[tokio::test]
async fn a_silent_worker_is_replaced() {
    fails_over(Deed::Silence).await;
}

#[tokio::test]
async fn a_worker_that_talks_nonsense_is_replaced() {
    fails_over(Deed::Oversize).await;
    fails_over(Deed::AnswerWithoutState).await;
    fails_over(Deed::AnswerWithLateState).await;
}

#[tokio::test]
async fn a_reply_that_is_not_exactly_that_of_the_step_is_replaced() {
    let good = answer(Model::Plain, 1, 1, b"question 1/1");
    let garbage = vec![7; good.len()];
    let short = good[..good.len() - 1].to_vec();
    let long = [good.as_slice(), &[0]].concat();
    let fewer = part(0, 4);
    let mut precision = good.clone();
    precision[6] += 1;
    for raw in [garbage, short, long, fewer, precision, vec![7; 3]] {
        fails_over(Deed::AnswerRaw(raw.into())).await;
    }
    // without another replica the query fails
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let mut client = platform.open().await;
    let raw = vec![7; good.len()];
    platform
        .journal
        .script(move |_| Deed::AnswerRaw(raw.clone().into()));
    client.step(1, 0, b"x").await;
    assert_eq!(client.hear().await, failed(1, ErrorId::WorkerUnavailable));
}

#[tokio::test]
async fn a_client_in_a_hurry_blames_no_worker_and_uses_no_retries_up() {
    let limits = Limits {
        attempt_timeout_ms: 5_000,
        retry_percent: 0,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3, 0..3], limits).await;
    let mut hasty = platform.open().await;
    platform.journal.script(|job| match job.message.as_ref() {
        b"x" => Deed::Silence,
        _ => Deed::Answer,
    });
    // more than the retries of ten seconds
    for query in 1..=150 {
        hasty.hurry(query, 0, 1).await;
        assert_eq!(
            hasty.hear().await,
            failed(query, ErrorId::WorkerUnavailable)
        );
    }
    for query in 1..=150 {
        let tries = platform.journal.of(query).len();
        assert!(tries <= 1, "query {query} was tried {tries} times");
    }
    // whichever worker another session asks first, there is a retry left for its step
    let mut other = platform.open().await;
    platform.journal.script(first_at_step_one(Deed::Fail(
        ErrorId::WorkerUnavailable,
        true,
    )));
    for step in 0..STEPS {
        other.ask(1000, step).await;
    }
    assert_eq!(platform.journal.of(1000).len(), STEPS as usize + 1);
    // neither worker is passed over for what the hasty client did
    for query in 1001..=1060 {
        other.ask(query, 0).await;
    }
}

/// What fails fast would be the least busy worker there is, and get every step.
#[tokio::test]
async fn a_worker_that_fails_by_itself_is_replaced_whatever_it_says() {
    for id in [
        ErrorId::Internal,
        ErrorId::StateRefused,
        ErrorId::TokenRefused,
    ] {
        fails_over(Deed::Fail(id, false)).await;
    }
}

/// The second refusal follows from the gateway's own second question, so the first one is told.
#[tokio::test]
async fn a_seed_that_the_gateway_itself_sent_twice_is_not_held_against_the_client() {
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let mut client = platform.open().await;
    for (query, first) in [(1, ErrorId::Internal), (2, ErrorId::WorkerUnavailable)] {
        let asked = AtomicU64::new(0);
        platform
            .journal
            .script(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
                0 => Deed::Fail(first, false),
                _ => Deed::Fail(ErrorId::SeedReused, false),
            });
        client.step(query, 0, b"x").await;
        assert_eq!(client.hear().await, failed(query, first));
        assert_eq!(platform.journal.of(query).len(), 2);
    }
}

/// A worker that blames the client must find another one that says the same.
#[tokio::test]
async fn a_refusal_of_the_ciphertext_is_told_when_a_second_worker_says_the_same() {
    let platform = Platform::start(&[0..3, 0..3, 0..3], Limits::default()).await;
    let mut client = platform.open().await;
    platform.journal.script(|job| match job.query {
        1..=30 => Deed::Fail(ErrorId::CiphertextRefused, false),
        31 => Deed::Fail(ErrorId::SeedReused, false),
        32 => Deed::Fail(ErrorId::TokenRefused, false),
        _ => Deed::Answer,
    });
    for query in 1..=30 {
        client.step(query, 0, b"x").await;
        let refused = failed(query, ErrorId::CiphertextRefused);
        assert_eq!(client.hear().await, refused);
        let jobs = platform.journal.of(query);
        assert_eq!(jobs.len(), 2);
        assert_ne!(jobs[0].worker, jobs[1].worker);
    }
    // whoever has not seen the seed would evaluate it
    client.step(31, 0, b"x").await;
    assert_eq!(client.hear().await, failed(31, ErrorId::SeedReused));
    assert_eq!(platform.journal.of(31).len(), 1);
    client.step(32, 0, b"x").await;
    assert_eq!(client.hear().await, failed(32, ErrorId::Internal));
    client.ask(33, 0).await;
    // alone, its word must do
    let platform = Platform::start(&[0..3], Limits::default()).await;
    let mut client = platform.open().await;
    platform
        .journal
        .script(|_| Deed::Fail(ErrorId::CiphertextRefused, false));
    client.step(1, 0, b"x").await;
    assert_eq!(client.hear().await, failed(1, ErrorId::CiphertextRefused));
    assert_eq!(platform.journal.of(1).len(), 1);
}

#[tokio::test]
async fn a_worker_that_blames_the_client_wrongly_is_replaced_and_passed_over() {
    let platform = Platform::start(&[0..3, 0..3], Limits::default()).await;
    let mut client = platform.open().await;
    let names: Vec<String> = {
        for query in 1..=20 {
            client.ask(query, 0).await;
        }
        let jobs = platform.journal.jobs.borrow();
        jobs.iter().map(|job| job.worker.clone()).collect()
    };
    let liar = names[0].clone();
    assert!(names.iter().any(|name| *name != liar), "both are asked");
    platform
        .journal
        .script(move |job| match job.worker == liar {
            true => Deed::Fail(ErrorId::CiphertextRefused, false),
            false => Deed::Answer,
        });
    let accused = |query| platform.journal.of(query).len() == 2;
    let mut query = 20;
    loop {
        query += 1;
        client.ask(query, 0).await;
        if accused(query) {
            break;
        }
    }
    for query in query + 1..=query + 20 {
        client.ask(query, 0).await;
        assert!(!accused(query), "it is asked again");
    }
}

#[tokio::test]
async fn attempts_are_bounded_and_the_session_stays_open() {
    let platform = Platform::start(&[0..3, 0..3], Limits::default()).await;
    let mut client = platform.open().await;
    platform.journal.script(|job| match job.query {
        1 => Deed::Break,
        _ => Deed::Answer,
    });
    let begun = Instant::now();
    client.step(1, 0, b"x").await;
    assert_eq!(client.hear().await, failed(1, ErrorId::WorkerUnavailable));
    assert_eq!(platform.journal.of(1).len(), 3);
    // the third attempt asks a worker again that has failed, so it waits: half of 200 ms at least
    assert!(begun.elapsed() >= Duration::from_millis(100), "no pause");
    client.ask(2, 0).await;
}

#[tokio::test]
async fn a_worker_that_never_answers_hits_the_deadline() {
    let limits = Limits {
        step_timeout_ms: 300,
        ..hasty()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    platform.journal.script(|job| match job.query {
        1 => Deed::Silence,
        _ => Deed::Answer,
    });
    client.step(1, 0, b"x").await;
    assert_eq!(client.hear().await, failed(1, ErrorId::WorkerUnavailable));
    assert_eq!(platform.journal.of(1).len(), 1, "it may still be at work");
    client.ask(2, 0).await;
}

#[tokio::test]
async fn a_step_that_nobody_serves_fails_the_query() {
    let platform = Platform::start(&[0..1], Limits::default()).await;
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    client.step(1, 1, b"x").await;
    assert_eq!(client.hear().await, failed(1, ErrorId::WorkerUnavailable));
}

#[tokio::test]
async fn a_killed_worker_costs_nothing_where_there_is_a_replica() {
    let mut platform = Platform::start(&[0..3, 0..3], Limits::default()).await;
    let mut client = platform.open().await;
    for query in 1..=8 {
        client.ask(query, 0).await;
    }
    platform.workers[0].kill().await;
    for step in 1..STEPS {
        for query in 1..=8 {
            client.step(query, step, b"x").await;
        }
        for _ in 1..=8 {
            let heard = client.hear().await;
            assert!(
                (1..=8).any(|query| heard == answered(query, step, b"x")),
                "{heard:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_worker_killed_and_started_again_is_reached_in_the_same_session() {
    let mut platform = Platform::start(&[0..3], Limits::default()).await;
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    platform.workers[0].kill().await;
    client.step(1, 1, b"x").await;
    assert_eq!(client.hear().await, failed(1, ErrorId::WorkerUnavailable));
    platform.restart(0, platform.workers[0].port);
    for step in 0..STEPS {
        client.ask(2, step).await;
    }
}

#[tokio::test]
async fn a_worker_that_moved_is_reached_once_any_session_learned_of_it() {
    let mut platform = Platform::start(&[0..3], Limits::default()).await;
    let mut old = platform.open().await;
    old.ask(1, 0).await;
    platform.workers[0].kill().await;
    platform.restart(0, 0);
    let mut new = platform.open().await;
    new.ask(1, 0).await;
    old.ask(1, 1).await;
}
