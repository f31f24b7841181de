//! `registry`, `gateway`, `worker`: one service each, from a configuration file.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use chemxor_client::files::create_secret;
use chemxor_client::known_workers::grouped;
use chemxor_registry::RegistryConfig;
use chemxor_runtime::shutdown;
use chemxor_worker::WorkerConfig;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::args::{Format, RegistryArgs, ServiceArgs, WorkerArgs};
use crate::commands::org;
use crate::output;

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "{} cannot be read; deploy/ has samples of every service's configuration",
            path.display()
        )
    })?;
    toml::from_str(&text).with_context(|| path.display().to_string())
}

/// Says that the service is up, for scripts: the file appears complete or not at all.
fn ready(args: &ServiceArgs, addr: SocketAddr) -> Result<()> {
    let Some(path) = &args.ready_file else {
        return Ok(());
    };
    let new = path.with_extension("new");
    std::fs::write(&new, addr.to_string()).with_context(|| new.display().to_string())?;
    std::fs::rename(&new, path).with_context(|| path.display().to_string())
}

/// Keeps the kernel from giving this process huge pages. The allocator asks for them, and they turn
/// buffers of some KiB that lie apart into 2 MiB each: 500 idle sessions took 1.4 times the memory, and
/// what a process took went on growing while its load stayed the same.
pub(crate) fn small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        // a seccomp filter, perhaps; nothing depends on it but memory
        tracing::warn!(%error, "huge pages cannot be turned off; expect more resident memory");
    }
}

pub(crate) async fn registry(format: Format, args: &RegistryArgs) -> Result<()> {
    let config: RegistryConfig = read(&args.service.config)?;
    if let Some(subject) = &args.first_token {
        return first_token(format, &config, subject, args).await;
    }
    small_pages();
    let running = chemxor_registry::start(config, shutdown::signalled()).await?;
    ready(&args.service, running.addr())?;
    Ok(running.wait().await?)
}

async fn first_token(
    format: Format,
    config: &RegistryConfig,
    subject: &str,
    args: &RegistryArgs,
) -> Result<()> {
    let lifetime = Duration::from_secs(args.days * 86_400);
    let pending = chemxor_registry::first_token(config, subject, lifetime).await?;
    let secret = pending.token.secret.clone();
    if let Some(path) = &args.output {
        // kept before it counts: one that nobody has would stand in the way of the next
        create_secret(path, secret.as_bytes())?;
    }
    // where the answer is lost it may be a token all the same, so what was kept stays
    let made = pending.commit().await.context(
        "whether the token counts is not known: try the one in --output, or ask for one again into another file",
    )?;
    let expires_unix_ms = (made.expires_at.unix_timestamp_nanos() / 1_000_000) as i64;
    org::print_token(
        format,
        &made.id.to_string(),
        expires_unix_ms,
        &secret,
        args.output.as_deref(),
    )
}

pub(crate) async fn gateway(args: &ServiceArgs) -> Result<()> {
    small_pages();
    let config = read(&args.config)?;
    let running = chemxor_gateway::start(config, shutdown::signalled()).await?;
    ready(args, running.addr())?;
    Ok(running.wait().await?)
}

pub(crate) async fn worker(format: Format, args: &WorkerArgs) -> Result<()> {
    let (args, only_print) = (&args.service, args.fingerprint);
    let config: WorkerConfig = read(&args.config)?;
    if only_print {
        let fingerprint = config.sealing_fingerprint()?;
        let value = json!({ "name": config.name.as_str(), "fingerprint": fingerprint });
        return output::print(format, &value, || {
            say!("{}={}", config.name, grouped(&fingerprint));
        });
    }
    small_pages();
    let running = chemxor_worker::start(config, shutdown::signalled()).await?;
    ready(args, running.addr())?;
    Ok(running.wait().await?)
}
