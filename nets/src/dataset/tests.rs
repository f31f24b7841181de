use super::*;
use proptest::prelude::*;

fn read(text: &str) -> Result<Dataset, NetsError> {
    Dataset::from_csv("t.csv", text.as_bytes(), &ReadOptions::default())
}

#[test]
fn bad_rows_are_reported_with_line_and_reason_and_do_not_stop() {
    let text = "smiles,target\nCCO,1\nC(,2\nCC,x\nCC\nCC,NaN\n,3\n\"C\",4,extra\n";
    let dataset = read(text).unwrap();
    let lines: Vec<u64> = dataset.rows().iter().map(|row| row.line).collect();
    assert_eq!(lines, [2, 8]);
    let bad: Vec<String> = dataset
        .bad_rows()
        .iter()
        .map(|b| format!("{} {}", b.line, b.reason))
        .collect();
    assert_eq!(bad.len(), 5);
    assert!(
        bad[0].starts_with("3 SMILES \"C(\" cannot be read at position"),
        "{}",
        bad[0]
    );
    assert_eq!(bad[1], "4 the target \"x\" is not a number");
    assert_eq!(bad[2], "5 the target is missing: the line has 1 fields");
    assert_eq!(
        bad[3],
        "6 the target \"NaN\" is not a finite number below 1e30"
    );
    assert_eq!(bad[4], "7 the SMILES is empty");
}

#[test]
fn missing_columns_are_named_with_those_that_exist() {
    let error = read("id,structure,y\n1,CCO,2\n").unwrap_err().to_string();
    assert_eq!(
        error,
        "t.csv has no column \"smiles\"; it has: id, structure, y; name the SMILES column by its option"
    );
    let error = read("smiles,target,target\nC,1,2\n").unwrap_err();
    assert!(matches!(error, NetsError::DuplicateColumn { .. }));
}

#[test]
fn letter_case_and_byte_order_mark_do_not_matter() {
    assert_eq!(
        read("\u{feff}SMILES,Target\nCCO,1\n").unwrap().rows().len(),
        1
    );
}

#[test]
fn empty_and_hopeless_files_are_errors() {
    assert!(matches!(read(""), Err(NetsError::Empty { .. })));
    assert!(matches!(
        read("smiles,target\n"),
        Err(NetsError::Empty { .. })
    ));
    let error = read("smiles,target\nC(,1\nC,?\n").unwrap_err();
    assert!(matches!(
        error,
        NetsError::AllRowsBad {
            rows: 2,
            line: 2,
            ..
        }
    ));
}

#[test]
fn classes_must_be_0_or_1() {
    let options = ReadOptions {
        task: Task::Binary,
        ..ReadOptions::default()
    };
    let text = b"smiles,target\nC,1\nCC,0.0\nCCC,2\n";
    let dataset = Dataset::from_csv("t.csv", text, &options).unwrap();
    assert_eq!((dataset.rows().len(), dataset.bad_rows().len()), (2, 1));
}

proptest! {
    #[test]
    fn every_line_ends_somewhere(lines in proptest::collection::vec("[A-Za-z0-9,.\" ()-]{0,20}", 0..20)) {
        let text = format!("smiles,target\nC,1\n{}", lines.join("\n"));
        let dataset = read(&text).unwrap();
        let expected = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes()).byte_records().count();
        prop_assert_eq!(dataset.rows().len() + dataset.bad_rows().len(), expected);
    }
}

fn options(task: Task, targets: &[&str], thresholds: &[f64]) -> ReadOptions {
    ReadOptions {
        task,
        target_columns: targets.iter().map(|name| (*name).to_owned()).collect(),
        thresholds: thresholds.to_vec(),
        ..ReadOptions::default()
    }
}

#[test]
fn several_targets_may_miss_values_but_not_all_of_a_row() {
    let text = b"smiles,a,b\nC,1,\nCC,,2\nCCC,,\nCCO,3,x\n";
    let dataset = Dataset::from_csv("t.csv", text, &options(Task::Regression, &["a", "b"], &[]));
    let dataset = dataset.unwrap();
    assert_eq!(dataset.outputs(), ["a", "b"]);
    assert_eq!(dataset.rows()[0].targets[0], 1.0);
    assert!(dataset.rows()[0].targets[1].is_nan());
    assert_eq!(dataset.wanted(&dataset.rows()[1], 1), 2.0);
    let lines: Vec<u64> = dataset.bad_rows().iter().map(|row| row.line).collect();
    assert_eq!(lines, [4, 5]);
    assert_eq!(dataset.bad_rows()[0].reason, "every target is empty");
}

#[test]
fn labels_and_thresholds_make_classes() {
    let labels = b"smiles,target\nC,red\nCC,blue\nCCC,red\n";
    let dataset = Dataset::from_csv(
        "t.csv",
        labels,
        &options(Task::Multiclass, &["target"], &[]),
    );
    let dataset = dataset.unwrap();
    assert_eq!(dataset.outputs(), ["blue", "red"]);
    let classes: Vec<f64> = dataset.rows().iter().map(Row::target).collect();
    assert_eq!(classes, [1.0, 0.0, 1.0]);
    assert_eq!(dataset.wanted(&dataset.rows()[0], 1), 1.0);
    assert_eq!(dataset.wanted(&dataset.rows()[0], 0), 0.0);

    let values = b"smiles,target\nC,0.5\nCC,1\nCCC,1.5\nCCCC,9\n";
    let cut = options(Task::Multiclass, &["target"], &[1.0, 2.0]);
    let dataset = Dataset::from_csv("t.csv", values, &cut).unwrap();
    assert_eq!(dataset.outputs(), ["up to 1", "above 1 to 2", "above 2"]);
    let classes: Vec<f64> = dataset.rows().iter().map(Row::target).collect();
    assert_eq!(classes, [0.0, 0.0, 1.0, 2.0]);

    let two = options(Task::Binary, &["target"], &[1.0]);
    let dataset = Dataset::from_csv("t.csv", values, &two).unwrap();
    let classes: Vec<f64> = dataset.rows().iter().map(Row::target).collect();
    assert_eq!(classes, [0.0, 0.0, 1.0, 1.0]);
}

#[test]
fn thresholds_that_make_no_sense_are_refused() {
    let values = b"smiles,target\nC,0.5\nCC,1\n";
    for (task, thresholds) in [
        (Task::Regression, &[1.0][..]),
        (Task::Binary, &[1.0, 2.0]),
        (Task::Multiclass, &[1.0]),
        (Task::Multiclass, &[2.0, 1.0]),
        (Task::Multiclass, &[1.0, f64::NAN]),
    ] {
        let error = Dataset::from_csv("t.csv", values, &options(task, &["target"], thresholds));
        assert!(matches!(error, Err(NetsError::Config { .. })), "{task:?}");
    }
}

#[test]
fn compressed_files_and_files_without_header_are_read() {
    let positions = ReadOptions {
        smiles_column: "1".to_owned(),
        ..options(Task::Regression, &["2"], &[])
    };
    let dataset = Dataset::from_csv("t.tsv", b"CCO\t1\nCC\t2\n", &positions).unwrap();
    assert_eq!(dataset.rows().len(), 2);
    assert_eq!(dataset.rows()[1].target(), 2.0);
}
