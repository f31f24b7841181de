//! Serving a router until told to stop, with health checks and a bounded drain.

use std::time::Duration;

use http::HeaderValue;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::codegen::{BoxFuture, Context, Poll, Service};
use tonic::server::NamedService;
use tonic::transport::server::{Router, TcpIncoming};

use crate::RuntimeError;

/// How long running calls may go on after the stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Header of health checks with the release that answers.
pub const VERSION_HEADER: &str = "chemxor-version";
/// Header of health checks with the session protocol that it speaks.
pub const PROTOCOL_HEADER: &str = "chemxor-protocol";

/// A service whose answers name release and protocol, so that a client can say which side is older.
#[derive(Debug, Clone)]
struct Versioned<S>(S);

impl<S: NamedService> NamedService for Versioned<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, R, B> Service<R> for Versioned<S>
where
    S: Service<R, Response = http::Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = http::Response<B>;
    type Error = S::Error;
    type Future = BoxFuture<Self::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            let version = HeaderValue::from_static(env!("CARGO_PKG_VERSION"));
            let protocol = HeaderValue::from(chemxor_proto::PROTOCOL_VERSION);
            answer.headers_mut().insert(VERSION_HEADER, version);
            answer.headers_mut().insert(PROTOCOL_HEADER, protocol);
            Ok(answer)
        })
    }
}

/// Serves on a bound listener until `stop`; running calls then have five seconds to end.
pub async fn run(
    router: Router,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), RuntimeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    let health_service = Versioned(health_service);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let signal = stop.clone().cancelled_owned();
    let server = router
        .add_service(health_service)
        .serve_with_incoming_shutdown(incoming, signal);
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return Ok(ended?),
        () = stop.cancelled() => {}
    }
    health
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    match tokio::time::timeout(DRAIN, server).await {
        Ok(ended) => Ok(ended?),
        Err(_) => {
            tracing::info!("calls still running after the drain were cut");
            Ok(())
        }
    }
}
