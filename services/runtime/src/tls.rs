//! Mutual TLS: every server asks for a certificate of the platform's authority, every client shows
//! one. rustls with aws-lc-rs as the one provider, TLS 1.3 only.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig,
};
use zeroize::Zeroizing;

use crate::RuntimeError;

/// How long connecting may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// PEM files of one party.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The authority that signs every peer.
    pub ca: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Makes aws-lc-rs with the suites of TLS 1.3 the provider of this process; calling it again does
/// nothing. tonic leaves no other way to choose the version: without a suite, 1.2 is never agreed.
pub fn install_provider() {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some());
    // an error says that one is installed already
    let _ = provider.install_default();
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, RuntimeError> {
    std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|error| RuntimeError::file(path, error))
}

impl TlsFiles {
    fn load(&self) -> Result<(Certificate, Identity), RuntimeError> {
        install_provider();
        let ca = Certificate::from_pem(read(&self.ca)?.as_slice());
        let identity =
            Identity::from_pem(read(&self.cert)?.as_slice(), read(&self.key)?.as_slice());
        Ok((ca, identity))
    }
}

/// For a server; a client without a certificate of the authority is not let in.
pub fn server_tls(files: &TlsFiles) -> Result<ServerTlsConfig, RuntimeError> {
    let (ca, identity) = files.load()?;
    Ok(ServerTlsConfig::new().identity(identity).client_ca_root(ca))
}

/// For a client of the server called `host`.
pub fn client_tls(files: &TlsFiles, host: &str) -> Result<ClientTlsConfig, RuntimeError> {
    let (ca, identity) = files.load()?;
    Ok(ClientTlsConfig::new()
        .ca_certificate(ca)
        .identity(identity)
        .domain_name(host))
}

fn endpoint(address: &str, files: &TlsFiles) -> Result<Endpoint, RuntimeError> {
    let bad = || RuntimeError::Endpoint(address.chars().take(100).collect());
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    port.parse::<u16>().map_err(|_| bad())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(bad());
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}")).map_err(|_| bad())?;
    Ok(endpoint
        .tls_config(client_tls(files, host)?)?
        .connect_timeout(CONNECT_DEADLINE)
        .tcp_nodelay(true)
        .http2_adaptive_window(true)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10)))
}

/// Connects to host:port now.
pub async fn connect(address: &str, files: &TlsFiles) -> Result<Channel, RuntimeError> {
    endpoint(address, files)?.connect().await.map_err(|error| {
        // the useful part is at the end of the chain
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        RuntimeError::Unreachable {
            endpoint: address.to_owned(),
            reason,
        }
    })
}

/// A channel to host:port that connects when first used, and again after a break.
pub fn connect_lazy(address: &str, files: &TlsFiles) -> Result<Channel, RuntimeError> {
    Ok(endpoint(address, files)?.connect_lazy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_need_host_and_port() {
        let files = TlsFiles {
            ca: "a".into(),
            cert: "b".into(),
            key: "c".into(),
        };
        for address in ["", "localhost", ":1", "localhost:port", "localhost:70000"] {
            assert!(
                matches!(endpoint(address, &files), Err(RuntimeError::Endpoint(_))),
                "{address}"
            );
        }
    }
}
