//! A gateway between doubles, with certificates of an authority made for the test.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use chemxor_core::{
    BlobDigest, BlobRef, DataFingerprint, Featuriser, MANIFEST_FORMAT, Manifest, Metrics,
    OutputScaling, RingName, RingStatement, StepGraph, StepKind, StepSpec, Task,
};
use chemxor_gateway::{GatewayConfig, Limits, RunningGateway};
use chemxor_proto::v1;
use chemxor_proto::v1::control_server::ControlServer;
use chemxor_proto::v1::metering_server::MeteringServer;
use chemxor_runtime::operations::Operations;
use chemxor_runtime::pki::{DevAuthority, Subject};
use chemxor_runtime::serve::Served;
use chemxor_runtime::tls::{self, TlsFiles};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic::transport::{Channel, Server};

use super::client::{Client, PATIENCE, open_frame};
use super::registry::{Known, Mood, RegistryDouble, TOKEN};
use super::worker::{Journal, RunningWorker};

/// Steps of the model of these tests.
pub(crate) const STEPS: u32 = 3;

/// Which model the platform serves; they differ in the length of the first reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    /// One output ciphertext in steps 0 and 2, five in step 1.
    Plain,
    /// 5500 output ciphertexts in step 0: more than 8 MiB.
    Wide,
}

impl Model {
    fn outputs(self, step: u32) -> u32 {
        match (self, step) {
            (Self::Wide, 0) => 5500,
            (_, 0) => 8,
            (_, 1) => 80,
            _ => 1,
        }
    }

    /// Output ciphertexts of a step and bytes of each.
    pub(crate) fn reply(self, step: u32) -> (u32, usize) {
        let packed = |count: usize, bits: usize| (count * bits).div_ceil(8);
        let outputs = self.outputs(step) as usize;
        let each = match (self, step) {
            (Self::Wide, 0) => 1,
            _ => 1024 / 64,
        };
        let in_one = outputs.min(each);
        let released = if step + 1 == STEPS { 8 } else { 0 };
        let bytes = packed(1024, 12) + packed(in_one, 12) + packed(in_one, released);
        (outputs.div_ceil(each) as u32, bytes)
    }
}

pub(crate) struct Platform {
    pub(crate) gateway: RunningGateway,
    pub(crate) registry: Arc<Known>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) workers: Vec<RunningWorker>,
    pub(crate) stop: CancellationToken,
    model: Model,
    authority: DevAuthority,
    folder: TempDir,
    _stop: DropGuard,
}

fn step(model: Model, index: u32) -> StepSpec {
    StepSpec {
        geometry: Default::default(),
        expansion: Default::default(),
        kind: if index == 0 {
            StepKind::Static
        } else {
            StepKind::Lookup
        },
        inputs: match index {
            0 => 64,
            _ => model.outputs(index - 1),
        },
        outputs: model.outputs(index),
        input_bits: 4,
        accumulator_bits: 12,
        output_bits: if index + 1 == STEPS { 8 } else { 4 },
        ring: RingName::N1024Q32,
        inputs_per_polynomial: match (model, index) {
            (Model::Wide, 0) => 1024,
            _ => 64,
        },
        body_bits: 24,
        switch_bits: 12,
    }
}

fn manifest(model: Model) -> Manifest {
    let steps = (0..STEPS).map(|index| step(model, index));
    let graph = StepGraph::new(steps.collect()).unwrap();
    Manifest {
        format: MANIFEST_FORMAT,
        name: "demo".parse().unwrap(),
        task: Task::Regression,
        endpoint: "solubility".into(),
        unit: "log10 mol/L".into(),
        description: "of a test".into(),
        featuriser: Featuriser::EcfpCounts {
            version: 1,
            radius: 2,
            size: 64,
            max_count: 15,
        },
        outputs: vec![OutputScaling::new(1.0, 0.0)],
        blobs: (0..STEPS)
            .map(|step| BlobRef {
                digest: BlobDigest::of(&[step as u8]),
                bytes: 1,
            })
            .collect(),
        metrics: Metrics {
            metric: "rmse".into(),
            float: 1.0,
            twin: 1.0,
        },
        data: DataFingerprint {
            sha256: "0".repeat(64),
            train_rows: 1,
            test_rows: 1,
        },
        standardisation: chemxor_core::Standardisation::default(),
        domain: None,
        known_answers: Vec::new(),
        privacy: None,
        rings: graph
            .rings()
            .into_iter()
            .map(|ring| RingStatement {
                ring,
                lwe_dimension: 1024,
                torus_bits: 32,
                log2_noise_std: -22.8,
            })
            .collect(),
        leakage_bits_per_query: graph.leakage_bits_per_query(),
        graph,
        toolchain: "test".into(),
        seed: 1,
    }
}

impl Platform {
    /// Starts a worker for each run of steps, one after the other named a, b, c…
    pub(crate) async fn start(runs: &[std::ops::Range<u32>], limits: Limits) -> Self {
        Self::serving(Model::Plain, runs, limits, Operations::default()).await
    }

    /// The same with this model and these operations.
    pub(crate) async fn serving(
        model: Model,
        runs: &[std::ops::Range<u32>],
        limits: Limits,
        operations: Operations,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = DevAuthority::create_or_load(folder.path()).unwrap();
        let stop = CancellationToken::new();
        let journal = Arc::new(Journal::default());
        let mut workers = Vec::new();
        let mut placements = Vec::new();
        for (name, run) in ["a", "b", "c", "d"].into_iter().zip(runs) {
            let tls = worker_tls(&authority, folder.path(), name);
            workers.push(RunningWorker::start(name, 0, model, &tls, &journal));
            placements.push(v1::Placement {
                worker: name.into(),
                first_step: run.start,
                end_step: run.end,
                ..Default::default()
            });
        }
        let known = workers.iter().map(known).collect();
        let registry = Arc::new(Known {
            manifest: manifest(model).to_bytes().unwrap(),
            placements: Mutex::new(placements),
            workers: Mutex::new(known),
            others: Default::default(),
            mood: watch::Sender::new(Mood::Allows),
            unlisted: AtomicBool::new(false),
            organisation: Mutex::new("lab".into()),
            checks: Default::default(),
            answered: Default::default(),
            fails_checks: Default::default(),
            ledger: Default::default(),
            changed: Default::default(),
            rights: Default::default(),
        });
        let registry_tls = issue(&authority, &Subject::Registry, folder.path(), "registry");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry_port = listener.local_addr().unwrap().port();
        let double = RegistryDouble(registry.clone());
        let router = Server::builder()
            .add_service(ControlServer::new(double.clone()))
            .add_service(MeteringServer::new(double));
        let served = Served::new(&registry_tls, Operations::default()).unwrap();
        tokio::spawn(served.run(router, listener, stop.clone()));
        let config = GatewayConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            registry: format!("localhost:{registry_port}"),
            tls: issue(&authority, &Subject::Gateway, folder.path(), "gateway"),
            limits,
            operations,
        };
        let gateway = chemxor_gateway::start(config, stop.clone()).await.unwrap();
        Self {
            gateway,
            registry,
            journal,
            workers,
            model,
            _stop: stop.clone().drop_guard(),
            stop,
            authority,
            folder,
        }
    }

    /// A connection of its own to the gateway, with a certificate for this subject.
    pub(crate) async fn connect(&self, subject: &Subject) -> Channel {
        let tls = issue(&self.authority, subject, self.folder.path(), "peer");
        let address = format!("localhost:{}", self.gateway.addr().port());
        tls::connect(&address, &tls).await.unwrap()
    }

    pub(crate) async fn try_open(
        &self,
        token: Option<&str>,
        first: v1::ClientFrame,
    ) -> Result<Client, Status> {
        let subject = Subject::Client("lab".parse().unwrap());
        Client::open(self.connect(&subject).await, token, first).await
    }

    /// An open session.
    pub(crate) async fn open(&self) -> Client {
        self.try_open(Some(TOKEN), open_frame()).await.unwrap()
    }

    /// Waits until as many sessions are open.
    pub(crate) async fn sessions(&self, count: usize) {
        let mut sessions = self.gateway.sessions();
        let reached = sessions.wait_for(|open| *open == count);
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached.expect("sessions open and end").unwrap();
    }

    /// Starts a killed worker again, at the same port or, with 0, at another one.
    pub(crate) fn restart(&mut self, index: usize, port: u16) {
        let name = self.workers[index].name.clone();
        let tls = worker_tls(&self.authority, self.folder.path(), &name);
        self.workers[index] = RunningWorker::start(&name, port, self.model, &tls, &self.journal);
        *self.registry.workers.lock().unwrap() = self.workers.iter().map(known).collect();
    }
}

fn known(worker: &RunningWorker) -> v1::Worker {
    v1::Worker {
        name: worker.name.clone(),
        endpoint: format!("localhost:{}", worker.port),
        ..Default::default()
    }
}

fn issue(authority: &DevAuthority, subject: &Subject, folder: &Path, name: &str) -> TlsFiles {
    authority.issue_to(subject, folder, name).unwrap()
}

fn worker_tls(authority: &DevAuthority, folder: &Path, name: &str) -> TlsFiles {
    issue(
        authority,
        &Subject::Worker(name.parse().unwrap()),
        folder,
        name,
    )
}
