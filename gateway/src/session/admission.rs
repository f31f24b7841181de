//! Which steps go to a worker: one after the other, in the order in which they came, each checked
//! with the registry where that is due and counted against the quota. Frames are read meanwhile.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chemxor_core::ErrorId;
use chemxor_runtime::status::error_id;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::reading::Held;
use super::state::{Evaluation, Settled};
use super::{End, Session, lock};
use crate::authorise::Recheck;
use crate::meter::{is_passing, is_spent};

/// A step that shall be evaluated.
pub(super) struct Job {
    pub(super) evaluation: Evaluation,
    pub(super) message: Bytes,
    /// Time that the client gives it.
    pub(super) asked: Option<Duration>,
    pub(super) cancelled: CancellationToken,
    pub(super) held: Held,
}

impl Session {
    /// Has steps evaluated beside each other, until the registry ends the session.
    pub(super) async fn admit(
        self: &Arc<Self>,
        mut jobs: mpsc::UnboundedReceiver<Job>,
        mut recheck: Recheck,
        tasks: &TaskTracker,
    ) -> Result<(), End> {
        while let Some(job) = jobs.recv().await {
            let at = (job.evaluation.query(), job.evaluation.step());
            if let Some(revision) = recheck.check().await? {
                self.meter.heed(revision).await?;
            }
            if job.cancelled.is_cancelled() {
                continue;
            }
            if at.1 == 0 && !self.may_begin(at.0).await? {
                lock(&self.running).remove(&at);
                // told, or left for the end of the session
                let _: Settled = self.state().fail(job.evaluation);
                continue;
            }
            self.meter.add_bytes(job.message.len());
            self.evaluate_beside(job, tasks);
        }
        Ok(())
    }

    fn evaluate_beside(self: &Arc<Self>, job: Job, tasks: &TaskTracker) {
        let at = (job.evaluation.query(), job.evaluation.step());
        let session = self.clone();
        let work = async move {
            let step = session.step(job.evaluation, &job.message, job.asked);
            tokio::select! {
                told = step => {
                    if told.is_err() {
                        session.ended.cancel();
                    }
                }
                () = job.cancelled.cancelled() => {}
                () = session.ended.cancelled() => {}
            }
            lock(&session.running).remove(&at);
            drop(job.held);
        };
        tasks.spawn(work.in_current_span());
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
}
