//! The gateway: one bidirectional stream for each client session, one stream for each worker of
//! that session, and between them every step of every query.
//!
//! Invariants: it holds no key and reads no ciphertext; each step of a query is evaluated at most
//! once with success ([`ledger`]); sealed state never goes to a client; every queue, message and
//! wait has a bound.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod config;
pub mod ledger;
mod link;
mod pool;
mod service;
mod session;

use std::net::SocketAddr;

use chemxor_proto::v1::control_client::ControlClient;
use chemxor_proto::v1::query_server::QueryServer;
use chemxor_proto::{MAX_MANIFEST_BYTES, MAX_MESSAGE_BYTES};
use chemxor_runtime::{serve, tls};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

pub use config::{GatewayConfig, GatewayError, Limits};
use service::QueryService;

/// A gateway that is up.
pub struct RunningGateway {
    addr: SocketAddr,
    task: tokio::task::JoinHandle<Result<(), GatewayError>>,
}

impl RunningGateway {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits until it has shut down.
    pub async fn wait(self) -> Result<(), GatewayError> {
        self.task.await.map_err(|error| GatewayError::Task(error.to_string()))?
    }
}

/// Starts a gateway; it serves until `stop`.
pub async fn start(
    config: GatewayConfig,
    stop: CancellationToken,
) -> Result<RunningGateway, GatewayError> {
    let listener = TcpListener::bind(config.listen).await.map_err(GatewayError::Listen)?;
    let addr = listener.local_addr().map_err(GatewayError::Listen)?;
    let registry = ControlClient::new(tls::connect_lazy(&config.registry, &config.tls)?)
        .max_decoding_message_size(MAX_MANIFEST_BYTES + MAX_MESSAGE_BYTES);
    let server_tls = tls::server_tls(&config.tls)?;
    let service = QueryService::new(config, registry, stop.clone());
    let router = Server::builder().tls_config(server_tls)?.add_service(
        QueryServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES),
    );
    tracing::info!(%addr, "gateway listens");
    let task = tokio::spawn(async move { Ok(serve::run(router, listener, stop).await?) });
    Ok(RunningGateway { addr, task })
}
