//! Authorisation: every service call asks here first, and gets a [`Caller`] that the store checks
//! against what is asked for.

use std::sync::Arc;

use chemxor_core::{Action, ErrorId, Role, WorkerName};
use chemxor_runtime::peer::{PeerCertificate, peer_certificate};
use chemxor_runtime::pki::Subject;
use chemxor_runtime::status::bearer_token;
use tonic::{Request, Status};
use zeroize::Zeroizing;

use crate::RegistryError;
use crate::calls::Call;
use crate::store::{Caller, Store};

/// A person or program: certificate of the platform that is not denied, and a token whose roles
/// allow the action. How far they reach is for the store to check, against what is asked for.
pub(crate) async fn person<T>(
    store: &Store,
    request: &Request<T>,
    action: Action,
) -> Result<Caller, Status> {
    // any certificate of the authority will do; its key is what the TLS handshake has proved
    let peer = peer_certificate(request)?;
    require_living(store, &peer).await?;
    let token = bearer_token(request.metadata())?;
    let caller = store.find_token(&token).await?;
    Call::of(request).is_by(&caller);
    caller.require(action)?;
    Ok(caller)
}

/// What a person has shown for a call that goes on: token or certificate may be revoked meanwhile.
pub(crate) struct Lasting {
    peer: Arc<PeerCertificate>,
    token: Zeroizing<String>,
    action: Action,
}

impl Lasting {
    /// The same checks as at the beginning of the call.
    pub(crate) async fn require(&self, store: &Store) -> Result<(), Status> {
        require_living(store, &self.peer).await?;
        let caller = store.find_token(&self.token).await?;
        caller.require(self.action)?;
        Ok(())
    }
}

/// As [`person`], for a call that goes on and asks again as it does.
pub(crate) async fn lasting<T>(
    store: &Store,
    request: &Request<T>,
    action: Action,
) -> Result<(Caller, Lasting), Status> {
    let caller = person(store, request, action).await?;
    let lasting = Lasting {
        peer: peer_certificate(request)?,
        token: bearer_token(request.metadata())?,
        action,
    };
    Ok((caller, lasting))
}

/// Whoever shows a living certificate of the platform; its key is what the handshake has proved.
pub(crate) async fn holder<T>(
    store: &Store,
    request: &Request<T>,
) -> Result<Arc<PeerCertificate>, Status> {
    let peer = peer_certificate(request)?;
    require_living(store, &peer).await?;
    Ok(peer)
}

async fn require_living(store: &Store, peer: &PeerCertificate) -> Result<(), Status> {
    let subject = peer.subject.to_string();
    Ok(store.require_certificate(&subject, &peer.serial).await?)
}

/// The gateway, by its certificate.
pub(crate) async fn gateway<T>(store: &Store, request: &Request<T>) -> Result<(), Status> {
    service(store, request, Role::Gateway, Action::RouteSessions)
        .await
        .map(drop)
}

/// The worker of this name, by its certificate.
pub(crate) async fn worker<T>(store: &Store, request: &Request<T>) -> Result<WorkerName, Status> {
    match service(store, request, Role::Worker, Action::ServePartitions).await? {
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

async fn service<T>(
    store: &Store,
    request: &Request<T>,
    wanted: Role,
    action: Action,
) -> Result<Subject, Status> {
    let peer = peer_certificate(request)?;
    let role = match &peer.subject {
        Subject::Gateway => Role::Gateway,
        Subject::Worker(_) => Role::Worker,
        _ => return Err(refused()),
    };
    if role != wanted || !chemxor_core::allowed(role, action) {
        return Err(refused());
    }
    require_living(store, &peer).await?;
    Ok(peer.subject.clone())
}
