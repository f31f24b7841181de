//! A served router lets in who shows a living certificate of the platform over TLS 1.3, and stops
//! when told to. The service behind it is the health check that every server has.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use chemxor_runtime::pki::{DevAuthority, Subject};
use chemxor_runtime::tls::{TlsFiles, connect, server_tls};
use chemxor_runtime::{RuntimeError, serve};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

struct Served {
    address: SocketAddr,
    authority: DevAuthority,
    folder: TempDir,
    stop: CancellationToken,
    task: JoinHandle<Result<(), RuntimeError>>,
}

async fn served() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let authority = DevAuthority::create_or_load(folder.path()).unwrap();
    let files = authority
        .issue_to(&Subject::Registry, folder.path(), "server")
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, unused) = tonic_health::server::health_reporter();
    let mut server = Server::builder()
        .tls_config(server_tls(&files).unwrap())
        .unwrap();
    // `run` adds the real health service; a router needs one to begin with
    let router = server.add_optional_service(Some(unused).filter(|_| false));
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve::run(router, listener, stop.clone()));
    Served {
        address,
        authority,
        folder,
        stop,
        task,
    }
}

impl Served {
    fn client(&self) -> TlsFiles {
        let subject = Subject::Client("lab".parse().unwrap());
        let folder = self.folder.path();
        self.authority.issue_to(&subject, folder, "client").unwrap()
    }

    async fn answers(&self, files: &TlsFiles) -> bool {
        let address = format!("localhost:{}", self.address.port());
        // TLS 1.3 tells a client that it was refused only after the handshake
        let Ok(channel) = connect(&address, files).await else {
            return false;
        };
        let request = HealthCheckRequest::default();
        HealthClient::new(channel).check(request).await.is_ok()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_platform_is_let_in_until_the_stop() {
    let served = served().await;
    let files = served.client();
    assert!(served.answers(&files).await);
    served.stop.cancel();
    served.task.await.unwrap().unwrap();
    let late = TcpStream::connect(served.address);
    assert!(late.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_and_expired_certificates_are_not_let_in() {
    let served = served().await;
    let good = served.client();
    let subject = Subject::Gateway;
    let folder = tempfile::tempdir().unwrap();
    let foreign = DevAuthority::create_or_load(folder.path()).unwrap();
    let foreign = foreign
        .issue_to(&subject, folder.path(), "foreign")
        .unwrap();
    let expired = served.authority.issue(&subject, -Duration::HOUR).unwrap();
    let expired = expired.write(folder.path(), "expired").unwrap();
    for stranger in [foreign, expired] {
        let ca = good.ca.clone();
        assert!(!served.answers(&TlsFiles { ca, ..stranger }).await);
    }
    assert!(served.answers(&good).await);
}

/// Shakes hands in exactly this version, with a good certificate or none.
fn handshake(
    address: SocketAddr,
    files: &TlsFiles,
    version: &'static SupportedProtocolVersion,
    certificate: bool,
) -> Result<(), String> {
    let pem = |path: &Path| CertificateDer::from_pem_file(path).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(pem(&files.ca)).unwrap();
    // not the process's provider: this client would speak TLS 1.2
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = if certificate {
        let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
        config
            .with_client_auth_cert(vec![pem(&files.cert)], key)
            .unwrap()
    } else {
        config.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = "localhost".try_into().unwrap();
    let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tcp = TcpStream::connect(address).unwrap();
    let mut step = || tls.complete_io(&mut tcp).map_err(|error| error.to_string());
    step()?;
    // the server's first bytes, or its refusal of our certificate
    step().map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tls_1_3_with_a_certificate_shakes_hands() {
    use rustls::version::{TLS12, TLS13};
    let served = served().await;
    let (address, files) = (served.address, served.client());
    let outcomes = tokio::task::spawn_blocking(move || {
        [(&TLS13, true), (&TLS13, false), (&TLS12, true)]
            .map(|(version, certificate)| handshake(address, &files, version, certificate))
    });
    let [good, bare, old] = outcomes.await.unwrap();
    assert_eq!(good, Ok(()));
    assert!(
        bare.as_ref()
            .is_err_and(|e| e.contains("CertificateRequired")),
        "{bare:?}"
    );
    assert!(
        old.as_ref()
            .is_err_and(|e| e.contains("ProtocolVersion") || e.contains("HandshakeFailure")),
        "{old:?}"
    );
}
