//! A double of the registry's `Control` and `Metering` services.

use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use chemxor_core::{ErrorId, VersionId};
use chemxor_proto::v1;
use chemxor_proto::v1::control_server::Control;
use chemxor_proto::v1::metering_server::Metering;
use chemxor_runtime::status::{RETRY_AFTER, status};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// The token that may query.
pub(crate) const TOKEN: &str = "token-canary-5f1d";

/// What the registry answers when asked again.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mood {
    Allows,
    Refuses(ErrorId),
    Fails,
    NeverAnswers,
}

/// What one reservation holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Entry {
    pub(crate) reserved: u64,
    pub(crate) begun: u64,
    pub(crate) bytes: u64,
    pub(crate) compute_ms: u64,
    /// Queries that were answered, once it is settled.
    pub(crate) settled: Option<u64>,
}

/// The reservations, and one limit over all of them.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) limit: Option<u64>,
    pub(crate) bytes_left: Option<u64>,
    pub(crate) revision: i64,
    pub(crate) entries: HashMap<Vec<u8>, Entry>,
    /// Calls that reserved.
    pub(crate) calls: u64,
}

impl Ledger {
    fn used(&self) -> u64 {
        let of = |entry: &Entry| entry.settled.unwrap_or(entry.reserved);
        self.entries.values().map(of).sum()
    }

    /// Another limit, in force at once.
    pub(crate) fn set(&mut self, limit: u64) {
        self.limit = Some(limit);
        self.revision += 1;
    }
}

/// A refusal as the registry makes it.
fn spent(message: &str) -> Status {
    let mut refusal = status(ErrorId::QuotaExhausted, message);
    refusal.metadata_mut().insert(RETRY_AFTER, 3600.into());
    refusal
}

/// What it knows; shared with the test.
pub(crate) struct Known {
    pub(crate) manifest: Vec<u8>,
    pub(crate) placements: Mutex<Vec<v1::Placement>>,
    pub(crate) workers: Mutex<Vec<v1::Worker>>,
    /// Versions that views list beside the one that is served.
    pub(crate) others: Mutex<Vec<v1::VersionPlacements>>,
    pub(crate) mood: watch::Sender<Mood>,
    /// Whether views leave the version out.
    pub(crate) unlisted: AtomicBool,
    /// Whose sessions are counted together.
    pub(crate) organisation: Mutex<String>,
    pub(crate) checks: AtomicUsize,
    /// Checks that were answered.
    pub(crate) answered: watch::Sender<usize>,
    /// Whether checks fail as if the registry were away.
    pub(crate) fails_checks: AtomicBool,
    pub(crate) ledger: Mutex<Ledger>,
    /// Told when placements or workers change; nobody hears of it before.
    pub(crate) changed: watch::Sender<u64>,
    /// Told when a right has changed.
    pub(crate) rights: watch::Sender<u64>,
}

impl Known {
    pub(crate) fn version(&self) -> String {
        VersionId::of(&self.manifest).to_string()
    }

    /// What the watch says: nothing until something has changed.
    fn view(&self) -> v1::PlacementView {
        let version = v1::VersionPlacements {
            version: self.version(),
            placements: self.placements.lock().unwrap().clone(),
        };
        let mut versions = self.others.lock().unwrap().clone();
        if !self.unlisted.load(Ordering::SeqCst) {
            versions.push(version);
        }
        v1::PlacementView {
            versions,
            workers: self.workers.lock().unwrap().clone(),
            rights_only: false,
        }
    }

    /// Tells those who watch that a right has changed.
    pub(crate) fn tell_rights(&self) {
        self.rights.send_modify(|count| *count += 1);
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Tells those who watch what holds now.
    pub(crate) fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    async fn answer(&self) -> Result<(), Status> {
        let mood = *self.mood.borrow();
        match mood {
            Mood::Fails => Err(Status::unavailable("connection refused")),
            Mood::NeverAnswers => pending().await,
            Mood::Allows | Mood::Refuses(_) => Ok(()),
        }
    }
}

async fn fails(mood: &mut watch::Receiver<Mood>) {
    // an error says that the test is over
    let _ = mood.wait_for(|mood| matches!(mood, Mood::Fails)).await;
}

#[derive(Clone)]
pub(crate) struct RegistryDouble(pub(crate) Arc<Known>);

#[tonic::async_trait]
impl Control for RegistryDouble {
    type FetchBlobStream = ReceiverStream<Result<v1::FetchBlobResponse, Status>>;
    type WatchPlacementsStream = ReceiverStream<Result<v1::PlacementView, Status>>;

    async fn watch_placements(
        &self,
        _: Request<v1::WatchPlacementsRequest>,
    ) -> Result<Response<Self::WatchPlacementsStream>, Status> {
        self.0.answer().await?;
        let (sender, receiver) = mpsc::channel(1);
        let known = self.0.clone();
        tokio::spawn(async move {
            let (mut changed, mut mood) = (known.changed.subscribe(), known.mood.subscribe());
            if *changed.borrow() > 0 {
                changed.mark_changed();
            }
            let mut rights = known.rights.subscribe();
            loop {
                tokio::select! {
                    told = changed.changed() => if told.is_err() { return },
                    told = rights.changed() => {
                        let word = v1::PlacementView { rights_only: true, ..Default::default() };
                        // an error says that the gateway or the test has gone
                        if told.is_err() || sender.send(Ok(word)).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    () = fails(&mut mood) => {
                        let broken = Status::unavailable("connection reset");
                        // an error says that the gateway has gone
                        let _ = sender.send(Err(broken)).await;
                        return;
                    }
                }
                // an error says that the gateway has gone
                let _ = sender.send(Ok(known.view())).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn register_worker(
        &self,
        _: Request<v1::RegisterWorkerRequest>,
    ) -> Result<Response<v1::RegisterWorkerResponse>, Status> {
        Err(Status::unimplemented("not in this double"))
    }

    async fn list_assignments(
        &self,
        _: Request<v1::ListAssignmentsRequest>,
    ) -> Result<Response<v1::ListAssignmentsResponse>, Status> {
        Err(Status::unimplemented("not in this double"))
    }

    async fn fetch_blob(
        &self,
        _: Request<v1::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        Err(Status::unimplemented("not in this double"))
    }

    async fn authorize_session(
        &self,
        request: Request<v1::AuthorizeSessionRequest>,
    ) -> Result<Response<v1::AuthorizeSessionResponse>, Status> {
        self.0.answer().await?;
        let request = request.into_inner();
        if request.token != TOKEN {
            return Err(status(ErrorId::TokenRefused, "unknown token"));
        }
        if !request.model.starts_with("demo") {
            return Err(status(ErrorId::ModelUnknown, "no such model"));
        }
        Ok(Response::new(v1::AuthorizeSessionResponse {
            version: self.0.version(),
            manifest: self.0.manifest.clone().into(),
            placements: self.0.placements.lock().unwrap().clone(),
            workers: self.0.workers.lock().unwrap().clone(),
            token_id: "t-1".into(),
            subject: "alice@lab".into(),
            organisation: self.0.organisation.lock().unwrap().clone(),
        }))
    }

    async fn check_session(
        &self,
        request: Request<v1::CheckSessionRequest>,
    ) -> Result<Response<v1::CheckSessionResponse>, Status> {
        self.0.checks.fetch_add(1, Ordering::SeqCst);
        self.0.answer().await?;
        if self.0.fails_checks.load(Ordering::SeqCst) {
            return Err(Status::unavailable("connection refused"));
        }
        self.0.answered.send_modify(|count| *count += 1);
        assert_eq!(request.get_ref().token_id, "t-1");
        assert_eq!(
            request.get_ref().certificate_subject,
            "chemxor://client/lab"
        );
        assert!(!request.get_ref().certificate_serial.is_empty());
        let mood = *self.0.mood.borrow();
        let (error_id, reason) = match mood {
            Mood::Refuses(id) => (id.to_string(), "withdrawn by the test".to_owned()),
            _ => Default::default(),
        };
        Ok(Response::new(v1::CheckSessionResponse {
            allowed: error_id.is_empty(),
            error_id,
            reason,
            quota_revision: self.0.ledger.lock().unwrap().revision,
        }))
    }
}

#[tonic::async_trait]
impl Metering for RegistryDouble {
    async fn reserve_queries(
        &self,
        request: Request<v1::ReserveQueriesRequest>,
    ) -> Result<Response<v1::ReserveQueriesResponse>, Status> {
        self.0.answer().await?;
        let request = request.into_inner();
        let mut ledger = self.0.ledger.lock().unwrap();
        ledger.calls += 1;
        let at_least = request.at_least.unwrap();
        assert!(request.begun <= at_least && at_least <= request.queries);
        let held = ledger.entries.get(&request.reservation_id[..]).cloned();
        let held = held.unwrap_or_default();
        assert!(request.begun >= held.begun && request.begun <= held.reserved);
        assert_eq!(held.settled, None);
        let others = ledger.used() - held.reserved;
        let room = ledger.limit.map_or(u64::MAX, |limit| {
            limit.saturating_sub(others + request.begun)
        });
        let needed = at_least - request.begun;
        if room < needed {
            return Err(spent("the quota of lab is used up"));
        }
        let wanted = request.queries - request.begun;
        let reserved = request.begun + needed.max(wanted.min(room / 4));
        let entry = Entry {
            reserved,
            begun: request.begun,
            bytes: request.bytes,
            compute_ms: request.compute_ms,
            settled: None,
        };
        let bytes_left = ledger
            .bytes_left
            .map(|left| left.saturating_sub(request.bytes));
        if bytes_left == Some(0) && needed > 0 {
            return Err(spent("the bytes of lab are used up"));
        }
        ledger
            .entries
            .insert(request.reservation_id.to_vec(), entry);
        Ok(Response::new(v1::ReserveQueriesResponse {
            queries: reserved,
            bytes_left,
            quota_revision: ledger.revision,
            expires_in_s: 180,
            ..Default::default()
        }))
    }

    async fn settle_queries(
        &self,
        request: Request<v1::SettleQueriesRequest>,
    ) -> Result<Response<v1::SettleQueriesResponse>, Status> {
        self.0.answer().await?;
        let request = request.into_inner();
        let mut ledger = self.0.ledger.lock().unwrap();
        let entry = ledger.entries.get_mut(&request.reservation_id[..]).unwrap();
        entry.settled = Some(request.answered);
        entry.bytes = request.bytes;
        entry.compute_ms = request.compute_ms;
        Ok(Response::new(v1::SettleQueriesResponse {}))
    }
}
