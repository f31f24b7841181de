//! A private PostgreSQL cluster for one machine: `chemxor up`, the demo and the tests.
//!
//! It listens on a unix socket in a folder that only its owner may enter, never on the network.
//! PostgreSQL refuses root, so as root its programs run as the user `postgres` (or `nobody`).

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Uid, User, chown};

use crate::RuntimeError;

/// A running cluster; stopped when dropped.
#[derive(Debug)]
pub struct LocalCluster {
    bin: PathBuf,
    folder: PathBuf,
    sockets: PathBuf,
    owner: Option<(Uid, Gid)>,
    /// Held for life: one process runs the cluster of a folder.
    /// Taken out only by the test that plays the death of the process.
    _lock: Option<Flock<File>>,
}

/// How a cluster trades safety for speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As in production.
    Full,
    /// No fsync: a crash of the machine may lose data. For tests.
    None,
}

impl LocalCluster {
    /// Starts the cluster in `folder`, made when absent. A cluster that survived its parent's
    /// death is stopped first; one that another process runs is left alone and named in the error.
    pub fn start(folder: &Path, durability: Durability) -> Result<Self, RuntimeError> {
        let bin = find_binaries().ok_or(RuntimeError::PostgresMissing)?;
        std::fs::create_dir_all(folder).map_err(|error| RuntimeError::file(folder, error))?;
        let folder = folder
            .canonicalize()
            .map_err(|error| RuntimeError::file(folder, error))?;
        let lock = lock(&folder)?;
        let owner = foreign_owner(&folder)?;
        let permissions = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&folder, permissions)
            .map_err(|error| RuntimeError::file(&folder, error))?;
        let sockets = socket_folder(&folder, owner)?;
        let cluster = Self {
            bin,
            folder,
            sockets,
            owner,
            _lock: Some(lock),
        };
        let data = cluster.data();
        if !data.join("PG_VERSION").exists() {
            let data = data.display().to_string();
            let sync: &[&str] = if durability == Durability::None {
                &["--no-sync"]
            } else {
                &[]
            };
            let arguments = [
                "-D",
                &data,
                "-U",
                "chemxor",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
            ];
            cluster.run("initdb", &[&arguments, sync].concat())?;
        } else if cluster.pg_ctl(&["status"]).is_ok() {
            cluster.pg_ctl(&["stop", "-m", "fast", "-w"])?;
        }
        cluster.start_again(durability)?;
        Ok(cluster)
    }

    /// Starts the server of this cluster, after it was stopped or died.
    pub fn start_again(&self, durability: Durability) -> Result<(), RuntimeError> {
        self.start_with(durability, &[])
    }

    /// The same with more settings, which win over this cluster's own.
    pub fn start_with(
        &self,
        durability: Durability,
        settings: &[(&str, &str)],
    ) -> Result<(), RuntimeError> {
        let mut options = format!(
            "-c listen_addresses='' -c unix_socket_directories='{}' -c max_connections=200",
            self.sockets.display()
        );
        if durability == Durability::None {
            options.push_str(" -c fsync=off -c full_page_writes=off");
        }
        for (name, value) in settings {
            options.push_str(&format!(" -c {name}='{value}'"));
        }
        let log = self.folder.join("postgres.log").display().to_string();
        self.pg_ctl(&["start", "-w", "-t", "60", "-l", &log, "-o", &options])
            .map(drop)
    }

    /// Connection URL of a database of this cluster.
    pub fn url(&self, database: &str) -> String {
        let host = self.sockets.display().to_string().replace('/', "%2F");
        format!("postgres://chemxor@localhost/{database}?host={host}")
    }

    /// Folder with PostgreSQL's programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Folder of the data.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn pg_ctl(&self, arguments: &[&str]) -> Result<Output, RuntimeError> {
        let data = self.data().display().to_string();
        self.run("pg_ctl", &[&["-D", &data], arguments].concat())
    }

    fn run(&self, program: &'static str, arguments: &[&str]) -> Result<Output, RuntimeError> {
        let refuse = |reason: String| RuntimeError::Postgres { program, reason };
        let mut command = Command::new(self.bin.join(program));
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env_remove("PGDATA");
        // the server must not keep our pipes open, so its output goes to files
        let output = self.folder.join(format!("{program}.out"));
        let file = File::create(&output).map_err(|e| RuntimeError::file(&output, e))?;
        let copy = file
            .try_clone()
            .map_err(|e| RuntimeError::file(&output, e))?;
        command
            .stdin(std::process::Stdio::null())
            .stdout(file)
            .stderr(copy);
        if let Some((uid, gid)) = self.owner {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        let status = command
            .status()
            .map_err(|error| refuse(error.to_string()))?;
        let stdout = std::fs::read(&output).unwrap_or_default();
        if status.success() {
            return Ok(Output {
                status,
                stdout,
                stderr: Vec::new(),
            });
        }
        let text = String::from_utf8_lossy(&stdout).into_owned();
        let log = std::fs::read_to_string(self.folder.join("postgres.log")).unwrap_or_default();
        let all = format!("{text}\n{log}");
        let lines: Vec<&str> = all.lines().collect();
        Err(refuse(lines[lines.len().saturating_sub(8)..].join("\n")))
    }

    /// Stops the cluster; what was committed stays.
    pub fn stop(&self) -> Result<(), RuntimeError> {
        self.pg_ctl(&["stop", "-m", "fast", "-w", "-t", "30"])
            .map(drop)
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists()
            && let Err(error) = self.stop()
        {
            tracing::warn!(%error, "the private PostgreSQL did not stop");
        }
    }
}

/// One process at a time runs the cluster of a folder; the lock goes with the process.
fn lock(folder: &Path) -> Result<Flock<File>, RuntimeError> {
    let path = folder.join("chemxor.lock");
    let file = File::create(&path).map_err(|error| RuntimeError::file(&path, error))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        RuntimeError::file(
            &path,
            "another process runs this cluster; stop it or choose another folder",
        )
    })
}

/// Where the socket lies: the cluster's folder, or a private short-named one under /tmp when the
/// path is too long for a socket address (107 bytes).
fn socket_folder(folder: &Path, owner: Option<(Uid, Gid)>) -> Result<PathBuf, RuntimeError> {
    const LONGEST: usize = 107 - "/.s.PGSQL.5432.lock".len();
    if folder.as_os_str().len() <= LONGEST {
        return Ok(folder.to_owned());
    }
    let mut hasher = DefaultHasher::new();
    folder.hash(&mut hasher);
    let short = PathBuf::from(format!("/tmp/chemxor-{:016x}", hasher.finish()));
    let refuse = |error: std::io::Error| RuntimeError::file(&short, error);
    match std::fs::DirBuilder::new().mode(0o700).create(&short) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(refuse(error));
        }
        _ => {}
    }
    // /tmp is everybody's: a folder that somebody else made first is not trusted
    let found = std::fs::symlink_metadata(&short).map_err(refuse)?;
    let ours = [Some(Uid::effective()), owner.map(|(uid, _)| uid)];
    let private = found.is_dir() && found.permissions().mode() & 0o077 == 0;
    if !private || !ours.contains(&Some(Uid::from_raw(found.uid()))) {
        return Err(RuntimeError::file(
            &short,
            "it belongs to somebody else; choose a shorter data folder",
        ));
    }
    if let Some((uid, gid)) = owner {
        chown(&short, Some(uid), Some(gid)).map_err(|error| RuntimeError::file(&short, error))?;
    }
    Ok(short)
}

/// Folder with PostgreSQL's programs, when they are installed.
pub fn installed() -> Option<PathBuf> {
    find_binaries()
}

/// `$PG_BIN`, then PATH, then the newest under /usr/lib/postgresql.
fn find_binaries() -> Option<PathBuf> {
    let has = |folder: &PathBuf| folder.join("initdb").exists() && folder.join("pg_ctl").exists();
    let named = std::env::var_os("PG_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).collect::<Vec<_>>();
    let mut debian: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    let version = |folder: &PathBuf| -> u32 {
        let name = folder.parent().and_then(Path::file_name);
        name.and_then(|name| name.to_str())
            .and_then(|name| name.parse().ok())
            .unwrap_or(0)
    };
    debian.sort_by_key(|folder| std::cmp::Reverse(version(folder)));
    named.into_iter().chain(on_path).chain(debian).find(has)
}

/// As root: the user that runs PostgreSQL, made owner of the folder.
fn foreign_owner(folder: &Path) -> Result<Option<(Uid, Gid)>, RuntimeError> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = ["postgres", "nobody"]
        .iter()
        .find_map(|name| User::from_name(name).ok().flatten());
    let user = user.ok_or_else(|| {
        RuntimeError::file(
            folder,
            "PostgreSQL refuses root and there is no user `postgres` or `nobody`",
        )
    })?;
    for ancestor in folder.ancestors().skip(1) {
        let metadata =
            std::fs::metadata(ancestor).map_err(|error| RuntimeError::file(ancestor, error))?;
        if metadata.permissions().mode() & 0o001 == 0 {
            let reason = format!(
                "the user {} cannot enter it; choose a data folder elsewhere, such as /var/tmp/chemxor",
                user.name
            );
            return Err(RuntimeError::file(ancestor, reason));
        }
    }
    chown(folder, Some(user.uid), Some(user.gid))
        .map_err(|error| RuntimeError::file(folder, error))?;
    Ok(Some((user.uid, user.gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_starts_again_after_it_was_left_behind() {
        let folder = tempfile::Builder::new()
            .prefix("cxpg")
            .tempdir_in("/tmp")
            .unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let place = folder.path().join("pg");
        let mut first = LocalCluster::start(&place, Durability::None).unwrap();
        assert!(first.data().join("postmaster.pid").exists());
        // as after `kill -9`: the lock goes with the process, the server stays
        drop(first._lock.take());
        std::mem::forget(first);
        let second = LocalCluster::start(&place, Durability::None).unwrap();
        second.stop().unwrap();
        assert!(!second.data().join("postmaster.pid").exists());
    }
}
