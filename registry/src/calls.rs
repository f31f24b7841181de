//! What each call leaves behind: its count, its time, and for a refusal one line in the log with the
//! error id, the call, and who called. Every refusal carries an id, also those that the transport
//! makes before a message is read.
//!
//! Invariant: neither a token nor a message's content is in a line; what a caller wrote reaches it
//! only inside the refusal's own message, shortened.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use chemxor_core::ErrorId;
use chemxor_runtime::peer::{Peer, PeerCertificate, peer_certificate};
use chemxor_runtime::status::{error_id, status};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::{Code, Request, Status};

use crate::store::Caller;

/// Header with the caller's name for its request; a request without one gets one, and a refusal names it.
const REQUEST_ID: &str = "x-request-id";
/// Longest request id.
const MAX_REQUEST_ID: usize = 64;
/// Longest path and reason in the log, in characters.
const MAX_TEXT: usize = 300;

/// A call under way; it travels in the request's extensions.
#[derive(Debug, Default)]
pub(crate) struct Call {
    rpc: String,
    request_id: String,
    peer: Option<Arc<PeerCertificate>>,
    /// Organisation and subject of the token, once it is known.
    caller: OnceLock<(String, String)>,
    /// Certificate of the client for whom a gateway asks.
    client: OnceLock<String>,
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// A request id that may stand in a log.
fn request_id(headers: &http::HeaderMap) -> Option<String> {
    let text = headers.get(REQUEST_ID)?.to_str().ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = !text.is_empty() && text.len() <= MAX_REQUEST_ID && text.chars().all(plain);
    fits.then(|| text.to_owned())
}

impl Call {
    fn begin<B>(request: &http::Request<B>) -> Self {
        let mut shown = Request::new(());
        if let Some(peer) = request.extensions().get::<Peer>() {
            shown.extensions_mut().insert(peer.clone());
        }
        let path = request.uri().path().trim_start_matches('/');
        Self {
            rpc: shorten(path.strip_prefix("chemxor.v1.").unwrap_or(path)),
            request_id: request_id(request.headers())
                .unwrap_or_else(|| uuid::Uuid::now_v7().simple().to_string()),
            peer: peer_certificate(&shown).ok(),
            ..Self::default()
        }
    }

    /// The call of a request.
    pub(crate) fn of<T>(request: &Request<T>) -> Arc<Self> {
        let call = request.extensions().get::<Arc<Self>>();
        call.cloned().unwrap_or_default()
    }

    /// Says whose token it is.
    pub(crate) fn is_by(&self, caller: &Caller) {
        let whose = (caller.organisation.clone(), caller.subject.clone());
        // a call has one token
        let _ = self.caller.set(whose);
    }

    /// Says for which client's certificate a gateway asks.
    pub(crate) fn is_for(&self, subject: &str) {
        let _ = self.client.set(shorten(subject));
    }

    /// Counts and logs a refusal.
    pub(crate) fn refused(&self, refusal: &Status) {
        let id = error_id(refusal).unwrap_or(ErrorId::Internal);
        metrics::counter!("chemxor_registry_refusals_total", "id" => id.as_str()).increment(1);
        let reason = shorten(refusal.message());
        let whose = self.caller.get();
        let (organisation, subject) = whose.map(|(o, s)| (o.as_str(), s.as_str())).unzip();
        let certificate = self.peer.as_ref().map(|peer| peer.subject.to_string());
        let serial = self.peer.as_ref().map(|peer| peer.serial.as_str());
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    id = id.as_str(),
                    rpc = self.rpc,
                    certificate,
                    serial,
                    organisation,
                    subject,
                    client = self.client.get(),
                    request_id = self.request_id,
                    reason,
                    "call refused"
                )
            };
        }
        match id {
            ErrorId::CertificateRefused | ErrorId::CertificateDenied | ErrorId::SelfApproval => {
                line!(warn);
            }
            _ => line!(info),
        }
    }

    /// Counts the end of a call, and gives a refusal of the transport its id.
    fn end(&self, begun: Instant, outcome: Option<Status>) -> Option<Status> {
        let refusal = outcome.filter(|status| status.code() != Code::Ok);
        let code = refusal.as_ref().map_or(Code::Ok, Status::code);
        let rpc = match code {
            // whoever calls what is not there must not make series without end
            Code::Unimplemented => "unknown".to_owned(),
            _ => self.rpc.clone(),
        };
        let seconds = begun.elapsed().as_secs_f64();
        metrics::histogram!("chemxor_registry_request_seconds", "rpc" => rpc.clone())
            .record(seconds);
        let outcome = if refusal.is_none() { "ok" } else { "refused" };
        metrics::counter!("chemxor_registry_requests_total", "rpc" => rpc, "outcome" => outcome)
            .increment(1);
        let refusal = refusal?;
        let named = with_id(&refusal);
        self.refused(named.as_ref().unwrap_or(&refusal));
        named
    }
}

/// The refusal that the transport should have made, when this one has no id.
fn with_id(refusal: &Status) -> Option<Status> {
    if error_id(refusal).is_some() {
        return None;
    }
    Some(match refusal.code() {
        Code::OutOfRange => {
            let message = "the message is longer than this call takes";
            status(ErrorId::FrameTooLarge, message)
        }
        // the code stays: programs ask by it what a release can do
        Code::Unimplemented => {
            let named = status(ErrorId::ArgumentInvalid, "");
            let message = "this release has no such call; use the same release on both sides";
            Status::with_metadata(Code::Unimplemented, message, named.metadata().clone())
        }
        _ => {
            let message = "the message cannot be read as one of this call";
            status(ErrorId::FrameMalformed, message)
        }
    })
}

/// Routes whose every answer is counted, and every refusal logged.
#[derive(Debug, Clone)]
pub(crate) struct Observed<S>(pub(crate) S);

impl<S, B> Service<http::Request<B>> for Observed<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Self::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let call = Arc::new(Call::begin(&request));
        request.extensions_mut().insert(call.clone());
        let begun = Instant::now();
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            let outcome = Status::from_header_map(answer.headers());
            let is_refusal = outcome
                .as_ref()
                .is_some_and(|status| status.code() != Code::Ok);
            let mut answer = match call.end(begun, outcome) {
                Some(named) => named.into_http(),
                None => answer,
            };
            // what the caller reports is found in the log
            if is_refusal && let Ok(name) = call.request_id.parse() {
                answer.headers_mut().insert(REQUEST_ID, name);
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_transport_gets_an_id_and_one_of_ours_stays() {
        for (code, id) in [
            (Code::OutOfRange, ErrorId::FrameTooLarge),
            (Code::Internal, ErrorId::FrameMalformed),
            (Code::Unimplemented, ErrorId::ArgumentInvalid),
        ] {
            let named = with_id(&Status::new(code, "theirs")).unwrap();
            assert_eq!(error_id(&named), Some(id));
            assert_ne!(named.message(), "theirs");
        }
        let kept = with_id(&Status::unimplemented("")).unwrap();
        assert_eq!(kept.code(), Code::Unimplemented);
        assert!(with_id(&status(ErrorId::Internal, "ours")).is_none());
    }

    #[test]
    fn only_a_short_plain_request_id_reaches_the_log() {
        let of = |value: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert(REQUEST_ID, value.parse().unwrap());
            request_id(&headers)
        };
        assert_eq!(of("batch-7.a_b").as_deref(), Some("batch-7.a_b"));
        for bad in ["", "two words", "a\"b", &"x".repeat(65)] {
            assert_eq!(of(bad), None, "{bad:?}");
        }
    }
}
