//! Figures of the registry: a process of its own over PostgreSQL with fsync, TLS on loopback. Called
//! by `./bench/run registry [--quick]`; CSV on standard output, progress on standard error.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    dead_code,
    reason = "a benchmark stops where something is wrong; it shares its model with the tests"
)]

#[path = "../tests/registry/model.rs"]
mod model;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chemxor_core::{BlobDigest, Role, RoleSet};
use chemxor_proto::v1;
use chemxor_proto::v1::catalog_client::CatalogClient;
use chemxor_proto::v1::control_client::ControlClient;
use chemxor_proto::v1::publishing_client::PublishingClient;
use chemxor_proto::v1::upload_blob_request::Kind;
use chemxor_registry::store::{Caller, Registration, Store, TokenOrder};
use chemxor_runtime::pki::{DevAuthority, Subject};
use chemxor_runtime::postgres::{Durability, LocalCluster};
use chemxor_runtime::tls;
use model::Model;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tonic::Request;
use tonic::transport::Channel;

const MODELS: u32 = 10_000;
const ORGANISATIONS: u32 = 1_000;
/// Tokens that are looked up in turn.
const MANY: usize = 1_000;
/// Bytes of a chunk of an upload, as the client sends them.
const CHUNK: usize = 512 << 10;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let serve_at = arguments.iter().position(|argument| argument == "--serve");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match serve_at {
        // as `chemxor registry` runs
        Some(_) => (cores / 2).max(1),
        None => cores,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap();
    match serve_at {
        Some(at) => runtime.block_on(serve(&arguments[at + 1])),
        None => {
            let quick = arguments.iter().any(|argument| argument == "--quick");
            if !runtime.block_on(measure(quick)) {
                std::process::exit(1);
            }
        }
    }
}

/// The registry, in this process.
async fn serve(config: &str) {
    let config = serde_json::from_str(&std::fs::read_to_string(config).unwrap()).unwrap();
    let running = chemxor_registry::start(config, Default::default())
        .await
        .unwrap();
    println!("{}", running.addr());
    running.wait().await.unwrap();
}

struct Registry {
    child: Child,
    address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    fn start(config: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("--serve")
            .arg(config)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().unwrap();
        Self {
            child,
            address: format!("localhost:{port}"),
        }
    }

    /// Seconds of CPU so far, all threads.
    fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.child.id())
    }
}

/// The fields of a process after its name, which is in parentheses and may hold spaces.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = text.rsplit(')').next()?.split_whitespace();
    Some(fields.map(str::to_owned).collect())
}

/// Seconds of CPU of a process so far, all threads; 0 when it has ended.
fn cpu_seconds(pid: u32) -> f64 {
    let Some(fields) = stat(pid) else { return 0.0 };
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

/// The processes of a PostgreSQL: those whose parent it is.
fn backends(postmaster: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.parse::<u32>().ok()
    });
    let is_child = |pid: &u32| stat(*pid).is_some_and(|f| f[1] == postmaster.to_string());
    pids.filter(is_child).chain([postmaster]).collect()
}

fn signed<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let header = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", header);
    request
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

/// Organisations, and models of all of them: a quarter of each visibility, manifests of full length.
async fn fill(url: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let sample = Model::new("name-of-the-model", 1);
    let manifest = String::from_utf8(sample.request.manifest.to_vec()).unwrap();
    let statements = [
        format!("insert into organisations (name) select 'org-' || n from generate_series(1, {ORGANISATIONS}) n"),
        "insert into consortia (name) select 'consortium-' || n from generate_series(1, 100) n".to_owned(),
        format!("insert into consortium_members select 'consortium-' || (n % 100 + 1), 'org-' || n from generate_series(1, {ORGANISATIONS}) n"),
        format!(
            "insert into models (name, publisher, organisation, visibility, consortium)
             select 'model-' || n, 'paul', 'org-' || (n % {ORGANISATIONS} + 1),
                (array['private', 'listed', 'consortium', 'everyone'])[n % 4 + 1],
                case when n % 4 = 2 then 'consortium-' || (n / 4 % 100 + 1) end
             from generate_series(1, {MODELS}) n"
        ),
        format!(
            "insert into model_grants select 'model-' || n, 'org-' || ((n * 7 + k) % {ORGANISATIONS} + 1)
             from generate_series(1, {MODELS}) n, generate_series(1, 10) k where n % 4 = 1"
        ),
        format!(
            "insert into versions (digest, name, manifest, signature, publisher_key, publisher, created_at)
             select sha256(m), name, m, decode(repeat('00', 64), 'hex'), decode(repeat('00', 32), 'hex'), 'paul',
                now() - n * interval '1 minute'
             from (select n, 'model-' || n as name, convert_to(replace('{}', 'name-of-the-model', 'model-' || n), 'UTF8') as m
                from generate_series(1, {MODELS}) n) one",
            manifest.replace('\'', "''")
        ),
        "update versions set state = 'submitted'".to_owned(),
        "insert into conformance (version, report, signature, recorded_by) select digest, '', signature, publisher from versions".to_owned(),
        "update versions set state = 'approved', approved_by = 'rita', approved_at = now()".to_owned(),
        "analyze".to_owned(),
    ];
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    connection.close().await.unwrap();
}

async fn token(store: &Store, organisation: &str, role: Role) -> String {
    let admin = Caller::new("default", "adam", RoleSet::new([Role::Admin]));
    let order = TokenOrder {
        organisation,
        subject: "bench",
        roles: &RoleSet::new([role]),
        models: &[],
        lifetime: Duration::from_secs(86_400),
    };
    store
        .order_token(&admin, &order)
        .await
        .unwrap()
        .secret
        .to_string()
}

/// Pages of the catalogue, first and following ones, by callers of different organisations.
async fn listing(channel: &Channel, tokens: &[String], calls: usize) -> Vec<f64> {
    let mut catalogue = CatalogClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    let (mut times, mut page_token) = (Vec::with_capacity(calls), String::new());
    for call in 0..calls {
        // ten pages each
        let token = &tokens[call / 10 % tokens.len()];
        if call % 10 == 0 {
            page_token.clear();
        }
        let request = v1::ListModelsRequest {
            page_size: 50,
            page_token: std::mem::take(&mut page_token),
        };
        let started = Instant::now();
        let page = catalogue.list_models(signed(token, request)).await.unwrap();
        times.push(started.elapsed().as_secs_f64() * 1000.0);
        let page = page.into_inner();
        assert!(!page.models.is_empty());
        page_token = page.next_page_token;
    }
    times.sort_by(f64::total_cmp);
    times
}

/// A version with 64 MiB of ciphertext: announced, uploaded, submitted.
async fn publish(channel: &Channel, token: &str, seed: u64) -> f64 {
    let mut model = Model::new("large", seed);
    for (step, blob) in model.blobs.iter_mut().enumerate() {
        *blob = (0..32u32 << 20)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed as u8)
            .collect();
        blob[0] = step as u8;
        let announced = &mut model.request.blobs[step];
        announced.length = blob.len() as u64;
        announced.sha256 = BlobDigest::of(blob).as_bytes().to_vec().into();
    }
    let mut publishing = PublishingClient::new(channel.clone());
    let started = Instant::now();
    let begun = publishing
        .begin_version(signed(token, model.request.clone()))
        .await
        .unwrap();
    let version = begun.into_inner().version;
    for (step, blob) in model.blobs.iter().enumerate() {
        let header = Kind::Header(v1::BlobHeader {
            version: version.clone(),
            sha256: model.sha256(step).into(),
            offset: 0,
        });
        let blob = bytes::Bytes::copy_from_slice(blob);
        let chunks = (0..blob.len())
            .step_by(CHUNK)
            .map(move |at| Kind::Chunk(blob.slice(at..blob.len().min(at + CHUNK))));
        let parts = std::iter::once(header)
            .chain(chunks)
            .map(|kind| v1::UploadBlobRequest { kind: Some(kind) });
        let upload = signed(token, tokio_stream::iter(parts));
        publishing.upload_blob(upload).await.unwrap();
    }
    let submit = v1::SubmitVersionRequest { version };
    publishing
        .submit_version(signed(token, submit))
        .await
        .unwrap();
    started.elapsed().as_secs_f64()
}

/// `rate` checks a second of as many sessions as a gateway may have; gives checks and CPU seconds.
async fn checks(
    registry: &Registry,
    gateway: &ControlClient<Channel>,
    sessions: &[v1::CheckSessionRequest],
    seconds: u64,
) -> (u64, f64, f64) {
    const RATE: u64 = 1_000;
    let before = registry.cpu_seconds();
    let started = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for tick in 0..seconds * 100 {
        tokio::time::sleep_until((started + Duration::from_millis(10 * tick)).into()).await;
        for number in 0..RATE / 100 {
            let index = (tick * (RATE / 100) + number) as usize % sessions.len();
            let (mut gateway, request) = (gateway.clone(), sessions[index].clone());
            calls.spawn(async move {
                gateway
                    .check_session(request)
                    .await
                    .unwrap()
                    .into_inner()
                    .allowed
            });
        }
    }
    let mut allowed = 0;
    while let Some(answer) = calls.join_next().await {
        allowed += u64::from(answer.unwrap());
    }
    assert_eq!(allowed, RATE * seconds);
    let elapsed = started.elapsed().as_secs_f64();
    (allowed, elapsed, registry.cpu_seconds() - before)
}

/// CPU, in per cent of a core, of this process and of these while as many tokens a second are looked
/// up, as each call of a person begins; the tokens are taken in turn.
async fn lookups(store: &Store, tokens: &[String], others: &[u32], seconds: u64) -> (f64, f64) {
    const RATE: u64 = 1_000;
    let total = |pids: &[u32]| pids.iter().copied().map(cpu_seconds).sum::<f64>();
    let own = [std::process::id()];
    let (before, others_before) = (total(&own), total(others));
    let started = Instant::now();
    for tick in 0..seconds * 100 {
        tokio::time::sleep_until((started + Duration::from_millis(10 * tick)).into()).await;
        for number in 0..RATE / 100 {
            let index = (tick * (RATE / 100) + number) as usize % tokens.len();
            store.find_token(&tokens[index]).await.unwrap();
        }
    }
    let elapsed = started.elapsed().as_secs_f64();
    let share = |cpu: f64| 100.0 * cpu / elapsed;
    (
        share(total(&own) - before),
        share(total(others) - others_before),
    )
}

/// Prints a figure; gives whether it is within its aim.
fn figure(name: &str, value: f64, unit: &str, aim: Option<f64>) -> bool {
    let text = aim.map(|aim| aim.to_string()).unwrap_or_default();
    println!("{name},{value:.2},{unit},{text}");
    let met = aim.is_none_or(|aim| value <= aim);
    if !met {
        eprintln!("{name} misses its aim of {text} {unit}: {value:.2}");
    }
    met
}

/// Whether every figure is within its aim.
async fn measure(quick: bool) -> bool {
    let folder = tempfile::Builder::new()
        .prefix("cxbench")
        .tempdir_in("/tmp")
        .unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let place = folder.path().join("pg");
    let cluster = LocalCluster::start(&place, Durability::Full).unwrap();
    let url = cluster.url("postgres");
    let store = Store::connect(&url).await.unwrap();
    eprintln!("{MODELS} models of {ORGANISATIONS} organisations");
    fill(&url).await;
    for worker in ["worker-1", "worker-2"] {
        let name = worker.parse().unwrap();
        let registration = Registration {
            sealing_key: &[1; 32],
            endpoint: "localhost:1",
            organisations: &[],
            certificate_serial: "",
        };
        store.register_worker(&name, &registration).await.unwrap();
    }
    let local = folder.path().join("local");
    std::fs::create_dir(&local).unwrap();
    let authority = DevAuthority::create_or_load(&local).unwrap();
    let files = |subject: Subject, name: &str| authority.issue_to(&subject, &local, name).unwrap();
    let served = files(Subject::Registry, "registry");
    let config = serde_json::json!({
        "listen": "127.0.0.1:0", "database_url": url,
        "tls": { "ca": served.ca, "cert": served.cert, "key": served.key },
    });
    let config_path = folder.path().join("registry.json");
    std::fs::write(&config_path, config.to_string()).unwrap();
    let registry = Registry::start(&config_path);
    let client = files(Subject::Client("lab".parse().unwrap()), "client");
    let client = tls::connect(&registry.address, &client).await.unwrap();

    let mut tokens = Vec::new();
    for number in 1..=20 {
        tokens.push(token(&store, &format!("org-{}", number * 50), Role::Querier).await);
    }
    let calls = if quick { 400 } else { 4_000 };
    eprintln!("{calls} pages of the catalogue");
    listing(&client, &tokens, 100).await;
    let times = listing(&client, &tokens, calls).await;
    println!("figure,value,unit,aim");
    let mut met = true;
    met &= figure("catalogue_page_p50", quantile(&times, 0.5), "ms", None);
    met &= figure(
        "catalogue_page_p99",
        quantile(&times, 0.99),
        "ms",
        Some(20.0),
    );

    let publisher = token(&store, "default", Role::Publisher).await;
    let rounds = if quick { 1 } else { 5 };
    eprintln!("publishing 64 MiB, {rounds} times");
    let mut times = Vec::new();
    for round in 0..rounds {
        times.push(publish(&client, &publisher, round).await);
    }
    times.sort_by(f64::total_cmp);
    met &= figure(
        "publish_64_mib_median",
        quantile(&times, 0.5),
        "s",
        Some(5.0),
    );
    met &= figure(
        "publish_64_mib_slowest",
        quantile(&times, 1.0),
        "s",
        Some(5.0),
    );

    let gateway = files(Subject::Gateway, "gateway");
    let gateway = tls::connect(&registry.address, &gateway).await.unwrap();
    let mut gateway = ControlClient::new(gateway);
    let mut sessions = Vec::new();
    for secret in &tokens {
        for number in 0..50 {
            let request = v1::AuthorizeSessionRequest {
                token: secret.clone(),
                model: format!("model-{}", 3 + 4 * number),
                ..Default::default()
            };
            let opened = gateway
                .authorize_session(request)
                .await
                .unwrap()
                .into_inner();
            sessions.push(v1::CheckSessionRequest {
                version: opened.version,
                token_id: opened.token_id,
                certificate_subject: "chemxor://client/lab".to_owned(),
                certificate_serial: "0a".to_owned(),
            });
        }
    }
    let seconds = if quick { 5 } else { 60 };
    eprintln!(
        "1,000 checks a second of {} sessions for {seconds} s",
        sessions.len()
    );
    checks(&registry, &gateway, &sessions, 2).await;
    let (count, elapsed, cpu) = checks(&registry, &gateway, &sessions, seconds).await;
    // over TLS and gRPC, answered from memory while nothing changes
    let rate = count as f64 / elapsed;
    met &= figure("session_checks", rate, "a second", None);
    met &= figure(
        "session_checks_cpu",
        100.0 * cpu / elapsed,
        "% of a core",
        Some(5.0),
    );

    eprintln!(
        "1,000 lookups a second of {MANY} tokens for {seconds} s, from PostgreSQL and remembered"
    );
    let mut many = Vec::with_capacity(MANY);
    for number in 0..MANY {
        let organisation = format!("org-{}", number % ORGANISATIONS as usize + 1);
        many.push(token(&store, &organisation, Role::Querier).await);
    }
    let postmaster = std::fs::read_to_string(place.join("data/postmaster.pid")).unwrap();
    let postmaster = postmaster.lines().next().unwrap().parse().unwrap();
    let backends = backends(postmaster);
    // nothing is remembered while changes are not heard of
    let (own, database) = lookups(&store, &many, &backends, seconds).await;
    met &= figure("token_lookups_cpu", own, "% of a core", None);
    met &= figure(
        "token_lookups_postgresql_cpu",
        database,
        "% of a core",
        None,
    );
    let stop = tokio_util::sync::CancellationToken::new();
    let follow = tokio::spawn(store.follow_rights(stop.clone()));
    lookups(&store, &many, &backends, 2).await;
    let (own, database) = lookups(&store, &many, &backends, seconds).await;
    let both = own + database;
    met &= figure("token_checks_cpu", both, "% of a core", Some(5.0));
    stop.cancel();
    follow.await.unwrap();
    store.close().await;
    met
}
