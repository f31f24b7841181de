//! The gRPC faces. Each turns messages into domain types once, asks [`crate::auth`] and calls the
//! store; no SQL and no decision about rights stands here.

mod admin;
mod cards;
mod catalog;
mod certificates;
mod control;
mod governance;
mod metering;
mod publishing;
mod watch;

use std::path::Path;
use std::sync::Arc;

use chemxor_core::{ErrorId, ModelRef, VersionId};
use chemxor_runtime::traces::Tracer;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::RegistryError;
use crate::store::Store;

/// All services share the store.
#[derive(Clone)]
pub(crate) struct Services {
    store: Store,
    /// Certificate of the platform's authority; read when a certificate is recorded.
    authority: Arc<Path>,
    tracer: Tracer,
    /// Ends streams that would go on for ever.
    stop: CancellationToken,
}

impl Services {
    pub(crate) fn new(
        store: Store,
        authority: &Path,
        tracer: Tracer,
        stop: CancellationToken,
    ) -> Self {
        Self {
            store,
            authority: authority.into(),
            tracer,
            stop,
        }
    }
}

fn argument(message: impl std::fmt::Display) -> Status {
    RegistryError::refused(ErrorId::ArgumentInvalid, message.to_string()).into()
}

fn model_ref(text: &str) -> Result<ModelRef, Status> {
    text.parse().map_err(argument)
}

fn version_id(text: &str) -> Result<VersionId, Status> {
    text.parse().map_err(argument)
}
