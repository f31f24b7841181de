//! The way of a model from CSV to encrypted predictions, and who is refused on it.

use crate::platform::Platform;

#[test]
fn a_model_is_trained_published_approved_and_queried() {
    let platform = Platform::start(2);
    let version = platform.publish("esol", false);

    let early = platform.refusal(&["query", "esol", "--smiles", "CCO"]);
    assert!(
        early.contains("CX-M01"),
        "not visible before approval: {early}"
    );
    let publisher = platform.path("local/publisher.token").display().to_string();
    let own = platform.refusal(&["approve", "esol", "--token-file", &publisher]);
    assert!(own.contains("CX-A03"), "a publisher may not approve: {own}");

    platform.json(&["approve", "esol"]);
    let twice = platform.refusal(&["approve", "esol"]);
    assert!(twice.contains("CX-M04"), "approved once only: {twice}");

    let catalog = platform.json(&["catalog"]);
    assert_eq!(catalog[0]["state"], "approved");
    assert_eq!(catalog[0]["version"], version.as_str());

    let one = platform.json(&["query", "esol", "--smiles", "CCO"]);
    assert_eq!(one["rounds"], 2);
    let value = one["values"][0].as_f64().unwrap();
    assert!((-3.0..3.0).contains(&value), "ethanol dissolves: {value}");

    let holdout = platform.path("holdout.csv").display().to_string();
    let report = platform.json(&["evaluate", "esol", "--holdout", &holdout, "--rows", "20"]);
    assert_eq!(report["count"], 20);
    for molecule in report["molecules"].as_array().unwrap() {
        let number = |key: &str| molecule[key].as_f64().unwrap();
        let difference = (number("encrypted") - number("twin")).abs();
        // both are stochastically rounded, so they differ by a few output steps at most
        assert!(difference < 0.6, "{molecule}");
    }

    let workers = platform.json(&["workers"]);
    assert_eq!(workers.as_array().unwrap().len(), 2);
    let logs = [platform.log("worker-1"), platform.log("worker-2")];
    let holds = |log: &str, steps: &str| log.contains("partition ready") && log.contains(steps);
    assert!(
        holds(&logs[0], "steps=[0]") && !logs[0].contains("steps=[1]"),
        "one partition each"
    );
    assert!(
        holds(&logs[1], "steps=[1]") && !logs[1].contains("steps=[0]"),
        "one partition each"
    );
}

#[test]
fn workers_that_share_steps_predict_what_one_worker_would() {
    let platform = Platform::start(4);
    platform.publish_spread("esol", true, "shares");
    let holdout = platform.path("holdout.csv").display().to_string();
    let report = platform.json(&["evaluate", "esol", "--holdout", &holdout, "--rows", "10"]);
    for molecule in report["molecules"].as_array().unwrap() {
        let number = |key: &str| molecule[key].as_f64().unwrap();
        let difference = (number("encrypted") - number("twin")).abs();
        assert!(difference < 0.6, "{molecule}");
    }
    // the first layer has two output ciphertexts or more, so each molecule needs two workers for it;
    // the last one has one, and its workers are replicas
    let shares = |name: &str| {
        let log = platform.log(name);
        let of_first = |line: &&str| line.contains(" bytes_in=") && line.contains("step=0");
        log.lines().filter(of_first).count()
    };
    let mut evaluated: Vec<usize> = (1..=4).map(|i| shares(&format!("worker-{i}"))).collect();
    evaluated.sort_unstable();
    assert!(evaluated[2] >= 10 && evaluated[3] >= 10, "{evaluated:?}");
}

#[test]
fn a_batch_keeps_every_row_in_its_place() {
    let platform = Platform::start(2);
    platform.publish("esol", true);
    let input = platform.path("in.csv");
    let rows = "id,smiles,note\n1,CCO,\"a, b\"\n2,C1CC,ring left open\n3,c1ccccc1,\n4,,empty\n5,not smiles,x\n6,CC(=O)O,last\n";
    std::fs::write(&input, rows).unwrap();
    let output = platform.path("out.csv");
    let arguments = ["query", "esol", "--input", input.to_str().unwrap()];
    let report = platform.json(&[&arguments[..], &["--output", output.to_str().unwrap()]].concat());
    assert_eq!(
        (&report["rows"], &report["predicted"]),
        (&6.into(), &3.into())
    );
    let mut reader = csv::Reader::from_path(&output).unwrap();
    let header = reader.headers().unwrap().clone();
    let at = |name: &str| header.iter().position(|column| column == name).unwrap();
    assert_eq!(
        header.iter().take(3).collect::<Vec<_>>(),
        ["id", "smiles", "note"]
    );
    let (prediction, status, reason) = (at("prediction"), at("status"), at("reason"));
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let ids: Vec<&str> = rows.iter().map(|row| &row[0]).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5", "6"]);
    let good: Vec<bool> = rows.iter().map(|row| &row[status] == "ok").collect();
    assert_eq!(good, [true, false, true, false, false, true]);
    for (row, good) in rows.iter().zip(good) {
        assert_eq!(good, !row[prediction].is_empty());
        assert_eq!(good, row[reason].is_empty(), "a bad row says why: {row:?}");
    }
    assert_eq!(&rows[0][2], "a, b");
    assert!(!platform.path("out.csv.partial").exists());
}

#[test]
fn bad_input_is_named_with_its_reason_and_the_next_step() {
    let platform = Platform::start(1);
    let cases: [(&[&str], &str); 8] = [
        (&["query", "nothing", "--smiles", "C"], "CX-M01"),
        (
            &["query", "nothing", "--smiles", "C", "--key", "second"],
            "chemxor keys new --name second",
        ),
        (&["publish", "/nonexistent.cxb"], "/nonexistent.cxb"),
        (&["approve", "Bad Name"], "Bad Name"),
        (&["revoke", "esol@sha256:12", "--reason", "x"], "--yes"),
        (&["catalog", "--profile", "elsewhere"], "chemxor up"),
        (&["keys", "new", "--name", "../x"], "../x"),
        (
            &[
                "train",
                "--input",
                "/nonexistent.csv",
                "--name",
                "x",
                "--output",
                "/tmp/x",
            ],
            "/nonexistent.csv",
        ),
    ];
    for (arguments, expected) in cases {
        let said = platform.refusal(arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    let again = platform.refusal(&["keys", "new"]);
    assert!(again.contains("already exists"), "{again}");
    let unknown = platform.refusal(&["query", "nothing", "--smiles", "C"]);
    assert!(unknown.contains("CX-M01"), "{unknown}");
}
