//! Authorisation: only this module makes an [`Authorized`], and every service call needs one.

use chemxor_core::{Action, ErrorId, Role, RoleSet, WorkerName};
use chemxor_runtime::peer::peer_subject;
use chemxor_runtime::pki::Subject;
use chemxor_runtime::status::bearer_token;
use tonic::{Request, Status};

use crate::RegistryError;
use crate::store::Store;

/// Proof that the caller may do what it asks for.
pub(crate) struct Authorized {
    /// Token subject, or certificate subject of a service.
    pub(crate) actor: String,
    /// Roles, for what depends on more than the action.
    pub(crate) roles: RoleSet,
}

/// A person or program: certificate of the platform, and a token whose roles allow the action.
pub(crate) async fn person<T>(
    store: &Store,
    request: &Request<T>,
    action: Action,
) -> Result<Authorized, Status> {
    // any certificate of the authority will do; its key is what the TLS handshake has proved
    peer_subject(request)?;
    let token = bearer_token(request.metadata())?;
    let holder = store.find_token(&token).await?;
    if !holder.roles.allows(action) {
        return Err(RegistryError::refused(
            ErrorId::RoleMissing,
            format!("the token of {} does not allow this call", holder.subject),
        )
        .into());
    }
    Ok(Authorized {
        actor: holder.subject,
        roles: holder.roles,
    })
}

/// The gateway, by its certificate.
pub(crate) fn gateway<T>(request: &Request<T>) -> Result<(), Status> {
    service(request, Role::Gateway, Action::RouteSessions).map(drop)
}

/// The worker of this name, by its certificate.
pub(crate) fn worker<T>(request: &Request<T>) -> Result<WorkerName, Status> {
    match service(request, Role::Worker, Action::ServePartitions)? {
        Subject::Worker(name) => Ok(name),
        _ => Err(refused()),
    }
}

fn refused() -> Status {
    RegistryError::refused(
        ErrorId::CertificateRefused,
        "this call is for another service than the one in the certificate",
    )
    .into()
}

fn service<T>(request: &Request<T>, wanted: Role, action: Action) -> Result<Subject, Status> {
    let subject = peer_subject(request)?;
    let role = match &subject {
        Subject::Gateway => Role::Gateway,
        Subject::Worker(_) => Role::Worker,
        _ => return Err(refused()),
    };
    if role == wanted && chemxor_core::allowed(role, action) {
        Ok(subject)
    } else {
        Err(refused())
    }
}
