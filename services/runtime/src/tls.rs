//! Mutual TLS: every server asks for a certificate of the platform's authority, every client shows
//! one. rustls with aws-lc-rs as the one provider, TLS 1.3 only.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use zeroize::Zeroizing;

use crate::RuntimeError;

/// What a peer may send on one stream before this side has read: a frame of a step message.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// The same for all streams of a connection. A session that does not read holds back its stream's
/// window; this many of them leave the others room.
pub const CONNECTION_WINDOW: u32 = 64 << 20;

/// Largest HTTP/2 frame: a step message of most models in one piece, not in pieces of 16 KiB.
pub const HTTP2_FRAME: u32 = 1 << 18;

/// How long connecting may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How often the files are looked at, at most; a look is three calls of `stat`.
const LOOK: Duration = Duration::from_millis(250);
/// How often a service looks at its files when nobody connects.
const WATCH: Duration = Duration::from_secs(1);

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

/// What a file looked like; another stamp means another content.
type Stamp = [Option<(SystemTime, u64)>; 3];

fn stamp(files: &TlsFiles) -> Stamp {
    [&files.ca, &files.cert, &files.key].map(|path| {
        let data = std::fs::metadata(path).ok()?;
        Some((data.modified().ok()?, data.len()))
    })
}

#[derive(Clone)]
struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// End of our certificate, Unix time.
    until: Option<i64>,
}

/// What is in use, and what the files were when they were last looked at.
struct State {
    configs: Configs,
    /// Of the files in use.
    stamp: Stamp,
    looked: Instant,
    /// The files as they are now and why they are not in use, when they do not fit.
    refused: Option<(Stamp, String)>,
}

impl State {
    /// Takes the files in use when they are others now. While they do not fit they are read at every
    /// look, as what makes them readable may leave no stamp; it is said once.
    fn look(&mut self, files: &TlsFiles) {
        self.looked = Instant::now();
        let now = stamp(files);
        if now == self.stamp {
            // a pair that did not fit may have been taken back
            self.refused = None;
            return;
        }
        match read_configs(files) {
            Ok(configs) => {
                tracing::info!(cert = %files.cert.display(), "certificates reloaded");
                metrics::counter!("chemxor_tls_reloads_total", "outcome" => "ok").increment(1);
                (self.configs, self.stamp, self.refused) = (configs, now, None);
            }
            Err(error) => {
                let refused = Some((now, error.to_string()));
                if self.refused == refused {
                    return;
                }
                self.refused = refused;
                metrics::counter!("chemxor_tls_reloads_total", "outcome" => "refused").increment(1);
                tracing::warn!(%error, "new certificates are not used; the old ones go on");
            }
        }
    }

    fn show(&self) {
        if let Some(until) = self.configs.until {
            metrics::gauge!("chemxor_certificate_expiry_timestamp_seconds").set(until as f64);
        }
        let refused = f64::from(self.refused.is_some());
        metrics::gauge!("chemxor_certificate_refused").set(refused);
    }
}

/// A party's certificates as the files have them now. New connections look at the files, at most
/// four times a second, and a service does so every second; connections that are open stay as they
/// are, so that replacing the files drops no call. Files that do not fit together (a certificate
/// without its key, while they are being replaced) are logged, and what was read before goes on.
pub struct Identity {
    files: TlsFiles,
    state: Mutex<State>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.files).finish()
    }
}

impl Identity {
    /// Reads the files.
    pub fn load(files: &TlsFiles) -> Result<Arc<Self>, RuntimeError> {
        install_provider();
        // an alert on its growth must see the first one, too
        metrics::counter!("chemxor_tls_reloads_total", "outcome" => "refused").increment(0);
        let stamp = stamp(files);
        let state = State {
            configs: read_configs(files)?,
            stamp,
            looked: Instant::now(),
            refused: None,
        };
        state.show();
        Ok(Arc::new(Self {
            files: files.clone(),
            state: Mutex::new(state),
        }))
    }

    /// Looks at the files every second, for ever: what is replaced is noticed also where nobody
    /// connects.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut due = tokio::time::interval(WATCH);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            let identity = self.clone();
            // reads files: not on a thread that serves
            let looked = tokio::task::spawn_blocking(move || {
                identity.configs();
            });
            // an error says that the runtime ends
            let _ = looked.await;
        }
    }

    fn configs(&self) -> Configs {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK {
            state.look(&self.files);
            state.show();
        }
        state.configs.clone()
    }

    /// For the next connection that comes in.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.configs().server
    }

    /// For the next connection that goes out.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.configs().client
    }
}

fn read_configs(files: &TlsFiles) -> Result<Configs, RuntimeError> {
    let refuse = |path: &Path| {
        let path = path.to_owned();
        move |error: &dyn std::fmt::Display| RuntimeError::file(&path, error)
    };
    let chain = |path: &Path| {
        let pem = read(path)?;
        let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let certs = certs.map_err(|error| refuse(path)(&error))?;
        match certs.is_empty() {
            true => Err(refuse(path)(&"holds no certificate in PEM")),
            false => Ok(certs),
        }
    };
    let mut roots = RootCertStore::empty();
    for authority in chain(&files.ca)? {
        roots
            .add(authority)
            .map_err(|error| refuse(&files.ca)(&error))?;
    }
    let roots = Arc::new(roots);
    let certs = chain(&files.cert)?;
    let key_pem = read(&files.key)?;
    let key =
        PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| refuse(&files.key)(&error))?;
    let until = certs.first().and_then(|cert| not_after(cert));
    let versions = [&rustls::version::TLS13];
    let verifier = WebPkiClientVerifier::builder(roots.clone())
        .build()
        .map_err(|error| refuse(&files.ca)(&error))?;
    let mut server = ServerConfig::builder_with_protocol_versions(&versions)
        .with_client_cert_verifier(verifier)
        .with_single_cert(certs.clone(), key.clone_key())
        .map_err(|error| refuse(&files.cert)(&error))?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    // a session taken up again would not show its certificate again, which may have ended meanwhile
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    let mut client = ClientConfig::builder_with_protocol_versions(&versions)
        .with_root_certificates(roots)
        .with_client_auth_cert(certs, key)
        .map_err(|error| refuse(&files.cert)(&error))?;
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Configs {
        server: Arc::new(server),
        client: Arc::new(client),
        until,
    })
}

fn not_after(cert: &CertificateDer<'_>) -> Option<i64> {
    let (_, cert) = x509_parser::parse_x509_certificate(cert).ok()?;
    Some(cert.validity().not_after.timestamp())
}

/// host and endpoint of `host:port`.
fn endpoint(address: &str) -> Result<(String, Endpoint), RuntimeError> {
    let bad = || RuntimeError::Endpoint(address.chars().take(100).collect());
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    port.parse::<u16>().map_err(|_| bad())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(bad());
    }
    // the connector below speaks TLS itself; tonic would insist on doing so for https
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| bad())?;
    let origin: Uri = format!("https://{address}").parse().map_err(|_| bad())?;
    let endpoint = endpoint
        .origin(origin)
        .connect_timeout(CONNECT_DEADLINE)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(HTTP2_FRAME)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    Ok((host.to_owned(), endpoint))
}

/// Opens TCP and TLS to host:port with the certificates of this moment.
async fn dial(
    address: String,
    host: String,
    identity: Arc<Identity>,
) -> std::io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(&address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
    let connector = TlsConnector::from(identity.client());
    Ok(TokioIo::new(connector.connect(name, stream).await?))
}

/// What to look at when this failure is of a certificate outside its time; else nothing.
pub fn clock_advice(reason: &str) -> &'static str {
    // the verifier's words, and the alert by which the other side says the same
    let outside = [
        "certificate expired",
        "certificate not valid yet",
        "CertificateExpired",
    ];
    match outside.iter().any(|words| reason.contains(words)) {
        true => " (a certificate is outside its time: it has ended, or a clock is wrong)",
        false => "",
    }
}

/// Connects to host:port now.
pub async fn connect(address: &str, files: &TlsFiles) -> Result<Channel, RuntimeError> {
    let identity = Identity::load(files)?;
    let (host, endpoint) = endpoint(address)?;
    let to = address.to_owned();
    let connector =
        tower::service_fn(move |_: Uri| dial(to.clone(), host.clone(), identity.clone()));
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|error| {
        // the useful part is at the end of the chain
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        reason.push_str(clock_advice(&reason));
        RuntimeError::Unreachable {
            endpoint: address.to_owned(),
            reason,
        }
    })
}

/// A channel to host:port that connects when first used, and again after a break, each time with
/// the certificates of that moment.
pub fn connect_lazy(address: &str, identity: &Arc<Identity>) -> Result<Channel, RuntimeError> {
    let (host, endpoint) = endpoint(address)?;
    let (to, identity) = (address.to_owned(), identity.clone());
    let connector =
        tower::service_fn(move |_: Uri| dial(to.clone(), host.clone(), identity.clone()));
    Ok(endpoint.connect_with_connector_lazy(connector))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_need_host_and_port() {
        for address in ["", "localhost", ":1", "localhost:port", "localhost:70000"] {
            assert!(
                matches!(endpoint(address), Err(RuntimeError::Endpoint(_))),
                "{address}"
            );
        }
    }
}
