//! Gateways that are turned away although their certificates have not expired: an administrator has
//! denied them. Workers meet gateways without the registry between, so the list comes with the
//! assignments; while the registry is away the last one holds.

use std::collections::HashSet;

use chemxor_core::ErrorId;
use chemxor_proto::v1;
use chemxor_runtime::pki::Subject;
use chemxor_runtime::status::status;
use tokio::sync::watch;
use tonic::Status;

/// Every certificate of a subject, in place of a serial number.
const EVERY: &str = "*";

/// Serial numbers of the certificates of gateways that are denied.
#[derive(Debug, Default)]
pub(crate) struct DeniedGateways(watch::Sender<HashSet<String>>);

impl DeniedGateways {
    /// Takes the registry's list in place of the last one.
    pub(crate) fn replace(&self, denied: Vec<v1::DeniedCertificate>) {
        let gateway = Subject::Gateway.to_string();
        let denied = denied.into_iter().filter(|one| one.subject == gateway);
        let denied: HashSet<String> = denied.map(|one| one.serial).collect();
        self.0.send_if_modified(|before| {
            let changed = *before != denied;
            *before = denied;
            changed
        });
    }

    /// Refuses a stream of a gateway whose certificate has this serial number.
    pub(crate) fn require_living(&self, serial: &str) -> Result<(), Status> {
        if refuses(&self.0.borrow(), serial) {
            return Err(refused());
        }
        Ok(())
    }

    /// Waits until the certificate with this serial number is denied, and says so.
    pub(crate) async fn until_refused(&self, serial: &str) -> Status {
        let mut list = self.0.subscribe();
        // the sender lives as long as `self`, so an error cannot come
        let _ = list.wait_for(|denied| refuses(denied, serial)).await;
        refused()
    }
}

fn refuses(denied: &HashSet<String>, serial: &str) -> bool {
    denied.contains(serial) || denied.contains(EVERY)
}

fn refused() -> Status {
    status(
        ErrorId::CertificateRefused,
        "the gateway's certificate was denied by an administrator",
    )
}
