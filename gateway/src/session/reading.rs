//! What the client sends: frames, put together to messages, and which of them are begun.
//!
//! * Memory of a step, message and reply, is reserved at the first frame of its message. Where there
//!   is none the session stops reading; a wait that is too long ends the query, not the session.
//! * Only what concerns a query that runs or begins keeps a session from being idle.
//! * Nothing here waits for the registry, so a cancellation is read whatever the registry does.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chemxor_core::{ErrorId, ReplyShape};
use chemxor_proto::v1::client_frame::Kind;
use chemxor_proto::{MAX_STEP_BYTES, v1};
use chemxor_runtime::status::status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::admission::Job;
use super::{End, Session, lock};
use crate::inbox::{At, Inbox};
use crate::memory::Reserved;

/// What a step holds while it is under way.
pub(super) struct Held {
    pub(super) _memory: Option<Reserved>,
    /// Of the session: bytes of its message and of its reply, and the step itself.
    pub(super) _session: [OwnedSemaphorePermit; 3],
}

/// A message that has begun.
struct Arrival {
    /// Time that the client gives the step.
    asked: Option<Duration>,
    memory: Option<Reserved>,
    /// When its last frame came.
    last: Instant,
    /// When it must be complete, unless more of it comes: who sends a byte now and then would hold its
    /// memory for ever.
    until: Instant,
    /// When it must be complete however well it comes: meanwhile it keeps its memory from others.
    end: Instant,
}

/// Bytes a second with which each message must come, beside the time that any may take.
const SLOWEST: f64 = 4096.0;

/// The client's side of a session.
pub(super) struct Reading {
    inbox: Inbox,
    arrivals: HashMap<At, Arrival>,
    /// Bytes still to come of messages that found no memory.
    discarded: HashMap<At, usize>,
    /// Since when nothing came that concerns a query.
    idle: Instant,
    /// When the last frame came; what it took since then is not the client's fault.
    came: Instant,
}

impl Reading {
    fn new(session: &Session) -> Self {
        let (limits, now) = (&session.limits, Instant::now());
        Self {
            inbox: Inbox::new(limits.partial_messages, limits.partial_bytes),
            arrivals: HashMap::new(),
            discarded: HashMap::new(),
            idle: now,
            came: now,
        }
    }

    /// The next frame; none when the client has closed its side.
    async fn next(
        &mut self,
        session: &Session,
        frames: &mut Streaming<v1::ClientFrame>,
    ) -> Result<Option<Kind>, End> {
        let busy = self.came.elapsed();
        self.idle += busy;
        for arrival in self.arrivals.values_mut() {
            arrival.last += busy;
            arrival.until += busy;
            arrival.end += busy;
        }
        let idle = self.idle + session.limits.idle_timeout();
        let pause = session.limits.step_timeout();
        let due = |arrival: &Arrival| arrival.until.min(arrival.last + pause).min(arrival.end);
        let late = self.arrivals.values().map(due).min();
        let until = late.map_or(idle, |late| late.min(idle));
        let frame = tokio::time::timeout_at(until.into(), frames.message())
            .await
            .map_err(|_| {
                let message = if until == idle {
                    "the session was idle for too long; open a new one"
                } else {
                    "a message was begun and did not go on, or too slowly; open a new session"
                };
                status(ErrorId::SessionLimit, message)
            })?
            .map_err(|error| unreadable(&error))?;
        self.came = Instant::now();
        match frame {
            None => Ok(None),
            Some(v1::ClientFrame { kind: Some(kind) }) => Ok(Some(kind)),
            Some(v1::ClientFrame { kind: None }) => {
                let message = "a frame of a kind that this gateway does not know";
                Err(status(ErrorId::FrameMalformed, message).into())
            }
        }
    }

    /// Whether the frame belongs to a message that found no memory.
    fn discards(&mut self, at: At, bytes: usize) -> bool {
        let Some(left) = self.discarded.get_mut(&at) else {
            return false;
        };
        *left = left.saturating_sub(bytes);
        if *left == 0 || bytes == 0 {
            self.discarded.remove(&at);
        }
        true
    }

    /// Takes a chunk; gives the message when it is complete, and what belongs to it.
    async fn take(
        &mut self,
        session: &Session,
        chunk: v1::StepChunk,
    ) -> Result<Option<(Bytes, Arrival)>, End> {
        let (at, bytes) = ((chunk.query, chunk.step), chunk.payload.len());
        let total = chunk.total_bytes as usize;
        if self.discards(at, bytes) {
            return Ok(None);
        }
        if session.state().awaits(at.0, at.1) {
            self.idle = self.came;
        }
        let begins = !self.inbox.has_begun(at);
        // a message that is too long is refused below
        let memory = if begins && total <= MAX_STEP_BYTES {
            let memory = session.memory_for(at, total, self.arrivals.is_empty());
            let Some(memory) = memory.await else {
                self.discard(session, at, total.saturating_sub(bytes))
                    .await?;
                return Ok(None);
            };
            Some(memory)
        } else {
            None
        };
        let pushed = self.inbox.push(at, chunk.total_bytes, chunk.payload);
        let message = pushed.map_err(|error| status(error.error_id(), error.to_string()))?;
        let asked = u64::from(chunk.timeout_ms);
        let mut arrival = self.arrivals.remove(&at).unwrap_or_else(|| Arrival {
            asked: (asked > 0).then(|| Duration::from_millis(asked)),
            memory,
            last: self.came,
            until: self.came + session.limits.step_timeout(),
            end: self.came + session.limits.idle_timeout(),
        });
        arrival.until += Duration::from_secs_f64(bytes as f64 / SLOWEST);
        let Some(message) = message else {
            arrival.last = self.came;
            self.arrivals.insert(at, arrival);
            return Ok(None);
        };
        Ok(Some((message, arrival)))
    }

    /// A message finds no memory: its query fails, and what still comes of it is not kept.
    async fn discard(&mut self, session: &Session, at: At, left: usize) -> Result<(), End> {
        if left > 0 {
            if self.discarded.len() >= session.limits.partial_messages {
                let message = "too many messages found no memory; open a new session";
                return Err(status(ErrorId::SessionLimit, message).into());
            }
            self.discarded.insert(at, left);
        }
        session.cancel(at.0);
        let message = "the gateway is short of memory; ask again in a moment".to_owned();
        session.report(at.0, ErrorId::SessionLimit, message).await?;
        Ok(())
    }

    /// The client gives a query up; says whether anything of it had come.
    fn forget(&mut self, query: u64) -> bool {
        let before = self.arrivals.len();
        self.inbox.forget_query(query);
        self.arrivals.retain(|at, _| at.0 != query);
        self.discarded.retain(|at, _| at.0 != query);
        self.arrivals.len() < before
    }
}

impl Session {
    /// Memory for a message and the reply to it. Whoever has nothing begun may wait as long as a
    /// step may take; what has begun must not be kept waiting as long, for others may wait for it.
    async fn memory_for(&self, at: At, message: usize, may_wait: bool) -> Option<Reserved> {
        let patience = self.limits.step_timeout();
        let patience = if may_wait { patience } else { patience / 4 };
        let reserved = self.memory.reserve(message + self.reply_memory(at.1));
        tokio::time::timeout(patience, reserved).await.ok()?
    }

    /// Bytes that the reply of a step takes; while shares are joined, parts and whole are held.
    fn reply_memory(&self, step: u32) -> usize {
        let reply = self.grant.replies.get(step as usize);
        let reply = reply.map_or(0, ReplyShape::bytes);
        match self.grant.route().step(step).len() {
            0 | 1 => reply,
            _ => 2 * reply,
        }
    }

    /// Reads until the client has closed its side and got what it asked for.
    pub(super) async fn read(
        self: &Arc<Self>,
        mut frames: Streaming<v1::ClientFrame>,
        jobs: mpsc::UnboundedSender<Job>,
        stop: &CancellationToken,
    ) -> Result<End, End> {
        let limits = &self.limits;
        let permits = Arc::new(Semaphore::new(limits.steps_in_flight));
        let up = Arc::new(Semaphore::new(limits.message_bytes));
        let down = Arc::new(Semaphore::new(limits.message_bytes));
        let mut reading = Reading::new(self);
        while let Some(frame) = reading.next(self, &mut frames).await? {
            let chunk = match frame {
                Kind::Step(chunk) => chunk,
                Kind::Cancel(v1::CancelQuery { query }) => {
                    let had_come = reading.forget(query);
                    if self.cancel(query) || had_come {
                        reading.idle = reading.came;
                    }
                    continue;
                }
                Kind::Open(_) => {
                    let message = "only steps may follow the first frame";
                    return Err(status(ErrorId::FrameMalformed, message).into());
                }
            };
            let at = (chunk.query, chunk.step);
            let Some((message, arrival)) = reading.take(self, chunk).await? else {
                continue;
            };
            let length = message.len();
            self.tally
                .bytes_up
                .fetch_add(length as u64, Ordering::Relaxed);
            // waiting here stops reading, and so the client
            let reply = self.reply_memory(at.1).min(limits.message_bytes);
            let session = [
                hold(&up, length).await?,
                hold(&down, reply).await?,
                hold(&permits, 1).await?,
            ];
            metrics::counter!("chemxor_gateway_bytes_total", "direction" => "up")
                .increment(length as u64);
            if at.1 == 0 && stop.is_cancelled() {
                let reason = "the gateway stops; ask again in a new session".to_owned();
                let id = ErrorId::WorkerUnavailable;
                self.report(at.0, id, reason).await?;
                continue;
            }
            if at.1 == 0 && self.state().begun() >= limits.queries_per_session {
                let message = "the session has asked as many queries as it may; open a new one";
                return Err(status(ErrorId::SessionLimit, message).into());
            }
            let begun = self.state().begin(at.0, at.1, self.age());
            let evaluation = match begun {
                Ok(evaluation) => evaluation,
                Err(refusal) => {
                    let (query, step) = at;
                    tracing::info!(query, step, reason = %refusal, "step refused");
                    self.meter.add_bytes(length);
                    let (id, message) = (refusal.error_id(), refusal.to_string());
                    self.report(query, id, message).await?;
                    continue;
                }
            };
            let cancelled = CancellationToken::new();
            lock(&self.running).insert(at, cancelled.clone());
            let job = Job {
                evaluation,
                message,
                asked: arrival.asked,
                cancelled,
                held: Held {
                    _memory: arrival.memory,
                    _session: session,
                },
            };
            // as bounded as the permits; whoever takes them lives as long
            let _ = jobs.send(job);
        }
        drop(jobs);
        // the client sends no more; what it asked for is still answered
        let _all = hold(&permits, limits.steps_in_flight).await?;
        let spent = self.spent.borrow().clone();
        Ok(spent.map_or(End::Done, End::Refused))
    }
}

async fn hold(semaphore: &Arc<Semaphore>, count: usize) -> Result<OwnedSemaphorePermit, End> {
    let held = semaphore.clone().acquire_many_owned(count as u32).await;
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
