//! Who gets past the TLS handshake.

use std::path::Path;

use chemxor_proto::v1;
use chemxor_proto::v1::catalog_client::CatalogClient;
use chemxor_runtime::operations::{install_metrics, metrics_text};
use chemxor_runtime::pki::{DevAuthority, Subject};
use chemxor_runtime::tls::{self, TlsFiles};
use time::Duration;

use crate::logs::Log;
use crate::platform::{Platform, signed};

/// Whether a call with a good token gets an answer over this certificate.
async fn is_let_in(platform: &Platform, files: &TlsFiles) -> bool {
    // TLS 1.3 tells a client that it was refused only after the handshake
    let Ok(channel) = tls::connect(&platform.address(), files).await else {
        return false;
    };
    let token = &platform.token("quinn").secret;
    let request = signed(token, v1::ListModelsRequest::default());
    CatalogClient::new(channel)
        .list_models(request)
        .await
        .is_ok()
}

/// Tries with a certificate that is refused, after a good one; gives what the log says of it. It says so
/// of the first of many, so each kind has a process of its own.
async fn refused_with(make: impl FnOnce(&Platform, &Subject, &Path) -> TlsFiles) -> String {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    install_metrics();
    let platform = Platform::start().await;
    let subject = Subject::Client("lab-2".parse().unwrap());
    let good = platform.files(&subject, "good");
    assert!(is_let_in(&platform, &good).await);
    assert!(log.lines("handshake refused").is_empty());

    let folder = tempfile::tempdir().unwrap();
    let bad = TlsFiles {
        ca: good.ca.clone(),
        ..make(&platform, &subject, folder.path())
    };
    assert!(!is_let_in(&platform, &bad).await);
    let lines = log.lines("handshake refused");
    let line = lines.first().expect("a line in the log");
    assert!(line.field("peer").starts_with("127.0.0.1:"), "{line:?}");
    let counted = metrics_text();
    assert!(
        counted.contains("chemxor_tls_handshakes_refused_total"),
        "{counted}"
    );
    line.field("reason").to_owned()
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_and_logged() {
    let reason = refused_with(|_, subject, folder| {
        let foreign = DevAuthority::create_or_load(folder).unwrap();
        foreign.issue_to(subject, folder, "foreign").unwrap()
    });
    let reason = reason.await;
    // the authority has the same name, so its signature does not fit
    assert!(
        reason.contains("BadSignature") || reason.contains("UnknownIssuer"),
        "{reason}"
    );
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_logged() {
    let reason = refused_with(|platform, subject, folder| {
        let expired = platform.authority.issue(subject, -Duration::HOUR).unwrap();
        expired.write(folder, "expired").unwrap()
    });
    let reason = reason.await;
    assert!(reason.to_lowercase().contains("expired"), "{reason}");
}

/// HTTP/2 keeps a connection for hours: it must not outlive the certificate that opened it.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_the_certificate_that_opened_it() {
    let platform = Platform::start().await;
    let subject = Subject::Client("lab-2".parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let short = platform
        .authority
        .issue(&subject, Duration::seconds(3))
        .unwrap();
    let short = short.write(folder.path(), "short").unwrap();
    let short = TlsFiles {
        ca: platform.files(&subject, "good").ca,
        ..short
    };
    let channel = tls::connect(&platform.address(), &short).await.unwrap();
    let token = &platform.token("quinn").secret;
    let began = std::time::Instant::now();
    let mut calls = 0;
    loop {
        let request = signed(token, v1::ListModelsRequest::default());
        let answer = CatalogClient::new(channel.clone())
            .list_models(request)
            .await;
        if answer.is_err() {
            break;
        }
        calls += 1;
        assert!(
            began.elapsed().as_secs() < 30,
            "it goes on after {calls} calls"
        );
    }
    assert!(calls > 0, "the certificate was good at first");
    assert!(!is_let_in(&platform, &short).await);
}
