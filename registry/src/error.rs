//! Errors of the registry and the one place that turns them into gRPC statuses.

use std::path::PathBuf;
use std::time::Duration;

use chemxor_core::{ErrorId, LifecycleError};
use chemxor_runtime::status::{RETRY_AFTER, status};
use tonic::Status;

/// Why a call or the start failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A refusal with a stable id; the message is for the caller.
    #[error("{1} [{0}]")]
    Refused(ErrorId, String),
    /// A quota is used up; the caller may come back after the time given.
    #[error("{0}")]
    Quota(String, Duration),
    /// The registry's signing key.
    #[error("signing key {0}: {1}; restore the file or choose another `signing_key`")]
    SigningKey(PathBuf, String),
    /// The database.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema.
    #[error("database schema: {0}; use the release of the registry that made it, or a newer one")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// What the database holds cannot be read.
    #[error("the database holds a malformed {0}")]
    Corrupt(&'static str),
    /// The lifecycle.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// The address.
    #[error("cannot listen: {0}; choose another `listen` address")]
    Listen(std::io::Error),
    /// Certificates.
    #[error(transparent)]
    Runtime(#[from] chemxor_runtime::RuntimeError),
    /// The transport.
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    /// A task ended badly.
    #[error("a task of the registry ended: {0}")]
    Task(String),
}

impl RegistryError {
    /// A refusal.
    pub fn refused(id: ErrorId, message: impl Into<String>) -> Self {
        Self::Refused(id, message.into())
    }

    /// The id that a caller sees.
    pub fn id(&self) -> ErrorId {
        match self {
            Self::Refused(id, _) => *id,
            Self::Lifecycle(_) => ErrorId::WrongState,
            Self::Quota(..) => ErrorId::QuotaExhausted,
            Self::Database(error) if is_unstorable(error) => ErrorId::ArgumentInvalid,
            Self::Database(_) => ErrorId::StorageUnavailable,
            _ => ErrorId::Internal,
        }
    }
}

/// Whether the request's own text is what PostgreSQL refuses: a zero character (SQLSTATE 22021).
fn is_unstorable(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "22021")
}

impl From<RegistryError> for Status {
    fn from(error: RegistryError) -> Self {
        let id = error.id();
        match error {
            RegistryError::Refused(_, message) => status(id, message),
            RegistryError::Lifecycle(error) => status(id, error.to_string()),
            RegistryError::Quota(message, retry_after) => {
                let mut status = status(id, message);
                let seconds = retry_after.as_secs().max(1);
                status.metadata_mut().insert(RETRY_AFTER, seconds.into());
                status
            }
            RegistryError::Database(error) if is_unstorable(&error) => status(
                id,
                "a text of the request holds a character that cannot be stored",
            ),
            error => {
                // details of the database are for the operator, not for the caller
                tracing::error!(%error, %id, "call failed");
                status(id, id.next_step())
            }
        }
    }
}
