//! A platform of real processes: registry, gateway and workers, each `chemxor ROLE --config …`,
//! over a private PostgreSQL. Everything is killed and removed when the test ends.

#![allow(dead_code, reason = "bench/system uses it too, and other parts of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use chemxor_runtime::pki::{DevAuthority, Subject};
use chemxor_runtime::postgres::{Durability, LocalCluster};

/// A running service; killed when dropped.
pub(crate) struct Service {
    child: Child,
    pub(crate) address: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM; gives how it ended.
    pub(crate) fn terminate(mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap()
    }

    /// kill -9, and wait until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Waits for a condition with a deadline; panics with `what` when it passes.
pub(crate) fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Everything that one test runs.
pub(crate) struct Platform {
    pub(crate) gateway: Option<Service>,
    pub(crate) workers: Vec<Option<Service>>,
    pub(crate) registry: Option<Service>,
    pub(crate) cluster: LocalCluster,
    authority: DevAuthority,
    worker_config: String,
    gateway_config: String,
    registry_config: String,
    /// More lines for one worker alone.
    own_config: BTreeMap<usize, String>,
    /// Where the registry is reached, when not at its own address.
    registry_at: Option<String>,
    /// More environment for services that are started from here on.
    pub(crate) environment: Vec<(&'static str, String)>,
    folder: tempfile::TempDir,
}

impl Platform {
    /// Starts PostgreSQL, a registry, a gateway and `workers` workers, and makes tokens.
    pub(crate) fn start(workers: usize) -> Self {
        Self::start_with(workers, "")
    }

    /// The same with more lines in the configuration of each worker.
    pub(crate) fn start_with(workers: usize, worker_config: &str) -> Self {
        Self::start_configured(workers, ["", "", worker_config])
    }

    /// The same with more lines in the configurations of registry, gateway and each worker.
    pub(crate) fn start_configured(
        workers: usize,
        [registry_config, gateway_config, worker_config]: [&str; 3],
    ) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::Builder::new()
            .prefix("cxe2e")
            .tempdir_in("/tmp")
            .unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(folder.path().join("local")).unwrap();
        let cluster = LocalCluster::start(&folder.path().join("pg"), Durability::None).unwrap();
        let authority = DevAuthority::create_or_load(&folder.path().join("local")).unwrap();
        let mut platform = Self {
            gateway: None,
            workers: (0..workers).map(|_| None).collect(),
            registry: None,
            cluster,
            authority,
            worker_config: worker_config.to_owned(),
            gateway_config: gateway_config.to_owned(),
            registry_config: registry_config.to_owned(),
            own_config: BTreeMap::new(),
            registry_at: None,
            environment: Vec::new(),
            folder,
        };
        platform.start_registry();
        platform.start_gateway();
        for number in 0..workers {
            platform.start_worker(number);
        }
        platform.make_profile();
        platform
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn local(&self) -> PathBuf {
        self.path("local")
    }

    fn tls(&self, subject: &Subject, name: &str) -> String {
        let files = self
            .authority
            .issue_to(subject, &self.local(), name)
            .unwrap();
        format!(
            "[tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
            files.ca, files.cert, files.key
        )
    }

    fn spawn(&self, role: &str, name: &str, config: &str) -> Service {
        let config_path = self.path(&format!("{name}.toml"));
        std::fs::write(&config_path, config).unwrap();
        let ready = self.path(&format!("{name}.ready"));
        let _ = std::fs::remove_file(&ready);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(&format!("{name}.log")))
            .unwrap();
        // everything, so that tests find a secret in it; benchmarks ask for what operators see
        let verbose = "debug,h2=info,hyper=info,tower=info,sqlx=info";
        let log_level = std::env::var("CHEMXOR_LOG").unwrap_or_else(|_| verbose.to_owned());
        let mut child = Command::new(env!("CARGO_BIN_EXE_chemxor"))
            .arg(role)
            .args([
                Path::new("--config"),
                &config_path,
                Path::new("--ready-file"),
                &ready,
            ])
            .env("CHEMXOR_LOG", log_level)
            .envs(self.environment.iter().cloned())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let address = wait_until("a service", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{name} ended with {status}: {}", self.log(name));
            }
            std::fs::read_to_string(&ready).ok()
        });
        Service {
            child,
            address: address.replace("127.0.0.1", "localhost"),
        }
    }

    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    pub(crate) fn start_registry(&mut self) {
        let listen = self
            .registry
            .as_ref()
            .map_or("127.0.0.1:0".to_owned(), |s| {
                s.address.replace("localhost", "127.0.0.1")
            });
        let config = format!(
            "listen = {listen:?}\ndatabase_url = {:?}\n{}\n{}",
            self.cluster.url("postgres"),
            self.tls(&Subject::Registry, "registry"),
            self.registry_config
        );
        self.registry = Some(self.spawn("registry", "registry", &config));
    }

    fn registry_address(&self) -> &str {
        let own = || &self.registry.as_ref().unwrap().address;
        self.registry_at.as_ref().unwrap_or_else(own)
    }

    /// Starts the gateway again, which reaches the registry at this address.
    pub(crate) fn reach_registry_at(&mut self, address: &str) {
        self.registry_at = Some(address.to_owned());
        drop(self.gateway.take());
        self.start_gateway();
        self.registry_at = None;
    }

    /// Lets the command reach the gateway at this address.
    pub(crate) fn reach_gateway_at(&self, address: &str) {
        self.change_profile("gateway", address);
    }

    /// Lets the command reach the registry at this address; gives the one before.
    pub(crate) fn reach_profile_registry_at(&self, address: &str) -> String {
        self.change_profile("registry", address)
    }

    fn change_profile(&self, key: &str, value: &str) -> String {
        let path = self.local().join("profile.toml");
        let mut profile: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        let before = profile.insert(key.to_owned(), value.into()).unwrap();
        std::fs::write(path, profile.to_string()).unwrap();
        before.as_str().unwrap().to_owned()
    }

    /// A profile with a certificate of this subject and room for a querier's token.
    pub(crate) fn make_lab(&self, profile: &str, subject: &Subject) {
        let folder = self.path(profile);
        std::fs::create_dir_all(&folder).unwrap();
        let own = self.local().join("profile.toml");
        let mut text: toml::Table = std::fs::read_to_string(own).unwrap().parse().unwrap();
        let files = self.authority.issue_to(subject, &folder, "client").unwrap();
        for (key, file) in [("cert", files.cert), ("key", files.key)] {
            text.insert(key.to_owned(), file.display().to_string().into());
        }
        let token = folder.join("querier.token").display().to_string();
        let tokens = toml::Table::from_iter([("querier".to_owned(), token.into())]);
        text.insert("tokens".to_owned(), tokens.into());
        std::fs::write(folder.join("profile.toml"), text.to_string()).unwrap();
    }

    /// One more worker, with these lines in its configuration.
    pub(crate) fn add_worker(&mut self, config: &str) {
        let number = self.workers.len();
        self.workers.push(None);
        self.own_config.insert(number, config.to_owned());
        self.start_worker(number);
    }

    /// The number that a query on the registry's database gives.
    pub(crate) fn number(&self, query: &str) -> i64 {
        let beside = self.cluster.bin().join("psql");
        let program = if beside.exists() {
            beside
        } else {
            "psql".into()
        };
        let done = Command::new(program)
            .args(["--no-psqlrc", "--tuples-only", "--no-align", "-c", query])
            .arg(self.cluster.url("postgres"))
            .output()
            .unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        text.trim()
            .parse()
            .unwrap_or_else(|_| panic!("{query}: {text}"))
    }

    /// New certificates for registry, gateway and workers, where the old ones lie.
    pub(crate) fn renew_certificates(&self) {
        self.tls(&Subject::Registry, "registry");
        self.tls(&Subject::Gateway, "gateway");
        for number in 1..=self.workers.len() {
            let name = format!("worker-{number}");
            self.tls(&Subject::Worker(name.parse().unwrap()), &name);
        }
    }

    pub(crate) fn start_gateway(&mut self) {
        let listen = match &self.gateway {
            Some(known) => known.address.replace("localhost", "127.0.0.1"),
            None => std::fs::read_to_string(self.path("gateway.ready"))
                .unwrap_or_else(|_| "127.0.0.1:0".to_owned()),
        };
        let config = format!(
            "listen = {listen:?}\nregistry = {:?}\n{}\n{}",
            self.registry_address(),
            self.tls(&Subject::Gateway, "gateway"),
            self.gateway_config
        );
        self.gateway = Some(self.spawn("gateway", "gateway", &config));
    }

    /// Starts the gateway again with room for so many sessions of an organisation.
    pub(crate) fn allow_sessions(&mut self, count: usize) {
        self.gateway_config = format!("[limits]\nsessions_per_organisation = {count}\n");
        drop(self.gateway.take());
        self.start_gateway();
    }

    /// kill -9 of the registry; it keeps its address for the next start.
    pub(crate) fn kill_registry(&mut self) {
        let registry = self.registry.as_mut().unwrap();
        registry.child.kill().unwrap();
        registry.child.wait().unwrap();
    }

    /// SIGTERM to the registry; it keeps its address for the next start.
    pub(crate) fn stop_registry(&mut self) -> std::process::ExitStatus {
        let registry = self.registry.as_mut().unwrap();
        let pid = nix::unistd::Pid::from_raw(registry.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        registry.child.wait().unwrap()
    }

    /// kill -9 of PostgreSQL's first process; the others end with it. Then it is started again.
    pub(crate) fn kill_postgres(&self) {
        let file = self.cluster.folder().join("data/postmaster.pid");
        let text = std::fs::read_to_string(file).unwrap();
        let pid = nix::unistd::Pid::from_raw(text.lines().next().unwrap().parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        wait_until("PostgreSQL to end", || {
            nix::sys::signal::kill(pid, None).is_err().then_some(())
        });
        wait_until("PostgreSQL to start again", || {
            self.cluster.start_again(Durability::None).ok()
        });
    }

    /// Files with the gateway's certificate.
    pub(crate) fn gateway_tls(&self) -> chemxor_runtime::tls::TlsFiles {
        self.tls_of("gateway")
    }

    /// Files with a service's certificate.
    pub(crate) fn tls_of(&self, service: &str) -> chemxor_runtime::tls::TlsFiles {
        let local = self.local();
        chemxor_runtime::tls::TlsFiles {
            ca: local.join("ca.pem"),
            cert: local.join(format!("{service}.pem")),
            key: local.join(format!("{service}.key")),
        }
    }

    /// A lab's way to a service.
    pub(crate) fn access(&self, endpoint: &str) -> chemxor_client::Access {
        let local = self.local();
        chemxor_client::Access {
            endpoint: endpoint.to_owned(),
            tls: chemxor_runtime::tls::TlsFiles {
                ca: local.join("ca.pem"),
                cert: local.join("client.pem"),
                key: local.join("client.key"),
            },
            token: chemxor_client::batch::read_token(&local.join("querier.token")).unwrap(),
        }
    }

    /// Starts worker `number`, or starts it again with the key and address that it had.
    pub(crate) fn start_worker(&mut self, number: usize) {
        let name = format!("worker-{}", number + 1);
        let known = std::fs::read_to_string(self.path(&format!("{name}.ready")));
        let listen = known.unwrap_or_else(|_| "127.0.0.1:0".to_owned());
        let config = format!(
            "name = {name:?}\nlisten = {listen:?}\nregistry = {:?}\nsealing_key = {:?}\n{}{}{}",
            self.registry_address(),
            self.path(&format!("{name}.sealing-key")),
            self.own_config.get(&number).map_or("", String::as_str),
            self.worker_config,
            self.tls(&Subject::Worker(name.parse().unwrap()), &name)
        );
        self.workers[number] = Some(self.spawn("worker", &name, &config));
    }

    /// The first administrator's token as on every platform, the others straight from the store, as
    /// `chemxor up` makes them, and the client's profile.
    fn make_profile(&self) {
        use chemxor_core::{Role, RoleSet};
        let files = self
            .authority
            .issue_to(
                &Subject::Client("lab".parse().unwrap()),
                &self.local(),
                "client",
            )
            .unwrap();
        let mut profile = format!(
            "registry = {:?}\ngateway = {:?}\nca = {:?}\ncert = {:?}\nkey = {:?}\n[tokens]\n",
            self.registry_address(),
            self.gateway.as_ref().unwrap().address,
            files.ca,
            files.cert,
            files.key
        );
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let url = self.cluster.url("postgres");
            let store = chemxor_registry::store::Store::connect(&url).await.unwrap();
            for role in Role::ALL.into_iter().filter(|role| role.is_token_role()) {
                let subject = format!("{role}@test");
                let path = self.local().join(format!("{role}.token"));
                profile.push_str(&format!("{role} = {path:?}\n"));
                if role == Role::Admin {
                    self.make_first_token(&subject, &path);
                    continue;
                }
                let life = Duration::from_secs(3600);
                let roles = RoleSet::new([role]);
                let token = store
                    .create_token("test", &subject, &roles, life)
                    .await
                    .unwrap();
                let secret = token.secret;
                chemxor_client::files::create_secret(&path, secret.as_bytes()).unwrap();
            }
            store.close().await;
        });
        std::fs::write(self.local().join("profile.toml"), profile).unwrap();
    }

    fn make_first_token(&self, subject: &str, path: &Path) {
        let config = self.path("registry.toml").display().to_string();
        let path = path.display().to_string();
        self.json(&[
            "registry",
            "--config",
            &config,
            "--first-token",
            subject,
            "--output",
            &path,
        ]);
    }

    /// Runs the command with this platform's home.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chemxor"));
        command
            .args(arguments)
            .env("CHEMXOR_HOME", self.folder.path());
        command.env_remove("CHEMXOR_PROFILE").stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs the command, expects success, and reads its JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(&[arguments, &["--format", "json"]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs the command, expects failure, and gives what it says.
    pub(crate) fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} should fail");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Whether every service that was started still runs.
    pub(crate) fn alive(&mut self) -> bool {
        let services = self.workers.iter_mut().flatten();
        let services = services.chain(&mut self.gateway).chain(&mut self.registry);
        services
            .into_iter()
            .all(|service| matches!(service.child.try_wait(), Ok(None)))
    }

    /// Trains a small model on the repository's data, publishes it and, if asked, approves it.
    pub(crate) fn publish(&self, name: &str, approve: bool) -> String {
        self.publish_spread(name, approve, "steps")
    }

    /// The same with the steps spread in this way.
    pub(crate) fn publish_spread(&self, name: &str, approve: bool, spread: &str) -> String {
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/esol.csv");
        let bundle = self.path(&format!("{name}.cxb")).display().to_string();
        let holdout = self.path("holdout.csv").display().to_string();
        let train = [
            "train", "--input", data, "--name", name, "--epochs", "8", "--output", &bundle,
        ];
        self.json(&[&train[..], &["--holdout", &holdout]].concat());
        self.publish_bundle(name, &bundle, approve, spread)
    }

    /// Publishes a bundle; the keys are made first when there are none.
    pub(crate) fn publish_bundle(
        &self,
        name: &str,
        bundle: &str,
        approve: bool,
        spread: &str,
    ) -> String {
        if !self.path("keys/publisher.key").exists() {
            self.json(&["keys", "new", "--publisher"]);
            self.json(&["keys", "new"]);
        }
        let published = self.json(&["publish", bundle, "--spread", spread]);
        assert_eq!(published["state"], "submitted");
        if approve {
            self.json(&["approve", name]);
        }
        published["version"].as_str().unwrap().to_owned()
    }
}
