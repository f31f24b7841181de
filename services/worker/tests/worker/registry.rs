//! A double of the registry's `Control` service: what a worker asks of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;
use chemxor_core::BlobDigest;
use chemxor_proto::v1;
use chemxor_proto::v1::control_server::Control;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::model::Model;

/// What it knows; shared with the test.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) assignments: Mutex<Vec<v1::Assignment>>,
    /// Certificates of gateways that are denied.
    pub(crate) denied_gateways: Mutex<Vec<v1::DeniedCertificate>>,
    /// Blobs by digest.
    pub(crate) blobs: Mutex<HashMap<Bytes, Bytes>>,
    /// Versions whose blobs are not handed out for the time being.
    pub(crate) held: watch::Sender<HashSet<String>>,
    /// Lists that were asked for.
    pub(crate) lists: watch::Sender<u64>,
    /// Blobs that were asked for, by version.
    pub(crate) fetches: watch::Sender<HashMap<String, u64>>,
    /// Whether registrations are left without an answer.
    pub(crate) silent: Mutex<bool>,
    /// Registrations that came.
    pub(crate) registrations: watch::Sender<u64>,
}

impl Known {
    /// Assigns a model to the worker with this sealing key, which hears of it when it asks next.
    pub(crate) fn assign(&self, model: &Model, worker: &[u8]) {
        for blob in &model.blobs {
            let digest = BlobDigest::of(blob).as_bytes().to_vec();
            let mut blobs = self.blobs.lock().unwrap();
            blobs.insert(digest.into(), blob.clone());
        }
        let assignment = model.assignment(worker);
        self.assignments.lock().unwrap().push(assignment);
    }

    /// Takes a model back; the worker hears of it when it asks next.
    pub(crate) fn withdraw(&self, model: &Model) {
        let version = model.version.to_string();
        let mut assignments = self.assignments.lock().unwrap();
        assignments.retain(|assignment| assignment.version != version);
    }

    pub(crate) fn hold(&self, version: &str) {
        self.held.send_modify(|held| {
            held.insert(version.into());
        });
    }

    pub(crate) fn release(&self, version: &str) {
        self.held.send_modify(|held| {
            held.remove(version);
        });
    }

    pub(crate) fn fetches(&self, version: &str) -> u64 {
        self.fetches.borrow().get(version).copied().unwrap_or(0)
    }
}

#[derive(Clone)]
pub(crate) struct RegistryDouble(pub(crate) Arc<Known>);

#[tonic::async_trait]
impl Control for RegistryDouble {
    type FetchBlobStream = ReceiverStream<Result<v1::FetchBlobResponse, Status>>;
    type WatchPlacementsStream = ReceiverStream<Result<v1::PlacementView, Status>>;

    async fn register_worker(
        &self,
        _: Request<v1::RegisterWorkerRequest>,
    ) -> Result<Response<v1::RegisterWorkerResponse>, Status> {
        self.0.registrations.send_modify(|count| *count += 1);
        if *self.0.silent.lock().unwrap() {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(v1::RegisterWorkerResponse { heartbeat_s: 1 }))
    }

    async fn list_assignments(
        &self,
        _: Request<v1::ListAssignmentsRequest>,
    ) -> Result<Response<v1::ListAssignmentsResponse>, Status> {
        // counted together with the look
        let answer = {
            let assignments = self.0.assignments.lock().unwrap();
            let denied = self.0.denied_gateways.lock().unwrap();
            self.0.lists.send_modify(|lists| *lists += 1);
            v1::ListAssignmentsResponse {
                assignments: assignments.clone(),
                denied_gateways: denied.clone(),
            }
        };
        Ok(Response::new(answer))
    }

    async fn fetch_blob(
        &self,
        request: Request<v1::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        let request = request.into_inner();
        let count = |all: &mut HashMap<String, u64>| {
            *all.entry(request.version.clone()).or_default() += 1;
        };
        self.0.fetches.send_modify(count);
        let mut held = self.0.held.subscribe();
        let released = held.wait_for(|held| !held.contains(&request.version));
        released.await.unwrap();
        let blob = self.0.blobs.lock().unwrap().get(&request.sha256).cloned();
        let blob = blob.ok_or_else(|| Status::not_found("no such blob"))?;
        let chunks: Vec<Bytes> = blob.chunks(1 << 18).map(Bytes::copy_from_slice).collect();
        let (sender, receiver) = tokio::sync::mpsc::channel(chunks.len().max(1));
        for chunk in chunks {
            sender
                .try_send(Ok(v1::FetchBlobResponse { chunk }))
                .unwrap();
        }
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn watch_placements(
        &self,
        _: Request<v1::WatchPlacementsRequest>,
    ) -> Result<Response<Self::WatchPlacementsStream>, Status> {
        Err(Status::unimplemented("not in this double"))
    }

    async fn authorize_session(
        &self,
        _: Request<v1::AuthorizeSessionRequest>,
    ) -> Result<Response<v1::AuthorizeSessionResponse>, Status> {
        Err(Status::unimplemented("not in this double"))
    }

    async fn check_session(
        &self,
        _: Request<v1::CheckSessionRequest>,
    ) -> Result<Response<v1::CheckSessionResponse>, Status> {
        Err(Status::unimplemented("not in this double"))
    }
}
