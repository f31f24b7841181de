//! One client session: reads frames, puts messages together, has each step evaluated by a worker
//! that serves it, and sends the reply back.
//!
//! Invariants: what a session holds is bounded ([`Limits`]); where a bound is reached the session
//! stops reading, and so its client; when it ends, everything it started has ended.

mod numbers;
mod outbox;
mod state;
mod steps;

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chemxor_core::ErrorId;
use chemxor_proto::v1;
use chemxor_proto::v1::client_frame::Kind;
use chemxor_runtime::status::{error_id, status};
use chemxor_runtime::traces::{Parent, Span};
use data_encoding::HEXLOWER;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status, Streaming};
use tower::retry::budget::TpsBudget;
use tracing::Instrument;

use crate::authorise::{Grant, Recheck};
use crate::config::Limits;
use crate::inbox::{At, Inbox};
use crate::link::ReplyBounds;
use crate::meter::{Meter, is_passing, is_spent};
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
            partial_bytes: limits.partial_bytes,
            complete: Arc::new(Semaphore::new(limits.message_bytes)),
        };
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

    async fn serve(
        self: &Arc<Self>,
        mut frames: Streaming<v1::ClientFrame>,
        mut recheck: Recheck,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<End, End> {
        let version = self.grant.version.to_string();
        self.outbox.opened(self.id, version).await?;
        let limits = &self.limits;
        let permits = Arc::new(Semaphore::new(limits.steps_in_flight));
        let memory = Arc::new(Semaphore::new(limits.message_bytes));
        let mut inbox = Inbox::new(limits.partial_messages, limits.partial_bytes);
        let mut timeouts: HashMap<At, Duration> = HashMap::new();
        while let Some(frame) = self.next(&mut frames).await? {
            let chunk = match frame {
                Kind::Step(chunk) => chunk,
                Kind::Cancel(v1::CancelQuery { query }) => {
                    inbox.forget_query(query);
                    timeouts.retain(|at, _| at.0 != query);
                    self.cancel(query);
                    continue;
                }
                Kind::Open(_) => {
                    let message = "only steps may follow the first frame";
                    return Err(status(ErrorId::FrameMalformed, message).into());
                }
            };
            let at = (chunk.query, chunk.step);
            if chunk.timeout_ms > 0 && !inbox.has_begun(at) {
                // as bounded as the messages that it belongs to
                timeouts.insert(at, Duration::from_millis(chunk.timeout_ms.into()));
            }
            let pushed = inbox.push(at, chunk.total_bytes, chunk.payload);
            let pushed = pushed.map_err(|error| status(error.error_id(), error.to_string()))?;
            let Some(message) = pushed else { continue };
            let limit = self.limits.step_timeout();
            let limit = timeouts.remove(&at).map_or(limit, |asked| limit.min(asked));
            let length = message.len();
            self.tally
                .bytes_up
                .fetch_add(length as u64, Ordering::Relaxed);
            // waiting here stops reading, and so the client
            let held = (
                hold(&memory, length as u32).await?,
                hold(&permits, 1).await?,
            );
            metrics::counter!("chemxor_gateway_bytes_total", "direction" => "up")
                .increment(length as u64);
            if at.1 == 0 && stop.is_cancelled() {
                let reason = "the gateway stops; ask again in a new session".to_owned();
                let id = ErrorId::WorkerUnavailable;
                self.report(at.0, id, reason).await?;
                continue;
            }
            if at.1 == 0 && self.state().begun() >= self.limits.queries_per_session {
                let message = "the session has asked as many queries as it may; open a new one";
                return Err(status(ErrorId::SessionLimit, message).into());
            }
            if let Some(revision) = recheck.check().await? {
                self.meter.heed(revision).await?;
            }
            if at.1 == 0 && !self.may_begin(at.0).await? {
                continue;
            }
            self.meter.add_bytes(length);
            self.begin(at, message, limit, held, tasks).await?;
        }
        // the client sends no more; what it asked for is still answered
        let _all = hold(&permits, limits.steps_in_flight as u32).await?;
        let spent = self.spent.borrow().clone();
        Ok(spent.map_or(End::Done, End::Refused))
    }

    /// Counts a query that begins. When a limit is reached the client hears it at the end of the
    /// session, which comes when the queries that run have ended.
    async fn may_begin(&self, query: u64) -> Result<bool, End> {
        if self.spent.borrow().is_some() {
            return Ok(false);
        }
        match self.meter.take().await {
            Ok(()) => Ok(true),
            Err(refusal) if is_spent(&refusal) => {
                tracing::info!(query, reason = refusal.message(), "a limit is reached");
                self.spent.send_replace(Some(refusal));
                Ok(false)
            }
            Err(refusal) if is_passing(&refusal) => {
                let id = error_id(&refusal).unwrap_or(ErrorId::StorageUnavailable);
                let message = format!("the query cannot be counted now: {}", refusal.message());
                self.report(query, id, message).await?;
                Ok(false)
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// The client gives a query up: its evaluation is dropped and nothing of it is told.
    fn cancel(&self, query: u64) {
        let was_running = self.state().cancel(query);
        lock(&self.running).retain(|at, token| {
            if at.0 == query {
                token.cancel();
            }
            at.0 != query
        });
        tracing::debug!(query, was_running, "query cancelled");
    }

    /// The next frame; none when the client has closed its side.
    async fn next(&self, frames: &mut Streaming<v1::ClientFrame>) -> Result<Option<Kind>, End> {
        let frame = tokio::time::timeout(self.limits.idle_timeout(), frames.message())
            .await
            .map_err(|_| {
                let message = "the session was idle for too long; open a new one";
                status(ErrorId::SessionLimit, message)
            })?
            .map_err(|error| unreadable(&error))?;
        match frame {
            None => Ok(None),
            Some(v1::ClientFrame { kind: Some(kind) }) => Ok(Some(kind)),
            Some(v1::ClientFrame { kind: None }) => {
                let message = "a frame of a kind that this gateway does not know";
                Err(status(ErrorId::FrameMalformed, message).into())
            }
        }
    }

    /// Has a step evaluated beside the others, or refuses it.
    async fn begin(
        self: &Arc<Self>,
        (query, step): At,
        message: Bytes,
        limit: Duration,
        held: (OwnedSemaphorePermit, OwnedSemaphorePermit),
        tasks: &TaskTracker,
    ) -> Result<(), ClientGone> {
        let begun = self.state().begin(query, step, self.age());
        let evaluation = match begun {
            Ok(evaluation) => evaluation,
            Err(refusal) => {
                tracing::info!(query, step, reason = %refusal, "step refused");
                let (id, message) = (refusal.error_id(), refusal.to_string());
                return self.report(query, id, message).await;
            }
        };
        let session = self.clone();
        let cancelled = CancellationToken::new();
        lock(&self.running).insert((query, step), cancelled.clone());
        let work = async move {
            tokio::select! {
                told = session.step(evaluation, &message, limit) => {
                    if told.is_err() {
                        session.ended.cancel();
                    }
                }
                () = cancelled.cancelled() => {}
                () = session.ended.cancelled() => {}
            }
            lock(&session.running).remove(&(query, step));
            drop(held);
        };
        tasks.spawn(work.in_current_span());
        Ok(())
    }

    async fn report(&self, query: u64, id: ErrorId, message: String) -> Result<(), ClientGone> {
        self.tally.failed.fetch_add(1, Ordering::Relaxed);
        self.outbox.failed(query, id, message).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn hold(semaphore: &Arc<Semaphore>, count: u32) -> Result<OwnedSemaphorePermit, End> {
    let held = semaphore.clone().acquire_many_owned(count).await;
    // nobody closes these semaphores
    held.map_err(|_| End::Gone)
}

/// A frame that cannot be read is the client's fault, or the client has gone.
fn unreadable(error: &Status) -> End {
    match error.code() {
        Code::OutOfRange => {
            let message = "a frame carries at most 1 MiB; use the release of this gateway";
            status(ErrorId::FrameTooLarge, message).into()
        }
        // the decoder's own errors have no cause below them, those of a broken connection do
        Code::Internal if error.source().is_none() => {
            status(ErrorId::FrameMalformed, "a frame cannot be read").into()
        }
        _ => End::Gone,
    }
}
