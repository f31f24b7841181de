//! The gateway: one bidirectional stream for each client session, one stream for each worker of
//! that session, and between them every step of every query.
//!
//! Invariants: it holds no key and reads no ciphertext; each step of a query is answered at most
//! once; sealed state never goes to a client; every queue, message and wait has a bound. It keeps
//! nothing between sessions, so replicas of it need not know each other.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod authorise;
mod config;
mod counts;
mod error;
mod failure;
mod inbox;
mod link;
mod memory;
mod meter;
mod pool;
mod routes;
mod service;
mod session;
mod suspicion;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chemxor_proto::v1::control_client::ControlClient;
use chemxor_proto::v1::metering_client::MeteringClient;
use chemxor_proto::v1::query_server::QueryServer;
use chemxor_proto::{MAX_FRAME_BYTES, MAX_MANIFEST_BYTES, MAX_MESSAGE_BYTES};
use chemxor_runtime::{serve, tls};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

pub use config::{GatewayConfig, Limits};
pub use error::GatewayError;
use pool::Pool;
use routes::Routes;
use service::QueryService;

/// How often a silent client is asked whether it is still there, and how long it may take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// A gateway that is up.
#[derive(Debug)]
pub struct RunningGateway {
    addr: SocketAddr,
    sessions: watch::Receiver<usize>,
    task: tokio::task::JoinHandle<Result<(), GatewayError>>,
}

impl RunningGateway {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many sessions are open, as it changes.
    pub fn sessions(&self) -> watch::Receiver<usize> {
        self.sessions.clone()
    }

    /// Waits until it has shut down.
    pub async fn wait(self) -> Result<(), GatewayError> {
        let ended = self.task.await;
        ended.map_err(|error| GatewayError::Task(error.to_string()))?
    }
}

/// Starts a gateway; it serves until `stop`.
pub async fn start(
    config: GatewayConfig,
    stop: CancellationToken,
) -> Result<RunningGateway, GatewayError> {
    config.limits.check()?;
    let refuse = |reason| GatewayError::Listen {
        address: config.listen,
        reason,
    };
    let listener = TcpListener::bind(config.listen).await.map_err(refuse)?;
    let addr = listener.local_addr().map_err(refuse)?;
    let mut served = serve::Served::new(&config.tls, config.operations)?;
    let tracer = served.trace("gateway", "")?;
    let channel = tls::connect_lazy(&config.registry, served.identity())?;
    let metering = MeteringClient::new(channel.clone());
    let registry = ControlClient::new(channel)
        .max_decoding_message_size(MAX_MANIFEST_BYTES + MAX_MESSAGE_BYTES);
    let routes = Arc::new(Routes::new(Pool::new(served.identity().clone())));
    // sessions are welcome once it is known who serves them
    let ready = served.ready();
    ready.send_replace(false);
    let watched = registry
        .clone()
        .max_decoding_message_size(routes::MAX_VIEW_BYTES);
    let follow = routes.clone().follow(watched, ready, stop.clone());
    let service = QueryService::new(
        config.limits,
        routes,
        (registry, metering),
        tracer,
        stop.clone(),
    );
    let sessions = service.sessions();
    let (interval, timeout) = KEEPALIVE;
    let router = Server::builder()
        .initial_stream_window_size(Some(MAX_FRAME_BYTES as u32))
        .initial_connection_window_size(Some(4 * MAX_FRAME_BYTES as u32))
        .max_frame_size(Some(tls::HTTP2_FRAME))
        .http2_keepalive_interval(Some(interval))
        .http2_keepalive_timeout(Some(timeout))
        .add_service(
            QueryServer::new(service)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        );
    tracing::info!(%addr, "gateway listens");
    let task = tokio::spawn(async move {
        let follow = tokio::spawn(follow);
        let ended = served.run(router, listener, stop).await;
        follow.abort();
        Ok(ended?)
    });
    Ok(RunningGateway {
        addr,
        sessions,
        task,
    })
}
