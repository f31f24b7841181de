//! A served router lets in who shows a living certificate of the platform over TLS 1.3, and stops
//! when told to. The service behind it is the health check that every server has.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use chemxor_runtime::RuntimeError;
use chemxor_runtime::operations::Operations;
use chemxor_runtime::pki::{DevAuthority, Subject};
use chemxor_runtime::serve::{READY, Served as Serving};
use chemxor_runtime::tls::{TlsFiles, connect};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion,
};
use tempfile::TempDir;
use time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

struct Served {
    address: SocketAddr,
    authority: DevAuthority,
    folder: TempDir,
    ready: watch::Sender<bool>,
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
    let mut server = Server::builder();
    // `run` adds the real health service; a router needs one to begin with
    let router = server.add_optional_service(Some(unused).filter(|_| false));
    let stop = CancellationToken::new();
    let operations = Operations {
        reflection: true,
        ..Operations::default()
    };
    let made = Serving::new(&files, operations).unwrap();
    let ready = made.ready();
    let task = tokio::spawn(made.run(router, listener, stop.clone()));
    Served {
        address,
        authority,
        folder,
        ready,
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

/// A client of exactly this version, with a good certificate or none.
fn client_config(
    files: &TlsFiles,
    version: &'static SupportedProtocolVersion,
    certificate: bool,
) -> Arc<ClientConfig> {
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
    Arc::new(config)
}

/// Shakes hands, and says whether in full or by taking up a former session.
fn handshake(address: SocketAddr, config: &Arc<ClientConfig>) -> Result<HandshakeKind, String> {
    let name = "localhost".try_into().unwrap();
    let mut tls = ClientConnection::new(config.clone(), name).unwrap();
    let mut tcp = TcpStream::connect(address).unwrap();
    let mut step = || tls.complete_io(&mut tcp).map_err(|error| error.to_string());
    step()?;
    // the server's first bytes, or its refusal of our certificate
    step()?;
    Ok(tls.handshake_kind().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tls_1_3_with_a_certificate_shakes_hands() {
    use rustls::version::{TLS12, TLS13};
    let served = served().await;
    let (address, files) = (served.address, served.client());
    let outcomes = tokio::task::spawn_blocking(move || {
        [(&TLS13, true), (&TLS13, false), (&TLS12, true)].map(|(version, certificate)| {
            handshake(address, &client_config(&files, version, certificate))
        })
    });
    let [good, bare, old] = outcomes.await.unwrap();
    assert_eq!(good, Ok(HandshakeKind::Full));
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

/// A session taken up again would let its client in without another look at the certificate, which
/// may have ended or been replaced.
#[tokio::test(flavor = "multi_thread")]
async fn no_session_is_taken_up_again() {
    let served = served().await;
    let (address, files) = (served.address, served.client());
    let kinds = tokio::task::spawn_blocking(move || {
        // remembers the tickets of its sessions
        let config = client_config(&files, &rustls::version::TLS13, true);
        [(); 3].map(|()| handshake(address, &config))
    });
    assert_eq!(kinds.await.unwrap(), [const { Ok(HandshakeKind::Full) }; 3]);
}

async fn status_of(client: &mut HealthClient<tonic::transport::Channel>, service: &str) -> i32 {
    let service = service.to_owned();
    let answer = client.check(HealthCheckRequest { service }).await.unwrap();
    answer.into_inner().status
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_is_apart_from_liveness() {
    let served = served().await;
    let address = format!("localhost:{}", served.address.port());
    let channel = connect(&address, &served.client()).await.unwrap();
    let mut client = HealthClient::new(channel);
    let watched = HealthCheckRequest {
        service: READY.to_owned(),
    };
    let mut changes = client.watch(watched).await.unwrap().into_inner();
    let (serving, not) = (
        ServingStatus::Serving as i32,
        ServingStatus::NotServing as i32,
    );
    let mut hear = async || changes.message().await.unwrap().unwrap().status;
    while hear().await != serving {}
    served.ready.send_replace(false);
    assert_eq!(hear().await, not);
    assert_eq!(status_of(&mut client, READY).await, not);
    assert_eq!(status_of(&mut client, "").await, serving);
    served.ready.send_replace(true);
    assert_eq!(hear().await, serving);
}

/// The certificate that a server shows now.
async fn shown(address: &str, files: &TlsFiles) -> Vec<u8> {
    let identity = chemxor_runtime::tls::Identity::load(files).unwrap();
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(identity.client());
    let name = "localhost".try_into().unwrap();
    let tls = connector.connect(name, tcp).await.unwrap();
    tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_certificates_are_used_by_new_connections_and_drop_no_old_one() {
    let served = served().await;
    let files = served.client();
    let address = format!("localhost:{}", served.address.port());
    let mut old = HealthClient::new(connect(&address, &files).await.unwrap());
    let first = shown(&address, &files).await;
    // a certificate without its key, as it is while files are being copied
    let server = served.folder.path().join("server.pem");
    let kept = std::fs::read(&server).unwrap();
    std::fs::copy(&files.cert, &server).unwrap();
    let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut looks = 0;
    while looks < 20 {
        assert_eq!(shown(&address, &files).await, first, "the pair is kept");
        looks += 1;
    }
    std::fs::write(&server, kept).unwrap();
    let folder = served.folder.path();
    let again = served
        .authority
        .issue_to(&Subject::Registry, folder, "server");
    again.unwrap();
    while shown(&address, &files).await == first {
        assert!(tokio::time::Instant::now() < patience, "never reloaded");
        tokio::task::yield_now().await;
    }
    assert_eq!(
        status_of(&mut old, "").await,
        ServingStatus::Serving as i32,
        "the old connection goes on"
    );
    // a client that dials again after its own files were replaced shows the new ones
    let renewed = served.client();
    assert!(served.answers(&renewed).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_described_to_operators_only() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response};
    let served = served().await;
    let address = format!("localhost:{}", served.address.port());
    let folder = served.folder.path();
    let operator = Subject::Operator("olga".parse().unwrap());
    let operator = served.authority.issue_to(&operator, folder, "operator");
    let ask = async |files: &TlsFiles| {
        let channel = connect(&address, files).await.unwrap();
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let asked = ServerReflectionClient::new(channel)
            .server_reflection_info(tokio_stream::iter([request]))
            .await?;
        let answer = asked.into_inner().message().await?;
        Ok::<_, tonic::Status>(answer.and_then(|answer| answer.message_response))
    };
    let Some(server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        ask(&operator.unwrap()).await.unwrap()
    else {
        panic!("the services are listed");
    };
    assert!(list.service.iter().any(|s| s.name == "chemxor.v1.Query"));
    let refused = ask(&served.client()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_shakes_hands_keeps_nobody_waiting() {
    let served = served().await;
    // more than may shake hands at the same time
    let silent: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(served.address).unwrap())
        .collect();
    assert!(served.answers(&served.client()).await);
    drop(silent);
}
