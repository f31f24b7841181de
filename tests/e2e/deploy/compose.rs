//! The compose file, read into the part of the compose specification that it uses; any other key is
//! an error. Each service is confined, healthy by its own word, and finds what it mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use serde::Deserialize;
use serde_yaml_ng::Value;

use super::{ROLES, documents, image, port, root, sample, samples, text};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Compose {
    /// What the services share, by an anchor.
    #[serde(rename = "x-service")]
    _shared: Value,
    services: BTreeMap<String, Service>,
    networks: BTreeMap<String, Empty>,
    volumes: BTreeMap<String, Empty>,
    secrets: BTreeMap<String, Secret>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Secret {
    file: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    context: String,
    dockerfile: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Condition {
    ServiceHealthy,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dependency {
    #[serde(rename = "condition")]
    _condition: Condition,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Health {
    test: Vec<String>,
    interval: String,
    timeout: String,
    retries: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deploy {
    resources: Resources,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    limits: Limits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    cpus: String,
    memory: String,
    pids: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    image: String,
    build: Option<Build>,
    restart: String,
    read_only: bool,
    user: String,
    cap_drop: Vec<String>,
    security_opt: Vec<String>,
    stop_grace_period: String,
    #[serde(default)]
    networks: Vec<String>,
    network_mode: Option<String>,
    deploy: Deploy,
    command: Option<Vec<String>>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    secrets: Vec<String>,
    volumes: Vec<String>,
    #[serde(default)]
    tmpfs: Vec<String>,
    #[serde(default)]
    ports: Vec<String>,
    #[serde(default)]
    depends_on: BTreeMap<String, Dependency>,
    healthcheck: Health,
}

fn read(text: &str) -> Result<Compose, serde_yaml_ng::Error> {
    let mut value = documents("compose.yaml", text).remove(0);
    value.apply_merge()?;
    serde_yaml_ng::from_value(value)
}

fn compose() -> Compose {
    read(&text("compose/compose.yaml")).unwrap_or_else(|error| panic!("{error}"))
}

fn seconds(text: &str) -> u64 {
    text.strip_suffix('s').unwrap().parse().unwrap()
}

/// Host path or volume, and where it is mounted, whether for reading only.
fn mounts(service: &Service) -> Vec<(&str, &str, bool)> {
    service
        .volumes
        .iter()
        .map(|mount| {
            let parts: Vec<&str> = mount.split(':').collect();
            assert!(parts.len() == 2 || parts[2..] == ["ro"], "{mount}");
            (parts[0], parts[1], parts.len() == 3)
        })
        .collect()
}

#[test]
fn a_key_that_compose_does_not_know_is_refused() {
    let good = text("compose/compose.yaml");
    for (from, to) in [
        ("  read_only: true\n", "  readonly: true\n"),
        ("      retries: 12\n", "      retry: 12\n"),
        ("condition: service_healthy", "condition: service_health"),
    ] {
        assert!(good.contains(from), "{from}");
        assert!(read(&good.replacen(from, to, 1)).is_err(), "{to}");
    }
}

#[test]
fn the_compose_file_starts_every_role_with_its_configuration() {
    let compose = compose();
    let mut roles = BTreeSet::new();
    for (name, service) in &compose.services {
        for dependency in service.depends_on.keys() {
            assert!(compose.services.contains_key(dependency), "{dependency}");
        }
        let Some(command) = &service.command else {
            assert_eq!(name, "postgres");
            continue;
        };
        let role = command[0].as_str();
        assert!(ROLES.contains(&role) && name.starts_with(role), "{name}");
        let folder = format!("/etc/chemxor/{role}");
        assert_eq!(
            command[1..3],
            ["--config".to_owned(), format!("{folder}/{role}.toml")]
        );
        roles.insert(role.to_owned());
        let config: toml::Value = sample(&format!("{role}.toml"));
        let grace = seconds(&service.stop_grace_period) * 1000;
        let drain = config["operations"]["drain_ms"].as_integer().unwrap();
        assert!(
            grace > drain.cast_unsigned(),
            "{role} is killed while it drains"
        );
        let published = service
            .ports
            .iter()
            .map(|port| port.split(':').next().unwrap());
        for published in published {
            assert_eq!(published.parse(), Ok(port(&config["listen"])), "{role}");
        }
        // what the configuration names is mounted, and what the worker writes can be written
        let at = |path: &str| {
            let mounts = mounts(service).into_iter();
            mounts.rev().find(|(_, to, _)| path.starts_with(to))
        };
        let own = format!("./{name}");
        let own = Some((own.as_str(), folder.as_str(), true));
        for key in ["ca", "cert", "key"] {
            let path = config["tls"][key].as_str().unwrap();
            assert_eq!(at(path), own, "{role}: {path}");
        }
        assert_eq!(at(&command[2]), own, "{role}");
        if role == "registry" {
            let path = config["signing_key"].as_str().unwrap();
            assert_eq!(at(path), own, "{path}");
        }
        if role == "worker" {
            let (volume, to, read_only) = at(config["sealing_key"].as_str().unwrap()).unwrap();
            assert!(compose.volumes.contains_key(volume) && !read_only);
            let made = format!("install -d -o 65532 -g 65532 -m 0700 {to}");
            assert_eq!(image::last("RUN"), made, "a new volume belongs to the user");
        }
    }
    assert_eq!(roles.len(), ROLES.len());
}

/// Mounts of a service that hold what belongs to another one, and files of its own that it could
/// change. Volumes are looked at by their names.
fn foreign(compose: &Compose) -> Vec<String> {
    let mut found = Vec::new();
    for (name, service) in &compose.services {
        for (from, to, read_only) in mounts(service) {
            let own = match compose.volumes.contains_key(from) {
                // the database's socket is how the registry reaches it
                true if from == "postgres-socket" => ["postgres", "registry"].contains(&&name[..]),
                true => from == name,
                false => from == format!("./{name}") && read_only,
            };
            if !own {
                found.push(format!("{name}: {from} at {to}"));
            }
        }
        for secret in service.secrets.iter().filter(|secret| *secret != name) {
            found.push(format!("{name}: {secret}"));
        }
    }
    found
}

/// Words of the head that name a secret, by the folder or file that it lies in.
fn secrets_of_the_head(file: &str) -> Vec<(String, BTreeSet<String>)> {
    let mut entries: Vec<(String, BTreeSet<String>)> = Vec::new();
    for line in file.lines().take_while(|line| line.starts_with('#')) {
        if let Some(entry) = line.strip_prefix("#   ./") {
            let name = entry.split(' ').next().unwrap();
            entries.push((name.to_owned(), BTreeSet::new()));
        }
        let Some((_, words)) = entries.last_mut() else {
            continue;
        };
        let found = line
            .split_whitespace()
            .map(|word| word.trim_end_matches([',', ';']))
            .filter(|word| word.ends_with(".key") || word.ends_with(".toml"));
        words.extend(found.filter(|word| !word.contains('/')).map(str::to_owned));
    }
    entries
}

#[test]
fn no_service_sees_what_belongs_to_another() {
    let good = text("compose/compose.yaml");
    let found = foreign(&read(&good).unwrap());
    assert!(found.is_empty(), "{found:?}");
    for (from, to) in [
        ("./gateway:/etc", "./registry:/etc"),
        ("./gateway:/etc", "./tls:/etc"),
        ("./gateway:/etc", ".:/etc"),
        ("/etc/chemxor/gateway:ro", "/etc/chemxor/gateway"),
        ("worker-1:/var", "postgres-socket:/var"),
    ] {
        assert!(good.contains(from), "{from}");
        let bad = read(&good.replacen(from, to, 1)).unwrap();
        assert!(!foreign(&bad).is_empty(), "{to}");
    }
    // what the head tells the operator to put into a folder is of its role alone
    let entries = secrets_of_the_head(&good);
    let mut seen = BTreeSet::new();
    for (name, secrets) in &entries {
        for secret in secrets {
            assert!(seen.insert(secret), "{name}: {secret} lies elsewhere too");
        }
        let role = ROLES.into_iter().find(|role| name.starts_with(*role));
        let named =
            |ending: &str| role.is_none_or(|role| secrets.contains(&format!("{role}.{ending}")));
        assert!(named("key") && named("toml"), "{name}: {secrets:?}");
    }
    assert_eq!(entries.len(), ROLES.len() + 1, "{entries:?}");
}

#[test]
fn a_gateway_has_twice_the_memory_of_its_messages() {
    let compose = compose();
    let memory = &compose.services["gateway"].deploy.resources.limits.memory;
    // gibibytes, as compose counts them
    let gibibytes: u64 = memory.strip_suffix('G').unwrap().parse().unwrap();
    let wanted = samples::gateway_mebibytes();
    assert!(gibibytes * 1024 >= wanted, "{memory} for {wanted} MiB");
}

#[test]
fn every_service_is_confined_and_bounded() {
    let compose = compose();
    for (name, service) in &compose.services {
        assert!(service.read_only, "{name}");
        assert_eq!(service.cap_drop, ["ALL"], "{name}");
        assert_eq!(service.security_opt, ["no-new-privileges:true"], "{name}");
        assert_eq!(service.restart, "unless-stopped", "{name}");
        let limits = &service.deploy.resources.limits;
        assert!(limits.cpus.parse::<f64>().unwrap() > 0.0 && limits.pids > 0);
        let memory = limits.memory.strip_suffix(['M', 'G']).unwrap();
        assert!(memory.parse::<u32>().unwrap() > 0, "{name}");
        match &service.build {
            Some(build) => {
                assert_eq!(service.user, image::last("USER"), "{name}");
                let context = root().join("deploy/compose").join(&build.context);
                assert!(context.join(&build.dockerfile).exists(), "{name}");
                assert!(service.image.contains(env!("CARGO_PKG_VERSION")), "{name}");
            }
            None => assert!(!service.user.starts_with("0"), "{name}"),
        }
        let writes = service.tmpfs.iter().all(|path| path.starts_with('/'));
        assert!(writes, "{name}");
    }
    // each in one declared network, the database in none
    for (name, service) in &compose.services {
        let mode = service.network_mode.as_deref();
        if name == "postgres" {
            assert!(mode == Some("none") && service.networks.is_empty());
            continue;
        }
        assert!(mode.is_none() && !service.networks.is_empty(), "{name}");
        for network in &service.networks {
            assert!(compose.networks.contains_key(network), "{network}");
        }
    }
}

#[test]
fn what_is_mounted_is_declared_or_explained_and_lies_in_nothing_else() {
    let file = text("compose/compose.yaml");
    let compose = compose();
    let head: Vec<&str> = file.lines().take_while(|l| l.starts_with('#')).collect();
    let explained = |path: &str| {
        head.iter()
            .any(|line| line.starts_with(&format!("#   {path} ")))
    };
    let mut used = BTreeSet::new();
    for (name, service) in &compose.services {
        let mounts = mounts(service);
        for (from, to, _) in &mounts {
            if from.starts_with('.') {
                assert!(explained(from), "{from} is not explained");
            } else {
                assert!(
                    compose.volumes.contains_key(*from),
                    "{from} is not declared"
                );
                used.insert((*from).to_owned());
            }
            let nested = mounts
                .iter()
                .any(|(_, other, _)| other != to && other.starts_with(&format!("{to}/")));
            assert!(!nested, "{name}: a mount lies in {to}");
        }
        for secret in &service.secrets {
            let declared = &compose.secrets[secret];
            assert!(explained(&declared.file), "{}", declared.file);
            let passed = service.environment.values();
            let path = format!("/run/secrets/{secret}");
            assert_eq!(passed.filter(|value| **value == path).count(), 1);
        }
    }
    assert_eq!(used, compose.volumes.keys().cloned().collect());
    // the database is reached by its socket, with its password: the address that is documented
    let head = head.join("\n");
    let start = head.find("postgres://").unwrap();
    let address = head[start..].split('"').next().unwrap();
    let (address, socket) = address.split_once("?host=").unwrap();
    let database = &compose.services["postgres"];
    let set = &database.environment;
    let (user, name) = (&set["POSTGRES_USER"], &set["POSTGRES_DB"]);
    assert_eq!(
        address,
        format!("postgres://{user}:PASSWORD@localhost/{name}")
    );
    let auth = &set["POSTGRES_INITDB_ARGS"];
    assert_eq!(
        auth, "--auth-local=scram-sha-256",
        "sockets trust by default"
    );
    let shared = ("postgres-socket", socket, false);
    for service in [database, &compose.services["registry"]] {
        assert!(mounts(service).contains(&shared), "{socket}");
    }
}

/// Runs a health check as the container does, against an answer on a port of this machine.
fn healthy(check: &str, wanted: u16, answer: &str) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap().port();
    let answer = answer.to_owned();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut byte = [0; 1];
        while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            asked.push(byte[0]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        asked
    });
    assert!(check.contains(&format!("/127.0.0.1/{wanted};")), "{check}");
    let check = check.replace(&format!("/{wanted};"), &format!("/{here};"));
    // compose writes one $ as two
    let check = check.replace("$$", "$");
    let status = Command::new("bash").args(["-c", &check]).status().unwrap();
    let asked = server.join().unwrap();
    assert_eq!(asked, b"GET /readyz HTTP/1.0\r\n\r\n");
    status.success()
}

#[test]
fn health_checks_tell_ready_from_not_ready() {
    for (name, service) in &compose().services {
        let health = &service.healthcheck;
        assert!(seconds(&health.interval) > seconds(&health.timeout) && health.retries > 1);
        let Some(command) = &service.command else {
            assert_eq!(health.test[..2], ["CMD", "pg_isready"]);
            continue;
        };
        let [kind, shell, option, check] = &health.test[..] else {
            panic!("{name}: {:?}", health.test);
        };
        assert_eq!([kind, shell, option], ["CMD", "bash", "-c"], "{name}");
        let config: toml::Value = sample(&format!("{}.toml", command[0]));
        let port = port(&config["operations"]["listen"]);
        assert!(healthy(check, port, "HTTP/1.0 200 OK\r\n\r\n"), "{name}");
        assert!(
            !healthy(check, port, "HTTP/1.0 503 Unavailable\r\n\r\n"),
            "{name}"
        );
    }
}
