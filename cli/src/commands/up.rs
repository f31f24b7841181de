//! `up`: every role in one process on loopback, with the code, the TLS and the tokens of
//! production; only the addresses and the authority are local.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chemxor_client::files;
use chemxor_core::{Role, RoleSet, WorkerName};
use chemxor_gateway::{GatewayConfig, Limits};
use chemxor_registry::RegistryConfig;
use chemxor_registry::store::Store;
use chemxor_runtime::pki::{DevAuthority, Subject};
use chemxor_runtime::postgres::{Durability, LocalCluster};
use chemxor_runtime::shutdown;
use chemxor_worker::WorkerConfig;
use serde_json::json;

use crate::args::{Format, UpArgs};
use crate::home::{Home, Profile};
use crate::output;

/// How long the workers may take to register.
const REGISTRATION: Duration = Duration::from_secs(20);

pub(crate) async fn run(home: &Home, format: Format, args: &UpArgs) -> Result<()> {
    if !(1..=64).contains(&args.workers) {
        bail!("--workers is {}; 1 to 64 are possible", args.workers);
    }
    let folder = home.profile_folder();
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let stop = shutdown::signalled();
    let authority = DevAuthority::create_or_load(&folder)?;
    let (cluster, database_url) = match &args.database_url {
        Some(url) => (None, url.clone()),
        None => {
            let place = folder.join("postgres");
            let cluster =
                tokio::task::spawn_blocking(move || LocalCluster::start(&place, Durability::Full))
                    .await??;
            let url = cluster.url("postgres");
            (Some(cluster), url)
        }
    };
    let loopback: SocketAddr = ([127, 0, 0, 1], 0).into();
    let registry = chemxor_registry::start(
        RegistryConfig {
            listen: loopback,
            database_url,
            tls: authority.issue_to(&Subject::Registry, &folder, "registry")?,
        },
        stop.clone(),
    )
    .await?;
    let registry_address = format!("localhost:{}", registry.addr().port());
    let gateway = chemxor_gateway::start(
        GatewayConfig {
            listen: loopback,
            registry: registry_address.clone(),
            tls: authority.issue_to(&Subject::Gateway, &folder, "gateway")?,
            limits: Limits::default(),
        },
        stop.clone(),
    )
    .await?;
    let mut workers = Vec::new();
    for number in 1..=args.workers {
        let name: WorkerName = format!("worker-{number}").parse()?;
        let config = WorkerConfig {
            listen: loopback,
            advertise: None,
            registry: registry_address.clone(),
            tls: authority.issue_to(&Subject::Worker(name.clone()), &folder, name.as_str())?,
            sealing_key: folder.join(format!("{name}.sealing-key")),
            evaluations: None,
            name,
        };
        workers.push(chemxor_worker::start(config, stop.clone()).await?);
    }
    let registered = wait_for_workers(registry.store(), args.workers);
    tokio::time::timeout(REGISTRATION, registered)
        .await
        .context("the workers did not register in time; look at the log above")??;
    let gateway_address = format!("localhost:{}", gateway.addr().port());
    let client: WorkerName = "local".parse()?;
    authority.issue_to(&Subject::Client(client), &folder, "client")?;
    let tokens = make_tokens(registry.store(), &folder).await?;
    Profile {
        registry: registry_address.clone(),
        gateway: gateway_address.clone(),
        ca: "ca.pem".into(),
        cert: "client.pem".into(),
        key: "client.key".into(),
        tokens,
    }
    .write(&folder)?;
    let value = json!({
        "ready": true, "registry": registry_address, "gateway": gateway_address,
        "workers": args.workers, "folder": folder,
    });
    match format {
        Format::Json => output::line(&value.to_string()),
        Format::Table => {
            let count = args.workers;
            output::line(&format!(
                "ready: registry {registry_address}, gateway {gateway_address}, {count} workers"
            ));
            let place = folder.display();
            output::line(&format!(
                "profile and tokens are in {place}; Ctrl-C stops everything"
            ));
        }
    }
    stop.cancelled().await;
    gateway.wait().await?;
    for worker in workers {
        worker.wait().await?;
    }
    let store = registry.store().clone();
    registry.wait().await?;
    store.close().await;
    if let Some(cluster) = cluster {
        tokio::task::spawn_blocking(move || drop(cluster)).await?;
    }
    Ok(())
}

async fn wait_for_workers(store: &Store, count: usize) -> Result<()> {
    while store.list_workers().await?.len() < count {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// One token for each role, with a subject of its own, so that nobody approves what he published.
async fn make_tokens(store: &Store, folder: &Path) -> Result<BTreeMap<String, std::path::PathBuf>> {
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
