//! Who is on the other side of a connection, by its verified certificate. It is read once, when the
//! connection has shaken hands, and travels with every request of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chemxor_core::ErrorId;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tonic::{Request, Status};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use crate::pki::Subject;
use crate::status::status;

/// What a peer's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Whom it speaks for.
    pub subject: Subject,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// Its last second.
    pub not_after_unix_s: i64,
}

/// The other side of a connection: its certificate, or why it cannot be used.
#[derive(Debug, Clone)]
pub struct Peer(Result<Arc<PeerCertificate>, &'static str>);

impl Peer {
    /// Reads the first of the certificates that a peer has shown. TLS has verified the chain; here
    /// only names are read.
    pub(crate) fn of(certificates: Option<&[CertificateDer<'_>]>) -> Self {
        Self(
            certificates
                .and_then(<[_]>::first)
                .ok_or("no client certificate")
                .and_then(|first| read(first))
                .map(Arc::new),
        )
    }
}

impl Peer {
    /// How long the certificate still lives; nothing when there is none that can be used.
    pub(crate) fn left(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs() as i64);
        let until = self.0.as_ref().map_or(now, |peer| peer.not_after_unix_s);
        Duration::from_secs(u64::try_from(until.saturating_sub(now)).unwrap_or_default())
    }
}

fn read(der: &[u8]) -> Result<PeerCertificate, &'static str> {
    let unreadable = "the certificate cannot be read";
    let (_, cert) = parse_x509_certificate(der).map_err(|_| unreadable)?;
    let names = cert
        .subject_alternative_name()
        .map_err(|_| unreadable)?
        .ok_or("the certificate names nobody")?;
    let mut subjects = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => uri.parse::<Subject>().ok(),
            _ => None,
        });
    match (subjects.next(), subjects.next()) {
        (Some(subject), None) => Ok(PeerCertificate {
            subject,
            serial: cert
                .raw_serial()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            not_after_unix_s: cert.validity().not_after.timestamp(),
        }),
        _ => Err("the certificate must name exactly one ChemXor subject"),
    }
}

/// The subject of the peer's certificate.
pub fn peer_subject<T>(request: &Request<T>) -> Result<Subject, Status> {
    peer_certificate(request).map(|peer| peer.subject.clone())
}

/// The peer's certificate.
pub fn peer_certificate<T>(request: &Request<T>) -> Result<Arc<PeerCertificate>, Status> {
    let peer = match request.extensions().get::<Peer>() {
        Some(Peer(peer)) => peer.clone(),
        None => Err("no client certificate"),
    };
    peer.map_err(|message| status(ErrorId::CertificateRefused, message))
}
