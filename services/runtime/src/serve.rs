//! Serving a router until told to stop, with health checks and a bounded drain.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Router, TcpIncoming};

use crate::RuntimeError;

/// How long running calls may go on after the stop.
const DRAIN: Duration = Duration::from_secs(5);

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
