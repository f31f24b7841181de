//! Every role in one process on loopback, for `up` and `serve`, with the code, the TLS and the tokens of
//! production; only the addresses and the authority are local.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chemxor_client::files;
use chemxor_core::{Role, RoleSet, WorkerName};
use chemxor_gateway::{GatewayConfig, Limits};
use chemxor_registry::RegistryConfig;
use chemxor_registry::store::Store;
use chemxor_runtime::operations::Operations;
use chemxor_runtime::pki::{DevAuthority, Subject};
use chemxor_runtime::postgres::{Durability, LocalCluster};
use chemxor_runtime::shutdown;
use chemxor_worker::WorkerConfig;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::args::{Format, UpArgs};
use crate::commands::local::Lock;
use crate::home::{Home, Profile};

/// How long the workers may take to register.
const REGISTRATION: Duration = Duration::from_secs(20);

/// What a platform on this machine is made of.
pub(crate) struct Options {
    /// Partition workers.
    pub(crate) workers: usize,
    /// PostgreSQL to use instead of a private one.
    pub(crate) database_url: Option<String>,
    /// Port of the gateway; 0 takes any free one.
    pub(crate) gateway_port: u16,
}

/// A running platform.
pub(crate) struct Platform {
    registry: chemxor_registry::RunningRegistry,
    gateway: chemxor_gateway::RunningGateway,
    workers: Vec<chemxor_worker::RunningWorker>,
    cluster: Option<LocalCluster>,
    tokens: BTreeMap<String, PathBuf>,
    lock: Lock,
}

impl Platform {
    /// Starts every role; returns when the workers have registered.
    pub(crate) async fn start(
        home: &Home,
        options: &Options,
        stop: CancellationToken,
    ) -> Result<Self> {
        if !(1..=64).contains(&options.workers) {
            bail!("--workers is {}; 1 to 64 are possible", options.workers);
        }
        let folder = home.profile_folder();
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let lock = Lock::take(&folder)?;
        let authority = DevAuthority::create_or_load(&folder)?;
        let (cluster, database_url) = match &options.database_url {
            Some(url) => (None, url.clone()),
            None => {
                let place = folder.join("postgres");
                let start = move || LocalCluster::start(&place, Durability::Full);
                let cluster = tokio::task::spawn_blocking(start).await??;
                let url = cluster.url("postgres");
                (Some(cluster), url)
            }
        };
        // after PostgreSQL, which would inherit it
        super::services::small_pages();
        let loopback = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let config = RegistryConfig {
            listen: loopback(0),
            database_url,
            tls: authority.issue_to(&Subject::Registry, &folder, "registry")?,
            operations: Operations::default(),
            signing_key: None,
            orphan_hours: 168,
            draft_gib: chemxor_registry::store::DRAFT_GIB,
            checkpoint_minutes: const { std::num::NonZeroU32::new(10).unwrap() },
        };
        let registry = chemxor_registry::start(config, stop.clone()).await?;
        let registry_address = format!("localhost:{}", registry.addr().port());
        let config = GatewayConfig {
            listen: loopback(options.gateway_port),
            registry: registry_address.clone(),
            tls: authority.issue_to(&Subject::Gateway, &folder, "gateway")?,
            limits: Limits::default(),
            operations: Operations::default(),
        };
        let gateway = chemxor_gateway::start(config, stop.clone())
            .await
            .with_context(|| {
                format!(
                    "the gateway on port {}; choose another one with --port",
                    options.gateway_port
                )
            })?;
        let mut workers = Vec::new();
        for number in 1..=options.workers {
            let name: WorkerName = format!("worker-{number}").parse()?;
            let config = WorkerConfig {
                listen: loopback(0),
                advertise: None,
                registry: registry_address.clone(),
                tls: authority.issue_to(&Subject::Worker(name.clone()), &folder, name.as_str())?,
                sealing_key: folder.join(format!("{name}.sealing-key")),
                evaluations: None,
                memory_limit_mib: None,
                stream_memory_mib: chemxor_worker::STREAM_MEMORY_MIB,
                organisations: Vec::new(),
                operations: Operations::default(),
                name,
            };
            workers.push(chemxor_worker::start(config, stop.clone()).await?);
        }
        let registered = wait_for_workers(registry.store(), options.workers);
        tokio::time::timeout(REGISTRATION, registered)
            .await
            .context("the workers did not register in time; look at the log above")??;
        let client: WorkerName = "local".parse()?;
        authority.issue_to(&Subject::Client(client), &folder, "client")?;
        let tokens = make_tokens(registry.store(), &folder).await?;
        let platform = Self {
            registry,
            gateway,
            workers,
            cluster,
            tokens,
            lock,
        };
        platform.write_profile(home, None)?;
        Ok(platform)
    }

    fn registry_address(&self) -> String {
        format!("localhost:{}", self.registry.addr().port())
    }

    /// host:port of the gateway.
    pub(crate) fn gateway_address(&self) -> String {
        format!("localhost:{}", self.gateway.addr().port())
    }

    /// Writes the profile; `model` is the only one that is served, if it is.
    pub(crate) fn write_profile(&self, home: &Home, model: Option<String>) -> Result<()> {
        Profile {
            registry: self.registry_address(),
            gateway: self.gateway_address(),
            ca: "ca.pem".into(),
            cert: "client.pem".into(),
            key: "client.key".into(),
            model,
            tokens: self.tokens.clone(),
        }
        .write(&home.profile_folder())
    }

    /// Says to whoever waits that everything is up.
    pub(crate) fn ready(&self) -> Result<()> {
        self.lock.ready()
    }

    /// Returns when every role has ended, which they do when `stop` was cancelled.
    pub(crate) async fn wait(self) -> Result<()> {
        self.gateway.wait().await?;
        for worker in self.workers {
            worker.wait().await?;
        }
        let store = self.registry.store().clone();
        self.registry.wait().await?;
        store.close().await;
        if let Some(cluster) = self.cluster {
            tokio::task::spawn_blocking(move || drop(cluster)).await?;
        }
        Ok(())
    }
}

/// `up --foreground`.
pub(crate) async fn run(home: &Home, format: Format, args: &UpArgs) -> Result<()> {
    let stop = shutdown::signalled();
    let options = Options {
        workers: args.workers,
        database_url: args.database_url.clone(),
        gateway_port: 0,
    };
    let platform = Platform::start(home, &options, stop.clone()).await?;
    platform.ready()?;
    let (registry, gateway) = (platform.registry_address(), platform.gateway_address());
    let folder = home.profile_folder();
    let value = json!({
        "ready": true, "registry": registry, "gateway": gateway,
        "workers": args.workers, "folder": folder,
    });
    match format {
        Format::Json => say!("{value}"),
        Format::Table => {
            let count = args.workers;
            say!("ready: registry {registry}, gateway {gateway}, {count} workers");
            let place = folder.display();
            say!("profile and tokens are in {place}; Ctrl-C stops everything");
        }
    }
    stop.cancelled().await;
    platform.wait().await
}

async fn wait_for_workers(store: &Store, count: usize) -> Result<()> {
    while store.list_workers(None).await?.len() < count {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// One token for each role, with a subject of its own, so that nobody approves what he published.
async fn make_tokens(store: &Store, folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut tokens = BTreeMap::new();
    for role in Role::ALL.into_iter().filter(|role| role.is_token_role()) {
        let name = format!("{role}.token");
        let path = folder.join(&name);
        if path.exists() {
            let old = files::read_secret(&path, 4096)?;
            let text = String::from_utf8_lossy(&old);
            if store.find_token(text.trim()).await.is_ok() {
                tokens.insert(role.to_string(), name.into());
                continue;
            }
            std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
        let lifetime = Duration::from_secs(30 * 86_400);
        let subject = format!("{role}@local");
        let made = store
            .create_token("chemxor up", &subject, &RoleSet::new([role]), lifetime)
            .await?;
        files::create_secret(&path, made.secret.as_bytes())?;
        tokens.insert(role.to_string(), name.into());
    }
    Ok(tokens)
}
