//! Batches on random tables, killed at random moments.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Answers at once, with a number that depends on the features only; counts what it is asked.
#[derive(Default)]
struct Sums {
    asked: AtomicU64,
}

impl Oracle for Sums {
    fn columns(&self) -> Vec<String> {
        vec!["prediction".into(), "unit".into()]
    }

    fn featurise(&self, smiles: &str) -> Result<Vec<u16>, ClientError> {
        let featuriser = chemxor_chem::named("descriptors").unwrap();
        Ok(chemxor_chem::featurise(&featuriser, smiles)?)
    }

    async fn predict(&self, features: Vec<u16>) -> Result<Prediction, ClientError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        // lets the queries overtake each other
        for _ in 0..features[0] % 4 {
            tokio::task::yield_now().await;
        }
        let sum: u16 = features.iter().sum();
        Ok(Prediction {
            values: vec![f64::from(sum)],
            codes: vec![u32::from(sum)],
            bytes_up: 1,
            bytes_down: 2,
            rounds: 1,
            elapsed: Duration::from_millis(1),
        })
    }

    fn fields(&self, prediction: &Prediction) -> Vec<String> {
        vec![prediction.values[0].to_string(), "g, dry".into()]
    }
}

fn options(folder: &Path, dedupe: bool, existing: Existing) -> BatchOptions {
    BatchOptions {
        model: "sums@sha256:0".into(),
        input: folder.join("in.csv"),
        output: folder.join("out.csv"),
        smiles_column: "smiles".into(),
        in_flight: 5,
        dedupe,
        existing,
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn run_all(oracle: &Sums, options: &BatchOptions) -> Result<BatchReport, ClientError> {
    block_on(run(oracle, options, &CancellationToken::new(), |_| ()))
}

/// A field of a CSV: plain, quoted, with whatever CSV allows inside.
fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-zA-Z0-9 ._;|é-]{0,8}",
        1 => "[a-z,\"\n\r]{0,6}".prop_map(|text| format!("\"{}\"", text.replace('"', "\"\""))),
    ]
}

fn molecule_field() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(vec!["CCO", "OCC", "c1ccccc1", " CC(=O)O ", "\"CCN\"", "C1CC", "", "nonsense", "N#N"])
            .prop_map(str::to_owned),
        1 => field(),
    ]
}

/// A line of a table with three columns, without its end.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        12 => (field(), molecule_field(), field()).prop_map(|(a, b, c)| format!("{a},{b},{c}")),
        1 => Just(String::new()),
        1 => field(),
        1 => (field(), field(), field(), field()).prop_map(|(a, b, c, d)| format!("{a},{b},{c},{d}")),
        1 => "[a-z\",]{0,6}",
    ]
}

fn table() -> impl Strategy<Value = Vec<u8>> {
    let header = prop::sample::select(vec![
        "name,smiles,name",
        "prediction,smiles,status",
        "a,\"smiles\",\"x\"\"y\"",
        "\u{feff}id,smiles,z",
    ]);
    let end = prop::sample::select(vec!["\n", "\r\n"]);
    (
        header,
        end,
        prop::collection::vec(line(), 0..40),
        any::<bool>(),
    )
        .prop_map(|(header, end, lines, last)| {
            let mut text = [&[header.to_owned()][..], &lines].concat().join(end);
            if last {
                text.push_str(end);
            }
            text.into_bytes()
        })
}

/// Records of a table without blank lines, as another reader sees them.
fn records(bytes: &[u8]) -> Vec<csv::ByteRecord> {
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .has_headers(false)
        .from_reader(bytes);
    reader.byte_records().map(Result::unwrap).collect()
}

/// Whether a table is one that every reader of CSV understands in the same way.
fn is_regular(bytes: &[u8]) -> bool {
    // some close a last quote that is left open, here it damages its line
    let quotes = bytes.iter().filter(|byte| **byte == b'"').count();
    quotes.is_multiple_of(2) && records(bytes).iter().all(|record| record.len() == 3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Killed anywhere, or cut off from power, any number of times, and resumed: the same bytes as without a kill, and
    /// nothing is asked twice.
    #[test]
    fn a_killed_run_ends_with_the_same_output(
        input in table(),
        kills in prop::collection::vec((0.0..1.0, 0usize..12, any::<bool>()), 0..4),
        dedupe in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("in.csv"), &input).unwrap();
        let whole = Sums::default();
        let fresh = options(folder.path(), dedupe, Existing::Refuse);
        let report = run_all(&whole, &fresh).unwrap();
        prop_assert!(report.complete);
        let expected = std::fs::read(&fresh.output).unwrap();
        std::fs::remove_file(&fresh.output).unwrap();

        let oracle = Sums::default();
        let resume = options(folder.path(), dedupe, Existing::Resume);
        let partial = partial_path(&resume.output);
        for (share, rows, by_power_cut) in kills {
            // stop after some rows, then lose a part of what was written last
            let stop = CancellationToken::new();
            let mut heard = 0;
            let stopped = block_on(run(&oracle, &resume, &stop, |_| {
                heard += 1;
                if heard > rows {
                    stop.cancel();
                }
            })).unwrap();
            if stopped.complete {
                break;
            }
            let written = std::fs::read(&partial).unwrap();
            prop_assert!(expected.starts_with(&written), "what is written is a beginning of the output");
            prop_assert!(!resume.output.exists());
            let kept = (written.len() as f64 * share) as usize;
            let mut left = written[..kept].to_vec();
            if by_power_cut {
                // the file is as long as it was, its end never reached the disk
                left.resize(written.len(), 0);
            }
            std::fs::write(&partial, &left).unwrap();
        }
        let report = run_all(&oracle, &resume).unwrap();
        prop_assert!(report.complete);
        let found = std::fs::read(&resume.output).unwrap();
        prop_assert_eq!(String::from_utf8_lossy(&found), String::from_utf8_lossy(&expected));
        prop_assert!(!partial.exists() && !run_path(&resume.output).exists());
    }

    /// As many rows as the input, in its order, its fields first; blank lines in their places.
    #[test]
    fn rows_out_are_rows_in(input in table(), dedupe in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("in.csv"), &input).unwrap();
        let options = options(folder.path(), dedupe, Existing::Refuse);
        let report = run_all(&Sums::default(), &options).unwrap();
        let output = std::fs::read(&options.output).unwrap();
        let (rows_in, rows_out) = (records(&input), records(&output));
        // whatever the input, every row of the output has every column
        prop_assert!(rows_out.iter().all(|row| row.len() == 7), "{}", String::from_utf8_lossy(&output));
        prop_assert_eq!(report.rows as usize + 1, rows_out.len());
        let mut names: Vec<&[u8]> = rows_out[0].iter().skip(3).collect();
        names.extend(rows_out[0].iter().take(3).filter(|name| *name == b"prediction" || *name == b"status"));
        names.sort_unstable();
        prop_assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "no added column takes a name of the input");
        for row in &rows_out[1..] {
            let ok = &row[5] == b"ok";
            prop_assert_eq!(ok, !row[3].is_empty());
            prop_assert_eq!(ok, row[6].is_empty(), "a row without a prediction says why");
        }
        if is_regular(&input) {
            prop_assert_eq!(rows_in.len(), rows_out.len());
            for (row_in, row_out) in rows_in.iter().zip(&rows_out) {
                prop_assert!(row_in.iter().eq(row_out.iter().take(3)));
            }
        }
    }
}

fn library(rows: &[&str]) -> (tempfile::TempDir, BatchOptions) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("smiles\n{}\n", rows.join("\n"));
    std::fs::write(folder.path().join("in.csv"), text).unwrap();
    let options = options(folder.path(), false, Existing::Refuse);
    (folder, options)
}

#[test]
fn equal_molecules_are_asked_for_once_when_wanted() {
    let (_folder, mut options) = library(&["CCO", "OCC", "C", "CCO", "C1CC", "C"]);
    options.dedupe = true;
    let oracle = Sums::default();
    let report = run_all(&oracle, &options).unwrap();
    assert_eq!(
        oracle.asked.into_inner(),
        2,
        "ethanol in three spellings and methane"
    );
    assert_eq!(
        (report.predicted, report.repeated, report.bad_molecules),
        (5, 3, 1)
    );
    let text = std::fs::read_to_string(&options.output).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1].strip_prefix("CCO"), lines[2].strip_prefix("OCC"));
}

#[test]
fn what_an_earlier_run_asked_is_not_asked_again() {
    let (_folder, mut options) = library(&["CCO", "C", "OCC", "C", "CCO"]);
    (options.dedupe, options.in_flight) = (true, 1);
    let oracle = Sums::default();
    let stop = CancellationToken::new();
    let first = |heard: Progress| {
        if heard.rows == 2 {
            stop.cancel();
        }
    };
    assert!(
        !block_on(run(&oracle, &options, &stop, first))
            .unwrap()
            .complete
    );
    options.existing = Existing::Resume;
    let report = run_all(&oracle, &options).unwrap();
    assert!(report.complete && report.repeated >= 2);
    assert_eq!(oracle.asked.into_inner(), 2);
}

#[test]
fn nothing_is_asked_twice_after_a_stop() {
    let (_folder, mut options) = library(&["CCO", "C", "CC", "CCC", "CCCC", "CCCCC", "N", "O"]);
    options.in_flight = 2;
    let oracle = Sums::default();
    let stop = CancellationToken::new();
    let report = block_on(run(&oracle, &options, &stop, |heard| {
        if heard.rows == 3 {
            stop.cancel();
        }
    }))
    .unwrap();
    assert!(!report.complete && report.rows < 8);
    options.existing = Existing::Resume;
    let report = run_all(&oracle, &options).unwrap();
    assert!(report.complete && report.resumed >= 3);
    assert_eq!(oracle.asked.load(Ordering::Relaxed), 8);
    assert_eq!((report.predicted, report.failed), (8, 0));
    let again = run_all(&oracle, &options).unwrap();
    assert_eq!((again.complete, again.rows), (true, 8));
    assert_eq!(
        oracle.asked.into_inner(),
        8,
        "a finished run is left as it is"
    );
}

#[test]
fn an_output_or_an_unfinished_run_is_never_lost_by_accident() {
    let (_folder, mut options) = library(&["CCO", "C"]);
    let oracle = Sums::default();
    run_all(&oracle, &options).unwrap();
    let said = run_all(&oracle, &options).unwrap_err().to_string();
    assert!(said.contains("--overwrite"), "{said}");
    std::fs::rename(&options.output, partial_path(&options.output)).unwrap();
    let said = run_all(&oracle, &options).unwrap_err().to_string();
    assert!(said.contains("--resume"), "{said}");
    let record = RunRecord {
        format: 1,
        model: "sums@sha256:1".into(),
        input: options.input.clone(),
        smiles_column: "smiles".into(),
    };
    record.write(&options.output).unwrap();
    options.existing = Existing::Resume;
    let said = run_all(&oracle, &options).unwrap_err().to_string();
    assert!(
        said.contains("sums@sha256:1"),
        "two versions never answer one file: {said}"
    );
    RunRecord {
        model: options.model.clone(),
        ..record
    }
    .write(&options.output)
    .unwrap();
    std::fs::write(&options.input, "smiles\nN\nC\n").unwrap();
    let said = run_all(&oracle, &options).unwrap_err().to_string();
    assert!(said.contains("does not repeat the input"), "{said}");
    let held = Partial::open(&options.output).unwrap();
    let said = run_all(&oracle, &options).unwrap_err().to_string();
    assert!(said.contains("another run"), "{said}");
    drop(held);
    options.existing = Existing::Overwrite;
    assert!(run_all(&oracle, &options).unwrap().complete);
    options.output = options.input.clone();
    assert!(run_all(&oracle, &options).is_err());
}
