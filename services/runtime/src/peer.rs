//! Who is on the other side of a connection, by its verified certificate.

use chemxor_core::ErrorId;
use tonic::{Request, Status};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use crate::pki::Subject;
use crate::status::status;

/// The subject of the peer's certificate. TLS has verified the chain; here only names are read.
pub fn peer_subject<T>(request: &Request<T>) -> Result<Subject, Status> {
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
        (Some(subject), None) => Ok(subject),
        _ => Err(refuse(
            "the certificate must name exactly one ChemXor subject",
        )),
    }
}
