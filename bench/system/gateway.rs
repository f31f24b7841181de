//! What the gateway costs: throughput beside the same queries sent to the worker directly, memory
//! while 1 GiB passes through one session, memory of 500 idle sessions. The run fails, after its last
//! figure, when one misses its aim.

use std::fmt::Display;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chemxor_client::Access;
use chemxor_client::catalog;
use chemxor_client::session::Session;
use chemxor_fhe::client::ClientKey;
use futures::StreamExt;
use futures::stream;

use crate::direct::Direct;
use crate::platform::Platform;
use crate::proc::{cpu_seconds, memory_mib};

/// Queries at the same time.
const IN_FLIGHT: usize = 8;
const TURNS: usize = 10;

/// Throughput through a gateway with a core of its own, as a share of what the worker gives directly.
const SHARE: Aim = Aim::AtLeast(0.9);
/// MiB that the gateway ever has while 1 GiB passes through one session.
const PEAK: Aim = Aim::Below(256.0);
/// MiB that the gateway has with 500 idle sessions.
const IDLE: Aim = Aim::Below(200.0);

/// What a figure should be.
#[derive(Clone, Copy)]
enum Aim {
    AtLeast(f64),
    Below(f64),
}

impl Aim {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::Below(limit) => value < limit,
        }
    }
}

impl Display for Aim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::Below(limit) => write!(f, "< {limit}"),
        }
    }
}

/// Prints figures, and keeps those that missed their aim.
#[derive(Default)]
struct Figures {
    missed: Vec<String>,
}

impl Figures {
    /// One without an aim.
    fn tell(&self, figure: &str, value: impl Display, unit: &str) {
        println!("{figure},{value},{unit},");
    }

    /// One with an aim, or in `--quick` without.
    fn judge(&mut self, figure: &str, value: f64, digits: usize, unit: &str, aim: Option<Aim>) {
        let wanted = aim.map_or_else(String::new, |aim| aim.to_string());
        println!("{figure},{value:.digits$},{unit},{wanted}");
        if aim.is_some_and(|aim| !aim.met(value)) {
            let missed = format!("{figure} is {value:.digits$} {unit}, wanted {wanted}");
            self.missed.push(missed);
        }
    }
}

pub(crate) fn run(quick: bool) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!("figure,value,unit,wanted");
    let missed = runtime.block_on(measure(quick)).missed;
    assert!(missed.is_empty(), "aims missed: {}", missed.join("; "));
}

async fn measure(quick: bool) -> Figures {
    let mut figures = Figures::default();
    let platform = tokio::task::spawn_blocking(|| {
        let mut platform = Platform::start(1);
        platform.allow_sessions(1000);
        platform.publish_spread("esol", true, "replicas");
        let bundle = platform.path("olinda-zero.cxb").display().to_string();
        let made =
            Command::new(Path::new(env!("CARGO_BIN_EXE_chemxor")).with_file_name("chemxor-bench"))
                .args(["bundle", "olinda-zero", &bundle])
                .status();
        assert!(made.unwrap().success(), "chemxor-bench is built first");
        platform.publish_bundle("olinda-zero", &bundle, true, "replicas");
        platform
    })
    .await
    .unwrap();
    for (name, queries) in [("esol", 10_000), ("olinda-zero", 2_000)] {
        let queries = if quick { queries / 10 } else { queries };
        let model = Model::open(&platform, name).await;
        model
            .compare(&platform, queries, "", None, &mut figures)
            .await;
        // with a core of its own, as on a machine of its own: does the gateway keep up?
        let cores = Cores::apart(&platform);
        // a tenth of the queries scatters by more than what is aimed at
        let aim = (!quick).then_some(SHARE);
        model
            .compare(&platform, queries, "own_core_", aim, &mut figures)
            .await;
        drop(cores);
    }
    let model = Model::open(&platform, "esol").await;
    model.long_session(&platform, quick, &mut figures).await;
    model.idle_sessions(&platform, quick, &mut figures).await;
    tokio::task::spawn_blocking(move || drop(platform))
        .await
        .unwrap();
    figures
}

/// The gateway alone on the last core, client and worker on the others; whatever way a query takes,
/// client and worker have the same cores. Dropped, everybody may run everywhere again.
struct Cores(Vec<u32>, usize);

impl Cores {
    fn apart(platform: &Platform) -> Self {
        let last = std::thread::available_parallelism().unwrap().get() - 1;
        assert!(last > 0, "needs two cores or more");
        let gateway = platform.gateway.as_ref().unwrap().pid();
        let others = [
            std::process::id(),
            platform.workers[0].as_ref().unwrap().pid(),
        ];
        pin(gateway, &last.to_string());
        for pid in others {
            pin(pid, &format!("0-{}", last - 1));
        }
        Self([&[gateway][..], &others].concat(), last)
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        for pid in &self.0 {
            pin(*pid, &format!("0-{}", self.1));
        }
    }
}

/// All threads of a process, and those that they start.
fn pin(pid: u32, cores: &str) {
    let done = Command::new("taskset")
        .args([
            "--all-tasks",
            "--cpu-list",
            "--pid",
            cores,
            &pid.to_string(),
        ])
        .output()
        .expect("taskset, of util-linux");
    assert!(done.status.success(), "{done:?}");
}

/// A published model, and molecules to ask it.
struct Model {
    name: &'static str,
    access: Access,
    entry: catalog::Entry,
    key: Arc<ClientKey>,
    features: Vec<Vec<u16>>,
}

impl Model {
    async fn open(platform: &Platform, name: &'static str) -> Self {
        let registry = platform.access(&platform.registry.as_ref().unwrap().address);
        let entry = catalog::get(&registry, &name.parse().unwrap())
            .await
            .unwrap();
        let key = ClientKey::generate(&entry.manifest.graph.rings()).unwrap();
        let data = include_str!("../../data/esol.csv");
        let molecules = data
            .lines()
            .skip(1)
            .filter_map(|line| line.split(',').next());
        let featuriser = &entry.manifest.featuriser;
        let features =
            molecules.filter_map(|smiles| chemxor_chem::featurise(featuriser, smiles).ok());
        Self {
            name,
            access: platform.access(&platform.gateway.as_ref().unwrap().address),
            features: features.collect(),
            key: Arc::new(key),
            entry,
        }
    }

    async fn session(&self) -> Session {
        let (version, manifest) = (self.entry.version, self.entry.manifest.clone());
        Session::open(&self.access, version, manifest, self.key.clone())
            .await
            .unwrap()
    }

    fn molecule(&self, number: usize) -> Vec<u16> {
        self.features[number % self.features.len()].clone()
    }

    /// Throughput through the gateway and past it, in turns so that both meet the same machine.
    async fn compare(
        &self,
        platform: &Platform,
        queries: usize,
        cores: &str,
        aim: Option<Aim>,
        figures: &mut Figures,
    ) {
        let session = self.session().await;
        let worker = platform.workers[0].as_ref().unwrap();
        let direct = Direct::open(
            &worker.address,
            &platform.gateway_tls(),
            self.entry.version,
            self.entry.manifest.clone(),
            self.key.clone(),
        )
        .await;
        let parties = [
            ("client", std::process::id()),
            ("gateway", platform.gateway.as_ref().unwrap().pid()),
            ("worker", worker.pid()),
            ("registry", platform.registry.as_ref().unwrap().pid()),
        ];
        let mut seconds = [0.0; 2];
        let mut cpu = [[0.0; 2]; 4];
        for _ in 0..TURNS {
            for way in 0..2 {
                for (cpu, (_, pid)) in cpu.iter_mut().zip(parties) {
                    cpu[way] -= cpu_seconds(pid);
                }
                let begun = Instant::now();
                let (session, direct) = (&session, &direct);
                let mut answers = stream::iter(0..queries / TURNS)
                    .map(|number| async move {
                        let molecule = self.molecule(number);
                        match way {
                            0 => drop(session.predict(molecule).await.unwrap()),
                            _ => drop(direct.predict(&molecule).await),
                        }
                    })
                    .buffer_unordered(IN_FLIGHT);
                while answers.next().await.is_some() {}
                seconds[way] += begun.elapsed().as_secs_f64();
                for (cpu, (_, pid)) in cpu.iter_mut().zip(parties) {
                    cpu[way] += cpu_seconds(pid);
                }
            }
        }
        let named = |figure: &str| format!("{}_{cores}{figure}", self.name);
        for (way, seconds) in ["through_gateway", "direct_to_worker"]
            .into_iter()
            .zip(seconds)
        {
            let rate = format!("{:.1}", queries as f64 / seconds);
            figures.tell(&named(way), rate, "queries/s");
        }
        let share = seconds[1] / seconds[0];
        figures.judge(&named("share_of_direct"), share, 3, "ratio", aim);
        for (cpu, (party, _)) in cpu.iter().zip(parties) {
            for (way, cpu) in ["through_gateway", "direct"].iter().zip(cpu) {
                let figure = named(&format!("cpu_of_{party}_{way}"));
                let each = format!("{:.3}", cpu * 1e3 / queries as f64);
                figures.tell(&figure, each, "ms a query");
            }
        }
    }

    /// 1 GiB through one session.
    async fn long_session(&self, platform: &Platform, quick: bool, figures: &mut Figures) {
        let gateway = platform.gateway.as_ref().unwrap().pid();
        let goal: u64 = if quick { 64 << 20 } else { 1 << 30 };
        let (mut bytes, cpu, begun) = (0, cpu_seconds(gateway), Instant::now());
        let session = self.session().await;
        while bytes < goal {
            let session = &session;
            let mut answers = stream::iter(0..500)
                .map(|number| async move { session.predict(self.molecule(number)).await.unwrap() })
                .buffer_unordered(IN_FLIGHT);
            while let Some(prediction) = answers.next().await {
                bytes += prediction.bytes_up + prediction.bytes_down;
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = cpu_seconds(gateway) - cpu;
        figures.tell("one_session_bytes", bytes, "bytes");
        figures.tell("one_session_seconds", format!("{seconds:.1}"), "s");
        figures.tell("one_session_gateway_cpu", format!("{cpu:.2}"), "s");
        let peak = memory_mib(gateway).1;
        let figure = "one_session_gateway_peak_memory";
        figures.judge(figure, peak, 1, "MiB", Some(PEAK));
    }

    async fn idle_sessions(&self, platform: &Platform, quick: bool, figures: &mut Figures) {
        let gateway = platform.gateway.as_ref().unwrap().pid();
        let count = if quick { 50 } else { 500 };
        let before = memory_mib(gateway).0;
        let mut idle = Vec::new();
        for _ in 0..count {
            let session = self.session().await;
            // so that it holds its link to the worker, too
            session.predict(self.molecule(idle.len())).await.unwrap();
            idle.push(session);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = memory_mib(gateway).0;
        figures.tell("idle_sessions", count, "sessions");
        figures.judge("idle_sessions_gateway_memory", now, 1, "MiB", Some(IDLE));
        let added = format!("{:.1}", now - before);
        figures.tell("idle_sessions_added_memory", added, "MiB");
    }
}
