//! Who gets past the TLS handshake.

use chemxor_proto::v1;
use chemxor_proto::v1::catalog_client::CatalogClient;
use chemxor_runtime::pki::{DevAuthority, Subject};
use chemxor_runtime::tls::{self, TlsFiles};
use time::Duration;

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

#[tokio::test(flavor = "multi_thread")]
async fn only_living_certificates_of_the_platform_are_let_in() {
    let platform = Platform::start().await;
    let subject = Subject::Client("lab-2".parse().unwrap());
    let good = platform.files(&subject, "good");
    assert!(is_let_in(&platform, &good).await);

    let folder = tempfile::tempdir().unwrap();
    let foreign = DevAuthority::create_or_load(folder.path()).unwrap();
    let foreign = foreign
        .issue_to(&subject, folder.path(), "foreign")
        .unwrap();
    let foreign = TlsFiles {
        ca: good.ca.clone(),
        ..foreign
    };
    assert!(!is_let_in(&platform, &foreign).await);

    let expired = platform.authority.issue(&subject, -Duration::HOUR).unwrap();
    let expired = expired.write(folder.path(), "expired").unwrap();
    let expired = TlsFiles {
        ca: good.ca.clone(),
        ..expired
    };
    assert!(!is_let_in(&platform, &expired).await);
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
