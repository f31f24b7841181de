//! Who is on the other side of a connection, by its verified certificate.

use chemxor_core::ErrorId;
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
}

/// The subject of the peer's certificate. TLS has verified the chain; here only names are read.
pub fn peer_subject<T>(request: &Request<T>) -> Result<Subject, Status> {
    peer_certificate(request).map(|peer| peer.subject)
}

/// The peer's certificate, read. TLS has verified the chain.
pub fn peer_certificate<T>(request: &Request<T>) -> Result<PeerCertificate, Status> {
    let refuse = |message: &str| status(ErrorId::CertificateRefused, message);
    let certs = request
        .peer_certs()
        .ok_or_else(|| refuse("no client certificate"))?;
    let first = certs
        .first()
        .ok_or_else(|| refuse("no client certificate"))?;
    let (_, cert) =
        parse_x509_certificate(first).map_err(|_| refuse("the certificate cannot be read"))?;
    let names = cert
        .subject_alternative_name()
        .map_err(|_| refuse("the certificate cannot be read"))?
        .ok_or_else(|| refuse("the certificate names nobody"))?;
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
        }),
        _ => Err(refuse(
            "the certificate must name exactly one ChemXor subject",
        )),
    }
}
