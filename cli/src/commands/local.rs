//! The platform of `up` in the background: start, `status`, `logs`, `stop`, `reset`.
//!
//! Whoever runs the platform holds a lock on `up.lock` for life, which says its process id. A lock
//! ends with its process, so a number that was given to another process is never signalled.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use chemxor_client::{catalog, health, publish};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::{Format, LogsArgs, ResetArgs, UpArgs};
use crate::commands::keys::confirm;
use crate::home::Home;
use crate::output::{self, Ended};

/// How long starting and stopping may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a file is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Content of `up.lock` and, once the platform is up, of `up.ready`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) pid: i32,
    pub(crate) started_unix_s: u64,
}

/// Held by the process that runs the platform of a folder.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
    ready: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // absent when the platform did not come up
        let _ = std::fs::remove_file(&self.ready);
    }
}

fn ready_path(folder: &Path) -> PathBuf {
    folder.join("up.ready")
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("up.log")
}

impl Lock {
    /// Takes the platform of `folder` for this process.
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join("up.lock");
        let context = || path.display().to_string();
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let mut file = file.with_context(context)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "the platform of {} runs already; see `chemxor status`",
                    folder.display()
                )
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(context),
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        let running = Running {
            pid: i32::try_from(std::process::id())?,
            started_unix_s: now,
        };
        file.set_len(0).with_context(context)?;
        file.write_all(&serde_json::to_vec(&running)?)
            .with_context(context)?;
        let ready = ready_path(folder);
        // left behind by a process that was killed
        let _ = std::fs::remove_file(&ready);
        Ok(Self { _file: file, ready })
    }

    /// Says that the platform is up.
    pub(crate) fn ready(&self) -> Result<()> {
        std::fs::write(&self.ready, "").with_context(|| self.ready.display().to_string())
    }
}

/// Who runs the platform of `folder`.
fn running(folder: &Path) -> Result<Option<Running>> {
    let path = folder.join("up.lock");
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    if file.try_lock_shared().is_ok() {
        return Ok(None);
    }
    let mut text = String::new();
    file.read_to_string(&mut text)
        .with_context(|| path.display().to_string())?;
    // empty for the moment between lock and write
    Ok(serde_json::from_str(&text).ok())
}

/// Starts the platform in a process of its own and waits until it is up.
pub(crate) async fn start(home: &Home, format: Format, args: &UpArgs) -> Result<()> {
    let folder = home.profile_folder();
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let already = running(&folder)?.is_some();
    if !already {
        spawn(home, args, &folder).await?;
    }
    let (_, profile) = home.profile()?;
    let pid = running(&folder)?.map(|running| running.pid);
    let value = json!({
        "ready": true, "already_running": already, "pid": pid, "registry": profile.registry,
        "gateway": profile.gateway, "folder": folder, "log": log_path(&folder),
    });
    output::print(format, &value, || {
        let what = if already { "running already" } else { "ready" };
        say!(
            "{what}: registry {}, gateway {}",
            profile.registry,
            profile.gateway
        );
        say!("see `chemxor status`, `chemxor logs`; end it with `chemxor stop`");
    })
}

async fn spawn(home: &Home, args: &UpArgs, folder: &Path) -> Result<()> {
    let log_path = log_path(folder);
    if log_path.exists() {
        std::fs::rename(&log_path, log_path.with_extension("log.1"))?;
    }
    let log = File::create(&log_path).with_context(|| log_path.display().to_string())?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--home").arg(home.folder());
    command.args(["--profile", home.profile_name(), "up", "--foreground"]);
    command.args(["--workers", &args.workers.to_string()]);
    match &args.database_url {
        // not an argument: other users may read those
        Some(url) => command.env("DATABASE_URL", url),
        None => command.env_remove("DATABASE_URL"),
    };
    // a group of its own: Ctrl-C in this terminal is not for it
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let mut child = command.spawn()?;
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            let tail = last_lines(&log_path, 10)?;
            bail!("the platform did not start ({status}); the end of its log:\n{tail}");
        }
        if ready_path(folder).exists() {
            return Ok(());
        }
        if since.elapsed() > PATIENCE {
            bail!(
                "the platform is not up after {} s; see `chemxor logs`, end it with `chemxor stop`",
                PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

pub(crate) async fn status(home: &Home, format: Format) -> Result<()> {
    let folder = home.profile_folder();
    let Some(found) = running(&folder)? else {
        let value = json!({ "running": false, "folder": folder });
        output::print(format, &value, || {
            say!("not running; start it with `chemxor up`")
        })?;
        return Err(Ended(3).into());
    };
    let (_, profile) = home.profile()?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let uptime = now.saturating_sub(found.started_unix_s);
    let access = home.registry("querier")?;
    let mut services = Vec::new();
    for (name, address) in [
        ("registry", &profile.registry),
        ("gateway", &profile.gateway),
    ] {
        let health = health::check(address, &access.tls).await;
        let state = match &health {
            Ok(health) if health.serving => "serving".to_owned(),
            Ok(_) => "not serving".to_owned(),
            Err(error) => error.to_string(),
        };
        services.push(json!({ "name": name, "address": address, "state": state }));
    }
    let workers = match home.registry("publisher") {
        Ok(access) => publish::workers(&access)
            .await
            .map(|workers| workers.len())
            .ok(),
        Err(_) => None,
    };
    let models = catalog::list(&access)
        .await
        .map(|entries| entries.len())
        .ok();
    let value = json!({
        "running": true, "pid": found.pid, "uptime_s": uptime, "services": services,
        "workers": workers, "models": models, "folder": folder, "log": log_path(&folder),
    });
    output::print(format, &value, || {
        say!(
            "running: process {}, for {:#}",
            found.pid,
            indicatif::HumanDuration(Duration::from_secs(uptime))
        );
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for service in &services {
            say!(
                "{:9} {} {}",
                text(&service["name"]),
                text(&service["address"]),
                text(&service["state"])
            );
        }
        let count =
            |count: Option<usize>| count.map_or("not known".to_owned(), |count| count.to_string());
        say!("workers   {}", count(workers));
        say!("models    {}", count(models));
    })
}

/// The last lines of a file.
fn last_lines(path: &Path, lines: usize) -> Result<String> {
    const WINDOW: u64 = 4 << 20;
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(WINDOW)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].join("\n"))
}

pub(crate) async fn logs(home: &Home, args: &LogsArgs) -> Result<()> {
    let path = log_path(&home.profile_folder());
    if !path.exists() {
        bail!(
            "no log {}; start the platform with `chemxor up`",
            path.display()
        );
    }
    let text = last_lines(&path, args.lines)?;
    if !text.is_empty() {
        output::line(text);
    }
    if !args.follow {
        return Ok(());
    }
    let mut file = File::open(&path)?;
    file.seek(SeekFrom::End(0))?;
    let stop = chemxor_runtime::shutdown::signalled();
    while !stop.is_cancelled() {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        std::io::stdout().write_all(&bytes)?;
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

/// Ends the platform of `folder`; whether one was running.
async fn end(folder: &Path) -> Result<bool> {
    let Some(found) = running(folder)? else {
        return Ok(false);
    };
    kill(Pid::from_raw(found.pid), Signal::SIGTERM)
        .with_context(|| format!("process {}", found.pid))?;
    let since = Instant::now();
    while running(folder)?.is_some() {
        if since.elapsed() > PATIENCE {
            bail!(
                "process {} has not ended after {} s; see `chemxor logs`",
                found.pid,
                PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(true)
}

pub(crate) async fn stop(home: &Home, format: Format) -> Result<()> {
    let stopped = end(&home.profile_folder()).await?;
    output::print(format, &json!({ "stopped": stopped }), || {
        say!(
            "{}",
            if stopped {
                "stopped"
            } else {
                "nothing was running"
            }
        );
    })
}

pub(crate) async fn reset(home: &Home, format: Format, args: &ResetArgs) -> Result<()> {
    let folder = home.profile_folder();
    if !folder.join("up.lock").exists() {
        bail!(
            "{} is no platform of `chemxor up`; nothing was removed",
            folder.display()
        );
    }
    confirm(
        args.yes,
        "reset",
        &format!(
            "the platform in {} with its models and tokens",
            folder.display()
        ),
    )?;
    end(&folder).await?;
    std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let value = json!({ "removed": folder });
    output::print(format, &value, || {
        say!("removed: {}; your keys were kept", folder.display())
    })
}
