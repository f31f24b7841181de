//! Certificates. A subject is a URI in the subject alternative name: `chemxor://gateway`,
//! `chemxor://worker/NAME`, `chemxor://client/NAME`, `chemxor://operator/NAME`. The development authority issues them on the
//! spot for `chemxor up` and tests; production brings its own authority with the same names.

use std::fmt;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;

use chemxor_core::{ErrorId, WorkerName};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::RuntimeError;
use crate::tls::TlsFiles;

/// Who a certificate speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The registry.
    Registry,
    /// A gateway.
    Gateway,
    /// A partition worker.
    Worker(WorkerName),
    /// A person's or program's machine.
    Client(WorkerName),
    /// Whoever runs the platform; for reflection only.
    Operator(WorkerName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry => f.write_str("chemxor://registry"),
            Self::Gateway => f.write_str("chemxor://gateway"),
            Self::Worker(name) => write!(f, "chemxor://worker/{name}"),
            Self::Client(name) => write!(f, "chemxor://client/{name}"),
            Self::Operator(name) => write!(f, "chemxor://operator/{name}"),
        }
    }
}

/// A certificate without a subject of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate names no ChemXor subject [{id}]", id = ErrorId::CertificateRefused)]
pub struct UnknownSubject;

impl FromStr for Subject {
    type Err = UnknownSubject;
    fn from_str(uri: &str) -> Result<Self, UnknownSubject> {
        let rest = uri.strip_prefix("chemxor://").ok_or(UnknownSubject)?;
        match rest.split_once('/') {
            None if rest == "registry" => Ok(Self::Registry),
            None if rest == "gateway" => Ok(Self::Gateway),
            Some(("worker", name)) => name.parse().map(Self::Worker).map_err(|_| UnknownSubject),
            Some(("client", name)) => name.parse().map(Self::Client).map_err(|_| UnknownSubject),
            Some(("operator", name)) => {
                name.parse().map(Self::Operator).map_err(|_| UnknownSubject)
            }
            _ => Err(UnknownSubject),
        }
    }
}

/// A certificate and its key, in PEM.
pub struct Identity {
    /// The certificate.
    pub cert_pem: String,
    key_pem: Zeroizing<String>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity([redacted])")
    }
}

impl Identity {
    /// Writes `NAME.pem` and `NAME.key` (owner-only) into `folder`, beside `ca.pem`.
    pub fn write(&self, folder: &Path, name: &str) -> Result<TlsFiles, RuntimeError> {
        let files = TlsFiles {
            ca: folder.join("ca.pem"),
            cert: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
        };
        write_file(&files.cert, self.cert_pem.as_bytes(), 0o644)?;
        write_file(&files.key, self.key_pem.as_bytes(), 0o600)?;
        Ok(files)
    }
}

/// Replaces a file; it has its final permissions from the start.
pub(crate) fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), RuntimeError> {
    let refuse = |error: std::io::Error| RuntimeError::file(path, error);
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(refuse(error)),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(refuse)?;
    file.write_all(bytes).map_err(refuse)
}

/// An authority for one machine: development, tests and the demo.
pub struct DevAuthority {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
}

impl fmt::Debug for DevAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DevAuthority([redacted])")
    }
}

/// What people compare of a worker's sealing key: SHA-256 of its X25519 public key, hexadecimal.
pub fn sealing_fingerprint(public_key: &[u8]) -> String {
    crate::enrol::sha256(public_key)
}

pub(crate) fn certificate(error: impl fmt::Display) -> RuntimeError {
    RuntimeError::Certificate(error.to_string())
}

impl DevAuthority {
    /// The authority of a folder: `ca.pem` and `ca.key`, made when absent.
    pub fn create_or_load(folder: &Path) -> Result<Self, RuntimeError> {
        let (cert, key) = (folder.join("ca.pem"), folder.join("ca.key"));
        if cert.exists() && key.exists() {
            let read = |path: &Path| {
                std::fs::read_to_string(path).map_err(|e| RuntimeError::file(path, e))
            };
            let cert_pem = read(&cert)?;
            let key_pem = Zeroizing::new(read(&key)?);
            let key = KeyPair::from_pem(&key_pem).map_err(certificate)?;
            let issuer = Issuer::from_ca_cert_pem(&cert_pem, key).map_err(certificate)?;
            return Ok(Self { issuer, cert_pem });
        }
        std::fs::create_dir_all(folder).map_err(|error| RuntimeError::file(folder, error))?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "ChemXor development authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_lifetime(&mut params, Duration::days(365));
        let key_pair = KeyPair::generate().map_err(certificate)?;
        let cert_pem = params.self_signed(&key_pair).map_err(certificate)?.pem();
        write_file(
            &key,
            Zeroizing::new(key_pair.serialize_pem()).as_bytes(),
            0o600,
        )?;
        write_file(&cert, cert_pem.as_bytes(), 0o644)?;
        Ok(Self {
            issuer: Issuer::new(params, key_pair),
            cert_pem,
        })
    }

    /// The authority's certificate.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// Issues a certificate for loopback, valid for `lifetime` (negative: already expired).
    pub fn issue(&self, subject: &Subject, lifetime: Duration) -> Result<Identity, RuntimeError> {
        self.issue_from(subject, OffsetDateTime::now_utc(), lifetime)
    }

    /// The same beginning at another moment.
    pub fn issue_from(
        &self,
        subject: &Subject,
        begin: OffsetDateTime,
        lifetime: Duration,
    ) -> Result<Identity, RuntimeError> {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut params = CertificateParams::new(names.to_vec()).map_err(certificate)?;
        let uri = subject.to_string().try_into().map_err(certificate)?;
        params.subject_alt_names.push(SanType::URI(uri));
        params
            .distinguished_name
            .push(DnType::CommonName, subject.to_string());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        set_lifetime_from(&mut params, begin, lifetime);
        let key = KeyPair::generate().map_err(certificate)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(certificate)?;
        Ok(Identity {
            cert_pem: cert.pem(),
            key_pem: Zeroizing::new(key.serialize_pem()),
        })
    }

    /// Issues a certificate for 30 days and writes it beside the authority's.
    pub fn issue_to(
        &self,
        subject: &Subject,
        folder: &Path,
        name: &str,
    ) -> Result<TlsFiles, RuntimeError> {
        self.issue(subject, Duration::days(30))?.write(folder, name)
    }
}

pub(crate) fn set_lifetime(params: &mut CertificateParams, lifetime: Duration) {
    set_lifetime_from(params, OffsetDateTime::now_utc(), lifetime);
}

fn set_lifetime_from(params: &mut CertificateParams, now: OffsetDateTime, lifetime: Duration) {
    // clocks of peers may be a little behind
    params.not_before = (now - Duration::minutes(5)).min(now + lifetime - Duration::minutes(5));
    params.not_after = now + lifetime;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_round_trip_and_strangers_are_refused() {
        let name: WorkerName = "w-1".parse().unwrap();
        for subject in [
            Subject::Registry,
            Subject::Gateway,
            Subject::Worker(name.clone()),
            Subject::Client(name.clone()),
            Subject::Operator(name),
        ] {
            assert_eq!(subject.to_string().parse(), Ok(subject));
        }
        for uri in [
            "chemxor://",
            "chemxor://admin",
            "chemxor://worker/",
            "https://gateway",
            "chemxor://worker/a/b",
        ] {
            assert_eq!(uri.parse::<Subject>(), Err(UnknownSubject), "{uri}");
        }
    }

    #[test]
    fn the_authority_is_made_once_and_its_key_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let first = DevAuthority::create_or_load(folder.path()).unwrap();
        let again = DevAuthority::create_or_load(folder.path()).unwrap();
        assert_eq!(first.cert_pem(), again.cert_pem());
        let files = again
            .issue_to(&Subject::Gateway, folder.path(), "gateway")
            .unwrap();
        for key in [folder.path().join("ca.key"), files.key] {
            let mode = std::fs::metadata(&key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", key.display());
        }
    }
}
