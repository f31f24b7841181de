//! A real worker between doubles, with certificates of an authority made for the test.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chemxor_fhe::sealing::SealingKeyPair;
use chemxor_proto::v1;
use chemxor_proto::v1::control_server::ControlServer;
use chemxor_runtime::operations::{Operations, install_metrics, metrics_text};
use chemxor_runtime::pki::{DevAuthority, Subject};
use chemxor_runtime::serve::Served;
use chemxor_runtime::tls;
use chemxor_worker::{RunningWorker, STREAM_MEMORY_MIB, WorkerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic::transport::{Channel, Server};

use super::model::Model;
use super::registry::{Known, RegistryDouble};
use super::stream::Stream;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Platform {
    pub(crate) worker: RunningWorker,
    pub(crate) registry: Arc<Known>,
    /// Stops the worker; the registry stays.
    pub(crate) stop: CancellationToken,
    sealing_key: Vec<u8>,
    operations: u16,
    authority: DevAuthority,
    folder: TempDir,
    _stop: [DropGuard; 2],
}

/// What a worker of a test is given.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) evaluations: Option<usize>,
    pub(crate) memory_limit_mib: Option<usize>,
}

impl Platform {
    /// A worker to which these models are assigned, ready to serve.
    pub(crate) async fn serving(options: Options, models: &[&Model]) -> Self {
        let assign = |registry: &Known, key: &[u8]| {
            for model in models {
                registry.assign(model, key);
            }
        };
        let platform = Self::start(options, assign).await;
        platform.ready().await;
        platform
    }

    /// Waits until the worker is ready: it has loaded what it was first told.
    pub(crate) async fn ready(&self) {
        let ready = async { while self.page("/readyz").await != 200 {} };
        let ready = tokio::time::timeout(PATIENCE, ready).await;
        ready.expect("the worker becomes ready");
    }

    /// Before the worker starts, `prepare` is done to the registry, with the worker's sealing key.
    pub(crate) async fn start(options: Options, prepare: impl FnOnce(&Known, &[u8])) -> Self {
        install_metrics();
        let folder = tempfile::tempdir().unwrap();
        let authority = DevAuthority::create_or_load(folder.path()).unwrap();
        let issue = |subject: &Subject, name: &str| {
            authority.issue_to(subject, folder.path(), name).unwrap()
        };
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let registry = Arc::new(Known::default());
        let keys = SealingKeyPair::generate();
        prepare(&registry, keys.public());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router =
            Server::builder().add_service(ControlServer::new(RegistryDouble(registry.clone())));
        let files = issue(&Subject::Registry, "registry");
        let served = Served::new(&files, Operations::default()).unwrap();
        tokio::spawn(served.run(router, listener, end.clone()));
        let sealing_key = folder.path().join("sealing-key");
        std::fs::write(&sealing_key, &*keys.to_secret()).unwrap();
        let owner_only = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&sealing_key, owner_only).unwrap();
        // free now; somebody else could take it before it is used, then the test fails
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let operations = free.local_addr().unwrap().port();
        drop(free);
        let config = WorkerConfig {
            name: "a".parse().unwrap(),
            listen: ([127, 0, 0, 1], 0).into(),
            advertise: None,
            registry: format!("localhost:{port}"),
            tls: issue(&Subject::Worker("a".parse().unwrap()), "a"),
            sealing_key,
            evaluations: options.evaluations,
            memory_limit_mib: options.memory_limit_mib,
            stream_memory_mib: STREAM_MEMORY_MIB,
            organisations: Vec::new(),
            operations: Operations {
                listen: Some(([127, 0, 0, 1], operations).into()),
                drain_ms: PATIENCE.as_millis() as u64,
                ..Operations::default()
            },
        };
        let worker = chemxor_worker::start(config, stop.clone()).await.unwrap();
        Self {
            worker,
            registry,
            sealing_key: keys.public().to_vec(),
            operations,
            authority,
            folder,
            _stop: [stop.clone().drop_guard(), end.drop_guard()],
            stop,
        }
    }

    pub(crate) fn assignment(&self, model: &Model) -> v1::Assignment {
        model.assignment(&self.sealing_key)
    }

    /// Assigns one more model.
    pub(crate) fn assign(&self, model: &Model) {
        self.registry.assign(model, &self.sealing_key);
    }

    /// Assigns one more model whose blobs are not handed out, and waits until one is asked for.
    pub(crate) async fn assign_held(&self, model: &Model) {
        self.registry.hold(&model.version.to_string());
        self.assign(model);
        self.fetched(model, 1).await;
    }

    /// Waits until blobs of a model were asked for so many times.
    pub(crate) async fn fetched(&self, model: &Model, times: u64) {
        let version = model.version.to_string();
        let mut fetches = self.registry.fetches.subscribe();
        let reached = fetches.wait_for(|all| all.get(&version).is_some_and(|n| *n >= times));
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        drop(reached.expect("the blob is asked for").unwrap());
    }

    /// Waits until the worker has been told its assignments this many times more. What it was told
    /// before the last of them holds then; what is to be loaded may still be on its way.
    pub(crate) async fn lists(&self, more: u64) {
        let mut lists = self.registry.lists.subscribe();
        let target = *lists.borrow() + more;
        let reached = tokio::time::timeout(PATIENCE, lists.wait_for(|count| *count >= target));
        reached.await.expect("the worker asks").unwrap();
    }

    /// A connection of its own to the worker, with a certificate for this subject.
    pub(crate) async fn connect(&self, subject: &Subject) -> Channel {
        let issued = self.authority.issue_to(subject, self.folder.path(), "peer");
        let address = format!("localhost:{}", self.worker.addr().port());
        tls::connect(&address, &issued.unwrap()).await.unwrap()
    }

    /// The certificate of the last connection.
    pub(crate) fn peer_certificate(&self) -> PathBuf {
        self.folder.path().join("peer.pem")
    }

    pub(crate) async fn try_open(&self, model: &Model) -> Result<Stream, Status> {
        Stream::open(self.connect(&Subject::Gateway).await, model).await
    }

    /// An open stream for this model.
    pub(crate) async fn open(&self, model: &Model) -> Stream {
        self.try_open(model).await.unwrap()
    }

    /// Status code of a page of the operations port.
    pub(crate) async fn page(&self, path: &str) -> u16 {
        // it listens a moment after the worker has started
        let listening = async {
            loop {
                match TcpStream::connect(("127.0.0.1", self.operations)).await {
                    Ok(connection) => break connection,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let listening = tokio::time::timeout(PATIENCE, listening).await;
        let mut connection = listening.expect("the operations port listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// A value of this process' metrics, 0 when nothing was counted: `name` with its labels.
pub(crate) fn metric(name: &str) -> u64 {
    let text = metrics_text();
    let value = text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(' ')?;
        Some(value.parse::<f64>().unwrap() as u64)
    });
    value.unwrap_or(0)
}

/// Waits until a metric has a value.
pub(crate) async fn until_metric(name: &str, value: u64) {
    let reached = async {
        while metric(name) != value {
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    assert!(reached.is_ok(), "{name} is {}, not {value}", metric(name));
}

/// Steps that were evaluated.
pub(crate) const EVALUATED: &str = "chemxor_worker_step_seconds_count";
/// Steps that got their permits.
pub(crate) const ADMITTED: &str = "chemxor_worker_wait_seconds_count";
/// Permits in use.
pub(crate) const BUSY: &str = "chemxor_worker_permits_busy";
/// Steps that nobody waited for any more.
pub(crate) const CANCELLED: &str = "chemxor_worker_steps_total{outcome=\"cancelled\"}";
