//! Error ids on gRPC statuses: one place maps an id to its code.

use std::time::Duration;

use chemxor_core::ErrorId;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use zeroize::Zeroizing;

const KEY: &str = "chemxor-error-id";

/// Metadata key of the seconds after which a refused call may be made again.
pub const RETRY_AFTER: &str = "retry-after";

/// After how long a refused call may be made again, where the service says so.
pub fn retry_after(status: &Status) -> Option<Duration> {
    let seconds = status.metadata().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}

/// The one gRPC code of an error.
pub fn code(id: ErrorId) -> Code {
    use ErrorId as E;
    match id {
        E::TokenMissing | E::TokenRefused => Code::Unauthenticated,
        E::RoleMissing
        | E::CertificateRefused
        | E::CertificateDenied
        | E::OrganisationSuspended
        | E::SelfApproval => Code::PermissionDenied,
        E::ModelUnknown
        | E::WorkerUnknown
        | E::OrganisationUnknown
        | E::CardMissing
        | E::CertificateRequestUnknown => Code::NotFound,
        E::NotApproved
        | E::VersionRevoked
        | E::VersionSunset
        | E::WrongState
        | E::BlobMissing
        | E::NotConformant
        | E::ProtocolVersion => Code::FailedPrecondition,
        E::BlobCorrupt | E::AuditBroken => Code::DataLoss,
        E::WorkerUnavailable | E::StorageUnavailable => Code::Unavailable,
        E::SessionLimit | E::QuotaExhausted | E::BudgetExhausted => Code::ResourceExhausted,
        E::Internal => Code::Internal,
        E::StateRefused => Code::Aborted,
        _ => Code::InvalidArgument,
    }
}

/// A status with its id in the metadata.
pub fn status(id: ErrorId, message: impl Into<String>) -> Status {
    let mut metadata = MetadataMap::new();
    if let Ok(value) = id.as_str().parse() {
        metadata.insert(KEY, value);
    }
    Status::with_metadata(code(id), message, metadata)
}

/// The id of a status that one of our services made.
pub fn error_id(status: &Status) -> Option<ErrorId> {
    status.metadata().get(KEY)?.to_str().ok()?.parse().ok()
}

/// The bearer token of a request. Wiped when dropped; never log it.
pub fn bearer_token(metadata: &MetadataMap) -> Result<Zeroizing<String>, Status> {
    let missing = || status(ErrorId::TokenMissing, "the call carries no bearer token");
    let header = metadata.get("authorization").ok_or_else(missing)?;
    let text = header.to_str().map_err(|_| missing())?;
    let token = text.strip_prefix("Bearer ").ok_or_else(missing)?;
    if token.is_empty() || token.len() > 512 {
        return Err(missing());
    }
    Ok(Zeroizing::new(token.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_the_wire_form() {
        for id in ErrorId::ALL {
            let made = status(*id, "x");
            assert_eq!(error_id(&made), Some(*id));
            assert_ne!(made.code(), Code::Ok);
        }
        assert_eq!(error_id(&Status::internal("foreign")), None);
    }

    #[test]
    fn only_bearer_tokens_count() {
        let with = |value: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("authorization", value.parse().unwrap());
            bearer_token(&metadata).map(|token| token.to_string())
        };
        assert_eq!(with("Bearer abc").unwrap(), "abc");
        for bad in [
            "Basic abc",
            "Bearer ",
            "abc",
            &format!("Bearer {}", "x".repeat(600)),
        ] {
            assert_eq!(
                error_id(&with(bad).unwrap_err()),
                Some(ErrorId::TokenMissing)
            );
        }
    }
}
