//! The operator's side of running services: probes and metrics, the load tool, backup and restore.

use std::io::{Read, Write};
use std::net::TcpStream;
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

/// The drill of docs/operations.md: dump, lose everything, restore, go on.
#[test]
fn a_backup_restores_the_platform_and_workers_open_their_partitions_again() {
    let mut platform = Platform::start(2);
    let version = platform.publish("esol", true);
    let before = platform.json(&["query", "esol", "--smiles", "CCO"]);
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

    // the disaster: every process and the whole database
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
    psql("template1", "drop database postgres with (force)");
    psql("template1", "create database postgres");
    let restore = program(&platform, "pg_restore")
        .args(["--exit-on-error", "--no-owner", "--dbname"])
        .arg(platform.cluster.url("postgres"))
        .arg(&dump)
        .output()
        .unwrap();
    assert!(restore.status.success(), "{restore:?}");
    platform.start_registry();
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
