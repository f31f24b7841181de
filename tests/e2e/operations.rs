//! The operator's side of running services: probes and metrics, the load tool, backup and restore.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::platform::{Platform, wait_until};

/// A free port of loopback. Somebody else could take it before it is used; then the test fails.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Status line and body.
fn get(port: u16, path: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.lines().next()?.to_owned(), body.to_owned()))
}

#[test]
fn probes_answer_and_metrics_count_what_happened() {
    let port = free_port();
    let operations =
        format!("memory_limit_mib = 64\n[operations]\nlisten = \"127.0.0.1:{port}\"\n");
    let platform = Platform::start_with(1, &operations);
    let live = wait_until("the operations port", || get(port, "/livez"));
    assert!(live.0.contains("200"), "{live:?}");
    // no huge pages, which make idle sessions expensive and memory grow under steady load
    let services = [&platform.registry, &platform.gateway, &platform.workers[0]];
    let status = |of: &str| std::fs::read_to_string(format!("/proc/{of}/status")).unwrap();
    let field = "THP_enabled:\t";
    let is_known = status("self").contains(field);
    for pid in services.map(|service| service.as_ref().unwrap().pid()) {
        let status = status(&pid.to_string());
        // a kernel without huge pages does not show it
        assert!(
            !is_known || status.contains(&format!("{field}0\n")),
            "{status}"
        );
    }
    platform.publish("esol", true);
    wait_until("readiness", || {
        get(port, "/readyz")?.0.contains("200").then_some(())
    });
    let holdout = platform.path("holdout.csv").display().to_string();
    let table = platform.path("load.csv").display().to_string();
    let levels = platform.json(&[
        "load",
        "esol",
        "--input",
        &holdout,
        "--concurrency",
        "2",
        "--window",
        "0.2",
        "--max-windows",
        "3",
        "--expect-column",
        "twin",
        "--tolerance",
        "0.6",
        "--output",
        &table,
    ]);
    let asked = levels[0]["queries"].as_u64().unwrap();
    assert!(
        asked > 0 && levels[0]["wrong"] == 0 && levels[0]["failed"] == 0,
        "{levels}"
    );
    let rate = platform.json(&[
        "load", "esol", "--input", &holdout, "--rate", "50", "--window", "0.2", "--stable", "1",
    ]);
    assert_eq!(rate[0]["mode"], "rate");
    let row = csv::Reader::from_path(&table)
        .unwrap()
        .records()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(row[4], asked.to_string());
    let wrong = platform.refusal(&[
        "load",
        "esol",
        "--input",
        &holdout,
        "--window",
        "0.1",
        "--max-windows",
        "3",
        "--expect-column",
        "twin",
        "--tolerance",
        "0.0000001",
    ]);
    assert!(wrong.contains("differ from what was expected"), "{wrong}");

    let (_, metrics) = get(port, "/metrics").unwrap();
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("chemxor_worker_steps_total{outcome=\"ok\"}") >= 2.0 * asked as f64);
    assert!(value("chemxor_worker_step_seconds_count") >= 2.0 * asked as f64);
    assert_eq!(value("chemxor_worker_models "), 1.0);
    assert!(value("chemxor_worker_weights_bytes ") > 100_000.0);
    assert!(value("chemxor_certificate_expiry_timestamp_seconds ") > 1.7e9);
}

fn program(platform: &Platform, name: &str) -> Command {
    let beside = platform.cluster.bin().join(name);
    // beside initdb, or on PATH where initdb is a link
    Command::new(if beside.exists() { beside } else { name.into() })
}

/// State of services beside the database.
const KEYS: [&str; 3] = [
    "local/registry-signing.key",
    "worker-1.sealing-key",
    "worker-2.sealing-key",
];

/// Copies the key files to another folder, from the running platform or back to it.
fn copy_keys(from: &Path, to: &Path) {
    for key in KEYS {
        let copy = to.join(key);
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(from.join(key), copy).unwrap();
    }
}

/// What a registry says that does not start.
fn refused_start(platform: &Platform) -> String {
    // it would run for ever if it did start
    let ended = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_chemxor"), "registry", "--config"])
        .arg(platform.path("registry.toml"))
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    String::from_utf8(ended.stderr).unwrap()
}

/// The part of the handbook on backups.
fn handbook() -> &'static str {
    let pages = include_str!("../../docs/operations.md");
    let part = pages.split("\n## Back up and restore\n").nth(1).unwrap();
    part.split("\n## ").next().unwrap()
}

/// Whatever takes a right away is undone by an older backup, and has to be done again.
#[test]
fn the_handbook_names_what_to_keep_and_what_to_revoke_again() {
    let part = handbook();
    let samples = ["registry", "gateway", "worker"].map(|role| {
        let file = format!("../deploy/{role}.toml");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = std::fs::read_to_string(file).unwrap();
        text.parse::<toml::Table>().unwrap()
    });
    let mut keys = 0;
    for sample in &samples {
        for (key, value) in sample.iter().filter(|(key, _)| key.ends_with("_key")) {
            let path = Path::new(value.as_str().unwrap());
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(part.contains(&format!("`{name}`")), "{key}: {name}");
            keys += 1;
        }
    }
    assert_eq!(keys, 2, "the signing key and the sealing key");
    for command in [
        "token revoke",
        "cert deny",
        "org suspend",
        "member remove",
        "revoke",
        "workers withdraw",
        "model visibility",
        "consortium set",
        "quota set",
    ] {
        assert!(part.contains(&format!("`chemxor {command}`")), "{command}");
    }
}

/// The drill of docs/operations.md: dump, lose everything, restore, go on.
#[test]
fn a_backup_restores_the_platform_and_workers_open_their_partitions_again() {
    let mut platform = Platform::start(2);
    let version = platform.publish("esol", true);
    let before = platform.json(&["query", "esol", "--smiles", "CCO"]);
    let (home, kept) = (platform.path(""), platform.path("backup"));
    copy_keys(&home, &kept);
    let dump = platform.path("backup.dump");
    let backup = program(&platform, "pg_dump")
        .args([
            "--format=custom",
            "--file",
            dump.to_str().unwrap(),
            "--dbname",
        ])
        .arg(platform.cluster.url("postgres"))
        .output()
        .unwrap();
    assert!(backup.status.success(), "{backup:?}");

    let lost = "chemxor://client/lost";
    let deny = [
        "cert",
        "deny",
        lost,
        "--reason",
        "after the backup",
        "--yes",
    ];
    platform.json(&deny);
    let denied = |platform: &Platform| platform.json(&["cert", "denied"]).to_string();
    assert!(denied(&platform).contains(lost));

    // the disaster: every process, the whole database and the keys
    drop(platform.gateway.take());
    platform
        .workers
        .iter_mut()
        .for_each(|worker| drop(worker.take()));
    platform.kill_registry();
    let psql = |database: &str, statement: &str| {
        let done = program(&platform, "psql")
            .args(["--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-c", statement])
            .arg(platform.cluster.url(database))
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    for key in KEYS {
        std::fs::remove_file(home.join(key)).unwrap();
    }
    psql("template1", "drop database postgres with (force)");
    // it does not wait for its database: whoever started it starts it again
    let alone = refused_start(&platform);
    assert!(alone.contains("database: "), "{alone}");
    psql("template1", "create database postgres");
    let restore = program(&platform, "pg_restore")
        .args(["--exit-on-error", "--no-owner", "--dbname"])
        .arg(platform.cluster.url("postgres"))
        .arg(&dump)
        .output()
        .unwrap();
    assert!(restore.status.success(), "{restore:?}");

    // with the database alone: the registry does not start, and makes no other key
    let told = "the file is missing, and the database holds signatures of";
    let keyless = refused_start(&platform);
    assert!(keyless.contains(told), "{keyless}");
    assert!(handbook().contains(told));
    assert!(!home.join(KEYS[0]).exists());
    std::fs::copy(kept.join(KEYS[0]), home.join(KEYS[0])).unwrap();
    platform.start_registry();
    // nor does it know a worker that has made another key
    platform.start_worker(0);
    let told = "registered with another sealing key before";
    wait_until("the worker to be refused", || {
        platform.log("worker-1").contains(told).then_some(())
    });
    assert!(handbook().contains(told));
    drop(platform.workers[0].take());
    copy_keys(&kept, &home);

    // what was denied after the backup is denied no more, until it is denied again
    assert!(!denied(&platform).contains(lost));
    platform.json(&deny);
    assert!(denied(&platform).contains(lost));
    platform.start_gateway();
    for number in 0..2 {
        platform.start_worker(number);
    }

    let catalog = platform.json(&["catalog"]);
    assert_eq!(catalog[0]["version"], version.as_str());
    let after = wait_until("a prediction", || {
        let asked = platform.run(&["query", "esol", "--smiles", "CCO", "--format", "json"]);
        serde_json::from_slice::<serde_json::Value>(&asked.stdout).ok()
    });
    let value = |answer: &serde_json::Value| answer["values"][0].as_f64().unwrap();
    assert!(
        (value(&before) - value(&after)).abs() < 0.6,
        "{before} {after}"
    );
    let again = platform.refusal(&["approve", &format!("esol@{version}")]);
    assert!(again.contains("CX-M04"), "its state was restored: {again}");
}
