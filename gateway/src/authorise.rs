//! What the registry says of a session: at its beginning, and again while it runs.

use std::sync::Arc;
use std::time::Instant;

use chemxor_core::{ErrorId, Manifest, ReplyShape, VersionId};
use chemxor_proto::v1;
use chemxor_proto::v1::control_client::ControlClient;
use chemxor_runtime::peer::PeerCertificate;
use chemxor_runtime::status::{RETRY_AFTER, error_id, status};
use chemxor_runtime::traces::{Parent, Side};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::config::Limits;
use crate::routes::{News, Route, Routes};

/// A session that the registry allows.
pub(crate) struct Grant {
    /// Name of the model.
    pub(crate) model: String,
    pub(crate) version: VersionId,
    pub(crate) token_id: String,
    pub(crate) subject: String,
    /// What the client presented; checked again while the session runs.
    pub(crate) certificate: Arc<PeerCertificate>,
    /// Whose sessions are counted together.
    pub(crate) organisation: String,
    /// Permits that each step takes of a worker.
    pub(crate) permits: Vec<u32>,
    /// [`News::rights`] before the registry was asked.
    rights: u64,
    /// What the reply of each step must look like.
    pub(crate) replies: Vec<ReplyShape>,
    routes: Arc<Routes>,
    /// Who served it when the session began.
    route: Arc<Route>,
}

impl Grant {
    /// Steps of the model.
    pub(crate) fn steps(&self) -> u32 {
        self.permits.len() as u32
    }

    /// Who serves the version now.
    pub(crate) fn route(&self) -> Arc<Route> {
        let watched = self.routes.watched(&self.version);
        watched.unwrap_or_else(|| self.route.clone())
    }
}

/// Asks whether the holder of `token` may query `model`, and who serves it.
pub(crate) async fn authorise(
    mut registry: ControlClient<Channel>,
    routes: &Arc<Routes>,
    limits: &Limits,
    token: &str,
    peer: &Arc<PeerCertificate>,
    model: String,
    trace: &Parent,
) -> Result<Grant, Status> {
    let rights = routes.rights();
    let request = v1::AuthorizeSessionRequest {
        token: token.to_owned(),
        model,
        certificate_subject: peer.subject.to_string(),
        certificate_serial: peer.serial.clone(),
    };
    let mut span = trace.child("authorize", Side::Client);
    let mut request = Request::new(request);
    span.parent().inject(request.metadata_mut());
    let call = registry.authorize_session(request);
    let answer = tokio::time::timeout(limits.registry_timeout(), call)
        .await
        .map_err(|_| away())
        .and_then(|answer| answer.map_err(|refusal| forward(&refusal)));
    span.settle(&answer);
    span.end();
    let grant = answer?.into_inner();
    let (manifest, version) = Manifest::from_bytes(&grant.manifest)
        .map_err(|_| internal("the registry gave a malformed manifest"))?;
    if grant.version != version.to_string() {
        return Err(internal("the registry gave a manifest with another digest"));
    }
    let permits: Vec<u32> = manifest.graph.steps().iter().map(|s| s.permits()).collect();
    let known = routes.learn(&grant.workers);
    let route = Route::new(permits.len() as u32, &grant.placements, &known);
    Ok(Grant {
        model: manifest.name.to_string(),
        version,
        route: Arc::new(route),
        routes: routes.clone(),
        rights,
        replies: ReplyShape::all(&manifest.graph),
        permits,
        organisation: grant.organisation,
        certificate: peer.clone(),
        token_id: grant.token_id,
        subject: grant.subject,
    })
}

fn internal(message: &str) -> Status {
    status(ErrorId::Internal, message)
}

pub(crate) fn away() -> Status {
    status(ErrorId::StorageUnavailable, "the registry does not answer")
}

/// A refusal of the registry keeps its id, and when to come back; anything else is the registry being
/// away.
pub(crate) fn forward(refusal: &Status) -> Status {
    match error_id(refusal) {
        Some(ErrorId::CertificateRefused) => {
            tracing::error!(
                reason = refusal.message(),
                "the registry refuses this gateway"
            );
            internal("the registry refuses this gateway; tell the operator")
        }
        Some(id) => {
            let mut status = status(id, refusal.message());
            if let Some(seconds) = refusal.metadata().get(RETRY_AFTER) {
                status.metadata_mut().insert(RETRY_AFTER, seconds.clone());
            }
            status
        }
        None => away(),
    }
}

/// Asks again whether version and token of a session may still be used.
pub(crate) struct Recheck {
    registry: ControlClient<Channel>,
    request: v1::CheckSessionRequest,
    version: VersionId,
    routes: Arc<Routes>,
    limits: Limits,
    trace: Parent,
    asked: Instant,
    confirmed: Instant,
    /// What was known before the question to which it last said yes.
    confirmed_under: News,
    /// Whether the registry did not answer when it was last asked.
    is_away: bool,
    pending: Option<Pending>,
}

/// A question that is under way.
struct Pending {
    since: Instant,
    /// What was known at its beginning.
    news: News,
    answer: AbortOnDropHandle<Result<v1::CheckSessionResponse, Status>>,
}

impl Recheck {
    /// For a session that has just been authorised.
    pub(crate) fn new(
        registry: ControlClient<Channel>,
        grant: &Grant,
        limits: Limits,
        trace: Parent,
    ) -> Self {
        let request = v1::CheckSessionRequest {
            version: grant.version.to_string(),
            token_id: grant.token_id.clone(),
            certificate_subject: grant.certificate.subject.to_string(),
            certificate_serial: grant.certificate.serial.clone(),
        };
        let now = Instant::now();
        Self {
            registry,
            request,
            version: grant.version,
            routes: grant.routes.clone(),
            limits,
            trace,
            asked: now,
            confirmed: now,
            confirmed_under: News {
                unlisted: None,
                rights: grant.rights,
            },
            is_away: false,
            pending: None,
        }
    }

    /// Fails when the session must end; gives the revision of its limits when it was asked for. Asks
    /// at most once in `recheck_ms`, and at once when a right has changed or a view does not list the
    /// version any more.
    /// While the registry is away its last word holds for `registry_grace_ms`, and nobody waits for
    /// the next one, unless something has changed since the last one.
    pub(crate) async fn check(&mut self) -> Result<Option<i64>, Status> {
        let mut heard = None;
        if let Some(pending) = self.pending.take_if(|asked| asked.answer.is_finished()) {
            // nobody has waited for it, so it may be old; it counts from when it was asked
            heard = self.hear(pending).await?;
        }
        let news = self.routes.news(&self.version);
        let is_in_doubt = self.is_in_doubt(news);
        // what was asked before a change says nothing of it
        let _ = self.pending.take_if(|asked| asked.news != news);
        let pending = match self.pending.take() {
            Some(pending) => pending,
            None if !is_in_doubt && self.asked.elapsed() < self.limits.recheck() => {
                return Ok(heard);
            }
            None => self.ask(news),
        };
        let holds = self.confirmed.elapsed() <= self.limits.registry_grace();
        if self.is_away && holds && !is_in_doubt {
            self.pending = Some(pending);
            return Ok(heard);
        }
        self.hear(pending).await
    }

    /// Whether something has changed that may concern the session since the registry last said yes.
    fn is_in_doubt(&self, news: News) -> bool {
        let before = self.confirmed_under;
        let is_unlisted = news.unlisted.is_some() && news.unlisted != before.unlisted;
        is_unlisted || news.rights != before.rights
    }

    /// Waits for the answer.
    async fn hear(&mut self, pending: Pending) -> Result<Option<i64>, Status> {
        let answer = pending.answer.await;
        self.asked = pending.since;
        let refusal = match answer.map_err(|_| away()).flatten() {
            Ok(answer) => {
                self.is_away = false;
                self.confirmed = pending.since;
                self.confirmed_under = pending.news;
                return verdict(&answer);
            }
            Err(refusal) => refusal,
        };
        let last_word =
            error_id(&refusal).is_some_and(|id| !id.is_retryable() && id != ErrorId::Internal);
        if last_word || self.confirmed.elapsed() > self.limits.registry_grace() {
            return Err(refusal);
        }
        self.is_away = true;
        tracing::warn!(
            reason = refusal.message(),
            "the session is not checked again"
        );
        Ok(None)
    }

    fn ask(&self, news: News) -> Pending {
        let mut span = self.trace.child("check", Side::Client);
        let mut request = Request::new(self.request.clone());
        span.parent().inject(request.metadata_mut());
        let (mut registry, timeout) = (self.registry.clone(), self.limits.registry_timeout());
        let asking = async move {
            let call = registry.check_session(request);
            let answer = tokio::time::timeout(timeout, call).await;
            let answer = answer
                .map_err(|_| away())
                .and_then(|answer| answer.map_err(|refusal| forward(&refusal)))
                .map(tonic::Response::into_inner);
            match &answer {
                Ok(answer) => span.settle(&verdict(answer)),
                Err(refusal) => span.settle::<()>(&Err(refusal.clone())),
            }
            answer
        };
        Pending {
            since: Instant::now(),
            news,
            answer: AbortOnDropHandle::new(tokio::spawn(asking)),
        }
    }
}

fn verdict(answer: &v1::CheckSessionResponse) -> Result<Option<i64>, Status> {
    if answer.allowed {
        return Ok(Some(answer.quota_revision));
    }
    let id = answer.error_id.parse().unwrap_or(ErrorId::RoleMissing);
    Err(status(id, answer.reason.as_str()))
}
