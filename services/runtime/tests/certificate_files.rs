//! A service notices its new certificate files also where nobody connects. Metrics are those of the
//! whole process, so this test has a process of its own.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use chemxor_runtime::operations::{Operations, install_metrics, metrics_text};
use chemxor_runtime::pki::{DevAuthority, Subject};
use chemxor_runtime::serve::Served;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

const REFUSED: &str = "chemxor_certificate_refused";
const EXPIRY: &str = "chemxor_certificate_expiry_timestamp_seconds";

fn metric(name: &str) -> f64 {
    let text = metrics_text();
    let value = text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(' ')?;
        value.parse().ok()
    });
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Waits until a metric is as wished.
async fn until(name: &str, wished: impl Fn(f64) -> bool) {
    let reached = async {
        while !wished(metric(name)) {
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    assert!(reached.is_ok(), "{name} stays {}", metric(name));
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_files_are_noticed_without_a_connection() {
    install_metrics();
    let folder = tempfile::tempdir().unwrap();
    let authority = DevAuthority::create_or_load(folder.path()).unwrap();
    let issue = |days: i64, name: &str| {
        let made = authority.issue(&Subject::Registry, time::Duration::days(days));
        made.unwrap().write(folder.path(), name).unwrap()
    };
    let files = issue(30, "server");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_, unused) = tonic_health::server::health_reporter();
    // `run` adds the real health service; a router needs one to begin with
    let router = Server::builder().add_optional_service(Some(unused).filter(|_| false));
    let stop = CancellationToken::new();
    let served = Served::new(&files, Operations::default()).unwrap();
    let task = tokio::spawn(served.run(router, listener, stop.clone()));
    let first = metric(EXPIRY);
    assert_eq!(metric(REFUSED), 0.0);

    // a certificate that waits for its key, with its chain: as long as no other
    let other = issue(60, "other");
    let chain = [&other.cert, &other.ca].map(|file| std::fs::read(file).unwrap());
    std::fs::write(&files.cert, chain.concat()).unwrap();
    until(REFUSED, |refused| refused == 1.0).await;
    assert_eq!(metric(EXPIRY), first, "of the pair in use");

    std::fs::copy(&other.key, &files.key).unwrap();
    until(REFUSED, |refused| refused == 0.0).await;
    let second = metric(EXPIRY);
    assert!(second > first, "{second} is not after {first}");

    // both at once
    issue(90, "server");
    until(EXPIRY, |end| end > second).await;
    until(REFUSED, |refused| refused == 0.0).await;
    assert!(metric("chemxor_tls_reloads_total{outcome=\"ok\"}") >= 2.0);

    stop.cancel();
    task.await.unwrap().unwrap();
}
