//! The SDK of the platform: what the command line, and later Python and the browser, build on.
//!
//! | module | for whom |
//! |---|---|
//! | [`keyring`] | lab and publisher: secret keys at rest, rotation |
//! | [`session`], [`predictor`] | the lab: encrypted queries, one stream, many in flight, failover |
//! | [`interpret`] | the lab: values with unit, probabilities with class |
//! | [`batch`] | the lab: table in, table out, same rows in the same order, resumable |
//! | [`estimate`] | the lab: what a run will take |
//! | [`health`] | everybody: whether a service answers, its release and its clock |
//! | [`known_workers`] | publisher: which sealing keys to believe |
//! | [`publish`], [`conformance`], [`catalog`], [`governance`] | publisher, reviewer, administrator |
//!
//! Invariant: molecule, features and secret keys never leave the process; what goes out is
//! ciphertext, public keys and the model's name.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod batch;
pub mod catalog;
pub mod conformance;
mod error;
pub mod estimate;
pub mod files;
pub mod governance;
pub mod health;
pub mod interpret;
pub mod keyring;
pub mod known_workers;
mod patience;
pub mod placement;
pub mod predictor;
pub mod publish;
pub mod session;

pub use error::ClientError;

/// How to reach one service of the platform, and as whom.
#[derive(Debug, Clone)]
pub struct Access {
    /// host:port.
    pub endpoint: String,
    /// Certificate, key and authority.
    pub tls: chemxor_runtime::tls::TlsFiles,
    /// The bearer token.
    pub token: Token,
}

/// A bearer token; prints `[redacted]`, wiped when dropped.
#[derive(Clone, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct Token(String);

impl Token {
    /// From its text; surrounding white space is dropped.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// The request with this token in its metadata.
    pub(crate) fn sign<T>(&self, message: T) -> Result<tonic::Request<T>, ClientError> {
        let mut request = tonic::Request::new(message);
        let header = zeroize::Zeroizing::new(format!("Bearer {}", self.0));
        let mut value: tonic::metadata::MetadataValue<_> =
            header.parse().map_err(|_| ClientError::Token)?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token([redacted])")
    }
}
