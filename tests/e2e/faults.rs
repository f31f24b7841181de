//! Processes that die, versions that are revoked: no row lost, none shifted, no wrong value.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use chemxor_core::Bundle;
use chemxor_fhe::network::StepWeights;
use chemxor_fhe::twin::nearest;

use crate::platform::{Platform, wait_until};

/// A prediction is stochastically rounded: it differs from the clear twin's, and from another run's, by a
/// few output steps at most. The benchmarks allow the same (`bench/system/faults.rs`).
const TOLERANCE: f64 = 0.6;

/// The molecules that the rows of a library have in turns.
fn molecules() -> Vec<&'static str> {
    let data = include_str!("../../data/esol.csv");
    let lines = data.lines().skip(1);
    lines.map(|line| line.split(',').next().unwrap()).collect()
}

pub(crate) fn write_library(platform: &Platform, rows: usize) -> String {
    let path = platform.path("library.csv");
    let mut file = std::fs::File::create(&path).unwrap();
    writeln!(file, "id,smiles").unwrap();
    for (id, smiles) in (0..rows).zip(molecules().into_iter().cycle()) {
        writeln!(file, "{id},{smiles}").unwrap();
    }
    path.display().to_string()
}

/// What the model answers to each molecule in clear, every rounding to nearest.
fn twins(bundle: &Path, molecules: &[&str]) -> Vec<f64> {
    let bundle = Bundle::from_bytes(&std::fs::read(bundle).unwrap()).unwrap();
    let manifest = bundle.manifest();
    let blobs = bundle.blobs().iter();
    let weights: Vec<StepWeights> = blobs
        .map(|blob| StepWeights::from_blob(blob).unwrap())
        .collect();
    let value = |smiles: &&str| {
        let standard = chemxor_chem::standardise(manifest.standardisation, smiles).unwrap();
        let features = chemxor_chem::featurise(&manifest.featuriser, &standard.smiles).unwrap();
        chemxor_nets::predict_twin(manifest, &weights, &features, nearest())[0]
    };
    molecules.iter().map(value).collect()
}

fn rows_of(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// A batch that runs, and has its first rows.
pub(crate) struct Batch {
    query: Child,
    rows: usize,
    log: PathBuf,
    pub(crate) output: PathBuf,
    pub(crate) partial: PathBuf,
}

impl Batch {
    pub(crate) fn begin(platform: &Platform, rows: usize, arguments: &[&str]) -> Self {
        let input = write_library(platform, rows);
        let output = platform.path("out.csv");
        let partial = platform.path("out.csv.partial");
        let log = platform.path("query.log");
        let path = output.to_str().unwrap();
        let query = platform
            .command(&["query", "esol", "--input", &input, "--output", path])
            .args(arguments)
            .env("CHEMXOR_LOG", "info")
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        wait_until("the first rows", || (rows_of(&partial) > 50).then_some(()));
        Self {
            query,
            rows,
            log,
            output,
            partial,
        }
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has so many rows more, and is not yet over.
    pub(crate) fn goes_on(&self, more: usize) {
        let target = rows_of(&self.partial) + more;
        wait_until("more rows", || {
            assert!(!self.output.exists(), "the batch ended too early");
            (rows_of(&self.partial) > target).then_some(())
        });
    }

    /// Its end: every row is there, in its place.
    pub(crate) fn ends_whole(mut self, platform: &Platform) {
        let status = self.query.wait().unwrap();
        let said = self.said();
        // why it ended comes first: the logs before it are long
        let why = said.lines().rev().take(3).collect::<Vec<_>>().join("\n");
        assert!(
            status.success(),
            "{status:?} {why}\n{said} {}",
            platform.log("gateway")
        );
        check_rows(&self.output, self.rows);
    }
}

/// Every row of the output is the row of the input at this place, and its prediction is right: the one of
/// the clear twin, within what rounding explains. The model is the bundle beside the output.
pub(crate) fn check_rows(path: &Path, rows: usize) {
    let molecules = molecules();
    let asked = &molecules[..rows.min(molecules.len())];
    let twins = twins(&path.with_file_name("esol.cxb"), asked);
    let mut reader = csv::Reader::from_path(path).unwrap();
    let header = reader.headers().unwrap().clone();
    let at = |name: &str| header.iter().position(|column| column == name).unwrap();
    let (smiles, prediction, status) = (at("smiles"), at("prediction"), at("status"));
    let mut count = 0;
    for (id, record) in reader.records().enumerate() {
        let record = record.unwrap();
        assert!(id < rows, "a row too many: {record:?}");
        let molecule = id % molecules.len();
        assert_eq!(
            (&record[0], &record[smiles]),
            (id.to_string().as_str(), molecules[molecule]),
            "no row is lost, repeated or shifted"
        );
        assert_eq!(&record[status], "ok", "{record:?}");
        let (value, twin): (f64, f64) = (record[prediction].parse().unwrap(), twins[molecule]);
        assert!((value - twin).abs() <= TOLERANCE, "{twin} in {record:?}");
        count += 1;
    }
    assert_eq!(count, rows);
}

#[test]
fn a_killed_worker_that_comes_back_costs_no_row() {
    let mut platform = Platform::start(2);
    platform.publish("esol", true);
    let input = write_library(&platform, 3000);
    let output = platform.path("out.csv");
    let partial = platform.path("out.csv.partial");
    let arguments = [
        "query",
        "esol",
        "--yes",
        "--input",
        &input,
        "--output",
        output.to_str().unwrap(),
    ];
    let mut query = platform
        .command(&arguments)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the first rows", || (rows_of(&partial) > 50).then_some(()));
    platform.workers[1].take().unwrap().kill();
    platform.start_worker(1);
    let status = query.wait().unwrap();
    assert!(status.success(), "{:?} {}", status, platform.log("gateway"));
    check_rows(&output, 3000);
    assert!(!partial.exists());
}

/// Longer than the attempts of one molecule take, which ended such a batch; and early, so that it would
/// take long if it went on as slowly, which ended such a batch too.
#[test]
fn a_gateway_that_is_away_for_long_costs_no_row() {
    let mut platform = Platform::start(2);
    platform.publish("esol", true);
    let batch = Batch::begin(&platform, 3000, &["--ask-above", "4"]);
    platform.gateway.take().unwrap().kill();
    wait_until("more attempts than one molecule has", || {
        batch.said().contains("attempt=9").then_some(())
    });
    assert!(!batch.output.exists(), "the batch waits");
    platform.start_gateway();
    batch.ends_whole(&platform);
}

#[test]
fn a_worker_that_stays_away_stops_the_run_with_a_clear_error() {
    let mut platform = Platform::start(2);
    platform.publish("esol", true);
    let input = write_library(&platform, 5000);
    let output = platform.path("out.csv");
    let partial = platform.path("out.csv.partial");
    let arguments = [
        "query",
        "esol",
        "--yes",
        "--input",
        &input,
        "--output",
        output.to_str().unwrap(),
        "--patience",
        "0",
    ];
    let query = platform
        .command(&arguments)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the first rows", || (rows_of(&partial) > 50).then_some(()));
    platform.workers[0].take().unwrap().kill();
    let ended = query.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success(), "{said}");
    assert!(said.contains("CX-Q06"), "{said}");
    assert!(
        !output.exists(),
        "an incomplete output never has the final name"
    );
    let mut reader = csv::Reader::from_path(&partial).unwrap();
    for (id, record) in reader.records().enumerate() {
        assert_eq!(
            record.unwrap()[0],
            id.to_string(),
            "what was written is in order"
        );
    }
}

#[test]
fn revoking_a_version_stops_a_running_batch_with_the_reason() {
    let platform = Platform::start(2);
    let version = platform.publish("esol", true);
    let input = write_library(&platform, 50_000);
    let output = platform.path("out.csv");
    let partial = platform.path("out.csv.partial");
    let arguments = [
        "query",
        "esol",
        "--yes",
        "--input",
        &input,
        "--output",
        output.to_str().unwrap(),
    ];
    let query = platform
        .command(&arguments)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the first rows", || (rows_of(&partial) > 50).then_some(()));
    let exact = format!("esol@{version}");
    let revoked = platform.json(&["revoke", &exact, "--reason", "test", "--yes"]);
    assert_eq!(revoked["state"], "revoked");
    let ended = query.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success(), "{said}");
    assert!(said.contains("CX-M03"), "{said}");
    assert!(!output.exists());
    let again = platform.refusal(&["query", &exact, "--smiles", "C"]);
    assert!(again.contains("CX-M03"), "{again}");
}

/// The output without what encryption rounds at random: every field but the numbers.
pub(crate) fn without_numbers(path: &Path) -> Vec<Vec<String>> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let header = reader.headers().unwrap().clone();
    let kept = |name: &str| !["prediction", "low90", "high90"].contains(&name);
    let row = |record: csv::StringRecord| {
        let fields = record.iter().zip(&header).filter(|(_, name)| kept(name));
        fields.map(|(field, _)| field.to_owned()).collect()
    };
    reader
        .records()
        .map(|record| row(record.unwrap()))
        .collect()
}

/// The predictions, where a row has one.
fn predictions(path: &Path) -> Vec<Option<f64>> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let header = reader.headers().unwrap().clone();
    let at = header.iter().position(|column| column == "prediction");
    let value = |record: csv::StringRecord| record[at.unwrap()].parse::<f64>().ok();
    reader
        .records()
        .map(|record| value(record.unwrap()))
        .collect()
}

#[test]
fn a_batch_that_is_killed_or_stopped_goes_on_where_it_was() {
    let platform = Platform::start(2);
    platform.publish("esol", true);
    let input = write_library(&platform, 1500);
    let text = std::fs::read_to_string(&input).unwrap();
    // damaged rows and a blank line, in places that a run passes after it was killed
    let mut lines: Vec<&str> = text.lines().collect();
    lines[700] = "699,C1CC";
    lines[900] = "";
    lines[1100] = "1099,CC,too,many";
    std::fs::write(&input, lines.join("\r\n")).unwrap();
    let run = |output: &Path, more: &[&str]| {
        let output = output.to_str().unwrap().to_owned();
        let arguments = ["query", "esol", "--input", &input, "--output", &output];
        platform.command(&[&arguments[..], more].concat())
    };
    let whole = platform.path("whole.csv");
    assert!(run(&whole, &[]).status().unwrap().success());

    let output = platform.path("out.csv");
    let partial = platform.path("out.csv.partial");
    let mut killed = run(&output, &[]).spawn().unwrap();
    wait_until("the first rows", || (rows_of(&partial) > 100).then_some(()));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let first = rows_of(&partial);
    assert!(!output.exists() && first < 1500);
    let said = run(&output, &[]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&said.stderr).contains("--resume"),
        "nothing is overwritten"
    );

    let stopped = run(&output, &["--resume"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("more rows", || {
        (rows_of(&partial) > first + 100).then_some(())
    });
    let pid = nix::unistd::Pid::from_raw(i32::try_from(stopped.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let ended = stopped.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(
        said.contains("--output") && said.contains("--resume"),
        "it says how to go on: {said}"
    );
    assert!(rows_of(&partial) > first);

    let ended = run(&output, &["--resume", "--format", "json"])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(
        (&report["complete"], &report["rows"]),
        (&true.into(), &1499.into())
    );
    assert!(report["resumed"].as_u64().unwrap() > first as u64);
    assert_eq!(
        (&report["bad_molecules"], &report["bad_rows"]),
        (&1.into(), &1.into())
    );
    assert!(!partial.exists() && !platform.path("out.csv.run").exists());
    assert_eq!(without_numbers(&output), without_numbers(&whole));
    let differ = |(one, other): &(Option<f64>, Option<f64>)| match (one, other) {
        (Some(one), Some(other)) => (one - other).abs() > TOLERANCE,
        (one, other) => one != other,
    };
    let pairs = predictions(&output).into_iter().zip(predictions(&whole));
    assert_eq!(pairs.filter(differ).count(), 0, "wrong values");
    let blank = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        text.split("\r\n").position(str::is_empty)
    };
    assert_eq!((blank(&output), blank(&whole)), (Some(900), Some(900)));
}

#[test]
fn certificates_that_are_renewed_during_a_batch_cost_no_row_and_no_session() {
    let platform = Platform::start(2);
    platform.publish_spread("esol", true, "replicas");
    let input = write_library(&platform, 6000);
    let output = platform.path("out.csv");
    let partial = platform.path("out.csv.partial");
    let path = output.to_str().unwrap();
    let arguments = [
        "query", "esol", "--yes", "--quiet", "--input", &input, "--output", path,
    ];
    let mut query = platform.command(&arguments).spawn().unwrap();
    wait_until("the first rows", || (rows_of(&partial) > 100).then_some(()));
    platform.renew_certificates();
    // whoever connects now meets the new ones, while the batch goes on over connections of before
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let services = [
        ("registry", &platform.registry),
        ("gateway", &platform.gateway),
    ];
    let workers = ["worker-1", "worker-2"].into_iter().zip(&platform.workers);
    for (name, service) in services.into_iter().chain(workers) {
        let address = &service.as_ref().unwrap().address;
        wait_until("the new certificate", || {
            let files = platform.gateway_tls();
            let connected = runtime.block_on(chemxor_runtime::tls::connect(address, &files));
            connected.unwrap();
            let log = platform.log(name);
            log.contains("certificates reloaded").then_some(())
        });
    }
    assert!(
        !output.exists(),
        "the batch ended before the certificates changed"
    );
    assert!(
        query.wait().unwrap().success(),
        "{}",
        platform.log("gateway")
    );
    check_rows(&output, 6000);
    for service in ["gateway", "worker-1", "worker-2"] {
        let log = platform.log(service);
        assert!(!log.contains("cut"), "no step was cut: {log}");
    }
}

#[test]
fn a_rolling_restart_costs_no_row() {
    let mut platform = Platform::start(2);
    platform.publish_spread("esol", true, "replicas");
    let input = write_library(&platform, 12_000);
    let output = platform.path("out.csv");
    let partial = platform.path("out.csv.partial");
    let path = output.to_str().unwrap();
    let arguments = [
        "query", "esol", "--yes", "--input", &input, "--output", path,
    ];
    let mut query = platform
        .command(&arguments)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let more = |rows: usize| {
        wait_until("more rows", || {
            assert!(!output.exists(), "the batch ended before the last restart");
            (rows_of(&partial) > rows).then_some(())
        });
    };
    for number in 0..2 {
        more(rows_of(&partial) + 100);
        let ended = platform.workers[number].take().unwrap().terminate();
        assert!(ended.success(), "a drained worker ends well: {ended}");
        platform.start_worker(number);
        let log = format!("worker-{}", number + 1);
        wait_until("the partition", || {
            (platform.log(&log).matches("partition ready").count() > 1).then_some(())
        });
    }
    // in the order of the handbook: registry, gateway
    more(rows_of(&partial) + 100);
    let ended = platform.stop_registry();
    assert!(ended.success(), "a drained registry ends well: {ended}");
    platform.start_registry();
    more(rows_of(&partial) + 100);
    let ended = platform.gateway.take().unwrap().terminate();
    assert!(ended.success(), "a drained gateway ends well: {ended}");
    platform.start_gateway();
    let status = query.wait().unwrap();
    assert!(status.success(), "{status:?} {}", platform.log("gateway"));
    check_rows(&output, 12_000);
}

#[test]
fn registry_and_database_may_die_during_a_batch() {
    let mut platform = Platform::start(2);
    platform.publish("esol", true);
    let batch = Batch::begin(&platform, 3000, &["--yes"]);
    platform.kill_postgres();
    let then = rows_of(&batch.partial);
    wait_until("more rows", || {
        (rows_of(&batch.partial) > then + 50 || batch.output.exists()).then_some(())
    });
    platform.kill_registry();
    platform.start_registry();
    batch.ends_whole(&platform);
    // and new sessions are authorised again
    platform.json(&["query", "esol", "--smiles", "CCO"]);
}
