//! What goes to the client: replies in frames, failures of single queries.
//!
//! Invariant: only reply messages pass here; sealed state has no way in. A client that does not
//! read is waited for, for as long as a step may take, and then given up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chemxor_core::ErrorId;
use chemxor_proto::v1::server_frame::Kind;
use chemxor_proto::{MAX_FRAME_BYTES, v1};
use tokio::sync::mpsc;
use tonic::Status;

pub(crate) type Sender = mpsc::Sender<Result<v1::ServerFrame, Status>>;

/// The client has gone, or does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientGone;

/// Longest wait for a client to take the status that ends its session.
const FAREWELL: Duration = Duration::from_secs(5);

pub(crate) struct Outbox {
    sender: Sender,
    patience: Duration,
    bytes: AtomicU64,
}

impl Outbox {
    pub(crate) fn new(sender: Sender, patience: Duration) -> Self {
        Self {
            sender,
            patience,
            bytes: AtomicU64::new(0),
        }
    }

    /// Bytes of replies sent.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Waits until the client has gone.
    pub(crate) async fn closed(&self) {
        self.sender.closed().await;
    }

    pub(crate) async fn opened(&self, id: [u8; 16], version: String) -> Result<(), ClientGone> {
        let session_id = Bytes::copy_from_slice(&id);
        self.send(Kind::Opened(v1::SessionOpened {
            session_id,
            version,
        }))
        .await
    }

    /// Sends the reply of a step, in frames.
    pub(crate) async fn deliver(
        &self,
        query: u64,
        step: u32,
        message: &Bytes,
    ) -> Result<(), ClientGone> {
        for start in (0..message.len()).step_by(MAX_FRAME_BYTES) {
            let payload = message.slice(start..message.len().min(start + MAX_FRAME_BYTES));
            let sent = payload.len() as u64;
            let chunk = v1::StepChunk {
                query,
                step,
                total_bytes: message.len() as u32,
                payload,
                timeout_ms: 0,
            };
            self.send(Kind::Step(chunk)).await?;
            self.bytes.fetch_add(sent, Ordering::Relaxed);
            metrics::counter!("chemxor_gateway_bytes_total", "direction" => "down").increment(sent);
        }
        Ok(())
    }

    /// Tells that a query has failed.
    pub(crate) async fn failed(
        &self,
        query: u64,
        id: ErrorId,
        message: String,
    ) -> Result<(), ClientGone> {
        self.send(Kind::Failed(v1::QueryFailed {
            query,
            error_id: id.to_string(),
            message,
            retryable: id.is_retryable(),
        }))
        .await
    }

    async fn send(&self, kind: Kind) -> Result<(), ClientGone> {
        let frame = Ok(v1::ServerFrame { kind: Some(kind) });
        match tokio::time::timeout(self.patience, self.sender.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(ClientGone),
        }
    }

    /// Ends the session with a status.
    pub(crate) async fn farewell(&self, refusal: Status) {
        // a client that does not take it has gone
        let _ = tokio::time::timeout(FAREWELL, self.sender.send(Err(refusal))).await;
    }
}
