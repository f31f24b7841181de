//! What the registry's word does to a running session.

use std::sync::atomic::Ordering;

use chemxor_core::ErrorId;
use chemxor_gateway::Limits;
use tonic::Code;

use super::client::{Heard, open_frame, refusal};
use super::platform::Platform;
use super::registry::{Mood, TOKEN};

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
