//! Everything that can go wrong for a user of the SDK, with what to do next.

use std::path::PathBuf;
use std::time::Duration;

use chemxor_core::ErrorId;

/// Why something did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A service refused or failed; its own message says why.
    #[error("{message} [{id}; next: {next}]", next = .id.next_step())]
    Service {
        /// Stable id.
        id: ErrorId,
        /// What the service said.
        message: String,
        /// Whether the same may be asked again.
        retryable: bool,
    },
    /// The connection broke.
    #[error(
        "the connection to {endpoint} failed: {reason}; check that the service runs and that the certificates are its own; `chemxor doctor` looks at certificates and clocks"
    )]
    Connection {
        /// host:port.
        endpoint: String,
        /// What the transport said.
        reason: String,
    },
    /// No answer in time.
    #[error("{0} did not answer in time; try again, or look at the service's log")]
    Deadline(&'static str),
    /// The molecule.
    #[error(transparent)]
    Molecule(#[from] chemxor_chem::ChemError),
    /// The protocol, on our side.
    #[error(transparent)]
    Query(#[from] chemxor_fhe::client::QueryError),
    /// The key.
    #[error(transparent)]
    Key(#[from] chemxor_fhe::client::KeyError),
    /// Sealing for the workers.
    #[error(transparent)]
    Sealing(#[from] chemxor_fhe::sealing::SealingError),
    /// A plan that cannot be.
    #[error(transparent)]
    Wire(#[from] chemxor_fhe::wire::WireError),
    /// The bundle's weights.
    #[error(transparent)]
    Weights(#[from] chemxor_fhe::network::WeightsError),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] chemxor_core::ManifestError),
    /// The model's parameters.
    #[error(transparent)]
    Weak(#[from] chemxor_fhe::ring::WeakParameters),
    /// A name.
    #[error(transparent)]
    Id(#[from] chemxor_core::IdError),
    /// Shared pieces: certificates.
    #[error(transparent)]
    Runtime(#[from] chemxor_runtime::RuntimeError),
    /// A file.
    #[error("{path}: {reason}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// A token that cannot be a header.
    #[error("the token holds characters that a token never has; copy it again")]
    Token,
    /// A worker thread ended without a result.
    #[error("a computation ended without a result; please report this")]
    Computation,
    /// The publisher cannot place the model.
    #[error("{0}")]
    Placement(String),
}

/// Longer than this nobody waits for a service by asking again.
const SOON: Duration = Duration::from_secs(5);

/// The message of a refusal, with the time to come back, and whether to ask again at once.
pub(crate) fn told(id: ErrorId, status: &tonic::Status) -> (String, bool) {
    let message = status.message();
    match chemxor_runtime::status::retry_after(status) {
        Some(wait) if wait > SOON => {
            let minutes = wait.as_secs().div_ceil(60);
            let (hours, minutes) = (minutes / 60, minutes % 60);
            let text = format!("{message}; come back in {hours} h {minutes} min");
            (text, false)
        }
        _ => {
            let name = status.metadata().get(REQUEST_ID);
            let name = name.and_then(|name| name.to_str().ok());
            (traceable(id, message, name), id.is_retryable())
        }
    }
}

/// Header with the name by which a service's log knows a request or session.
pub(crate) const REQUEST_ID: &str = "x-request-id";

const NAMED: &str = "; request id ";

/// The message of an error that is to be reported, with the name by which it is found in the log.
pub(crate) fn traceable(id: ErrorId, message: &str, request: Option<&str>) -> String {
    match request {
        Some(request) if id == ErrorId::Internal && !message.contains(NAMED) => {
            format!("{message}{NAMED}{request}")
        }
        _ => message.to_owned(),
    }
}

impl ClientError {
    /// Whether the same molecule may be asked again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Service { retryable, .. } => *retryable,
            Self::Connection { .. } | Self::Deadline(_) => true,
            // a gateway that is started again comes back
            Self::Runtime(chemxor_runtime::RuntimeError::Unreachable { .. }) => true,
            _ => false,
        }
    }

    /// Whether the platform, or a part of it, does not answer, or counts a session that broke off among
    /// those that are allowed: it may come back without anybody's doing.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Service { id, retryable, .. } => match id {
                ErrorId::StorageUnavailable | ErrorId::WorkerUnavailable => true,
                // of the day, it says when to come back and is not asked again before
                ErrorId::SessionLimit | ErrorId::QuotaExhausted => *retryable,
                _ => false,
            },
            Self::Connection { .. } | Self::Deadline(_) | Self::Runtime(_) => self.is_retryable(),
            _ => false,
        }
    }

    pub(crate) fn from_status(endpoint: &str, status: &tonic::Status) -> Self {
        match chemxor_runtime::status::error_id(status) {
            Some(id) => {
                let (message, retryable) = told(id, status);
                Self::Service {
                    id,
                    message,
                    retryable,
                }
            }
            None => {
                let mut reason = format!("{:?}: {}", status.code(), status.message());
                // what TLS said is at the end of the chain
                let mut source = std::error::Error::source(status);
                while let Some(cause) = source {
                    reason = format!("{reason}: {cause}");
                    source = cause.source();
                }
                reason.push_str(chemxor_runtime::tls::clock_advice(&reason));
                Self::Connection {
                    endpoint: endpoint.to_owned(),
                    reason,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_says_when_to_come_back_and_is_not_asked_again_before() {
        let refused = |seconds: u64| {
            let mut status =
                chemxor_runtime::status::status(ErrorId::QuotaExhausted, "the quota is 5 a day");
            status.metadata_mut().insert("retry-after", seconds.into());
            ClientError::from_status("localhost:1", &status)
        };
        let tomorrow = refused(5 * 3600 + 61);
        assert!(!tomorrow.is_retryable());
        let text = tomorrow.to_string();
        assert!(
            text.contains("the quota is 5 a day; come back in 5 h 2 min"),
            "{text}"
        );
        assert!(refused(1).is_retryable());
    }

    #[test]
    fn what_is_to_be_reported_names_the_request_once() {
        let failed = |id: ErrorId| {
            let mut status = chemxor_runtime::status::status(id, "report this");
            let name = "019ac6f0".parse().unwrap();
            status.metadata_mut().insert(REQUEST_ID, name);
            told(id, &status).0
        };
        let message = failed(ErrorId::Internal);
        assert_eq!(message, "report this; request id 019ac6f0");
        // a session's own name comes after that of its status
        assert_eq!(traceable(ErrorId::Internal, &message, Some("77")), message);
        assert_eq!(failed(ErrorId::ModelUnknown), "report this");
    }
}
