//! The publisher's partition worker: opens the partitions that were sealed to it and evaluates
//! their steps on ciphertexts.
//!
//! Invariants: opened weights live in this process only; between steps it keeps nothing, the state
//! leaves sealed; nothing derived from a ciphertext or a weight is logged. It knows no client
//! secret and no molecule.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod config;
mod denied;
mod evaluate;
mod load;
mod loads;
mod models;
mod partition;
mod refusals;
mod session;
mod shelf;

pub use config::{STREAM_MEMORY_MIB, WorkerConfig, WorkerError};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chemxor_proto::v1::partition_server::PartitionServer;
use chemxor_proto::{MAX_MESSAGE_BYTES, v1};
use chemxor_runtime::{serve, tls};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use models::Models;
use partition::PartitionService;

/// How long a call to the registry may take.
const REGISTRY_DEADLINE: Duration = Duration::from_secs(10);

/// A worker that is up.
pub struct RunningWorker {
    addr: SocketAddr,
    task: tokio::task::JoinHandle<Result<(), WorkerError>>,
}

impl RunningWorker {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits until it has shut down.
    pub async fn wait(self) -> Result<(), WorkerError> {
        self.task
            .await
            .map_err(|error| WorkerError::Task(error.to_string()))?
    }
}

/// Starts a worker: listens, registers, and keeps its partitions up to date until `stop`.
pub async fn start(
    config: WorkerConfig,
    stop: CancellationToken,
) -> Result<RunningWorker, WorkerError> {
    let keys = config.load_or_create_sealing_key()?;
    let fingerprint = chemxor_runtime::pki::sealing_fingerprint(keys.public());
    tracing::info!(worker = %config.name, %fingerprint, "sealing key");
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(WorkerError::Listen)?;
    let addr = listener.local_addr().map_err(WorkerError::Listen)?;
    let endpoint = config.advertise.clone().unwrap_or_else(|| addr.to_string());
    let mut served = serve::Served::new(&config.tls, config.operations.clone())?;
    let tracer = served.trace("worker", config.name.as_str())?;
    let ready = served.ready();
    // until the first assignments have been loaded
    ready.send_replace(false);
    let channel = tls::connect_lazy(&config.registry, served.identity())?;
    let registry = v1::control_client::ControlClient::new(channel)
        .max_decoding_message_size(models::MAX_ASSIGNMENTS_BYTES);
    let register = v1::RegisterWorkerRequest {
        name: config.name.to_string(),
        sealing_key: keys.public().to_vec().into(),
        endpoint,
        organisations: config
            .organisations
            .iter()
            .map(ToString::to_string)
            .collect(),
    };
    let name = config.name.clone();
    let memory = config.memory();
    let models = Models::new(name, keys, registry.clone(), memory, stop.clone());
    let models = Arc::new(models);
    let service = PartitionService::new(models.clone(), &config, tracer, stop.clone());
    let router = Server::builder()
        .initial_stream_window_size(Some(tls::STREAM_WINDOW))
        .initial_connection_window_size(Some(tls::CONNECTION_WINDOW))
        .max_frame_size(Some(tls::HTTP2_FRAME))
        .add_service(
            PartitionServer::new(service)
                .max_decoding_message_size(2 * MAX_MESSAGE_BYTES)
                .max_encoding_message_size(2 * MAX_MESSAGE_BYTES),
        );
    let until = stop.clone();
    let background = tokio::spawn(async move {
        let current = keep_current(register, registry, &models, until);
        tokio::join!(current, models.keep_loaded(&ready));
    });
    tracing::info!(worker = %config.name, %addr, "worker listens");
    let task = tokio::spawn(async move {
        let served = served.run(router, listener, stop.clone()).await;
        stop.cancel();
        // it ends with `stop`
        let _ = background.await;
        served.map_err(WorkerError::from)
    });
    Ok(RunningWorker { addr, task })
}

/// Registers again and again (the heartbeat) and learns what the registry assigns. Nothing here waits
/// for a version to be loaded.
async fn keep_current(
    register: v1::RegisterWorkerRequest,
    mut registry: v1::control_client::ControlClient<tonic::transport::Channel>,
    models: &Models,
    stop: CancellationToken,
) {
    let mut pause = Duration::from_millis(200);
    loop {
        let call = tokio::time::timeout(
            REGISTRY_DEADLINE,
            registry.register_worker(register.clone()),
        );
        let answer = tokio::select! {
            answer = call => answer,
            () = stop.cancelled() => return,
        };
        match answer {
            Ok(Ok(answer)) => {
                pause = Duration::from_secs(answer.into_inner().heartbeat_s.clamp(1, 60).into());
                let learned = tokio::select! {
                    () = stop.cancelled() => return,
                    learned = models.learn() => learned,
                };
                if let Err(error) = learned {
                    tracing::warn!(%error, "partitions are not up to date");
                }
            }
            Ok(Err(status)) => {
                tracing::warn!(code = ?status.code(), reason = status.message(), "registry refused the worker");
                pause = (pause * 2).min(Duration::from_secs(5));
            }
            Err(_) => tracing::warn!("registry does not answer"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
