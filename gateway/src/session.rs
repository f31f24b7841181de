//! One client session: reads frames, puts messages together, sends each step to a worker that
//! serves it, and the reply back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chemxor_core::{ErrorId, Reassembler, VersionId};
use chemxor_proto::v1::control_client::ControlClient;
use chemxor_proto::{MAX_FRAME_BYTES, MAX_STEP_BYTES, v1};
use chemxor_runtime::status::status;
use data_encoding::HEXLOWER;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::config::Limits;
use crate::ledger::Ledger;
use crate::link::{Failure, Link, Reply};
use crate::pool::{Worker, choose};
use crate::service::{forward, unavailable};

/// What the registry granted.
pub(crate) struct Grant {
    pub(crate) version: VersionId,
    pub(crate) token_id: String,
    pub(crate) subject: String,
    pub(crate) public_keys: Bytes,
    /// For each step, the workers that serve it.
    pub(crate) steps: Vec<Vec<Arc<Worker>>>,
}

type Sender = mpsc::Sender<Result<v1::ServerFrame, Status>>;
type Slot = Arc<tokio::sync::Mutex<Option<Arc<Link>>>>;

/// Bytes of step messages, both ways.
#[derive(Default)]
struct Traffic {
    up: AtomicU64,
    down: AtomicU64,
}

/// A running session.
pub(crate) struct Session {
    id: [u8; 16],
    grant: Grant,
    limits: Limits,
    registry: ControlClient<Channel>,
    client: Sender,
    ledger: Mutex<Ledger>,
    links: Mutex<HashMap<String, Slot>>,
    checked: tokio::sync::Mutex<Instant>,
    traffic: Traffic,
    ended: CancellationToken,
}

impl Session {
    pub(crate) fn new(
        id: [u8; 16],
        grant: Grant,
        limits: Limits,
        registry: ControlClient<Channel>,
        client: Sender,
    ) -> Arc<Self> {
        let ledger = Mutex::new(Ledger::new(grant.steps.len() as u32, limits.queries));
        Arc::new(Self {
            id,
            grant,
            limits,
            registry,
            client,
            ledger,
            links: Mutex::default(),
            checked: tokio::sync::Mutex::new(Instant::now()),
            traffic: Traffic::default(),
            ended: CancellationToken::new(),
        })
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves the session until the client or the platform ends it.
    pub(crate) async fn run(
        self: Arc<Self>,
        frames: Streaming<v1::ClientFrame>,
        stop: CancellationToken,
    ) {
        let session = HEXLOWER.encode(&self.id);
        let (version, subject) = (self.grant.version, &self.grant.subject);
        tracing::info!(session, %version, subject, "session opened");
        let outcome = tokio::select! {
            outcome = self.serve(frames) => outcome,
            () = stop.cancelled() => {
                Err(status(ErrorId::WorkerUnavailable, "the gateway stops; open a new session"))
            }
            () = self.client.closed() => Ok(()),
        };
        self.ended.cancel();
        let reason = match outcome {
            Ok(()) => "client closed".to_owned(),
            Err(refusal) => {
                let reason = refusal.message().to_owned();
                // waits no longer than a client may be slow
                let _ = tokio::time::timeout(Duration::from_secs(5), self.client.send(Err(refusal))).await;
                reason
            }
        };
        let queries = self.ledger().begun();
        tracing::info!(
            session,
            queries,
            ciphertext_bytes_up = self.traffic.up.load(Ordering::Relaxed),
            ciphertext_bytes_down = self.traffic.down.load(Ordering::Relaxed),
            public_key_bytes = self.grant.public_keys.len(),
            reason,
            "session closed"
        );
    }

    async fn serve(self: &Arc<Self>, mut frames: Streaming<v1::ClientFrame>) -> Result<(), Status> {
        self.send(v1::server_frame::Kind::Opened(v1::SessionOpened {
            session_id: Bytes::copy_from_slice(&self.id),
            version: self.grant.version.to_string(),
        }))
        .await?;
        let permits = Arc::new(Semaphore::new(self.limits.steps_in_flight));
        let mut partial: HashMap<(u64, u32), Reassembler> = HashMap::new();
        let mut partial_bytes = 0usize;
        loop {
            let next = tokio::time::timeout(self.limits.idle_timeout(), frames.message())
                .await
                .map_err(|_| status(ErrorId::SessionLimit, "the session was idle for too long"))?;
            let Ok(Some(frame)) = next else { return Ok(()) };
            let Some(v1::client_frame::Kind::Step(chunk)) = frame.kind else {
                return Err(status(ErrorId::FrameMalformed, "only step chunks may follow the first frame"));
            };
            if chunk.payload.len() > MAX_FRAME_BYTES {
                return Err(status(ErrorId::FrameTooLarge, "a frame carries at most 1 MiB"));
            }
            let at = (chunk.query, chunk.step);
            let size = chunk.payload.len();
            let count = partial.len();
            let slot = partial.entry(at).or_default();
            let done = slot
                .push(chunk.total_bytes as usize, &chunk.payload, MAX_STEP_BYTES)
                .map_err(|error| status(ErrorId::FrameMalformed, error.to_string()))?;
            partial_bytes += size;
            let Some(message) = done else {
                if count >= self.limits.partial_messages || partial_bytes > self.limits.partial_bytes {
                    return Err(status(ErrorId::FrameTooLarge, "too much is incomplete in this session"));
                }
                continue;
            };
            partial.remove(&at);
            partial_bytes = partial_bytes.saturating_sub(message.len());
            self.traffic.up.fetch_add(message.len() as u64, Ordering::Relaxed);
            self.recheck().await?;
            // waiting here stops reading, and so the client: backpressure
            let permit = permits.clone().acquire_owned().await;
            let begun = self.ledger().begin(at.0, at.1);
            match begun {
                Ok(state) => {
                    let session = self.clone();
                    tokio::spawn(async move {
                        tokio::select! {
                            () = session.step(at.0, at.1, message.into(), state) => {}
                            () = session.ended.cancelled() => {}
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    self.ledger().fail(at.0);
                    let failure = Failure {
                        id: ErrorId::StepOutOfOrder,
                        message: error.to_string(),
                        retryable: false,
                    };
                    self.report(at.0, failure).await?;
                }
            }
        }
    }

    /// Asks the registry again whether version and token may still be used, at most once in a
    /// while. When the registry is away, what it said last holds.
    async fn recheck(&self) -> Result<(), Status> {
        let mut checked = self.checked.lock().await;
        if checked.elapsed() < self.limits.recheck() {
            return Ok(());
        }
        let request = v1::CheckSessionRequest {
            version: self.grant.version.to_string(),
            token_id: self.grant.token_id.clone(),
        };
        let mut registry = self.registry.clone();
        let call = tokio::time::timeout(self.limits.registry_timeout(), registry.check_session(request));
        let answer = match call.await.map_err(|_| unavailable()).and_then(|r| r.map_err(|s| forward(&s))) {
            Ok(answer) => answer.into_inner(),
            Err(refusal) => {
                tracing::warn!(reason = refusal.message(), "the session could not be checked again");
                *checked = Instant::now();
                return Ok(());
            }
        };
        *checked = Instant::now();
        if answer.allowed {
            return Ok(());
        }
        let id = answer.error_id.parse().unwrap_or(ErrorId::RoleMissing);
        Err(status(id, answer.reason))
    }

    /// Evaluates a step on one of its workers and sends the reply.
    async fn step(&self, query: u64, step: u32, message: Bytes, state: Bytes) {
        let started = Instant::now();
        let outcome = self.attempt(query, step, &message, &state).await;
        let us = started.elapsed().as_micros() as u64;
        let sent = match outcome {
            Ok(reply) => {
                tracing::debug!(query, step, us, bytes = reply.message.len(), "step");
                self.traffic.down.fetch_add(reply.message.len() as u64, Ordering::Relaxed);
                // from here on the step counts as evaluated, whatever happens to the client
                self.ledger().succeed(query, reply.sealed_state);
                self.deliver(query, step, reply.message).await
            }
            Err(failure) => {
                tracing::info!(query, step, us, id = %failure.id, reason = failure.message, "step failed");
                self.ledger().fail(query);
                self.report(query, failure).await
            }
        };
        if sent.is_err() {
            self.ended.cancel();
        }
    }

    async fn attempt(&self, query: u64, step: u32, message: &Bytes, state: &Bytes) -> Result<Reply, Failure> {
        let candidates = &self.grant.steps[step as usize];
        let mut failed: Vec<String> = Vec::new();
        let mut last = Failure::unavailable(format!("no worker serves step {step}"));
        for attempt in 0..self.limits.attempts {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(50 << attempt.min(5))).await;
            }
            let mut random = [0; 4];
            // without randomness the first worker is as good as any
            let _ = getrandom::fill(&mut random);
            let Some(worker) = choose(candidates, &failed, u32::from_le_bytes(random)) else { break };
            let _busy = worker.begin();
            let work = async {
                let link = self.link(&worker).await?;
                link.evaluate(query, step, message, state.clone()).await
            };
            let outcome = tokio::time::timeout(self.limits.step_timeout(), work)
                .await
                .unwrap_or_else(|_| Err(Failure::unavailable("the worker did not answer in time")));
            match outcome {
                Err(failure) if failure.retryable => {
                    tracing::info!(query, step, worker = worker.name, reason = failure.message, "trying another replica");
                    failed.push(worker.name.clone());
                    last = Failure::unavailable(format!("step {step} cannot be evaluated now: {}", failure.message));
                }
                outcome => return outcome,
            }
        }
        Err(last)
    }

    /// The open stream to a worker, or a new one.
    async fn link(&self, worker: &Worker) -> Result<Arc<Link>, Failure> {
        let slot = {
            let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            links.entry(worker.name.clone()).or_default().clone()
        };
        let mut slot = slot.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| !link.is_broken()) {
            return Ok(link.clone());
        }
        let open = v1::OpenEvaluation {
            session_id: Bytes::copy_from_slice(&self.id),
            version: self.grant.version.to_string(),
            public_keys: self.grant.public_keys.clone(),
        };
        let link = Arc::new(Link::open(worker, open).await?);
        *slot = Some(link.clone());
        Ok(link)
    }

    async fn deliver(&self, query: u64, step: u32, message: Bytes) -> Result<(), Status> {
        for start in (0..message.len()).step_by(MAX_FRAME_BYTES) {
            let payload = message.slice(start..message.len().min(start + MAX_FRAME_BYTES));
            let total_bytes = message.len() as u32;
            let chunk = v1::StepChunk { query, step, total_bytes, payload };
            self.send(v1::server_frame::Kind::Step(chunk)).await?;
        }
        Ok(())
    }

    async fn report(&self, query: u64, failure: Failure) -> Result<(), Status> {
        self.send(v1::server_frame::Kind::Failed(v1::QueryFailed {
            query,
            error_id: failure.id.to_string(),
            message: failure.message,
            retryable: failure.retryable,
        }))
        .await
    }

    /// A client that does not read for the length of a step is shed.
    async fn send(&self, kind: v1::server_frame::Kind) -> Result<(), Status> {
        let frame = Ok(v1::ServerFrame { kind: Some(kind) });
        match tokio::time::timeout(self.limits.step_timeout(), self.client.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Status::cancelled("the client does not read")),
        }
    }
}
