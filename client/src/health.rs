//! How a service is: whether it answers, which release it is, what time it has.

use std::time::{Duration, Instant, SystemTime};

use chemxor_runtime::serve::{PROTOCOL_HEADER, VERSION_HEADER};
use chemxor_runtime::tls::{self, TlsFiles};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::ClientError;
use crate::catalog::DEADLINE;

/// What a service says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether it takes calls.
    pub serving: bool,
    /// Its release; `None` for one that does not say.
    pub version: Option<String>,
    /// The session protocol that it speaks.
    pub protocol: Option<u32>,
    /// How far its clock is from ours, to the second; whether it is ahead.
    pub clock: Option<(Duration, bool)>,
    /// TLS handshake and the call.
    pub elapsed: Duration,
}

/// Asks the service at host:port; needs a certificate and no token.
pub async fn check(endpoint: &str, files: &TlsFiles) -> Result<Health, ClientError> {
    let started = Instant::now();
    let asked = async {
        let channel = tls::connect(endpoint, files).await?;
        let request = HealthCheckRequest::default();
        let answer = HealthClient::new(channel).check(request).await;
        answer.map_err(|status| ClientError::from_status(endpoint, &status))
    };
    let answer = tokio::time::timeout(DEADLINE, asked).await;
    let answer = answer.map_err(|_| ClientError::Deadline("the service"))??;
    let elapsed = started.elapsed();
    let header = |name: &str| answer.metadata().get(name)?.to_str().ok();
    let theirs = header("date").and_then(|text| httpdate::parse_http_date(text).ok());
    let clock = theirs.map(|theirs| match theirs.duration_since(SystemTime::now()) {
        Ok(ahead) => (ahead, true),
        Err(behind) => (behind.duration(), false),
    });
    Ok(Health {
        serving: answer.get_ref().status() == ServingStatus::Serving,
        version: header(VERSION_HEADER).map(str::to_owned),
        protocol: header(PROTOCOL_HEADER).and_then(|text| text.parse().ok()),
        clock,
        elapsed,
    })
}
