//! Release and protocol on the answers of health checks.

use http::HeaderValue;
use tonic::codegen::{BoxFuture, Context, Poll, Service};
use tonic::server::NamedService;

/// Header of health checks with the release that answers.
pub const VERSION_HEADER: &str = "chemxor-version";
/// Header of health checks with the session protocol that it speaks.
pub const PROTOCOL_HEADER: &str = "chemxor-protocol";

/// A service whose answers name release and protocol, so that a client can say which side is older.
#[derive(Debug, Clone)]
pub(crate) struct Versioned<S>(pub(crate) S);

impl<S: NamedService> NamedService for Versioned<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, R, B> Service<R> for Versioned<S>
where
    S: Service<R, Response = http::Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = http::Response<B>;
    type Error = S::Error;
    type Future = BoxFuture<Self::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            let version = HeaderValue::from_static(env!("CARGO_PKG_VERSION"));
            let protocol = HeaderValue::from(chemxor_proto::PROTOCOL_VERSION);
            answer.headers_mut().insert(VERSION_HEADER, version);
            answer.headers_mut().insert(PROTOCOL_HEADER, protocol);
            Ok(answer)
        })
    }
}
