//! What the registry's word does to a running session.

use std::sync::atomic::Ordering;

use chemxor_core::ErrorId;
use chemxor_gateway::Limits;
use chemxor_proto::v1;
use chemxor_proto::v1::client_frame::Kind;
use tonic::Code;

use super::client::{Client, Heard, PATIENCE, open_frame, refusal};
use super::platform::{Platform, STEPS};
use super::registry::{Known, Mood, TOKEN};
use super::worker::Deed;

async fn whole(client: &mut Client, query: u64) {
    for step in 0..STEPS {
        client.ask(query, step).await;
    }
}

/// Asks, from this query on, until the session ends.
async fn until_ended(client: &mut Client, first: u64) -> Heard {
    for query in first.. {
        client.step(query, 0, b"x").await;
        match client.hear().await {
            Heard::Reply { .. } => {
                let query = v1::CancelQuery { query };
                client.send(Kind::Cancel(query)).await;
            }
            ended => return ended,
        }
    }
    unreachable!("it asks until then")
}

/// Limits under which every step asks the registry.
fn watchful() -> Limits {
    Limits {
        recheck_ms: 0,
        registry_timeout_ms: 2_000,
        ..Limits::default()
    }
}

#[tokio::test]
async fn revocation_ends_the_session_at_the_next_step_with_its_reason() {
    for (id, code) in [
        (ErrorId::VersionRevoked, Code::FailedPrecondition),
        (ErrorId::TokenRefused, Code::Unauthenticated),
        (ErrorId::CertificateDenied, Code::PermissionDenied),
        (ErrorId::OrganisationSuspended, Code::PermissionDenied),
    ] {
        let platform = Platform::start(&[0..3], watchful()).await;
        let mut client = platform.open().await;
        client.ask(1, 0).await;
        platform.registry.set(Mood::Refuses(id));
        client.step(1, 1, b"x").await;
        assert_eq!(client.hear().await, Heard::Refused(code, Some(id)));
        assert_eq!(platform.journal.of(1).len(), 1, "step 1 was not evaluated");
        platform.sessions(0).await;
    }
}

#[tokio::test]
async fn a_version_that_a_view_does_not_list_is_checked_at_the_next_step() {
    let limits = Limits {
        recheck_ms: 1_000_000,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    // the first view makes everybody ask once, because nobody told of changes before it; a later one
    // that lists the version makes nobody ask
    platform.registry.tell();
    let checks = || platform.registry.checks.load(Ordering::SeqCst);
    let mut query = 1;
    while checks() == 0 {
        query += 1;
        whole(&mut client, query).await;
    }
    platform.registry.tell();
    for query in query + 1..=query + 20 {
        whole(&mut client, query).await;
    }
    assert_eq!(checks(), 1);
    platform
        .registry
        .set(Mood::Refuses(ErrorId::VersionRevoked));
    platform.registry.unlisted.store(true, Ordering::SeqCst);
    platform.registry.tell();
    let ended = until_ended(&mut client, query + 21).await;
    let expected = Heard::Refused(Code::FailedPrecondition, Some(ErrorId::VersionRevoked));
    assert_eq!(ended, expected);
}

#[tokio::test]
async fn a_version_that_is_confirmed_although_no_view_lists_it_is_asked_for_once_a_view() {
    let limits = Limits {
        recheck_ms: 1_000_000,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    platform.registry.unlisted.store(true, Ordering::SeqCst);
    platform.registry.tell();
    let mut query = 0;
    while platform.registry.checks.load(Ordering::SeqCst) == 0 {
        query += 1;
        whole(&mut client, query).await;
    }
    for query in query + 1..query + 20 {
        whole(&mut client, query).await;
    }
    assert_eq!(platform.registry.checks.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_cancellation_is_read_while_the_registry_does_not_answer() {
    let platform = Platform::start(&[0..3], watchful()).await;
    let mut client = platform.open().await;
    platform.journal.script(|_| Deed::Silence);
    client.step(1, 0, b"x").await;
    platform.journal.wait_for(1).await;
    platform.registry.set(Mood::NeverAnswers);
    client.step(2, 0, b"waits for the registry").await;
    client
        .send(Kind::Cancel(v1::CancelQuery { query: 1 }))
        .await;
    let mut cancelled = platform.journal.cancelled.subscribe();
    let heard = cancelled.wait_for(|list| list.contains(&(1, 0)));
    let heard = tokio::time::timeout(PATIENCE, heard).await;
    heard.expect("the worker hears of it").unwrap();
    // within the grace the step goes on; who was waited for is not waited for again
    platform.journal.script(|_| Deed::Answer);
    let heard = client.hear().await;
    assert!(matches!(heard, Heard::Reply { query: 2, .. }));
    client.ask(3, 0).await;
}

#[tokio::test]
async fn the_registry_is_not_asked_more_often_than_configured() {
    let limits = Limits {
        recheck_ms: 1_000_000,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    for query in 1..=20 {
        client.ask(query, 0).await;
    }
    assert_eq!(platform.registry.checks.load(Ordering::SeqCst), 0);

    let platform = Platform::start(&[0..3], watchful()).await;
    let mut client = platform.open().await;
    for query in 1..=20 {
        client.ask(query, 0).await;
    }
    assert_eq!(platform.registry.checks.load(Ordering::SeqCst), 20);
}

#[tokio::test]
async fn a_registry_that_is_away_is_trusted_for_a_while_and_not_longer() {
    let platform = Platform::start(&[0..3], watchful()).await;
    let mut client = platform.open().await;
    platform.registry.set(Mood::Fails);
    client.ask(1, 0).await;
    platform.registry.set(Mood::Allows);
    client.ask(1, 1).await;

    let limits = Limits {
        registry_grace_ms: 0,
        ..watchful()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    client.ask(1, 0).await;
    platform.registry.set(Mood::Fails);
    client.step(1, 1, b"x").await;
    let expected = Heard::Refused(Code::Unavailable, Some(ErrorId::StorageUnavailable));
    assert_eq!(client.hear().await, expected);
}

#[tokio::test]
async fn a_registry_that_never_answers_hits_the_deadline() {
    let limits = Limits {
        registry_timeout_ms: 200,
        registry_grace_ms: 0,
        ..watchful()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    platform.registry.set(Mood::NeverAnswers);
    let expected = Heard::Refused(Code::Unavailable, Some(ErrorId::StorageUnavailable));
    client.step(1, 0, b"x").await;
    assert_eq!(client.hear().await, expected);
    let Err(status) = platform.try_open(Some(TOKEN), open_frame()).await else {
        panic!("the session opened");
    };
    assert_eq!(refusal(&status), expected);
}

/// However long what the registry said is trusted: when it says that a right has changed, it is asked
/// before the next step.
#[tokio::test]
async fn a_change_of_rights_is_heard_of_at_the_next_step() {
    let limits = Limits {
        recheck_ms: 1_000_000,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    let checks = || platform.registry.checks.load(Ordering::SeqCst);
    let mut query = 0;
    // the first view, after which the watch is surely open; then a change that does not concern the
    // session. Each is asked for, and the session goes on
    for (count, tell) in [(1, Known::tell as fn(&Known)), (2, Known::tell_rights)] {
        tell(&platform.registry);
        while checks() < count {
            query += 1;
            whole(&mut client, query).await;
        }
    }
    platform.registry.set(Mood::Refuses(ErrorId::TokenRefused));
    for _ in 0..20 {
        query += 1;
        whole(&mut client, query).await;
    }
    assert_eq!(checks(), 2, "nobody has told yet");
    platform.registry.tell_rights();
    let ended = until_ended(&mut client, query + 1).await;
    let expected = Heard::Refused(Code::Unauthenticated, Some(ErrorId::TokenRefused));
    assert_eq!(ended, expected);
}

/// The question that nobody waited for, because the registry had been away, was answered long before: it
/// says nothing of what was taken away since.
#[tokio::test]
async fn an_answer_from_before_a_revocation_does_not_outlive_it() {
    let platform = Platform::start(&[0..3], watchful()).await;
    let mut client = platform.open().await;
    platform.registry.fails_checks.store(true, Ordering::SeqCst);
    client.ask(1, 0).await;
    platform
        .registry
        .fails_checks
        .store(false, Ordering::SeqCst);
    // asked, and not waited for
    client.ask(1, 1).await;
    let mut asked = platform.registry.answered.subscribe();
    let answered = asked.wait_for(|count| *count > 0);
    let answered = tokio::time::timeout(PATIENCE, answered).await;
    answered.expect("the registry answers").unwrap();
    // over the same connection, so the answer has come, too
    drop(platform.open().await);
    platform.registry.set(Mood::Refuses(ErrorId::TokenRefused));
    client.step(2, 0, b"x").await;
    let expected = Heard::Refused(Code::Unauthenticated, Some(ErrorId::TokenRefused));
    assert_eq!(client.hear().await, expected);
}

/// While the registry is away steps do not wait for it, but for those that come after the word that a
/// right has changed.
#[tokio::test]
async fn a_change_of_rights_is_waited_for_although_the_registry_was_away() {
    let limits = Limits {
        recheck_ms: 1_000_000,
        registry_timeout_ms: 2_000,
        ..Limits::default()
    };
    let platform = Platform::start(&[0..3], limits).await;
    let mut client = platform.open().await;
    let checks = || platform.registry.checks.load(Ordering::SeqCst);
    let mut query = 0;
    platform.registry.tell();
    while checks() == 0 {
        query += 1;
        whole(&mut client, query).await;
    }
    // a change is told, and the registry is away when it is asked for
    platform.registry.fails_checks.store(true, Ordering::SeqCst);
    platform.registry.tell_rights();
    while checks() == 1 {
        query += 1;
        whole(&mut client, query).await;
    }
    platform
        .registry
        .fails_checks
        .store(false, Ordering::SeqCst);
    platform.registry.set(Mood::Refuses(ErrorId::TokenRefused));
    client.step(query + 1, 0, b"x").await;
    let expected = Heard::Refused(Code::Unauthenticated, Some(ErrorId::TokenRefused));
    assert_eq!(client.hear().await, expected, "the very next step waits");
}
