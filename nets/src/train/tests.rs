use super::*;
use crate::config::ModelKind;
use crate::dataset::ReadOptions;

/// `header`, then alkanes with these targets.
fn rows(header: &str, targets: impl IntoIterator<Item = String>) -> String {
    let rows: String = (1..)
        .zip(targets)
        .map(|(n, target)| format!("{},{target}\n", "C".repeat(n)))
        .collect();
    format!("{header}\n{rows}")
}

fn ascending(count: usize) -> impl Iterator<Item = String> {
    (1..=count).map(|n| n.to_string())
}

fn same(count: usize, target: &str) -> impl Iterator<Item = String> {
    std::iter::repeat_n(target.to_owned(), count)
}

/// Whatever a file lacks, the error names the file, the reason, and after a semicolon what to do.
#[test]
fn hopeless_files_are_refused_with_the_reason_and_the_next_step() {
    use Task::{Binary, Multiclass, Regression};
    let cases: Vec<(&str, Task, String, &str, &str)> = vec![
        (
            "empty file",
            Regression,
            String::new(),
            "is empty",
            "give a CSV file with a header line",
        ),
        (
            "only blank lines",
            Regression,
            "\n\n\n".to_owned(),
            "is empty",
            "give a CSV file with a header line",
        ),
        (
            "only a header",
            Regression,
            "smiles,target\n".to_owned(),
            "is empty",
            "one molecule on each further line",
        ),
        (
            "wrong header of the target",
            Regression,
            rows("smiles,logS", ascending(30)),
            "has no column \"target\"; it has: smiles, logS",
            "name the target column by its option",
        ),
        (
            "wrong header of the molecules",
            Regression,
            rows("structure,target", ascending(30)),
            "has no column \"smiles\"; it has: structure, target",
            "name the SMILES column by its option",
        ),
        (
            "no header",
            Regression,
            rows("CCO,1.0", ascending(30)),
            "has no column \"smiles\"",
            "name the SMILES column by its option",
        ),
        (
            "duplicate target columns",
            Regression,
            rows(
                "smiles,target,target",
                ascending(30).map(|n| format!("{n},{n}")),
            ),
            "has the column \"target\" more than once",
            "rename or remove one of them",
        ),
        (
            "duplicate SMILES columns",
            Regression,
            rows(
                "smiles,smiles,target",
                ascending(30).map(|n| format!("C,{n}")),
            ),
            "has the column \"smiles\" more than once",
            "rename or remove one of them",
        ),
        (
            "every molecule bad",
            Regression,
            "smiles,target\nC1CC,1\nC(,2\nXx,3\n".to_owned(),
            "none of the 3 rows",
            "check the column names and the header",
        ),
        (
            "every target NaN",
            Regression,
            rows("smiles,target", same(30, "NaN")),
            "the target \"NaN\" is not a finite number",
            "check the column names and the header",
        ),
        (
            "every target infinite",
            Regression,
            rows("smiles,target", same(30, "-inf")),
            "the target \"-inf\" is not a finite number",
            "check the column names and the header",
        ),
        (
            "targets that are text",
            Regression,
            rows("smiles,target", same(30, "low")),
            "the target \"low\" is not a number",
            "check the column names and the header",
        ),
        (
            "constant target",
            Regression,
            rows("smiles,target", same(30, "4.5")),
            "every usable row of t.csv has the target 4.5",
            "choose another target column",
        ),
        (
            "too few rows",
            Regression,
            rows("smiles,target", ascending(19)),
            "has 19 usable rows, training needs at least 20",
            "add measurements",
        ),
        (
            "too few rows are left without NaN",
            Regression,
            rows("smiles,target", ascending(19).chain(same(3, "nan"))),
            "has 19 usable rows, training needs at least 20",
            "add measurements or correct the 3 refused rows",
        ),
        (
            "one class only",
            Binary,
            rows("smiles,target", same(30, "1")),
            "has 0 rows of class 0, training needs at least 5 of each class",
            "add such rows or choose another target column",
        ),
        (
            "one label only",
            Multiclass,
            rows("smiles,target", same(30, "soluble")),
            "training needs at least 5 of each class",
            "add such rows or choose another target column",
        ),
    ];
    for (what, task, text, reason, next) in cases {
        let options = ReadOptions {
            task,
            ..ReadOptions::default()
        };
        for kind in [ModelKind::Linear, ModelKind::Mlp, ModelKind::Trees] {
            let result = Dataset::from_csv("t.csv", text.as_bytes(), &options)
                .and_then(|dataset| train(&dataset, &TrainConfig::preset(kind), &mut |_| {}));
            let Err(error) = result else {
                panic!("{what}: {kind:?} made a model");
            };
            let error = error.to_string();
            assert!(error.contains("t.csv"), "{what}: {error}");
            assert!(error.contains(reason), "{what}: {error}");
            let step = error.rsplit("; ").next().unwrap();
            assert!(step.contains(next), "{what}: {error}");
        }
    }
}

/// A column of one endpoint that is empty everywhere is named.
#[test]
fn an_empty_endpoint_among_others_is_refused_by_name() {
    let text = rows(
        "smiles,first,second",
        ascending(30).map(|n| format!("{n},")),
    );
    let options = ReadOptions {
        target_columns: vec!["first".to_owned(), "second".to_owned()],
        ..ReadOptions::default()
    };
    let dataset = Dataset::from_csv("t.csv", text.as_bytes(), &options).unwrap();
    let config = TrainConfig::preset(ModelKind::Linear);
    let error = train(&dataset, &config, &mut |_| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains("t.csv, column second"), "{error}");
    assert!(error.contains("; add measurements"), "{error}");
}

/// The manifest states what the integers answer, for molecules that are not the publisher's; another
/// model's integers do not pass.
#[test]
fn known_answers_are_those_of_the_weights() {
    let alkanes = |slope: f64| {
        let targets = (1..=40).map(move |n| (slope * f64::from(n)).to_string());
        let text = rows("smiles,target", targets);
        let dataset = Dataset::from_csv("t.csv", text.as_bytes(), &ReadOptions::default()).unwrap();
        let config = TrainConfig::preset(ModelKind::Linear);
        train(&dataset, &config, &mut |_| {}).unwrap()
    };
    let (own, other) = (alkanes(1.0), alkanes(-1.0));
    let manifest = own.bundle.manifest();
    assert_eq!(manifest.known_answers.len(), 16);
    let worst = |weights: &[StepWeights]| {
        let answers = manifest.known_answers.iter().map(|known| {
            let features = chemxor_chem::featurise(&manifest.featuriser, &known.smiles).unwrap();
            let carry = chemxor_fhe::twin::nearest();
            let steps = manifest.graph.steps();
            let codes = chemxor_fhe::twin::evaluate(steps, weights, &features, carry);
            known.deviation(&codes, manifest.graph.last().output_bits)
        });
        answers.fold(0.0, f64::max)
    };
    assert!(worst(&own.weights) <= 1.0);
    assert!(worst(&other.weights) > 1.0);
}
