//! Serving a router until told to stop: mutual TLS whose certificates follow their files, health
//! and readiness, reflection for operators, a bounded drain.
//!
//! gRPC health: service `""` is serving while the process lives (liveness); service
//! `chemxor.ready` is serving while calls are welcome (readiness). Draining ends the second at once
//! and the first at the end.

use std::sync::Arc;
use std::time::Duration;

use chemxor_proto::DESCRIPTORS;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;
use tonic::{Request, Status};
use tonic_health::ServingStatus::{NotServing, Serving};

use crate::RuntimeError;
use crate::incoming::incoming;
use crate::operations::{self, Operations};
use crate::peer::peer_subject;
use crate::pki::Subject;
use crate::status::status;
use crate::tls::{Identity, TlsFiles};
use crate::traces::Tracer;
use crate::versioned::Versioned;
pub use crate::versioned::{PROTOCOL_HEADER, VERSION_HEADER};

/// Name under which readiness is asked by gRPC health checks.
pub const READY: &str = "chemxor.ready";
/// How long running calls may go on after the stop, when the configuration does not say.
const DRAIN: Duration = Duration::from_secs(10);

/// What a server needs beside its router.
#[derive(Debug)]
pub struct Served {
    identity: Arc<Identity>,
    operations: Operations,
    ready: watch::Sender<bool>,
    tracer: Tracer,
}

impl Served {
    /// Reads the certificates. The service counts as ready from the start; see [`Served::ready`].
    pub fn new(tls: &TlsFiles, operations: Operations) -> Result<Self, RuntimeError> {
        Ok(Self {
            identity: Identity::load(tls)?,
            operations,
            ready: watch::Sender::new(true),
            tracer: Tracer::default(),
        })
    }

    /// The certificates, for connections that go out.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Says whether calls are welcome.
    pub fn ready(&self) -> watch::Sender<bool> {
        self.ready.clone()
    }

    /// Begins to export traces, when the configuration says so; what is queued at the end of
    /// [`Served::run`] leaves then.
    pub fn trace(&mut self, service: &'static str, instance: &str) -> Result<Tracer, RuntimeError> {
        self.tracer = Tracer::start(&self.operations.traces, service, instance)?;
        Ok(self.tracer.clone())
    }

    /// How long running calls may go on after the stop.
    pub fn drain(&self) -> Duration {
        match self.operations.drain_ms {
            0 => DRAIN,
            ms => Duration::from_millis(ms),
        }
    }

    /// Serves on a bound listener until `stop`; running calls then may end.
    pub async fn run(
        self,
        router: Router,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Result<(), RuntimeError> {
        let tracer = self.tracer.clone();
        let ended = self.serve(router, listener, stop).await;
        tracer.end().await;
        ended
    }

    async fn serve(
        self,
        router: Router,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Result<(), RuntimeError> {
        let (drain, ended) = (self.drain(), CancellationToken::new());
        let _ended = ended.clone().drop_guard();
        operations::serve(&self.operations, self.ready.subscribe(), ended).await?;
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("", Serving).await;
        let follow = follow(health.clone(), self.ready.subscribe(), stop.clone());
        let _follow = AbortOnDrop(tokio::spawn(follow));
        let _watch = AbortOnDrop(tokio::spawn(self.identity.clone().watch()));
        let mut router = router.add_service(Versioned(health_service));
        if self.operations.reflection {
            let reflection = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .build_v1()
                .map_err(|error| RuntimeError::Reflection(error.to_string()))?;
            router = router.add_service(tonic::service::interceptor::InterceptedService::new(
                reflection,
                operators_only,
            ));
        }
        let signal = stop.clone().cancelled_owned();
        let (connections, listening) = incoming(listener, self.identity.clone(), stop.clone());
        let server = router.serve_with_incoming_shutdown(connections, signal);
        tokio::pin!(server);
        tokio::select! {
            ended = &mut server => return Ok(ended?),
            () = stop.cancelled() => {}
        }
        self.ready.send_replace(false);
        // it ends with `stop`
        let _ = listening.await;
        let outcome = tokio::time::timeout(drain, server).await;
        health.set_service_status("", NotServing).await;
        match outcome {
            Ok(ended) => Ok(ended?),
            Err(_) => {
                tracing::info!("calls still running after the drain were cut");
                Ok(())
            }
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Keeps the readiness of the health service what the watch says; not ready once stopping.
async fn follow(
    health: tonic_health::server::HealthReporter,
    mut ready: watch::Receiver<bool>,
    stop: CancellationToken,
) {
    loop {
        let now = *ready.borrow_and_update() && !stop.is_cancelled();
        let status = if now { Serving } else { NotServing };
        health.set_service_status(READY, status).await;
        tokio::select! {
            changed = ready.changed() => if changed.is_err() { return },
            () = stop.cancelled() => {
                health.set_service_status(READY, NotServing).await;
                return;
            }
        }
    }
}

#[allow(clippy::result_large_err)] // an interceptor gives tonic's own error
fn operators_only(request: Request<()>) -> Result<Request<()>, Status> {
    match peer_subject(&request)? {
        Subject::Operator(_) => Ok(request),
        _ => Err(status(
            chemxor_core::ErrorId::CertificateRefused,
            "only an operator's certificate may list the services",
        )),
    }
}
