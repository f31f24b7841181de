//! What a session may ask: queries reserved at the registry in blocks, settled at its end.
//!
//! * A query begins only when it was reserved, so no limit is passed, whoever crashes.
//! * While a block lasts nobody is asked: the next one is reserved when half of it is used.
//! * What an unknown answer of the registry leaves open is counted as not reserved.
//! * Blocks grow while a session is busy; near the end of a limit the registry gives few.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chemxor_core::ErrorId;
use chemxor_proto::v1;
use chemxor_proto::v1::metering_client::MeteringClient;
use chemxor_runtime::status::error_id;
use tokio::sync::Notify;
use tonic::Status;
use tonic::transport::Channel;

use crate::authorise::{Grant, away, forward};
use crate::config::Limits;

/// Queries of the first block and of the longest one.
const BLOCKS: (u64, u64) = (16, 256);
/// After a registry that did not answer, the next call.
const PAUSE: Duration = Duration::from_millis(500);
/// Attempts to settle while the session's end waits, and after it: a day of them, for what a budget of a
/// lifetime has lost nobody gives back. There are never more than sessions were open when the registry
/// went away.
const SETTLE: (u32, u32) = (1, 24 * 120);

#[derive(Debug)]
struct Account {
    /// Queries that the reservation holds.
    reserved: u64,
    begun: u64,
    released: u64,
    bytes: u64,
    compute_us: u64,
    /// Size of the next block.
    block: u64,
    /// Of the limits under which the reservation was given.
    revision: i64,
    /// Bytes and microseconds at which a limit of the day is reached.
    most: (Option<u64>, Option<u64>),
    /// No more is asked for ahead: little is left.
    scarce: bool,
    /// When the registry did not answer.
    silent: Option<Instant>,
    renew_every: Duration,
}

impl Account {
    fn has_room(&self) -> bool {
        let below = |used: u64, most: Option<u64>| most.is_none_or(|most| used < most);
        self.begun < self.reserved
            && below(self.bytes, self.most.0)
            && below(self.compute_us, self.most.1)
    }
}

/// The reservation of one session.
pub(crate) struct Meter {
    registry: MeteringClient<Channel>,
    id: Bytes,
    version: String,
    token_id: String,
    timeout: Duration,
    account: Mutex<Account>,
    /// One resize at a time.
    gate: tokio::sync::Mutex<()>,
    low: Notify,
}

/// How a reservation shall change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Resize {
    /// What is reserved stays, and a block is added.
    Ahead,
    /// One more query must begin; what is reserved is counted anew.
    Need,
    /// What has not begun is counted anew.
    Recount,
    /// What is reserved stays.
    Renew,
}

impl Meter {
    /// Reserves the first block; fails when not one query is left.
    pub(crate) async fn open(
        registry: MeteringClient<Channel>,
        id: [u8; 16],
        grant: &Grant,
        limits: &Limits,
    ) -> Result<Self, Status> {
        let meter = Self {
            registry,
            id: Bytes::copy_from_slice(&id),
            version: grant.version.to_string(),
            token_id: grant.token_id.clone(),
            timeout: limits.registry_timeout(),
            account: Mutex::new(Account {
                reserved: 0,
                begun: 0,
                released: 0,
                bytes: 0,
                compute_us: 0,
                block: BLOCKS.0,
                revision: 0,
                most: (None, None),
                scarce: false,
                silent: None,
                renew_every: Duration::from_secs(60),
            }),
            gate: tokio::sync::Mutex::default(),
            low: Notify::new(),
        };
        meter.resize(Resize::Need).await?;
        Ok(meter)
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a query that begins; waits for the registry only when the block is used up.
    pub(crate) async fn take(&self) -> Result<(), Status> {
        loop {
            {
                let mut account = self.account();
                if account.has_room() {
                    account.begun += 1;
                    let left = account.reserved - account.begun;
                    if left < account.block / 2 && !account.scarce {
                        self.low.notify_one();
                    }
                    return Ok(());
                }
                if account.silent.is_some_and(|since| since.elapsed() < PAUSE) {
                    return Err(away());
                }
            }
            self.resize(Resize::Need).await?;
        }
    }

    /// A query released its output.
    pub(crate) fn release(&self) {
        self.account().released += 1;
    }

    /// A message went by.
    pub(crate) fn add_bytes(&self, bytes: usize) {
        self.account().bytes += bytes as u64;
    }

    /// A worker computed.
    pub(crate) fn add_compute(&self, us: u32) {
        self.account().compute_us += u64::from(us);
    }

    /// The registry said which limits hold; where they changed, what is reserved is counted anew.
    pub(crate) async fn heed(&self, revision: i64) -> Result<(), Status> {
        if self.account().revision == revision {
            return Ok(());
        }
        match self.resize(Resize::Recount).await {
            Err(refusal) if is_passing(&refusal) => Ok(()),
            outcome => outcome,
        }
    }

    /// Reserves ahead and renews, until the registry ends the session.
    pub(crate) async fn keep(&self) -> Status {
        loop {
            let renew_every = self.account().renew_every;
            let resize = tokio::select! {
                () = self.low.notified() => Resize::Ahead,
                () = tokio::time::sleep(renew_every) => Resize::Renew,
            };
            let Err(refusal) = self.resize(resize).await else {
                continue;
            };
            let scarce = resize == Resize::Ahead && is_spent(&refusal);
            if scarce {
                self.account().scarce = true;
            } else if !is_passing(&refusal) {
                return refusal;
            }
        }
    }

    async fn resize(&self, resize: Resize) -> Result<(), Status> {
        let _one = self.gate.lock().await;
        let (request, certain) = {
            let account = self.account();
            if resize == Resize::Need && account.has_room() {
                // what was reserved ahead has come
                return Ok(());
            }
            let (begun, reserved) = (account.begun, account.reserved);
            let at_least = match resize {
                Resize::Need => begun + 1,
                Resize::Recount => begun,
                Resize::Ahead | Resize::Renew => reserved,
            };
            let queries = match resize {
                Resize::Renew => reserved,
                _ => at_least.max(begun + account.block),
            };
            let request = v1::ReserveQueriesRequest {
                reservation_id: self.id.clone(),
                version: self.version.clone(),
                token_id: self.token_id.clone(),
                // no reservation is empty
                queries: queries.max(1),
                at_least: Some(at_least),
                begun,
                bytes: account.bytes,
                compute_ms: account.compute_us / 1000,
            };
            (request, at_least.min(reserved))
        };
        let (bytes, compute_ms) = (request.bytes, request.compute_ms);
        let mut registry = self.registry.clone();
        let call = registry.reserve_queries(request);
        let answer = tokio::time::timeout(self.timeout, call).await;
        let mut account = self.account();
        match answer {
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                account.reserved = answer.queries.max(account.begun);
                account.revision = answer.quota_revision;
                account.most = (
                    answer.bytes_left.map(|left| bytes + left),
                    answer
                        .compute_ms_left
                        .map(|left| (compute_ms + left).saturating_mul(1000)),
                );
                account.renew_every = Duration::from_secs((answer.expires_in_s / 3).max(1).into());
                account.scarce = account.reserved - account.begun < account.block / 2;
                account.silent = None;
                if resize != Resize::Renew {
                    account.block = (account.block * 2).min(BLOCKS.1);
                }
                Ok(())
            }
            Ok(Err(refusal)) if error_id(&refusal).is_some_and(|id| id != ErrorId::Internal) => {
                // nothing was changed
                let refusal = forward(&refusal);
                if !is_spent(&refusal) && is_passing(&refusal) {
                    account.silent = Some(Instant::now());
                }
                Err(refusal)
            }
            _ => {
                // it may or may not have been changed
                account.reserved = certain.max(account.begun);
                account.silent = Some(Instant::now());
                Err(away())
            }
        }
    }

    /// Tells the registry what was used. One that does not answer is asked again in the background;
    /// what it never hears of stays counted in full.
    pub(crate) async fn settle(&self) {
        let request = {
            let account = self.account();
            v1::SettleQueriesRequest {
                reservation_id: self.id.clone(),
                answered: account.released.min(account.begun),
                bytes: account.bytes,
                compute_ms: account.compute_us / 1000,
            }
        };
        let (registry, timeout) = (self.registry.clone(), self.timeout);
        if !settled(&registry, &request, timeout, SETTLE.0).await {
            tokio::spawn(async move {
                if !settled(&registry, &request, timeout, SETTLE.1).await {
                    tracing::warn!("a session was not settled; its queries stay counted in full");
                }
            });
        }
    }
}

async fn settled(
    registry: &MeteringClient<Channel>,
    request: &v1::SettleQueriesRequest,
    timeout: Duration,
    attempts: u32,
) -> bool {
    for attempt in 0..attempts {
        if attempt > 0 {
            tokio::time::sleep(PAUSE * (1 << attempt.min(6))).await;
        }
        let mut registry = registry.clone();
        let call = registry.settle_queries(request.clone());
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(_)) => return true,
            Ok(Err(refusal)) if error_id(&refusal) == Some(ErrorId::ArgumentInvalid) => {
                tracing::error!(reason = refusal.message(), "settling was refused");
                return true;
            }
            _ => {}
        }
    }
    false
}

/// Whether a limit is reached.
pub(crate) fn is_spent(refusal: &Status) -> bool {
    let id = error_id(refusal);
    matches!(id, Some(ErrorId::QuotaExhausted | ErrorId::BudgetExhausted))
}

/// Whether the registry could not be asked, which says nothing about the session.
pub(crate) fn is_passing(refusal: &Status) -> bool {
    let id = error_id(refusal);
    matches!(
        id,
        Some(ErrorId::StorageUnavailable | ErrorId::Internal) | None
    )
}
