//! Certificate requests: a party makes its key and a request where it will be used, an operator signs
//! the request with the authority's key file, and only the certificate travels back.
//!
//! Invariants: the private key never leaves the machine that made it; of a request only its subject,
//! its host names and its public key count, never the extensions that it asks for.

use std::fmt;
use std::path::Path;

use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKey, PublicKeyData,
    SanType,
};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::pem::Pem;
use zeroize::Zeroizing;

use crate::RuntimeError;
use crate::pki::{Subject, certificate, set_lifetime, write_file};

/// Longest request or certificate, in bytes of PEM.
pub const MAX_PEM_BYTES: usize = 16 << 10;
/// Longest life of a certificate that an authority of this crate signs.
pub const MAX_LIFETIME: Duration = Duration::days(90);
/// What a certificate's first moment may lie before its signing, for clocks that are behind.
const CLOCKS: Duration = Duration::hours(1);
/// Most host names of one certificate.
const MAX_NAMES: usize = 16;

fn refuse(reason: impl Into<String>) -> RuntimeError {
    RuntimeError::Certificate(reason.into())
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

/// A request and the key that it is for.
pub struct NewRequest {
    /// PKCS #10 in PEM; no secret.
    pub request_pem: String,
    /// The private key in PEM.
    pub key_pem: Zeroizing<String>,
}

impl fmt::Debug for NewRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewRequest([redacted])")
    }
}

/// Makes a key and a request for `subject`; servers also name the hosts that peers dial.
pub fn new_request(subject: &Subject, hosts: &[String]) -> Result<NewRequest, RuntimeError> {
    let mut params = CertificateParams::new(hosts.to_vec()).map_err(certificate)?;
    let uri = subject.to_string().try_into().map_err(certificate)?;
    params.subject_alt_names.push(SanType::URI(uri));
    params.distinguished_name = Default::default();
    params
        .distinguished_name
        .push(DnType::CommonName, subject.to_string());
    let key = KeyPair::generate().map_err(certificate)?;
    let request = params.serialize_request(&key).map_err(certificate)?;
    Ok(NewRequest {
        request_pem: request.pem().map_err(certificate)?,
        key_pem: Zeroizing::new(key.serialize_pem()),
    })
}

/// Writes a private key, readable by its owner only.
pub fn write_key(path: &Path, key_pem: &str) -> Result<(), RuntimeError> {
    write_file(path, key_pem.as_bytes(), 0o600)
}

/// Writes a request or a certificate.
pub fn write_public(path: &Path, pem: &str) -> Result<(), RuntimeError> {
    write_file(path, pem.as_bytes(), 0o644)
}

/// A request that was read and whose signature shows that its maker holds the key.
pub struct Request {
    subject: Subject,
    names: Vec<SanType>,
    key: PublicKey,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({}, {})", self.subject, self.key_fingerprint())
    }
}

impl Request {
    /// Reads PKCS #10 in PEM.
    pub fn read(pem: &str) -> Result<Self, RuntimeError> {
        if pem.len() > MAX_PEM_BYTES {
            return Err(refuse(format!(
                "a request has at most {MAX_PEM_BYTES} bytes"
            )));
        }
        let request = CertificateSigningRequestParams::from_pem(pem)
            .map_err(|error| refuse(format!("this is no certificate request: {error}")))?;
        let mut subject = None;
        let mut names = Vec::new();
        for name in request.params.subject_alt_names {
            match name {
                SanType::URI(uri) => {
                    let found: Subject = uri.as_str().parse().map_err(certificate)?;
                    if subject.replace(found).is_some() {
                        return Err(refuse("a request names one ChemXor subject"));
                    }
                }
                SanType::DnsName(_) | SanType::IpAddress(_) => names.push(name),
                _ => return Err(refuse("a request names hosts and one ChemXor subject only")),
            }
        }
        let subject = subject.ok_or_else(|| refuse("the request names no ChemXor subject"))?;
        let serves = matches!(
            subject,
            Subject::Registry | Subject::Gateway | Subject::Worker(_)
        );
        if !serves && !names.is_empty() {
            return Err(refuse(format!(
                "{subject} serves nobody and gets no host name"
            )));
        }
        if names.len() > MAX_NAMES {
            return Err(refuse(format!(
                "a certificate has at most {MAX_NAMES} host names"
            )));
        }
        Ok(Self {
            subject,
            names,
            key: request.public_key,
        })
    }

    /// Whom the certificate would speak for.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Hosts that it would serve as.
    pub fn hosts(&self) -> Vec<String> {
        let text = |name: &SanType| match name {
            SanType::DnsName(name) => name.as_str().to_owned(),
            SanType::IpAddress(address) => address.to_string(),
            _ => String::new(),
        };
        self.names.iter().map(text).collect()
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo), hexadecimal: what two people compare.
    pub fn key_fingerprint(&self) -> String {
        sha256(&self.key.subject_public_key_info())
    }
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whom it speaks for.
    pub subject: Subject,
    /// Lower-case hexadecimal.
    pub serial: String,
    /// First moment.
    pub not_before: OffsetDateTime,
    /// Last moment.
    pub not_after: OffsetDateTime,
    /// As [`Request::key_fingerprint`].
    pub key_fingerprint: String,
    /// Hosts that it serves as, sorted.
    pub hosts: Vec<String>,
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address: Option<std::net::IpAddr> = match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(Into::into),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(Into::into),
            };
            address.map(|address| address.to_string())
        }
        _ => None,
    }
}

fn der(pem: &str) -> Result<Vec<u8>, RuntimeError> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(refuse(format!(
            "a certificate has at most {MAX_PEM_BYTES} bytes"
        )));
    }
    let first = Pem::iter_from_buffer(pem.as_bytes()).next();
    match first {
        Some(Ok(block)) if block.label == "CERTIFICATE" => Ok(block.contents),
        _ => Err(refuse("this is no certificate in PEM")),
    }
}

/// Reads the first certificate of a PEM text.
pub fn read_certificate(pem: &str) -> Result<CertificateFacts, RuntimeError> {
    let der = der(pem)?;
    let (_, cert) = parse_x509_certificate(&der)
        .map_err(|error| refuse(format!("the certificate cannot be read: {error}")))?;
    let names = cert
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|names| names.value.general_names.as_slice())
        .unwrap_or_default();
    let mut subjects = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.parse::<Subject>().ok(),
        _ => None,
    });
    let (Some(subject), None) = (subjects.next(), subjects.next()) else {
        return Err(refuse(
            "the certificate must name exactly one ChemXor subject",
        ));
    };
    let moment = |at: i64| OffsetDateTime::from_unix_timestamp(at).map_err(certificate);
    let mut hosts: Vec<String> = names.iter().filter_map(host).collect();
    hosts.sort_unstable();
    Ok(CertificateFacts {
        subject,
        serial: HEXLOWER.encode(cert.raw_serial()),
        not_before: moment(cert.validity().not_before.timestamp())?,
        not_after: moment(cert.validity().not_after.timestamp())?,
        key_fingerprint: sha256(cert.public_key().raw),
        hosts,
    })
}

/// Whether one of the authorities of `ca_pem` issued the certificate, and it answers the request:
/// the same subject, key and hosts, a life of at most [`MAX_LIFETIME`], and no authority of its own.
/// Gives what it says.
pub fn check_issued(
    ca_pem: &str,
    request: &Request,
    cert_pem: &str,
) -> Result<CertificateFacts, RuntimeError> {
    let facts = read_certificate(cert_pem)?;
    if facts.subject != request.subject {
        return Err(refuse(format!(
            "it is for {}, the request for {}",
            facts.subject, request.subject
        )));
    }
    if facts.key_fingerprint != request.key_fingerprint() {
        return Err(refuse("it is for another key than the request"));
    }
    let mut hosts = request.hosts();
    hosts.sort_unstable();
    if facts.hosts != hosts {
        return Err(refuse("it names other hosts than the request"));
    }
    let der = der(cert_pem)?;
    let (_, cert) =
        parse_x509_certificate(&der).map_err(|_| refuse("the certificate cannot be read"))?;
    if cert.is_ca() {
        return Err(refuse(
            "it could sign certificates itself; issue it with `chemxor cert sign`",
        ));
    }
    if facts.not_after - facts.not_before > MAX_LIFETIME + CLOCKS {
        let days = MAX_LIFETIME.whole_days();
        return Err(refuse(format!(
            "it lives longer than {days} days; issue it with `chemxor cert sign --days {days}` or less"
        )));
    }
    let issued = Pem::iter_from_buffer(ca_pem.as_bytes())
        .flatten()
        .any(|block| {
            parse_x509_certificate(&block.contents).is_ok_and(|(_, authority)| {
                cert.issuer() == authority.subject()
                    && cert.verify_signature(Some(authority.public_key())).is_ok()
            })
        });
    match issued {
        true => Ok(facts),
        false => Err(refuse("it was not issued by the platform's authority")),
    }
}

/// An operator's authority: `ca.pem` and `ca.key` of a folder.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority([redacted])")
    }
}

impl Authority {
    /// Makes an authority; an existing one is never replaced.
    pub fn create(folder: &Path, name: &str, life: Duration) -> Result<Self, RuntimeError> {
        let (cert, key) = (folder.join("ca.pem"), folder.join("ca.key"));
        if let Some(there) = [&cert, &key].into_iter().find(|path| path.exists()) {
            let reason = "exists already; an authority is never replaced, choose another folder";
            return Err(RuntimeError::file(there, reason));
        }
        std::fs::create_dir_all(folder).map_err(|error| RuntimeError::file(folder, error))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_lifetime(&mut params, life);
        let pair = KeyPair::generate().map_err(certificate)?;
        let cert_pem = params.self_signed(&pair).map_err(certificate)?.pem();
        write_file(&key, Zeroizing::new(pair.serialize_pem()).as_bytes(), 0o600)?;
        write_file(&cert, cert_pem.as_bytes(), 0o644)?;
        Ok(Self {
            issuer: Issuer::new(params, pair),
            cert_pem,
        })
    }

    /// The authority of a folder.
    pub fn load(folder: &Path) -> Result<Self, RuntimeError> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(|error| RuntimeError::file(&path, error))
        };
        let (cert_pem, key_pem) = (read("ca.pem")?, Zeroizing::new(read("ca.key")?));
        let key = KeyPair::from_pem(&key_pem).map_err(certificate)?;
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key).map_err(certificate)?;
        Ok(Self { issuer, cert_pem })
    }

    /// Its certificate.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Issues the certificate that a request asks for. Clients may not serve.
    pub fn sign(&self, request: &Request, life: Duration) -> Result<String, RuntimeError> {
        if life > MAX_LIFETIME || !life.is_positive() {
            let days = MAX_LIFETIME.whole_days();
            return Err(refuse(format!("a certificate lives up to {days} days")));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = Default::default();
        params
            .distinguished_name
            .push(DnType::CommonName, request.subject.to_string());
        params.subject_alt_names = request.names.clone();
        let uri = request
            .subject
            .to_string()
            .try_into()
            .map_err(certificate)?;
        params.subject_alt_names.push(SanType::URI(uri));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !request.names.is_empty() {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        set_lifetime(&mut params, life);
        let signed = params.signed_by(&request.key, &self.issuer);
        Ok(signed.map_err(certificate)?.pem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    fn authority() -> (tempfile::TempDir, Authority) {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), "test", Duration::days(30)).unwrap();
        (folder, authority)
    }

    #[test]
    fn a_request_is_signed_by_a_loaded_authority_and_checked_against_it() {
        let (folder, _) = authority();
        let authority = Authority::load(folder.path()).unwrap();
        let lab = subject("chemxor://client/lab-7");
        let made = new_request(&lab, &[]).unwrap();
        let request = Request::read(&made.request_pem).unwrap();
        let cert = authority.sign(&request, Duration::days(7)).unwrap();
        let facts = check_issued(authority.cert_pem(), &request, &cert).unwrap();
        assert_eq!(facts.subject, lab);
        let left = facts.not_after - OffsetDateTime::now_utc();
        assert!((6..=7).contains(&left.whole_days()), "{left}");
        assert_eq!(facts.key_fingerprint, request.key_fingerprint());
        assert!(facts.hosts.is_empty());

        let worker = subject("chemxor://worker/w1");
        let hosts = ["10.0.0.7".to_owned(), "w1.example.org".to_owned()];
        let made = new_request(&worker, &hosts).unwrap();
        let request = Request::read(&made.request_pem).unwrap();
        let cert = authority.sign(&request, Duration::days(7)).unwrap();
        let facts = check_issued(authority.cert_pem(), &request, &cert).unwrap();
        assert_eq!(facts.hosts, hosts);
    }

    #[test]
    fn a_certificate_of_another_authority_subject_or_key_is_no_answer() {
        let (_folder, ours) = authority();
        let (_other_folder, foreign) = authority();
        let lab = subject("chemxor://client/lab-7");
        let request = |subject: &Subject| {
            let made = new_request(subject, &[]).unwrap();
            Request::read(&made.request_pem).unwrap()
        };
        let (asked, again, other) = (
            request(&lab),
            request(&lab),
            request(&subject("chemxor://client/lab-8")),
        );
        let life = Duration::days(7);
        for (cert, reason) in [
            (foreign.sign(&asked, life), "authority"),
            (ours.sign(&again, life), "another key"),
            (ours.sign(&other, life), "lab-8"),
        ] {
            let refused = check_issued(ours.cert_pem(), &asked, &cert.unwrap()).unwrap_err();
            assert!(refused.to_string().contains(reason), "{refused}");
        }
    }

    /// A certificate for the request by the authority's own key, past the rules of `sign`.
    fn signed_freely(authority: &Authority, request: &Request, life: Duration, ca: bool) -> String {
        let mut params = CertificateParams::default();
        let uri = request.subject.to_string().try_into().unwrap();
        params.subject_alt_names = vec![SanType::URI(uri)];
        if ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        set_lifetime(&mut params, life);
        let signed = params.signed_by(&request.key, &authority.issuer);
        signed.unwrap().pem()
    }

    #[test]
    fn a_certificate_that_lives_too_long_or_may_sign_others_is_no_answer() {
        let (_folder, authority) = authority();
        let made = new_request(&subject("chemxor://client/lab-7"), &[]).unwrap();
        let request = Request::read(&made.request_pem).unwrap();
        let check = |life: Duration, ca: bool| {
            let cert = signed_freely(&authority, &request, life, ca);
            check_issued(authority.cert_pem(), &request, &cert)
        };
        check(MAX_LIFETIME, false).unwrap();
        let long = check(Duration::days(3650), false).unwrap_err();
        assert!(long.to_string().contains("90 days"), "{long}");
        assert!(check(MAX_LIFETIME + Duration::days(1), false).is_err());
        let signs = check(Duration::days(7), true).unwrap_err();
        assert!(signs.to_string().contains("sign certificates"), "{signs}");
    }

    #[test]
    fn what_is_no_request_or_asks_for_too_much_is_refused() {
        let lab = subject("chemxor://client/lab-7");
        let hosts = ["evil.example.org".to_owned()];
        let serving = new_request(&lab, &hosts).unwrap();
        let refused = Request::read(&serving.request_pem).unwrap_err();
        assert!(refused.to_string().contains("no host name"), "{refused}");

        let good = new_request(&lab, &[]).unwrap();
        for bad in ["", "nonsense", &"x".repeat(MAX_PEM_BYTES + 1)] {
            assert!(Request::read(bad).is_err());
        }
        // one changed byte: the signature over the request no longer holds
        let mut block = Pem::iter_from_buffer(good.request_pem.as_bytes())
            .next()
            .unwrap()
            .unwrap()
            .contents;
        let at = block.windows(5).position(|part| part == b"lab-7").unwrap();
        block[at + 4] = b'8';
        let base64 = data_encoding::BASE64.encode(&block);
        let forged = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{base64}\n-----END CERTIFICATE REQUEST-----\n"
        );
        assert!(Request::read(&forged).is_err());

        let mut params = CertificateParams::default();
        let key = KeyPair::generate().unwrap();
        params.subject_alt_names = ["chemxor://gateway", "chemxor://registry"]
            .map(|uri| SanType::URI(uri.try_into().unwrap()))
            .to_vec();
        let two = params.serialize_request(&key).unwrap().pem().unwrap();
        assert!(Request::read(&two).is_err());

        let (folder, authority) = authority();
        let request = Request::read(&good.request_pem).unwrap();
        for life in [Duration::ZERO, Duration::days(91)] {
            assert!(authority.sign(&request, life).is_err());
        }
        assert!(Authority::create(folder.path(), "again", Duration::days(1)).is_err());
    }

    #[test]
    fn nothing_that_a_request_wishes_for_itself_is_granted() {
        let (_folder, authority) = authority();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
        params.subject_alt_names = vec![SanType::URI("chemxor://client/x".try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let wish = params.serialize_request(&key).unwrap().pem().unwrap();
        let request = Request::read(&wish).unwrap();
        let cert = authority.sign(&request, Duration::days(1)).unwrap();
        let der = der(&cert).unwrap();
        let (_, cert) = parse_x509_certificate(&der).unwrap();
        assert!(!cert.is_ca());
        let usage = cert.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert!(!cert.key_usage().unwrap().unwrap().value.key_cert_sign());
    }
}
