//! Processes that die, versions that are revoked: no row lost, none shifted, no wrong value.

use std::io::Write;
use std::process::Stdio;

use crate::platform::{Platform, wait_until};

fn write_library(platform: &Platform, rows: usize) -> String {
    let data = include_str!("../../data/esol.csv");
    let path = platform.path("library.csv");
    let mut file = std::fs::File::create(&path).unwrap();
    let lines: Vec<&str> = data.lines().skip(1).collect();
    writeln!(file, "id,smiles").unwrap();
    for id in 0..rows {
        let smiles = lines[id % lines.len()].split(',').next().unwrap();
        writeln!(file, "{id},{smiles}").unwrap();
    }
    path.display().to_string()
}

fn rows_of(path: &std::path::Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// Every row of the output is the row of the input at this place, with a prediction.
fn check_rows(path: &std::path::Path, rows: usize) {
    let mut reader = csv::Reader::from_path(path).unwrap();
    let mut count = 0;
    for (id, record) in reader.records().enumerate() {
        let record = record.unwrap();
        assert_eq!(
            record[0],
            id.to_string(),
            "no row is lost, repeated or shifted"
        );
        assert_eq!(&record[3], "ok", "{record:?}");
        record[2].parse::<f64>().unwrap();
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
