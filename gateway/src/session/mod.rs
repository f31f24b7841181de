//! One client session: reads frames, puts messages together ([`reading`]), lets steps in one after
//! the other ([`admission`]), has each evaluated by a worker that serves it ([`steps`]), and sends
//! the reply back.
//!
//! Invariants: what a session holds is bounded ([`Limits`]); where a bound is reached the session
//! stops reading, and so its client; when it ends, everything it started has ended.

mod admission;
mod numbers;
mod outbox;
mod reading;
mod state;
mod steps;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chemxor_core::ErrorId;
use chemxor_proto::v1;
use chemxor_runtime::status::{error_id, status};
use chemxor_runtime::traces::{Parent, Span};
use data_encoding::HEXLOWER;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};
use tower::retry::budget::TpsBudget;
use tracing::Instrument;

use crate::authorise::{Grant, Recheck};
use crate::config::Limits;
use crate::inbox::At;
use crate::link::ReplyBounds;
use crate::memory::Share;
use crate::meter::Meter;
use crate::service::Shared;
use outbox::{ClientGone, Outbox};
use state::{Bounds, SessionState};
use steps::Links;

pub(crate) use outbox::Sender;

/// How often a session that drains looks whether its queries have ended.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// Why a session ended.
enum End {
    /// The client said all it had to say and got its answers.
    Done,
    /// The client broke off, or does not read.
    Gone,
    /// The client is told why.
    Refused(Status),
}

impl From<Status> for End {
    fn from(refusal: Status) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ClientGone> for End {
    fn from(_: ClientGone) -> Self {
        Self::Gone
    }
}

/// What the gateway saw of a session.
#[derive(Default)]
struct Tally {
    bytes_up: AtomicU64,
    steps: AtomicU64,
    sealed_bytes: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    fn step(&self, sealed: usize) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        let sealed = sealed as u64;
        self.sealed_bytes.fetch_add(sealed, Ordering::Relaxed);
    }
}

/// A running session.
pub(crate) struct Session {
    id: [u8; 16],
    grant: Grant,
    limits: Limits,
    born: Instant,
    state: Mutex<SessionState>,
    links: Links,
    outbox: Outbox,
    meter: Meter,
    /// Where memory for messages and replies comes from.
    memory: Share,
    trace: Parent,
    /// Why no query may begin any more; those that run go on.
    spent: watch::Sender<Option<Status>>,
    tally: Tally,
    public_key_bytes: usize,
    /// Shared by all sessions: how many steps may be tried again.
    budget: Arc<TpsBudget>,
    /// The steps under evaluation; cancelling one drops it.
    running: Mutex<HashMap<At, CancellationToken>>,
    ended: CancellationToken,
}

impl Session {
    pub(crate) fn new(
        id: [u8; 16],
        grant: Grant,
        meter: Meter,
        public_keys: Bytes,
        shared: &Shared,
        client: Sender,
        trace: Parent,
    ) -> Arc<Self> {
        let limits = shared.limits;
        let bounds = Bounds {
            steps: grant.steps(),
            running: limits.queries_in_flight,
            ranges: limits.query_ranges,
            patience: limits.idle_timeout(),
        };
        let replies = ReplyBounds {
            partial_messages: limits.steps_in_flight,
            partial_bytes: limits.message_bytes,
        };
        let memory = shared.memory.share(&grant.organisation);
        let public_key_bytes = public_keys.len();
        let open = v1::OpenEvaluation {
            session_id: Bytes::copy_from_slice(&id),
            version: grant.version.to_string(),
            public_keys,
        };
        Arc::new(Self {
            id,
            grant,
            limits,
            born: Instant::now(),
            state: Mutex::new(SessionState::new(bounds)),
            links: Links::new(open, replies, trace.clone()),
            outbox: Outbox::new(client, limits.step_timeout()),
            meter,
            memory,
            trace,
            spent: watch::Sender::new(None),
            tally: Tally::default(),
            public_key_bytes,
            budget: shared.budget.clone(),
            running: Mutex::default(),
            ended: CancellationToken::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, SessionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// Serves the session until the client or the platform ends it, and its trace with it.
    pub(crate) async fn run(
        self: Arc<Self>,
        frames: Streaming<v1::ClientFrame>,
        recheck: Recheck,
        stop: CancellationToken,
        trace: Span,
    ) {
        let id = HEXLOWER.encode(&self.id);
        let span = tracing::info_span!("session", id, version = %self.grant.version);
        self.run_in_span(frames, recheck, stop, trace)
            .instrument(span)
            .await;
    }

    async fn run_in_span(
        self: Arc<Self>,
        frames: Streaming<v1::ClientFrame>,
        recheck: Recheck,
        stop: CancellationToken,
        mut trace: Span,
    ) {
        tracing::info!(subject = self.grant.subject, "session opened");
        let tasks = TaskTracker::new();
        let end = tokio::select! {
            end = self.serve(frames, recheck, &tasks, &stop) => end.unwrap_or_else(|end| end),
            () = self.outbox.closed() => End::Gone,
            () = self.ended.cancelled() => End::Gone,
            () = self.drained(&stop) => {
                let message = "the gateway stops; open a new session";
                End::Refused(status(ErrorId::WorkerUnavailable, message))
            }
            refusal = self.meter.keep() => End::Refused(refusal),
            refusal = self.exhausted() => End::Refused(refusal),
            () = tokio::time::sleep(self.limits.session_timeout()) => {
                let message = "the session has reached its time limit; open a new one";
                End::Refused(status(ErrorId::SessionLimit, message))
            }
        };
        self.ended.cancel();
        tasks.close();
        tasks.wait().await;
        self.meter.settle().await;
        let reason = match end {
            End::Done => {
                trace.succeed();
                "the client is done".to_owned()
            }
            End::Gone => {
                // where a query still ran, the trace counts as cancelled
                if self.state().running() == 0 {
                    trace.succeed();
                }
                "the client has gone".to_owned()
            }
            End::Refused(refusal) => {
                trace.fail(error_id(&refusal).unwrap_or(ErrorId::Internal));
                let reason = refusal.message().to_owned();
                self.outbox.farewell(refusal).await;
                reason
            }
        };
        self.summarise(&reason, &mut trace);
    }

    /// Waits until the gateway stops and the queries that run have ended, or their time is over.
    async fn drained(&self, stop: &CancellationToken) {
        stop.cancelled().await;
        self.running_ended(self.limits.drain()).await;
    }

    /// Waits until a limit is reached and the queries that run have ended, or their time is over.
    async fn exhausted(&self) -> Status {
        let mut spent = self.spent.subscribe();
        let refusal = spent.wait_for(Option::is_some).await;
        let refusal = refusal.ok().and_then(|refusal| refusal.clone());
        self.running_ended(self.limits.step_timeout()).await;
        // the sender lives as long as the session
        refusal.unwrap_or_else(|| status(ErrorId::QuotaExhausted, "a quota is used up"))
    }

    async fn running_ended(&self, limit: Duration) {
        let begun = Instant::now();
        let some = || self.state().running() > 0 || !lock(&self.running).is_empty();
        while some() && begun.elapsed() < limit {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    /// What the gateway saw.
    fn summarise(&self, reason: &str, trace: &mut Span) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (queries, unfinished) = {
            let state = self.state();
            (state.begun(), state.running())
        };
        trace.number("chemxor.queries", queries);
        trace.number("chemxor.steps", count(&self.tally.steps));
        trace.number("chemxor.failed", count(&self.tally.failed));
        tracing::info!(
            subject = self.grant.subject,
            queries,
            unfinished,
            failed = count(&self.tally.failed),
            steps = count(&self.tally.steps),
            ciphertext_bytes_up = count(&self.tally.bytes_up),
            ciphertext_bytes_down = self.outbox.bytes(),
            sealed_state_bytes = count(&self.tally.sealed_bytes),
            public_key_bytes = self.public_key_bytes,
            ms = self.age().as_millis() as u64,
            reason,
            "session closed"
        );
    }

    /// Reads and evaluates side by side, until one of them ends the session.
    async fn serve(
        self: &Arc<Self>,
        frames: Streaming<v1::ClientFrame>,
        recheck: Recheck,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<End, End> {
        let version = self.grant.version.to_string();
        self.outbox.opened(self.id, version).await?;
        let (jobs, admitted) = mpsc::unbounded_channel();
        let admit = Box::pin(self.admit(admitted, recheck, tasks));
        let read = Box::pin(self.read(frames, jobs, stop));
        // admission ends by itself only with a refusal, or when nothing is read any more
        let admit = async {
            match admit.await {
                Ok(()) => std::future::pending().await,
                Err(end) => end,
            }
        };
        tokio::select! {
            end = read => end,
            end = admit => Err(end),
        }
    }

    /// The client gives a query up: its evaluation is dropped and nothing of it is told. Says whether
    /// it was running.
    fn cancel(&self, query: u64) -> bool {
        let was_running = self.state().cancel(query);
        lock(&self.running).retain(|at, token| {
            if at.0 == query {
                token.cancel();
            }
            at.0 != query
        });
        tracing::debug!(query, was_running, "query cancelled");
        was_running
    }

    async fn report(&self, query: u64, id: ErrorId, message: String) -> Result<(), ClientGone> {
        self.tally.failed.fetch_add(1, Ordering::Relaxed);
        self.outbox.failed(query, id, message).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
