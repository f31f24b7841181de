//! What operators and their tools ask a service: is it alive, is it ready, its metrics in
//! Prometheus' text form. Plain HTTP on a port of its own, because neither Kubernetes' probes nor a
//! Prometheus without extra set-up can show a client certificate; nothing secret is said there.

use std::net::SocketAddr;
use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::RuntimeError;

/// The `[operations]` section of every service's configuration file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Operations {
    /// Address for `/livez`, `/readyz` and `/metrics` in plain HTTP; none by default.
    pub listen: Option<SocketAddr>,
    /// Whether operators (certificates with `chemxor://operator/NAME`) may ask for the gRPC
    /// services' descriptions; nobody by default.
    pub reflection: bool,
    /// Milliseconds that running calls may take to end after SIGTERM; 0 means 10 s.
    pub drain_ms: u64,
    /// Where spans of sessions go; nowhere by default.
    pub traces: Traces,
}

/// The `[operations.traces]` section; needs a program built with the feature `otel`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Traces {
    /// `http://HOST:PORT` of an OpenTelemetry collector that takes OTLP over gRPC; empty: none.
    pub endpoint: String,
    /// Share of the sessions whose traces are recorded, between 0 and 1.
    pub sample_ratio: f64,
    /// Spans of one session that a service records; the session's own span counts the others.
    pub spans_per_session: u32,
}

impl Default for Traces {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            sample_ratio: 1.0,
            spans_per_session: 1000,
        }
    }
}

/// Upper bounds of the buckets of every `_seconds` histogram.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

fn recorder() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .ok()?
            .install_recorder()
            .ok()
    };
    HANDLE.get_or_init(install).as_ref()
}

/// Connections to the operations port at the same time; more wait in the listener's queue.
const CONNECTIONS: usize = 32;
/// How long one may take, from the first byte of the request to the last of the answer. Each carries
/// one request, so nobody keeps a place between two.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Pause when the system has no descriptor or memory for another connection.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// How often samples of histograms are put into their buckets, asked for or not.
const UPKEEP: Duration = Duration::from_secs(5);

/// Begins to count. Called before anything is counted; again, it does nothing.
pub fn install_metrics() {
    static UPKEEP_STARTED: Once = Once::new();
    let Some(handle) = recorder() else { return };
    UPKEEP_STARTED.call_once(|| {
        // without it the samples of a service that nobody asks would pile up
        let upkeep = move || loop {
            std::thread::sleep(UPKEEP);
            handle.run_upkeep();
        };
        let started = std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(upkeep);
        if let Err(error) = started {
            tracing::warn!(%error, "metrics are kept up only when they are asked for");
        }
    });
}

/// The metrics of this process as Prometheus reads them.
pub fn metrics_text() -> String {
    recorder().map_or_else(String::new, |handle| {
        handle.run_upkeep();
        handle.render()
    })
}

/// Serves the operations port until `stop`; gives the address, or none when there is no such port.
pub(crate) async fn serve(
    operations: &Operations,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
) -> Result<Option<SocketAddr>, RuntimeError> {
    let Some(address) = operations.listen else {
        return Ok(None);
    };
    let refuse = |reason: std::io::Error| RuntimeError::Operations { address, reason };
    let listener = TcpListener::bind(address).await.map_err(refuse)?;
    let bound = listener.local_addr().map_err(refuse)?;
    let router = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .with_state(ready);
    tracing::info!(addr = %bound, "operations port listens");
    let answering = answer(listener, router, CONNECTIONS, CONNECTION_TIME);
    tokio::spawn(stop.run_until_cancelled_owned(answering));
    Ok(Some(bound))
}

/// Answers, whoever else connects and says nothing or does not read.
async fn answer(listener: TcpListener, router: Router, connections: usize, time: Duration) {
    let places = Arc::new(Semaphore::new(connections));
    // closed by nobody
    while let Ok(place) = places.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the operations port cannot accept a connection");
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let _place = place;
            let mut http = auto::Builder::new(TokioExecutor::new()).http1_only();
            http.http1().keep_alive(false);
            let connection = http.serve_connection(TokioIo::new(stream), service);
            // who is cut or breaks off asks again
            let _ = tokio::time::timeout(time, connection).await;
        });
    }
}

async fn readyz(State(ready): State<watch::Receiver<bool>>) -> (StatusCode, &'static str) {
    match *ready.borrow() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    }
}

/// Readiness is put in when it is asked for, so that alerts are told what probes are told.
async fn metrics_page(State(ready): State<watch::Receiver<bool>>) -> String {
    metrics::gauge!("chemxor_ready").set(f64::from(*ready.borrow()));
    metrics_text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn page(address: SocketAddr, path: &str) -> String {
        let mut asking = TcpStream::connect(address).await.unwrap();
        let ask = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        asking.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // to its end: one request a connection
        asking.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_metric_of_readiness_says_what_probes_are_told() {
        install_metrics();
        let operations = Operations {
            listen: Some(([127, 0, 0, 1], 0).into()),
            ..Operations::default()
        };
        let ready = watch::Sender::new(false);
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let address = serve(&operations, ready.subscribe(), stop).await.unwrap();
        let address = address.unwrap();
        for (now, status, value) in [(false, "503", "0"), (true, "200", "1"), (false, "503", "0")] {
            ready.send_replace(now);
            let probe = page(address, "/readyz").await;
            assert!(probe.starts_with(&format!("HTTP/1.1 {status}")), "{probe}");
            let metrics = page(address, "/metrics").await;
            let line = format!("chemxor_ready {value}");
            assert!(metrics.lines().any(|found| found == line), "{metrics}");
        }
    }

    /// Who connects and says nothing, or reads nothing, takes no place for longer than its time.
    #[tokio::test]
    async fn the_silent_lose_their_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // more than the buffers of both ends of a connection hold
        let long = || async { vec![b'x'; 64 << 20] };
        let router = Router::new()
            .route("/livez", get(|| async { "alive\n" }))
            .route("/long", get(long));
        let time = Duration::from_millis(300);
        tokio::spawn(answer(listener, router, 2, time));
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut deaf = TcpStream::connect(address).await.unwrap();
        let ask = b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n";
        deaf.write_all(ask).await.unwrap();
        let mut asking = TcpStream::connect(address).await.unwrap();
        let ask = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
        asking.write_all(ask).await.unwrap();
        let mut answer = String::new();
        // to its end: one request a connection
        asking.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
}
