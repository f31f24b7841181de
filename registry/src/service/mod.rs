//! The gRPC faces. Each turns messages into domain types once, asks [`crate::auth`] and calls the
//! store; no SQL and no decision about rights stands here.

mod admin;
mod catalog;
mod control;
mod governance;
mod metering;
mod publishing;
mod watch;

use chemxor_core::{ErrorId, ModelRef, VersionId};
use tonic::Status;

use crate::RegistryError;
use crate::store::Store;

/// All services share the store.
#[derive(Clone)]
pub(crate) struct Services {
    store: Store,
}

impl Services {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
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
